//! Which things are meant: by age, kind, name, use or words.

use super::thing::Kind;

/// A condition. A thing is meant if it meets all that are given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What is asked for.
    pub fact: Fact,
    /// Whether it must be otherwise.
    pub negated: bool,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// Not used for so many milliseconds.
    UnusedFor(u64),
    /// One of these.
    Kind(Vec<Kind>),
    /// Its name begins so, with or without the name of the algorithm. What a record leads to is named with it.
    Id(String),
    /// A build uses it now, or does not.
    InUse(bool),
    /// These words are in its description.
    Description(String),
}

/// What is known of the thing that is asked about.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) kind: Kind,
    pub(super) ids: &'a [String],
    pub(super) idle_ms: u64,
    pub(super) in_use: bool,
    pub(super) description: &'a str,
}

impl Filter {
    pub(super) fn meets(&self, subject: &Subject<'_>) -> bool {
        let met = match &self.fact {
            Fact::UnusedFor(ms) => subject.idle_ms >= *ms,
            Fact::Kind(kinds) => kinds.contains(&subject.kind),
            Fact::Id(start) => subject.ids.iter().any(|id| names(id, start)),
            Fact::InUse(in_use) => subject.in_use == *in_use,
            Fact::Description(words) => subject.description.contains(words.as_str()),
        };
        met != self.negated
    }
}

fn names(id: &str, start: &str) -> bool {
    let bare = id.split_once(':').map_or(id, |(_, bare)| bare);
    !start.is_empty() && (id.starts_with(start) || bare.starts_with(start))
}

pub(super) fn meets_all(filters: &[Filter], subject: &Subject<'_>) -> bool {
    filters.iter().all(|filter| filter.meets(subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_met_or_not() {
        let ids = ["sha256:abcd".to_owned()];
        let subject = Subject {
            kind: Kind::Blob,
            ids: &ids,
            idle_ms: 10,
            in_use: false,
            description: "RUN make all",
        };
        let check = |fact, expected: bool| {
            for negated in [false, true] {
                let filter = Filter {
                    fact: Fact::clone(&fact),
                    negated,
                };
                assert_eq!(filter.meets(&subject), expected != negated, "{filter:?}");
            }
        };
        check(Fact::UnusedFor(10), true);
        check(Fact::UnusedFor(11), false);
        check(Fact::Kind(vec![Kind::Record, Kind::Blob]), true);
        check(Fact::Kind(Vec::new()), false);
        check(Fact::Id("ab".to_owned()), true);
        check(Fact::Id("sha256:ab".to_owned()), true);
        check(Fact::Id("bc".to_owned()), false);
        check(Fact::Id(String::new()), false);
        check(Fact::InUse(false), true);
        check(Fact::Description("make".to_owned()), true);
        check(Fact::Description("test".to_owned()), false);
    }
}
