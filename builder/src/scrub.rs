//! Secrets in what steps print: replaced by `***` before anybody sees or keeps them.
//!
//! A safety net, not a wall: a step can always print a secret in a way that nobody recognises. What is recognised is what programs
//! print by mistake: the value itself, each line of it, its base64 (all three alignments, both alphabets, also with line breaks)
//! and its percent encodings. Values and lines shorter than [`LEAST_BYTES`] are left alone: they would be found everywhere.
//!
//! Output comes in pieces cut anywhere, so what may be the beginning of a secret is held back until it is known. Long values are
//! looked for in parts of at most [`PART_BYTES`], which bounds what is held back and what a comparison costs. Most bytes cost one
//! look into a small table; without secrets nothing is looked at.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;

use crate::request::BuildError;

/// Shorter values are not looked for.
pub const LEAST_BYTES: usize = 8;
/// Longest text that is looked for as one.
const PART_BYTES: usize = 256;
/// Values with more lines are looked for as a whole in other encodings, not line by line.
const MOST_ENCODED_LINES: usize = 64;
/// What stands in place of a secret.
const STARS: &[u8] = b"***";

/// The secrets that one build has handed out. Cheap to clone.
#[derive(Clone, Default)]
pub struct Secrets(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    values: Vec<Vec<u8>>,
    patterns: Arc<Patterns>,
}

impl std::fmt::Debug for Secrets {
    /// How many, and nothing else.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "Secrets({})", known.values.len())
    }
}

impl Secrets {
    /// Looks for `value`, too, from now on.
    pub fn add(&self, value: &[u8]) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if value.len() < LEAST_BYTES || known.values.iter().any(|there| there == value) {
            return;
        }
        known.values.push(value.to_vec());
        known.patterns = Arc::new(Patterns::of(&known.values));
    }

    /// For one stream of output.
    #[must_use]
    pub fn scrubber(&self) -> Scrubber {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Scrubber {
            patterns: Arc::clone(&known.patterns),
            held: Vec::new(),
            covered: None,
        }
    }

    /// `text` without them.
    #[must_use]
    pub fn scrub(&self, text: String) -> String {
        let mut scrubber = self.scrubber();
        if scrubber.patterns.is_empty() {
            return text;
        }
        let mut clean = scrubber.push(Bytes::from(text.into_bytes())).to_vec();
        clean.extend(scrubber.finish());
        // What is replaced may begin or end inside of a character.
        String::from_utf8(clean).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

impl BuildError {
    /// The same failure without `secrets` in its words.
    #[must_use]
    pub fn scrubbed(mut self, secrets: &Secrets) -> Self {
        let tail = self.step.iter_mut().flat_map(|step| &mut step.log_tail);
        let words = [&mut self.message].into_iter().chain(&mut self.notes);
        for text in words.chain(&mut self.helps).chain(tail) {
            *text = secrets.scrub(std::mem::take(text));
        }
        self
    }
}

/// Replaces secrets in one stream.
pub struct Scrubber {
    patterns: Arc<Patterns>,
    /// What may be the beginning of a secret.
    held: Vec<u8>,
    /// How many of the bytes to come belong to a secret that was found; nothing right after it: the next one gets stars of its own.
    covered: Option<usize>,
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scrubber({} bytes held)", self.held.len())
    }
}

impl Scrubber {
    /// What can be shown after `bytes` have come.
    pub fn push(&mut self, bytes: Bytes) -> Bytes {
        if self.patterns.is_empty() {
            return bytes;
        }
        self.held.extend_from_slice(&bytes);
        self.pass(false)
    }

    /// What is left when nothing more comes.
    pub fn finish(&mut self) -> Bytes {
        self.pass(true)
    }

