//! JSON as Go's encoder writes it: `<`, `>`, `&`, U+2028 and U+2029 escaped. Digests of configs depend on such bytes.

use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

/// One line, no blanks, no newline at the end.
#[must_use]
pub fn compact(value: &impl Serialize) -> Vec<u8> {
    write(value, GoFormatter(CompactFormatter))
}

/// Indented by two blanks, no newline at the end.
#[must_use]
pub fn pretty(value: &impl Serialize) -> Vec<u8> {
    write(value, GoFormatter(PrettyFormatter::new()))
}

fn write<F: Formatter>(value: &impl Serialize, formatter: F) -> Vec<u8> {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    value
        .serialize(&mut serializer)
        .expect("our own types have string keys only, and a Vec takes every byte");
    out
}

struct GoFormatter<F>(F);

macro_rules! forward {
    ($($name:ident($($argument:ident: $kind:ty),*);)*) => {$(
        fn $name<W: ?Sized + io::Write>(&mut self, writer: &mut W, $($argument: $kind),*) -> io::Result<()> {
            self.0.$name(writer, $($argument),*)
        }
    )*};
}

impl<F: Formatter> Formatter for GoFormatter<F> {
    forward! {
        begin_array();
        end_array();
        begin_array_value(first: bool);
        end_array_value();
        begin_object();
        end_object();
        begin_object_key(first: bool);
        end_object_key();
        begin_object_value();
        end_object_value();
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let character = rest[at..]
                .chars()
                .next()
                .expect("`find` returns the start of a character");
            writer.write_all(&rest.as_bytes()[..at])?;
            write!(writer, "\\u{:04x}", u32::from(character))?;
            rest = &rest[at + character.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_characters_are_escaped_as_go_does() {
        assert_eq!(compact(&["Me <me@x> & co"]), br#"["Me \u003cme@x\u003e \u0026 co"]"#);
    }

    #[test]
    fn pretty_indents_by_two() {
        let value = serde_json::json!({"a": [1]});
        assert_eq!(pretty(&value), b"{\n  \"a\": [\n    1\n  ]\n}");
    }
}
