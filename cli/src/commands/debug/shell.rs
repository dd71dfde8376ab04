//! `rbuild debug shell`: words expanded on their own, with every rule of the expander at hand.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use frontend::words::{Escapes, Expander, Quotes, Unset};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A word to expand.
#[derive(Debug, Deserialize)]
pub(super) struct Case {
    id: Value,
    input: String,
    #[serde(default)]
    env: Vec<String>,
    escape: Option<char>,
    #[serde(default)]
    opts: Options,
}

#[expect(clippy::struct_excessive_bools, reason = "the names are those of the cases")]
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    raw_quotes: bool,
    raw_escapes: bool,
    skip_process_quotes: bool,
    skip_unset_env: bool,
}

/// What became of it; nothing if it cannot be expanded.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    id: Value,
    word: Option<String>,
    words: Option<Vec<String>>,
    unset: BTreeSet<String>,
}

/// Expands one word, as one and as many.
pub(super) fn answer(case: Case) -> Answer {
    let pairs = case
        .env
        .iter()
        .map(|entry| entry.split_once('=').unwrap_or((entry, "")));
    let variables: BTreeMap<&str, &str> = pairs.collect();
    let unset = RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        let value = variables.get(name).map(|value| (*value).to_owned());
        if value.is_none() {
            unset.borrow_mut().insert(name.to_owned());
        }
        value
    };
    let rules = case.opts.rules(case.escape.unwrap_or('\\'));
    // That there is no answer is the answer; what is wrong with the word is not asked.
    let word = rules.expand(&case.input, &lookup).ok().map(|expanded| expanded.text);
    let words = rules
        .expand_words(&case.input, &lookup)
        .ok()
        .map(|expanded| expanded.words);
    Answer {
        id: case.id,
        word,
        words,
        unset: unset.into_inner(),
    }
}

impl Options {
    fn rules(&self, escape: char) -> Expander {
        Expander {
            escape,
            quotes: match (self.skip_process_quotes, self.raw_quotes) {
                (true, _) => Quotes::Ordinary,
                (false, true) => Quotes::Keep,
                (false, false) => Quotes::Remove,
            },
            escapes: if self.raw_escapes {
                Escapes::Keep
            } else {
                Escapes::Remove
            },
            unset: if self.skip_unset_env { Unset::Keep } else { Unset::Empty },
        }
    }
}
