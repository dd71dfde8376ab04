//! `# syntax=`, `# escape=` and `# check=` at the top of a file.

use crate::diagnostic::Diagnostic;
use crate::instruction::Word;
use crate::source::{SourceFile, Span};

/// What the top of the file says about how to read the rest. Values are as written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directives {
    /// `# syntax=`: the frontend image, with whatever follows it.
    pub syntax: Option<Word>,
    /// `# escape=`: the escape character.
    pub escape: Option<Word>,
    /// `# check=`: which checks are skipped, and whether warnings are errors.
    pub check: Option<Word>,
}

/// Code of the error about a frontend image that is not this frontend.
pub(crate) const FOREIGN_SYNTAX: &str = "foreign-syntax";

/// Frontend images that this frontend stands for.
const BUILT_IN: [&str; 2] = ["docker/dockerfile", "docker/dockerfile-upstream"];

impl Directives {
    /// Reads the directives of a file, and counts their lines; mistakes go to `diagnostics`.
    pub(crate) fn read(source: &SourceFile, diagnostics: &mut Vec<Diagnostic>) -> (Self, usize) {
        let mut directives = Self::default();
        let mut count = 0;
        for line in lines(source) {
            let Some((name, value)) = directive(line.text.trim_start(), line.trimmed_start(), "#") else {
                break;
            };
            let known = match name.value.to_ascii_lowercase().as_str() {
                "syntax" => &mut directives.syntax,
                "escape" => &mut directives.escape,
                "check" => &mut directives.check,
                _ => break,
            };
            count += 1;
            if known.is_some() {
                let name = name.value.to_ascii_lowercase();
                let message = format!("only one {name} parser directive can be used");
                diagnostics.push(
                    Diagnostic::error("duplicate-directive", line.span(), message).help("remove one of the two lines"),
                );
            } else {
                *known = Some(value);
            }
        }
        // Image names are looked for with other rules, which see past a shebang.
        directives.syntax = syntax(source).or(directives.syntax);
        directives.check_values(diagnostics);
        (directives, count)
    }

    /// The escape character in force.
    pub(crate) fn escape_char(&self) -> char {
        match self.escape.as_ref().map(|word| word.value.as_str()) {
            Some("`") => '`',
            _ => '\\',
        }
    }

    fn check_values(&self, diagnostics: &mut Vec<Diagnostic>) {
        if let Some(escape) = &self.escape
            && !matches!(escape.value.as_str(), "`" | "\\")
        {
            let message = format!("invalid escape token '{}' does not match ` or \\", escape.value);
            diagnostics.push(Diagnostic::error("invalid-escape-directive", escape.span, message));
        }
        if let Some(syntax) = &self.syntax {
            diagnostics.extend(refuse_foreign(&syntax.value, syntax.span));
        }
    }
}

/// The error about `value`, a frontend image and whatever follows it, unless this frontend stands for it.
pub(crate) fn refuse_foreign(value: &str, span: Span) -> Option<Diagnostic> {
    let image = value.split_whitespace().next().unwrap_or_default();
    if is_built_in(image) {
        return None;
    }
    let message = format!("frontend image `{image}` cannot be used: rbuild has its frontend built in");
    let help = match span == Span::default() {
        true => "leave out the build argument BUILDKIT_SYNTAX, or set it to `docker/dockerfile:1`",
        false => "remove the line if the file needs no more than `docker/dockerfile:1` offers",
    };
    Some(Diagnostic::error(FOREIGN_SYNTAX, span, message).help(help))
}

/// Whether an image is the Dockerfile frontend, of whatever version and channel.
fn is_built_in(image: &str) -> bool {
    let image = image.split('@').next().unwrap_or_default();
    let image = image.strip_prefix("docker.io/").unwrap_or(image);
    let name = image.split_once(':').map_or(image, |(name, _)| name);
    BUILT_IN.contains(&name)
}

/// A physical line without its end.
struct Line<'a> {
    text: &'a str,
    start: usize,
}

impl Line<'_> {
    fn trimmed_start(&self) -> usize {
        self.start + self.text.len() - self.text.trim_start().len()
    }

    fn span(&self) -> Span {
        Span::new(self.trimmed_start(), self.start + self.text.trim_end().len())
    }
}

fn lines(source: &SourceFile) -> impl Iterator<Item = Line<'_>> {
    let mark = if source.text.starts_with('\u{feff}') {
        '\u{feff}'.len_utf8()
    } else {
        0
    };
    let mut start = mark;
    source.text[mark..].split_inclusive('\n').map(move |line| {
        let text = line.trim_end_matches(['\r', '\n']);
        let line_start = start;
        start += line.len();
        Line {
            text,
            start: line_start,
        }
    })
}

/// Splits `# name = value`; `start` is the offset of `text`.
fn directive(text: &str, start: usize, mark: &str) -> Option<(Word, Word)> {
    let body = text.strip_prefix(mark)?;
    let (name, value) = body.split_once('=')?;
    let word = |part: &str, offset: usize| {
        let start = offset + part.len() - part.trim_start().len();
        let value = part.trim();
        Word {
            value: value.to_owned(),
            span: Span::new(start, start + value.len()),
        }
    };
    let value = word(value, start + mark.len() + name.len() + 1);
    let name = word(name, start + mark.len());
    let letters = name.value.starts_with(|ch: char| ch.is_ascii_alphabetic());
    let named = letters && name.value.chars().all(|ch| ch.is_ascii_alphanumeric());
    (named && !value.value.is_empty()).then_some((name, value))
}

/// The frontend image, in any of the places where builders look for it: a block of `#` or of `//` directives, below a shebang
/// or not, or a member of a JSON object that is the whole file.
fn syntax(source: &SourceFile) -> Option<Word> {
    let block = find_in_block(source, "#", "syntax");
    block
        .or_else(|| find_in_block(source, "//", "syntax"))
        .or_else(|| json_syntax(source))
}

/// `# check=`, looked for like frontend images, but behind `#` only.
pub(crate) fn check(source: &SourceFile) -> Option<Word> {
    find_in_block(source, "#", "check")
}

fn find_in_block(source: &SourceFile, mark: &str, wanted: &str) -> Option<Word> {
    let shebang = lines(source).next().is_some_and(|line| line.text.starts_with("#!"));
    let block = lines(source)
        .skip(usize::from(shebang))
        .map_while(|line| directive(line.text, line.start, mark));
    let mut block = block.take_while(|(name, _)| is_known(&name.value));
    block
        .find(|(name, _)| name.value.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| value)
}

fn is_known(name: &str) -> bool {
    ["syntax", "escape", "check"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

fn json_syntax(source: &SourceFile) -> Option<Word> {
    let text = source.text.trim_start_matches('\u{feff}').trim_start();
    if !text.starts_with('{') {
        return None;
    }
    // A file that is no JSON has no such member; that is all this asks.
    let object: serde_json::Value = serde_json::from_str(text).ok()?;
    let value = object.get("syntax")?.as_str()?.to_owned();
    let start = source.text.len() - text.len();
    Some(Word {
        value,
        span: Span::new(start, start + text.trim_end().len()),
    })
}
