//! `--name=value` before the arguments.

use crate::diagnostic::Diagnostic;
use crate::instruction::Word;
use crate::suggest;
use crate::text::Piece;

/// A flag as it is written.
pub(super) struct FlagWord<'a> {
    piece: Piece<'a>,
    name: String,
    /// Quotes and escapes removed.
    value: Option<Word>,
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// One value.
    Text,
    /// A value each time.
    List,
    /// Nothing, `true` or `false`.
    Bool,
}

/// Flags that an instruction knows.
#[derive(Debug)]
pub(super) struct Flags {
    known: Vec<(&'static str, Word)>,
}

/// Takes leading flags off. A lone `--` ends them and disappears.
pub(super) fn split(arguments: Piece<'_>, escape: char) -> (Vec<FlagWord<'_>>, Piece<'_>) {
    let mut flags = Vec::new();
    let mut rest = arguments.trim();
    while rest.as_str().starts_with("--") {
        let (word, after) = rest.split_at(word_end(rest.as_str(), escape));
        rest = after.trim();
        if word.as_str() == "--" {
            break;
        }
        flags.push(flag(word, escape));
    }
    (flags, rest)
}

/// The first blank outside of quotes.
fn word_end(text: &str, escape: char) -> usize {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        match quote {
            _ if ch == escape => {
                chars.next();
            }
            Some(open) if ch == open => quote = None,
            Some(_) => {}
            None if ch.is_whitespace() => return at,
            None if matches!(ch, '\'' | '"') => quote = Some(ch),
            None => {}
        }
    }
    text.len()
}

fn flag(word: Piece<'_>, escape: char) -> FlagWord<'_> {
    let body = word.from("--".len());
    let (name, value) = match body.split_once('=') {
        Some((name, value)) => (name, Some(value.with(unquote(value.as_str(), escape)))),
        None => (body, None),
    };
    FlagWord {
        piece: word,
        name: unquote(name.as_str(), escape),
        value,
    }
}

fn unquote(text: &str, escape: char) -> String {
    let mut out = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(ch) = chars.next() {
        match quote {
            _ if ch == escape => out.extend(chars.next()),
            Some(open) if ch == open => quote = None,
            None if matches!(ch, '\'' | '"') => quote = Some(ch),
            _ => out.push(ch),
        }
    }
    out
}

impl Flags {
    /// Compares what is written with what the instruction takes.
    pub(super) fn check(written: &[FlagWord<'_>], takes: &[(&'static str, Takes)]) -> Result<Self, Diagnostic> {
        let mut flags = Self { known: Vec::new() };
        for flag in written {
            let Some((name, shape)) = takes.iter().copied().find(|(name, _)| *name == flag.name) else {
                return Err(unknown(flag, takes));
            };
            let error = |code, message: String| Err(Diagnostic::error(code, flag.piece.span(), message));
            if shape != Takes::List && flags.known.iter().any(|(known, _)| *known == name) {
                return error("duplicate-flag", format!("duplicate flag specified: --{name}"));
            }
            let value = match (&flag.value, shape) {
                (None, Takes::Bool) => flag.piece.with("true"),
                (Some(value), Takes::Bool) if value.value.is_empty() => {
                    return error("missing-flag-value", format!("missing a value on flag: --{name}"));
                }
                (None, _) => return error("missing-flag-value", format!("missing a value on flag: --{name}")),
                (Some(value), Takes::Bool) if !is_bool(&value.value) => {
                    let message = format!("expecting boolean value for flag --{name}, not: {}", value.value);
                    return error("invalid-flag-value", message);
                }
                (Some(value), _) => value.clone(),
            };
            flags.known.push((name, value));
        }
        Ok(flags)
    }

    /// The value of a flag; an empty one counts as none.
    pub(super) fn text(&self, name: &str) -> Option<Word> {
        self.list(name).into_iter().find(|word| !word.value.is_empty())
    }

    /// The value of a flag, also an empty one.
    pub(super) fn written(&self, name: &str) -> Option<Word> {
        self.list(name).into_iter().next()
    }

    /// All values of a flag, in order.
    pub(super) fn list(&self, name: &str) -> Vec<Word> {
        let named = self.known.iter().filter(|(known, _)| *known == name);
        named.map(|(_, value)| value.clone()).collect()
    }

    /// What a yes-or-no flag says, if it is there.
    pub(super) fn bool(&self, name: &str) -> Option<bool> {
        self.text(name).map(|word| word.value.eq_ignore_ascii_case("true"))
    }
}

/// `true` and `false` as options inside of a flag's value spell them.
pub(crate) fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn is_bool(value: &str) -> bool {
    value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false")
}

fn unknown(flag: &FlagWord<'_>, takes: &[(&'static str, Takes)]) -> Diagnostic {
    let name = &flag.name;
    let mut message = format!("unknown flag: --{name}");
    let meant = suggest::nearest(name, takes.iter().map(|(known, _)| *known));
    if let Some(meant) = meant {
        message.push_str(&format!(" (did you mean {meant}?)"));
    }
    let diagnostic = Diagnostic::error("unknown-flag", flag.piece.span(), message);
    if meant.is_some() || takes.is_empty() {
        return diagnostic;
    }
    let known: Vec<String> = takes.iter().map(|(known, _)| format!("`--{known}`")).collect();
    diagnostic.help(format!("this instruction has {}", known.join(", ")))
}
