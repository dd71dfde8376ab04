//! One build: plan, solve, export, under one lease. The table of contents of this crate.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cache::lease::Lease;
use cache::registry::RegistryAccess;
use proto::v1;
use tokio_util::sync::CancellationToken;

use crate::event::{EventLog, StepEnd, StepNumber};
use crate::export;
use crate::fetch;
use crate::host::Host;
use crate::op::work::BuildWork;
use crate::plan::{self, Planned};
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
/// met, so the build starts again, finds them missing, and makes them.
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
    let job = Job::new(host, session, events, cancel, &request.insecure_registries);
    let planned = plan::make(request, &job, &lease).await?;
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
            result => return result,
        }
    }
    let attempt = Job {
        cancel: cancel.child_token(),
        ..job
    };
    solve_and_export(request, &planned, &attempt, &lease).await
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
    let outputs = match planned.target {
        Some(target) => solve::run(&solve, target).await?,
        None => BTreeMap::new(),
    };
    let image = export::image::assemble(planned, &outputs, job)?;
    export::all(request, &image, job).await
}
