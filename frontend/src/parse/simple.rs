//! Instructions whose arguments are a few words, pairs or one text.

use super::Statement;
use super::flags::{Flags, Takes};
use super::form;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Arg, From, KeyValues, Kind, Word};
use crate::text::{Piece, is_separator};

pub(super) fn from(statement: &Statement<'_>) -> Result<Kind, Diagnostic> {
    let flags = Flags::check(&statement.flags, &[("platform", Takes::Text)])?;
    let (base, as_keyword, name) = match statement.rest.words().as_slice() {
        [base] => (*base, None, None),
        [base, keyword, name] if keyword.as_str().eq_ignore_ascii_case("as") => {
            check_stage_name(*name)?;
            (*base, Some(keyword.word()), Some(name.word()))
        }
        words => {
            let place = words.first().map_or(statement.place, |_| statement.rest.span());
            let message = "FROM requires either one or three arguments";
            return Err(Diagnostic::error("wrong-argument-count", place, message)
                .help("write `FROM <image>` or `FROM <image> AS <name>`"));
        }
    };
    Ok(Kind::From(From {
        platform: flags.text("platform"),
        base: base.word(),
        as_keyword,
        name,
    }))
}

fn check_stage_name(name: Piece<'_>) -> Result<(), Diagnostic> {
    let lower = name.as_str().to_lowercase();
    let starts = lower.starts_with(|ch: char| ch.is_ascii_lowercase());
    let allowed = |ch: char| ch.is_ascii_lowercase() || ch.is_ascii_digit() || "-_.".contains(ch);
    if starts && lower.chars().all(allowed) {
        return Ok(());
    }
    let message =
        format!("invalid name for build stage: \"{lower}\", name can't start with a number or contain symbols");
    Err(Diagnostic::error("invalid-stage-name", name.span(), message))
}

/// Flags before the names are overlooked, as other builders do.
pub(super) fn arg(statement: &Statement<'_>) -> Result<Kind, Diagnostic> {
    let words = form::quoted_words(statement.rest, statement.escape);
    if words.is_empty() {
        return Err(statement.needs_an_argument());
    }
    let args = words.iter().map(|word| {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name, Some(default.word())),
            None => (*word, None),
        };
        if without_quotes(name.as_str()).is_empty() {
            return Err(blank_name("ARG", *word));
        }
        Ok(Arg {
            name: name.with(without_quotes(name.as_str())),
            default,
        })
    });
    Ok(Kind::Arg(args.collect::<Result<_, _>>()?))
}

fn without_quotes(name: &str) -> &str {
    let quoted = |quote| name.strip_prefix(quote).and_then(|name| name.strip_suffix(quote));
    quoted('"').or_else(|| quoted('\'')).unwrap_or(name)
}

/// One text that may not be empty.
pub(super) fn text(statement: &Statement<'_>) -> Result<Word, Diagnostic> {
    if statement.rest.is_empty() {
        let message = format!("{} requires exactly one argument", statement.keyword);
        return Err(statement.error("missing-argument", message));
    }
    Ok(statement.rest.word())
}

/// The instructions that have no flags.
pub(super) fn flagless(statement: &Statement<'_>) -> Result<Kind, Diagnostic> {
    Ok(match statement.keyword {
        "ENV" => Kind::Env(pairs(statement)?),
        "LABEL" => Kind::Label(pairs(statement)?),
        "CMD" => Kind::Cmd(form::command(statement.rest)?),
        "ENTRYPOINT" => Kind::Entrypoint(form::command(statement.rest)?),
        "SHELL" => Kind::Shell(shell(statement)?),
        "USER" => Kind::User(text(statement)?),
        "WORKDIR" => Kind::Workdir(text(statement)?),
        "EXPOSE" => Kind::Expose(ports(statement)?),
        "VOLUME" => Kind::Volume(volumes(statement)?),
        _ => Kind::Maintainer(text(statement)?),
    })
}

fn pairs(statement: &Statement<'_>) -> Result<KeyValues, Diagnostic> {
    let words = form::quoted_words(statement.rest, statement.escape);
    let Some(first) = words.first() else {
        return Err(statement.needs_an_argument());
    };
    if !first.as_str().contains('=') {
        return legacy_pair(statement);
    }
    let mut pairs = Vec::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            let text = word.as_str();
            let message = format!("Syntax error - can't find = in \"{text}\". Must be of the form: name=value");
            return Err(Diagnostic::error("missing-equals", word.span(), message)
                .help("quote the value if it has blanks: `name=\"a value\"`"));
        };
        if key.is_empty() {
            return Err(blank_name(statement.keyword, word));
        }
        pairs.push((key.word(), value.word()));
    }
    Ok(KeyValues { pairs, legacy: false })
}

/// `NAME text`: one name, and everything behind it.
fn legacy_pair(statement: &Statement<'_>) -> Result<KeyValues, Diagnostic> {
    let text = statement.rest.as_str();
    let Some(at) = text.find(is_separator) else {
        let message = format!("{} must have two arguments", statement.keyword);
        return Err(Diagnostic::error("missing-argument", statement.rest.span(), message)
            .help(format!("write `{} {text}=<value>`", statement.keyword)));
    };
    let (key, value) = statement.rest.split_at(at);
    let blanks = value.as_str().len() - value.as_str().trim_start_matches(is_separator).len();
    let value = value.from(blanks);
    Ok(KeyValues {
        pairs: vec![(key.word(), value.word())],
        legacy: true,
    })
}

fn blank_name(keyword: &str, word: Piece<'_>) -> Diagnostic {
    Diagnostic::error("blank-name", word.span(), format!("{keyword} names can not be blank"))
}

fn shell(statement: &Statement<'_>) -> Result<Vec<Word>, Diagnostic> {
    if statement.rest.is_empty() {
        return Err(statement.needs_an_argument());
    }
    match form::json(statement.rest)? {
        Some(words) if words.is_empty() => Err(statement.needs_an_argument()),
        Some(words) => Ok(words),
        None => {
            let message = "SHELL requires the arguments to be in JSON form";
            Err(Diagnostic::error("json-required", statement.rest.span(), message)
                .help("write `SHELL [\"/bin/sh\", \"-c\"]`, with double quotes and doubled backslashes"))
        }
    }
}

fn ports(statement: &Statement<'_>) -> Result<Vec<Word>, Diagnostic> {
    let words: Vec<Word> = statement.rest.words().iter().map(Piece::word).collect();
    if words.is_empty() {
        return Err(statement.needs_an_argument());
    }
    Ok(words)
}

fn volumes(statement: &Statement<'_>) -> Result<Vec<Word>, Diagnostic> {
    let mut words = form::json_or_words(statement.rest)?;
    if words.is_empty() {
        return Err(statement.needs_an_argument());
    }
    for word in &mut words {
        word.value = word.value.trim().to_owned();
        if word.value.is_empty() {
            let message = "VOLUME specified can not be an empty string";
            return Err(Diagnostic::error("empty-volume", word.span, message));
        }
    }
    Ok(words)
}
