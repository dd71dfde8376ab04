//! The crate `dockerfile-parser` as a second opinion on every file of `testdata/dockerfiles` that has no mistake.
//!
//! It knows the language of 2020: it rejects much of what is there, which says nothing. Where it accepts a file and understands it
//! otherwise, the file and the reason stand in [`DIFFERENCES`].

use std::collections::BTreeMap;

use dockerfile_parser::{Dockerfile, Instruction as Theirs, ShellOrExecExpr};
use frontend::instruction::{Command, Copy, Kind, Word};
use frontend::parse;
use frontend::source::SourceFile;
use frontend::words::{Expander, Unset};
use testdata::dockerfiles::cases;

const FLAGS: &str = "it takes flags that came later for words";
const QUOTES: &str = "it takes quotes off that variables may still need";

/// Files that both accept and it understands otherwise, and how it is wrong.
const DIFFERENCES: &[(&str, &str)] = &[
    ("ok/add_heredoc", "it reads the body of a heredoc as instructions"),
    (
        "ok/continuation_at_end",
        "it keeps an escape character that the file ends with",
    ),
    (
        "ok/continuation_double",
        "it lets two escape characters continue a line",
    ),
    (
        "ok/continuation_triple",
        "it lets three escape characters continue a line",
    ),
    ("ok/copy_double_dash", "it takes the end of flags for a path"),
    ("ok/copy_flags", FLAGS),
    ("ok/copy_many", QUOTES),
    (
        "ok/from_references",
        "it takes a flag for the image where the image is quoted",
    ),
    ("ok/mount_continued", FLAGS),
    ("ok/run_everything", FLAGS),
    ("ok/run_flags", FLAGS),
    ("ok/run_flags_after_command", FLAGS),
    ("ok/run_mount_records", FLAGS),
    (
        "plan/arg_names",
        "it knows one argument a line, and no quotes around its name",
    ),
    ("plan/array_with_single_quotes", "it takes single quotes for JSON"),
    ("plan/copy_link", FLAGS),
    ("plan/copy_parents", FLAGS),
    ("plan/mounts", FLAGS),
    ("plan/networks", FLAGS),
    ("real/cpp_cmake", FLAGS),
    ("real/dotnet", FLAGS),
    ("real/go_static", FLAGS),
    ("real/java_maven", FLAGS),
    ("real/node_service", FLAGS),
    ("real/node_workspace", FLAGS),
    ("real/python_uv", FLAGS),
    ("real/python_wheels", FLAGS),
    ("real/ruby_rails", QUOTES),
];

#[test]
fn both_understand_the_same_but_for_what_is_listed() {
    let mut differences = BTreeMap::new();
    let (mut equal, mut rejected) = (0, 0);
    for kind in ["ok", "plan", "real"] {
        for case in cases(&format!("dockerfiles/{kind}")) {
            let Some(theirs) = theirs(&case.text) else {
                rejected += 1;
                continue;
            };
            match first_difference(&ours(&case.text), &theirs) {
                None => equal += 1,
                Some(difference) => {
                    differences.insert(format!("{kind}/{}", case.name), difference);
                }
            }
        }
    }
    let listed: Vec<&str> = DIFFERENCES.iter().map(|(name, _)| *name).collect();
    let found: Vec<&str> = differences.keys().map(String::as_str).collect();
    assert_eq!(found, listed, "{differences:#?}");
    assert!(equal >= 80, "only {equal} files were compared, {rejected} rejected");
}

fn first_difference(ours: &[String], theirs: &[String]) -> Option<String> {
    let nothing = String::new();
    let longest = ours.len().max(theirs.len());
    let pairs = (0..longest).map(|at| (ours.get(at).unwrap_or(&nothing), theirs.get(at).unwrap_or(&nothing)));
    let (ours, theirs) = pairs.into_iter().find(|(ours, theirs)| ours != theirs)?;
    Some(format!("{ours} ≠ {theirs}"))
}

fn unquoted(text: &str) -> String {
    let rules = Expander {
        unset: Unset::Keep,
        ..Expander::new('\\')
    };
    rules
        .expand(text, &|_| None)
        .map_or_else(|_| text.to_owned(), |expanded| expanded.text)
}

