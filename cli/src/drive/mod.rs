//! One build, push or pull from its session to its last event.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use proto::v1;
use proto::v1::build_client::BuildClient;
use proto::v1::event::Kind;
use proto::v1::finished::Outcome;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::config::Display;
use crate::exit::{self, Blame, Problem};
use crate::output::Destination;
use crate::server::Connection;
use crate::session::Session;
use crate::session::stream::{self, OpenSession};
use crate::ui::{self, Screen};

/// How often a broken stream of events is taken up again.
const RESUMES: u32 = 5;

/// Pause before a stream of events is taken up again.
const RESUME_PAUSE: Duration = Duration::from_millis(200);

/// Largest event.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// What the server is asked to do.
#[derive(Debug)]
pub(crate) enum Start {
    /// A build.
    Build(Box<v1::SubmitRequest>),
    /// A push or pull.
    Transfer(v1::TransferRequest),
}

/// A job and what it needs from the client.
#[derive(Debug)]
pub(crate) struct Job {
    /// What the server is asked to do; gets its id here.
    pub(crate) start: Start,
    /// What the client lends; gets its id here.
    pub(crate) session: Session,
    /// Where outputs go, by index.
    pub(crate) destinations: Vec<Destination>,
}

/// Runs a job to its end and shows it. Ctrl-C cancels it; the third one ends this process.
///
/// # Errors
/// The job failed; if the screen has said why, the problem has no words.
pub(crate) async fn run(connection: &Connection, job: Job, display: Display) -> Result<v1::Success, Problem> {
    let Job {
        mut start,
        mut session,
        destinations,
    } = job;
    let id = build_id()?;
    session.build_id.clone_from(&id);
    session.share_paths = connection.shares_files;
    match &mut start {
        Start::Build(request) => request.build_id.clone_from(&id),
        Start::Transfer(request) => request.build_id.clone_from(&id),
    }
    let source = session
        .description
        .as_ref()
        .map(|description| description.dockerfile.clone());
    for remark in session.agents.remarks().await {
        ui::remark(&remark);
    }
    let mut screen = Screen::new(display, source, std::io::stderr());
    let open = stream::open(connection.channel.clone(), Arc::new(session), destinations).await?;
    let remarks = open.remarks();
    let outcome = serve_and_watch(connection.channel.clone(), open, start, &id, &mut screen).await;
    let remarks = std::mem::take(&mut *remarks.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    for remark in remarks {
        ui::remark(&format!("warning: {remark}"));
    }
    match outcome? {
        Outcome::Success(success) => Ok(success),
        Outcome::Failure(failure) => Err(Problem::told(failure.blame().into())),
    }
}

/// Answers the session, shows events and listens to Ctrl-C, all at once, until the job has an outcome.
async fn serve_and_watch<W: Write>(
    channel: Channel,
    open: OpenSession,
    start: Start,
    id: &str,
    screen: &mut Screen<W>,
) -> Result<Outcome, Problem> {
    let client = BuildClient::new(channel).max_decoding_message_size(MAX_EVENT_BYTES);
    let mut interrupts = interrupts()?;
    let watch = submit_and_attach(client.clone(), start, id, screen);
    let session = open.run();
    tokio::pin!(watch, session);
    let mut session_result = None;
    let mut cancel_sent = false;
    let mut cancel = std::pin::pin!(async {
        let request = v1::CancelRequest {
            build_id: id.to_owned(),
            reason: "interrupted".to_owned(),
        };
        client.clone().cancel(request).await
    });
    let mut cancelling = false;
    let outcome = loop {
        tokio::select! {
            outcome = &mut watch => break outcome,
            result = &mut session, if session_result.is_none() => session_result = Some(result),
            Some(()) = interrupts.recv() => {
                if !cancel_sent {
                    ui::remark("cancelling; press Ctrl-C twice more to end at once");
                }
                cancelling |= !cancel_sent;
                cancel_sent = true;
            }
            result = &mut cancel, if cancelling => {
                cancelling = false;
                if let Err(status) = result {
                    break Err(Problem::from(status));
                }
            }
        }
    };
    match (outcome, session_result) {
        // The session broke first: that is the cause of what followed.
        (Err(problem), Some(Err(cause))) if cause.message != problem.message => Err(problem.note(cause.message)),
        (outcome, _) if !cancel_sent => outcome,
        (Ok(Outcome::Success(success)), _) => Ok(Outcome::Success(success)),
        _ => Err(Problem::told(Blame::Canceled)),
    }
}

/// Ctrl-C and `SIGTERM`, as many as come. The third one ends the process: nobody should need `kill -9`.
fn interrupts() -> Result<mpsc::Receiver<()>, Problem> {
    use tokio::signal::unix::{SignalKind, signal};

    let failed = |error: std::io::Error| Problem::environment(format!("signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (sender, receiver) = mpsc::channel(3);
    tokio::spawn(async move {
        for count in 1..=3 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if count == 3 {
                crate::end_now(Blame::Canceled);
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

async fn submit_and_attach<W: Write>(
    mut client: BuildClient<Channel>,
    start: Start,
    id: &str,
    screen: &mut Screen<W>,
) -> Result<Outcome, Problem> {
    match start {
        Start::Build(request) => drop(client.submit(*request).await?),
        Start::Transfer(request) => drop(client.transfer(request).await?),
    }
    let mut cursor = 0;
    let mut resumes = 0;
    loop {
        match attach(&mut client, id, &mut cursor, screen).await {
            Ok(Some(outcome)) => return Ok(outcome),
            Ok(None) if resumes == RESUMES => {
                return Err(Problem::new(
                    Blame::Bug,
                    "the build server stopped to report, without an outcome",
                ));
            }
            Err(status) if resumes == RESUMES || !may_resume(&status) => return Err(status.into()),
            Ok(None) | Err(_) => {
                resumes += 1;
                tokio::time::sleep(RESUME_PAUSE).await;
            }
        }
    }
}

/// Whether another connection may go on where this one ended.
fn may_resume(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::Unavailable || exit::connection_broke(status)
}

/// Shows events from `cursor` on, which moves; nothing if the stream ended before the job did.
async fn attach<W: Write>(
    client: &mut BuildClient<Channel>,
    id: &str,
    cursor: &mut u64,
    screen: &mut Screen<W>,
) -> Result<Option<Outcome>, tonic::Status> {
    let request = v1::AttachRequest {
        build_id: id.to_owned(),
        cursor: *cursor,
    };
    let mut events = client.attach(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        // What was shown before a break is not shown again.
        if event.seq < *cursor {
            continue;
        }
        *cursor = event.seq + 1;
        // A terminal that went away does not stop a build.
        drop(screen.show(&event));
        if let Some(Kind::Finished(finished)) = event.kind {
            return Ok(finished.outcome);
        }
    }
    Ok(None)
}

/// 32 hex digits that nobody else has.
pub(crate) fn build_id() -> Result<String, Problem> {
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| Problem::environment(format!("`/dev/urandom`: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests;
