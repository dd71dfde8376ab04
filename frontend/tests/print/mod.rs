//! Instructions back to text, from what was understood of them: what a parser must read again as the same.

use std::sync::LazyLock;

use frontend::Parsed;
use frontend::instruction::{Command, Copy, Healthcheck, Heredoc, Instruction, KeyValues, Kind, Run, Word};
use regex::Regex;

/// A file with the same instructions, one a line; comments and continuations are gone.
pub(crate) fn print(parsed: &Parsed) -> String {
    let mut text = String::new();
    if parsed.escape != '\\' {
        text += &format!("# escape={}\n", parsed.escape);
    }
    for instruction in &parsed.instructions {
        text += &(line(instruction, parsed.escape) + "\n");
    }
    text
}

/// What was understood, without places: equal texts mean equal instructions.
pub(crate) fn shape(instruction: &Instruction) -> String {
    static PLACES: LazyLock<Regex> = LazyLock::new(|| {
        let places = Regex::new(r"Span \{ start: \d+, end: \d+ \}|lines: \(\d+, \d+\)");
        places.expect("the expression is well formed")
    });
    let all = format!("{} {:?}", instruction.keyword.value, instruction.kind);
    PLACES.replace_all(&all, "").into_owned()
}

fn line(instruction: &Instruction, escape: char) -> String {
    let (flags, rest) = parts(instruction, escape);
    let bodies: String = heredocs(&instruction.kind).iter().map(body).collect();
    let keyword = &instruction.keyword.value;
    // A pair of dashes ends the flags, so that what follows is none.
    let dashes = if rest.starts_with("--") && is_rebuilt(&instruction.kind) {
        " --"
    } else {
        ""
    };
    let line = [keyword.as_str(), &flags, dashes, " ", &rest].concat();
    if let Kind::Onbuild { .. } = &instruction.kind {
        // A trigger is kept as it is written, with the blanks behind it.
        return line;
    }
    let line = line.trim_end();
    // A blank that is no blank to continuations keeps an escape character at the end from being one.
    let end = if line.ends_with(escape) { "\u{b}" } else { "" };
    format!("{line}{end}{bodies}")
}

/// Whether the rest is put together here, and is not the text itself with its flags in place.
fn is_rebuilt(kind: &Kind) -> bool {
    heredocs(kind).is_empty() && !matches!(kind, Kind::Onbuild { .. } | Kind::Arg(_))
}

fn body(heredoc: &Heredoc) -> String {
    format!("\n{}{}", heredoc.written, heredoc.name.value)
}

fn heredocs(kind: &Kind) -> &[Heredoc] {
    match kind {
        Kind::Run(run) => &run.heredocs,
        Kind::Copy(copy) | Kind::Add(copy) => &copy.heredocs,
        _ => &[],
    }
}

/// Flags, each with a blank before it, and the rest.
fn parts(instruction: &Instruction, escape: char) -> (String, String) {
    if !heredocs(&instruction.kind).is_empty() {
        // Where openers stand among other words decides what they are: the text itself is the only faithful form.
        return (String::new(), instruction.text.clone());
    }
    let none = |rest: String| (String::new(), rest);
    match &instruction.kind {
        Kind::From(from) => {
            let name = from.as_keyword.iter().chain(&from.name);
            let words: Vec<&str> = std::iter::once(&from.base)
                .chain(name)
                .map(|word| word.value.as_str())
                .collect();
            (flag("platform", from.platform.as_ref(), escape), words.join(" "))
        }
        Kind::Arg(args) => {
            let plain = args.iter().all(|arg| {
                !arg.name
                    .value
                    .contains(|c: char| c.is_whitespace() || "'\"".contains(c))
            });
            let print = |default: &Option<Word>| {
                default
                    .as_ref()
                    .map_or(String::new(), |word| format!("={}", word.value))
            };
            let words: Vec<String> = args
                .iter()
                .map(|arg| arg.name.value.clone() + &print(&arg.default))
                .collect();
            none(if plain && !words[0].starts_with("--") {
                words.join(" ")
            } else {
                instruction.text.clone()
            })
        }
        Kind::Env(values) | Kind::Label(values) => none(pairs(values, escape)),
        Kind::Run(run) => run_parts(run, escape),
        Kind::Copy(copy) | Kind::Add(copy) => copy_parts(copy, escape),
        Kind::Cmd(value) | Kind::Entrypoint(value) => none(command(value)),
        Kind::Shell(words) | Kind::Volume(words) => none(array(words)),
        Kind::Expose(words) => none(
            words
                .iter()
                .map(|word| word.value.as_str())
                .collect::<Vec<_>>()
                .join(" "),
        ),
        Kind::User(text) | Kind::Workdir(text) | Kind::StopSignal(text) | Kind::Maintainer(text) => {
            none(text.value.clone())
        }
        Kind::Healthcheck(check) => health_parts(check),
        Kind::Onbuild { text, .. } => none(text.value.clone()),
    }
}

