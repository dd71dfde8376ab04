//! The rounds of one workload: engines in turn, phase by phase.
//!
//! Engines take turns within every phase and begin in another order each round, so that whatever the machine suffers hits all of them.
//! Before each measurement the disk is synced: nobody pays for what another engine wrote.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::Engines;
use super::engines::{Build, Engine};
use super::profile::Profile;
use super::workloads::{Before, Phase, Step, Workload};
use crate::registry::Registry;
use crate::run::{output, say};

/// Builds at once in [`Step::Eight`].
const AT_ONCE: usize = 8;

/// Engines do not trust the digest of a file that changed while they looked; the context is left alone for so long.
const SETTLE: Duration = Duration::from_millis(2500);

/// One workload on its way through the rounds.
pub(super) struct Bench<'a> {
    pub(super) workload: &'a Workload,
    pub(super) context: &'a Path,
    /// `host:port` of the registry with the base images.
    pub(super) registry: &'a str,
    /// Exports are written here.
    pub(super) scratch: &'a Path,
    pub(super) rounds: usize,
}

/// What one engine needed, by round.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) seconds: Vec<f64>,
    pub(super) disk_bytes: Vec<f64>,
    pub(super) profile: Profile,
}

/// What was found out about one workload.
#[derive(Debug, Default)]
pub(super) struct Measured {
    /// By position of the phase and name of the engine.
    pub(super) samples: BTreeMap<(usize, &'static str), Samples>,
    /// Peak memory of servers in bytes.
    pub(super) peaks: BTreeMap<&'static str, u64>,
    /// Engines that failed, and why.
    pub(super) failures: BTreeMap<&'static str, String>,
}

impl Bench<'_> {
    /// Goes through all rounds. An engine that fails is out for this workload.
    pub(super) fn run(&self, engines: &mut Engines) -> Result<Measured> {
        let mut measured = Measured::default();
        std::thread::sleep(SETTLE);
        for engine in engines.iter_mut() {
            say(&format!("{}: {} begins", self.workload.id, engine.name()));
            engine.begin_empty()?;
            // Whoever begins with nothing in the first phase need not begin twice.
            if self.workload.phases[0].before != Before::Empty {
                self.or_out(engine.as_ref(), &mut measured, |engine| self.warm_up(engine));
            }
        }
        let count = engines.len();
        for round in 0..self.rounds {
            for (index, phase) in self.workload.phases.iter().enumerate() {
                for turn in 0..count {
                    let engine = &mut engines[(round + turn) % count];
                    if !measured.failures.contains_key(engine.name()) {
                        self.one(engine.as_mut(), round, (index, phase), &mut measured)?;
                    }
                }
            }
        }
        for engine in engines.iter_mut() {
            if let Some(bytes) = engine.take_peak_bytes()? {
                measured.peaks.insert(engine.name(), bytes);
            }
        }
        Ok(measured)
    }

    fn or_out<T>(
        &self,
        engine: &dyn Engine,
        measured: &mut Measured,
        work: impl FnOnce(&dyn Engine) -> Result<T>,
    ) -> Option<T> {
        match work(engine) {
            Ok(done) => Some(done),
            Err(error) => {
                say(&format!("{}: {} FAILED: {error:#}", self.workload.id, engine.name()));
                measured.failures.insert(engine.name(), format!("{error:#}"));
                None
            }
        }
    }

    fn warm_up(&self, engine: &dyn Engine) -> Result<()> {
        output(&mut engine.build(&self.build(engine, None))).map(drop)
    }

    /// One phase of one engine: what comes before, the clock, what comes after.
    fn one(
        &self,
        engine: &mut dyn Engine,
        round: usize,
        (index, phase): (usize, &Phase),
        measured: &mut Measured,
    ) -> Result<()> {
        if matches!(phase.before, Before::Empty | Before::Built) {
            engine.begin_empty()?;
        }
        let timed = self.or_out(engine, measured, |engine| self.timed(engine, phase, round));
        let Some(Some((seconds, profile))) = timed else {
            return Ok(());
        };
        let samples = measured.samples.entry((index, engine.name())).or_default();
        samples.seconds.push(seconds);
        samples.profile.add(&profile);
        if phase.disk.is_some() {
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            samples.disk_bytes.push(engine.disk_bytes()? as f64);
        }
        Ok(())
    }

    /// Seconds, and where they went; nothing if the engine cannot do this.
    fn timed(&self, engine: &dyn Engine, phase: &Phase, round: usize) -> Result<Option<(f64, Profile)>> {
        match phase.before {
            Before::Nothing | Before::Empty => {}
            Before::Built => self.warm_up(engine)?,
            Before::Touched => self.touch(engine.name(), round)?,
        }
        let prepared = self.prepare(engine, phase.step, round)?;
        let Some(work) = prepared else { return Ok(None) };
        output(&mut Command::new("sync"))?;
        let log = Log::mark(engine.phase_log())?;
        let started = Instant::now();
        let work = work.run()?;
        let seconds = started.elapsed().as_secs_f64();
        let profile = log.since()?;
        work.clean_up()?;
        Ok(Some((seconds, profile)))
    }

