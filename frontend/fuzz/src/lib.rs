//! What must hold for every text, however broken. Each function panics when it does not.

use frontend::diagnostic::Diagnostic;
use frontend::instruction::Kind;
use frontend::lower::Images;
use frontend::lower::graph::edges;
use frontend::outline::outline;
use frontend::patterns::{IgnoreFile, Patterns, wildcard_matches};
use frontend::source::SourceFile;
use frontend::words::{Escapes, Expander, Quotes, Unset, expand_heredoc};
use frontend::{LowerOptions, Lowered, NamedContext, Parsed, stub};
use proto::platform::Platform;
use regex::Regex;
use testdata::dockerfiles::cases;
use testdata::fuzz::Target;

#[path = "../../tests/print/mod.rs"]
mod print;

/// What there is to run.
pub const TARGETS: &[Target] = &[
    Target {
        name: "parse",
        run: parse,
        seeds: dockerfiles,
        words: &[
            "FROM a\n",
            "\nRUN ",
            "\nCOPY ",
            "\nADD ",
            "\nENV ",
            "\nARG ",
            "\nONBUILD ",
            "\nHEALTHCHECK CMD ",
            " AS b",
            "--from=",
            "--mount=type=",
            "--chmod=",
            "<<E",
            "<<-'E'",
            "\nE\n",
            "\\\n",
            "`\n",
            "# escape=`\n",
            "[\"a\"]",
            "$A",
            "${A:-",
            "\"",
            "'",
            "\u{feff}",
            "\u{a0}",
            "é",
            "\r\n",
            "\u{b}",
            "# check=skip=all\n",
            "\n----\n",
            "${A//?/$A}",
            "\nENV A=$A$A",
            "\nEXPOSE 1-65535",
            "\nWORKDIR ",
            "\nLABEL ",
            "\nSHELL ",
            "\nVOLUME ",
            "\nUSER ",
            "\nSTOPSIGNAL ",
            "\nCMD ",
            "\nENTRYPOINT ",
            "git@github.com:a/b.git#c:d",
            "https://a/b.git?branch=c",
            "type=secret,id=a,env=A",
            "type=cache,target=/c,uid=1,mode=0755",
            "--parents ",
            "--exclude=",
            "--checksum=sha256:",
            "--platform=$BUILDPLATFORM ",
            "SOURCE_DATE_EPOCH",
        ],
    },
    Target {
        name: "expand",
        run: expand,
        seeds: table_words,
        words: &[
            "$A",
            "${A",
            "}",
            ":-",
            ":+",
            ":?",
            "#",
            "##",
            "%",
            "%%",
            "/",
            "//",
            "\\",
            "\"",
            "'",
            "*",
            "?",
            "é",
            "`",
            "$",
            "${FOO:-${E:-",
            "${P//?/",
            "${L//?/$L}",
            "<< ",
        ],
    },
    Target {
        name: "ignore",
        run: ignore,
        seeds: table_patterns,
        words: &[
            "**", "*", "?", "[a-z]", "[^", "]", "\\", "/", "!", "\n", "**/", "/**", "..", ".", "é", "#",
        ],
    },
];

/// For libFuzzer: see [`Target::write_seeds`].
pub fn write_seeds(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name);
    target.expect("the target has a row in the table").write_seeds();
}

/// What separates a file from the triggers of all its images, one a line.
const TRIGGERS: &str = "\n----\n";

/// Parsing, lowering and all that only looks at a file end; every place is a piece of the text; what is printed is understood
/// as before.
pub fn parse(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (text, triggers) = text.split_once(TRIGGERS).unwrap_or((&text, ""));
    let source = SourceFile::new("Dockerfile", text);
    let parsed = frontend::parse(&source);
    let inside = |start: u32, end: u32| assert!(text.get(start as usize..end as usize).is_some(), "{start}..{end}");
    parsed
        .diagnostics
        .iter()
        .for_each(|found| inside(found.span.start, found.span.end));
    for instruction in &parsed.instructions {
        inside(instruction.span.start, instruction.span.end);
        inside(instruction.keyword.span.start, instruction.keyword.span.end);
    }
    for options in [LowerOptions::new(Platform::new("linux", "amd64", "")), demanding()] {
        for found in lower((&source, &parsed), &options, triggers) {
            inside(found.span.start, found.span.end);
        }
        let checked = frontend::check(&source, &parsed, &options);
        for finding in checked.errors.iter().chain(&checked.warnings) {
            inside(finding.diagnostic.span.start, finding.diagnostic.span.end);
        }
    }
    if let Ok(outline) = outline(&source, &parsed, &demanding()) {
        assert!(outline.args.iter().all(|arg| arg.lines.0 <= arg.lines.1));
    }
    if let Ok(edges) = edges(&source, &parsed, &demanding()) {
        assert!(edges.len() <= parsed.instructions.len());
    }
    same_when_printed(&parsed);
}

