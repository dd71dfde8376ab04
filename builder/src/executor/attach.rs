//! A process that somebody talks to: standard input, two streams or a terminal, signals.
//!
//! The sandbox makes the pipes or the pseudo terminal itself, the latter in the devpts of the step, and hands the other ends over
//! its socket with one byte. No terminal of this machine is ever seen inside. Signals go the same way back, a byte each.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::spec::{self, Reply};
use super::{OutputChunk, Speaker};
use crate::sys::watch;

/// Descriptors that a sandbox hands over at most: three pipes.
pub(super) const MOST_ENDS: usize = 3;
/// What asks a process to end.
const TERM: u8 = 15;
/// Output is passed on in pieces of at most this size.
const CHUNK_BYTES: usize = 32 << 10;

/// What a process has that somebody talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manner {
    /// How it is talked to.
    pub talk: Talk,
    /// Whether writes to its root filesystem fail.
    pub read_only: bool,
}

/// How a process is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Talk {
    /// A pipe for each stream; without `stdin` there is nothing to read.
    Streams {
        /// Whether there is standard input.
        stdin: bool,
    },
    /// A terminal of its own.
    Terminal(Size),
}

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl From<Size> for Winsize {
    fn from(size: Size) -> Self {
        Self {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        }
    }
}

/// What else is said to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// The terminal has another size; nothing without one.
    Resize(Size),
    /// A signal, by its number.
    Signal(u8),
}

/// Who talks to a process.
#[derive(Debug)]
pub struct Attached {
    /// What it has.
    pub manner: Manner,
    /// The signal that asks it to end, if it is not SIGTERM: an image may say another one.
    pub stop_signal: Option<u8>,
    /// Told when there is a process to talk to.
    pub started: Option<oneshot::Sender<()>>,
    /// Bytes for it; closed: there are no more.
    pub input: mpsc::Receiver<Bytes>,
    /// Everything else for it.
    pub control: mpsc::Receiver<Control>,
}

/// Our ends of what a process reads and writes.
struct Ends {
    input: Option<AsyncFd<OwnedFd>>,
    outputs: Vec<(Speaker, AsyncFd<OwnedFd>)>,
    /// A terminal is one descriptor for both.
    is_terminal: bool,
}

impl Ends {
    /// In the order in which [`super::terminal`] sends them.
    fn new(mut received: Vec<OwnedFd>, talk: Talk) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the sandbox sent other descriptors");
        let mut take = || {
            let fd = (!received.is_empty()).then(|| received.remove(0)).ok_or_else(wrong)?;
            rustix::io::ioctl_fionbio(&fd, true)?;
            Ok::<_, io::Error>(fd)
        };
        Ok(match talk {
            Talk::Terminal(_) => {
                let master = take()?;
                let again = rustix::io::fcntl_dupfd_cloexec(&master, 3)?;
                Self {
                    input: Some(watch(master)?),
                    outputs: vec![(Speaker::Step, watch(again)?)],
                    is_terminal: true,
                }
            }
            Talk::Streams { stdin } => {
                let outputs = vec![(Speaker::Step, watch(take()?)?), (Speaker::StepErrors, watch(take()?)?)];
                let input = stdin.then(take).transpose()?.map(watch).transpose()?;
                Self {
                    input,
                    outputs,
                    is_terminal: false,
                }
            }
        })
    }
}

/// Sends the step, carries everything between it and `attached`, and reads the reply. When cancelled, ends the sandbox and goes on
/// until nothing of it is left.
pub(super) async fn converse(
    socket: UnixStream,
    message: Vec<u8>,
    mut attached: Attached,
    output: mpsc::Sender<OutputChunk>,
    cancel: CancellationToken,
) -> io::Result<Option<Reply>> {
    let sent = async {
        let (mut socket, message) = (&socket, message);
        write_all(&mut socket, &message).await?;
        receive_ends(socket).await
    };
    let first = tokio::select! {
        first = sent => first,
        () = cancel.cancelled() => Ok(First::Nothing),
    };
    let (mut reader, writer) = socket.into_split();
    let writer = Mutex::new(writer);
    let mut bytes = Vec::new();
    let ends = match first? {
        First::Ends(ends) => Some(Ends::new(ends, attached.manner.talk)?),
        First::Byte(byte) => {
            bytes.push(byte);
            None
        }
        First::Nothing => None,
    };
    let reading = async {
        tokio::select! {
            read = reader.read_to_end(&mut bytes) => return read.map(drop),
            () = cancel.cancelled() => {}
        }
        writer.lock().await.shutdown().await?;
        reader.read_to_end(&mut bytes).await.map(drop)
    };
    match ends {
        None => reading.await?,
        Some(ends) => {
            if let Some(started) = attached.started.take() {
                // Not everybody wants to know.
                if started.send(()).is_err() {
                    tracing::trace!("nobody waited for the process");
                }
            }
            talk(reading, ends, attached, &writer, &output).await?;
        }
    }
    spec::decode(&bytes)
}

