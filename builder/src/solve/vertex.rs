//! The life of one vertex that the first look did not find: its key, a second look, the work, the record.

use std::time::Duration;

use cache::lease::Held;
use cache::records::{Inserted, RecordStore};
use proto::canonical;
use proto::definition::{Op, VertexId};
use proto::history::Verdict;
use proto::miss::MissReason;
use proto::record::{CacheKey, CacheRecord, Preimage};

use super::flight::{Boarding, Flight};
use super::ledger::Ran;
use super::lookup::{Known, output_of};
use super::{Inputs, Output, Solve, cache_key, explain};
use crate::event::{StepEnd, StepNumber};
use crate::layers::store_failed;
use crate::request::{Blame, BuildError, FailedStep};
use crate::stack::{Layer, Stack};

/// Lines of a failed step that go into the error.
const TAIL_LINES: usize = 20;

/// Makes the output of `id`, whose inputs are done.
///
/// # Errors
/// What the work reports, with the step's name; cancellation.
pub async fn live(solve: &Solve, id: VertexId, inputs: Inputs, known: Known) -> Result<Output, BuildError> {
    let (key, preimage) = complete_key(solve, id, &inputs, known).await?;
    let below = inputs.stack(root_of(solve, id));
    let forced = solve.no_cache.applies_to(&solve.definition.vertex(id).stage);
    let flight = match board(solve, id, key, &below, forced).await? {
        Turn::Found(output) => return Ok(*output),
        Turn::Fly(flight) => flight,
    };
    let output = work(
        solve,
        id,
        &inputs,
        Job {
            key,
            preimage,
            below,
            forced,
        },
    )
    .await;
    drop(flight);
    output
}

/// What is known of a vertex whose turn it is.
struct Job {
    key: CacheKey,
    preimage: Preimage,
    below: Stack,
    forced: bool,
}

fn root_of(solve: &Solve, id: VertexId) -> Option<VertexId> {
    match &solve.definition.vertex(id).op {
        Op::Exec(exec) => exec.root,
        Op::File(file) => file.root,
        Op::Image(_) | Op::Local(_) | Op::Http(_) | Op::Git(_) => None,
    }
}

/// The key with all content in it. What it took a stage's files to find out is remembered, so that the next build need not.
async fn complete_key(
    solve: &Solve,
    id: VertexId,
    inputs: &Inputs,
    known: Known,
) -> Result<(CacheKey, Preimage), BuildError> {
    if let Known {
        key: Some(key),
        preimage: Some(preimage),
    } = known
    {
        return Ok((key, preimage));
    }
    let vertex = solve.definition.vertex(id);
    let key_of = |input: VertexId| {
        inputs
            .get(input)
            .expect("a vertex starts when all its inputs are done")
            .key
    };
    let content = solve.work.content(id, inputs).await?;
    let preimage = cache_key::with_content(cache_key::fields(vertex, &key_of), content);
    let key = canonical::key(&preimage);
    let alias = cache_key::alias(vertex, &key_of);
    solve
        .store
        .records()
        .put_alias(alias, key)
        .map_err(|error| store_failed(&error))?;
    Ok((key, preimage))
}

/// Whether the result was found after all, or this build has to make it.
enum Turn {
    Found(Box<Output>),
    Fly(Flight),
}

async fn board(solve: &Solve, id: VertexId, key: CacheKey, below: &Stack, forced: bool) -> Result<Turn, BuildError> {
    loop {
        let boarding = solve.flights.board(key);
        if !forced && let Some(output) = look_again(solve, key, below) {
            report_cached(solve, id, key);
            return Ok(Turn::Found(Box::new(output)));
        }
        match boarding {
            Boarding::Fly(flight) => return Ok(Turn::Fly(flight)),
            Boarding::Wait(landing) => {
                tokio::select! {
                    () = solve.cancel.cancelled() => return Err(BuildError::canceled()),
                    () = landing.wait() => {}
                }
            }
        }
    }
}

fn look_again(solve: &Solve, key: CacheKey, below: &Stack) -> Option<Output> {
    let record = solve.store.records().lookup(&[key]).pop()??;
    output_of(solve, below, &record)
}

