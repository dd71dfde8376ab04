//! The supervisor of one step: puts everything in its place, starts the step in its root, ends what it has started, and puts
//! everything back.
//!
//! It stays outside of the root that the step is confined to, and keeps the privileges of the engine. When the engine closes its
//! end of the socket (cancelled, or dead, however it died), the step ends and its tree is put in order all the same: secrets are
//! gone, and cache mounts are back, before this process ends.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, set_child_subreaper, set_parent_process_death_signal, setsid,
    wait,
};
use rustix::thread::{CapabilitySet, capabilities, set_no_new_privs};

use super::super::init::{Command, OOM_SCORE, Trouble, drop_privileges};
use super::super::profile::{self, Profile};
use super::super::spec::{Attempt, Failure, Reply, Status, Times, receive, send};
use super::super::target::{Tree, Want};
use super::super::user::{self, Identity};
use super::super::{Network, seccomp, ulimit};
use super::places::Places;
use super::{PlainSpec, descendants};
use crate::ids::Ids;
use crate::limits::Ulimit;
use crate::sys::{self, Fork};

/// What is moved from the step to the engine at once.
const CHUNK_BYTES: usize = 64 << 10;
/// How often orphans that have ended are waited for, at least.
const ROUND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Runs as the supervisor, to the end of the step.
pub(in super::super) fn begin(socket: OwnedFd, output: OwnedFd, groups: &[PathBuf]) -> io::Result<()> {
    let socket = UnixStream::from(socket);
    set_child_subreaper(Some(rustix::process::getpid()))?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    for group in groups {
        fs::write(group.join("cgroup.procs"), "0")?;
    }
    // An engine that has no step after all closes the socket.
    let spec: PlainSpec = receive(&socket)?;
    let reply = run(spec, &socket, &output);
    // All that the step could have printed through is closed; with this one the engine sees the end of it.
    drop(output);
    send(&socket, &reply.unwrap_or_else(Reply::Failed))
}

/// Everything that the process of the step needs after its fork.
struct Step {
    identity: Identity,
    profile: Profile,
    ulimits: Vec<Ulimit>,
    root: OwnedFd,
    cwd: OwnedFd,
    command: Command,
    filter: Option<Vec<sys::FilterOp>>,
    output: OwnedFd,
}

fn run(mut spec: PlainSpec, socket: &UnixStream, output: &OwnedFd) -> Result<Reply, Failure> {
    let began = Instant::now();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Given back when the last process that works here has ended.
    let _lock = hold(&spec.lock).attempt("hold the trees")?;
    let open = |path| rustix::fs::open(path, flags, Mode::empty()).attempt("open the root filesystem");
    let (root, aside) = (open(&spec.tree)?, open(&spec.aside)?);
    let tree = Tree::new(root).attempt("read the root filesystem")?;
    let mut places = Places::new(&tree, aside, &spec.aside);
    let ran = places
        .put(&spec)
        .and_then(|printed| prepare(&mut spec, &tree, &printed).map(|step| (step, printed)))
        .and_then(|(step, printed)| watch(step, &printed, socket, output, began));
    let put_back = places.put_back();
    let reply = ran?;
    put_back?;
    Ok(reply)
}

fn hold(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    let lock = rustix::fs::open(path, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockShared))?;
    Ok(lock)
}

fn prepare(spec: &mut PlainSpec, tree: &Tree, printed: &Printed) -> Result<Step, Failure> {
    let read = |path| user::read_accounts(tree.root(), path).map_err(Failure::Refused);
    let process = &mut spec.process;
    let identity = user::lookup(&process.user, &read("etc/passwd")?, &read("etc/group")?).map_err(Failure::Refused)?;
    if !process.env.iter().any(|(name, _)| name == "HOME") {
        process.env.push(("HOME".to_owned(), identity.home.clone()));
    }
    let cwd = tree
        .reach(&process.cwd, Want::Dir)
        .map_err(|error| Failure::Refused(format!("cannot enter working directory `{}`: {error}", process.cwd)))?;
    // Only an owner can open `/dev/stdout` again.
    let owner = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::fs::fchown(&printed.into, Some(owner.0), Some(owner.1)).attempt("give the output to the user")?;
    let profile = profile::of(process.security)
        .ok_or_else(|| Failure::Refused("this kind of sandbox has no further privileges to give".to_owned()))?;
    Ok(Step {
        ulimits: std::mem::take(&mut process.limits.ulimits),
        profile,
        filter: filter(process.network, &identity, &profile)?,
        command: Command::new(&process.args, &process.env)?,
        root: rustix::io::fcntl_dupfd_cloexec(tree.root(), 3).attempt("open the root filesystem")?,
        cwd: cwd.fd,
        output: rustix::io::fcntl_dupfd_cloexec(&printed.into, 3).attempt("open the output")?,
        identity,
    })
}

