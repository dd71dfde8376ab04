//! What was measured, beside what we want: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::measure::{Measured, Samples, median};
use super::workloads::Workload;
use super::{Engines, Options};
use crate::run::{command, output, repository, say};

/// We.
const OURS: &str = "rbuild";

/// The server of an idle machine may hold so much.
const IDLE_MB: f64 = 50.0;

/// Of the memory of BuildKit's server at its peak.
const PEAK_RATIO: f64 = 0.4;

/// Memory of a server is looked at so long after its start.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// Everything that is told in the end.
pub(super) struct Report {
    engines: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    failures: Vec<String>,
    peaks: BTreeMap<&'static str, u64>,
    rounds: usize,
    quick: bool,
    profile: bool,
}

/// One line of the table.
struct Row {
    workload: String,
    what: String,
    phase: String,
    unit: Unit,
    samples: BTreeMap<&'static str, Vec<f64>>,
    allowed: Allowed,
    profile: Vec<super::profile::Line>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Seconds,
    Megabytes,
}

/// What we are content with.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Allowed {
    /// This share of the best peer.
    Ratio(f64),
    /// So much, whatever the peers need.
    Most(f64),
}

impl Report {
    pub(super) fn new(options: &Options, engines: &Engines) -> Result<Self> {
        let versions = engines.iter().map(|engine| Ok((engine.name(), engine.version()?)));
        Ok(Self {
            engines: versions.collect::<Result<_>>()?,
            rows: Vec::new(),
            failures: Vec::new(),
            peaks: BTreeMap::new(),
            rounds: options.rounds(),
            quick: options.quick,
            profile: options.profile,
        })
    }

    /// What servers hold when nobody asks them for anything.
    pub(super) fn idle(&mut self, engines: &mut Engines) -> Result<()> {
        for engine in engines.iter_mut() {
            engine.begin_empty()?;
        }
        std::thread::sleep(IDLE_AFTER);
        let mut samples = BTreeMap::new();
        for engine in engines.iter_mut() {
            if let Some(bytes) = engine.memory_bytes()? {
                samples.insert(engine.name(), vec![megabytes(bytes)]);
            }
            // What it took to start is not part of what builds take.
            engine.take_peak_bytes()?;
        }
        self.rows.push(Row {
            workload: "server".to_owned(),
            what: "memory without work".to_owned(),
            phase: "idle".to_owned(),
            unit: Unit::Megabytes,
            samples,
            allowed: Allowed::Most(IDLE_MB),
            profile: Vec::new(),
        });
        Ok(())
    }