fn report_cached(solve: &Solve, id: VertexId, key: CacheKey) {
    let step = start_step(solve, id);
    solve.events.finish_step(step, StepEnd::Cached, Duration::ZERO);
    solve.ledger.cached(id, step, key);
}

fn start_step(solve: &Solve, id: VertexId) -> StepNumber {
    let vertex = solve.definition.vertex(id);
    solve
        .events
        .start_step(&vertex.name, vertex.lines.map_or(0, |(first, _)| first))
}

async fn work(solve: &Solve, id: VertexId, inputs: &Inputs, job: Job) -> Result<Output, BuildError> {
    let permit = tokio::select! {
        () = solve.cancel.cancelled() => return Err(BuildError::canceled()),
        permit = solve.slots.acquire() => permit.map_err(|_| BuildError::canceled())?,
    };
    let reason = explain::why(
        solve,
        id,
        inputs,
        &explain::Miss {
            key: job.key,
            preimage: &job.preimage,
            below: &job.below,
        },
    );
    let step = start_step(solve, id);
    let started = solve.clock.now();
    let result = solve.work.run(id, inputs, step).await;
    let duration = solve.clock.now().saturating_sub(started);
    drop(permit);
    let result = result.and_then(|layer| record(solve, id, job, layer, duration));
    let (end, verdict) = end_of(&result, &reason);
    solve.events.finish_step(step, end, duration);
    let ran = Ran {
        number: step,
        key: result.as_ref().ok().map(|output| output.key),
        verdict,
        reason,
        duration,
    };
    solve.ledger.ran(id, ran);
    result.map_err(|error| match error.blame {
        Blame::Canceled => error,
        _ => with_step(solve, id, step, error),
    })
}

/// How a step ended, for those who watch and for those who ask later.
fn end_of(result: &Result<Output, BuildError>, reason: &MissReason) -> (StepEnd, Verdict) {
    let reason = reason.to_string();
    match result {
        Ok(_) => (StepEnd::Done { reason }, Verdict::Ran),
        Err(error) if error.blame == Blame::Canceled => (StepEnd::Canceled, Verdict::Canceled),
        Err(error) => {
            let error = error.message.clone();
            (StepEnd::Failed { reason, error }, Verdict::Failed)
        }
    }
}

/// Writes the record, after the bytes it names. Of two writers the first one wins and the other takes over its result, unless
/// the user asked for a new one.
fn record(solve: &Solve, id: VertexId, job: Job, layer: Layer, duration: Duration) -> Result<Output, BuildError> {
    let stack = job.below.with(layer.clone());
    let record = CacheRecord {
        key: job.key,
        layer: layer.info,
        chain: stack.chain().expect("a layer was added just above"),
        created_ms: solve.clock.now_ms(),
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        step: solve.definition.vertex(id).name.clone(),
    };
    let records = solve.store.records();
    solve.lease.hold(Held::Record(job.key));
    records
        .put_preimage(job.key, &job.preimage)
        .map_err(|error| store_failed(&error))?;
    if let Inserted::Theirs(theirs) = records.insert(&record).map_err(|error| store_failed(&error))? {
        if !job.forced
            && let Some(output) = output_of(solve, &job.below, &theirs)
        {
            return Ok(output);
        }
        // Theirs lies on another stack, lost its bytes, or is what the user did not want: ours takes its place.
        records.remove(job.key).map_err(|error| store_failed(&error))?;
        records.insert(&record).map_err(|error| store_failed(&error))?;
    }
    let step = solve.definition.vertex(id).name.clone();
    Ok(Output {
        stack,
        key: job.key,
        created_ms: Some(record.created_ms),
        ran: Some(step),
    })
}

fn with_step(solve: &Solve, id: VertexId, step: StepNumber, mut error: BuildError) -> BuildError {
    let exit_code = error.step.as_ref().and_then(|step| step.exit_code);
    let name = solve.definition.vertex(id).name.clone();
    error.step = Some(Box::new(FailedStep {
        name,
        log_tail: solve.events.log_tail(step, TAIL_LINES),
        exit_code,
    }));
    if error.place.is_none() {
        error.place = solve
            .definition
            .vertex(id)
            .lines
            .map(|(line, _)| crate::request::Place { start: 0, end: 0, line });
    }
    error
}
