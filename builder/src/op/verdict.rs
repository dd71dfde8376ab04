//! What the end of a step means for its build, in words for the user.

use proto::definition::ExecOp;

use super::watch::Exceeded;
use crate::executor::{ExecError, ExitReport, Hits, Outcome};
use crate::limits::{DEFAULT_PROCESSES, Limits, Size, Span};
use crate::request::{Blame, BuildError, FailedStep};

/// The limits under which a step ran.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held<'a> {
    /// Those of the step.
    pub(super) to: &'a Limits,
    /// Those of the server, which no build exceeds.
    pub(super) by_server: &'a Limits,
}

/// A limit of the server is raised there, every other one here.
fn raise<T: PartialEq>(error: BuildError, flag: &str, limit: &Option<T>, of_server: &Option<T>) -> BuildError {
    match limit == of_server && limit.is_some() {
        true => error
            .note("it is the limit of the build server")
            .help(format!("whoever runs it can raise it with `rbuild serve {flag}`")),
        false => error.help(format!("raise it with `{flag}`")),
    }
}

/// The failure of a step that was ended, because it `exceeded` something.
pub(super) fn ended_early(exec: &ExecOp, exceeded: Exceeded, held: Held<'_>) -> BuildError {
    let (to, by_server) = (held.to, held.by_server);
    let command = format!("it was process \"{}\"", command(exec));
    match exceeded {
        Exceeded::Time(limit) => {
            let error = BuildError::user(format!("step did not end within {}", Span(limit))).note(command);
            raise(error, "--step-timeout", &to.time, &by_server.time)
        }
        Exceeded::Disk(limit) => {
            let error = BuildError::user(format!("step wrote more than {}", Size(limit))).note(command);
            raise(error, "--step-disk", &to.disk_bytes, &by_server.disk_bytes)
        }
    }
}

/// The failure behind the end of a step that did not succeed.
pub(super) fn failure(exec: &ExecOp, result: Result<ExitReport, ExecError>, held: Held<'_>) -> BuildError {
    match result {
        Ok(report) => failed(exec, &report, held),
        Err(ExecError::Cancelled) => BuildError::canceled(),
        Err(error @ ExecError::Refused { .. }) => BuildError::user(error.to_string()),
        Err(error @ ExecError::Network { loopback, .. }) => {
            let without = match loopback {
                true => "`--network=none` and `--network=host --allow=network.host` work without",
                false => "`--network=host --allow=network.host` works without",
            };
            BuildError::environment(error.to_string()).help(without)
        }
        Err(error) => BuildError::new(Blame::Environment, error.to_string()),
    }
}

fn command(exec: &ExecOp) -> String {
    exec.args.join(" ").escape_debug().to_string()
}

fn failed(exec: &ExecOp, report: &ExitReport, held: Held<'_>) -> BuildError {
    let command = command(exec);
    let limits = held.to;
    let memory = limits.memory_bytes.map(Size);
    let (code, note) = match report.outcome {
        Outcome::Code(code) => (code, None),
        Outcome::Signal(signal) => (128 + signal, Some(format!("signal {signal} ended it"))),
        Outcome::OutOfMemory => (137, Some("it ran out of memory".to_owned())),
    };
    let mut error = match (report.outcome, memory) {
        (Outcome::OutOfMemory, Some(limit)) => BuildError::user(format!("step was killed: memory limit {limit}"))
            .note(format!("it was process \"{command}\"")),
        _ => {
            let mut error = BuildError::user(format!(
                "process \"{command}\" did not complete successfully: exit code: {code}"
            ));
            error.notes.extend(note);
            if let (Hits { memory: true, .. }, Some(limit), Outcome::Code(_)) = (report.hits, memory, report.outcome) {
                error = error.note(format!("a process of it was killed: memory limit {limit}"));
            }
            error
        }
    };
    if report.hits.memory && memory.is_some() {
        error = raise(error, "--memory", &limits.memory_bytes, &held.by_server.memory_bytes);
    }
    if report.hits.processes {
        let limit = limits.processes.unwrap_or(DEFAULT_PROCESSES);
        error = error.note(format!("process limit {limit} reached"));
        error = raise(error, "--pids-limit", &limits.processes, &held.by_server.processes);
    }
    error.step = Some(Box::new(FailedStep {
        name: String::new(),
        log_tail: Vec::new(),
        exit_code: Some(code),
    }));
    error
}
