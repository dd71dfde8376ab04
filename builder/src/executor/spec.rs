//! What the engine and the sandbox init say to each other over their socket: one [`Spec`] in, one [`Reply`] out, each as a
//! length (8 bytes, little-endian) and JSON.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Process;
use super::attach::Manner;
use crate::ids::Ids;

/// Largest message; secrets, the largest part, are limited to 500 KiB each by the language.
const MAX_MESSAGE_BYTES: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) process: Process,
    pub(super) network: NetworkPlan,
    pub(super) hosts: String,
    pub(super) resolv_conf: String,
    /// Whether a version 2 control group hierarchy can be shown.
    pub(super) show_cgroup: bool,
    /// Those of the engine, and so of the sandbox.
    pub(super) ids: Ids,
    /// Who talks to the process; nothing: nobody does.
    pub(super) manner: Option<Manner>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NetworkPlan {
    /// A new namespace with nothing but loopback.
    Isolated,
    /// The namespace behind this path, prepared by the engine.
    Join(PathBuf),
    /// The namespace of the engine.
    Host,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    Ended {
        status: Status,
        stubs: Vec<PathBuf>,
        times: Times,
    },
    /// The program could not be executed.
    NotExecuted {
        code: i32,
        message: String,
        stubs: Vec<PathBuf>,
    },
    Failed(Failure),
}

/// Where the time of a step went, as its first process saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Times {
    /// From the step's arrival until its root was entered and its user known.
    pub(super) mounts: Duration,
    /// Until its program was executed.
    pub(super) start: Duration,
    /// From the first instruction of the program to its end.
    pub(super) ran: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Status {
    Code(i32),
    Signal(i32),
}

/// Why the sandbox could not be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// This machine or the engine is at fault.
    Setup { action: String, reason: String },
    /// The step or its image is.
    Refused(String),
}

/// Names what was attempted when a call fails.
pub(super) trait Attempt<T> {
    fn attempt(self, action: &str) -> Result<T, Failure>;
}

impl<T, E: std::fmt::Display> Attempt<T> for Result<T, E> {
    fn attempt(self, action: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Setup {
            action: action.to_owned(),
            reason: error.to_string(),
        })
    }
}

pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    let mut bytes = (body.len() as u64).to_le_bytes().to_vec();
    bytes.extend(body);
    Ok(bytes)
}

/// The message in `bytes`, which hold all that was sent; nothing if the sender said nothing or was cut off.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> io::Result<Option<T>> {
    let Some((length, body)) = bytes.split_first_chunk::<8>() else {
        return Ok(None);
    };
    if u64::from_le_bytes(*length) != body.len() as u64 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(body)?))
}

pub(super) fn receive<T: for<'de> Deserialize<'de>>(mut from: impl Read) -> io::Result<T> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_MESSAGE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a message of {length} bytes"),
        ));
    }
    let mut body = Vec::new();
    from.take(length).read_to_end(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

pub(super) fn send<T: Serialize>(mut to: impl Write, message: &T) -> io::Result<()> {
    to.write_all(&encode(message)?)
}
