//! What a process reads and writes that somebody talks to, as the sandbox makes it: pipes, or a pseudo terminal of the step's own.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use rustix::pty::OpenptFlags;
use rustix::termios::tcsetwinsize;

use super::attach::{MOST_ENDS, Manner, Talk};
use super::root::{self, RDONLY};
use super::spec::{Attempt, Failure, Status};
use super::target::Tree;
use super::user::Identity;

/// Where the terminals of a step are made, below its root.
const MULTIPLEXER: &str = "dev/pts/ptmx";
/// `f_type` of a file system of terminals.
const DEVPTS: i64 = 0x1cd1;
/// Between two looks for orphans that ended: they are nobody's child but ours.
const ORPHANS: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The ends that the process gets.
pub(super) enum Stdio {
    Pipes {
        /// Nothing: there is nothing to read.
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal(OwnedFd),
}

impl Stdio {
    /// Makes what `manner` asks for in the root `tree`, which was entered, and sends the other ends over `socket`.
    pub(super) fn make(manner: Manner, tree: &Tree, socket: &UnixStream) -> Result<Self, Failure> {
        if manner.read_only {
            root::set_attributes(tree.root(), RDONLY).attempt("make the root filesystem read-only")?;
        }
        match manner.talk {
            Talk::Streams { stdin } => {
                let (out_reader, stdout) = io::pipe().attempt("make a pipe")?;
                let (err_reader, stderr) = io::pipe().attempt("make a pipe")?;
                let mut ends = vec![OwnedFd::from(out_reader), err_reader.into()];
                let mut ours = None;
                if stdin {
                    let (reader, writer) = io::pipe().attempt("make a pipe")?;
                    ends.push(writer.into());
                    ours = Some(reader.into());
                }
                hand_over(socket, &ends)?;
                Ok(Self::Pipes {
                    stdin: ours,
                    stdout: stdout.into(),
                    stderr: stderr.into(),
                })
            }
            Talk::Terminal(size) => {
                let (master, terminal) = terminal(tree)?;
                tcsetwinsize(&master, size.into()).attempt("set the size of the terminal")?;
                hand_over(socket, &[master])?;
                Ok(Self::Terminal(terminal))
            }
        }
    }

    /// Makes them standard input, output and error of this process, which has started a session. The user owns them: only an owner
    /// can open `/dev/stdout` or its terminal again.
    pub(super) fn put_on(&self, identity: &Identity) -> Result<(), Failure> {
        let own = |fd: &OwnedFd| {
            let user = Some(Uid::from_raw(identity.uid));
            // The group stays: that of terminals may write messages to them.
            rustix::fs::fchown(fd, user, None).attempt("give the output to the user")
        };
        match self {
            Self::Pipes { stdin, stdout, stderr } => {
                if let Some(stdin) = stdin {
                    own(stdin)?;
                    rustix::stdio::dup2_stdin(stdin).attempt("connect standard input")?;
                }
                own(stdout)?;
                own(stderr)?;
                rustix::stdio::dup2_stdout(stdout).attempt("connect standard output")?;
                rustix::stdio::dup2_stderr(stderr).attempt("connect standard error")
            }
            Self::Terminal(terminal) => {
                own(terminal)?;
                rustix::process::ioctl_tiocsctty(terminal).attempt("take the terminal")?;
                rustix::stdio::dup2_stdin(terminal).attempt("connect the terminal")?;
                rustix::stdio::dup2_stdout(terminal).attempt("connect the terminal")?;
                rustix::stdio::dup2_stderr(terminal).attempt("connect the terminal")
            }
        }
    }
}

/// A new terminal in the devpts of the step: both of its ends. Nothing that the image or a mount put in the way is opened.
fn terminal(tree: &Tree) -> Result<(OwnedFd, OwnedFd), Failure> {
    let action = "make a terminal";
    let (flags, resolve) = (
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let found = rustix::fs::openat2(
        tree.root(),
        MULTIPLEXER,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
    .attempt(action)?;
    if rustix::fs::fstatfs(&found).attempt(action)?.f_type != DEVPTS {
        return Err(Failure::Refused(format!(
            "a mount covers `/{MULTIPLEXER}`: there can be no terminal"
        )));
    }
    let master = rustix::fs::openat2(tree.root(), MULTIPLEXER, flags, Mode::empty(), resolve).attempt(action)?;
    rustix::pty::unlockpt(&master).attempt(action)?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&master, peer).attempt(action)?;
    Ok((master, terminal))
}

fn hand_over(socket: &UnixStream, ends: &[OwnedFd]) -> Result<(), Failure> {
    let ends: Vec<BorrowedFd<'_>> = ends.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_ENDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&ends)) {
        return Err(Errno::NOBUFS).attempt("hand over what the process reads and writes");
    }
    let sent =
        rustix::io::retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL));
    sent.map(drop).attempt("hand over what the process reads and writes")
}

/// Waits for the step, and for every orphan that ends before it, and passes on the signals that come over `socket`. To be called
/// with a descriptor of the step that becomes readable when it ends.
pub(super) fn reap_attached(step: Pid, ended: &OwnedFd, socket: &UnixStream) -> Result<Status, Failure> {
    let mut listens = true;
    loop {
        if let Some(status) = reap_ended(step)? {
            return Ok(status);
        }
        let mut watched = vec![PollFd::new(ended, PollFlags::IN)];
        if listens {
            watched.push(PollFd::new(socket, PollFlags::IN));
        }
        match poll(&mut watched, Some(&ORPHANS)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).attempt("wait for the step"),
        }
        if watched.get(1).is_some_and(|socket| !socket.revents().is_empty()) {
            listens = pass_on(step, socket)?;
        }
    }
}

/// What became of the step, if it has ended.
fn reap_ended(step: Pid) -> Result<Option<Status>, Failure> {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == step => {
                let code = status.exit_status().map(Status::Code);
                return Ok(code.or_else(|| status.terminating_signal().map(Status::Signal)));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return Ok(None),
            Err(error) => return Err(error).attempt("wait for the step"),
        }
    }
}

/// Passes on one signal. Returns whether more can come.
fn pass_on(step: Pid, socket: &UnixStream) -> Result<bool, Failure> {
    let mut number = [0];
    if rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut number)).attempt("read a signal")? == 0 {
        return Ok(false);
    }
    if let Some(signal) = Signal::from_named_raw(i32::from(number[0])) {
        // It was not waited for yet, so it is still this process, if perhaps an ended one.
        kill_process(step, signal).attempt("send a signal to the step")?;
    }
    Ok(true)
}
