//! One word: quotes, escapes, `$NAME`, `${NAME:-word}` and friends.
//!
//! What is expanded and against which variables is the caller's business; this file knows only how. The rules are those of
//! other Dockerfile builders, which resemble a shell without being one: there is no command substitution, and `$-` is empty.
//!
//! This file is the vocabulary: rules, results, reasons. `lexer` does the work.

mod lexer;

use crate::shell_pattern::InvalidPattern;
use lexer::{Lexer, MAX_NESTING, MAX_VALUE_BYTES};

/// Answers what a variable is worth; `None` is unset.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What becomes of quote characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quotes {
    /// They protect, and disappear.
    #[default]
    Remove,
    /// They protect, and stay in the text.
    Keep,
    /// They are ordinary text.
    Ordinary,
}

/// What becomes of escape characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escapes {
    /// They protect the next character, and disappear.
    #[default]
    Remove,
    /// They protect the next character, and stay in the text.
    Keep,
}

/// What becomes of an unset variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unset {
    /// Nothing is left of it.
    #[default]
    Empty,
    /// It stays as it is written.
    Keep,
}

/// Expands words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expander {
    /// The escape character: `\`, or what the `escape` directive says.
    pub escape: char,
    /// Quotes.
    pub quotes: Quotes,
    /// Escapes.
    pub escapes: Escapes,
    /// Unset variables.
    pub unset: Unset,
}

/// An expanded word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// Names that were looked up and are not set, each once, in order of appearance. `${A:-b}` counts.
    pub unset: Vec<String>,
}

/// A text that was expanded and then split at blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandedWords {
    /// The words. Blanks out of variables split; quoted and escaped ones do not. Empty words are left out.
    pub words: Vec<String>,
    /// As in [`Expanded`].
    pub unset: Vec<String>,
}

/// Why a word has no expansion. Its text is the one other builders print.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {word:?}: {reason}")]
pub struct ExpandError {
    /// The word as written.
    pub word: String,
    /// What is wrong with it.
    pub reason: ExpandReason,
}

/// See [`ExpandError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandReason {
    /// `'` without its partner.
    #[error("unexpected end of statement while looking for matching single-quote")]
    SingleQuote,
    /// `"` without its partner.
    #[error("unexpected end of statement while looking for matching double-quote")]
    DoubleQuote,
    /// `${` without `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${A/b}`: the second `/` is mandatory.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${}`, `${:…`, `${{`.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// A form that shells know and Dockerfiles do not.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${A:?text}` did its duty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The text after `?`, or what is asked of the variable.
        message: String,
    },
    /// A pattern with an escape that is not one.
    #[error("invalid pattern ({pattern}) in substitution: {cause}")]
    InvalidPattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        cause: InvalidPattern,
    },
    /// A limit of ours.
    #[error("substitutions nest more than {MAX_NESTING} deep")]
    NestedTooDeep,
    /// A limit of ours.
    #[error("variables and patterns come to more than {MAX_VALUE_BYTES} bytes")]
    TooLong,
}

impl Expander {
    /// The rules for most words: quotes and escapes disappear, unset variables are empty.
    #[must_use]
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            quotes: Quotes::Remove,
            escapes: Escapes::Remove,
            unset: Unset::Empty,
        }
    }

    /// The rules for the body of a heredoc file: quotes are text, and a backslash always escapes, whatever the file says.
    #[must_use]
    pub fn heredoc() -> Self {
        Self {
            quotes: Quotes::Ordinary,
            ..Self::new('\\')
        }
    }

    /// Expands `word` as one word.
    ///
    /// # Errors
    /// Bad syntax, or a `${NAME:?…}` whose variable is missing.
    pub fn expand(&self, word: &str, lookup: &Lookup<'_>) -> Result<Expanded, ExpandError> {
        let (text, _, unset) = self.measured(word, lookup).0?;
        Ok(Expanded { text, unset })
    }

    /// Expands `text` and splits the result at blanks.
    ///
    /// # Errors
    /// As [`Expander::expand`].
    pub fn expand_words(&self, text: &str, lookup: &Lookup<'_>) -> Result<ExpandedWords, ExpandError> {
        let (_, words, unset) = self.measured(text, lookup).0?;
        Ok(ExpandedWords { words, unset })
    }

    /// Expands `text` as one word and as many. Second, what it cost, in bytes: also where it failed, for a file has many words.
    pub(crate) fn measured(&self, text: &str, lookup: &Lookup<'_>) -> (Result<lexer::Output, ExpandError>, usize) {
        let (result, taken) = Lexer::new(*self, text, lookup).run();
        let result = result.map_err(|reason| ExpandError {
            word: text.to_owned(),
            reason,
        });
        (result, text.len() + taken)
    }
}

impl Default for Expander {
    fn default() -> Self {
        Self::new('\\')
    }
}

/// Expands the body of a heredoc file of `COPY` or `ADD`.
///
/// # Errors
/// As [`Expander::expand`].
pub fn expand_heredoc(body: &str, lookup: &Lookup<'_>) -> Result<Expanded, ExpandError> {
    Expander::heredoc().expand(body, lookup)
}
