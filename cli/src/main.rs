//! The `rbuild` command: words, flags, progress and exit codes. Everything else is in the library crates.
//!
//! One build as a walk: [`args`] and [`config`] say what was meant, [`request`] checks it and reads what a build needs,
//! [`server`] finds who builds, [`drive`] lends a [`session`] and shows what happens through [`ui`], [`exit`] says whose
//! fault a failure was. [`engine`] is the only door to the library.
#![forbid(unsafe_code)]

mod args;
mod config;
mod exit;
mod values;
mod output;
mod secret;
mod proxies;
mod agent;
mod key_agent;
mod limits;
mod dockerfile;
mod request;
mod beneath;
mod session;
mod engine;
mod server;
mod drive;
mod commands;
mod ui;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

/// Version of client and server: they must be equal.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

fn main() -> ExitCode {
    engine::become_sandbox_init();
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return words_of_clap(&error),
    };
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            ui::problem(&problem);
            problem.exit_code()
        }
    }
}

/// Help and version go to stdout and are a success; anything else is bad usage.
fn words_of_clap(error: &clap::Error) -> ExitCode {
    // A closed terminal changes nothing: the exit code is all there is left to say.
    drop(error.print());
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(exit::Blame::Usage.code()),
    }
}

/// Ends the process now, whatever it is doing.
#[expect(clippy::exit, reason = "the user pressed Ctrl-C three times")]
pub(crate) fn end_now(blame: exit::Blame) -> ! {
    std::process::exit(i32::from(blame.code()))
}
