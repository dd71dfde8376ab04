//! A job against a scripted server in this process: greeting, questions, outputs, events and the outcome.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Mutex;

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use proto::v1::build_server::{Build, BuildServer};
use proto::v1::client_message::Body as Answer;
use proto::v1::server_message::Body as Request;
use proto::v1::session_server::{Session as SessionService, SessionServer};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Response, Status, Streaming};

use super::*;
use crate::agent::Agents;
use crate::config::{Environment, Progress};
use crate::dockerfile::{Description, NamedText};
use crate::secret::Secrets;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Asks its questions, keeps the answers, then reports its events.
#[derive(Default)]
struct Script {
    questions: Vec<Request>,
    events: Vec<Kind>,
    /// The first stream of events breaks after so many.
    break_after: Option<usize>,
}

struct ScriptedServer {
    script: Script,
    answers: Mutex<Vec<v1::ClientMessage>>,
    attached_from: Mutex<Vec<u64>>,
    answered: tokio::sync::Semaphore,
}

#[derive(Clone)]
struct Shared(Arc<ScriptedServer>);

#[tonic::async_trait]
impl SessionService for Shared {
    type OpenStream = Replies<v1::ServerMessage>;

    async fn open(
        &self,
        request: tonic::Request<Streaming<v1::ClientMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let server = Arc::clone(&self.0);
        let mut incoming = request.into_inner();
        let (sender, receiver) = mpsc::channel(8);
        tokio::spawn(async move {
            let message = |request_id, body| {
                Ok(v1::ServerMessage {
                    request_id,
                    body: Some(body),
                })
            };
            let hello = incoming.message().await.unwrap().unwrap();
            server.answers.lock().unwrap().push(hello);
            sender.send(message(0, Request::Ready(v1::Ready {}))).await.unwrap();
            for (number, question) in (1..).zip(server.script.questions.clone()) {
                let silent = matches!(&question, Request::Output(chunk) if !chunk.last);
                sender.send(message(number, question)).await.unwrap();
                if silent {
                    continue;
                }
                loop {
                    let answer = incoming.message().await.unwrap().unwrap();
                    let last = answer.last;
                    server.answers.lock().unwrap().push(answer);
                    if last {
                        break;
                    }
                }
            }
            server.answered.add_permits(100);
            // Ends with the client, as a real session does.
            while let Ok(Some(_)) = incoming.message().await {}
            drop(sender);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl Build for Shared {
    type AttachStream = Replies<v1::Event>;

    async fn submit(&self, request: tonic::Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let build_id = request.into_inner().build_id;
        Ok(Response::new(v1::SubmitReply { build_id }))
    }

    async fn transfer(&self, _: tonic::Request<v1::TransferRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        Err(Status::not_found("no image `a`"))
    }

    async fn attach(&self, request: tonic::Request<v1::AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
        drop(self.0.answered.acquire().await.unwrap());
        let cursor = request.into_inner().cursor;
        let first = self.0.attached_from.lock().unwrap().is_empty();
        self.0.attached_from.lock().unwrap().push(cursor);
        let events = (0_u64..).zip(self.0.script.events.clone());
        let mut replies: Vec<_> = events
            .filter(|(seq, _)| *seq >= cursor)
            .map(|(seq, kind)| {
                Ok(v1::Event {
                    build_id: String::new(),
                    seq,
                    time_ms: 0,
                    kind: Some(kind),
                })
            })
            .collect();
        if let Some(count) = self.0.script.break_after.filter(|_| first) {
            replies.truncate(count);
            replies.push(Err(Status::unavailable("broken on purpose")));
        }
        Ok(Response::new(Box::pin(futures_util::stream::iter(replies))))
    }

    async fn cancel(&self, _: tonic::Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        Ok(Response::new(v1::CancelReply {}))
    }
}

fn success() -> Kind {
    Kind::Finished(v1::Finished {
        outcome: Some(Outcome::Success(v1::Success {
            config_digest: "sha256:c".to_owned(),
            ..v1::Success::default()
        })),
    })
}

fn started() -> Kind {
    Kind::StepStarted(v1::StepStarted {
        step: 1,
        name: "RUN x".to_owned(),
        line: 1,
    })
}

fn session() -> Session {
    Session {
        build_id: String::new(),
        description: Some(Description {
            dockerfile: NamedText {
                name: "Dockerfile".to_owned(),
                bytes: b"FROM scratch\n".to_vec(),
            },
            ignore: None,
        }),
        contexts: BTreeMap::new(),
        secrets: Secrets::read(&["id=a,env=A".to_owned()], &Environment::of(&[("A", "hush")])).unwrap(),
        agents: Agents::default(),
        docker_config: PathBuf::from("/nonexistent"),
        cache_dir: None,
        share_paths: false,
    }
}

/// Runs a job; returns its outcome and the server.
async fn run_script(
    script: Script,
    start: Start,
    destinations: Vec<Destination>,
) -> (Result<v1::Success, Problem>, Arc<ScriptedServer>) {
    let server = Arc::new(ScriptedServer {
        script,
        answers: Mutex::default(),
        attached_from: Mutex::default(),
        answered: tokio::sync::Semaphore::new(0),
    });
    let shared = Shared(Arc::clone(&server));
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let mut ours = Some(TokioIo::new(ours));
    let connector = tower::service_fn(move |_| {
        let stream = ours.take().ok_or_else(|| std::io::Error::other("one connection only"));
        async move { stream }
    });
    let channel = Endpoint::from_static("http://test.invalid").connect_with_connector_lazy(connector);
    let incoming = futures_util::stream::iter([Ok::<_, std::io::Error>(theirs)]);
    let serving = Server::builder()
        .add_service(SessionServer::new(shared.clone()))
        .add_service(BuildServer::new(shared))
        .serve_with_incoming(incoming);
    let serving = tokio::spawn(serving);
    let job = Job {
        start,
        session: session(),
        destinations,
    };
    let display = Display {
        progress: Progress::Quiet,
        terminal: false,
        colour: false,
    };
    let outcome = run(&Connection::for_tests(channel), job, display).await;
    serving.abort();
    (outcome, server)
}

fn build() -> Start {
    Start::Build(Box::default())
}

#[tokio::test]
async fn questions_are_answered_and_the_outcome_is_returned() {
    let script = Script {
        questions: vec![
            Request::ReadDockerfile(v1::ReadDockerfile {}),
            Request::GetSecret(v1::GetSecret { id: "a".to_owned() }),
            Request::GetSecret(v1::GetSecret { id: "b".to_owned() }),
        ],
        events: vec![success()],
        break_after: None,
    };
    let (outcome, server) = run_script(script, build(), Vec::new()).await;
    assert_eq!(outcome.unwrap().config_digest, "sha256:c");
    let answers = server.answers.lock().unwrap();
    let Some(Answer::Hello(hello)) = &answers[0].body else {
        panic!("{:?}", answers[0])
    };
    assert_eq!(
        (hello.build_id.len(), hello.secret_ids.as_slice()),
        (32, &["a".to_owned()][..])
    );
    assert!(matches!(&answers[1].body, Some(Answer::File(file)) if file.data == b"FROM scratch\n"));
    assert!(matches!(&answers[2].body, Some(Answer::Secret(secret)) if secret.value == b"hush"));
    assert!(matches!(&answers[3].body, Some(Answer::Error(error)) if error.not_found));
    let ids: Vec<u64> = answers.iter().map(|answer| answer.request_id).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
}

#[tokio::test]
async fn an_output_is_complete_before_it_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.tar");
    let chunk = |data: &[u8], last| {
        Request::Output(v1::OutputChunk {
            output: 0,
            data: data.to_vec(),
            last,
            first: false,
        })
    };
    let script = Script {
        questions: vec![chunk(b"one ", false), chunk(b"two", false), chunk(b"", true)],
        events: vec![success()],
        break_after: None,
    };
    let (outcome, server) = run_script(script, build(), vec![Destination::File(path.clone())]).await;
    outcome.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"one two");
    let answers = server.answers.lock().unwrap();
    assert_eq!(
        (answers[1].request_id, &answers[1].body),
        (3, &Some(Answer::Written(v1::OutputWritten {})))
    );
}

#[tokio::test]
async fn an_output_that_can_not_be_written_is_told_to_the_server() {
    let chunk = v1::OutputChunk {
        output: 0,
        data: b"x".to_vec(),
        last: true,
        first: false,
    };
    let script = Script {
        questions: vec![Request::Output(chunk)],
        events: vec![success()],
        break_after: None,
    };
    let destination = Destination::File(PathBuf::from("/dev/null/out"));
    let (_, server) = run_script(script, build(), vec![destination]).await;
    let answers = server.answers.lock().unwrap();
    assert!(matches!(&answers[1].body, Some(Answer::Error(error)) if error.message.contains("/dev/null/out")));
}

#[tokio::test]
async fn a_broken_stream_of_events_is_taken_up_where_it_broke() {
    let script = Script {
        questions: Vec::new(),
        events: vec![started(), started(), success()],
        break_after: Some(2),
    };
    let (outcome, server) = run_script(script, build(), Vec::new()).await;
    outcome.unwrap();
    assert_eq!(*server.attached_from.lock().unwrap(), [0, 2]);
}

#[tokio::test]
async fn the_blame_of_a_failure_decides_the_exit_code() {
    let failure = v1::Failure {
        blame: v1::failure::Blame::Remote.into(),
        message: "no".to_owned(),
        ..v1::Failure::default()
    };
    let script = Script {
        events: vec![Kind::Finished(v1::Finished {
            outcome: Some(Outcome::Failure(failure)),
        })],
        ..Script::default()
    };
    let (outcome, _) = run_script(script, build(), Vec::new()).await;
    assert_eq!(outcome.unwrap_err(), Problem::told(Blame::Remote));
}

#[tokio::test]
async fn a_job_that_is_not_accepted_fails_with_the_words_of_the_server() {
    let start = Start::Transfer(v1::TransferRequest::default());
    let (outcome, _) = run_script(Script::default(), start, Vec::new()).await;
    assert_eq!(outcome.unwrap_err(), Problem::new(Blame::User, "no image `a`"));
}

#[test]
fn build_ids_are_32_hex_digits_and_differ() {
    let (a, b) = (build_id().unwrap(), build_id().unwrap());
    assert_eq!(a.len(), 32);
    assert!(a.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(a, b);
}
