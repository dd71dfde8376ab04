//! A process on the server, attached to this command: what comes in, what goes out, signals.

use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;

use proto::v1;
use proto::v1::exec_client::ExecClient;
use proto::v1::exec_input::Body as Input;
use proto::v1::exec_output::Body as Said;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::failed;
use super::terminal::{self, RawMode};
use crate::exit::{Blame, Problem};
use crate::server::Connection;
use crate::session::Session;
use crate::session::stream;

/// Messages that wait for the network.
const MESSAGES_IN_FLIGHT: usize = 8;
/// Bytes of standard input in one message.
const INPUT_BYTES: usize = 64 << 10;
/// Bytes of one message of the server.
const MESSAGE_BYTES: usize = 4 << 20;
/// As if `SIGPIPE` had ended this command: nobody reads what the program says.
const NOBODY_READS: u8 = 128 + 13;
/// So often asked to end, this command ends whatever the program does.
const PATIENCE: u32 = 3;

/// Runs what `start` says and returns what it ended with.
///
/// # Errors
/// It could not be run; the connection broke.
pub(super) async fn run(connection: &Connection, session: Session, mut start: v1::ExecStart) -> Result<u8, Problem> {
    start.session_id.clone_from(&session.build_id);
    let (has_stdin, has_terminal) = (start.stdin, start.terminal.is_some());
    let open = stream::open(connection.channel.clone(), Arc::new(session), Vec::new()).await?;
    let (sender, outgoing) = mpsc::channel(MESSAGES_IN_FLIGHT);
    let talk = Talk {
        sender,
        signals: Signals::new()?,
        has_terminal,
        has_stdin,
        state: State::Waiting,
    };
    talk.send(Input::Start(Box::new(start))).await;
    let mut client = ExecClient::new(connection.channel.clone()).max_decoding_message_size(MESSAGE_BYTES);
    let said = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut session = pin!(open.run());
    let mut talking = pin!(talk.until_ended(said));
    tokio::select! {
        ended = &mut talking => ended,
        session = &mut session => match session {
            Err(problem) => Err(problem),
            // The server closes sessions first when it ends.
            Ok(()) => talking.await,
        },
    }
}

struct Talk {
    sender: mpsc::Sender<v1::ExecInput>,
    signals: Signals,
    has_terminal: bool,
    has_stdin: bool,
    state: State,
}

/// Whether there is somebody to talk to.
enum State {
    Waiting,
    /// With every key for it, where it has a terminal.
    Started {
        _raw: Option<RawMode>,
    },
}

impl Talk {
    async fn send(&self, body: Input) {
        // A server that went away says so on the other stream.
        drop(self.sender.send(v1::ExecInput { body: Some(body) }).await);
    }

    /// Until now Ctrl-C meant this command; from now on, whatever has the terminal inside.
    fn start(&mut self) -> Result<(), Problem> {
        let _raw = match self.has_terminal && self.has_stdin {
            true => RawMode::enter()?,
            false => None,
        };
        self.state = State::Started { _raw };
        Ok(())
    }

    async fn until_ended(mut self, mut said: tonic::Streaming<v1::ExecOutput>) -> Result<u8, Problem> {
        let mut input = self.has_stdin.then(stdin);
        let mut may_send = true;
        let mut asked = 0;
        loop {
            tokio::select! {
                message = said.message() => match message?.and_then(|message| message.body) {
                    Some(Said::Exited(exited)) => return Ok(u8::try_from(exited.code & 0xff).unwrap_or(u8::MAX)),
                    Some(Said::Failure(failure)) => return Err(failed(failure)),
                    Some(Said::StdinTaken(_)) => may_send = true,
                    Some(Said::Started(_)) => self.start()?,
                    Some(Said::Stdout(bytes)) => if write(io::stdout(), &bytes)? { return Ok(NOBODY_READS) },
                    Some(Said::Stderr(bytes)) => if write(io::stderr(), &bytes)? { return Ok(NOBODY_READS) },
                    None => return Err(Problem::new(Blame::Bug, "the build server stopped to report, without an outcome")),
                },
                bytes = next(&mut input), if may_send => match bytes {
                    Some(bytes) => {
                        may_send = false;
                        self.send(Input::Stdin(bytes)).await;
                    }
                    None => {
                        input = None;
                        self.send(Input::StdinEnd(v1::ExecStdinEnd {})).await;
                    }
                },
                number = self.signals.next() => {
                    asked += u32::from(matches!(number, INTERRUPT | TERMINATE));
                    if asked >= PATIENCE || asked > 0 && matches!(self.state, State::Waiting) {
                        return Err(Problem::told(Blame::Canceled));
                    }
                    match number {
                        WINDOW_CHANGE if self.has_terminal => self.send(Input::Resize(terminal::size())).await,
                        WINDOW_CHANGE => {}
                        number => self.send(Input::Signal(number)).await,
                    }
                }
            }
        }
    }
}

/// Writes all of `bytes`. Returns whether nobody reads them.
fn write(mut to: impl Write, bytes: &[u8]) -> Result<bool, Problem> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        Err(error) => Err(Problem::environment(format!("output: {error}"))),
    }
}

/// What comes next on standard input; never anything if there is none, or its end was told.
async fn next(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// Standard input, read by a thread of its own: nothing can end a read of a terminal, and the runtime would wait for one of its own
/// threads. The process does not wait for this one.
fn stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; INPUT_BYTES];
        // What cannot be read is at its end.
        while let Ok(count @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(io::stdin(), buffer.as_mut_slice())) {
            if sender.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

const HANG_UP: i32 = 1;
const INTERRUPT: i32 = 2;
const QUIT: i32 = 3;
const TERMINATE: i32 = 15;
const WINDOW_CHANGE: i32 = 28;

/// Signals for the process.
struct Signals([(i32, Signal); 5]);

impl Signals {
    fn new() -> Result<Self, Problem> {
        let listen = |number: i32| match signal(SignalKind::from_raw(number)) {
            Ok(signal) => Ok((number, signal)),
            Err(error) => Err(Problem::environment(format!("signals: {error}"))),
        };
        Ok(Self([
            listen(HANG_UP)?,
            listen(INTERRUPT)?,
            listen(QUIT)?,
            listen(TERMINATE)?,
            listen(WINDOW_CHANGE)?,
        ]))
    }

    async fn next(&mut self) -> i32 {
        let Self([hang_up, interrupt, quit, terminate, window]) = self;
        tokio::select! {
            _ = hang_up.1.recv() => hang_up.0,
            _ = interrupt.1.recv() => interrupt.0,
            _ = quit.1.recv() => quit.0,
            _ = terminate.1.recv() => terminate.0,
            _ = window.1.recv() => window.0,
        }
    }
}
