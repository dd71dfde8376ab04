//! Reading a blob while it is written, so that whoever unpacks a layer does not wait for the last byte of its download.
//!
//! A [`Follower`] gives bytes as they come. It keeps back the newest one until the blob is committed, so that nobody reads to
//! the end of bytes whose digest was not compared; if the blob is given up, reading fails.

use std::fmt;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex};

use crate::durable::lock;

/// Reads what a sink has got, at any place of it.
pub trait Written: Send {
    /// Bytes from `at` on into `buffer`, as [`Read::read`] does.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
}

/// How far a blob is.
#[derive(Debug, Default, Clone, Copy)]
struct State {
    written: u64,
    /// Whether it was committed, once it ended.
    committed: Option<bool>,
}

impl State {
    /// How many bytes may be read.
    fn readable(self) -> u64 {
        match self.committed {
            Some(true) => self.written,
            _ => self.written.saturating_sub(1),
        }
    }
}

/// The fate of a blob that is being written.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<(Mutex<State>, Condvar)>);

impl Progress {
    /// Waits for the end; whether it became a blob.
    #[must_use]
    pub fn was_committed(&self) -> bool {
        self.wait(|state| state.committed.is_some()).committed == Some(true)
    }

    fn wait(&self, enough: impl Fn(State) -> bool) -> State {
        let (state, changed) = &*self.0;
        let state = changed.wait_while(lock(state), |state| !enough(*state));
        *state.unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let (state, changed) = &*self.0;
        change(&mut lock(state));
        changed.notify_all();
    }
}

/// The writer's end: tells of bytes and of the end. Dropped before [`Told::committed`], it says that the blob was given up.
#[derive(Debug, Default)]
pub(super) struct Told(Option<Progress>);

impl Told {
    /// Whom to ask; `written` bytes are there by now.
    pub(super) fn progress(&mut self, written: u64) -> Progress {
        let progress = self.0.get_or_insert_default();
        progress.change(|state| state.written = written);
        progress.clone()
    }

    pub(super) fn wrote(&self, written: u64) {
        if let Some(progress) = &self.0 {
            progress.change(|state| state.written = written);
        }
    }

    pub(super) fn committed(mut self) {
        if let Some(progress) = self.0.take() {
            progress.change(|state| state.committed = Some(true));
        }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(progress) = self.0.take() {
            progress.change(|state| state.committed = Some(false));
        }
    }
}

/// Reads a blob that is being written, from its first byte.
pub struct Follower {
    source: Box<dyn Written>,
    progress: Progress,
    at: u64,
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Follower {
    pub(super) fn new(source: Box<dyn Written>, progress: Progress) -> Self {
        Self {
            source,
            progress,
            at: 0,
        }
    }

    /// What becomes of the blob.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }
}

impl Read for Follower {
    /// Waits for bytes; fails when the writer gave up.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let at = self.at;
        let state = self
            .progress
            .wait(|state| state.readable() > at || state.committed.is_some());
        if state.committed == Some(false) {
            return Err(io::Error::other("the blob was given up while it was written"));
        }
        let most = usize::try_from(state.readable() - at).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let count = self.source.read_at(&mut buffer[..most], at)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        Ok(count)
    }
}
