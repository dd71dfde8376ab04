//! Text of strangers for terminals: no byte of a log or a name moves the cursor or sets the title.

use std::fmt::Write as _;

/// One line, made harmless: colour sequences are dropped, other control characters and broken UTF-8 shown as `\x1b`.
pub(crate) fn line(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut rest = bytes;
    while !rest.is_empty() {
        if let Some(length) = colour_sequence(rest) {
            rest = &rest[length..];
            continue;
        }
        rest = escape_first(rest, &mut text);
    }
    text
}

/// Appends the first character, harmless, and returns what follows it.
fn escape_first<'b>(bytes: &'b [u8], text: &mut String) -> &'b [u8] {
    let chunk = bytes.utf8_chunks().next();
    let first = chunk.as_ref().and_then(|chunk| chunk.valid().chars().next());
    let Some(character) = first else {
        write!(text, "\\x{:02x}", bytes[0]).expect("strings take all text");
        return &bytes[1..];
    };
    match character {
        '\t' => text.push('\t'),
        // C0, DEL and C1: the latter are terminal controls too.
        c if c.is_control() => write!(text, "\\x{:02x}", u32::from(c)).expect("strings take all text"),
        // Marks that reorder text make a line read as what it is not.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            write!(text, "\\u{{{:x}}}", u32::from(character)).expect("strings take all text");
        }
        c => text.push(c),
    }
    &bytes[character.len_utf8()..]
}

/// Length of a colour sequence (`ESC [ digits and semicolons m`) at the start.
fn colour_sequence(bytes: &[u8]) -> Option<usize> {
    let parameters = bytes.strip_prefix(b"\x1b[")?;
    let length = parameters
        .iter()
        .take_while(|b| b.is_ascii_digit() || **b == b';')
        .count();
    (parameters.get(length) == Some(&b'm')).then_some(length + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_colours_dropped() {
        for (bytes, shown) in [
            (&b"plain \xc3\xa4\tx"[..], "plain ä\tx"),
            (b"\x1b[1;31mred\x1b[0m", "red"),
            (b"\x1b[2J", "\\x1b[2J"),
            (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            (b"\x1b[31", "\\x1b[31"),
            (b"\xc2\x9b2J", "\\x9b2J"),
            (b"a\xff", "a\\xff"),
            ("\u{202e}x".as_bytes(), "\\u{202e}x"),
            (b"a\x7f\0", "a\\x7f\\x00"),
        ] {
            assert_eq!(line(bytes), shown);
        }
    }
}
