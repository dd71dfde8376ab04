//! Whole builds, timed: rbuild beside BuildKit (in Debian's docker) and buildah, in turn, in one run.
//!
//! Only ratios of medians mean anything: machines are shared, and every engine suffers alike when they are used in turn. Nothing else
//! should run meanwhile. `docs/performance.md` tells what each workload is and how to read the table.
//!
//! [`workloads`] are data, [`engines`] know the programs, [`measure`] goes through the rounds, [`report`] compares with the targets,
//! [`profile`] reads from the log of our server where its time went.

mod engines;
mod measure;
mod packages;
mod profile;
mod report;
mod workloads;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::base;
use crate::registry::Registry;
use crate::run::{check, command, output, repository, say};
use engines::Engine;
use report::Report;
use workloads::{Site, Workload};

/// Benchmarks that need no builder, each with the crate that has it.
const PARTS: &[(&str, &str)] = &[
    ("frontend", "rbuild-frontend"),
    ("walk", "rbuild-builder"),
    ("hash", "rbuild-builder"),
    ("tar", "rbuild-builder"),
    ("compress", "rbuild-builder"),
    ("key", "rbuild-builder"),
    ("lookup", "rbuild-builder"),
    ("mount", "rbuild-builder"),
];

/// Rounds if nothing else is said.
const ROUNDS: usize = 5;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these workloads (`w1` to `w11`), or one part alone: frontend, walk, hash, tar, compress, key, lookup, mount.
    names: Vec<String>,
    /// Rounds of each engine: 5, or 1 of a quick run.
    #[arg(long)]
    rounds: Option<usize>,
    /// Small sizes: whether everything runs, not how fast.
    #[arg(long)]
    quick: bool,
    /// Only rbuild, and where its time goes.
    #[arg(long)]
    profile: bool,
    /// Keep the state of the engines below this directory; a fresh file system is best [default: /var/tmp].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Also write every sample into this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Options {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { ROUNDS }).max(1)
    }
}

/// Times the workloads or parts that are asked for, or all workloads.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (parts, names): (Vec<&str>, Vec<&str>) = options
        .names
        .iter()
        .map(String::as_str)
        .partition(|name| PARTS.iter().any(|(part, _)| part == name));
    for part in &parts {
        run_part(part)?;
    }
    if parts.is_empty() || !names.is_empty() {
        run_workloads(options, &chosen(&names, options.quick)?)?;
    }
    Ok(())
}

/// Times what needs no builder.
fn run_part(name: &str) -> Result<()> {
    for (part, package) in PARTS.iter().filter(|(part, _)| *part == name) {
        let mut bench = command("cargo", &["bench", "--quiet", "--package", package, "--bench", "speed"]);
        check(bench.args(["--", part]).current_dir(repository()))?;
    }
    Ok(())
}

/// The workloads of these names; without names, all that are not too long for every day.
fn chosen(names: &[&str], quick: bool) -> Result<Vec<Workload>> {
    let all = workloads::all(quick);
    if let Some(unknown) = names
        .iter()
        .find(|name| !all.iter().any(|workload| workload.id == **name))
    {
        let known: Vec<&str> = all.iter().map(|workload| workload.id).collect();
        bail!("no workload is called `{unknown}`; there are {}", known.join(", "));
    }
    let is_wanted = |workload: &Workload| match names {
        [] => !workload.only_by_name,
        names => names.contains(&workload.id),
    };
    Ok(all.into_iter().filter(is_wanted).collect())
}

fn run_workloads(options: &Options, workloads: &[Workload]) -> Result<()> {
    workloads::build_generator()?;
    let parent = options.state.clone().unwrap_or_else(|| PathBuf::from("/var/tmp"));
    std::fs::create_dir_all(&parent).with_context(|| format!("`{}` cannot be made", parent.display()))?;
    let work = tempfile::Builder::new().prefix("rbuild-bench").tempdir_in(parent)?;
    let registry = Registry::start()?;
    publish_base(&registry)?;
    let mut engines = engines::all(work.path(), options.profile)?;
    let mut report = Report::new(options, &engines)?;
    report.idle(&mut engines)?;
    for workload in workloads {
        let directory = work.path().join("contexts").join(workload.id);
        std::fs::create_dir_all(&directory)?;
        let site = Site {
            directory: &directory,
            registry: registry.address(),
        };
        if let Err(error) = (workload.make)(&site) {
            say(&format!("SKIPPED {}: {error:#}", workload.id));
            continue;
        }
        let bench = measure::Bench {
            workload,
            context: &directory,
            registry: registry.address(),
            scratch: work.path(),
            rounds: options.rounds(),
        };
        let measured = bench.run(&mut engines)?;
        report.add(workload, measured);
    }
    report.peaks();
    report.finish(options.json.as_deref())
}

/// The image that most workloads begin with, in the registry.
fn publish_base(registry: &Registry) -> Result<()> {
    let layout = base::busybox()?;
    let mut copy = command("skopeo", &["copy", "--quiet", "--dest-tls-verify=false"]);
    copy.arg(format!("oci:{}", layout.display()))
        .arg(format!("docker://{}/busybox:1", registry.address()));
    output(&mut copy).map(drop)
}

/// The engines of one run, ours first.
type Engines = Vec<Box<dyn Engine>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_workloads_run_only_when_they_are_named() {
        let ids = |names: &[&str]| -> Vec<&str> { chosen(names, false).unwrap().iter().map(|w| w.id).collect() };
        assert!(ids(&[]).contains(&"w3s"));
        assert!(!ids(&[]).contains(&"w3"));
        assert_eq!(ids(&["w6", "w3"]), ["w3", "w6"]);
        assert!(chosen(&["w99"], false).is_err());
    }
}