    /// Shows everything up to the first place that could be the beginning of a secret.
    fn pass(&mut self, is_end: bool) -> Bytes {
        let text = std::mem::take(&mut self.held);
        let mut shown = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            if self.covered.is_none() {
                let harmless = self.patterns.harmless(&text[at..]);
                shown.extend_from_slice(&text[at..at + harmless]);
                at += harmless;
                if at == text.len() {
                    break;
                }
            }
            match self.patterns.at(&text[at..], is_end) {
                Found::Maybe => break,
                Found::Secret(length) => {
                    if self.covered.is_none() {
                        shown.extend_from_slice(STARS);
                    }
                    self.covered = Some(self.covered.unwrap_or(0).max(length));
                }
                Found::Nothing => {}
            }
            self.covered = match self.covered {
                None | Some(0) => {
                    shown.push(text[at]);
                    None
                }
                Some(left) => Some(left - 1),
            };
            at += 1;
        }
        self.held = text[at..].to_vec();
        shown.into()
    }
}

/// What begins at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// More bytes will tell.
    Maybe,
    /// A secret of so many bytes.
    Secret(usize),
}

/// Everything that is looked for.
#[derive(Default)]
struct Patterns {
    /// In order of their bytes; none shorter than [`LEAST_BYTES`].
    exact: Vec<Vec<u8>>,
    /// The same, of texts in which lines may be broken anywhere.
    wrapped: Vec<Vec<u8>>,
    /// A bit for each first eight bytes that there are, by their hash.
    filter: Vec<u64>,
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Patterns({})", self.exact.len() + self.wrapped.len())
    }
}

/// Bits of the filter, as a power of two: 8 KiB.
const FILTER_BITS: u32 = 16;

impl Patterns {
    fn of(values: &[Vec<u8>]) -> Self {
        let mut patterns = Self {
            filter: vec![0; 1 << (FILTER_BITS - 6)],
            ..Self::default()
        };
        for value in values {
            patterns.add(value);
        }
        for list in [&mut patterns.exact, &mut patterns.wrapped] {
            list.sort_unstable();
            list.dedup();
        }
        patterns
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wrapped.is_empty()
    }

