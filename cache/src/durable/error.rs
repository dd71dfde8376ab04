//! Why a file of the store was not written: a full disk is told apart from the rest.

use std::io;
use std::path::{Path, PathBuf};

use crate::budget::OverLimit;

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file system or the quota is full.
    #[error("no space left for {needed_bytes} bytes at `{path}`")]
    NoSpace {
        /// What did not fit: the size of the file as far as it is known.
        needed_bytes: u64,
        /// Where.
        path: PathBuf,
    },
    /// The store may not be larger.
    #[error("no room for `{path}`: {limit}")]
    OverLimit {
        /// Where.
        path: PathBuf,
        /// What was reached.
        limit: OverLimit,
    },
    /// Anything else.
    #[error("cannot write `{path}`")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl WriteError {
    /// Whether there is no room: collecting may help.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::NoSpace { .. } | Self::OverLimit { .. })
    }

    /// Sorts an error of the system: full disks apart from the rest.
    #[must_use]
    pub fn new(path: &Path, needed_bytes: u64, source: io::Error) -> Self {
        let path = path.to_owned();
        let inner = source.get_ref().and_then(|inner| inner.downcast_ref::<OverLimit>());
        if let Some(limit) = inner.copied() {
            return Self::OverLimit { path, limit };
        }
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace { needed_bytes, path },
            _ => Self::Io { path, source },
        }
    }
}