/// The filter of the step. Who lacks `SYS_ADMIN` can install one only for processes that will never gain privileges. To root that
/// is no loss; another user would lose `sudo`, so what the container's own filter refuses must do for such steps, if it has one.
fn filter(network: Network, identity: &Identity, profile: &Profile) -> Result<Option<Vec<sys::FilterOp>>, Failure> {
    let status = fs::read_to_string("/proc/self/status").attempt("read the state of the supervisor")?;
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let has_filter = value("Seccomp:") == Some("2");
    let gains_nothing = value("NoNewPrivs:") == Some("1");
    if !profile.no_new_privileges && identity.uid != 0 && has_filter && !gains_nothing && network != Network::None {
        return Ok(None);
    }
    let everybody = descendants::everybody().attempt("list processes")?;
    let has_network = network != Network::None;
    Ok(Some(seccomp::guarding(&everybody, has_network, profile.refused_calls)))
}

/// The pipe that a step prints to: it has names in `/dev`, so that programs can open it again without `/proc`.
pub(super) struct Printed {
    /// For the supervisor.
    from: OwnedFd,
    /// For the step.
    into: OwnedFd,
}

impl Printed {
    /// Opens the named pipe `name` of the directory.
    pub(super) fn open(dir: BorrowedFd<'_>, name: &str) -> Result<Self, Errno> {
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = rustix::fs::openat(dir, name, flags | OFlags::RDWR | OFlags::NONBLOCK, Mode::empty())?;
        let into = rustix::fs::openat(dir, name, flags | OFlags::WRONLY, Mode::empty())?;
        Ok(Self { from, into })
    }
}

/// Starts the step and stays with it until nothing of it is left.
fn watch(
    step: Step,
    printed: &Printed,
    socket: &UnixStream,
    output: &OwnedFd,
    began: Instant,
) -> Result<Reply, Failure> {
    let mounts = began.elapsed();
    let forking = Instant::now();
    let (trouble, report) = UnixStream::pair().attempt("make a socket")?;
    let supervisor = rustix::process::getpid();
    let pid = match sys::fork().attempt("fork")? {
        Fork::Child => {
            let (code, message) = become_step(&step, supervisor);
            let sent = send(&report, &Trouble { code, message });
            sys::exit_now(if sent.is_ok() { 0 } else { 1 });
        }
        Fork::Parent(pid) => pid,
    };
    drop((report, step));
    let trouble: Option<Trouble> = match receive(&trouble) {
        Ok(trouble) => Some(trouble),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => return Err(error).attempt("wait for the program to start"),
    };
    let started = Instant::now();
    let status = stay(pid, printed, socket, output);
    let ran = started.elapsed();
    let ended = descendants::end_all(&[]).attempt("end what the step has left");
    pump(&printed.from, output);
    let (status, ()) = (status?, ended?);
    let times = Times {
        mounts,
        start: started.duration_since(forking),
        ran,
    };
    Ok(said(trouble, status, times))
}

fn said(trouble: Option<Trouble>, status: Option<Status>, times: Times) -> Reply {
    let stubs = Vec::new();
    match (trouble, status) {
        (Some(Trouble { code: 0, message }), _) => Reply::Failed(Failure::Setup {
            action: "start the program".to_owned(),
            reason: message,
        }),
        (Some(Trouble { code, message }), _) => Reply::NotExecuted { code, message, stubs },
        (None, Some(status)) => Reply::Ended { status, stubs, times },
        // Nobody is there to read it.
        (None, None) => Reply::Failed(Failure::Setup {
            action: "run the step".to_owned(),
            reason: "cancelled".to_owned(),
        }),
    }
}

/// Until the step has ended, or the engine does not want it any more.
fn stay(pid: Pid, printed: &Printed, socket: &UnixStream, output: &OwnedFd) -> Result<Option<Status>, Failure> {
    let handle = pidfd_open(pid, PidfdFlags::empty()).attempt("watch the step")?;
    loop {
        let mut watched = [
            PollFd::new(&handle, PollFlags::IN),
            PollFd::new(socket, PollFlags::RDHUP),
            PollFd::new(&printed.from, PollFlags::IN),
        ];
        rustix::io::retry_on_intr(|| poll(&mut watched, Some(&ROUND))).attempt("wait for the step")?;
        let is_unwanted = !watched[1].revents().is_empty();
        pump(&printed.from, output);
        if is_unwanted {
            return Ok(None);
        }
        if let Some(status) = reap(pid)? {
            return Ok(Some(status));
        }
    }
}

