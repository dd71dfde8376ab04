//! `.dockerignore` and `--exclude`: parse and match.
//!
//! The language is not that of `.gitignore`: patterns are anchored at both ends, the last one that matches decides, and what
//! matches a directory matches everything below it. Three forms are no regular expressions but plain comparisons, and differ
//! from what the general rules would say; they are variants of [`Matcher`].
//!
//! Paths are bytes. Where they are not UTF-8, invalid parts count as replacement characters.

use std::borrow::Cow;

use crate::ignore_pattern::{Compiled, Pairs};

/// Patterns in the order in which they decide.
#[derive(Debug, Clone, Default)]
pub struct Patterns {
    patterns: Vec<Pattern>,
}

/// Reads ignore files.
#[derive(Debug, Clone, Copy)]
pub struct IgnoreFile;

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem} `{}`", .pattern.escape_debug())]
pub struct PatternError {
    /// Line of the ignore file, or position in the list of patterns; from 1.
    pub line: u32,
    /// The pattern as written.
    pub pattern: String,
    /// What is wrong.
    pub problem: PatternProblem,
}

/// What is wrong with a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternProblem {
    /// A `!` without a pattern.
    #[error("illegal exclusion pattern")]
    LoneNegation,
    /// An open `[`, an empty range, or a `\` at the end.
    #[error("syntax error in pattern")]
    Syntax,
}

/// Which patterns match a directory: what a walk hands down, so that parents are matched once.
#[derive(Debug, Clone, Default)]
pub struct DirectoryState {
    matched: Vec<bool>,
    /// The position of the last pattern that matches.
    deciding: Option<usize>,
}

#[derive(Debug, Clone)]
struct Pattern {
    written: String,
    line: u32,
    negated: bool,
    cleaned: String,
    matcher: Matcher,
    /// What a text must have to match.
    pairs: Pairs,
}

#[derive(Debug, Clone)]
enum Matcher {
    Never,
    Equal(String),
    Prefix(String),
    Suffix(String),
    General(Compiled),
}

impl IgnoreFile {
    /// Parses the text of an ignore file; a byte order mark, comments and empty lines are dropped.
    ///
    /// # Errors
    /// The first malformed pattern with its line.
    pub fn parse(text: &str) -> Result<Patterns, PatternError> {
        let parsed = entries(text).map(|(line, written)| Pattern::parse(written, &clean_entry(written), line));
        Ok(Patterns {
            patterns: parsed.collect::<Result<_, _>>()?,
        })
    }

    /// The patterns of an ignore file in their shortest form, relative to the context; nothing is checked.
    #[must_use]
    pub fn cleaned(text: &str) -> Vec<String> {
        entries(text).map(|(_, written)| clean_entry(written)).collect()
    }
}

/// The lines that hold a pattern, with their number.
fn entries(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.starts_with('#'));
    let trimmed = lines.map(|(line, text)| (line, text.trim()));
    trimmed.filter(|(_, text)| !text.is_empty())
}

/// Without detours, blanks behind `!`, and the slash that means the context.
fn clean_entry(written: &str) -> String {
    let (mark, body) = match written.strip_prefix('!') {
        Some(body) => ("!", body.trim()),
        None => ("", written),
    };
    if body.is_empty() {
        return mark.to_owned();
    }
    let cleaned = clean(body);
    let relative = cleaned.strip_prefix('/').filter(|relative| !relative.is_empty());
    format!("{mark}{}", relative.unwrap_or(&cleaned))
}

