//! Every file of `testdata/dockerfiles` against what was understood of it, one instruction a line.
//!
//! In the rendering a word is its value in quotes; where the file says it differently (quotes, continuations), `~` and the
//! text of its span follow.
#![expect(
    clippy::unwrap_used,
    reason = "the lint sees tests only in test functions, not in what they call"
)]

use std::fmt::Write;

use expect_test::expect_file;
use frontend::diagnostic::{Diagnostic, Severity};
use frontend::instruction::{Command, Copy, Healthcheck, Heredoc, Instruction, Kind, Mount, Run, Word};
use frontend::source::SourceFile;
use frontend::{Parsed, parse};
use testdata::dockerfiles::{Case, cases, folder};

fn check(kind: &str) {
    let mut golden = String::new();
    for Case { name, text, .. } in cases(&format!("dockerfiles/{kind}")) {
        let source = SourceFile::new(&name, text);
        let parsed = parse(&source);
        assert_eq!(parsed.has_errors(), kind == "err", "{name}: {:?}", parsed.diagnostics);
        writeln!(golden, "== {name}").unwrap();
        golden.push_str(&render(&source, &parsed));
    }
    expect_file![folder(&format!("dockerfiles/{kind}.golden"))].assert_eq(&golden);
}

#[test]
fn good_files_are_understood() {
    check("ok");
}

#[test]
fn mistakes_are_named_and_the_other_lines_understood() {
    check("err");
}

#[test]
fn there_is_a_case_for_every_rule() {
    let count = |kind| cases(&format!("dockerfiles/{kind}")).len();
    assert!(["ok", "err", "plan", "real"].map(count).iter().sum::<usize>() >= 170);
}

fn render(source: &SourceFile, parsed: &Parsed) -> String {
    let mut out = String::new();
    let directives = [
        ("syntax", &parsed.directives.syntax),
        ("escape", &parsed.directives.escape),
        ("check", &parsed.directives.check),
    ];
    for (name, value) in directives {
        if let Some(value) = value {
            writeln!(out, "# {name} {}", word(source, value)).unwrap();
        }
    }
    for instruction in &parsed.instructions {
        for comment in &instruction.comments {
            writeln!(out, "    # {comment}").unwrap();
        }
        let (first, last) = instruction.lines;
        writeln!(out, "{first}-{last} {}", render_instruction(source, instruction)).unwrap();
    }
    for diagnostic in &parsed.diagnostics {
        out.push_str(&render_diagnostic(source, diagnostic));
    }
    out
}

fn render_diagnostic(source: &SourceFile, diagnostic: &Diagnostic) -> String {
    let severity = match diagnostic.severity {
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let line = source.line(diagnostic.span.start);
    let (code, message) = (diagnostic.code, &diagnostic.message);
    let mut out = format!(
        "! {line} {severity}[{code}] {:?}: {message}\n",
        source.slice(diagnostic.span)
    );
    for note in &diagnostic.notes {
        writeln!(out, "!     note: {note}").unwrap();
    }
    for help in &diagnostic.helps {
        writeln!(out, "!     help: {help}").unwrap();
    }
    out
}

fn word(source: &SourceFile, word: &Word) -> String {
    let written = source.slice(word.span);
    if written == word.value {
        format!("{written:?}")
    } else {
        format!("{:?}~{written:?}", word.value)
    }
}

fn words(source: &SourceFile, list: &[Word]) -> String {
    let list: Vec<String> = list.iter().map(|item| word(source, item)).collect();
    format!("[{}]", list.join(", "))
}

fn command(source: &SourceFile, command: &Command) -> String {
    match command {
        Command::Shell(text) => format!("sh {}", word(source, text)),
        Command::Exec(list) => format!("exec {}", words(source, list)),
    }
}

fn render_instruction(source: &SourceFile, instruction: &Instruction) -> String {
    let mut parts = vec![instruction.keyword.value.clone()];
    let pairs = |list: &[(Word, Word)]| {
        let pair = |(key, value): &(Word, Word)| format!("{}={}", word(source, key), word(source, value));
        list.iter().map(pair).collect::<Vec<_>>().join(" ")
    };
    match &instruction.kind {
        Kind::From(from) => {
            parts.push(word(source, &from.base));
            let extras = [
                ("platform", &from.platform),
                ("as", &from.as_keyword),
                ("name", &from.name),
            ];
            parts.extend(options(source, &extras));
        }
        Kind::Arg(args) => parts.extend(args.iter().map(|arg| {
            let default = arg
                .default
                .as_ref()
                .map(|default| format!("={}", word(source, default)));
            format!("{}{}", word(source, &arg.name), default.unwrap_or_default())
        })),
        Kind::Env(values) | Kind::Label(values) => {
            parts.push(pairs(&values.pairs));
            parts.extend(values.legacy.then(|| "legacy".to_owned()));
        }
        Kind::Run(run) => parts.extend(render_run(source, run)),
        Kind::Copy(copy) | Kind::Add(copy) => parts.extend(render_copy(source, copy)),
        Kind::Cmd(value) | Kind::Entrypoint(value) => parts.push(command(source, value)),
        Kind::Shell(list) | Kind::Expose(list) | Kind::Volume(list) => parts.push(words(source, list)),
        Kind::User(text) | Kind::Workdir(text) | Kind::StopSignal(text) | Kind::Maintainer(text) => {
            parts.push(word(source, text));
        }
        Kind::Healthcheck(check) => parts.push(render_healthcheck(source, check)),
        Kind::Onbuild { text, inner } => {
            parts.push(word(source, text));
            parts.push(match inner {
                Ok(inner) => format!("({})", render_instruction(source, inner)),
                Err(mistake) => format!("(! {})", mistake.message),
            });
        }
    }
    parts.join(" ")
}

fn options(source: &SourceFile, list: &[(&str, &Option<Word>)]) -> Vec<String> {
    let given = list
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| (name, value)));
    given
        .map(|(name, value)| format!("{name}={}", word(source, value)))
        .collect()
}

