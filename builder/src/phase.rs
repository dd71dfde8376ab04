//! Where the time of a build goes, for the server's log: `RUST_LOG=phase=debug` writes a line when a phase ends, with its name and
//! its microseconds. `cargo xtask bench --profile` adds them up.
//!
//! Phases of different steps run at the same time, and a phase that waits counts its waiting, so sums may exceed the time of the
//! build. Nothing is measured unless the log asks for it.

use std::time::{Duration, Instant};

/// The target of the log.
const TARGET: &str = "phase";

/// A part of the work. Their order is the order in which a build goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// All of a build, as the server sees it.
    Build,
    /// The client sends the Dockerfile and the ignore file.
    Dockerfile,
    /// Parsing and lowering.
    Frontend,
    /// Base images: their manifests and configs.
    Metadata,
    /// The client walks and hashes a context and sends its tree.
    Context,
    /// Of that, the walk and the hashes, as the client says.
    Walk,
    /// Keys and records of the whole graph.
    Lookup,
    /// A key that takes a look into files of a stage.
    Key,
    /// A blob from a registry.
    Pull,
    /// The tree of a layer that nothing unpacks.
    Scan,
    /// A blob to a snapshot.
    Unpack,
    /// The directories of a snapshot that a process may write to.
    Snapshot,
    /// A network for a process.
    Network,
    /// A sandbox for it: one that waited, or a new one in control groups of its own.
    Launch,
    /// Its mounts, until its root is entered.
    Mounts,
    /// Its privileges are dropped and its program is executed.
    Start,
    /// From the first instruction of a process to its end.
    Process,
    /// Until nothing of it is left: other processes, mounts, namespaces.
    End,
    /// What a process changed, read and digested.
    Diff,
    /// The changes become a snapshot and a tree.
    Commit,
    /// The layer of a `COPY`: read, digested, written.
    Write,
    /// The record of a step.
    Record,
    /// Images under their names in the store.
    Keep,
    /// A layer in the compression that is asked for.
    Compress,
    /// Files to the client.
    Export,
    /// Blobs and manifests to a registry.
    Push,
    /// What was written becomes durable.
    Sync,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Dockerfile => "dockerfile",
            Self::Frontend => "frontend",
            Self::Metadata => "metadata",
            Self::Context => "context",
            Self::Walk => "walk",
            Self::Lookup => "lookup",
            Self::Key => "key",
            Self::Pull => "pull",
            Self::Scan => "scan",
            Self::Unpack => "unpack",
            Self::Snapshot => "snapshot",
            Self::Network => "network",
            Self::Launch => "launch",
            Self::Mounts => "mounts",
            Self::Start => "start",
            Self::Process => "process",
            Self::End => "end",
            Self::Diff => "diff",
            Self::Commit => "commit",
            Self::Write => "write",
            Self::Record => "record",
            Self::Keep => "keep",
            Self::Compress => "compress",
            Self::Export => "export",
            Self::Push => "push",
            Self::Sync => "sync",
        }
    }

    /// Starts the phase; it ends when the value is dropped.
    pub(crate) fn start(self) -> Running {
        let is_wanted = tracing::enabled!(target: TARGET, tracing::Level::DEBUG);
        Running {
            phase: self,
            since: is_wanted.then(Instant::now),
        }
    }

    /// Tells of a phase that somebody else has measured.
    pub(crate) fn took(self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(target: TARGET, name = self.name(), micros);
    }
}

/// A phase that has not ended.
#[derive(Debug)]
#[must_use = "a phase that is dropped at once took no time"]
pub(crate) struct Running {
    phase: Phase,
    since: Option<Instant>,
}

impl Running {
    /// Ends the phase where a scope would end it too late.
    pub(crate) fn end(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            self.phase.took(since.elapsed());
        }
    }
}
