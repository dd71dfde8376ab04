//! One build: plan, solve, export, under one lease. The table of contents of this crate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cache::lease::Lease;
use cache::registry::RegistryAccess;
use proto::definition::{Network, Security, VertexId};
use proto::entitlement::{Entitlement, Entitlements};
use proto::history::{BuildRecord, Outcome};
use proto::v1;
use tokio_util::sync::CancellationToken;

use crate::event::{EventLog, StepEnd, StepNumber};
use crate::export;
use crate::export::bundle::Made;
use crate::export::early::Early;
use crate::fetch;
use crate::host::Host;
use crate::images;
use crate::limits::{Limits, StepSettings};
use crate::op::work::BuildWork;
use crate::phase::Phase;
use crate::plan::{self, Planned};
use crate::platforms::Shape;
use crate::request::{Blame, BuildError, BuildRequest};
use crate::session::Session;
use crate::solve::ledger::Ledger;
use crate::solve::{self, Results, Solve};

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
    /// Holds what this build found or made, until it ends.
    pub lease: Arc<Lease>,
    /// Registries, with the client's logins.
    pub registry: RegistryAccess,
    /// What all its steps get.
    pub steps: Arc<StepSettings>,
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
        let lease = Arc::new(host.store.lease());
        Self {
            registry: fetch::access(&host.registry, session, insecure_registries),
            host: Host {
                layers: host.layers.held_by(&lease),
                ..host.clone()
            },
            lease,
            session: Arc::clone(session),
            events: Arc::clone(events),
            cancel: cancel.clone(),
            steps: Arc::default(),
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
                reason: String::new(),
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
    let _all = Phase::Build.start();
    check_entitlements(request, session, &host.entitlements)?;
    let job = Job {
        steps: Arc::new(step_settings(request, session, host)?),
        ..Job::new(host, session, events, cancel, &request.insecure_registries)
    };
    let started_ms = host.clock.now_ms();
    let mut running = None;
    let result = until_whole(request, &mut running, &job).await;
    let result = result.map_err(|error| error.scrubbed(session.secrets()));
    if let Some(running) = &running {
        remember(request, running, started_ms, host, &result);
    }
    result
}

/// A build that is planned.
struct Running {
    planned: Planned,
    ledger: Arc<Ledger>,
}

/// Plans, solves and exports; starts again as long as bytes of the store turn out to be damaged.
async fn until_whole(
    request: &BuildRequest,
    running: &mut Option<Running>,
    job: &Job,
) -> Result<v1::Success, BuildError> {
    let mut rewinds = 0;
    let mut room_was_made = false;
    loop {
        // A failure cancels the steps beside it; the token of the build itself stays as the client left it.
        let attempt = Job {
            cancel: job.cancel.child_token(),
            ..job.clone()
        };
        match plan_solve_and_export(request, running, &attempt).await {
            Err(error) if error.rewind && rewinds < REWINDS && !job.cancel.is_cancelled() => {
                tracing::warn!(build = job.session.build_id(), %error, "starting again");
                rewinds += 1;
                running.take_if(|running| !still_holds(&running.planned, job));
            }
            Err(error) if make_room(&error, job, &mut room_was_made).await => {}
            result => return result,
        }
    }
}

/// Whether the images that a plan found are still there: what was lost may have been part of one that was built here, and then
/// another one has to be found.
fn still_holds(planned: &Planned, job: &Job) -> bool {
    planned.images.values().all(|image| images::is_whole(&image.stack, job))
}

async fn plan_solve_and_export(
    request: &BuildRequest,
    running: &mut Option<Running>,
    job: &Job,
) -> Result<v1::Success, BuildError> {
    let running = match running {
        Some(running) => running,
        None => {
            let planned = plan::make(request, job).await?;
            let ledger = Arc::new(Ledger::new(&planned.projects));
            running.insert(Running { planned, ledger })
        }
    };
    solve_and_export(request, running, job).await
}

