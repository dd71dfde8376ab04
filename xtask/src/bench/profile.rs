//! Where the time of our server went: the phases in its log, added up.

use std::collections::BTreeMap;
use std::time::Duration;

/// The phases of some builds.
#[derive(Debug, Clone, Default)]
pub(super) struct Profile {
    /// Microseconds and count, by name.
    phases: BTreeMap<String, (u64, u64)>,
}

/// One phase of a build.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) seconds: f64,
    /// How often it was entered.
    pub(super) count: u64,
}

impl Profile {
    /// The phases that a log tells of.
    pub(super) fn read(log: &str) -> Self {
        let mut profile = Self::default();
        for (name, micros) in log.lines().filter_map(phase) {
            profile.count(name, micros, 1);
        }
        profile
    }

    /// Takes in another one.
    pub(super) fn add(&mut self, other: &Self) {
        for (name, (micros, count)) in &other.phases {
            self.count(name, *micros, *count);
        }
    }

    fn count(&mut self, name: &str, micros: u64, count: u64) {
        let sum = self.phases.entry(name.to_owned()).or_default();
        sum.0 += micros;
        sum.1 += count;
    }

    /// The mean of `rounds`, longest first.
    pub(super) fn lines(&self, rounds: u64) -> Vec<Line> {
        let rounds = rounds.max(1);
        let mut lines: Vec<Line> = self
            .phases
            .iter()
            .map(|(name, (micros, count))| Line {
                name: name.clone(),
                seconds: Duration::from_micros(micros / rounds).as_secs_f64(),
                count: count / rounds,
            })
            .collect();
        lines.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        lines
    }
}

/// `… DEBUG phase: name="mount" micros=123`.
fn phase(line: &str) -> Option<(&str, u64)> {
    let (_, fields) = line.split_once(" phase: name=\"")?;
    let (name, micros) = fields.split_once("\" micros=")?;
    Some((name, micros.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.000000Z DEBUG phase: name=\"mount\" micros=2000\n\
        2026-01-01T00:00:00.000000Z  WARN builder: something else\n\
        2026-01-01T00:00:00.000000Z DEBUG phase: name=\"diff\" micros=10000\n\
        2026-01-01T00:00:00.000000Z DEBUG phase: name=\"mount\" micros=4000\n";

    #[test]
    fn phases_are_added_up_and_the_longest_comes_first() {
        let mut profile = Profile::read(LOG);
        profile.add(&Profile::read(LOG));
        let line = |name: &str, seconds: f64, count: u64| Line {
            name: name.to_owned(),
            seconds,
            count,
        };
        assert_eq!(profile.lines(2), [line("diff", 0.01, 1), line("mount", 0.006, 2)]);
    }
}
