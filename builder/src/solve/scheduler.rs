//! The one task that owns the state of a solve. It starts work and takes in results; it never does work itself.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::definition::{Op, VertexId};
use tokio::task::{JoinError, JoinSet};

use super::lookup::{self, Looked};
use super::state::State;
use super::{Output, Solve, vertex};
use crate::event::StepEnd;
use crate::phase::Phase;
use crate::request::BuildError;

/// Makes `targets` and returns the outputs of everything that was needed for them, hits included.
///
/// # Errors
/// The first failure. By then everything else that was running has been ended and waited for.
pub async fn run(solve: &Solve, targets: &[VertexId]) -> Result<BTreeMap<VertexId, Output>, BuildError> {
    let looking = Phase::Lookup.start();
    let Looked { known, hits } = lookup::look(solve, targets).await?;
    looking.end();
    report_hits(solve, &hits);
    let (mut state, ready) = State::new(&solve.definition, targets, &hits);
    let mut running: JoinSet<(VertexId, Result<Output, BuildError>)> = JoinSet::new();
    let start = |id: VertexId, state: &State, running: &mut JoinSet<_>| {
        let inputs = state.inputs_of(&solve.definition, id);
        let known = lookup::still_known(solve, id, &inputs, &known);
        let solve = solve.clone();
        running.spawn(async move { (id, vertex::live(&solve, id, inputs, known).await) });
    };
    for id in ready {
        start(id, &state, &mut running);
    }
    if !running.is_empty() {
        for (id, output) in &hits {
            solve.work.made(*id, &output.stack);
        }
    }
    while let Some(joined) = running.join_next().await {
        match flatten(joined) {
            Ok((id, output)) => {
                solve.work.made(id, &output.stack);
                for id in state.done(id, output) {
                    start(id, &state, &mut running);
                }
            }
            Err(error) => {
                solve.cancel.cancel();
                // Steps see the cancellation, end their processes and return; nothing of them is left afterwards.
                while running.join_next().await.is_some() {}
                return Err(error);
            }
        }
    }
    let mut outputs = state.into_outputs();
    for (id, output) in hits {
        outputs.entry(id).or_insert(output);
    }
    Ok(outputs)
}

fn flatten(
    joined: Result<(VertexId, Result<Output, BuildError>), JoinError>,
) -> Result<(VertexId, Output), BuildError> {
    match joined {
        Ok((id, result)) => result.map(|output| (id, output)),
        Err(error) => Err(BuildError::bug(format!("a step ended in a way it must not: {error}"))),
    }
}

/// Steps that need not run are told at once, in the order of the Dockerfile.
fn report_hits(solve: &Solve, hits: &BTreeMap<VertexId, Output>) {
    for (id, output) in hits {
        let vertex = solve.definition.vertex(*id);
        let end = match &vertex.op {
            // Told when they were walked or fetched.
            Op::Local(_) | Op::Http(_) | Op::Git(_) => continue,
            Op::Image(_) if !solve.work.is_present(&output.stack) => StepEnd::Done { reason: String::new() },
            Op::Image(_) | Op::Exec(_) | Op::File(_) => StepEnd::Cached,
        };
        let step = solve
            .events
            .start_step(&vertex.name, vertex.lines.map_or(0, |(first, _)| first));
        solve.events.finish_step(step, end, Duration::ZERO);
        solve.ledger.cached(*id, step, output.key, &output.stack);
    }
}