impl Patterns {
    /// Patterns from flags; their line is their position. They are taken as they are: a leading `/` or a blank behind `!` is
    /// part of the pattern, and lets it match nothing.
    ///
    /// # Errors
    /// The first malformed pattern.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, PatternError> {
        let given = (1..).zip(patterns.iter().map(|pattern| pattern.as_ref().trim()));
        let parsed = given
            .filter(|(_, text)| !text.is_empty())
            .map(|(position, text)| Pattern::parse(text, text, position));
        Ok(Self {
            patterns: parsed.collect::<Result<_, _>>()?,
        })
    }

    /// Whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a pattern begins with `!`.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.negated)
    }

    /// The pattern that by itself takes everything, if there is one, as written, with its line.
    #[must_use]
    pub fn takes_all(&self) -> Option<(&str, u32)> {
        let all = |pattern: &&Pattern| !pattern.negated && matches!(pattern.cleaned.as_str(), "*" | "**" | "**/*");
        let pattern = self.patterns.iter().find(all)?;
        Some((&pattern.written, pattern.line))
    }

    /// Whether the patterns select `path` by itself: the last pattern decides that matches it or a directory above it.
    ///
    /// A walk may find otherwise, see [`Patterns::descend`].
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let path = String::from_utf8_lossy(path);
        let mut names = vec![&*path];
        let above = path.rfind('/').map_or_else(String::new, |end| clean(&path[..=end]));
        let ends = above.match_indices('/').map(|(at, _)| at).chain([above.len()]);
        names.extend(
            ends.filter(|_| !matches!(above.as_str(), "" | "."))
                .map(|end| &above[..end]),
        );
        let mut matched = false;
        for pattern in &self.patterns {
            if pattern.negated == matched && names.iter().any(|name| pattern.matcher.matches(name)) {
                matched = !pattern.negated;
            }
        }
        matched
    }

    /// The pattern that decides on `path` in a walk, as written, with its line; a negated one if that re-includes the path.
    #[must_use]
    pub fn deciding(&self, path: &[u8]) -> Option<(&str, u32)> {
        let pattern = &self.patterns[self.replay(path).deciding?];
        Some((&pattern.written, pattern.line))
    }

    /// The state of the root, which no pattern matches.
    #[must_use]
    pub fn root(&self) -> DirectoryState {
        DirectoryState {
            matched: vec![false; self.patterns.len()],
            deciding: None,
        }
    }

    /// The state of `path` (from the root), given that of the directory holding it.
    ///
    /// A pattern is only asked where its answer can change something; its answer is inherited, that it was not asked is too.
    /// So `!d` brings nothing back that was excluded below `d`: nothing had excluded `d` itself when it was asked.
    #[must_use]
    pub fn descend(&self, parent: &DirectoryState, path: &[u8]) -> DirectoryState {
        let text = String::from_utf8_lossy(path);
        let pairs = Pairs::of(&text);
        let mut state = DirectoryState {
            matched: Vec::with_capacity(self.patterns.len()),
            deciding: None,
        };
        let mut excluded = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let inherited = parent.matched.get(index).copied().unwrap_or(false);
            let here = || pairs.have(pattern.pairs) && pattern.matcher.matches(&text);
            let matched = inherited || (pattern.negated == excluded && here());
            state.matched.push(matched);
            if matched {
                state.deciding = Some(index);
                excluded = !pattern.negated;
            }
        }
        state
    }

    /// Whether a path with this state is selected.
    #[must_use]
    pub fn excludes(&self, state: &DirectoryState) -> bool {
        state.deciding.is_some_and(|index| !self.patterns[index].negated)
    }

    /// Whether a negated pattern could match inside `directory`, so that a walk must enter it even if it is excluded.
    ///
    /// Never wrong when it says no; may say yes for nothing.
    #[must_use]
    pub fn may_match_below(&self, directory: &[u8]) -> bool {
        let text = String::from_utf8_lossy(directory);
        self.patterns
            .iter()
            .any(|pattern| pattern.negated && pattern.may_match_below(&text))
    }

    fn replay(&self, path: &[u8]) -> DirectoryState {
        let mut state = self.root();
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            state = self.descend(&state, &path[..end]);
        }
        state
    }
}

impl Pattern {
    /// Reads a pattern without blanks at its ends; `written` is how messages call it.
    fn parse(written: &str, text: &str, line: u32) -> Result<Self, PatternError> {
        let error = |problem| PatternError {
            line,
            pattern: written.to_owned(),
            problem,
        };
        let text = clean(text);
        let (negated, cleaned) = match text.strip_prefix('!') {
            Some("") => return Err(error(PatternProblem::LoneNegation)),
            Some(body) => (true, body.to_owned()),
            None => (false, text),
        };
        check_wildcard(&cleaned).map_err(error)?;
        let matcher = translate(&cleaned).map_err(error)?;
        Ok(Self {
            written: written.to_owned(),
            line,
            negated,
            cleaned,
            pairs: matcher.pairs(),
            matcher,
        })
    }

    fn may_match_below(&self, directory: &str) -> bool {
        // A class may hold `/` when negated, and an escape may stand before one: components say nothing then.
        if self.cleaned.contains(['[', '\\']) {
            return true;
        }
        let mut components = self.cleaned.split('/');
        for name in directory.split('/') {
            match components.next() {
                None => return true,
                Some(component) if component.contains("**") => return true,
                Some(component) if !matches!(wildcard_matches(component, name), Ok(true)) => return false,
                Some(_) => {}
            }
        }
        // Equal so far: with or without components left, the pattern covers something inside.
        true
    }
}