fn pairs(values: &KeyValues, escape: char) -> String {
    let between = if values.legacy { " " } else { "=" };
    let pair = |(key, value): &(Word, Word)| [key.value.as_str(), between, &value.value].concat();
    let mut text = values.pairs.iter().map(pair).collect::<Vec<_>>().join(" ");
    if text.ends_with(char::is_whitespace) {
        // In quotes that nothing ends: an escape character at the end keeps the blank, and goes by itself.
        text.push(escape);
    }
    text
}

fn command(command: &Command) -> String {
    match command {
        Command::Shell(text) => text.value.clone(),
        Command::Exec(words) => array(words),
    }
}

fn array(words: &[Word]) -> String {
    let values: Vec<&str> = words.iter().map(|word| word.value.as_str()).collect();
    serde_json::to_string(&values).expect("strings are JSON")
}

fn flag(name: &str, value: Option<&Word>, escape: char) -> String {
    let Some(value) = value else { return String::new() };
    let mut text = format!(" --{name}=\"");
    for character in value.value.chars() {
        if character == '"' || character == escape {
            text.push(escape);
        }
        text.push(character);
    }
    text + "\""
}

fn flags<'w>(name: &str, values: impl IntoIterator<Item = &'w Word>, escape: char) -> String {
    values
        .into_iter()
        .map(|value| flag(name, Some(value), escape))
        .collect()
}

fn run_parts(run: &Run, escape: char) -> (String, String) {
    let flags = [
        flags("mount", run.mounts.iter().map(|mount| &mount.raw), escape),
        flag("network", run.network.as_ref(), escape),
        flag("security", run.security.as_ref(), escape),
        flags("device", run.devices.iter().map(|device| &device.raw), escape),
    ];
    (flags.concat(), command(&run.command))
}

fn copy_parts(copy: &Copy, escape: char) -> (String, String) {
    let yes = |name: &str, set: bool| if set { format!(" --{name}") } else { String::new() };
    let either = |name: &str, value: Option<bool>| value.map_or(String::new(), |value| format!(" --{name}={value}"));
    let flags = [
        flag("from", copy.from.as_ref(), escape),
        flag("chown", copy.chown.as_ref(), escape),
        flag("chmod", copy.chmod.as_ref(), escape),
        yes("link", copy.link),
        yes("parents", copy.parents),
        flags("exclude", &copy.exclude, escape),
        flag("checksum", copy.checksum.as_ref(), escape),
        either("keep-git-dir", copy.keep_git_dir),
        either("unpack", copy.unpack),
    ];
    let paths: Vec<Word> = copy.sources.iter().chain([&copy.dest]).cloned().collect();
    (flags.concat(), array(&paths))
}

fn health_parts(check: &Healthcheck) -> (String, String) {
    let Some(test) = &check.command else {
        return (String::new(), "NONE".to_owned());
    };
    let durations = [
        ("interval", check.interval_ns),
        ("timeout", check.timeout_ns),
        ("start-period", check.start_period_ns),
        ("start-interval", check.start_interval_ns),
    ];
    let mut flags: String = durations.iter().map(|(name, ns)| format!(" --{name}={ns}ns")).collect();
    flags += &format!(" --retries={}", check.retries);
    (flags, format!("CMD {}", command(test)))
}
