//! Patterns of `${NAME#pattern}` and `${NAME/pattern/text}`: `*`, `?` and text, nothing else.
//!
//! They become regular expressions, whose engine is linear in the value: a pattern with many stars costs no more than its size.

use regex::{Regex, RegexBuilder};

/// How large a compiled pattern may be: enough for thousands of characters. A file can make one pattern for every few bytes that
/// it has, and each takes time in proportion.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Why a pattern means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Only `*`, `?`, `\`, `}` and `/` may follow a backslash.
    #[error("invalid escape '\\{0}'")]
    Escape(char),
    /// A backslash with nothing behind it.
    #[error("invalid escape '\\' at the end")]
    TrailingEscape,
    /// Past a limit of the engine.
    #[error("the pattern is too large")]
    TooLarge,
}

/// One element of a pattern.
#[derive(Clone, Copy)]
enum Token {
    Text(char),
    One,
    Any,
}

/// Takes off what `pattern` matches at the start, the longest or the shortest such part.
pub(crate) fn strip_prefix(value: &str, pattern: &str, longest: bool) -> Result<String, InvalidPattern> {
    let regex = compile(&tokens(pattern)?, longest, "^")?;
    let end = regex.find(value).map_or(0, |found| found.end());
    Ok(value[end..].to_owned())
}

/// Takes off what `pattern` matches at the end. An engine finds the leftmost match first, so both are read backwards.
pub(crate) fn strip_suffix(value: &str, pattern: &str, longest: bool) -> Result<String, InvalidPattern> {
    let mut tokens = tokens(pattern)?;
    tokens.reverse();
    let regex = compile(&tokens, longest, "^")?;
    let backwards: String = value.chars().rev().collect();
    let taken = regex.find(&backwards).map_or(0, |found| found.end());
    Ok(value[..value.len() - taken].to_owned())
}

/// Puts `text`, as it is, in the place of the first or of every longest match; nothing if that comes to more than `most` bytes.
pub(crate) fn replace(
    value: &str,
    pattern: &str,
    text: &str,
    all: bool,
    most: usize,
) -> Result<Option<String>, InvalidPattern> {
    let regex = compile(&tokens(pattern)?, true, "")?;
    let count = if all { usize::MAX } else { 1 };
    let mut replaced = String::new();
    let mut kept = 0;
    for found in regex.find_iter(value).take(count) {
        replaced.push_str(&value[kept..found.start()]);
        replaced.push_str(text);
        kept = found.end();
        if replaced.len() > most {
            return Ok(None);
        }
    }
    replaced.push_str(&value[kept..]);
    Ok((replaced.len() <= most).then_some(replaced))
}

fn tokens(pattern: &str) -> Result<Vec<Token>, InvalidPattern> {
    let mut tokens = Vec::new();
    let mut rest = pattern.chars();
    while let Some(ch) = rest.next() {
        tokens.push(match ch {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => match rest.next() {
                Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::Text(escaped),
                Some(other) => return Err(InvalidPattern::Escape(other)),
                None => return Err(InvalidPattern::TrailingEscape),
            },
            _ => Token::Text(ch),
        });
    }
    Ok(tokens)
}

fn compile(tokens: &[Token], longest: bool, anchor: &str) -> Result<Regex, InvalidPattern> {
    let mut source = anchor.to_owned();
    for token in tokens {
        match token {
            Token::Any if longest => source.push_str(".*"),
            Token::Any => source.push_str(".*?"),
            Token::One => source.push('.'),
            Token::Text(ch) => source.push_str(&regex::escape(ch.encode_utf8(&mut [0; 4]))),
        }
    }
    // Every other token is escaped, so a size limit is all that can be wrong.
    let mut builder = RegexBuilder::new(&source);
    let regex = builder.size_limit(MAX_COMPILED_BYTES).build();
    regex.map_err(|_| InvalidPattern::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_cut_on_character_borders() {
        assert_eq!(strip_suffix("äöü", "?", false).unwrap(), "äö");
        assert_eq!(strip_suffix("a.b.c", ".*", false).unwrap(), "a.b");
        assert_eq!(strip_suffix("a.b.c", ".*", true).unwrap(), "a");
    }

    #[test]
    fn a_star_does_not_cross_a_newline() {
        assert_eq!(replace("ab\ncd", "*", "x", false, 99).unwrap().unwrap(), "x\ncd");
    }

    #[test]
    fn a_dollar_in_the_replacement_is_text() {
        assert_eq!(replace("ab", "?", "$0", true, 99).unwrap().unwrap(), "$0$0");
    }
}
