//! The life of one vertex that the first look did not find: its key, a second look, the work, the record.

use std::sync::Arc;
use std::time::Duration;

use cache::lease::Held;
use cache::records::{Inserted, RecordStore};
use proto::canonical;
use proto::definition::{InputMode, Mount, MountKind, Op, VertexId};
use proto::history::Verdict;
use proto::miss::MissReason;
use proto::record::{Alias, CacheKey, CacheRecord, Preimage};

use super::flight::{Boarding, Flight, Landed, Seat};
use super::ledger::Ran;
use super::lookup::{Known, output_of};
use super::report::Report;
use super::slot::Slot;
use super::transcript::{Listener, Transcript};
use super::{Inputs, Output, Run, Solve, agree, cache_key, explain};
use crate::event::{StepEnd, StepNumber};
use crate::layers::store_failed;
use crate::phase::Phase;
use crate::request::{Blame, BuildError, FailedStep, Place};
use crate::stack::{Layer, Stack};

/// Lines of a failed step that go into the error.
const TAIL_LINES: usize = 20;

/// Makes the output of `id`, whose inputs are done.
///
/// # Errors
/// What the work reports, with the step's name; cancellation.
pub async fn live(solve: &Solve, id: VertexId, inputs: Inputs, known: Known) -> Result<Output, BuildError> {
    let (key, preimage) = complete_key(solve, id, &inputs, known).await?;
    let below = inputs.stack(agree::root_of(solve.definition.vertex(id)));
    let forced = solve.no_cache.applies_to(&solve.definition.vertex(id).stage);
    let report = Arc::new(Report::new(solve, id));
    let wanted = Wanted {
        id,
        key,
        below: &below,
        forced,
    };
    let flight = match board(solve, &wanted, &report).await? {
        Turn::Found(output) => return Ok(*output),
        Turn::Fly(flight) => flight,
    };
    let job = Job {
        key,
        preimage,
        below,
        forced,
    };
    fly(solve, (id, inputs, job), flight, report).await
}

/// Starts the work and waits for it, or leaves it to others who want it when this build ends.
async fn fly(
    solve: &Solve,
    (id, inputs, job): (VertexId, Inputs, Job),
    flight: Flight,
    report: Arc<Report>,
) -> Result<Output, BuildError> {
    let (own, told) = (solve.clone(), Arc::clone(&report));
    let seat = flight.depart(is_for_all(solve, id), |cancel, transcript| async move {
        let solve = Solve { cancel, ..own };
        let telling = Telling {
            report: &told,
            transcript,
        };
        let output = work(&solve, id, &inputs, job, telling).await;
        if let Ok(output) = &output {
            solve.results.keep(output);
        }
        output
    });
    tokio::select! {
        () = solve.cancel.cancelled() => {
            report.end(StepEnd::Canceled);
            seat.leave().await;
            Err(BuildError::canceled())
        }
        landed = seat.landed() => {
            let nothing = || Err(BuildError::bug("a step that started was not done"));
            landed.map_or_else(nothing, |landed| landed.result)
        }
    }
}

/// Whether what it prints and a failure say something to every build that waits for this work: not if they may be due to what only
/// the client of this one has, or has not.
fn is_for_all(solve: &Solve, id: VertexId) -> bool {
    let vertex = solve.definition.vertex(id);
    let reads_client = |(input, _): &(VertexId, InputMode)| matches!(solve.definition.vertex(*input).op, Op::Local(_));
    let lent = |mount: &Mount| matches!(mount.kind, MountKind::Secret { .. } | MountKind::Ssh { .. });
    let own = match &vertex.op {
        Op::Exec(exec) => {
            exec.mounts.iter().any(lent)
                || !exec.proxy_env.is_empty()
                || !exec.extra_hosts.is_empty()
                || !exec.devices.is_empty()
        }
        _ => false,
    };
    !own && !solve.fails_alone && !vertex.inputs().iter().any(reads_client)
}

/// What is known of a vertex whose turn it is.
struct Job {
    key: CacheKey,
    preimage: Preimage,
    below: Stack,
    forced: bool,
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
    let read = agree::chains_read(&solve.definition, vertex, inputs);
    if !read.is_empty() {
        let alias = Alias { key, inputs: read };
        let records = solve.store.records();
        records
            .put_alias(cache_key::alias(vertex, &key_of), &alias)
            .map_err(|error| store_failed(&error))?;
    }
    Ok((key, preimage))
}

/// Whether the result was found after all, or this build has to make it.
enum Turn {
    Found(Box<Output>),
    Fly(Flight),
}

/// A vertex that is looked for once more.
struct Wanted<'a> {
    id: VertexId,
    key: CacheKey,
    below: &'a Stack,
    forced: bool,
}

