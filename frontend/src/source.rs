//! The text of a Dockerfile, spans in it, and the way from offsets to lines.

/// A half-open range of bytes in a [`SourceFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The range from `start` to `end`.
    ///
    /// # Panics
    /// Past 4 GiB; the reader of Dockerfiles refuses far smaller files.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        let narrow = |offset| u32::try_from(offset).expect("Dockerfiles are limited to 16 MiB where they are read");
        Self {
            start: narrow(start),
            end: narrow(end),
        }
    }

    /// The smallest span that covers both.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }
}

/// A Dockerfile as it was read.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Name for messages: the path as the user gave it.
    pub name: String,
    /// The text. Bytes that are not UTF-8 were replaced before.
    pub text: String,
    /// Offset of the first byte of each line.
    line_starts: Vec<u32>,
}

impl SourceFile {
    /// Prepares `text` for questions about lines.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0)
            .chain(newlines.map(|(at, _)| Span::new(at + 1, at + 1).start))
            .collect();
        Self {
            name: name.into(),
            text,
            line_starts,
        }
    }

    /// Line of a byte, from 1.
    #[must_use]
    pub fn line(&self, offset: u32) -> u32 {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        u32::try_from(line).expect("there are fewer lines than bytes")
    }

    /// Where the first appearance of `word` in the lines from `first` to `last` (from 1) stands.
    #[must_use]
    pub fn find_in_lines(&self, first: u32, last: u32, word: &str) -> Option<Span> {
        let start = |line: u32| {
            self.line_starts
                .get(line as usize)
                .map_or(self.text.len(), |start| *start as usize)
        };
        let from = start(first.checked_sub(1)?);
        let at = from + self.text.get(from..start(last))?.find(word)?;
        Some(Span::new(at, at + word.len()))
    }

    /// First and last line of a span, from 1. An empty span is on the line of its start.
    #[must_use]
    pub fn lines(&self, span: Span) -> (u32, u32) {
        let last = if span.end > span.start {
            span.end - 1
        } else {
            span.start
        };
        (self.line(span.start), self.line(last))
    }

    /// The text of a span.
    #[must_use]
    pub fn slice(&self, span: Span) -> &str {
        self.text
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_from_one() {
        let source = SourceFile::new("Dockerfile", "a\nbc\n\nd");
        assert_eq!([0, 1, 2, 4, 5, 6].map(|at| source.line(at)), [1, 1, 2, 2, 3, 4]);
        assert_eq!(source.lines(Span::new(0, 5)), (1, 2));
        assert_eq!(source.slice(Span::new(2, 4)), "bc");
        assert_eq!(source.find_in_lines(2, 2, "c"), Some(Span::new(3, 4)));
        assert_eq!(source.find_in_lines(3, 4, "c"), None);
    }
}
