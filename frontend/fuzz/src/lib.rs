//! What must hold for every text, however broken. Each function panics when it does not.

use frontend::lower::Images;
use frontend::patterns::{IgnoreFile, wildcard_matches};
use frontend::source::SourceFile;
use frontend::words::{Escapes, Expander, Quotes, Unset, expand_heredoc};
use frontend::{ImageFacts, LowerOptions, Lowered};
use proto::digest::Digest;
use proto::oci::ImageConfig;
use proto::platform::Platform;
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

/// Parsing and lowering end; every place is a piece of the text; what is printed is understood as before.
pub fn parse(input: &[u8]) {
    let text = String::from_utf8_lossy(input).into_owned();
    let source = SourceFile::new("Dockerfile", text.as_str());
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
    for found in lower(&source, &parsed) {
        inside(found.span.start, found.span.end);
    }
    let printed = print::print(&parsed);
    if printed.lines().any(|line| line.len() > 65_535) {
        return;
    }
    let again = frontend::parse(&SourceFile::new("Dockerfile", printed.as_str()));
    let shapes = |parsed: &frontend::Parsed| parsed.instructions.iter().map(print::shape).collect::<Vec<_>>();
    assert_eq!(shapes(&again), shapes(&parsed), "{printed}");
}

fn lower(source: &SourceFile, parsed: &frontend::Parsed) -> Vec<frontend::diagnostic::Diagnostic> {
    let options = LowerOptions::new(Platform::new("linux", "amd64", ""));
    let mut images = Images::new();
    loop {
        match frontend::lower(source, parsed, &options, &images) {
            Ok(Lowered::Done(plan)) => return plan.diagnostics,
            Err(diagnostics) => return diagnostics,
            Ok(Lowered::Need(requests)) => images.extend(requests.into_iter().map(|request| {
                let facts = ImageFacts {
                    manifest: Digest::of(request.reference.as_bytes()),
                    config: ImageConfig::default(),
                };
                ((request.reference, request.platform), facts)
            })),
        }
    }
}

/// Every rule for quotes, escapes and unset names gives an answer, and the same one twice.
pub fn expand(input: &[u8]) {
    let word = String::from_utf8_lossy(input);
    let lookup = |name: &str| match name {
        "FOO" => Some("xxyy".to_owned()),
        "E" => Some(String::new()),
        "P" => Some("/a/b.tar.gz".to_owned()),
        "D" => Some("a b".to_owned()),
        _ => None,
    };
    for escape in ['\\', '`'] {
        for quotes in [Quotes::Remove, Quotes::Keep, Quotes::Ordinary] {
            for (escapes, unset) in [(Escapes::Remove, Unset::Empty), (Escapes::Keep, Unset::Keep)] {
                let rules = Expander {
                    escape,
                    quotes,
                    escapes,
                    unset,
                };
                let once = rules.expand(&word, &lookup);
                assert_eq!(once, rules.expand(&word, &lookup));
                let words = rules.expand_words(&word, &lookup);
                assert_eq!(once.is_ok(), words.is_ok());
            }
        }
    }
    let heredoc = expand_heredoc(&word, &lookup);
    assert!(heredoc.is_ok() || word.contains('$'));
}

/// The first line is a path, the others are patterns: whoever asks for the whole path gets the same answer as a walk.
pub fn ignore(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (path, patterns) = text.split_once('\n').unwrap_or((&text, ""));
    if let Some(segment) = patterns.lines().next() {
        assert_eq!(wildcard_matches(segment, path), wildcard_matches(segment, path));
    }
    let Ok(patterns) = IgnoreFile::parse(patterns) else {
        return;
    };
    let mut state = patterns.root();
    for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
        state = patterns.descend(&state, path[..at].as_bytes());
    }
    assert_eq!(patterns.excludes(&state), patterns.matches(path.as_bytes()));
    let taken_back = patterns
        .deciding(path.as_bytes())
        .is_some_and(|(pattern, _)| pattern.starts_with('!'));
    if let Some((parent, _)) = path.rsplit_once('/').filter(|_| taken_back) {
        let inside = patterns.descend(&patterns.root(), parent.as_bytes());
        assert!(
            patterns.may_match_below(parent.as_bytes()) || !patterns.excludes(&inside),
            "{parent}"
        );
    }
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
        .map(|(word, _)| word.into())
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