fn same_when_printed(parsed: &Parsed) {
    // A misspelt trigger takes the body that follows with it, as every misspelt instruction does, and keeps no trace of it.
    let broken = |kind: &Kind| matches!(kind, Kind::Onbuild { text, inner: Err(_) } if text.value.contains("<<"));
    if parsed.instructions.iter().any(|instruction| broken(&instruction.kind)) {
        return;
    }
    let printed = print::print(parsed);
    if printed.lines().any(|line| line.len() > 65_535) {
        return;
    }
    let again = frontend::parse(&SourceFile::new("Dockerfile", printed.as_str()));
    let shapes = |parsed: &Parsed| parsed.instructions.iter().map(print::shape).collect::<Vec<_>>();
    assert_eq!(shapes(&again), shapes(parsed), "{printed}");
}

/// Options that reach what the usual ones do not.
fn demanding() -> LowerOptions {
    let arm = Platform::new("linux", "arm64", "v8");
    LowerOptions {
        build_args: [("A", "given $A"), ("SOURCE_DATE_EPOCH", "1"), ("HTTP_PROXY", "p")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        adoptable: Some(vec![arm.clone()]),
        multi_platform: true,
        contexts: [("c".to_owned(), NamedContext::Local)].into(),
        ignore: Some(IgnoreFile::parse("*\n!src/**\n").expect("the patterns are well formed")),
        ..LowerOptions::new(arm)
    }
}

fn lower((source, parsed): (&SourceFile, &Parsed), options: &LowerOptions, triggers: &str) -> Vec<Diagnostic> {
    let mut images = Images::new();
    loop {
        match frontend::lower(source, parsed, options, &images) {
            Ok(Lowered::Done(plan)) => return plan.diagnostics,
            Err(diagnostics) => return diagnostics,
            Ok(Lowered::Need(requests)) => images.extend(requests.into_iter().map(|request| {
                let mut facts = stub::image(&request.platform);
                facts.config.config.on_build = triggers.lines().map(str::to_owned).collect();
                ((request.reference, request.platform), facts)
            })),
        }
    }
}

/// How many sets of rules there are.
const RULES: u8 = 24;

/// The first byte chooses the rules, the others are the word: there is an answer of bounded size, and the same one for one word
/// and for many.
pub fn expand(input: &[u8]) {
    let Some((choice, word)) = input.split_first() else {
        return;
    };
    let word = String::from_utf8_lossy(word);
    let long = "long/".repeat(100);
    let lookup = |name: &str| match name {
        "FOO" => Some("xxyy".to_owned()),
        "E" => Some(String::new()),
        "P" => Some("/a/b.tar.gz".to_owned()),
        "D" => Some("a b".to_owned()),
        "L" => Some(long.clone()),
        _ => None,
    };
    same_as_words(&rules(*choice % RULES), &word, &lookup);
    let heredoc = expand_heredoc(&word, &lookup);
    assert!(heredoc.is_ok() || word.contains('$'));
}

fn rules(choice: u8) -> Expander {
    let odd = |number: u8| number % 2 == 1;
    Expander {
        escape: if odd(choice) { '`' } else { '\\' },
        escapes: if odd(choice / 2) {
            Escapes::Keep
        } else {
            Escapes::Remove
        },
        unset: if odd(choice / 4) { Unset::Keep } else { Unset::Empty },
        quotes: [Quotes::Remove, Quotes::Keep, Quotes::Ordinary][usize::from(choice / 8)],
    }
}

fn same_as_words(rules: &Expander, word: &str, lookup: &dyn Fn(&str) -> Option<String>) {
    match (rules.expand(word, lookup), rules.expand_words(word, lookup)) {
        (Ok(once), Ok(words)) => {
            // A word of `${A:-word}` stays as it is written where `A` is unset: all else is in the text once.
            assert!(once.text.len() <= word.len() + (1 << 20), "{}", once.text.len());
            assert_eq!(once.unset, words.unset);
            assert!(words.words.iter().all(|word| !word.is_empty()));
        }
        (once, words) => assert_eq!(once.err(), words.err()),
    }
}

/// The first line is a path, the others are patterns: a walk, and whoever asks for the path alone, get one answer; a walk enters
/// every directory below which something comes back; and plain patterns match as expressions say that are made of them.
pub fn ignore(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (path, text) = text.split_once('\n').unwrap_or((&text, ""));
    for pattern in text.lines().take(3) {
        if let (Ok(found), Some(expression)) = (wildcard_matches(pattern, path), as_expression(pattern, false)) {
            assert_eq!(found, expression.is_match(path), "{pattern:?} {path:?}");
        }
        if let (Ok(alone), Some(expression)) = (Patterns::new(&[pattern]), as_expression(pattern, true)) {
            let state = alone.descend(&alone.root(), path.as_bytes());
            assert_eq!(
                alone.excludes(&state),
                expression.is_match(path),
                "{pattern:?} {path:?}"
            );
        }
    }
    let Ok(patterns) = IgnoreFile::parse(text) else {
        return;
    };
    let clean = |name: &str| !matches!(name, "" | "." | "..");
    let path: Vec<&str> = path.split('/').filter(|name| clean(name)).collect();
    let path = path.join("/");
    let mut state = patterns.root();
    let mut closed = false;
    for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
        let name = &path.as_bytes()[..at];
        state = patterns.descend(&state, name);
        let excluded = patterns.excludes(&state);
        assert!(
            excluded || !closed,
            "{} comes back in a directory that no walk enters",
            &path[..at]
        );
        closed |= excluded && !patterns.may_match_below(name);
    }
    // `/!a` means `!a`, so what is written does not say which way a pattern decides; but one does, or nothing is excluded.
    let taken = patterns.excludes(&state);
    assert!(!taken || patterns.deciding(path.as_bytes()).is_some());
    if !patterns.has_exceptions() {
        assert_eq!(taken, patterns.matches(path.as_bytes()));
    }
}

