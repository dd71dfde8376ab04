//! Draws a problem with the line of the Dockerfile it is about, and carets under the guilty part.

use std::fmt::Write as _;

use super::escape;
use crate::dockerfile::NamedText;
use crate::exit::append_notes;

/// A problem with a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Drawing<'a> {
    /// `error`, `warning[StageNameCasing]`.
    pub(crate) title: &'a str,
    /// What is wrong.
    pub(crate) message: &'a str,
    /// Bytes in the Dockerfile.
    pub(crate) start: u32,
    /// One past the last byte.
    pub(crate) end: u32,
    /// First line, from 1; 0 without a place.
    pub(crate) line: u32,
    /// Causes found.
    pub(crate) notes: &'a [String],
    /// Ways out.
    pub(crate) helps: &'a [String],
}

/// The text of a problem, with a final newline.
pub(crate) fn draw(drawing: &Drawing<'_>, source: Option<&NamedText>) -> String {
    let mut text = format!("{}: {}\n", drawing.title, escape_lines(drawing.message));
    if let Some(source) = source.filter(|_| drawing.line > 0) {
        draw_place(&mut text, drawing, source);
    }
    let safe = |lines: &[String]| -> Vec<String> { lines.iter().map(|line| escape::line(line.as_bytes())).collect() };
    append_notes(&mut text, &safe(drawing.notes), &safe(drawing.helps));
    text
}

fn escape_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| escape::line(line.as_bytes())).collect();
    lines.join("\n")
}

fn draw_place(text: &mut String, drawing: &Drawing<'_>, source: &NamedText) {
    let Some(place) = Place::find(&source.bytes, drawing) else {
        write_line(text, format_args!("  --> {}:{}", source.name, drawing.line));
        return;
    };
    let number = drawing.line;
    write_line(text, format_args!("  --> {}:{number}:{}", source.name, place.column));
    write_line(text, format_args!("{number:>4} | {}", escape::line(place.line)));
    if place.marked > 0 {
        let carets = "^".repeat(place.marked);
        write_line(text, format_args!("     | {}{carets}", place.padding));
    }
}

fn write_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("strings take all text");
}

/// Where the carets go.
struct Place<'s> {
    line: &'s [u8],
    /// From 1, in characters.
    column: usize,
    /// As wide as the text before the part, tabs kept.
    padding: String,
    /// Number of carets; 0 without a span.
    marked: usize,
}

impl<'s> Place<'s> {
    fn find(bytes: &'s [u8], drawing: &Drawing<'_>) -> Option<Self> {
        let at = usize::try_from(drawing.line).ok()?.checked_sub(1)?;
        let line = bytes.split(|b| *b == b'\n').nth(at)?;
        let line_start = bytes
            .split(|b| *b == b'\n')
            .take(at)
            .map(|line| line.len() + 1)
            .sum::<usize>();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let offset = |position: u32| {
            let position = usize::try_from(position).unwrap_or(usize::MAX);
            position.saturating_sub(line_start).min(line.len())
        };
        let (start, end) = (offset(drawing.start), offset(drawing.end));
        let before = escape::line(&line[..start]);
        let marked = match drawing.end {
            0 => 0,
            // An empty span, as at the end of a line, is still a place.
            _ => escape::line(&line[start..end.max(start)]).chars().count().max(1),
        };
        Some(Self {
            line,
            column: before.chars().count() + 1,
            padding: before.chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect(),
            marked,
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(source: &str, part: &str, expected: &Expect) {
        let start = source.find(part).unwrap();
        let number = |value: usize| u32::try_from(value).unwrap();
        let drawing = Drawing {
            title: "error",
            message: "`app.tar` is not in the build context",
            start: number(start),
            end: number(start + part.len()),
            line: number(source[..start].matches('\n').count() + 1),
            notes: &["excluded by `*.tar`, .dockerignore line 3".to_owned()],
            helps: &["add `!app.tar` below it".to_owned()],
        };
        let source = NamedText {
            name: "Dockerfile".to_owned(),
            bytes: source.into(),
        };
        expected.assert_eq(&draw(&drawing, Some(&source)));
    }

    #[test]
    fn carets_stand_under_the_guilty_part() {
        check(
            "FROM a\n\nCOPY app.tar /srv/\n",
            "app.tar",
            &expect![[r"
                error: `app.tar` is not in the build context
                  --> Dockerfile:3:6
                   3 | COPY app.tar /srv/
                     |      ^^^^^^^
                note: excluded by `*.tar`, .dockerignore line 3
                help: add `!app.tar` below it
            "]],
        );
    }

    #[test]
    fn tabs_and_characters_of_several_bytes_keep_the_column() {
        check(
            "FROM a\nRUN\tä app.tar",
            "app.tar",
            &expect![[r"
                error: `app.tar` is not in the build context
                  --> Dockerfile:2:7
                   2 | RUN	ä app.tar
                     |    	  ^^^^^^^
                note: excluded by `*.tar`, .dockerignore line 3
                help: add `!app.tar` below it
            "]],
        );
    }

    #[test]
    fn a_part_over_several_lines_is_marked_to_the_end_of_the_first() {
        check(
            "FROM a\r\nRUN x \\\r\n  y\r\n",
            "RUN x \\\r\n  y",
            &expect![[r"
                error: `app.tar` is not in the build context
                  --> Dockerfile:2:1
                   2 | RUN x \
                     | ^^^^^^^
                note: excluded by `*.tar`, .dockerignore line 3
                help: add `!app.tar` below it
            "]],
        );
    }

    #[test]
    fn a_place_beyond_the_file_is_only_named() {
        let source = NamedText {
            name: "Dockerfile".to_owned(),
            bytes: b"FROM a".to_vec(),
        };
        let drawing = Drawing {
            title: "warning[X]",
            message: "odd\x1b[2J",
            start: 100,
            end: 200,
            line: 9,
            notes: &[],
            helps: &[],
        };
        assert_eq!(
            draw(&drawing, Some(&source)),
            "warning[X]: odd\\x1b[2J\n  --> Dockerfile:9\n"
        );
        assert_eq!(draw(&drawing, None), "warning[X]: odd\\x1b[2J\n");
    }
}
