//! One general pattern of an ignore file: `*`, `?`, classes, escapes, `**`.
//!
//! All places of the pattern that a text can have reached are followed at once, so a match takes at most as many steps as the
//! product of both lengths, however many stars there are. Most texts are refused before that, by [`Pairs`] that they lack.

use crate::patterns::{Class, PatternProblem};

/// Which pairs of neighbouring bytes a text has, as a set of 128 bits: pairs may share a bit.
///
/// A text can only match a pattern whose plain parts have no pair that it lacks. One comparison says so for nearly every pattern
/// that does not match, which is what makes long ignore files cheap.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pairs(u128);

impl Pairs {
    pub(crate) fn of(text: &str) -> Self {
        let bit = |pair: &[u8]| match pair {
            [first, second] => 1 << ((u32::from(*first) * 5 + u32::from(*second) * 3) % u128::BITS),
            _ => 0,
        };
        Self(text.as_bytes().windows(2).map(bit).fold(0, |set, bit: u128| set | bit))
    }

    /// Whether none of `needed` is missing.
    pub(crate) fn have(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }
}

/// A pattern, ready to match.
#[derive(Debug, Clone)]
pub(crate) struct Compiled {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone)]
enum Token {
    Text(char),
    /// `?`: one character of a name.
    One,
    Class(Class),
    /// `*`: a part of a name.
    Part,
    /// `**` inside: nothing, or anything that ends with `/`.
    Directories,
    /// `**` at the end: anything.
    Rest,
}

impl Compiled {
    /// Takes a pattern apart.
    ///
    /// # Errors
    /// An open class or a lone escape.
    pub(crate) fn parse(pattern: &str) -> Result<Self, PatternProblem> {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some(first) = rest.chars().next() {
            let mut used = first.len_utf8();
            tokens.push(match first {
                '*' if rest.starts_with("**") => {
                    let after = &rest[2..];
                    used = rest.len() - after.strip_prefix('/').unwrap_or(after).len();
                    if used == rest.len() {
                        Token::Rest
                    } else {
                        Token::Directories
                    }
                }
                '*' => Token::Part,
                '?' => Token::One,
                '\\' => {
                    let literal = rest[1..].chars().next().ok_or(PatternProblem::Syntax)?;
                    used += literal.len_utf8();
                    Token::Text(literal)
                }
                '[' => {
                    let class = Class::parse(&rest[1..])?;
                    used += class.length;
                    Token::Class(class)
                }
                other => Token::Text(other),
            });
            rest = &rest[used..];
        }
        // Several in a row say no more than one, and each would be gone through for each that was reached.
        tokens.dedup_by(|next, before| matches!((before, next), (Token::Directories, Token::Directories)));
        Ok(Self { tokens })
    }

    /// The pairs of its plain parts.
    pub(crate) fn pairs(&self) -> Pairs {
        let runs = self.tokens.split(|token| !matches!(token, Token::Text(_)));
        runs.fold(Pairs::default(), |set, run| Pairs(set.0 | Pairs::of(&plain(run)).0))
    }

    /// Whether the pattern covers the whole text.
    pub(crate) fn matches(&self, text: &str) -> bool {
        self.run(text).0
    }

    /// Whether it matches, and how many places were looked at.
    fn run(&self, text: &str) -> (bool, usize) {
        let mut steps = 0;
        let mut places = Places::new(self.tokens.len());
        let mut next = Places::new(self.tokens.len());
        places.enter(&self.tokens, 0);
        for character in text.chars() {
            steps += places.list.len();
            for at in &places.list {
                self.advance(*at, character, &mut next);
            }
            places.clear();
            std::mem::swap(&mut places, &mut next);
        }
        (places.is_there[self.tokens.len()], steps)
    }

    /// Where one place goes with one character.
    fn advance(&self, at: usize, character: char, next: &mut Places) {
        match self.tokens.get(at) {
            Some(Token::Text(wanted)) if *wanted == character => next.enter(&self.tokens, at + 1),
            Some(Token::One) if character != '/' => next.enter(&self.tokens, at + 1),
            Some(Token::Class(class)) if class.holds(character) => next.enter(&self.tokens, at + 1),
            Some(Token::Part) if character != '/' => next.enter(&self.tokens, at),
            Some(Token::Rest) => next.enter(&self.tokens, at),
            Some(Token::Directories) => {
                next.add(at);
                if character == '/' {
                    next.enter(&self.tokens, at + 1);
                }
            }
            _ => {}
        }
    }
}

fn plain(tokens: &[Token]) -> String {
    let text = |token: &Token| match token {
        Token::Text(character) => Some(*character),
        _ => None,
    };
    tokens.iter().filter_map(text).collect()
}

/// Tokens that come next; the number of tokens is the end.
struct Places {
    list: Vec<usize>,
    is_there: Vec<bool>,
}

impl Places {
    fn new(tokens: usize) -> Self {
        Self {
            list: Vec::new(),
            is_there: vec![false; tokens + 1],
        }
    }

    fn clear(&mut self) {
        for at in self.list.drain(..) {
            self.is_there[at] = false;
        }
    }

    fn add(&mut self, at: usize) {
        if !self.is_there[at] {
            self.is_there[at] = true;
            self.list.push(at);
        }
    }

    /// This token, and those behind it that are reached through tokens which may stand for nothing.
    fn enter(&mut self, tokens: &[Token], mut at: usize) {
        self.add(at);
        while let Some(Token::Part | Token::Directories | Token::Rest) = tokens.get(at) {
            at += 1;
            self.add(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_every_pair_of_a_pattern_that_matches() {
        for (pattern, text) in [
            ("docs/*.md", "docs/a.md"),
            ("**/*.md", "x/y.md"),
            (r"a\*b[c]d\]", "a*bcd]"),
            ("src/**/x", "src/x"),
            ("**/name/**", "name/a"),
        ] {
            let compiled = Compiled::parse(pattern).unwrap();
            assert!(compiled.matches(text), "{pattern}");
            assert!(Pairs::of(text).have(compiled.pairs()), "{pattern}");
        }
        assert!(!Pairs::of("src/main.rs").have(Compiled::parse("**/*.tmp").unwrap().pairs()));
    }

    #[test]
    fn directories_in_a_row_are_one() {
        // Else each slash of a text would go through all of them for each of them.
        let compiled = Compiled::parse(&("**/".repeat(2000) + "*x")).unwrap();
        assert_eq!(compiled.tokens.len(), 3);
        for (text, expected) in [("ax", true), ("a/b/cx", true), ("x/a", false)] {
            assert_eq!(compiled.matches(text), expected, "{text}");
        }
    }

    #[test]
    fn no_pattern_takes_more_steps_than_the_product_of_the_lengths() {
        let stars = |count| "a*".repeat(count) + "b";
        let deep = |count| "**/".repeat(count) + "a*/".repeat(count).as_str() + "b";
        let names = "a".repeat(500);
        let paths = "aaa/".repeat(200);
        for (pattern, text) in [
            (stars(20), &names),
            (stars(200), &names),
            (deep(20), &paths),
            (deep(200), &paths),
        ] {
            let compiled = Compiled::parse(&pattern).unwrap();
            let (matched, steps) = compiled.run(text);
            assert!(!matched, "{pattern}");
            let limit = (compiled.tokens.len() + 1) * text.len();
            assert!(steps <= limit, "{steps} steps, {limit} expected at most");
        }
    }
}
