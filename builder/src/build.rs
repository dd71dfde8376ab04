//! One build: plan, solve, export, under one lease. The table of contents of this crate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cache::lease::Lease;
use cache::registry::RegistryAccess;
use proto::definition::{Network, VertexId};
use proto::entitlement::{Entitlement, Entitlements};
use proto::v1;
use tokio_util::sync::CancellationToken;

use crate::event::{EventLog, StepEnd, StepNumber};
use crate::export::{self, bundle::Made};
use crate::fetch;
use crate::host::Host;
use crate::op::work::BuildWork;
use crate::plan::{self, Planned};
use crate::platforms::Shape;
use crate::request::{Blame, BuildError, BuildRequest};
use crate::session::Session;
use crate::solve::{self, Solve};

/// What every part of one build may use.
#[derive(Debug, Clone)]
pub struct Job {
    /// Handles of this machine.
    pub host: Host,
    /// The client.
    pub session: Arc<Session>,
    /// Where to report.
    pub events: Arc<EventLog>,
    /// Ends the build.
    pub cancel: CancellationToken,
    /// Registries, with the client's logins.
    pub registry: RegistryAccess,
}

impl Job {
    /// The surroundings of one build or transfer.
    #[must_use]
    pub fn new(
        host: &Host,
        session: &Arc<Session>,
        events: &Arc<EventLog>,
        cancel: &CancellationToken,
        insecure_registries: &[String],
    ) -> Self {
        Self {
            registry: fetch::access(&host.registry, session, insecure_registries),
            host: host.clone(),
            session: Arc::clone(session),
            events: Arc::clone(events),
            cancel: cancel.clone(),
        }
    }

    /// Runs `work` as a step of its own that no line of the Dockerfile asks for: told when it starts, timed, told how it ended.
    ///
    /// # Errors
    /// What `work` reports.
    pub async fn step<T, F>(&self, name: &str, work: impl FnOnce(StepNumber) -> F) -> Result<T, BuildError>
    where
        F: Future<Output = Result<T, BuildError>>,
    {
        let mut open = OpenStep {
            job: self,
            step: self.events.start_step(name, 0),
            started: self.host.clock.now(),
            ended: false,
        };
        let result = work(open.step).await;
        let end = match &result {
            Ok(_) => StepEnd::Done { reason: String::new() },
            Err(error) if error.blame == Blame::Canceled => StepEnd::Canceled,
            Err(error) => StepEnd::Failed {
                error: error.message.clone(),
            },
        };
        open.end(end);
        result
    }
}

/// A step that runs. Work beside work that fails is dropped in the middle: then the step was cancelled.
struct OpenStep<'a> {
    job: &'a Job,
    step: StepNumber,
    started: Duration,
    ended: bool,
}

impl OpenStep<'_> {
    fn end(&mut self, end: StepEnd) {
        if !std::mem::replace(&mut self.ended, true) {
            let took = self.job.host.clock.now().saturating_sub(self.started);
            self.job.events.finish_step(self.step, end, took);
        }
    }
}

impl Drop for OpenStep<'_> {
    fn drop(&mut self) {
        self.end(StepEnd::Canceled);
    }
}

/// How often a build starts again because bytes of the store turned out to be damaged. Each time at least one damaged blob is out
/// of the way.
const REWINDS: u32 = 64;

/// Builds what `request` asks for and returns what the client prints.
///
/// Bytes of the store that turn out to be damaged or gone are never an error of the build: they have been set aside when they were
/// met, so the build starts again, finds them missing, and makes them. A build that finds no room starts again once, with what it
/// made by then, after everything was collected that nobody uses.
///
/// # Errors
/// The first failure, whosever fault. Nothing of the build is left running then.
pub async fn build(
    request: &BuildRequest,
    session: &Arc<Session>,
    host: &Host,
    events: &Arc<EventLog>,
    cancel: &CancellationToken,
) -> Result<v1::Success, BuildError> {
    let lease = Arc::new(host.store.lease());
    check_entitlements(request, session, &host.entitlements)?;
    let job = Job::new(host, session, events, cancel, &request.insecure_registries);
    let mut room_was_made = false;
    let planned = match plan::make(request, &job, &lease).await {
        Err(error) if make_room(&error, &job, &mut room_was_made).await => plan::make(request, &job, &lease).await,
        planned => planned,
    }?;
    for _ in 0..REWINDS {
        // A failure cancels the steps beside it; the token of the build itself stays as the client left it.
        let attempt = Job {
            cancel: cancel.child_token(),
            ..job.clone()
        };
        match solve_and_export(request, &planned, &attempt, &lease).await {
            Err(error) if error.rewind && !cancel.is_cancelled() => {
                tracing::warn!(build = session.build_id(), %error, "starting again");
            }
            Err(error) if make_room(&error, &job, &mut room_was_made).await => {}
            result => return result,
        }
    }
    let attempt = Job {
        cancel: cancel.child_token(),
        ..job
    };
    solve_and_export(request, &planned, &attempt, &lease).await
}

