//! `rbuild.v1.Exec`: processes that clients talk to, and files for them. A client that goes away ends its process.

use std::sync::Arc;

use bytes::Bytes;
use proto::v1::exec_input::Body as Input;
use proto::v1::exec_output::Body as Said;
use proto::v1::exec_server::Exec as ExecApi;
use proto::v1::{self, copy_reply};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use crate::build::Job;
use crate::event::EventLog;
use crate::executor::attach::{Control, Manner, Size, Talk};
use crate::executor::{Attached, Outcome, OutputChunk, Speaker};
use crate::inspect::{copy, run};
use crate::request::{Blame, BuildError};

/// Pieces of output that may wait for a slow client; then the process waits.
const OUTPUT_QUEUE: usize = 16;
/// Signals and sizes that may wait for the process.
const CONTROL_QUEUE: usize = 32;
/// Signals have these numbers.
const SIGNALS: std::ops::RangeInclusive<u8> = 1..=64;

/// The service.
#[derive(Debug)]
pub struct ExecService(pub Arc<Shared>);

type Outgoing = mpsc::Sender<Result<v1::ExecOutput, Status>>;

#[tonic::async_trait]
impl ExecApi for ExecService {
    type AttachStream = ReceiverStream<Result<v1::ExecOutput, Status>>;

