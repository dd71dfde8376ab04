//! What the user is told of a step whose work may be another build's, or may go on for others when this build has ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::definition::VertexId;

use super::Solve;
use crate::event::{EventLog, StepEnd, StepNumber};
use crate::host::Clock;

/// One step in the event log of one build. Its start and its end are told once.
#[derive(Debug)]
pub struct Report {
    events: Arc<EventLog>,
    clock: Clock,
    name: String,
    line: u32,
    told: Mutex<Told>,
}

#[derive(Debug, Clone, Copy)]
enum Told {
    Nothing,
    Start(StepNumber, Duration),
    End,
}

impl Report {
    /// Of the step `id`, of which nothing was told yet.
    #[must_use]
    pub fn new(solve: &Solve, id: VertexId) -> Self {
        let vertex = solve.definition.vertex(id);
        Self {
            events: Arc::clone(&solve.events),
            clock: solve.clock.clone(),
            name: vertex.name.clone(),
            line: vertex.lines.map_or(0, |(first, _)| first),
            told: Mutex::new(Told::Nothing),
        }
    }

    /// The step starts now, if it has not yet. Nobody's step if its build does not want it any more.
    pub fn start(&self) -> StepNumber {
        let mut told = self.told();
        match *told {
            Told::Nothing => {}
            Told::Start(step, _) => return step,
            Told::End => return StepNumber::NONE,
        }
        let step = self.events.start_step(&self.name, self.line);
        *told = Told::Start(step, self.clock.now());
        step
    }

    /// The step has ended, or the build does not want it any more.
    pub fn end(&self, end: StepEnd) {
        let mut told = self.told();
        if let Told::Start(step, started) = *told {
            let took = self.clock.now().saturating_sub(started);
            self.events.finish_step(step, end, took);
        }
        *told = Told::End;
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
