//! The first command of the README, as a newcomer runs it: twice.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{check, command, is_installed, output, repository, say, target_dir};

/// What the line of the README begins with.
const PROMPT: &str = "$ cargo run ";

/// Runs the line in an empty store, then again: the second run has to do nothing and print the same.
pub(crate) fn run() -> Result<()> {
    let readme = fs::read_to_string(repository().join("README.md")).context("there is no README.md")?;
    let Some(line) = readme.lines().find_map(|line| line.strip_prefix(PROMPT)) else {
        bail!("README.md: no line begins with `{PROMPT}`");
    };
    if !is_installed("cargo") {
        bail!("`cargo` is not on the search path, where the README expects it");
    }
    let directory = tempfile::tempdir()?;
    let store = directory.path().join("store");
    let first = newcomer(line, &store)?;
    let second = newcomer(line, &store)?;
    // It would wait for work in a store that is about to go.
    check(
        command(
            target_dir().join("release/rbuild"),
            &["prune", "--in-process", "--root"],
        )
        .arg(&store)
        .stdout(Stdio::null()),
    )?;
    let headings = |line: &&str| line.starts_with('#') && line.contains(" [") && !line.contains("[internal]");
    let steps = second.progress.lines().filter(headings).count();
    let cached = second.progress.lines().filter(|line| line.ends_with(" CACHED")).count();
    if first.digest.is_empty() || first.digest != second.digest || steps == 0 || cached != steps {
        bail!(
            "README.md: `{PROMPT}{line}` printed {:?}, then {:?} with {cached} of {steps} steps CACHED\n{}",
            first.digest,
            second.digest,
            second.progress
        );
    }
    say(&format!("README.md: built {}, then from the cache", first.digest));
    Ok(())
}

/// What a build printed.
struct Printed {
    digest: String,
    progress: String,
}

fn newcomer(line: &str, store: &Path) -> Result<Printed> {
    let progress = store.with_extension("progress");
    let mut build = shell(&format!("exec cargo run {line} 2>{}", progress.display()));
    let digest = output(build.current_dir(repository()).env("RBUILD_ROOT", store));
    let printed = fs::read_to_string(&progress).unwrap_or_default();
    fs::remove_file(&progress)?;
    Ok(Printed {
        digest: digest.with_context(|| printed.clone())?.trim().to_owned(),
        progress: printed,
    })
}

fn shell(script: &str) -> Command {
    command("sh", &["-c", script])
}
