//! Runs a session over its stream: one answer per request, answers side by side, outputs in order.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use proto::v1;
use proto::v1::client_message::Body;
use proto::v1::server_message::Body as Request;
use proto::v1::session_client::SessionClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::deliver::Delivery;
use super::{Refusal, Session};
use crate::exit::Problem;
use crate::output::Destination;

/// Messages that wait for the network. Answers wait when it is full, so memory is bounded.
const MESSAGES_IN_FLIGHT: usize = 8;

/// Largest message that a server may send: output chunks and lists of paths stay below.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Remarks on outputs, for the user, after the build.
pub(crate) type Remarks = Arc<Mutex<Vec<String>>>;

/// A session that the server has greeted.
#[derive(Debug)]
pub(crate) struct OpenSession {
    requests: tonic::Streaming<v1::ServerMessage>,
    answers: mpsc::Sender<v1::ClientMessage>,
    session: Arc<Session>,
    destinations: Vec<Destination>,
    remarks: Remarks,
}

/// Opens the session stream and waits for the greeting.
///
/// # Errors
/// The server did not greet.
pub(crate) async fn open(
    channel: Channel,
    session: Arc<Session>,
    destinations: Vec<Destination>,
) -> Result<OpenSession, Problem> {
    let (answers, outgoing) = mpsc::channel(MESSAGES_IN_FLIGHT);
    let hello = v1::ClientMessage {
        request_id: 0,
        last: true,
        body: Some(Body::Hello(session.hello())),
    };
    if answers.send(hello).await.is_err() {
        return Err(Problem::environment("the session ended before it began"));
    }
    let mut client = SessionClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut requests = client.open(ReceiverStream::new(outgoing)).await?.into_inner();
    match requests.message().await?.and_then(|message| message.body) {
        Some(Request::Ready(_)) => Ok(OpenSession {
            requests,
            answers,
            session,
            destinations,
            remarks: Remarks::default(),
        }),
        _ => Err(Problem::environment("the build server did not greet the session")),
    }
}

impl OpenSession {
    /// Where remarks on outputs appear.
    pub(crate) fn remarks(&self) -> Remarks {
        Arc::clone(&self.remarks)
    }

    /// Answers until the server closes the stream. Dropping the future ends the session and removes half-written outputs.
    ///
    /// # Errors
    /// The stream broke.
    pub(crate) async fn run(mut self) -> Result<(), Problem> {
        let mut tasks = JoinSet::new();
        let mut outputs: BTreeMap<u32, mpsc::Sender<(u64, Part)>> = BTreeMap::new();
        while let Some(message) = self.requests.message().await? {
            // Finished answers are taken out, so that the set does not grow with the build.
            while tasks.try_join_next().is_some() {}
            match message.body {
                Some(Request::Output(chunk)) => {
                    let (index, first) = (chunk.output, chunk.first);
                    let sender = self.output(index, first, &mut outputs, &mut tasks);
                    // The receiver lives until the last chunk; chunks after an error are of no use to anyone.
                    drop(sender.send((message.request_id, Part::Chunk(chunk))).await);
                }
                Some(Request::OutputFile(file)) => {
                    // Opened before anything is handed over: after a refusal, the bytes take the place of the file.
                    match self.session.open_output_file(&file) {
                        Ok(opened) => {
                            let sender = self.output(file.output, file.first, &mut outputs, &mut tasks);
                            drop(sender.send((message.request_id, Part::File(opened, file.size))).await);
                        }
                        Err(refusal) => self.start_refusal(message.request_id, refusal, &mut tasks),
                    }
                }
                Some(Request::Ready(_)) => {}
                Some(Request::AskAgent(asked)) => self.start_agent(message.request_id, asked, &mut tasks),
                Some(request) => self.start_answer(message.request_id, request, &mut tasks),
                // A request of a later version: refusing is an answer that the server can tell its user.
                None => {
                    let refusal = Refusal::new("this client does not know what the server asks for");
                    self.start_refusal(message.request_id, refusal, &mut tasks);
                }
            }
        }
        drop(outputs);
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    fn start_answer(&self, request_id: u64, request: Request, tasks: &mut JoinSet<()>) {
        let session = Arc::clone(&self.session);
        let answers = self.answers.clone();
        tasks.spawn_blocking(move || {
            let send = |body, last| {
                let message = client_message(request_id, body, last);
                answers
                    .blocking_send(message)
                    .map_err(|_| Refusal::new("the session ended"))
            };
            if let Err(refusal) = session.answer(request, &mut |body, last| send(body, last)) {
                // If the stream is gone too, the build has ended and nobody waits for this answer.
                drop(send(refusal.into_body(), true));
            }
        });
    }

    fn start_agent(&self, request_id: u64, asked: v1::AskAgent, tasks: &mut JoinSet<()>) {
        let session = Arc::clone(&self.session);
        let answers = self.answers.clone();
        tasks.spawn(async move {
            let body = match session.agents.ask(&asked.id, &asked.request).await {
                Ok(reply) => Body::AgentReply(v1::AgentReply { reply }),
                Err(reason) => Refusal::new(reason).into_body(),
            };
            // As above: without a stream nobody waits.
            drop(answers.send(client_message(request_id, body, true)).await);
        });
    }

    fn start_refusal(&self, request_id: u64, refusal: Refusal, tasks: &mut JoinSet<()>) {
        let answers = self.answers.clone();
        tasks.spawn(async move {
            // As above: without a stream nobody waits.
            drop(
                answers
                    .send(client_message(request_id, refusal.into_body(), true))
                    .await,
            );
        });
    }

    /// Where parts of output number `index` go.
    fn output<'a>(
        &self,
        index: u32,
        first: bool,
        outputs: &'a mut BTreeMap<u32, mpsc::Sender<(u64, Part)>>,
        tasks: &mut JoinSet<()>,
    ) -> &'a mpsc::Sender<(u64, Part)> {
        if first {
            // A writer that loses its sender gives up what it has.
            outputs.remove(&index);
        }
        outputs.entry(index).or_insert_with(|| self.start_output(index, tasks))
    }

    fn start_output(&self, index: u32, tasks: &mut JoinSet<()>) -> mpsc::Sender<(u64, Part)> {
        let (sender, receiver) = mpsc::channel(1);
        let destination = usize::try_from(index).ok().and_then(|at| self.destinations.get(at));
        let destination = destination.cloned().unwrap_or(Destination::Nowhere);
        let answers = self.answers.clone();
        let remarks = self.remarks();
        tasks.spawn_blocking(move || write_output(destination, receiver, &answers, &remarks));
        sender
    }
}