impl Matcher {
    fn pairs(&self) -> Pairs {
        match self {
            Self::Never => Pairs::default(),
            Self::Equal(text) | Self::Prefix(text) => Pairs::of(text),
            // At the top of the tree the first slash may be missing.
            Self::Suffix(text) => Pairs::of(text.strip_prefix('/').unwrap_or(text)),
            Self::General(compiled) => compiled.pairs(),
        }
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Never => false,
            Self::Equal(text) => path == text,
            Self::Prefix(text) => path.starts_with(text.as_str()),
            Self::Suffix(text) => path.ends_with(text.as_str()) || text.strip_prefix('/') == Some(path),
            Self::General(compiled) => compiled.matches(path),
        }
    }
}

/// Removes empty and `.` components and resolves `..`; a leading `/` or `..` stays and lets the pattern match nothing.
fn clean(pattern: &str) -> String {
    let rooted = pattern.starts_with('/');
    let mut kept: Vec<&str> = Vec::new();
    for component in pattern.split('/') {
        match component {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => {
                kept.pop();
            }
            ".." if rooted => {}
            _ => kept.push(component),
        }
    }
    match (rooted, kept.is_empty()) {
        (true, _) => format!("/{}", kept.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => kept.join("/"),
    }
}

fn translate(pattern: &str) -> Result<Matcher, PatternProblem> {
    if pattern.is_empty() {
        return Ok(Matcher::Never);
    }
    let special = |text: &str| text.contains(['*', '?', '[', ']', '\\']);
    if !special(pattern) {
        return Ok(Matcher::Equal(pattern.to_owned()));
    }
    if let Some(rest) = pattern.strip_prefix("**")
        && !special(rest)
    {
        return Ok(Matcher::Suffix(rest.to_owned()));
    }
    if let Some(rest) = pattern.strip_suffix("**")
        && !special(rest)
    {
        return Ok(Matcher::Prefix(rest.to_owned()));
    }
    Compiled::parse(pattern).map(Matcher::General)
}

/// What stands between `[` and `]`.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
    /// Bytes up to and with the `]`.
    pub(crate) length: usize,
}

impl Class {
    pub(crate) fn parse(text: &str) -> Result<Self, PatternProblem> {
        let negated = text.starts_with('^');
        let mut characters = text.char_indices().skip(usize::from(negated)).peekable();
        let mut ranges = Vec::new();
        loop {
            if let Some((at, ']')) = characters.peek().copied()
                && !ranges.is_empty()
            {
                return Ok(Self {
                    negated,
                    ranges,
                    length: at + 1,
                });
            }
            let low = class_member(&mut characters)?;
            let mut high = low;
            if characters.next_if(|(_, character)| *character == '-').is_some() {
                high = class_member(&mut characters)?;
            }
            if high < low {
                return Err(PatternProblem::Syntax);
            }
            ranges.push((low, high));
        }
    }

    pub(crate) fn holds(&self, character: char) -> bool {
        let inside = self
            .ranges
            .iter()
            .any(|(low, high)| (*low..=*high).contains(&character));
        inside != self.negated
    }
}

fn class_member(characters: &mut impl Iterator<Item = (usize, char)>) -> Result<char, PatternProblem> {
    match characters.next() {
        None | Some((_, ']' | '-')) => Err(PatternProblem::Syntax),
        Some((_, '\\')) => characters
            .next()
            .map(|(_, literal)| literal)
            .ok_or(PatternProblem::Syntax),
        Some((_, character)) => Ok(character),
    }
}

/// Whether `pattern` is well formed for [`wildcard_matches`].
///
/// # Errors
/// [`PatternProblem::Syntax`].
pub fn check_wildcard(pattern: &str) -> Result<(), PatternProblem> {
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '\\' => {
                let literal = rest[1..].chars().next().ok_or(PatternProblem::Syntax)?;
                &rest[1 + literal.len_utf8()..]
            }
            '[' => &rest[1 + Class::parse(&rest[1..])?.length..],
            other => &rest[other.len_utf8()..],
        };
    }
    Ok(())
}

/// Whether one segment of a `COPY` source matches a name: `*`, `?`, `[a-z]`, `[^a]` and `\` escapes, none crossing `/`.
///
/// Time is at most the product of both lengths.
///
/// # Errors
/// [`PatternProblem::Syntax`], whether or not the guilty part was reached.
pub fn wildcard_matches(pattern: &str, name: &str) -> Result<bool, PatternProblem> {
    check_wildcard(pattern)?;
    let (mut pattern_at, mut name_at) = (0, 0);
    // Where to go on when a later part fails: behind the last `*`, and one character further in the name.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern[pattern_at..].starts_with('*') {
            pattern_at += 1;
            retry = Some((pattern_at, name_at));
            continue;
        }
        let next = name[name_at..].chars().next();
        match (next, step(&pattern[pattern_at..], next)?) {
            (None, _) if pattern_at == pattern.len() => return Ok(true),
            (Some(character), Some(used)) => {
                pattern_at += used;
                name_at += character.len_utf8();
                continue;
            }
            _ => {}
        }
        let Some((after_star, from)) = retry else {
            return Ok(false);
        };
        match name[from..].chars().next() {
            None | Some('/') => return Ok(false),
            Some(character) => {
                name_at = from + character.len_utf8();
                pattern_at = after_star;
                retry = Some((after_star, name_at));
            }
        }
    }
}

