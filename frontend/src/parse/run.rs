//! `RUN`: mounts, network, security, devices, shell and exec form.

use super::Statement;
use super::device;
use super::flags::{Flags, Takes};
use super::form;
use crate::diagnostic::Diagnostic;
use crate::instruction::{Kind, Mount, Run, Word};
use crate::source::Span;

const FLAGS: [(&str, Takes); 4] = [
    ("mount", Takes::List),
    ("network", Takes::Text),
    ("security", Takes::Text),
    ("device", Takes::List),
];

pub(super) fn run(statement: &Statement<'_>) -> Result<Kind, Diagnostic> {
    let command = form::command(statement.rest)?;
    let flags = Flags::check(&statement.flags, &FLAGS)?;
    let network = one_of(flags.written("network"), &["default", "none", "host"], |value| {
        ("invalid-network", format!("invalid network mode \"{value}\""))
    })?;
    let security = one_of(flags.written("security"), &["sandbox", "insecure"], |value| {
        ("invalid-security", format!("security \"{value}\" is not valid"))
    })?;
    let mounts = flags.list("mount").into_iter().map(mount).collect::<Result<_, _>>()?;
    Ok(Kind::Run(Box::new(Run {
        command,
        heredocs: statement.heredocs.iter().map(|(_, heredoc)| heredoc.clone()).collect(),
        mounts,
        network,
        security,
        devices: flags
            .list("device")
            .into_iter()
            .map(device::device)
            .collect::<Result<_, _>>()?,
    })))
}

fn one_of(
    value: Option<Word>,
    allowed: &[&str],
    refusal: impl Fn(&str) -> (&'static str, String),
) -> Result<Option<Word>, Diagnostic> {
    match value {
        Some(word) if !allowed.contains(&word.value.as_str()) => {
            let (code, message) = refusal(&word.value);
            Err(Diagnostic::error(code, word.span, message).help(format!("use one of: {}", allowed.join(", "))))
        }
        value => Ok(value),
    }
}

/// Splits the value at commas. It is one CSV record: a field in double quotes may hold commas, and `""` is a quote in it.
fn mount(raw: Word) -> Result<Mount, Diagnostic> {
    let mut options = Vec::new();
    for (start, field) in fields(&raw.value).map_err(|message| Diagnostic::error("invalid-mount", raw.span, message))? {
        let place = |from: usize, length: usize| inside(&raw, start + from, length);
        let option = match field.split_once('=') {
            Some((key, value)) => {
                let value_word = Word {
                    value: value.to_owned(),
                    span: place(key.len() + 1, value.len()),
                };
                (
                    Word {
                        value: key.to_ascii_lowercase(),
                        span: place(0, key.len()),
                    },
                    Some(value_word),
                )
            }
            None => (
                Word {
                    value: field.to_ascii_lowercase(),
                    span: place(0, field.len()),
                },
                None,
            ),
        };
        options.push(option);
    }
    refuse_variable_sources(&options)?;
    Ok(Mount { raw, options })
}

/// Stages must be known before any variable is.
fn refuse_variable_sources(options: &[(Word, Option<Word>)]) -> Result<(), Diagnostic> {
    let sources = options.iter().filter(|(key, _)| key.value == "from");
    for word in sources.filter_map(|(_, value)| value.as_ref()) {
        let dollar = word.value.find('$');
        if dollar.is_some_and(|at| at + 1 < word.value.len()) {
            let message = "'from' doesn't support variable expansion, define alias stage instead";
            return Err(Diagnostic::error("variable-in-from", word.span, message));
        }
    }
    Ok(())
}

/// Where a part of a value stands. If quotes or continuations were taken out of it, only the whole has a place.
fn inside(raw: &Word, start: usize, length: usize) -> Span {
    let first = raw.span.start as usize;
    let verbatim = raw.span.end as usize - first == raw.value.len();
    match raw.value.get(start..start + length) {
        Some(_) if verbatim => Span::new(first + start, first + start + length),
        _ => raw.span,
    }
}

/// The fields of one CSV record.
pub(super) fn csv_fields(record: &str) -> Result<Vec<String>, &'static str> {
    fields(record).map(|fields| fields.into_iter().map(|(_, text)| text).collect())
}

/// The fields of one CSV record, with their offsets.
fn fields(record: &str) -> Result<Vec<(usize, String)>, &'static str> {
    if record.is_empty() {
        return Err("there is nothing in it");
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let rest = &record[at..];
        let (text, taken) = match rest.strip_prefix('"') {
            Some(body) => {
                let (text, taken) = quoted_field(body)?;
                (text, taken + 1)
            }
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if rest[..end].contains('"') {
                    return Err("a quote in the middle of an option: quote the whole option");
                }
                (rest[..end].to_owned(), end)
            }
        };
        let quoted = usize::from(rest.starts_with('"'));
        fields.push((at + quoted, text));
        at += taken;
        match record[at..].chars().next() {
            None => return Ok(fields),
            Some(',') => at += 1,
            Some(_) => return Err("text behind the closing quote of an option"),
        }
    }
}

/// The text of a quoted field, and how many bytes it takes with its closing quote.
fn quoted_field(body: &str) -> Result<(String, usize), &'static str> {
    let mut text = String::new();
    let mut chars = body.char_indices().peekable();
    while let Some((at, ch)) = chars.next() {
        if ch != '"' {
            text.push(ch);
        } else if chars.next_if(|(_, next)| *next == '"').is_some() {
            text.push('"');
        } else {
            return Ok((text, at + 1));
        }
    }
    Err("a quoted option does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(record: &str, expected: Result<Vec<&str>, &'static str>) {
        let found = fields(record).map(|fields| fields.into_iter().map(|(_, text)| text).collect::<Vec<_>>());
        assert_eq!(
            found,
            expected.map(|fields| fields.into_iter().map(str::to_owned).collect()),
            "{record}"
        );
    }

    #[test]
    fn mounts_are_csv_records() {
        check("type=bind,ro", Ok(vec!["type=bind", "ro"]));
        check(r#"type=bind,"target=/a,b""#, Ok(vec!["type=bind", "target=/a,b"]));
        check(r#""id=a""b",x"#, Ok(vec!["id=a\"b", "x"]));
        check("a,,b", Ok(vec!["a", "", "b"]));
        check("", Err("there is nothing in it"));
        check(
            r#"id="a""#,
            Err("a quote in the middle of an option: quote the whole option"),
        );
        check(r#""id=a"#, Err("a quoted option does not end"));
        check(r#""a"b"#, Err("text behind the closing quote of an option"));
    }
}