/// Makes room if that is what was missing, once a build. Returns whether it is worth another try.
async fn make_room(error: &BuildError, job: &Job, was_made: &mut bool) -> bool {
    if !error.full || job.cancel.is_cancelled() || std::mem::replace(was_made, true) {
        return false;
    }
    let made = job.step("[internal] make room in the store", |_| job.host.room.make());
    made.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "no room was made");
        false
    })
}

/// Whether what the client allows is the client's to allow. The user that the server runs as could do all of it without the server;
/// what anybody else may allow is up to who started it.
fn check_entitlements(request: &BuildRequest, session: &Session, for_others: &Entitlements) -> Result<(), BuildError> {
    let wanted = Entitlement::NetworkHost;
    if request.network == Network::Host && !request.entitlements.allow(&wanted) {
        return Err(BuildError::user(format!("{wanted} is not allowed")));
    }
    if session.is_same_user() {
        return Ok(());
    }
    match request.entitlements.iter().find(|asked| !for_others.allow(asked)) {
        Some(refused) => Err(BuildError::user(format!("{refused} is not allowed"))
            .note("you are not the user that the build server runs as, and it was not started to allow this to others")
            .help(format!(
                "start it with `rbuild serve --allow-insecure-entitlement {refused}`"
            ))),
        None => Ok(()),
    }
}

async fn solve_and_export(
    request: &BuildRequest,
    planned: &Planned,
    job: &Job,
    lease: &Arc<Lease>,
) -> Result<v1::Success, BuildError> {
    let solve = Solve {
        definition: Arc::clone(&planned.definition),
        work: Arc::new(BuildWork::new(job, planned)),
        store: Arc::clone(&job.host.store),
        lease: Arc::clone(lease),
        flights: job.host.flights.clone(),
        slots: Arc::clone(&job.host.slots),
        events: Arc::clone(&job.events),
        cancel: job.cancel.clone(),
        clock: job.host.clock.clone(),
        no_cache: request.no_cache.clone(),
        project: planned.project.clone(),
    };
    let targets: Vec<VertexId> = planned.images_to_make.iter().filter_map(|image| image.target).collect();
    let outputs = match targets.as_slice() {
        [] => BTreeMap::new(),
        targets => solve::run(&solve, targets).await?,
    };
    let made = Made {
        images: export::image::assemble(planned, &outputs, job)?,
        indexed: request.shape == Shape::Index,
    };
    export::all(request, &made, job).await
}

#[cfg(test)]
mod tests {
    use proto::platform::Platform;

    use super::*;

    fn check(granted: &[&str], network: &str, same_user: bool, for_others: &[&str]) -> Result<(), String> {
        let wire = v1::SubmitRequest {
            build_id: "0".repeat(32),
            network: network.to_owned(),
            entitlements: granted.iter().map(|word| (*word).to_owned()).collect(),
            ..v1::SubmitRequest::default()
        };
        let request = BuildRequest::from_wire(wire, &Platform::new("linux", "amd64", "")).unwrap();
        let (questions, _) = tokio::sync::mpsc::channel(1);
        let session = Session::new(v1::Hello::default(), questions, same_user);
        let for_others = for_others.iter().map(|word| word.parse().unwrap()).collect();
        check_entitlements(&request, &session, &for_others).map_err(|error| error.message)
    }

    #[test]
    fn other_users_allow_only_what_the_server_lets_them() {
        let refused = |word: &str| Err(format!("{word} is not allowed"));
        assert_eq!(check(&["security.insecure"], "", true, &[]), Ok(()));
        assert_eq!(
            check(&["security.insecure"], "", false, &[]),
            refused("security.insecure")
        );
        assert_eq!(check(&["security.insecure"], "", false, &["security.insecure"]), Ok(()));
        assert_eq!(check(&["device=v.com/c=x"], "", false, &["device=v.com/c"]), Ok(()));
        assert_eq!(check(&["device"], "", false, &["device=v.com/c"]), refused("device"));
        assert_eq!(check(&[], "", false, &[]), Ok(()));
        assert_eq!(check(&[], "host", true, &[]), refused("network.host"));
    }
}
