//! Reads cases: Dockerfiles, each with the options and files that it is built with.
//!
//! A file of cases is a topic. What stands before its first case says what the topic is. Then:
//!
//! ```text
//! === NAME [VARIABLE=VALUE …] [--option value …]
//! the Dockerfile
//! --- PATH
//! a file of the build context, for example .dockerignore
//! --- Dockerfile.dockerignore
//! the only path that is beside the Dockerfile, outside of the build context
//! --- $
//! commands of a shell that run in the build context before the builds
//!
//! === each
//! ENV A=1
//! LABEL b
//! ```
//!
//! Every line below `=== each` is a case of its own, with the line for a name: `FROM busybox` and the line. Variables before the
//! first option are the environment of both clients. Options are those of `rbuild build`; double quotes keep blanks, `{context}`
//! is the build context and `{base}` the layout of the base image. Blank lines at the end of a text are not part of it. What an
//! editor would hide or change is written `⟨cr⟩`, `⟨tab⟩`, `⟨bom⟩`, `⟨ff⟩` (a byte that is no UTF-8), `⟨end⟩` (no newline
//! after this) and `⟨a×300⟩` (300 times `a`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// One Dockerfile and everything that it is built with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Case {
    /// `topic/name`.
    pub(crate) name: String,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) options: Vec<String>,
    pub(crate) dockerfile: Vec<u8>,
    /// Paths below the build context, with their content.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// What is run in the build context first.
    pub(crate) prepare: Option<String>,
}

/// The path of the ignore file that is beside the Dockerfile.
pub(crate) const OWN_IGNORE_FILE: &str = "Dockerfile.dockerignore";

/// Every case of `folder`, by topic and then in the order of the file.
pub(crate) fn load(folder: &Path) -> Result<Vec<Case>> {
    let mut topics = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            topics.push(path);
        }
    }
    topics.sort();
    let mut cases: Vec<Case> = Vec::new();
    for path in topics {
        let topic = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for case in parse(&topic, &text).with_context(|| path.display().to_string())? {
            if cases.iter().any(|other| other.name == case.name) {
                bail!("two cases are called `{}`", case.name);
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

fn parse(topic: &str, text: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for block in format!("\n{text}").split("\n=== ").skip(1) {
        let (header, body) = block.split_once('\n').unwrap_or((block, ""));
        if header.trim() == "each" {
            for line in body.lines().filter(|line| !line.is_empty()) {
                cases.push(Case {
                    name: format!("{topic}/{line}"),
                    dockerfile: expand(&format!("FROM busybox\n{line}"))?,
                    ..Case::default()
                });
            }
        } else {
            cases.push(one(topic, header, body).with_context(|| format!("case `{header}`"))?);
        }
    }
    Ok(cases)
}

fn one(topic: &str, header: &str, body: &str) -> Result<Case> {
    let mut words = words(header).into_iter();
    let name = words.next().context("a case without a name")?;
    let mut case = Case {
        name: format!("{topic}/{name}"),
        ..Case::default()
    };
    for word in words {
        match word.split_once('=') {
            Some((key, value)) if case.options.is_empty() && !word.starts_with('-') => {
                case.environment.push((key.to_owned(), value.to_owned()));
            }
            _ => case.options.push(word),
        }
    }
    let body = format!("\n{body}");
    let mut sections = body.split("\n--- ");
    let dockerfile = sections.next().unwrap_or_default();
    case.dockerfile = expand(dockerfile.strip_prefix('\n').unwrap_or(dockerfile))?;
    for section in sections {
        let (path, text) = section.split_once('\n').unwrap_or((section, ""));
        if path == "$" {
            case.prepare = Some(text.to_owned());
        } else {
            case.files.push((path.to_owned(), expand(text)?));
        }
    }
    Ok(case)
}

/// Words between blanks; double quotes keep blanks and are dropped.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![];
    let mut word = String::new();
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(letter),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// The bytes of a text: marks replaced, one newline at its end.
fn expand(text: &str) -> Result<Vec<u8>> {
    let text = text.trim_end_matches('\n');
    let mut bytes = Vec::new();
    let mut pieces = text.split('⟨');
    bytes.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
    for piece in pieces {
        let (mark, rest) = piece.split_once('⟩').context("a `⟨` without `⟩`")?;
        match mark {
            "cr" => bytes.push(b'\r'),
            "tab" => bytes.push(b'\t'),
            "bom" => bytes.extend_from_slice("\u{feff}".as_bytes()),
            "ff" => bytes.push(0xff),
            "end" if rest.is_empty() => return Ok(bytes),
            _ => {
                let (what, times) = mark
                    .split_once('×')
                    .with_context(|| format!("unknown mark `⟨{mark}⟩`"))?;
                bytes.extend_from_slice(what.repeat(times.parse()?).as_bytes());
            }
        }
        bytes.extend_from_slice(rest.as_bytes());
    }
    if !bytes.is_empty() {
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_has_environment_options_and_files() {
        let text = "About this.\n\n=== a X=1 --label \"k=v w\" --target b\nFROM busybox\nRUN x\n\n--- .dockerignore\n*\n--- $\nmkdir q\n\n=== b\nFROM b\n";
        let cases = parse("t", text).unwrap();
        assert_eq!(cases.len(), 2);
        let case = &cases[0];
        assert_eq!(case.name, "t/a");
        assert_eq!(case.environment, [("X".to_owned(), "1".to_owned())]);
        assert_eq!(case.options, ["--label", "k=v w", "--target", "b"]);
        assert_eq!(case.dockerfile, b"FROM busybox\nRUN x\n");
        assert_eq!(case.files, [(".dockerignore".to_owned(), b"*\n".to_vec())]);
        assert_eq!(case.prepare.as_deref(), Some("mkdir q\n"));
        assert_eq!(cases[1].dockerfile, b"FROM b\n");
    }

    #[test]
    fn each_line_of_a_list_is_a_case() {
        let cases = parse("t", "=== each\nENV =x\nUSER\n").unwrap();
        let shown: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(shown, ["t/ENV =x", "t/USER"]);
        assert_eq!(cases[1].dockerfile, b"FROM busybox\nUSER\n");
    }

    #[test]
    fn marks_stand_for_bytes_that_editors_hide() {
        assert_eq!(expand("⟨bom⟩a⟨cr⟩\n⟨tab⟩⟨ff⟩").unwrap(), b"\xef\xbb\xbfa\r\n\t\xff\n");
        assert_eq!(expand("x⟨a×3⟩y⟨end⟩\n\n").unwrap(), b"xaaay");
        assert_eq!(expand("").unwrap(), b"");
        assert!(expand("⟨nonsense⟩").is_err());
    }

    #[test]
    fn the_cases_of_this_repository_can_be_read_and_have_names_of_their_own() {
        let cases = load(&crate::run::repository().join("testdata/parity")).unwrap();
        assert!(cases.len() > 400, "{}", cases.len());
    }
}
