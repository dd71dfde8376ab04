//! What differs on purpose, with the reason. A line that no longer tells the truth is a mistake as much as a new difference.
//!
//! One difference a line, `CASE :: FIELD :: REASON`; a field may begin or end with `*`. A field is what the report names:
//! `config.Env`, `history[3]`, `result`, a path. A case may
//! end with `*`; such a line is a rule, and no case has to show it.

use anyhow::{Context, Result};

use crate::parity::compare::Difference;

/// A difference that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    case: String,
    field: String,
    reason: String,
}

impl Wanted {
    fn is_rule(&self) -> bool {
        self.case.ends_with('*')
    }
}

/// What is found in a case, sorted by whether it is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sorted {
    pub(crate) unexpected: Vec<Difference>,
    /// Field and reason.
    pub(crate) on_purpose: Vec<(String, String)>,
    /// Fields that should differ and do not.
    pub(crate) vanished: Vec<String>,
}

/// Reads the table.
pub(crate) fn parse(text: &str) -> Result<Vec<Wanted>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut parts = line.splitn(3, " :: ").map(str::to_owned);
            let mut part = || {
                parts
                    .next()
                    .with_context(|| format!("`{line}` is not CASE :: FIELD :: REASON"))
            };
            Ok(Wanted {
                case: part()?,
                field: part()?,
                reason: part()?,
            })
        })
        .collect()
}

/// Names of cases in the table that do not exist.
pub(crate) fn unknown<'a>(wanted: &'a [Wanted], names: &[&str]) -> Vec<&'a str> {
    let cases = wanted.iter().filter(|wanted| !wanted.is_rule());
    cases
        .map(|wanted| wanted.case.as_str())
        .filter(|case| !names.contains(case))
        .collect()
}

/// Sorts what was found in `case`.
pub(crate) fn sort(case: &str, found: Vec<Difference>, wanted: &[Wanted]) -> Sorted {
    let wanted: Vec<&Wanted> = wanted.iter().filter(|wanted| covers(&wanted.case, case)).collect();
    let mut sorted = Sorted::default();
    for wanted in wanted.iter().filter(|wanted| !wanted.is_rule()) {
        if !found.iter().any(|difference| covers(&wanted.field, &difference.field)) {
            sorted.vanished.push(wanted.field.clone());
        }
    }
    for difference in found {
        match wanted.iter().find(|wanted| covers(&wanted.field, &difference.field)) {
            Some(wanted) => sorted.on_purpose.push((difference.field, wanted.reason.clone())),
            None => sorted.unexpected.push(difference),
        }
    }
    sorted
}

fn covers(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => pattern == text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(field: &str) -> Difference {
        Difference {
            field: field.to_owned(),
            reference: String::new(),
            ours: String::new(),
        }
    }

    #[test]
    fn differences_are_wanted_unexpected_or_vanished() {
        let wanted = parse("# why\n\nt/a :: /x* :: tidy\nt/a :: layers :: fewer\nt/b :: /y :: other case\n").unwrap();
        let sorted = sort("t/a", vec![difference("/x/1"), difference("/y")], &wanted);
        assert_eq!(sorted.on_purpose, [("/x/1".to_owned(), "tidy".to_owned())]);
        assert_eq!(sorted.unexpected, [difference("/y")]);
        assert_eq!(sorted.vanished, ["layers"]);
    }

    #[test]
    fn a_rule_for_every_case_is_not_missed_where_it_does_not_show() {
        let wanted = parse("* :: * (odd) :: rule").unwrap();
        assert!(unknown(&wanted, &[]).is_empty());
        assert_eq!(sort("t/a", Vec::new(), &wanted), Sorted::default());
        let sorted = sort("t/a", vec![difference("/x (odd)"), difference("/x")], &wanted);
        assert_eq!(sorted.on_purpose.len(), 1);
        assert_eq!(sorted.unexpected, [difference("/x")]);
    }

    #[test]
    fn a_line_without_reason_is_refused() {
        assert!(parse("t/a :: /x").is_err());
    }

    #[test]
    fn cases_that_do_not_exist_are_named() {
        let wanted = parse("t/a :: /x :: r\nt/b :: /x :: r").unwrap();
        assert_eq!(unknown(&wanted, &["t/a"]), ["t/b"]);
    }

    #[test]
    fn the_table_of_this_repository_names_cases_that_exist() {
        let folder = crate::run::repository().join("testdata/parity");
        let text = std::fs::read_to_string(folder.join("differences.table")).unwrap();
        let cases = crate::parity::cases::load(&folder).unwrap();
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert!(unknown(&parse(&text).unwrap(), &names).is_empty());
    }
}
