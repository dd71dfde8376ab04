//! What lies inside of steps and images: `rbuild debug BUILD`, `rbuild run`, `rbuild cp`.

pub(crate) mod args;
mod attach;
mod copy;
mod look;
mod run;
mod terminal;

use std::collections::BTreeMap;

use proto::v1;

use crate::agent::Agents;
use crate::config::{Config, Environment};
use crate::drive;
use crate::exit::{Blame, Problem};
use crate::secret::Secrets;
use crate::server::Connection;
use crate::session::Session;

pub(crate) use copy::run as copy;
pub(crate) use look::run as look;
pub(crate) use run::run;

/// What a command ends with that could not do what it was asked for: other codes are those of the program, as with docker.
const FAILED: u8 = 125;

/// What this client lends.
fn session(secrets: Secrets, agents: Agents, config: &Config, connection: &Connection) -> Result<Session, Problem> {
    Ok(Session {
        build_id: drive::build_id()?,
        description: None,
        contexts: BTreeMap::new(),
        secrets,
        agents,
        docker_config: config.docker_config.clone(),
        cache_dir: config.cache_dir.clone(),
        share_paths: connection.shares_files,
    })
}

/// A failure in words of this program.
fn failed(failure: v1::Failure) -> Problem {
    Problem {
        blame: failure.blame().into(),
        message: failure.message,
        notes: failure.notes,
        helps: failure.helps,
    }
}

/// Ends as the program did; whatever kept it from running has a code of its own.
fn ended(code: Result<u8, Problem>) -> Result<(), Problem> {
    match code {
        Ok(0) => Ok(()),
        Ok(code) => Err(Problem::told(Blame::Program(code))),
        Err(problem) if problem.blame == Blame::Canceled => Err(problem),
        Err(problem) => Err(Problem {
            blame: Blame::Program(FAILED),
            ..problem
        }),
    }
}

/// `NAME=VALUE`; a name alone takes the value that it has here, and says nothing if it has none.
fn variables(flags: &[String], environment: &Environment) -> Result<Vec<String>, Problem> {
    let mut variables = Vec::new();
    for flag in flags {
        match flag.split_once('=') {
            Some(("", _)) => return Err(Problem::usage(format!("-e: `{flag}` has no name"))),
            Some(_) => variables.push(flag.clone()),
            None => {
                let value = environment.bytes(flag).map(String::from_utf8_lossy);
                variables.extend(value.map(|value| format!("{flag}={value}")));
            }
        }
    }
    Ok(variables)
}
