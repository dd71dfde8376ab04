//! The life of one vertex that the first look did not find: its key, a second look, the work, the record.

use std::time::Duration;

use cache::lease::Held;
use cache::records::{Inserted, RecordStore};
use proto::canonical;
use proto::definition::{Op, Vertex, VertexId};
use proto::digest::ContentDigest;
use proto::platform::Platform;
use proto::record::{CacheKey, CacheRecord, Preimage};

use super::flight::{Boarding, Flight};
use super::lookup::{Known, output_of};
use super::{Inputs, Output, Solve, cache_key, explain};
use crate::event::{StepEnd, StepNumber};
use crate::layers::store_failed;
use crate::phase::Phase;
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
    let _phase = Phase::Key.start();
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
            report_cached(solve, id);
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

fn report_cached(solve: &Solve, id: VertexId) {
    let step = start_step(solve, id);
    solve.events.finish_step(step, StepEnd::Cached, Duration::ZERO);
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
    let identity = step_identity(solve, id);
    let reason = explain::why(
        solve,
        id,
        inputs,
        &explain::Miss {
            identity,
            key: job.key,
            preimage: &job.preimage,
        },
    );
    let step = start_step(solve, id);
    let started = solve.clock.now();
    let result = solve.work.run(id, inputs, step).await;
    let duration = solve.clock.now().saturating_sub(started);
    drop(permit);
    let result = result.and_then(|layer| record(solve, id, job, layer, duration));
    match result {
        Ok(output) => {
            solve
                .store
                .records()
                .put_last_key(identity, output.key)
                .map_err(|error| store_failed(&error))?;
            solve.events.finish_step(
                step,
                StepEnd::Done {
                    reason: reason.to_string(),
                },
                duration,
            );
            Ok(output)
        }
        Err(error) if error.blame == Blame::Canceled => {
            solve.events.finish_step(step, StepEnd::Canceled, duration);
            Err(error)
        }
        Err(error) => {
            solve.events.finish_step(
                step,
                StepEnd::Failed {
                    error: error.message.clone(),
                },
                duration,
            );
            Err(with_step(solve, id, step, error))
        }
    }
}

/// Writes the record, after the bytes it names. Of two writers the first one wins and the other takes over its result, unless
/// the user asked for a new one.
fn record(solve: &Solve, id: VertexId, job: Job, layer: Layer, duration: Duration) -> Result<Output, BuildError> {
    let _phase = Phase::Record.start();
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

/// Names "this step of this Dockerfile", whatever it says today: its stage, the platforms it is for, and its position among
/// such steps, so that a build for one platform does not disturb what is known of the steps of another.
fn step_identity(solve: &Solve, id: VertexId) -> ContentDigest {
    fn series(vertex: &Vertex) -> (&str, &Platform, &str) {
        (&vertex.stage, &vertex.platform, image_platform(&vertex.name))
    }
    let series_of_step = series(solve.definition.vertex(id));
    let position = solve.definition.vertices[..id.0 as usize]
        .iter()
        .filter(|other| series(other) == series_of_step)
        .count();
    let (stage, platform, target) = series_of_step;
    ContentDigest::of(format!("{}\0{stage}\0{platform}\0{target}\0{position}", solve.project).as_bytes())
}

/// `arm64` of `[linux/amd64->arm64 build 2/3] RUN …`: steps of a stage that differ by the image they work for are told apart by
/// nothing but this. Empty for all others.
fn image_platform(name: &str) -> &str {
    let first = name.strip_prefix('[').and_then(|rest| rest.split([' ', ']']).next());
    first
        .and_then(|first| first.split_once("->"))
        .map_or("", |(_, target)| target)
}

#[cfg(test)]
mod tests {
    use super::image_platform;

    #[test]
    fn the_platform_of_the_image_is_read_from_the_name_of_a_step() {
        assert_eq!(image_platform("[linux/amd64->arm/v7 build 2/3] RUN a->b"), "arm/v7");
        assert_eq!(image_platform("[linux/amd64 build 2/3] RUN a->b"), "");
        assert_eq!(image_platform("[2/3] RUN a->b"), "");
        assert_eq!(image_platform("FROM a->b"), "");
    }
}