    /// Takes in one workload and tells it at once.
    pub(super) fn add(&mut self, workload: &Workload, measured: Measured) {
        let first = self.rows.len();
        let of_phase = |index: usize| -> BTreeMap<&'static str, &Samples> {
            let samples = measured.samples.iter().filter(move |((at, _), _)| *at == index);
            samples.map(|((_, engine), samples)| (*engine, samples)).collect()
        };
        for (index, phase) in workload.phases.iter().enumerate() {
            let samples = of_phase(index);
            let rounds = samples.get(OURS).map_or(0, |samples| samples.seconds.len());
            let row = |phase: String, unit: Unit, allowed: Allowed| Row {
                workload: workload.id.to_owned(),
                what: workload.what.clone(),
                phase,
                unit,
                samples: BTreeMap::new(),
                allowed,
                profile: Vec::new(),
            };
            self.rows.push(Row {
                samples: samples
                    .iter()
                    .map(|(name, samples)| (*name, samples.seconds.clone()))
                    .collect(),
                profile: samples
                    .get(OURS)
                    .map_or_else(Vec::new, |samples| samples.profile.lines(rounds as u64)),
                ..row(phase.name.to_owned(), Unit::Seconds, Allowed::Ratio(phase.allowed))
            });
            if let Some(bytes) = phase.disk {
                let in_megabytes = |samples: &Samples| samples.disk_bytes.iter().map(|bytes| bytes / 1e6).collect();
                let name = format!("disk after {}", phase.name);
                self.rows.push(Row {
                    samples: samples
                        .iter()
                        .map(|(name, samples)| (*name, in_megabytes(samples)))
                        .collect(),
                    ..row(name, Unit::Megabytes, Allowed::Most(bytes * workload.megabytes))
                });
            }
        }
        for (engine, failure) in &measured.failures {
            self.failures.push(format!("{}: {engine}: {failure}", workload.id));
        }
        for (engine, bytes) in measured.peaks {
            let peak = self.peaks.entry(engine).or_default();
            *peak = bytes.max(*peak);
        }
        for row in &self.rows[first..] {
            say(&row.line(&self.names()));
            if self.profile {
                row.profile.iter().for_each(|line| say(&profile_line(line)));
            }
        }
    }

    /// The most memory that servers ever held.
    pub(super) fn peaks(&mut self) {
        let samples = self.peaks.iter().map(|(name, bytes)| (*name, vec![megabytes(*bytes)]));
        self.rows.push(Row {
            workload: "server".to_owned(),
            what: "memory, the most over all workloads".to_owned(),
            phase: "peak".to_owned(),
            unit: Unit::Megabytes,
            samples: samples.collect(),
            allowed: Allowed::Ratio(PEAK_RATIO),
            profile: Vec::new(),
        });
    }

    fn names(&self) -> Vec<&'static str> {
        self.engines.iter().map(|(name, _)| *name).collect()
    }

    /// Prints the table and writes the file.
    pub(super) fn finish(&self, json: Option<&Path>) -> Result<()> {
        let machine = machine()?;
        say("");
        say(&format!(
            "{machine}; {} rounds{}",
            self.rounds,
            if self.quick { " of small sizes" } else { "" }
        ));
        for (_, version) in &self.engines {
            say(version);
        }
        say("");
        for line in self.table() {
            say(&line);
        }
        if let Some(path) = json {
            fs::write(path, serde_json::to_vec_pretty(&self.json(&machine))?)?;
        }
        let ours: Vec<&String> = self
            .failures
            .iter()
            .filter(|failure| failure.contains(": rbuild: "))
            .collect();
        if !ours.is_empty() {
            bail!("rbuild failed: {ours:?}");
        }
        Ok(())
    }

    fn table(&self) -> Vec<String> {
        let names = self.names();
        let mut lines = vec![
            format!(
                "| workload | phase | {} | best peer | ratio | allowed | met |",
                names.join(" | ")
            ),
            format!("|---|---|{}---|---|---|---|", "---|".repeat(names.len())),
        ];
        lines.extend(self.rows.iter().map(|row| row.line(&names)));
        lines
    }

    fn json(&self, machine: &str) -> Value {
        let row = |row: &Row| {
            let profile = row.profile.iter();
            let profile = profile.map(|line| json!({"phase": line.name, "seconds": line.seconds, "count": line.count}));
            json!({
                "workload": row.workload,
                "what": row.what,
                "phase": row.phase,
                "unit": match row.unit { Unit::Seconds => "s", Unit::Megabytes => "MB" },
                "samples": row.samples,
                "medians": row.medians(),
                "best_peer": row.best_peer().map(|(name, _)| name),
                "ratio": row.ratio(),
                "allowed_ratio": match row.allowed { Allowed::Ratio(ratio) => Some(ratio), Allowed::Most(_) => None },
                "allowed_most": match row.allowed { Allowed::Ratio(_) => None, Allowed::Most(most) => Some(most) },
                "met": row.is_met(),
                "profile": profile.collect::<Vec<_>>(),
            })
        };
        json!({
            "machine": machine,
            "engines": self.engines.iter().map(|(name, version)| (*name, version)).collect::<BTreeMap<_, _>>(),
            "rounds": self.rounds,
            "quick": self.quick,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }
}

impl Row {
    fn medians(&self) -> BTreeMap<&'static str, f64> {
        let medians = self
            .samples
            .iter()
            .map(|(name, samples)| Some((*name, median(samples)?)));
        medians.flatten().collect()
    }

    fn best_peer(&self) -> Option<(&'static str, f64)> {
        let peers = self.medians().into_iter().filter(|(name, _)| *name != OURS);
        peers.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    fn ratio(&self) -> Option<f64> {
        let (_, best) = self.best_peer()?;
        Some(self.medians().get(OURS)? / best)
    }

    /// Nothing if there is nobody to compare with.
    fn is_met(&self) -> Option<bool> {
        match self.allowed {
            Allowed::Ratio(allowed) => Some(self.ratio()? <= allowed),
            Allowed::Most(most) => Some(*self.medians().get(OURS)? <= most),
        }
    }

    fn line(&self, names: &[&'static str]) -> String {
        let medians = self.medians();
        let figure = |value: f64| match self.unit {
            Unit::Seconds => format!("{value:.3} s"),
            Unit::Megabytes => format!("{value:.0} MB"),
        };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
        let cells: Vec<String> = names
            .iter()
            .map(|name| or_dash(medians.get(name).copied().map(figure)))
            .collect();
        let allowed = match self.allowed {
            Allowed::Ratio(ratio) => format!("{ratio} ×"),
            Allowed::Most(most) => figure(most),
        };
        format!(
            "| {}: {} | {} | {} | {} | {} | {allowed} | {} |",
            self.workload,
            self.what,
            self.phase,
            cells.join(" | "),
            or_dash(self.best_peer().map(|(name, _)| name.to_owned())),
            or_dash(self.ratio().map(|ratio| format!("{ratio:.2} ×"))),
            or_dash(self.is_met().map(|met| if met { "yes" } else { "**no**" }.to_owned())),
        )
    }
}

fn profile_line(line: &super::profile::Line) -> String {
    format!(
        "    {:<12}{:>10.1} ms  {:>5} ×",
        line.name,
        line.seconds * 1e3,
        line.count
    )
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// What was measured on.
fn machine() -> Result<String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = output(&mut command("uname", &["--kernel-release", "--machine"]))?;
    let commit = output(command("git", &["describe", "--always", "--dirty"]).current_dir(repository()))?;
    let day = output(&mut command("date", &["--utc", "+%Y-%m-%d"]))?;
    Ok(format!(
        "{}, {processors} processors, Linux {}, commit {}",
        day.trim(),
        kernel.trim(),
        commit.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(allowed: Allowed, samples: &[(&'static str, &[f64])]) -> Row {
        Row {
            workload: "w0".to_owned(),
            what: "nothing".to_owned(),
            phase: "cold".to_owned(),
            unit: Unit::Seconds,
            samples: samples
                .iter()
                .map(|(name, samples)| (*name, samples.to_vec()))
                .collect(),
            allowed,
            profile: Vec::new(),
        }
    }

    #[test]
    fn the_fastest_peer_is_compared_with() {
        let samples: &[(&str, &[f64])] = &[("rbuild", &[0.2, 0.1, 0.3]), ("docker", &[1.0]), ("buildah", &[0.8])];
        let row = row(Allowed::Ratio(0.25), samples);
        assert_eq!(
            row.line(&["rbuild", "docker", "buildah"]),
            "| w0: nothing | cold | 0.200 s | 1.000 s | 0.800 s | buildah | 0.25 × | 0.25 × | yes |"
        );
    }

    #[test]
    fn who_cannot_do_it_has_a_dash_and_nobody_is_compared_with_nobody() {
        let row = row(Allowed::Ratio(0.5), &[("rbuild", &[0.2]), ("docker", &[])]);
        assert_eq!(
            row.line(&["rbuild", "docker"]),
            "| w0: nothing | cold | 0.200 s | – | – | – | 0.5 × | – |"
        );
    }

    #[test]
    fn a_limit_of_its_own_needs_no_peer() {
        assert_eq!(row(Allowed::Most(0.1), &[("rbuild", &[0.2])]).is_met(), Some(false));
        assert_eq!(row(Allowed::Most(0.3), &[("rbuild", &[0.2])]).is_met(), Some(true));
    }
}
