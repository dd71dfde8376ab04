//! The event log of one build: everything it reports, numbered without gaps, for any number of readers that may come late,
//! leave and resume at a cursor.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use proto::v1::{self, event::Kind};
use tokio::sync::watch;

use crate::host::Clock;

/// Output of one step that is kept and shown; what comes after is dropped with a note.
pub const STEP_LOG_LIMIT: usize = 16 << 20;

/// What an event takes beside the output in it: its fields, its build's ID, the name of a step.
const EVENT_BYTES: usize = size_of::<v1::Event>() + 128;

/// Events of one build.
#[derive(Debug)]
pub struct EventLog {
    build_id: String,
    clock: Clock,
    state: Mutex<State>,
    /// Number of events published; readers wait on it.
    length: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    events: Vec<v1::Event>,
    steps: u32,
    finished: bool,
}

/// Number of a step within its build, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepNumber(pub u32);

impl StepNumber {
    /// Work that belongs to no step: keys are computed before steps start.
    pub const NONE: Self = Self(0);
}

impl EventLog {
    /// An empty log.
    #[must_use]
    pub fn new(build_id: String, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            build_id,
            clock,
            state: Mutex::default(),
            length: watch::Sender::new(0),
        })
    }

    /// About how many bytes of memory its events take.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let bytes = |event: &v1::Event| match &event.kind {
            // What steps print is nearly all there ever is.
            Some(Kind::StepLog(log)) => log.data.len() + EVENT_BYTES,
            _ => EVENT_BYTES,
        };
        self.state().events.iter().map(bytes).sum()
    }

    /// Appends an event. After [`Kind::Finished`] nothing is taken any more.
    pub fn publish(&self, kind: Kind) {
        let mut state = self.state();
        if state.finished {
            return;
        }
        state.finished = matches!(kind, Kind::Finished(_));
        let seq = state.events.len() as u64;
        let time_ms = self.clock.now_ms();
        state.events.push(v1::Event {
            build_id: self.build_id.clone(),
            seq,
            time_ms,
            kind: Some(kind),
        });
        drop(state);
        self.length.send_replace(seq + 1);
    }

    /// Opens a step and numbers it.
    pub fn start_step(&self, name: &str, line: u32) -> StepNumber {
        let mut state = self.state();
        state.steps += 1;
        let step = state.steps;
        drop(state);
        self.publish(Kind::StepStarted(v1::StepStarted {
            step,
            name: name.to_owned(),
            line,
        }));
        StepNumber(step)
    }

    /// Closes a step.
    pub fn finish_step(&self, step: StepNumber, end: StepEnd, duration: Duration) {
        use v1::step_finished::Status;
        let (status, reason, error) = match end {
            StepEnd::Done { reason } => (Status::Done, reason, String::new()),
            StepEnd::Cached => (Status::Cached, String::new(), String::new()),
            StepEnd::Failed { reason, error } => (Status::Error, reason, error),
            StepEnd::Canceled => (Status::Canceled, String::new(), String::new()),
        };
        let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let finished = v1::StepFinished {
            step: step.0,
            status: status.into(),
            reason,
            error,
            duration_ms,
        };
        self.publish(Kind::StepFinished(finished));
    }

    /// Tells how far a transfer of a step is.
    pub fn progress(&self, step: StepNumber, what: &str, current: u64, total: u64) {
        if step == StepNumber::NONE {
            return;
        }
        let done = total > 0 && current >= total;
        let what = what.to_owned();
        self.publish(Kind::StepProgress(v1::StepProgress {
            step: step.0,
            what,
            current,
            total,
            done,
        }));
    }

    /// All events from `cursor` on, then those to come; ends after the last one.
    pub fn read_from(self: &Arc<Self>, cursor: u64) -> impl Stream<Item = v1::Event> + Send + use<> {
        let log = Arc::clone(self);
        let length = self.length.subscribe();
        futures_util::stream::unfold((log, length, cursor), |(log, mut length, cursor)| async move {
            loop {
                let (event, finished) = {
                    let state = log.state();
                    let index = usize::try_from(cursor).unwrap_or(usize::MAX);
                    (state.events.get(index).cloned(), state.finished)
                };
                match event {
                    Some(event) => return Some((event, (log, length, cursor + 1))),
                    None if finished => return None,
                    // The sender lives in the log that we hold, so this only fails when there is nothing left to wait for.
                    None => length.changed().await.ok()?,
                }
            }
        })
    }

    /// The last lines that a step printed, oldest first, for a failure message.
    #[must_use]
    pub fn log_tail(&self, step: StepNumber, lines: usize) -> Vec<String> {
        let state = self.state();
        let mut text = Vec::new();
        for event in &state.events {
            if let Some(Kind::StepLog(log)) = &event.kind
                && log.step == step.0
            {
                text.extend_from_slice(&log.data);
            }
        }
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Publishing does nothing that could leave the list half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepEnd {
    /// It ran.
    Done {
        /// Why it was not taken from the cache; empty for steps that are never cached.
        reason: String,
    },
    /// Its result was known.
    Cached,
    /// It ran and failed.
    Failed {
        /// As above.
        reason: String,
        /// One line.
        error: String,
    },
    /// The build ended first.
    Canceled,
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn finished() -> Kind {
        Kind::Finished(v1::Finished { outcome: None })
    }

    #[tokio::test]
    async fn a_late_reader_sees_everything_from_its_cursor() {
        let log = EventLog::new("b".into(), Clock::fixed(7));
        let step = log.start_step("one", 1);
        log.finish_step(step, StepEnd::Cached, Duration::ZERO);
        log.publish(finished());
        let seqs: Vec<u64> = log.read_from(1).map(|event| event.seq).collect().await;
        assert_eq!(seqs, [1, 2]);
    }

    #[tokio::test]
    async fn an_early_reader_waits_for_what_comes() {
        let log = EventLog::new("b".into(), Clock::fixed(7));
        let reader = tokio::spawn(log.read_from(0).map(|event| event.seq).collect::<Vec<_>>());
        tokio::task::yield_now().await;
        log.start_step("one", 1);
        log.publish(finished());
        assert_eq!(reader.await.unwrap(), [0, 1]);
    }

    #[test]
    fn the_tail_joins_chunks_into_lines() {
        let log = EventLog::new("b".into(), Clock::fixed(7));
        let step = log.start_step("one", 1);
        for data in ["a\nb", "c\nd\n"] {
            log.publish(Kind::StepLog(v1::StepLog {
                step: step.0,
                stream: 1,
                data: data.into(),
            }));
        }
        assert_eq!(log.log_tail(step, 2), ["bc", "d"]);
    }
}
