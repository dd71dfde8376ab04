//! Programs that chores start, and what they print.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The root of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask is a folder of the repository")
        .to_owned()
}

/// Where cargo puts what it builds.
#[expect(clippy::disallowed_methods, reason = "cargo tells its own tools so")]
pub(crate) fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// A program with arguments; its output is shown.
pub(crate) fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

/// Runs `command` to its end.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    say(&format!("$ {}", shown(command)));
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs `command` to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !done.status.success() {
        bail!(
            "`{}` failed: {}\n{}",
            shown(command),
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Whether a program of this name is installed.
pub(crate) fn is_installed(program: &str) -> bool {
    let found = command("sh", &["-c", "command -v \"$0\"", program])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

/// Prints a line for the reader of a chore.
#[expect(clippy::print_stdout, reason = "chores talk to the terminal of a developer")]
pub(crate) fn say(line: &str) {
    println!("{line}");
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The `rbuild` program of this repository, built for release, or the one that the environment names.
#[expect(clippy::disallowed_methods, reason = "RBUILD is for the developer who runs a chore")]
pub(crate) fn rbuild() -> Result<PathBuf> {
    if let Some(built) = std::env::var_os("RBUILD") {
        return Ok(PathBuf::from(built));
    }
    check(command("cargo", &["build", "--release", "--package", "rbuild"]).current_dir(repository()))?;
    Ok(target_dir().join("release/rbuild"))
}