    fn add(&mut self, value: &[u8]) {
        let whole = value.trim_ascii();
        let lines: Vec<&[u8]> = whole.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).collect();
        for line in &lines {
            self.add_parts(line, false);
        }
        self.add_encodings(whole);
        // As a pipe gets it from a program that ends its output with a line break, or from a file that does.
        for with_end in [value.to_vec(), [whole, b"\n"].concat()] {
            self.add_parts(STANDARD.encode(&with_end).as_bytes(), true);
        }
        if (2..=MOST_ENCODED_LINES).contains(&lines.len()) {
            lines.iter().for_each(|line| self.add_encodings(line));
        }
    }

    fn add_encodings(&mut self, text: &[u8]) {
        if text.len() < LEAST_BYTES {
            return;
        }
        for engine in [&STANDARD, &URL_SAFE] {
            self.add_parts(engine.encode(text).as_bytes(), true);
        }
        for engine in [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD] {
            for before in 0..3 {
                let encoded = engine.encode([&[0; 2][..before], text].concat());
                // Characters that depend on what stands before or after are not known.
                let known = (before * 8).div_ceil(6)..(before + text.len()) * 8 / 6;
                self.add_parts(&encoded.as_bytes()[known], true);
            }
        }
        for encode in PERCENT {
            self.add_parts(&encode(text), false);
        }
    }

    fn add_parts(&mut self, text: &[u8], is_wrapped: bool) {
        if text.len() < LEAST_BYTES {
            return;
        }
        let count = text.len().div_ceil(PART_BYTES);
        for number in 0..count {
            let part = Range {
                start: text.len() * number / count,
                end: text.len() * (number + 1) / count,
            };
            let part = &text[part];
            if let Some(first) = part.first_chunk() {
                let bit = hash(*first);
                self.filter[bit / 64] |= 1 << (bit % 64);
            }
            match is_wrapped {
                true => self.wrapped.push(part.to_vec()),
                false => self.exact.push(part.to_vec()),
            }
        }
    }

    /// Whether a secret may begin with these eight bytes.
    fn may_begin(&self, first: [u8; LEAST_BYTES]) -> bool {
        let bit = hash(first);
        self.filter[bit / 64] >> (bit % 64) & 1 == 1
    }

    /// How many bytes at the beginning of `text` are certainly no beginnings of secrets.
    fn harmless(&self, text: &[u8]) -> usize {
        let mut at = 0;
        while let Some(first) = text[at..].first_chunk() {
            let is_possible = match has_line_break(*first) {
                false => self.may_begin(*first),
                // No line of a secret has a break in it, only base64 has.
                true => match unbroken(&text[at..]) {
                    (first, LEAST_BYTES) => self.may_begin(first),
                    _ => true,
                },
            };
            if is_possible {
                break;
            }
            at += 1;
        }
        at
    }

    /// What begins at the beginning of `text`, after which more comes unless it `is_end`.
    fn at(&self, text: &[u8], is_end: bool) -> Found {
        let mut found = Found::Nothing;
        let raw = &text[..text.len().min(LEAST_BYTES)];
        for pattern in beginning_with(&self.exact, raw) {
            let same = pattern.len().min(text.len());
            if pattern[..same] == text[..same] {
                found = better(found, pattern.len(), same == pattern.len());
            }
        }
        let (unbroken, length) = unbroken(text);
        for pattern in beginning_with(&self.wrapped, &unbroken[..length]) {
            if let Some((bytes, is_whole)) = match_wrapped(pattern, text) {
                found = better(found, bytes, is_whole);
            }
        }
        match found {
            Found::Maybe if is_end => self.whole_only(text),
            found => found,
        }
    }

    /// The longest whole secret at the beginning of `text`, which is all there is.
    fn whole_only(&self, text: &[u8]) -> Found {
        let exact = self
            .exact
            .iter()
            .filter(|pattern| text.starts_with(pattern))
            .map(Vec::len);
        let wrapped = self.wrapped.iter().filter_map(|pattern| match_wrapped(pattern, text));
        let wrapped = wrapped.filter(|(_, is_whole)| *is_whole).map(|(bytes, _)| bytes);
        exact.chain(wrapped).max().map_or(Found::Nothing, Found::Secret)
    }
}

/// A longer secret is better, and one that may still come is waited for.
fn better(found: Found, bytes: usize, is_whole: bool) -> Found {
    match (found, is_whole) {
        (Found::Maybe, _) | (_, false) => Found::Maybe,
        (Found::Nothing, true) => Found::Secret(bytes),
        (Found::Secret(before), true) => Found::Secret(before.max(bytes)),
    }
}

fn beginning_with<'a>(sorted: &'a [Vec<u8>], start: &[u8]) -> impl Iterator<Item = &'a Vec<u8>> {
    let first = sorted.partition_point(|pattern| pattern.as_slice() < start);
    sorted[first..]
        .iter()
        .take_while(move |pattern| pattern.starts_with(start))
}

/// Length of a line break at the beginning of `text`; nothing if there is none, or if it may be the beginning of one.
fn line_break(text: &[u8]) -> usize {
    match text {
        [b'\n', ..] => 1,
        [b'\r', b'\n', ..] => 2,
        [b'\r'] => 1,
        _ => 0,
    }
}

/// The first eight bytes without line breaks, and how many they are: fewer where the text ends, or where two breaks follow each
/// other.
fn unbroken(text: &[u8]) -> ([u8; LEAST_BYTES], usize) {
    let (mut bytes, mut length, mut at) = ([0; LEAST_BYTES], 0, 0);
    while length < LEAST_BYTES && at < text.len() {
        if length > 0 {
            at += line_break(&text[at..]);
        }
        let Some(byte) = text.get(at) else { break };
        bytes[length] = *byte;
        (length, at) = (length + 1, at + 1);
    }
    (bytes, length)
}