/// A part of an output.
enum Part {
    Chunk(v1::OutputChunk),
    /// So many bytes of a file of the server.
    File(File, u64),
}

impl Part {
    fn is_last(&self) -> bool {
        matches!(self, Self::Chunk(chunk) if chunk.last)
    }
}

fn client_message(request_id: u64, body: Body, last: bool) -> v1::ClientMessage {
    v1::ClientMessage {
        request_id,
        last,
        body: Some(body),
    }
}

/// Writes the parts of one output; answers the last one.
fn write_output(
    destination: Destination,
    mut parts: mpsc::Receiver<(u64, Part)>,
    answers: &mpsc::Sender<v1::ClientMessage>,
    remarks: &Remarks,
) {
    let shown = match &destination {
        Destination::Directory(path) | Destination::WithOwners(path) => path.display().to_string(),
        _ => String::new(),
    };
    let mut delivery = Delivery::start(destination);
    // The server waits for an answer to the last part: whatever failed before is told there.
    let mut failed = None;
    while let Some((request_id, part)) = parts.blocking_recv() {
        let (written, is_file, is_last) = match part {
            _ if failed.is_some() => (Ok(()), matches!(part, Part::File(..)), part.is_last()),
            Part::File(file, size) => (delivery.write_file(file, size), true, false),
            Part::Chunk(chunk) => (delivery.write(chunk.data), false, chunk.last),
        };
        failed = failed.or(written.err());
        if is_file {
            // Without a stream nobody waits.
            let taken = Body::Written(v1::OutputWritten {});
            drop(answers.blocking_send(client_message(request_id, taken, true)));
        }
        if !is_last {
            continue;
        }
        let outcome = match failed {
            Some(error) => Err(error),
            None => delivery.finish(),
        };
        let body = match outcome {
            Ok(extracted) => {
                let devices = extracted.unwrap_or_default().devices_skipped;
                if devices > 0 {
                    let remark = format!("`{shown}`: {devices} device files were left out");
                    let mut remarks = remarks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    remarks.push(remark);
                }
                Body::Written(v1::OutputWritten {})
            }
            Err(error) => Refusal::new(error).into_body(),
        };
        // Without a stream the build has ended: its outcome is told elsewhere.
        drop(answers.blocking_send(client_message(request_id, body, true)));
        return;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_fails_early_is_told_with_its_last_part() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let (sender, parts) = mpsc::channel(64);
        let chunk = |last| {
            Part::Chunk(v1::OutputChunk {
                data: vec![0; 10],
                last,
                ..v1::OutputChunk::default()
            })
        };
        for number in 0..20 {
            sender.blocking_send((number, chunk(false))).map_err(drop).unwrap();
        }
        let opened = File::open(&file).unwrap();
        sender.blocking_send((20, Part::File(opened, 0))).map_err(drop).unwrap();
        sender.blocking_send((21, chunk(true))).map_err(drop).unwrap();
        let (answers, mut told) = mpsc::channel(64);
        write_output(
            Destination::File(file.join("below")),
            parts,
            &answers,
            &Remarks::default(),
        );
        drop(answers);
        let mut all = Vec::new();
        while let Some(message) = told.blocking_recv() {
            all.push((message.request_id, matches!(message.body, Some(Body::Error(_)))));
        }
        assert_eq!(all, [(20, false), (21, true)]);
    }
}