/// Waits for everything that has ended by now: orphans count against the limit of processes until somebody does. Returns how the
/// step has ended, if it has.
fn reap(step: Pid) -> Result<Option<Status>, Failure> {
    let mut found = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == step => {
                let code = status.exit_status().map(Status::Code);
                found = code.or_else(|| status.terminating_signal().map(Status::Signal));
            }
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(found),
            Err(error) => return Err(error).attempt("wait for the step"),
        }
    }
}

/// Passes on what was printed until there is nothing more for now. An engine that does not read loses it.
fn pump(from: &OwnedFd, output: &OwnedFd) {
    while let Ok(1..) =
        rustix::io::retry_on_intr(|| splice(from, None, output, None, CHUNK_BYTES, SpliceFlags::NONBLOCK))
            .or_else(|error| wait_for_room(error, from, output))
    {}
}

/// The engine is slower than the step: waits for it, then goes on.
fn wait_for_room(error: Errno, from: &OwnedFd, output: &OwnedFd) -> Result<usize, Errno> {
    let is_ready = |fd: BorrowedFd<'_>, flags, patience: Option<&Timespec>| {
        let mut watched = [PollFd::new(&fd, flags)];
        rustix::io::retry_on_intr(|| poll(&mut watched, patience)).map(|ready| ready > 0)
    };
    if error != Errno::AGAIN || !is_ready(from.as_fd(), PollFlags::IN, Some(&Timespec::default()))? {
        return Err(error);
    }
    is_ready(output.as_fd(), PollFlags::OUT, None)?;
    rustix::io::retry_on_intr(|| splice(from, None, output, None, CHUNK_BYTES, SpliceFlags::NONBLOCK))
}

/// Gives up every privilege and executes the program. Returns only if that failed.
fn become_step(step: &Step, supervisor: Pid) -> (i32, String) {
    match confine(step, supervisor) {
        Ok(()) => step.command.execute(),
        Err(Failure::Setup { action, reason }) => (0, format!("{action}: {reason}")),
        Err(Failure::Refused(message)) => (126, message),
    }
}

fn confine(step: &Step, supervisor: Pid) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).attempt("tie the step to its supervisor")?;
    if rustix::process::getppid() != Some(supervisor) {
        return Err(io::Error::other("it is gone")).attempt("tie the step to its supervisor");
    }
    setsid().attempt("start a session")?;
    sys::reset_signals().attempt("reset signals")?;
    ulimit::apply(&step.ulimits, Ids::of_process())?;
    fs::write("/proc/self/oom_score_adj", OOM_SCORE).attempt("set the memory priority")?;
    rustix::stdio::dup2_stdout(&step.output).attempt("open the output")?;
    rustix::stdio::dup2_stderr(&step.output).attempt("open the output")?;
    let held = capabilities(None).attempt("read capabilities")?.permitted;
    rustix::process::fchdir(&step.root).attempt("enter the root filesystem")?;
    rustix::process::chroot(".").attempt("change the root")?;
    rustix::process::fchdir(&step.cwd).attempt("enter the working directory")?;
    // A directory outside the root would be named `(unreachable)…` by the kernel.
    let cwd = rustix::process::getcwd(Vec::new()).attempt("read the working directory")?;
    if !cwd.as_bytes().starts_with(b"/") {
        return Err(Failure::Refused(
            "the working directory is outside the root filesystem".to_owned(),
        ));
    }
    if step.profile.no_new_privileges || step.filter.is_some() {
        set_no_new_privs(true).attempt("give up new privileges")?;
    }
    if let Some(filter) = &step.filter {
        sys::install_filter(filter).attempt("install the system call filter")?;
    }
    // Who may change its root directory can leave it.
    let kept = (step.profile.capabilities & held).difference(CapabilitySet::SYS_CHROOT);
    drop_privileges(&step.identity, kept)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cancelled_step_is_no_success() {
        let times = Times {
            mounts: Duration::ZERO,
            start: Duration::ZERO,
            ran: Duration::ZERO,
        };
        assert!(matches!(said(None, None, times), Reply::Failed(_)));
        let ended = said(None, Some(Status::Code(3)), times);
        assert!(matches!(
            ended,
            Reply::Ended {
                status: Status::Code(3),
                ..
            }
        ));
    }
}
