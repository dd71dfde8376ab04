//! One pass over a word: quotes, escapes and `$`, as one word and as many at the same time.

use std::fmt;

use super::{Escapes, ExpandReason, Expander, Lookup, Quotes, Unset};
use crate::shell_pattern::{self, InvalidPattern};

/// How deep `${A:-${B:-…}}` may go. Nobody writes ten; without a limit a hostile file overflows the stack.
pub(super) const MAX_NESTING: usize = 64;

/// How much text the variables of one word may bring in, work on patterns counted in. Without a limit every `A=$A$A` doubles what
/// the one above it left, and `${A//?/$A}` squares it. No process can be started with as much.
pub(super) const MAX_VALUE_BYTES: usize = 1 << 20;

/// The text as one word, the same split at blanks, and the names that have no value.
pub(crate) type Output = (String, Vec<String>, Vec<String>);

/// The words so far, and the one that is being written.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    open: String,
}

impl Words {
    fn push(&mut self, part: &str) {
        self.open.push_str(part);
    }

    /// Blanks end the open word.
    fn push_splitting(&mut self, part: &str) {
        for ch in part.chars() {
            if !ch.is_whitespace() {
                self.open.push(ch);
            } else if !self.open.is_empty() {
                self.done.push(std::mem::take(&mut self.open));
            }
        }
    }

    /// Where text is split, a word inside of `${…}` takes the place of what stands before it in the same word: `a${B:-c}` is
    /// `c`. Other builders do so, and what `EXPOSE` leaves in an image must not depend on the builder.
    fn forget_open(&mut self, operand: bool) {
        if operand {
            self.open.clear();
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.open.is_empty() {
            self.done.push(self.open);
        }
        self.done
    }
}

/// What came out of a stretch of text, as one word and as many.
#[derive(Default)]
struct Out {
    text: String,
    words: Words,
}

impl Out {
    fn push_protected(&mut self, part: &str) {
        self.text.push_str(part);
        self.words.push(part);
    }

    fn push_bare(&mut self, part: &str) {
        self.text.push_str(part);
        self.words.push_splitting(part);
    }
}

/// What stands between `${` and `}` after the name.
struct Modifier {
    /// As written: `:-`, `#`.
    sign: String,
    /// Whether an empty variable counts as unset.
    colon: bool,
    kind: char,
}

/// One run over one text.
pub(super) struct Lexer<'a> {
    rules: Expander,
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    lookup: &'a Lookup<'a>,
    unset: Vec<String>,
    depth: usize,
    /// How many words inside of `${…}` were read.
    operands: usize,
    /// How much of [`MAX_VALUE_BYTES`] is left.
    left_bytes: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(rules: Expander, text: &'a str, lookup: &'a Lookup<'a>) -> Self {
        Self {
            rules,
            rest: text.chars().peekable(),
            lookup,
            unset: Vec::new(),
            depth: 0,
            operands: 0,
            left_bytes: MAX_VALUE_BYTES,
        }
    }

    /// The whole text, and how much of [`MAX_VALUE_BYTES`] it took, also where it failed.
    pub(super) fn run(mut self) -> (Result<Output, ExpandReason>, usize) {
        let out = self.until(None, self.rules.escapes);
        let taken = MAX_VALUE_BYTES - self.left_bytes;
        (out.map(|out| (out.text, out.words.finish(), self.unset)), taken)
    }

    /// Reads to `stop`, which is taken too, or to the end if there is none.
    fn until(&mut self, stop: Option<char>, escapes: Escapes) -> Result<Out, ExpandReason> {
        let outer = std::mem::replace(&mut self.rules.escapes, escapes);
        self.depth += 1;
        let out = if self.depth > MAX_NESTING {
            Err(ExpandReason::NestedTooDeep)
        } else {
            self.until_unguarded(stop)
        };
        self.depth -= 1;
        self.rules.escapes = outer;
        out
    }

    fn until_unguarded(&mut self, stop: Option<char>) -> Result<Out, ExpandReason> {
        let mut out = Out::default();
        let quotes = self.rules.quotes != Quotes::Ordinary;
        while let Some(ch) = self.rest.next() {
            if Some(ch) == stop {
                return Ok(out);
            }
            match ch {
                '$' => {
                    let operands = self.operands;
                    let value = self.dollar()?;
                    out.words.forget_open(self.operands > operands);
                    out.push_bare(&value);
                }
                '\'' if quotes => out.push_protected(&self.single_quoted()?),
                '"' if quotes => {
                    let operands = self.operands;
                    let value = self.double_quoted()?;
                    out.words.forget_open(self.operands > operands);
                    out.push_protected(&value);
                }
                '<' => out.push_protected(&self.less_than()),
                _ if ch == self.rules.escape => {
                    let escape = self.kept_escape();
                    out.push_protected(&escape);
                    if let Some(next) = self.rest.next() {
                        out.push_protected(next.encode_utf8(&mut [0; 4]));
                    }
                }
                _ => out.push_bare(ch.encode_utf8(&mut [0; 4])),
            }
        }
        match stop {
            // Every caller that has a stop knows better words for its absence.
            Some(_) => Err(ExpandReason::MissingBrace),
            None => Ok(out),
        }
    }

