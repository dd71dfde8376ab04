//! Text that was joined from continued lines, and the way from its offsets back into the file.

use std::ops::Range;

use crate::instruction::Word;
use crate::source::Span;

/// One logical line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joined {
    text: String,
    /// Where each stretch that stands in the file without a gap begins: (offset here, offset there), ascending.
    stretches: Vec<(usize, usize)>,
}

impl Joined {
    /// Appends text that stands at `offset` in the file.
    pub(crate) fn push(&mut self, text: &str, offset: usize) {
        if self.stretches.is_empty() || !text.is_empty() {
            self.stretches.push((self.text.len(), offset));
            self.text.push_str(text);
        }
    }

    /// Where the line begins in the file, also if nothing but a continuation mark stands there.
    pub(crate) fn start(&self) -> usize {
        self.stretches.first().map_or(0, |(_, offset)| *offset)
    }

    /// The whole line.
    pub(crate) fn piece(&self) -> Piece<'_> {
        Piece {
            line: self,
            range: (0, self.text.len()),
        }
    }

    /// Where a byte stands in the file. At the border of two stretches, in the later one.
    fn offset(&self, at: usize) -> usize {
        let after = self.stretches.partition_point(|(start, _)| *start <= at);
        let (start, offset) = after.checked_sub(1).map_or((0, 0), |index| self.stretches[index]);
        offset + (at - start)
    }

    fn span(&self, (start, end): (usize, usize)) -> Span {
        let first = self.offset(start);
        match self.text[start..end].chars().next_back() {
            Some(last) => Span::new(first, self.offset(end - last.len_utf8()) + last.len_utf8()),
            // Nothing is there: the end of what is before it is a better place than the start of the next line.
            None if start > 0 => {
                let end = self.offset(start - 1) + 1;
                Span::new(end, end)
            }
            None => Span::new(first, first),
        }
    }
}

/// A part of a logical line.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    line: &'a Joined,
    range: (usize, usize),
}

impl<'a> Piece<'a> {
    pub(crate) fn as_str(&self) -> &'a str {
        &self.line.text[self.range.0..self.range.1]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.range.0 == self.range.1
    }

    pub(crate) fn span(&self) -> Span {
        self.line.span(self.range)
    }

    /// The text as it is, with its place.
    pub(crate) fn word(&self) -> Word {
        self.with(self.as_str())
    }

    /// Other text in the same place: this one with quotes removed, say.
    pub(crate) fn with(&self, value: impl Into<String>) -> Word {
        Word {
            value: value.into(),
            span: self.span(),
        }
    }

    /// A part, by offsets in this piece.
    pub(crate) fn sub(&self, range: Range<usize>) -> Self {
        debug_assert!(range.start <= range.end && self.range.0 + range.end <= self.range.1);
        Self {
            line: self.line,
            range: (self.range.0 + range.start, self.range.0 + range.end),
        }
    }

    /// From an offset to the end.
    pub(crate) fn from(&self, start: usize) -> Self {
        self.sub(start..self.as_str().len())
    }

    /// From the end of `part`, a piece of the same line that begins in this one, to the end.
    pub(crate) fn behind(&self, part: Self) -> Self {
        Self {
            line: self.line,
            range: (part.range.1, self.range.1),
        }
    }

    /// What stands before and after an offset.
    pub(crate) fn split_at(&self, at: usize) -> (Self, Self) {
        (self.sub(0..at), self.from(at))
    }

    /// Without blanks at both ends.
    pub(crate) fn trim(&self) -> Self {
        let text = self.as_str();
        let start = text.len() - text.trim_start().len();
        self.sub(start..start + text.trim().len())
    }

    /// Without blanks at the start.
    pub(crate) fn trim_start(&self) -> Self {
        let text = self.as_str();
        self.from(text.len() - text.trim_start().len())
    }

    /// What stands before and after the first `separator`.
    pub(crate) fn split_once(&self, separator: char) -> Option<(Self, Self)> {
        let at = self.as_str().find(separator)?;
        Some((self.sub(0..at), self.from(at + separator.len_utf8())))
    }

    /// Everything from the start of this to the end of `other`, a later piece of the same line.
    pub(crate) fn to(&self, other: Self) -> Self {
        Self {
            line: self.line,
            range: (self.range.0, other.range.1),
        }
    }

    /// Whether the whole of `other`, a piece of the same line, is inside.
    pub(crate) fn contains(&self, other: Self) -> bool {
        self.range.0 <= other.range.0 && other.range.1 <= self.range.1
    }

    /// The words between blanks; quotes mean nothing.
    pub(crate) fn words(self) -> Vec<Self> {
        let text = self.as_str();
        let mut words = Vec::new();
        let mut at = 0;
        for part in text.split(is_separator) {
            if !part.is_empty() {
                words.push(self.sub(at..at + part.len()));
            }
            at += part.len() + 1;
        }
        words
    }
}

/// The blanks between an instruction and its arguments, and between plain words. Wider blanks of Unicode are text there.
pub(crate) fn is_separator(ch: char) -> bool {
    matches!(ch, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_joined_text_point_into_the_file() {
        let mut line = Joined::default();
        line.push("RUN a ", 10);
        line.push("  bc", 20);
        let words = line.piece().words();
        let spans: Vec<Span> = words.iter().map(Piece::span).collect();
        assert_eq!(spans, [Span::new(10, 13), Span::new(14, 15), Span::new(22, 24)]);
        assert_eq!(line.piece().span(), Span::new(10, 24));
        assert_eq!(line.piece().sub(6..6).span(), Span::new(16, 16));
    }
}
