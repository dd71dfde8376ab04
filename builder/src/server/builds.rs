//! `rbuild.v1.Build`: takes builds and transfers, runs each in a task of the server, and lets clients read along.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{FutureExt, Stream, StreamExt};
use proto::definition::Security;
use proto::v1::build_server::Build as BuildApi;
use proto::v1::{self, event::Kind, finished::Outcome};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{Shared, registry};
use crate::event::EventLog;
use crate::request::{Blame, BuildError, BuildRequest, Output, check_build_id};
use crate::session::Session;

/// Ended builds whose events can still be read.
const ENDED_KEPT: usize = 32;
/// Most bytes of the events of all of them; the build that ended last is kept in any case.
const ENDED_BYTES: usize = 4 << 20;

/// Builds that run or ended lately.
#[derive(Debug)]
pub struct Builds {
    state: Mutex<State>,
    running: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    builds: HashMap<String, Handle>,
    /// With the bytes of their events, the first to end first.
    ended: VecDeque<(String, usize)>,
}

impl State {
    /// Forgets builds that ended, as far as there are too many of them, or they said too much.
    fn forget(&mut self) {
        let mut bytes: usize = self.ended.iter().map(|(_, bytes)| bytes).sum();
        while self.ended.len() > ENDED_KEPT || self.ended.len() > 1 && bytes > ENDED_BYTES {
            let Some((oldest, freed)) = self.ended.pop_front() else {
                return;
            };
            self.builds.remove(&oldest);
            bytes -= freed;
        }
    }
}

/// A build from outside.
#[derive(Debug, Clone)]
struct Handle {
    events: Arc<EventLog>,
    cancel: CancellationToken,
    /// Cancelled when nothing of the build is left.
    ended: CancellationToken,
}

impl Default for Builds {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            running: watch::Sender::new(0),
        }
    }
}

impl Builds {
    /// Number of builds that run.
    #[must_use]
    pub fn running(&self) -> usize {
        *self.running.borrow()
    }

    /// Returns when no build runs.
    pub async fn all_ended(&self) {
        let mut running = self.running.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        drop(running.wait_for(|count| *count == 0).await);
    }

    /// Ends all builds.
    pub fn cancel_all(&self) {
        for handle in self.state().builds.values() {
            handle.cancel.cancel();
        }
    }

    fn get(&self, build_id: &str) -> Option<Handle> {
        self.state().builds.get(build_id).cloned()
    }

    /// Adds a build, or returns nothing if there is one of that id.
    fn add(&self, build_id: &str, events: Arc<EventLog>) -> Option<Handle> {
        let mut state = self.state();
        if state.builds.contains_key(build_id) {
            return None;
        }
        let handle = Handle {
            events,
            cancel: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        state.builds.insert(build_id.to_owned(), handle.clone());
        self.running.send_modify(|count| *count += 1);
        Some(handle)
    }

    fn end(&self, build_id: &str, handle: &Handle) {
        let mut state = self.state();
        state.ended.push_back((build_id.to_owned(), handle.events.size_bytes()));
        state.forget();
        drop(state);
        handle.ended.cancel();
        self.running.send_modify(|count| *count -= 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Both collections are changed by single calls, so a panic elsewhere leaves them whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service.
#[derive(Debug)]
pub struct BuildService(pub Arc<Shared>);

#[tonic::async_trait]
impl BuildApi for BuildService {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let mut request = BuildRequest::from_wire(request.into_inner(), &self.0.host.platform)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        if self.0.host.hardened {
            request.security = Security::Hardened;
        }
        let build_id = request.build_id.clone();
        let needs_client = request
            .outputs
            .iter()
            .any(|output| matches!(output, Output::Oci { .. } | Output::Files { .. }));
        self.start(&build_id, needs_client, |shared, session, events, cancel| async move {
            crate::build::build(&request, &session, &shared.host, &events, &cancel).await
        })
    }

    async fn transfer(&self, request: Request<v1::TransferRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let request = request.into_inner();
        check_build_id(&request.build_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let build_id = request.build_id.clone();
        self.start(&build_id, false, |shared, session, events, cancel| async move {
            registry::transfer(&request, &session, &shared.host, &events, &cancel).await
        })
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
        self.0.touch();
        let request = request.into_inner();
        let handle = self
            .0
            .builds
            .get(&request.build_id)
            .ok_or_else(|| no_such_build(&request.build_id))?;
        Ok(Response::new(Box::pin(handle.events.read_from(request.cursor).map(Ok))))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        let request = request.into_inner();
        let handle = self
            .0
            .builds
            .get(&request.build_id)
            .ok_or_else(|| no_such_build(&request.build_id))?;
        tracing::info!(build = request.build_id, reason = request.reason, "canceling");
        handle.cancel.cancel();
        handle.ended.cancelled().await;
        Ok(Response::new(v1::CancelReply {}))
    }
}

impl BuildService {
    /// Runs `work` in a task of the server. Submitting an id again changes nothing.
    fn start<F, R>(&self, build_id: &str, needs_client: bool, work: F) -> Result<Response<v1::SubmitReply>, Status>
    where
        F: FnOnce(Arc<Shared>, Arc<Session>, Arc<EventLog>, CancellationToken) -> R,
        R: Future<Output = Result<v1::Success, BuildError>> + Send + 'static,
    {
        self.0.touch();
        let reply = Ok(Response::new(v1::SubmitReply {
            build_id: build_id.to_owned(),
        }));
        if self.0.shutdown.is_cancelled() {
            return Err(Status::unavailable("the server is shutting down"));
        }
        let session = self.0.sessions.get(build_id);
        let session = session.ok_or_else(|| Status::failed_precondition("this build has no session"))?;
        let events = EventLog::new(build_id.to_owned(), self.0.host.clock.clone());
        let Some(handle) = self.0.builds.add(build_id, Arc::clone(&events)) else {
            return reply;
        };
        let build = work(
            Arc::clone(&self.0),
            Arc::clone(&session),
            Arc::clone(&events),
            handle.cancel.clone(),
        );
        let (shared, build_id) = (Arc::clone(&self.0), build_id.to_owned());
        self.0.tasks.spawn(async move {
            // A panic in one build is that build's failure; the server and the other builds go on.
            let guarded = std::panic::AssertUnwindSafe(build).catch_unwind();
            let watch_client = cancel_without_client(&session, &handle.cancel, needs_client);
            let result = tokio::select! {
                result = guarded => result.unwrap_or_else(|_| Err(BuildError::bug("the build panicked"))),
                never = watch_client => match never {},
            };
            let outcome = match result {
                Ok(success) => Outcome::Success(success),
                Err(error) => Outcome::Failure(if handle.cancel.is_cancelled() && error.blame == Blame::Canceled {
                    BuildError::canceled().to_wire()
                } else {
                    error.scrubbed(session.secrets()).to_wire()
                }),
            };
            events.publish(Kind::Finished(v1::Finished { outcome: Some(outcome) }));
            shared.builds.end(&build_id, &handle);
            shared.touch();
            // The client has its answer; the server ends only after this.
            shared.host.room.after_build().await;
        });
        reply
    }
}

/// Ends a build whose result only its client can take, once that client has gone. Never returns: the build itself ends.
async fn cancel_without_client(
    session: &Session,
    cancel: &CancellationToken,
    needs_client: bool,
) -> std::convert::Infallible {
    session.gone().cancelled().await;
    if needs_client {
        cancel.cancel();
    }
    std::future::pending().await
}

fn no_such_build(build_id: &str) -> Status {
    Status::not_found(format!("no build `{}`", build_id.escape_debug()))
}