/// How many bytes of `text` the pattern takes, with line breaks in between, and whether that is all of it; nothing if it is not
/// there.
fn match_wrapped(pattern: &[u8], text: &[u8]) -> Option<(usize, bool)> {
    let mut at = 0;
    for (number, byte) in pattern.iter().enumerate() {
        if number > 0 {
            at += line_break(text.get(at..)?);
        }
        match text.get(at) {
            Some(there) if there == byte => at += 1,
            Some(_) => return None,
            None => return Some((at, false)),
        }
    }
    Some((at, true))
}

/// All eight at once: what is equal becomes zero, and only from a zero one can be taken such that its highest bit is borrowed.
fn has_line_break(bytes: [u8; LEAST_BYTES]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; LEAST_BYTES]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; LEAST_BYTES]);
    let bytes = u64::from_ne_bytes(bytes);
    let has = |byte: u8| {
        let zero = bytes ^ (ONES * u64::from(byte));
        zero.wrapping_sub(ONES) & !zero & HIGH != 0
    };
    has(b'\n') || has(b'\r')
}

/// The place of eight bytes in the filter.
fn hash(bytes: [u8; LEAST_BYTES]) -> usize {
    let mixed = u64::from_le_bytes(bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - FILTER_BITS);
    usize::try_from(mixed).unwrap_or(0)
}

type Encode = fn(&[u8]) -> Vec<u8>;

/// The ways in which programs encode for URLs.
const PERCENT: [Encode; 5] = [
    |text| percent(text, b"-._~", UPPER, b"%20"),
    |text| percent(text, b"-._~", b"0123456789abcdef", b"%20"),
    // Python.
    |text| percent(text, b"-._~/", UPPER, b"%20"),
    // Browsers: components, and forms.
    |text| percent(text, b"-_.!~*'()", UPPER, b"%20"),
    |text| percent(text, b"*-._", UPPER, b"+"),
];
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