    fn build(&self, engine: &dyn Engine, number: Option<String>) -> Build<'_> {
        let suffix = number.as_deref().unwrap_or("0");
        Build {
            context: self.context,
            tag: format!("bench-{}-{}:{suffix}", self.workload.id, engine.name()),
            no_cache: false,
            number,
            host_network: self.workload.host_network,
        }
    }

    fn prepare(&self, engine: &dyn Engine, step: Step, round: usize) -> Result<Option<Work>> {
        let mut build = self.build(engine, None);
        let mut work = Work::default();
        match step {
            Step::Build => work.commands.push(engine.build(&build)),
            Step::BuildAnew => {
                build.no_cache = true;
                work.commands.push(engine.build(&build));
            }
            Step::Eight { equal } => {
                work.at_once = true;
                for n in 0..AT_ONCE {
                    let number = if equal {
                        format!("{round}-e")
                    } else {
                        format!("{round}-{n}")
                    };
                    work.commands.push(engine.build(&self.build(engine, Some(number))));
                }
            }
            Step::Export(form) => {
                let to = self.scratch.join("export.tar");
                match engine.export(&build, form, &to) {
                    Some(commands) => work.commands.extend(commands),
                    None => return Ok(None),
                }
                work.written = Some(to);
            }
            Step::FirstPush => {
                // Engines remember what a registry has, and this one has nothing.
                let registry = Registry::start()?;
                let name = format!("{}/bench/{}:1", registry.address(), self.workload.id);
                work.commands.extend(engine.push(&build, &name));
                work.registry = Some(registry);
            }
            Step::BuildAndPush => {
                let name = format!("{}/bench/{}-{}:1", self.registry, self.workload.id, engine.name());
                // The first push is not timed: afterwards the registry has it.
                for mut command in engine.push(&build, &name) {
                    output(&mut command)?;
                }
                work.commands.push(engine.build(&build));
                work.commands.extend(engine.push(&build, &name));
            }
        }
        Ok(Some(work))
    }

    /// Contents that nobody has seen.
    fn touch(&self, engine: &str, round: usize) -> Result<()> {
        let path = self.context.join(self.workload.touched);
        let text = format!("# round {round} of {engine}\n");
        fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

/// Commands that are timed, and what must be there for them.
#[derive(Default)]
struct Work {
    commands: Vec<Command>,
    at_once: bool,
    written: Option<PathBuf>,
    registry: Option<Registry>,
}

impl Work {
    fn run(mut self) -> Result<Self> {
        if !self.at_once {
            for command in &mut self.commands {
                output(command)?;
            }
            return Ok(self);
        }
        let mut children = Vec::new();
        for command in &mut self.commands {
            children.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        }
        // All are waited for before the first failure is told, so that none is left behind.
        let statuses: Vec<_> = children.iter_mut().map(std::process::Child::wait).collect();
        for status in statuses {
            let status = status?;
            if !status.success() {
                bail!("one of the builds at once failed: {status}");
            }
        }
        Ok(self)
    }

    fn clean_up(self) -> Result<()> {
        drop(self.registry);
        match self.written {
            Some(written) => Ok(fs::remove_file(written)?),
            None => Ok(()),
        }
    }
}

/// A place in the log of a server.
struct Log {
    path: Option<PathBuf>,
    at: u64,
}

impl Log {
    fn mark(path: Option<PathBuf>) -> Result<Self> {
        let at = match &path {
            Some(path) => fs::metadata(path)?.len(),
            None => 0,
        };
        Ok(Self { path, at })
    }

    fn since(self) -> Result<Profile> {
        let Some(path) = self.path else {
            return Ok(Profile::default());
        };
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(self.at))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(Profile::read(&text))
    }
}

/// The middle one; of an even number the mean of the middle two.
pub(super) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn builds_at_once_are_all_waited_for_and_one_failure_is_told() {
        let work = |scripts: &[&str]| {
            let commands = scripts.iter().map(|script| crate::run::command("sh", &["-c", script]));
            Work {
                commands: commands.collect(),
                at_once: true,
                ..Work::default()
            }
        };
        assert!(work(&["true", "true"]).run().is_ok());
        assert!(work(&["false", "true"]).run().is_err());
    }

    #[test]
    fn the_log_is_read_from_the_mark_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "T DEBUG phase: name=\"diff\" micros=5\n").unwrap();
        let log = Log::mark(Some(path.clone())).unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        text += "T DEBUG phase: name=\"mount\" micros=7\n";
        fs::write(&path, text).unwrap();
        let names: Vec<String> = log
            .since()
            .unwrap()
            .lines(1)
            .iter()
            .map(|line| line.name.clone())
            .collect();
        assert_eq!(names, ["mount"]);
    }
}