/// The bytes of the pattern's first part, if it matches `character`; a part is never `*` here.
fn step(pattern: &str, character: Option<char>) -> Result<Option<usize>, PatternProblem> {
    let (Some(first), Some(character)) = (pattern.chars().next(), character) else {
        return Ok(None);
    };
    let (matched, used) = match first {
        '?' => (character != '/', 1),
        '[' => {
            let class = Class::parse(&pattern[1..])?;
            (class.holds(character) && character != '/', 1 + class.length)
        }
        '\\' => {
            let literal = pattern[1..].chars().next().ok_or(PatternProblem::Syntax)?;
            (literal == character, 1 + literal.len_utf8())
        }
        other => (other == character, other.len_utf8()),
    };
    Ok(matched.then_some(used))
}

/// Whether a `COPY` source is a wildcard pattern rather than a path.
#[must_use]
pub fn is_wildcard(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// A pattern segment without its escapes.
#[must_use]
pub fn unescape(segment: &str) -> Cow<'_, str> {
    if !segment.contains('\\') {
        return Cow::Borrowed(segment);
    }
    let mut plain = String::with_capacity(segment.len());
    let mut characters = segment.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.extend(characters.next()),
            other => plain.push(other),
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_holds() {
        let mut checked = 0;
        for line in include_str!("../../testdata/tables/ignore.txt").lines() {
            if line.starts_with("# ") || line.is_empty() {
                continue;
            }
            let mut columns = line.split(" | ");
            let ignore = columns.next().unwrap().replace(" & ", "\n");
            let patterns = IgnoreFile::parse(&ignore).unwrap();
            for (column, expected) in [(columns.next().unwrap(), true), (columns.next().unwrap(), false)] {
                for path in column.split_whitespace().filter(|path| *path != "-") {
                    assert_eq!(patterns.matches(path.as_bytes()), expected, "{line}: {path}");
                    checked += 1;
                }
            }
        }
        assert!(checked > 60, "{checked}");
    }

    #[test]
    fn malformed_patterns_name_their_line() {
        for text in ["[a", "a[", "[]a]", "a\\", "[b-a]"] {
            let error = IgnoreFile::parse(&format!("ok\n# no\n{text}\n")).unwrap_err();
            assert_eq!((error.line, error.problem), (3, PatternProblem::Syntax), "{text}");
        }
        let error = IgnoreFile::parse("!").unwrap_err();
        assert_eq!(error.to_string(), "line 1: illegal exclusion pattern `!`");
    }

    #[test]
    fn the_deciding_pattern_is_the_last_that_matches_path_or_parent() {
        let patterns = IgnoreFile::parse("\u{feff}*.tar\n\nd\n!d/keep\n").unwrap();
        assert_eq!(patterns.deciding(b"app.tar"), Some(("*.tar", 1)));
        assert_eq!(patterns.deciding(b"d/x/y"), Some(("d", 3)));
        assert_eq!(patterns.deciding(b"d/keep"), Some(("!d/keep", 4)));
        assert_eq!(patterns.deciding(b"e"), None);
    }

    #[test]
    fn excluded_directories_are_entered_only_where_a_negation_reaches() {
        let patterns = IgnoreFile::parse("*\n!d/*/keep\n").unwrap();
        for (directory, expected) in [("d", true), ("d/x", true), ("e", false), ("d/x/other", false)] {
            assert_eq!(patterns.may_match_below(directory.as_bytes()), expected, "{directory}");
        }
        assert!(IgnoreFile::parse("*\n!**/k").unwrap().may_match_below(b"any/where"));
    }

    #[test]
    fn wildcards_follow_the_rules_of_copy_sources() {
        for (pattern, name, expected) in [
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("*a*b", "xaybzb", true),
            ("*", "a/b", false),
            ("a?c", "a/c", false),
            ("[^a]", "b", true),
            ("[^a]", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("", "", true),
            ("*", "", true),
            ("é?", "éé", true),
        ] {
            assert_eq!(wildcard_matches(pattern, name), Ok(expected), "{pattern} {name}");
        }
        assert_eq!(wildcard_matches("a[", "b"), Err(PatternProblem::Syntax));
    }
}
