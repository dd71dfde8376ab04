//! The shapes that arguments come in: JSON array, `name=value` words, shell text.

use std::borrow::Cow;
use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::instruction::{Command, Word};
use crate::text::Piece;

/// The strings of a JSON array; `None` if the text is no JSON array, which makes it text without a warning.
pub(super) fn json(rest: Piece<'_>) -> Result<Option<Vec<Word>>, Diagnostic> {
    let rest = rest.trim();
    if !rest.as_str().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(&without_lone_surrogates(rest.as_str())) else {
        return Ok(None);
    };
    let places = elements(rest.as_str());
    let mut words = Vec::new();
    for (value, place) in values.into_iter().zip(places) {
        let place = rest.sub(place).trim();
        let serde_json::Value::String(value) = value else {
            let message = "when using JSON array syntax, arrays must be comprised of strings only";
            let error = Diagnostic::error("json-not-strings", place.span(), message);
            let scalar = !place.as_str().starts_with(['[', '{']);
            return Err(if scalar {
                error.help(format!("write `\"{}\"`", place.as_str()))
            } else {
                error
            });
        };
        words.push(place.with(value));
    }
    Ok(Some(words))
}

/// Escapes of half a character become the replacement character, as most readers of JSON have it; ours would refuse them.
fn without_lone_surrogates(json: &str) -> Cow<'_, str> {
    if !json.contains("\\u") {
        return Cow::Borrowed(json);
    }
    let mut whole = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        whole.push_str(before);
        let (taken, text) = match (code_unit(escape), escape.get(6..).and_then(code_unit)) {
            (Some(0xd800..0xdc00), Some(0xdc00..0xe000)) => (12, escape.get(..12)),
            (Some(0xd800..0xe000), _) => (6, Some("\\ufffd")),
            _ => (1 + escape[1..].chars().next().map_or(0, char::len_utf8), None),
        };
        whole.push_str(text.unwrap_or(&escape[..taken]));
        rest = &escape[taken..];
    }
    whole.push_str(rest);
    Cow::Owned(whole)
}

/// The value of a `\uXXXX` at the start.
fn code_unit(escape: &str) -> Option<u32> {
    let digits = escape.strip_prefix("\\u")?.get(..4)?;
    // What is no number is no escape; the reader of JSON says so.
    u32::from_str_radix(digits, 16).ok()
}

/// Where the elements of a well-formed JSON array stand, blanks included.
fn elements(array: &str) -> Vec<Range<usize>> {
    let mut places = Vec::new();
    let (mut depth, mut start, mut quoted) = (0_usize, 1, false);
    let mut bytes = array.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' if quoted => {
                bytes.next();
            }
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        let ends = depth == 0 || (byte == b',' && depth == 1);
        if ends && !quoted {
            places.push(start..at);
            start = at + 1;
        }
    }
    places
}

/// Exec form if it is a JSON array, else text for a shell.
pub(super) fn command(rest: Piece<'_>) -> Result<Command, Diagnostic> {
    Ok(match json(rest)? {
        Some(words) => Command::Exec(words),
        None => Command::Shell(rest.word()),
    })
}

/// The strings of a JSON array, else words between blanks.
pub(super) fn json_or_words(rest: Piece<'_>) -> Result<Vec<Word>, Diagnostic> {
    Ok(match json(rest)? {
        Some(words) => words,
        None => rest.words().iter().map(Piece::word).collect(),
    })
}

/// Words that end at blanks outside of quotes; quotes and escapes stay. An escape character at the very end is dropped.
pub(super) fn quoted_words(rest: Piece<'_>, escape: char) -> Vec<Piece<'_>> {
    let text = rest.as_str();
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut end = text.len();
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        if start.is_none() {
            if ch.is_whitespace() {
                continue;
            }
            start = Some(at);
        }
        match quote {
            // Nothing can be escaped between single quotes.
            Some('\'') if ch != '\'' => {}
            _ if ch == escape => end = chars.next().map_or(at, |_| end),
            Some(open) if ch == open => quote = None,
            Some(_) => {}
            None if ch.is_whitespace() => words.extend(start.take().map(|start| rest.sub(start..at))),
            None if matches!(ch, '\'' | '"') => quote = Some(ch),
            None => {}
        }
    }
    words.extend(start.filter(|start| *start < end).map(|start| rest.sub(start..end)));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Joined;

    fn line(text: &str) -> Joined {
        let mut line = Joined::default();
        line.push(text, 0);
        line
    }

    #[test]
    fn elements_of_an_array_know_their_places() {
        let line = line(r#"["a,]", "\"b" ]"#);
        let words = json(line.piece()).unwrap().unwrap();
        let found: Vec<_> = words
            .iter()
            .map(|word| (word.value.as_str(), word.span.start, word.span.end))
            .collect();
        assert_eq!(found, [("a,]", 1, 6), ("\"b", 8, 13)]);
        assert_eq!(json(super::tests::line("[]").piece()).unwrap(), Some(Vec::new()));
    }

    #[test]
    fn half_a_character_is_replaced() {
        let words = |text: &str| json(line(text).piece()).unwrap().unwrap()[0].value.clone();
        assert_eq!(words(r#"["\ud83d"]"#), "\u{fffd}");
        assert_eq!(words(r#"["\ud83d\ude00 \\ud83d \u0041"]"#), "\u{1f600} \\ud83d A");
    }

    #[test]
    fn quotes_hold_words_together() {
        let check = |text: &str, expected: &[&str]| {
            let line = line(text);
            let words: Vec<_> = quoted_words(line.piece(), '\\').iter().map(Piece::as_str).collect();
            assert_eq!(words, expected, "{text}");
        };
        check(r#"a="b c" d='e f' g=h\ i"#, &[r#"a="b c""#, "d='e f'", r"g=h\ i"]);
        check(r"a='b\' c=d", &[r"a='b\'", "c=d"]);
        check(r"a=b\", &["a=b"]);
        check(r#"a="b c"#, &[r#"a="b c"#]);
    }
}