async fn write_all(socket: &mut &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Carries input and output until the sandbox has answered and nobody writes any more.
async fn talk(
    reading: impl Future<Output = io::Result<()>>,
    ends: Ends,
    attached: Attached,
    writer: &Mutex<OwnedWriteHalf>,
    output: &mpsc::Sender<OutputChunk>,
) -> io::Result<()> {
    let Ends {
        input,
        outputs,
        is_terminal,
    } = ends;
    let terminal = match (&input, is_terminal) {
        (Some(master), true) => Some(rustix::io::fcntl_dupfd_cloexec(master.get_ref(), 3)?),
        _ => None,
    };
    let Attached {
        input: said,
        control,
        stop_signal,
        ..
    } = attached;
    let obeyed = Obeyed {
        terminal,
        stop_signal: stop_signal.unwrap_or(TERM),
        writer,
    };
    let listening = async {
        let feeding = feed(input, said);
        let obeying = obeyed.obey(control);
        tokio::join!(feeding, obeying);
        // What there was to say was said; the process goes on.
        std::future::pending::<()>().await;
    };
    let ended = async {
        tokio::select! {
            read = reading => read,
            () = listening => Ok(()),
        }
    };
    let forwarding = futures_util::future::join_all(
        outputs
            .iter()
            .map(|(speaker, end)| forward(*speaker, end, output.clone())),
    );
    let (ended, _) = tokio::join!(ended, forwarding);
    ended
}

/// Writes what comes to standard input, and closes it after the last. A process that does not read any more loses the rest.
async fn feed(input: Option<AsyncFd<OwnedFd>>, mut said: mpsc::Receiver<Bytes>) {
    while let Some(mut bytes) = said.recv().await {
        let Some(input) = &input else { continue };
        while !bytes.is_empty() {
            let written = input
                .async_io(Interest::WRITABLE, |input| Ok(rustix::io::write(input, &bytes)?))
                .await;
            match written {
                Ok(written) => drop(bytes.split_to(written)),
                Err(error) => {
                    tracing::debug!(reason = %error, "a process does not read its input");
                    break;
                }
            }
        }
    }
}

/// Where sizes and signals go.
struct Obeyed<'a> {
    terminal: Option<OwnedFd>,
    stop_signal: u8,
    writer: &'a Mutex<OwnedWriteHalf>,
}

impl Obeyed<'_> {
    /// Passes on sizes and signals. A process that is gone needs neither.
    async fn obey(&self, mut control: mpsc::Receiver<Control>) {
        while let Some(control) = control.recv().await {
            let done = match (control, &self.terminal) {
                (Control::Resize(size), Some(terminal)) => {
                    rustix::termios::tcsetwinsize(terminal, size.into()).map_err(io::Error::from)
                }
                (Control::Resize(_), None) => Ok(()),
                (Control::Signal(TERM), _) => self.signal(self.stop_signal).await,
                (Control::Signal(number), _) => self.signal(number).await,
            };
            if let Err(error) = done {
                tracing::debug!(?control, reason = %error, "a process was not told");
            }
        }
    }

    async fn signal(&self, number: u8) -> io::Result<()> {
        self.writer.lock().await.write_all(&[number]).await
    }
}

/// Passes on what one stream says, to its end. A terminal ends with an error when nobody has it open any more.
async fn forward(speaker: Speaker, end: &AsyncFd<OwnedFd>, output: mpsc::Sender<OutputChunk>) {
    let mut wanted = true;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = end.async_io(Interest::READABLE, |end| {
            Ok(rustix::io::read(end, buffer.as_mut_slice())?)
        });
        match read.await {
            Ok(0) => return,
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => return,
            // As of a step: nobody who listens is no reason to block or die.
            Ok(count) => {
                let chunk = Bytes::copy_from_slice(&buffer[..count]);
                wanted = wanted && output.send((speaker, chunk)).await.is_ok();
            }
            Err(error) => {
                tracing::warn!(reason = %error, "output of a process is lost");
                return;
            }
        }
    }
}

/// The first that a sandbox says.
enum First {
    /// The other ends of what the process reads and writes.
    Ends(Vec<OwnedFd>),
    /// The first byte of a reply: it came to nothing.
    Byte(u8),
    Nothing,
}

async fn receive_ends(socket: &UnixStream) -> io::Result<First> {
    socket
        .async_io(Interest::READABLE, || {
            let mut byte = [0];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_ENDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut byte)];
            let received = recvmsg(socket, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
            let ends: Vec<OwnedFd> = ancillary
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                    _ => None,
                })
                .flatten()
                .collect();
            Ok(match (received.bytes, ends.is_empty()) {
                (0, _) => First::Nothing,
                (_, false) => First::Ends(ends),
                (_, true) => First::Byte(byte[0]),
            })
        })
        .await
}
