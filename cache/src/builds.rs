//! Records of the last builds, for whoever asks afterwards what a build did.
//!
//! A build that finds everything writes one too, so it is written without a sync: what a loss of power leaves of it shows by its
//! seal.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use prost::Message;
use proto::history::BuildRecord;
use proto::v1;

use crate::durable::{Disk, Sync, WriteError};
use crate::sealed;
use crate::usage::{allocated, there};

/// Builds that are kept.
pub const BUILDS_KEPT: usize = 100;
/// How many more there may be until the oldest are removed, so that not every build has to look for them.
const SLACK: usize = 20;

/// Records of builds as files.
#[derive(Debug)]
pub struct Builds {
    disk: Arc<Disk>,
}

/// A file of a build.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BuildFile {
    /// When it was written: the oldest comes first.
    pub(crate) written: SystemTime,
    /// Below the root.
    pub(crate) name: String,
    /// Allocated.
    pub(crate) bytes: u64,
}

impl Builds {
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        Self { disk }
    }

    /// Keeps `build`, and of the older ones as many as [`BUILDS_KEPT`] allows.
    ///
    /// # Errors
    /// When it cannot be written, or the others cannot be listed.
    pub fn put(&self, build: &BuildRecord) -> Result<(), WriteError> {
        let name = format!("builds/{}", build.id);
        let payload = v1::StoredBuild::from(build).encode_to_vec();
        sealed::write(&self.disk, &name, payload, Sync::Never)?;
        let failed = |source| WriteError::new(&self.disk.root().join("builds"), 0, source);
        if self.ids().map_err(failed)?.len() < BUILDS_KEPT + SLACK {
            return Ok(());
        }
        let files = self.files().map_err(failed)?;
        for file in &files[..files.len().saturating_sub(BUILDS_KEPT)] {
            self.disk.remove(&file.name).map_err(failed)?;
        }
        Ok(())
    }

    /// The build of that id. A damaged record is none.
    #[must_use]
    pub fn build(&self, id: &str) -> Option<BuildRecord> {
        let parse = |payload: Vec<u8>| sealed::decode::<v1::StoredBuild, BuildRecord>(&payload);
        sealed::read(&self.disk, &format!("builds/{id}"), sealed::MAX_BYTES, parse)
    }

    /// All builds there are, the last one first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<BuildRecord>> {
        let ids = self.ids()?;
        let mut builds: Vec<BuildRecord> = ids.iter().filter_map(|id| self.build(id)).collect();
        builds.sort_by_key(|build| std::cmp::Reverse(build.started_ms.saturating_add(build.duration_ms)));
        Ok(builds)
    }

    /// The files, the oldest first.
    pub(crate) fn files(&self) -> io::Result<Vec<BuildFile>> {
        let mut files = Vec::new();
        for id in self.ids()? {
            let name = format!("builds/{id}");
            if let Some(facts) = there(fs::symlink_metadata(self.disk.root().join(&name)))? {
                let (written, bytes) = (facts.modified()?, allocated(&facts));
                files.push(BuildFile { written, name, bytes });
            }
        }
        files.sort();
        Ok(files)
    }

    /// Names of files that are no ids are none of ours.
    fn ids(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for entry in there(fs::read_dir(self.disk.root().join("builds")))?
            .into_iter()
            .flatten()
        {
            let id = entry?.file_name().to_string_lossy().into_owned();
            if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}