fn render_run(source: &SourceFile, run: &Run) -> Vec<String> {
    let mut parts = vec![command(source, &run.command)];
    parts.extend(run.mounts.iter().map(|mount| render_mount(source, mount)));
    parts.extend(options(
        source,
        &[("network", &run.network), ("security", &run.security)],
    ));
    parts.extend(
        run.devices
            .iter()
            .map(|device| format!("device={}", word(source, &device.raw))),
    );
    parts.extend(run.heredocs.iter().map(|heredoc| render_heredoc(source, heredoc)));
    parts
}

fn render_mount(source: &SourceFile, mount: &Mount) -> String {
    let option = |(key, value): &(Word, Option<Word>)| match value {
        Some(value) => format!("{}:{}", key.value, word(source, value)),
        None => key.value.clone(),
    };
    format!(
        "mount({})",
        mount.options.iter().map(option).collect::<Vec<_>>().join(" ")
    )
}

fn render_heredoc(source: &SourceFile, heredoc: &Heredoc) -> String {
    let expand = if heredoc.expand { "" } else { " literal" };
    let chomp = if heredoc.chomp { " chomp" } else { "" };
    let name = word(source, &heredoc.name);
    let body = if source.slice(heredoc.data_span) == heredoc.data {
        ""
    } else {
        "~"
    };
    format!(
        "heredoc({name} {} {:?}{body}{expand}{chomp})",
        heredoc.opener, heredoc.data
    )
}

fn render_copy(source: &SourceFile, copy: &Copy) -> Vec<String> {
    let mut parts = vec![words(source, &copy.sources), format!("to {}", word(source, &copy.dest))];
    let single = [
        ("from", &copy.from),
        ("chown", &copy.chown),
        ("chmod", &copy.chmod),
        ("checksum", &copy.checksum),
    ];
    parts.extend(options(source, &single));
    parts.extend(copy.link.then(|| "link".to_owned()));
    parts.extend(copy.parents.then(|| "parents".to_owned()));
    parts.extend(
        copy.exclude
            .iter()
            .map(|pattern| format!("exclude={}", word(source, pattern))),
    );
    parts.extend(copy.keep_git_dir.map(|keep| format!("keep-git-dir={keep}")));
    parts.extend(copy.unpack.map(|unpack| format!("unpack={unpack}")));
    parts.extend(copy.heredocs.iter().map(|heredoc| render_heredoc(source, heredoc)));
    parts
}

fn render_healthcheck(source: &SourceFile, check: &Healthcheck) -> String {
    let Some(test) = &check.command else {
        return "none".to_owned();
    };
    format!(
        "{} interval={} timeout={} start-period={} start-interval={} retries={}",
        command(source, test),
        check.interval_ns,
        check.timeout_ns,
        check.start_period_ns,
        check.start_interval_ns,
        check.retries
    )
}