fn percent(text: &[u8], kept: &[u8], digits: &[u8; 16], space: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(text.len() * 2);
    for byte in text {
        match byte {
            b' ' => encoded.extend_from_slice(space),
            byte if byte.is_ascii_alphanumeric() || kept.contains(byte) => encoded.push(*byte),
            byte => encoded.extend([b'%', digits[usize::from(byte >> 4)], digits[usize::from(byte & 15)]]),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(values: &[&str]) -> Secrets {
        let secrets = Secrets::default();
        values.iter().for_each(|value| secrets.add(value.as_bytes()));
        secrets
    }

    /// Every cut of `text` in two, and each byte alone, gives the same.
    #[track_caller]
    fn check(values: &[&str], text: &str, expected: &str) {
        let secrets = secrets(values);
        let cut = |places: &[usize]| {
            let (mut scrubber, mut shown, mut from) = (secrets.scrubber(), Vec::new(), 0);
            for to in places.iter().copied().chain([text.len()]) {
                shown.extend(scrubber.push(Bytes::copy_from_slice(&text.as_bytes()[from..to])));
                from = to;
            }
            shown.extend(scrubber.finish());
            String::from_utf8_lossy(&shown).into_owned()
        };
        for place in 0..=text.len() {
            assert_eq!(cut(&[place]), expected, "cut at {place}");
        }
        assert_eq!(cut(&(0..text.len()).collect::<Vec<_>>()), expected, "byte by byte");
        assert_eq!(secrets.scrub(text.to_owned()), expected);
    }

    const VALUE: &str = "hunter2&hunter3/?";

    #[test]
    fn a_secret_is_replaced_wherever_output_is_cut() {
        check(
            &[VALUE],
            "a hunter2&hunter3/? b hunter2&hunter3",
            "a *** b hunter2&hunter3",
        );
        check(&[VALUE], "hunthunter2&hunter3/?", "hunt***");
        check(&[VALUE], "hunter2&hunter3/?hunter2&hunter3/?\n", "***\n");
        check(&["hunter2&hunter3/?\n"], "token=hunter2&hunter3/?", "token=***");
    }

    #[test]
    fn secrets_that_overlap_are_replaced_together() {
        check(&["password123", "123secretXYZ"], "<password123secretXYZ>", "<***>");
        check(&["password", "password123"], "password12 password123", "***12 ***");
    }

    #[test]
    fn short_values_are_left_alone() {
        check(&["1234567"], "1234567", "1234567");
        check(&["12345678"], "12345678", "***");
    }

    #[test]
    fn each_line_of_a_secret_is_looked_for() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\r\n  hkiG9w0BAQEF\nshort\n-----END KEY-----\n";
        check(&[key], "hkiG9w0BAQEF:MIIEvQIBADANBgkq!short", "***:***!short");
    }

    #[test]
    fn base64_is_recognised_at_every_place() {
        for before in ["", "a", "ab", "abc", "user:"] {
            for after in ["", "z", "zz", "\n"] {
                let encoded = STANDARD.encode(format!("{before}{VALUE}{after}"));
                let clean = secrets(&[VALUE]).scrub(format!("Basic {encoded}."));
                assert!(clean.contains("***"), "{before}{after}: {clean}");
                // At most one character on each side depends on the value and on its neighbour.
                let rest = clean
                    .trim_start_matches("Basic ")
                    .trim_end_matches('.')
                    .replace("***", "");
                assert!(
                    rest.len() <= (before.len() + after.len()) * 2 + 3,
                    "{before}{after}: {clean}"
                );
            }
        }
        check(&[VALUE], &STANDARD.encode(VALUE), "***");
        check(&[VALUE], &STANDARD.encode(format!("{VALUE}\n")), "***");
        check(&["a>>>?b>>>?c"], &URL_SAFE.encode("a>>>?b>>>?c"), "***");
    }

    #[test]
    fn base64_in_lines_is_recognised() {
        let value = "0123456789abcdefghijklmnopqrstuvwxyz".repeat(4);
        let encoded = STANDARD.encode(&value);
        let (first, rest) = encoded.split_at(76);
        let (second, third) = rest.split_at(76);
        check(&[&value], &format!("<{first}\n{second}\r\n{third}>"), "<***>");
    }

    #[test]
    fn percent_encodings_are_recognised() {
        for text in [
            "hunter2%26hunter3%2F%3F",
            "hunter2%26hunter3%2f%3f",
            "hunter2%26hunter3/%3F",
        ] {
            check(&[VALUE], &format!("u={text}&v=1"), "u=***&v=1");
        }
        check(&["open sesame 1"], "q=open+sesame+1", "q=***");
    }

    #[test]
    fn long_secrets_go_in_parts_and_little_is_held_back() {
        let value: String = (0..20_000)
            .map(|number| char::from(b'!' + (number * number % 89) as u8))
            .collect();
        let secrets = secrets(&[&value]);
        assert_eq!(secrets.scrub(format!("<{value}>")), "<***>");
        let mut scrubber = secrets.scrubber();
        let mut shown = 0;
        for byte in value.bytes() {
            shown += scrubber.push(Bytes::copy_from_slice(&[byte])).len();
            assert!(scrubber.held.len() <= PART_BYTES, "{}", scrubber.held.len());
        }
        assert_eq!(shown, STARS.len());
    }

    #[test]
    fn line_breaks_are_found_at_every_place() {
        for at in 0..LEAST_BYTES {
            for (byte, expected) in [(b'\n', true), (b'\r', true), (0x0b, false), (0x8a, false), (0, false)] {
                let mut bytes = *b"abcdefgh";
                bytes[at] = byte;
                assert_eq!(has_line_break(bytes), expected, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn without_secrets_pieces_pass_as_they_are() {
        let piece = Bytes::from_static(b"text");
        let passed = Secrets::default().scrubber().push(piece.clone());
        assert_eq!(passed.as_ptr(), piece.as_ptr());
    }

    #[test]
    fn values_are_never_shown() {
        let shown = format!("{:?}", secrets(&[VALUE]));
        assert_eq!(shown, "Secrets(1)");
    }
}