/// Keeps what the build did, for the explanations of builds to come. Losing that is no failure of a build: one line of the log.
fn remember(
    request: &BuildRequest,
    running: &Running,
    started_ms: u64,
    host: &Host,
    result: &Result<v1::Success, BuildError>,
) {
    let (store, definition) = (&host.store, &running.planned.definition);
    let platforms = running.planned.images_to_make.iter();
    let build = BuildRecord {
        id: request.build_id.clone(),
        started_ms,
        duration_ms: host.clock.now_ms().saturating_sub(started_ms),
        dockerfile: request.dockerfile_name.clone(),
        target: request.target.clone().unwrap_or_default(),
        platforms: platforms.map(|image| image.template.platform.to_string()).collect(),
        names: result
            .as_ref()
            .map_or_else(|_| Vec::new(), |success| success.names.clone()),
        outcome: match result {
            Ok(success) if success.manifest_digest.is_empty() => Outcome::Success(success.config_digest.clone()),
            Ok(success) => Outcome::Success(success.manifest_digest.clone()),
            Err(error) => Outcome::Failure(error.message.clone()),
        },
        steps: running.ledger.steps(store, definition),
    };
    let kept = running.ledger.remember(store, definition);
    if let Err(error) = kept.and_then(|()| store.builds().put(&build)) {
        tracing::warn!(build = request.build_id, %error, "what this build did is not remembered");
    }
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
    if let (Security::Hardened, Some(asked)) = (request.security, request.entitlements.iter().next()) {
        return Err(BuildError::user(format!("{asked} is not allowed"))
            .note("steps of hardened builds get nothing beyond their sandbox"));
    }
    let wanted = Entitlement::NetworkHost;
    if request.network == Network::Host && !request.entitlements.allow(&wanted) {
        return Err(BuildError::user(format!("{wanted} is not allowed")));
    }
    check_granted(&request.entitlements, session, for_others)
}

/// Whether the client may grant `granted`.
///
/// # Errors
/// It may not: it is another user, and the server was not told to let others do so.
pub(crate) fn check_granted(
    granted: &Entitlements,
    session: &Session,
    for_others: &Entitlements,
) -> Result<(), BuildError> {
    if session.is_same_user() {
        return Ok(());
    }
    match granted.iter().find(|asked| !for_others.allow(asked)) {
        Some(refused) => Err(BuildError::user(format!("{refused} is not allowed"))
            .note("you are not the user that the build server runs as, and it was not started to allow this to others")
            .help(format!(
                "start it with `rbuild serve --allow-insecure-entitlement {refused}`"
            ))),
        None => Ok(()),
    }
}

/// What the steps of a build get: what it asks for, as far as the server gives that to this client and can see to it.
fn step_settings(request: &BuildRequest, session: &Session, host: &Host) -> Result<StepSettings, BuildError> {
    let of_server = host.limits_for(session);
    let limits = Limits {
        // What nobody asked for every step has anyway, where that is possible.
        processes: request.limits.processes.or(host.limits.processes),
        ..request.limits.clone().within(&of_server)?
    };
    // What only the server wants was checked when it started, or is no more than what every step has.
    host.executor
        .can_keep(&request.limits)
        .map_err(|error| BuildError::environment(error.to_string()))?;
    Ok(StepSettings {
        limits,
        of_server,
        ca_bundle: request.ca_bundle.clone(),
    })
}

async fn solve_and_export(request: &BuildRequest, running: &Running, job: &Job) -> Result<v1::Success, BuildError> {
    let early = Arc::new(Early::new(request, &running.planned, job));
    let result = solve_then_export(request, running, &early, job).await;
    early.finish().await;
    result
}

async fn solve_then_export(
    request: &BuildRequest,
    running: &Running,
    early: &Arc<Early>,
    job: &Job,
) -> Result<v1::Success, BuildError> {
    let planned = &running.planned;
    let solve = Solve {
        definition: Arc::clone(&planned.definition),
        work: Arc::new(BuildWork::new(job, planned, &running.ledger, early)),
        store: Arc::clone(&job.host.store),
        lease: Arc::clone(&job.lease),
        flights: job.host.flights.clone(),
        results: Results::default(),
        slots: Arc::clone(&job.host.slots),
        events: Arc::clone(&job.events),
        cancel: job.cancel.clone(),
        clock: job.host.clock.clone(),
        no_cache: request.no_cache.clone(),
        fails_alone: !request.limits.is_none() || job.steps.ca_bundle.is_some(),
        ledger: Arc::clone(&running.ledger),
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
