//! Expansion of words with the variables of a scope: the one place where lowering meets the word language.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use crate::args::{Globals, Scope};
use crate::diagnostic::Diagnostic;
use crate::instruction::{Heredoc, Word};
use crate::source::{SourceFile, Span};
use crate::suggest;
use crate::words::{Escapes, ExpandError, Expander, Quotes, Unset};

/// How much one file may make of its variables, in bytes: words, environments of steps, history, and the work on patterns. Each
/// instruction can repeat all that those before it left, so without a limit a file of some kilobytes becomes a plan of many
/// gigabytes.
const MAX_EXPANDED_BYTES: usize = 64 << 20;

/// Expands words and keeps the names that had no value.
#[derive(Debug)]
pub(crate) struct Words<'a> {
    source: &'a SourceFile,
    escape: char,
    variables: Variables<'a>,
    warnings: RefCell<Vec<Diagnostic>>,
    budget: &'a Budget,
}

/// What is left of [`MAX_EXPANDED_BYTES`]; nothing once more was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Cell<Option<usize>>);

impl Default for Budget {
    fn default() -> Self {
        Self(Cell::new(Some(MAX_EXPANDED_BYTES)))
    }
}

impl Budget {
    /// Whether it was not enough: there is an error then, and what follows is never used.
    pub(crate) fn is_refused(&self) -> bool {
        self.0.get().is_none()
    }

    /// Takes what the text at `span` comes to.
    ///
    /// # Errors
    /// If it is more than there is, and ever after.
    pub(crate) fn spend(&self, bytes: usize, span: Span) -> Result<(), Diagnostic> {
        self.0.set(self.0.get().and_then(|left| left.checked_sub(bytes)));
        match self.is_refused() {
            true => Err(too_large(span)),
            false => Ok(()),
        }
    }
}

/// An expansion and the names in it.
#[derive(Debug)]
pub(crate) struct Lookups {
    /// The expanded word.
    pub(crate) text: String,
    /// Names that have a value.
    pub(crate) set: BTreeSet<String>,
    /// Names that have none.
    pub(crate) unset: Vec<String>,
}