/// A pattern of plain characters, `?` and stars as a regular expression; nothing for other patterns, and for those that are no
/// expressions but plain comparisons.
fn as_expression(pattern: &str, directories: bool) -> Option<Regex> {
    let odd = |text: &str| text.contains(['*', '?']);
    let compared = !odd(pattern.trim_start_matches("**")) || !odd(pattern.trim_end_matches("**"));
    let unclean = pattern.split('/').any(|name| matches!(name, "" | "." | ".."));
    let plain = !pattern.contains(['[', ']', '\\']) && pattern == pattern.trim() && !pattern.starts_with(['!', '#']);
    if !plain || (directories && (compared || unclean)) {
        return None;
    }
    let mut expression = "(?s)^".to_owned();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        match first {
            '*' if directories && rest.starts_with("**") => {
                length = if rest.starts_with("**/") { 3 } else { 2 };
                expression += if rest.len() == length { ".*" } else { "(?:.*/)?" };
            }
            '*' => expression += "[^/]*",
            '?' => expression += "[^/]",
            other => expression += &regex::escape(other.encode_utf8(&mut [0; 4])),
        }
        rest = &rest[length..];
    }
    Regex::new(&(expression + "$")).ok()
}

fn dockerfiles() -> Vec<Vec<u8>> {
    let folders = [
        "dockerfiles/ok",
        "dockerfiles/err",
        "dockerfiles/plan",
        "dockerfiles/real",
        "messages",
    ];
    folders
        .iter()
        .flat_map(|folder| cases(folder))
        .map(|case| case.text.into_bytes())
        .collect()
}

fn table_words() -> Vec<Vec<u8>> {
    let table = include_str!("../../../testdata/tables/words.txt");
    table
        .lines()
        .filter_map(|line| line.rsplit_once(" => "))
        .zip((0..RULES).cycle())
        .map(|((word, _), choice)| [&[choice], word.as_bytes()].concat())
        .collect()
}

/// Each line of the table as a path that its patterns match, and those patterns.
fn table_patterns() -> Vec<Vec<u8>> {
    let table = include_str!("../../../testdata/tables/ignore.txt");
    let columns = table.lines().map(|line| line.split(" | ").collect::<Vec<_>>());
    let seeds = columns.filter(|columns| columns.len() == 3).map(|columns| {
        let path = columns[1].split(' ').next().unwrap_or_default();
        format!("{path}\n{}", columns[0].replace(" & ", "\n"))
    });
    seeds.map(String::into_bytes).collect()
}