    /// `<<` holds together with what follows, since the name of a heredoc may stand behind blanks.
    fn less_than(&mut self) -> String {
        let mut text = "<".to_owned();
        if self.rest.next_if_eq(&'<').is_some() {
            text.push('<');
            while let Some(blank) = self.rest.next_if(|ch| matches!(ch, '\t' | '\r' | ' ')) {
                text.push(blank);
            }
        }
        text
    }

    fn kept_escape(&self) -> String {
        match self.rules.escapes {
            Escapes::Keep => self.rules.escape.to_string(),
            Escapes::Remove => String::new(),
        }
    }

    fn kept_quote(&self, quote: char) -> String {
        match self.rules.quotes {
            Quotes::Keep => quote.to_string(),
            Quotes::Remove | Quotes::Ordinary => String::new(),
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandReason> {
        let mut text = self.kept_quote('\'');
        for ch in self.rest.by_ref() {
            if ch == '\'' {
                text.push_str(&self.kept_quote('\''));
                return Ok(text);
            }
            text.push(ch);
        }
        Err(ExpandReason::SingleQuote)
    }

    /// The escape character is special only before a quote, a dollar and itself.
    fn double_quoted(&mut self) -> Result<String, ExpandReason> {
        let mut text = self.kept_quote('"');
        while let Some(ch) = self.rest.next() {
            match ch {
                '"' => {
                    text.push_str(&self.kept_quote('"'));
                    return Ok(text);
                }
                '$' => text.push_str(&self.dollar()?),
                _ if ch == self.rules.escape => {
                    text.push_str(&self.kept_escape());
                    let escape = self.rules.escape;
                    match self.rest.next_if(|next| matches!(next, '"' | '$') || *next == escape) {
                        Some(next) => text.push(next),
                        None if self.rest.peek().is_none() => {}
                        None => text.push(ch),
                    }
                }
                _ => text.push(ch),
            }
        }
        Err(ExpandReason::DoubleQuote)
    }

    /// After `$`.
    fn dollar(&mut self) -> Result<String, ExpandReason> {
        if self.rest.next_if_eq(&'{').is_some() {
            return self.braced();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(self
            .value(&name)?
            .unwrap_or_else(|| self.unset_text(|| format!("${name}"))))
    }

    /// After `${`.
    fn braced(&mut self) -> Result<String, ExpandReason> {
        match self.rest.peek() {
            None => return Err(ExpandReason::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandReason::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.rest.next() {
            Some('}') => Ok(self
                .value(&name)?
                .unwrap_or_else(|| self.unset_text(|| format!("${{{name}}}")))),
            Some('/') => self.replacement(&name),
            Some(':') => {
                let kind = self.rest.next().ok_or(ExpandReason::MissingBrace)?;
                let modifier = Modifier {
                    sign: format!(":{kind}"),
                    colon: true,
                    kind,
                };
                self.modified(&name, &modifier)
            }
            Some(kind @ ('+' | '-' | '?' | '#' | '%')) => {
                let modifier = Modifier {
                    sign: kind.to_string(),
                    colon: false,
                    kind,
                };
                self.modified(&name, &modifier)
            }
            other => Err(ExpandReason::UnsupportedModifier(
                other.map_or_else(String::new, String::from),
            )),
        }
    }

    /// `${NAME-word}` and the like, after the sign.
    fn modified(&mut self, name: &str, modifier: &Modifier) -> Result<String, ExpandReason> {
        let pattern = matches!(modifier.kind, '#' | '%');
        let escapes = if pattern { Escapes::Keep } else { Escapes::Remove };
        let word = self.operand('}', escapes, ExpandReason::MissingBrace)?;
        let unsupported = || ExpandReason::UnsupportedModifier(modifier.sign.clone());
        if pattern && modifier.colon {
            return Err(unsupported());
        }
        let value = self.value(name)?;
        // What stays as written need not be understood.
        if value.is_none() && self.rules.unset == Unset::Keep {
            return Ok(format!("${{{name}{}{word}}}", modifier.sign));
        }
        if !pattern && !matches!(modifier.kind, '-' | '+' | '?') {
            return Err(unsupported());
        }
        let full = value.clone().filter(|value| !(modifier.colon && value.is_empty()));
        match modifier.kind {
            '-' => Ok(full.unwrap_or(word)),
            '+' => Ok(full.map(|_| word).unwrap_or_default()),
            '?' => full.ok_or_else(|| required(name, word, value.is_some())),
            _ => {
                let value = value.unwrap_or_default();
                self.spend(pattern_work(&value, &word))?;
                strip(&value, modifier.kind, &word)
            }
        }
    }

    /// `${NAME/pattern/text}`, after the first slash.
    fn replacement(&mut self, name: &str) -> Result<String, ExpandReason> {
        let all = self.rest.next_if_eq(&'/').is_some();
        let pattern = self.operand('/', Escapes::Keep, ExpandReason::MissingSlash)?;
        let text = self.operand('}', Escapes::Keep, ExpandReason::MissingBrace)?;
        let value = self.value(name)?;
        if value.is_none() && self.rules.unset == Unset::Keep {
            return Ok(format!("${{{name}/{pattern}/{text}}}"));
        }
        let value = value.unwrap_or_default();
        self.spend(pattern_work(&value, &pattern))?;
        let replaced = shell_pattern::replace(&value, &pattern, &text, all, self.left_bytes);
        let replaced = replaced.map_err(|cause| invalid(&pattern, cause))?;
        let replaced = replaced.ok_or(ExpandReason::TooLong)?;
        self.spend(replaced.len())?;
        Ok(replaced)
    }

    /// A part of a `${…}`, up to `stop`. A text that ends too early is `missing`, whatever else is wrong in it.
    fn operand(&mut self, stop: char, escapes: Escapes, missing: ExpandReason) -> Result<String, ExpandReason> {
        self.operands += 1;
        match self.until(Some(stop), escapes) {
            Ok(out) => Ok(out.text),
            Err(limit @ (ExpandReason::NestedTooDeep | ExpandReason::TooLong)) => Err(limit),
            Err(_) if self.rest.peek().is_none() => Err(missing),
            Err(reason) => Err(reason),
        }
    }

    /// A name, a run of digits, or one special parameter; empty if there is none of them.
    fn name(&mut self) -> String {
        let mut name = String::new();
        if let Some(special) = self.rest.next_if(|ch| "@*#?-$!".contains(*ch)) {
            name.push(special);
            return name;
        }
        let positional = self.rest.peek().is_some_and(char::is_ascii_digit);
        let belongs = |ch: &char| ch.is_ascii_digit() || (!positional && (ch.is_alphabetic() || *ch == '_'));
        while let Some(ch) = self.rest.next_if(belongs) {
            name.push(ch);
        }
        name
    }

    fn value(&mut self, name: &str) -> Result<Option<String>, ExpandReason> {
        let value = (self.lookup)(name);
        match &value {
            Some(value) => self.spend(value.len())?,
            None if !self.unset.iter().any(|known| known == name) => self.unset.push(name.to_owned()),
            None => {}
        }
        Ok(value)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), ExpandReason> {
        let left = self.left_bytes.checked_sub(bytes);
        self.left_bytes = left.unwrap_or(0);
        left.map(drop).ok_or(ExpandReason::TooLong)
    }

    fn unset_text(&self, written: impl FnOnce() -> String) -> String {
        match self.rules.unset {
            Unset::Empty => String::new(),
            Unset::Keep => written(),
        }
    }
}

impl fmt::Debug for Lexer<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Lexer")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

fn required(name: &str, word: String, set: bool) -> ExpandReason {
    let message = match (word.is_empty(), set) {
        (false, _) => word,
        (true, true) => "is not allowed to be empty".to_owned(),
        (true, false) => "is not allowed to be unset".to_owned(),
    };
    ExpandReason::Required {
        name: name.to_owned(),
        message,
    }
}

/// What it costs to make a pattern and to match it, in bytes that could be copied in the same time.
fn pattern_work(value: &str, pattern: &str) -> usize {
    pattern.len().saturating_mul(8 + value.len() / 8)
}

/// A doubled sign takes the longest match.
fn strip(value: &str, sign: char, word: &str) -> Result<String, ExpandReason> {
    let (pattern, longest) = match word.strip_prefix(sign) {
        Some(pattern) => (pattern, true),
        None => (word, false),
    };
    let stripped = match sign {
        '#' => shell_pattern::strip_prefix(value, pattern, longest),
        _ => shell_pattern::strip_suffix(value, pattern, longest),
    };
    stripped.map_err(|cause| invalid(pattern, cause))
}

fn invalid(pattern: &str, cause: InvalidPattern) -> ExpandReason {
    ExpandReason::InvalidPattern {
        pattern: pattern.to_owned(),
        cause,
    }
}
