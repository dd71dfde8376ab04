//! `store verify` of the admin service: findings as they come, progress now and then.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cache::verify::{Event, Finding, Progress, Remedy, Repair, Summary, VerifyError};
use proto::v1;
use proto::v1::verify_store_reply::Kind;
use tokio::sync::mpsc;
use tonic::Status;

use super::Shared;
use crate::room::SnapshotsOf;

/// Messages that wait for a slow client; reading waits with them.
const QUEUE: usize = 64;
/// Time between two words on progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

type Reply = Result<v1::VerifyStoreReply, Status>;

/// Starts reading the store, in the background; it ends when nobody listens any more, or the server ends.
pub(super) fn verify(shared: &Arc<Shared>, repair: bool) -> mpsc::Receiver<Reply> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let repair = if repair { Repair::Yes } else { Repair::No };
    let work = Arc::clone(shared);
    shared.tasks.spawn_blocking(move || {
        let outcome = read_all(&work, repair, &sender);
        let last = match outcome {
            Ok(summary) => Ok(reply(Kind::Summary(summary))),
            Err(VerifyError::Stopped) => Err(Status::cancelled("the store was not read to its end")),
            Err(error) => Err(Status::internal(error.to_string())),
        };
        // Whoever went does not want to know.
        drop(sender.blocking_send(last));
        work.touch();
    });
    receiver
}

fn read_all(
    shared: &Shared,
    repair: Repair,
    sender: &mpsc::Sender<Reply>,
) -> Result<v1::verify_store_reply::Summary, VerifyError> {
    let layers = &shared.host.layers;
    // First of all: what is durable is in its place, and only what is in its place is read.
    if let Err(error) = layers.make_durable() {
        tracing::warn!(%error, "what is pending is not verified");
    }
    let mut told = Instant::now();
    let mut watch = |event: Event| {
        let message = match event {
            Event::Found(finding) => Kind::Finding(wire(finding)),
            Event::Progress(progress) if told.elapsed() >= PROGRESS_EVERY => {
                told = Instant::now();
                // A check of a large store takes longer than a server waits for work.
                shared.touch();
                Kind::Progress(progress_wire(progress))
            }
            Event::Progress(_) if sender.is_closed() || shared.shutdown.is_cancelled() => {
                return ControlFlow::Break(());
            }
            Event::Progress(_) => return ControlFlow::Continue(()),
        };
        match sender.blocking_send(Ok(reply(message))) {
            Ok(()) if !shared.shutdown.is_cancelled() => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    };
    let summary = shared.host.store.verify(&SnapshotsOf(layers), repair, &mut watch)?;
    Ok(summary_wire(summary))
}

fn reply(kind: Kind) -> v1::VerifyStoreReply {
    v1::VerifyStoreReply { kind: Some(kind) }
}

fn progress_wire(progress: Progress) -> v1::verify_store_reply::Progress {
    v1::verify_store_reply::Progress {
        part: progress.part.name().to_owned(),
        done: progress.done,
        total: progress.total,
        bytes: progress.bytes,
    }
}

fn wire(finding: Finding) -> v1::verify_store_reply::Finding {
    v1::verify_store_reply::Finding {
        wrong: finding.wrong.name().to_owned(),
        part: finding.part.name().to_owned(),
        name: finding.name,
        detail: finding.detail,
        needed_by: finding.needed_by,
        remedy: finding.remedy.name().to_owned(),
        failure: match finding.remedy {
            Remedy::Failed(why) => why,
            Remedy::None | Remedy::SetAside | Remedy::Removed | Remedy::Rebuilt => String::new(),
        },
    }
}

fn summary_wire(summary: Summary) -> v1::verify_store_reply::Summary {
    v1::verify_store_reply::Summary {
        files: summary.files,
        bytes: summary.bytes,
        damaged: summary.damaged,
        missing: summary.missing,
        left_over: summary.left_over,
        open: summary.open,
        in_use: summary.in_use,
        unchecked: summary.unchecked,
        set_aside: summary.set_aside,
    }
}
