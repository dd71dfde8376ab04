//! What a step prints, for builds that wait for it because they want the same.
//!
//! Kept as long as the step runs, up to what a step may print at all. Who joins late hears all of it from the start.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::v1::{self, event::Kind};
use tokio::sync::watch;

use super::report::Report;
use crate::event::EventLog;

/// What one step has printed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Transcript(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    said: Mutex<Said>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Said {
    has_begun: bool,
    pieces: Vec<Piece>,
}

/// Output, cut anywhere: the number of its stream, and its bytes.
type Piece = (u32, Bytes);

impl Transcript {
    /// The step runs from now on.
    pub fn begin(&self) {
        self.said().has_begun = true;
        self.0.changed.send_replace(());
    }

    /// The step has printed something.
    pub fn say(&self, stream: u32, bytes: Bytes) {
        self.said().pieces.push((stream, bytes));
        self.0.changed.send_replace(());
    }

    /// What was said after the first `heard` pieces; nothing if the step does not run yet.
    fn since(&self, heard: usize) -> Option<Vec<Piece>> {
        let said = self.said();
        said.has_begun
            .then(|| said.pieces.get(heard..).unwrap_or_default().to_vec())
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A build that hears of a step which another one has started.
#[derive(Debug)]
pub struct Listener<'a> {
    transcript: Transcript,
    heard: usize,
    report: &'a Report,
    events: &'a EventLog,
}

impl<'a> Listener<'a> {
    /// Tells `events` of the step, as `report` names it.
    #[must_use]
    pub fn new(transcript: Transcript, report: &'a Report, events: &'a EventLog) -> Self {
        Self {
            transcript,
            heard: 0,
            report,
            events,
        }
    }

    /// Passes on what is said, until this is dropped.
    pub async fn listen(&mut self) -> Infallible {
        let mut changed = self.transcript.0.changed.subscribe();
        loop {
            self.catch_up();
            if changed.changed().await.is_err() {
                // The sender lives in the transcript that we hold.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Passes on what was said until now.
    pub fn catch_up(&mut self) {
        let Some(pieces) = self.transcript.since(self.heard) else {
            return;
        };
        self.heard += pieces.len();
        let step = self.report.start().0;
        for (stream, bytes) in pieces {
            let data = bytes.to_vec();
            self.events.publish(Kind::StepLog(v1::StepLog { step, stream, data }));
        }
    }
}
