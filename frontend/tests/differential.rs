//! Two other parsers as witnesses: on plain files, which all three understand, all three must say the same.
//!
//! Where they differ from the reference they are wrong witnesses, so the files keep away from heredocs, flags and quotes.

use dockerfile_parser::{Dockerfile, Instruction as First, ShellOrExecExpr};
use frontend::instruction::{Command, Kind, Word};
use frontend::parse;
use frontend::source::SourceFile;
use parse_dockerfile::{Command as SecondCommand, Instruction as Second, Source};
use proptest::prelude::*;

fn ours(text: &str) -> Vec<String> {
    let parsed = parse(&SourceFile::new("Dockerfile", text));
    assert!(!parsed.has_errors(), "{text}\n{:?}", parsed.diagnostics);
    let list = |words: &[Word]| {
        words
            .iter()
            .map(|word| word.value.clone())
            .collect::<Vec<_>>()
            .join("|")
    };
    let command = |command: &Command| match command {
        Command::Shell(text) => text.value.clone(),
        Command::Exec(words) => format!("[{}]", list(words)),
    };
    let describe = |kind: &Kind| match kind {
        Kind::From(from) => {
            format!(
                "from {} {:?}",
                from.base.value,
                from.name.as_ref().map(|name| name.value.as_str())
            )
        }
        Kind::Run(run) => format!("run {}", command(&run.command)),
        Kind::Cmd(value) => format!("cmd {}", command(value)),
        Kind::Entrypoint(value) => format!("entrypoint {}", command(value)),
        Kind::Copy(copy) => format!("copy {} to {}", list(&copy.sources), copy.dest.value),
        _ => "other".to_owned(),
    };
    parsed
        .instructions
        .iter()
        .map(|instruction| describe(&instruction.kind))
        .collect()
}

fn first(text: &str) -> Option<Vec<String>> {
    let parsed = Dockerfile::parse(text).ok()?;
    let command = |expr: &ShellOrExecExpr| match expr {
        ShellOrExecExpr::Shell(text) => text.to_string().trim().to_owned(),
        ShellOrExecExpr::Exec(array) => format!("[{}]", array.as_str_vec().join("|")),
    };
    let describe = |instruction: &First| match instruction {
        First::From(from) => {
            format!(
                "from {} {:?}",
                from.image.content,
                from.alias.as_ref().map(|name| name.content.as_str())
            )
        }
        First::Run(run) => format!("run {}", command(&run.expr)),
        First::Cmd(value) => format!("cmd {}", command(&value.expr)),
        First::Entrypoint(value) => format!("entrypoint {}", command(&value.expr)),
        First::Copy(copy) => {
            let sources: Vec<_> = copy.sources.iter().map(|source| source.content.as_str()).collect();
            format!("copy {} to {}", sources.join("|"), copy.destination.content)
        }
        _ => "other".to_owned(),
    };
    Some(parsed.instructions.iter().map(describe).collect())
}

fn second(text: &str) -> Option<Vec<String>> {
    let parsed = parse_dockerfile::parse(text).ok()?;
    let command = |command: &SecondCommand<'_>| match command {
        // It keeps continuations as they are written.
        SecondCommand::Shell(text) => Some(text.value.replace("\\\n", "").trim().to_owned()),
        SecondCommand::Exec(words) => {
            let words: Vec<_> = words.value.iter().map(|word| word.value.as_ref()).collect();
            Some(format!("[{}]", words.join("|")))
        }
        _ => None,
    };
    let describe = |instruction: &Second<'_>| match instruction {
        Second::From(from) => Some(format!(
            "from {} {:?}",
            from.image.value,
            from.as_.as_ref().map(|(_, name)| name.value.as_ref())
        )),
        Second::Run(run) => command(&run.arguments).map(|text| format!("run {text}")),
        Second::Cmd(value) => command(&value.arguments).map(|text| format!("cmd {text}")),
        Second::Entrypoint(value) => command(&value.arguments).map(|text| format!("entrypoint {text}")),
        Second::Copy(copy) => {
            let path = |source: &Source<'_>| match source {
                Source::Path(path) => Some(path.value.to_string()),
                _ => None,
            };
            let sources: Option<Vec<_>> = copy.src.iter().map(path).collect();
            Some(format!("copy {} to {}", sources?.join("|"), copy.dest.value))
        }
        _ => Some("other".to_owned()),
    };
    parsed.instructions.iter().map(describe).collect()
}

/// Plain files: no heredocs, flags, quotes outside of arrays.
fn files() -> impl Strategy<Value = String> {
    let word = "[a-z/$.][a-z0-9./_-]{0,6}";
    let command = prop_oneof![
        3 => prop::collection::vec(word, 1..4).prop_map(|words| words.join(" ")),
        1 => prop::collection::vec(word, 1..4).prop_map(|words| words.join(" \\\n  ")),
        1 => prop::collection::vec(word, 1..4).prop_map(|words| format!("[\"{}\"]", words.join("\", \""))),
    ];
    let keyword = prop::sample::select(vec!["RUN", "run", "CMD", "ENTRYPOINT"]);
    let line = prop_oneof![
        3 => (keyword, command).prop_map(|(keyword, command)| format!("{keyword} {command}")),
        1 => prop::collection::vec(word, 2..5).prop_map(|words| format!("COPY {}", words.join(" "))),
        1 => ("[A-Z]{1,4}", "[a-z]{1,4}").prop_map(|(name, value)| format!("ENV {name}={value}")),
        1 => word.prop_map(|path| format!("WORKDIR {path}")),
        1 => "[a-z ]{0,6}".prop_map(|text| format!("# {text}")),
        1 => Just(String::new()),
        1 => ("[a-z]{1,6}(:[0-9]{1,3})?", "( AS [a-z][a-z0-9]{0,4})?").prop_map(|(base, name)| format!("FROM {base}{name}")),
    ];
    prop::collection::vec(line, 0..12).prop_map(|lines| format!("FROM base\n{}\n", lines.join("\n")))
}

#[test]
fn the_witnesses_understand_what_is_compared() {
    let text = "FROM a AS b\nRUN x \\\n  y\nCMD [\"a\", \"b\"]\nCOPY a b c\nENV A=1\n";
    let expected = ["from a Some(\"b\")", "run x   y", "cmd [a|b]", "copy a|b to c", "other"];
    assert_eq!(ours(text), expected);
    assert_eq!(first(text).unwrap(), expected);
    assert_eq!(second(text).unwrap(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn witnesses_agree(text in files()) {
        let ours = ours(&text);
        if let Some(first) = first(&text) {
            prop_assert_eq!(&ours, &first);
        }
        if let Some(second) = second(&text) {
            prop_assert_eq!(&ours, &second);
        }
    }
}