async fn board(solve: &Solve, wanted: &Wanted<'_>, report: &Report) -> Result<Turn, BuildError> {
    let Wanted { id, key, below, forced } = *wanted;
    loop {
        let boarding = solve.flights.board(key);
        let own = solve.results.of(key).filter(|own| is_result(own, below, forced));
        let found = own.or_else(|| if forced { None } else { look_again(solve, key, below) });
        if let Some(output) = found {
            solve.results.keep(&output);
            let step = report.start();
            report.end(StepEnd::Cached);
            solve.ledger.cached(id, step, key, &output.stack);
            return Ok(Turn::Found(Box::new(output)));
        }
        match boarding {
            Boarding::Fly(flight) => return Ok(Turn::Fly(flight)),
            Boarding::Wait(seat) => {
                let Some(landed) = wait(solve, &seat, report, forced).await else {
                    report.end(StepEnd::Canceled);
                    seat.leave().await;
                    return Err(BuildError::canceled());
                };
                if let Some(error) = landed.and_then(shared_failure)
                    && !forced
                {
                    return Err(fail_too(solve, id, error, report));
                }
            }
        }
    }
}

/// Waits until somebody else's work has landed, and tells of it meanwhile, unless this build will have to do it again. Nothing if this
/// build is canceled first.
async fn wait(solve: &Solve, seat: &Seat, report: &Report, forced: bool) -> Option<Option<Landed>> {
    if forced {
        return tokio::select! {
            () = solve.cancel.cancelled() => None,
            landed = seat.landed() => Some(landed),
        };
    }
    let mut listener = Listener::new(seat.transcript(), report, &solve.events);
    let landed = tokio::select! {
        () = solve.cancel.cancelled() => None,
        landed = seat.landed() => Some(landed),
        never = listener.listen() => match never {},
    };
    listener.catch_up();
    landed
}

/// The failure of somebody else's work, if it is one of everybody.
fn shared_failure(landed: Landed) -> Option<BuildError> {
    let failure = landed.result.err().filter(|error| error.blame != Blame::Canceled);
    failure.filter(|_| landed.for_all)
}

/// Tells of a failure in the work of another build as of one of the step `id`, which is the same.
fn fail_too(solve: &Solve, id: VertexId, mut error: BuildError, report: &Report) -> BuildError {
    report.start();
    report.end(StepEnd::Failed {
        reason: String::new(),
        error: error.message.clone(),
    });
    if let Some(failed) = &mut error.step {
        failed.name.clone_from(&solve.definition.vertex(id).name);
    }
    error.place = place_of(solve, id);
    error
}

/// Whether `own`, which this build has under the same key, is the result here too: on the same layers, and of a run of this build
/// if the user wants to see one.
fn is_result(own: &Output, below: &Stack, forced: bool) -> bool {
    let chains = own.stack.chains();
    let under = chains.len().checked_sub(2).map(|index| chains[index]);
    under == below.chain() && (own.ran.is_some() || !forced)
}

fn look_again(solve: &Solve, key: CacheKey, below: &Stack) -> Option<Output> {
    solve.lease.hold(Held::Record(key));
    let record = solve.store.records().lookup(&[key]).pop()??;
    output_of(solve, below, &record)
}

/// Who is told of a step.
struct Telling<'a> {
    report: &'a Report,
    transcript: Option<Transcript>,
}

async fn work(
    solve: &Solve,
    id: VertexId,
    inputs: &Inputs,
    job: Job,
    telling: Telling<'_>,
) -> Result<Output, BuildError> {
    let Telling { report, transcript } = telling;
    let slot = tokio::select! {
        () = solve.cancel.cancelled() => return Err(BuildError::canceled()),
        slot = Slot::wait(&solve.slots) => slot.ok_or_else(BuildError::canceled)?,
    };
    let mut job = job;
    job.preimage.listing = solve.work.listing(id, inputs).await?;
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
    let step = report.start();
    if let Some(transcript) = &transcript {
        transcript.begin();
    }
    let run = Run {
        step,
        cancel: solve.cancel.clone(),
        slot,
        transcript,
    };
    let started = solve.clock.now();
    let result = solve.work.run(id, inputs, &run).await;
    let duration = solve.clock.now().saturating_sub(started);
    drop(run.slot);
    let result = result.and_then(|layer| record(solve, id, job, layer, duration));
    let (end, verdict) = end_of(&result, &reason);
    report.end(end);
    let ran = Ran {
        number: step,
        key: result.as_ref().ok().map(|output| output.key),
        verdict,
        reason,
        duration,
        diff_ids: result
            .as_ref()
            .map_or_else(|_| Vec::new(), |output| output.stack.diff_ids()),
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
    error.place = error.place.or_else(|| place_of(solve, id));
    error
}

/// The line of the step `id`.
fn place_of(solve: &Solve, id: VertexId) -> Option<Place> {
    let (line, _) = solve.definition.vertex(id).lines?;
    Some(Place { start: 0, end: 0, line })
}
