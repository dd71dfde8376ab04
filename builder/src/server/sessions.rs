//! `rbuild.v1.Session`: keeps the sessions of connected clients, by build.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::v1::session_server::Session as SessionApi;
use proto::v1::{self, client_message::Body};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::listen::SameProcess;
use crate::request::check_build_id;
use crate::session::Session;

/// Questions that may wait for a slow client.
const QUESTION_QUEUE: usize = 32;

/// Connected clients, by build.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    /// The session of a build, if its client is connected.
    #[must_use]
    pub fn get(&self, build_id: &str) -> Option<Arc<Session>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(build_id)
            .cloned()
    }

    /// Whether nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Adds a session; false if the build has one.
    fn insert(&self, session: &Arc<Session>) -> bool {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.contains_key(session.build_id()) {
            return false;
        }
        sessions.insert(session.build_id().to_owned(), Arc::clone(session));
        true
    }

    fn remove(&self, build_id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(build_id);
    }
}

/// The service.
#[derive(Debug)]
pub struct SessionService(pub Arc<Shared>);

#[tonic::async_trait]
impl SessionApi for SessionService {
    type OpenStream = ReceiverStream<Result<v1::ServerMessage, Status>>;

    async fn open(&self, request: Request<Streaming<v1::ClientMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        self.0.touch();
        let same_user = is_same_user(&request);
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|message| message.body);
        let Some(Body::Hello(hello)) = first else {
            return Err(Status::invalid_argument("a session starts with Hello"));
        };
        check_build_id(&hello.build_id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (questions, asked) = mpsc::channel::<v1::ServerMessage>(QUESTION_QUEUE);
        // Questions wait in their own queue: of outputs, each message is a piece of memory.
        let (out, stream) = mpsc::channel(1);
        let session = Session::new(hello, questions, same_user);
        if !self.0.sessions.insert(&session) {
            return Err(Status::already_exists("this build has a session"));
        }
        let ready = v1::server_message::Body::Ready(v1::Ready {});
        let ready = v1::ServerMessage {
            request_id: 0,
            body: Some(ready),
        };
        out.send(Ok(ready))
            .await
            .map_err(|_| Status::cancelled("the client has gone"))?;
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            pump(&session, messages, asked, out, &shared).await;
            session.close();
            shared.sessions.remove(session.build_id());
            shared.touch();
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Carries questions out and answers in, until the client goes or the server ends.
async fn pump(
    session: &Arc<Session>,
    mut messages: Streaming<v1::ClientMessage>,
    mut asked: mpsc::Receiver<v1::ServerMessage>,
    out: mpsc::Sender<Result<v1::ServerMessage, Status>>,
    shared: &Shared,
) {
    let questions = async {
        while let Some(question) = asked.recv().await {
            if out.send(Ok(question)).await.is_err() {
                break;
            }
        }
    };
    let answers = async {
        // A broken stream is a client that has gone, whatever broke it.
        while let Ok(Some(message)) = messages.message().await {
            session.deliver(message).await;
        }
    };
    // Builds that are being cancelled still want to tell their clients so: sessions end after builds, not with the server.
    tokio::select! {
        () = questions => {}
        () = answers => {}
        () = async { shared.shutdown.cancelled().await; shared.builds.all_ended().await } => {}
    }
}

/// Whether client and server are one user, so that the server may read what the client names.
fn is_same_user(request: &Request<Streaming<v1::ClientMessage>>) -> bool {
    if request.extensions().get::<SameProcess>().is_some() {
        return true;
    }
    let peer = request
        .extensions()
        .get::<UdsConnectInfo>()
        .and_then(|info| info.peer_cred);
    peer.is_some_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}
