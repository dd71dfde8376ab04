//! The builders that are compared, each with its state in a directory of its own.

mod buildah;
mod docker;
mod rbuild;
mod server;
mod state;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::Engines;
use super::workloads::Form;
use crate::run::{is_installed, say};
use state::State;

/// A build that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Build<'a> {
    pub(super) context: &'a Path,
    /// Name of the image.
    pub(super) tag: String,
    pub(super) no_cache: bool,
    /// Value of the build argument `NUMBER`.
    pub(super) number: Option<String>,
    /// Whether steps need the network of this machine.
    pub(super) host_network: bool,
}

/// A builder that can be timed.
pub(super) trait Engine {
    fn name(&self) -> &'static str;

    fn version(&self) -> Result<String>;

    /// Begins with nothing. What was there is moved aside and not deleted: ext4 makes new files slowly for minutes after many were
    /// deleted.
    fn begin_empty(&mut self) -> Result<()>;

    fn build(&self, build: &Build<'_>) -> Command;

    /// Writes the image of an earlier `build` into the tar `to`; nothing if this engine cannot.
    fn export(&self, build: &Build<'_>, form: Form, to: &Path) -> Option<Vec<Command>>;

    /// Pushes the image of an earlier `build` as `name`, layers in gzip.
    fn push(&self, build: &Build<'_>, name: &str) -> Vec<Command>;

    /// What its server processes hold in memory now, in bytes; nothing without a server.
    fn memory_bytes(&self) -> Result<Option<u64>>;

    /// The most that its server processes ever held since this was asked last, in bytes; nothing without a server.
    fn take_peak_bytes(&mut self) -> Result<Option<u64>>;

    /// What its state takes on disk.
    fn disk_bytes(&self) -> Result<u64>;

    /// The log with the phases of builds, if it writes one.
    fn phase_log(&self) -> Option<PathBuf> {
        None
    }
}

/// The engines of this machine, ours first; ours alone for a profile. None has begun.
pub(super) fn all(work: &Path, profile: bool) -> Result<Engines> {
    let mut engines: Engines = vec![Box::new(rbuild::Rbuild::new(work, profile)?)];
    if profile {
        return Ok(engines);
    }
    if is_installed("dockerd") && Path::new(docker::CLIENT).exists() {
        engines.push(Box::new(docker::Docker::new(work)?));
    } else {
        say("SKIPPED: docker is not installed; Debian's package is `docker.io`");
    }
    if is_installed("buildah") {
        engines.push(Box::new(buildah::Buildah::new(work)?));
    } else {
        say("SKIPPED: buildah is not installed");
    }
    Ok(engines)
}