/// Where values come from.
#[derive(Debug, Clone, Copy)]
enum Variables<'a> {
    Globals(&'a Globals),
    Stage(&'a Scope),
}

impl<'a> Words<'a> {
    /// Words of a `FROM` line or a global `ARG`.
    pub(crate) fn global(file: (&'a SourceFile, char), globals: &'a Globals) -> Self {
        Self::new(file, Variables::Globals(globals), &globals.budget)
    }

    /// Words of an instruction in a stage.
    pub(crate) fn stage(file: (&'a SourceFile, char), scope: &'a Scope, budget: &'a Budget) -> Self {
        Self::new(file, Variables::Stage(scope), budget)
    }

    fn new((source, escape): (&'a SourceFile, char), variables: Variables<'a>, budget: &'a Budget) -> Self {
        Self {
            source,
            escape,
            variables,
            warnings: RefCell::new(Vec::new()),
            budget,
        }
    }

    /// One word → one word.
    pub(crate) fn expand(&self, word: &Word) -> Result<String, Diagnostic> {
        let (text, _) = self.run(Expander::new(self.escape), &word.value, word)?;
        Ok(text)
    }

    /// One word → words: blanks that a variable brought in split it.
    pub(crate) fn expand_words(&self, word: &Word) -> Result<Vec<String>, Diagnostic> {
        let (_, words) = self.run(Expander::new(self.escape), &word.value, word)?;
        Ok(words)
    }

    /// The body of a heredoc.
    pub(crate) fn expand_heredoc(&self, heredoc: &Heredoc) -> Result<String, Diagnostic> {
        if !heredoc.expand {
            return Ok(heredoc.data.clone());
        }
        let place = Word {
            value: heredoc.name.value.clone(),
            span: heredoc.data_span,
        };
        let (text, _) = self.run(Expander::heredoc(), &heredoc.data, &place)?;
        Ok(text)
    }

    /// What an expansion looks up, without a warning; nothing if the word cannot be expanded.
    pub(crate) fn lookups(&self, word: &Word) -> Option<Lookups> {
        let seen = RefCell::new(BTreeSet::new());
        let value = |name: &str| {
            let value = self.value(name);
            if value.is_some() {
                seen.borrow_mut().insert(name.to_owned());
            }
            value
        };
        if self.budget.is_refused() {
            return None;
        }
        let (expanded, cost) = Expander::new(self.escape).measured(&word.value, &value);
        // The caller asks what is there; what is wrong is told where the word is needed.
        self.budget.spend(cost, word.span).ok()?;
        let (text, _, unset) = expanded.ok()?;
        Some(Lookups {
            text,
            unset,
            set: seen.into_inner(),
        })
    }

    /// Takes the warnings about names without a value.
    pub(crate) fn into_warnings(self) -> Vec<Diagnostic> {
        self.warnings.into_inner()
    }

    /// Expands a text that stands at `place`, as one word and as many.
    fn run(&self, rules: Expander, text: &str, place: &Word) -> Result<(String, Vec<String>), Diagnostic> {
        if self.budget.is_refused() {
            return Err(too_large(place.span));
        }
        let value = |name: &str| self.value(name);
        let (expanded, cost) = rules.measured(text, &value);
        self.budget.spend(cost, place.span)?;
        let (text, words, unset) = expanded.map_err(|error| failed(place, &error))?;
        self.warn(place, &unset);
        Ok((text, words))
    }

    fn value(&self, name: &str) -> Option<String> {
        match self.variables {
            Variables::Globals(globals) => globals.values.get(name).cloned(),
            Variables::Stage(scope) => scope.value(name).map(str::to_owned),
        }
    }

    fn warn(&self, word: &Word, unset: &[String]) {
        let declared = |name: &str| match self.variables {
            Variables::Globals(globals) => globals.declared.contains(name),
            Variables::Stage(scope) => scope.is_declared(name),
        };
        let warnings = unset
            .iter()
            .filter(|name| !declared(name))
            .map(|name| self.unset(word, name));
        self.warnings.borrow_mut().extend(warnings);
    }

    /// The variable inside the word, if it can be found there as it is written.
    fn place(&self, word: &Word, name: &str) -> Span {
        let start = word.span.start as usize;
        match find_variable(self.source.slice(word.span), name) {
            Some((first, end)) => Span::new(start + first, start + end),
            None => word.span,
        }
    }

    fn unset(&self, word: &Word, name: &str) -> Diagnostic {
        match self.variables {
            Variables::Globals(globals) => {
                let names = globals.values.keys().chain(&globals.declared).map(String::as_str);
                let near = suggest::similar(name, names).map(|near| format!(" (did you mean {near}?)"));
                let message = format!("FROM argument '{name}' is not declared{}", near.unwrap_or_default());
                Diagnostic::warning("UndefinedArgInFrom", self.place(word, name), message)
                    .help(format!("declare it before the first `FROM`: `ARG {name}`"))
            }
            Variables::Stage(scope) => {
                let near = suggest::similar(name, scope.names()).map(|near| format!(" (did you mean ${near}?)"));
                let message = format!("Usage of undefined variable '${name}'{}", near.unwrap_or_default());
                Diagnostic::warning("UndefinedVar", self.place(word, name), message).help(format!(
                    "declare it above with `ARG {name}`, or set it with `ENV {name}=…`"
                ))
            }
        }
    }
}

/// Where `$name` or `${name` stands in a text.
fn find_variable(text: &str, name: &str) -> Option<(usize, usize)> {
    text.match_indices('$').find_map(|(at, _)| {
        let after = &text[at + 1..];
        let braced = after.strip_prefix('{');
        let rest = braced.unwrap_or(after).strip_prefix(name)?;
        let whole = !rest.starts_with(|c: char| c == '_' || c.is_alphanumeric());
        whole.then(|| {
            (
                at,
                text.len() - rest.len() + usize::from(braced.is_some() && rest.starts_with('}')),
            )
        })
    })
}

fn too_large(span: Span) -> Diagnostic {
    let limit = MAX_EXPANDED_BYTES >> 20;
    let message = format!("variables make more than {limit} MiB of this file");
    Diagnostic::error("expanded-too-large", span, message).note("what steps and history repeat counts each time")
}

fn failed(word: &Word, error: &ExpandError) -> Diagnostic {
    Diagnostic::error("invalid-substitution", word.span, error.to_string())
}

/// Text of a step for people: variables that have a value are replaced, everything else stays as written. Second, what it cost.
pub(crate) fn display(text: &str, escape: char, scope: &Scope, masked: &[&str]) -> (String, usize) {
    let value = |name: &str| match scope.value(name) {
        Some(_) if masked.contains(&name) => Some("****".to_owned()),
        value => value.map(str::to_owned),
    };
    let expander = Expander {
        escape,
        quotes: Quotes::Keep,
        escapes: Escapes::Keep,
        unset: Unset::Keep,
    };
    let (expanded, cost) = expander.measured(text, &value);
    // The text of a `RUN` belongs to the shell: what is no word of ours is shown as it stands.
    (expanded.map_or_else(|_| text.to_owned(), |(text, _, _)| text), cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_found_as_a_whole_name() {
        assert_eq!(find_variable("$AB ${A} $A", "A"), Some((4, 8)));
        assert_eq!(find_variable("x${A:-b}", "A"), Some((1, 4)));
        assert_eq!(find_variable("$AB", "A"), None);
    }

    #[test]
    fn steps_show_values_that_are_known_and_nothing_else_changes() {
        let mut scope = Scope::default();
        scope.set("A", "one");
        scope.set("TOKEN", "x");
        for (text, expected) in [
            ("RUN echo $A ${A}b $B ${B} ${A:-c}", "RUN echo one oneb $B ${B} one"),
            ("echo '$A' \"$A\" \\$A $", "echo '$A' \"one\" \\$A $"),
            ("don't $A", "don't $A"),
            ("use $TOKEN é${A}é", "use **** éoneé"),
        ] {
            assert_eq!(display(text, '\\', &scope, &["TOKEN"]).0, expected, "{text}");
        }
    }
}