    async fn attach(&self, request: Request<Streaming<v1::ExecInput>>) -> Result<Response<Self::AttachStream>, Status> {
        let mut messages = request.into_inner();
        let Some(Input::Start(start)) = messages.message().await?.and_then(|message| message.body) else {
            return Err(Status::invalid_argument("a process begins with its start"));
        };
        let cancel = self.0.shutdown.child_token();
        let job = self.job(&start.session_id, &start.insecure_registries, &cancel)?;
        let (outgoing, stream) = mpsc::channel(OUTPUT_QUEUE);
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            serve(&start, &job, messages, outgoing).await;
            shared.touch();
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn copy(&self, request: Request<v1::CopyRequest>) -> Result<Response<v1::CopyReply>, Status> {
        let request = request.into_inner();
        let cancel = self.0.shutdown.child_token();
        let job = self.job(&request.session_id, &request.insecure_registries, &cancel)?;
        // A client that goes away drops this call; what it waits for sees that its session is gone.
        let outcome = match copy::copy(&request, &job).await {
            Ok(entries) => copy_reply::Outcome::Entries(entries),
            Err(error) => copy_reply::Outcome::Failure(error.to_wire()),
        };
        self.0.touch();
        Ok(Response::new(v1::CopyReply { outcome: Some(outcome) }))
    }
}

impl ExecService {
    /// The surroundings of a process: as of a build, except that nobody reads its events.
    fn job(&self, session_id: &str, insecure: &[String], cancel: &CancellationToken) -> Result<Job, Status> {
        self.0.touch();
        if self.0.shutdown.is_cancelled() {
            return Err(Status::unavailable("the server is shutting down"));
        }
        let session = self.0.sessions.get(session_id);
        let session = session.ok_or_else(|| Status::failed_precondition("there is no such session"))?;
        let host = &self.0.host;
        let events = EventLog::new(session_id.to_owned(), host.clock.clone());
        Ok(Job::new(host, &session, &events, cancel, insecure))
    }
}

/// Runs a process to its end, or to that of its client.
async fn serve(start: &v1::ExecStart, job: &Job, messages: Streaming<v1::ExecInput>, outgoing: Outgoing) {
    let manner = match manner(start) {
        Ok(manner) => manner,
        Err(error) => return tell(&outgoing, Said::Failure(error.to_wire())).await,
    };
    let (input_sender, input) = mpsc::channel(1);
    let (control_sender, control) = mpsc::channel(CONTROL_QUEUE);
    let (output, chunks) = mpsc::channel(OUTPUT_QUEUE);
    let (started, has_started) = oneshot::channel();
    let attached = Attached {
        manner,
        stop_signal: None,
        started: Some(started),
        input,
        control,
    };
    let client = Client {
        messages,
        // Without standard input it is at its end before it begins.
        input: Some(input_sender).filter(|_| start.stdin),
        control: control_sender,
        outgoing: outgoing.clone(),
    };
    let listening = async {
        client.listen().await;
        // It went away, or said what makes no sense.
        job.cancel.cancel();
        std::future::pending::<std::convert::Infallible>().await
    };
    let telling = async {
        if has_started.await.is_ok() {
            tell(&outgoing, Said::Started(v1::ExecStarted {})).await;
        }
    };
    let working = async {
        tokio::join!(
            run::run(start, job, attached, output),
            forward(chunks, &outgoing),
            telling
        )
    };
    let (ended, (), ()) = tokio::select! {
        ended = working => ended,
        never = listening => match never {},
    };
    let last = match ended {
        Ok(report) => Said::Exited(v1::ExecExited {
            code: match report.outcome {
                Outcome::Code(code) => code,
                Outcome::Signal(signal) => 128 + signal,
                Outcome::OutOfMemory => 137,
            },
        }),
        Err(error) => Said::Failure(error.to_wire()),
    };
    tell(&outgoing, last).await;
}

async fn tell(outgoing: &Outgoing, body: Said) {
    // A client that has gone needs no answer.
    drop(outgoing.send(Ok(v1::ExecOutput { body: Some(body) })).await);
}

fn manner(start: &v1::ExecStart) -> Result<Manner, BuildError> {
    let talk = match &start.terminal {
        Some(terminal) => Talk::Terminal(size(terminal.size.as_ref())?),
        None => Talk::Streams { stdin: start.stdin },
    };
    Ok(Manner {
        talk,
        read_only: start.read_only,
    })
}

fn size(size: Option<&v1::TerminalSize>) -> Result<Size, BuildError> {
    let v1::TerminalSize { rows, columns } = size.copied().unwrap_or_default();
    match (u16::try_from(rows), u16::try_from(columns)) {
        (Ok(rows), Ok(columns)) => Ok(Size { rows, columns }),
        _ => Err(BuildError::new(
            Blame::Usage,
            format!("a terminal has no {rows} lines of {columns} characters"),
        )),
    }
}

/// Passes on what the process says, to its end. When the client has gone, the rest is dropped.
async fn forward(mut chunks: mpsc::Receiver<OutputChunk>, outgoing: &Outgoing) {
    while let Some((speaker, bytes)) = chunks.recv().await {
        let bytes = bytes.to_vec();
        tell(
            outgoing,
            match speaker {
                Speaker::Step => Said::Stdout(bytes),
                Speaker::StepErrors | Speaker::Executor => Said::Stderr(bytes),
            },
        )
        .await;
    }
}

/// What a client says, and where it goes.
struct Client {
    messages: Streaming<v1::ExecInput>,
    /// Nothing: there is no more for standard input.
    input: Option<mpsc::Sender<Bytes>>,
    control: mpsc::Sender<Control>,
    outgoing: Outgoing,
}

impl Client {
    /// Until the client goes, or does what it must not.
    async fn listen(mut self) {
        let mut owes_answer = false;
        loop {
            let message = tokio::select! {
                message = self.messages.message() => message,
                () = room(self.input.as_ref()), if owes_answer => {
                    owes_answer = false;
                    tell(&self.outgoing, Said::StdinTaken(v1::ExecStdinTaken {})).await;
                    continue;
                }
            };
            // A broken stream is a client that has gone, whatever broke it.
            let Ok(Some(v1::ExecInput { body: Some(body) })) = message else {
                return;
            };
            match body {
                Input::Start(_) => return,
                Input::Stdin(bytes) => {
                    // What nobody reads is taken as well: the process may be about to end.
                    let Some(input) = &self.input else { continue };
                    match input.try_send(bytes.into()) {
                        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => owes_answer = true,
                        // It did not wait for its answer.
                        Err(mpsc::error::TrySendError::Full(_)) => return,
                    }
                }
                Input::StdinEnd(_) => self.input = None,
                Input::Resize(resize) => {
                    if let Ok(size) = size(Some(&resize)) {
                        self.control(Control::Resize(size));
                    }
                }
                Input::Signal(number) => match u8::try_from(number) {
                    Ok(number) if SIGNALS.contains(&number) => self.control(Control::Signal(number)),
                    _ => return,
                },
            }
        }
    }

    fn control(&self, control: Control) {
        if self.control.try_send(control).is_err() {
            tracing::debug!(?control, "a process did not take what it was told before");
        }
    }
}

/// Until the process takes more input, or never will.
async fn room(input: Option<&mpsc::Sender<Bytes>>) {
    if let Some(input) = input {
        // Closed: the process has ended, and there is room for whatever.
        drop(input.reserve().await);
    }
}
