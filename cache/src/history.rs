//! What the steps of each project had in its last builds: without it a miss could not be explained.
//!
//! Nothing that a result depends on, so it is written without a sync; what a loss of power leaves of it shows by its seal.

use std::fs;
use std::io;
use std::sync::Arc;

use prost::Message;
use proto::digest::ContentDigest;
use proto::history::History;
use proto::record::CacheKey;
use proto::v1;

use crate::durable::{Disk, Sync, WriteError};
use crate::records::file_name;
use crate::sealed;
use crate::usage::there;

/// Projects that are remembered; beyond these the longest unchanged are forgotten when the store is collected.
pub const PROJECTS_KEPT: usize = 1000;

/// Histories as files.
#[derive(Debug)]
pub struct Histories {
    disk: Arc<Disk>,
}

/// What is known of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remembered {
    /// Its steps.
    Steps(History),
    /// It was never built here.
    Nothing,
    /// It was, but its history was damaged.
    Lost,
}

impl Histories {
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        Self { disk }
    }

    /// What is known of the steps of `project`.
    #[must_use]
    pub fn of(&self, project: ContentDigest) -> Remembered {
        let name = file_name("history", &project.hex());
        match self.read(&name) {
            Some(history) => Remembered::Steps(history),
            None if self.disk.is_set_aside(&name) => Remembered::Lost,
            None => Remembered::Nothing,
        }
    }

    /// Remembers `history` instead of what was known of `project`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, project: ContentDigest, history: &History) -> Result<(), WriteError> {
        let payload = v1::StoredHistory::from(history).encode_to_vec();
        let name = file_name("history", &project.hex());
        sealed::write(&self.disk, &name, payload, Sync::Never)
    }

    /// Every key in the history in the file `name`.
    pub(crate) fn keys_in(&self, name: &str) -> Vec<CacheKey> {
        self.read(name)
            .map(|history| history.keys().collect())
            .unwrap_or_default()
    }

    /// The files of the projects that are one too many, each with its allocated bytes.
    pub(crate) fn surplus(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for dir in there(fs::read_dir(self.disk.root().join("history")))?
            .into_iter()
            .flatten()
        {
            let dir = dir?;
            for file in there(fs::read_dir(dir.path()))?.into_iter().flatten() {
                let file = file?;
                let Some(facts) = there(file.metadata())? else { continue };
                let (dir, file) = (dir.file_name(), file.file_name());
                let name = format!("history/{}/{}", dir.to_string_lossy(), file.to_string_lossy());
                files.push((facts.modified()?, name, crate::usage::allocated(&facts)));
            }
        }
        files.sort();
        files.truncate(files.len().saturating_sub(PROJECTS_KEPT));
        Ok(files.into_iter().map(|(_, name, bytes)| (name, bytes)).collect())
    }

    fn read(&self, name: &str) -> Option<History> {
        let parse = |payload: Vec<u8>| sealed::decode::<v1::StoredHistory, History>(&payload);
        sealed::read(&self.disk, name, sealed::MAX_BYTES, parse)
    }
}