fn pair(name: &str, value: &str) -> String {
    format!("{}={}", unquoted(name), unquoted(value))
}

fn ours(text: &str) -> Vec<String> {
    let parsed = parse(&SourceFile::new("Dockerfile", text));
    let mut all = Vec::new();
    for instruction in &parsed.instructions {
        let keyword = instruction.keyword.value.to_ascii_uppercase();
        match &instruction.kind {
            Kind::From(from) => {
                let name = from.name.as_ref().map_or("", |name| name.value.as_str());
                all.push(format!("FROM {} {name}", from.base.value));
            }
            // One instruction a name, there.
            Kind::Arg(args) => all.extend(args.iter().map(|arg| {
                let default = arg.default.as_ref().map(|default| unquoted(&default.value));
                format!("ARG {} {default:?}", arg.name.value)
            })),
            Kind::Env(values) | Kind::Label(values) => {
                let pairs = values.pairs.iter().map(|(name, value)| pair(&name.value, &value.value));
                all.push(format!("{keyword} {}", pairs.collect::<Vec<_>>().join(" ")));
            }
            Kind::Run(run) => all.push(format!("RUN {}", command(&run.command))),
            Kind::Cmd(value) | Kind::Entrypoint(value) => all.push(format!("{keyword} {}", command(value))),
            Kind::Copy(copy) => all.push(format!("COPY {}", paths(copy))),
            _ => all.push(format!("{keyword} {}", instruction.text.trim())),
        }
    }
    all
}

fn command(command: &Command) -> String {
    match command {
        Command::Shell(text) => text.value.clone(),
        Command::Exec(words) => format!("[{}]", list(words)),
    }
}

fn paths(copy: &Copy) -> String {
    format!("{} to {}", list(&copy.sources), copy.dest.value)
}

fn list(words: &[Word]) -> String {
    words
        .iter()
        .map(|word| word.value.as_str())
        .collect::<Vec<_>>()
        .join("|")
}

fn theirs(text: &str) -> Option<Vec<String>> {
    let parsed = Dockerfile::parse(text).ok()?;
    let command = |expr: &ShellOrExecExpr| match expr {
        ShellOrExecExpr::Shell(text) => text.to_string().trim().to_owned(),
        ShellOrExecExpr::Exec(array) => format!("[{}]", array.as_str_vec().join("|")),
    };
    let describe = |instruction: &Theirs| match instruction {
        Theirs::From(from) => {
            let name = from.alias.as_ref().map_or("", |name| name.content.as_str());
            format!("FROM {} {name}", from.image.content)
        }
        Theirs::Arg(arg) => {
            let default = arg.value.as_ref().map(|value| unquoted(&value.content));
            format!("ARG {} {default:?}", arg.name.content)
        }
        Theirs::Env(env) => {
            let pairs = env
                .vars
                .iter()
                .map(|var| pair(&var.key.content, &var.value.to_string()));
            format!("ENV {}", pairs.collect::<Vec<_>>().join(" "))
        }
        Theirs::Label(label) => {
            let pairs = label
                .labels
                .iter()
                .map(|label| pair(&label.name.content, &label.value.content));
            format!("LABEL {}", pairs.collect::<Vec<_>>().join(" "))
        }
        Theirs::Run(run) => format!("RUN {}", command(&run.expr)),
        Theirs::Cmd(value) => format!("CMD {}", command(&value.expr)),
        Theirs::Entrypoint(value) => format!("ENTRYPOINT {}", command(&value.expr)),
        Theirs::Copy(copy) => {
            let sources: Vec<_> = copy.sources.iter().map(|source| source.content.as_str()).collect();
            format!("COPY {} to {}", sources.join("|"), copy.destination.content)
        }
        Theirs::Misc(other) => {
            let keyword = other.instruction.content.to_ascii_uppercase();
            format!("{keyword} {}", other.arguments.to_string().trim())
        }
    };
    Some(parsed.instructions.iter().map(describe).collect())
}
