//! A file that is being written.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::faults::{Faults, Step};
use super::lock;
use crate::budget::{BLOCK_BYTES, Budget};

/// The temporary files of a process that are being written now.
pub(super) type BeingWritten = Arc<Mutex<HashSet<PathBuf>>>;

/// A file that is being written; dropped, it never was.
#[derive(Debug)]
pub struct Temp {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) written: u64,
    /// What the budget counts for it.
    charged: u64,
    pub(super) published: bool,
    faults: Arc<dyn Faults>,
    budget: Arc<Budget>,
    being_written: BeingWritten,
}

impl Temp {
    /// Makes the file `path`.
    pub(super) fn create(
        path: PathBuf,
        faults: &Arc<dyn Faults>,
        budget: &Arc<Budget>,
        being_written: &BeingWritten,
    ) -> io::Result<Self> {
        budget.charge(BLOCK_BYTES)?;
        lock(being_written).insert(path.clone());
        let file = faults
            .before(Step::CreateTemp(&path))
            .and_then(|()| File::create_new(&path));
        let file = file.inspect_err(|_| {
            budget.refund(BLOCK_BYTES);
            lock(being_written).remove(&path);
        })?;
        Ok(Self {
            file,
            path,
            written: 0,
            charged: BLOCK_BYTES,
            published: false,
            faults: Arc::clone(faults),
            budget: Arc::clone(budget),
            being_written: Arc::clone(being_written),
        })
    }

    /// Where the file is while it has no name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for what is no byte of it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Write for Temp {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.faults.before(Step::Write(&self.path, bytes))?;
        let needed = self.written + bytes.len() as u64;
        if needed > self.charged {
            self.budget.charge(needed - self.charged)?;
            self.charged = needed;
        }
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published {
            self.budget.refund(self.charged);
        }
        // A killed process removes nothing; opening the store does. So a failure here is no loss either.
        if !self.published
            && self.faults.before(Step::Remove(&self.path)).is_ok()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "a temporary file stays until the next start");
        }
        lock(&self.being_written).remove(&self.path);
    }
}
