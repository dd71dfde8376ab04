//! The steps of writing, each a place where a process can die or a disk can refuse. Tests count, record, refuse and kill with it.

use std::io;
use std::path::Path;

/// A step of writing, with the absolute paths that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// A directory is made, with those above it that are missing.
    MakeDir(&'a Path),
    /// A file is made, to be written.
    CreateTemp(&'a Path),
    /// Bytes are added to a file.
    Write(&'a Path, &'a [u8]),
    /// The bytes of one file are synced.
    SyncFile(&'a Path),
    /// A file or directory gets another name, in the place of what had it.
    Rename {
        /// Its name until now.
        from: &'a Path,
        /// Its name from now on.
        to: &'a Path,
    },
    /// A directory is synced: the names in it.
    SyncDir(&'a Path),
    /// The whole file system is synced.
    SyncFs,
    /// A file, or a directory with all that is in it, is removed.
    Remove(&'a Path),
}

/// Told of every step before it happens; an error takes its place.
pub trait Faults: std::fmt::Debug + Send + Sync {
    /// Lets `step` happen or not.
    ///
    /// # Errors
    /// The error that the step is to fail with.
    fn before(&self, step: Step<'_>) -> io::Result<()>;
}

/// No faults.
#[derive(Debug)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn before(&self, _: Step<'_>) -> io::Result<()> {
        Ok(())
    }
}
