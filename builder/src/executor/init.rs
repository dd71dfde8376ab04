//! The first process of a sandbox.
//!
//! Two processes, each with one duty. *Pid 1* of the new pid namespace, forked by the keeper, enters the control groups and the
//! other namespaces, waits for its step, builds the mounts, starts the step and reaps. The *step* gives up its privileges and
//! executes the program; as it is not pid 1, signals act on it as they do anywhere.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proto::tree::RelPath;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, set_parent_process_death_signal, setsid, wait,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, LinkNameSpaceType, Uid, UnshareFlags, clear_ambient_capability_set,
    move_into_link_name_space, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::root::{self, Entered};
use super::spec::{Attempt, Failure, NetworkPlan, Reply, Spec, Status, Times, receive, send};
use super::target::Want;
use super::terminal::{Stdio, reap_attached};
use super::user::{self, Identity};
use super::{DEFAULT_HOSTNAME, Security, certificates, insecure, network, profile, seccomp, ulimit};
use crate::ids::Ids;
use crate::limits::Ulimit;
use crate::sys::{self, Fork};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Steps die before the engine when memory runs out.
pub(super) const OOM_SCORE: &str = "500";

/// Runs as pid 1, to the end of the step.
pub(super) fn begin(socket: OwnedFd, output: OwnedFd, groups: &[PathBuf]) -> io::Result<()> {
    rustix::stdio::dup2_stdout(&output)?;
    rustix::stdio::dup2_stderr(&output)?;
    drop(output);
    // The lowest number, so that what `/proc/self/fd/3` is to a step does not depend on what the keeper had open.
    let socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(socket, 3)?);
    let reply = match wait_apart(groups) {
        // An engine that has no step after all closes the socket, and the keeper ends this process.
        Ok(()) => first(receive(&socket)?, &socket),
        Err(failure) => Err(failure),
    };
    send(&socket, &reply.unwrap_or_else(Reply::Failed))
}

/// Enters what is the same for every step.
fn wait_apart(groups: &[PathBuf]) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).attempt("tie the sandbox to the engine")?;
    for group in groups {
        // 0 is the process that writes, whose number here is not that of the host.
        fs::write(group.join("cgroup.procs"), "0").attempt("enter the control group")?;
    }
    match fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        // Who is not root of the machine can only raise it, and whoever started the engine has raised it further.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        written => written.attempt("set the memory priority")?,
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let flags = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
    sys::unshare(flags).attempt("make namespaces")
}

/// Enters the network of the step, and a mount namespace of its own.
fn isolate(network: &NetworkPlan) -> Result<(), Failure> {
    let mut flags = UnshareFlags::NEWNS;
    match network {
        NetworkPlan::Host => {}
        NetworkPlan::Isolated => flags |= UnshareFlags::NEWNET,
        NetworkPlan::Join(path) => {
            let namespace =
                rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).attempt("open the network")?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .attempt("enter the network")?;
        }
    }
    sys::unshare(flags).attempt("make namespaces")?;
    if *network == NetworkPlan::Isolated {
        network::loopback_up().attempt("bring loopback up")?;
    }
    Ok(())
}

/// From the step to its end.
fn first(mut spec: Spec, socket: &UnixStream) -> Result<Reply, Failure> {
    let began = Instant::now();
    isolate(&spec.network)?;
    let hostname = spec.process.hostname.as_deref().unwrap_or(DEFAULT_HOSTNAME);
    rustix::system::sethostname(hostname.as_bytes()).attempt("set the host name")?;
    let Entered { tree, stubs } = root::enter(&spec)?;
    let read = |path| user::read_accounts(tree.root(), path).map_err(Failure::Refused);
    let identity =
        user::lookup(&spec.process.user, &read("etc/passwd")?, &read("etc/group")?).map_err(Failure::Refused)?;
    let identity = identity.within(spec.ids).map_err(Failure::Refused)?;
    let process = &mut spec.process;
    if !process.env.iter().any(|(name, _)| name == "HOME") {
        process.env.push(("HOME".to_owned(), identity.home.clone()));
    }
    // What a process of the kernel's file system points at is text to the walk, and nothing to begin in.
    if RelPath::clean(process.cwd.as_bytes()).components().next() == Some(b"proc") {
        return Err(Failure::Refused(format!(
            "cannot enter working directory `{}`: it is in the file system of the kernel's processes",
            process.cwd
        )));
    }
    let cwd = tree
        .reach(&process.cwd, Want::Dir)
        .map_err(|error| Failure::Refused(format!("cannot enter working directory `{}`: {error}", process.cwd)))?;
    let command = Command::new(&process.args, &process.env)?;
    let step = Step {
        identity,
        cwd: cwd.fd,
        command,
        security: process.security,
        ids: spec.ids,
        ulimits: std::mem::take(&mut process.limits.ulimits),
        stdio: match spec.manner {
            Some(manner) => Some(Stdio::make(manner, &tree, socket)?),
            None => None,
        },
    };
    let trusted = match &process.ca_bundle {
        Some(bundle) => Some(certificates::trust(&tree, bundle)?),
        None => None,
    };
    let reply = run(step, socket, stubs, began.elapsed())?;
    if let Some(trusted) = trusted {
        trusted.forget(&tree)?;
    }
    Ok(reply)
}

/// Everything that the step's process needs after its fork.
struct Step {
    identity: Identity,
    cwd: OwnedFd,
    command: Command,
    security: Security,
    ids: Ids,
    /// Nothing: there is nothing to read, and both outputs are one pipe.
    stdio: Option<Stdio>,
    ulimits: Vec<Ulimit>,
}

fn run(step: Step, socket: &UnixStream, stubs: Vec<PathBuf>, mounts: Duration) -> Result<Reply, Failure> {
    let forking = Instant::now();
    let (trouble, report) = UnixStream::pair().attempt("make a socket")?;
    let pid = match sys::fork().attempt("fork")? {
        Fork::Child => {
            let (code, message) = become_step(&step);
            // The other end is pid 1, which cannot be gone: then this process would be, too.
            let sent = send(&report, &Trouble { code, message });
            sys::exit_now(if sent.is_ok() { 0 } else { 1 });
        }
        Fork::Parent(pid) => pid,
    };
    drop(report);
    // Its copies are the only ones then: what it closes is closed.
    let is_attached = step.stdio.is_some();
    drop(step);
    // The socket closes without a word when the program has been executed.
    let trouble: Option<Trouble> = match receive(&trouble) {
        Ok(trouble) => Some(trouble),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => return Err(error).attempt("wait for the program to start"),
    };
    let started = Instant::now();
    let status = if is_attached {
        let ended = pidfd_open(pid, PidfdFlags::empty()).attempt("watch the step")?;
        reap_attached(pid, &ended, socket)?
    } else {
        reap(pid)?
    };
    let times = Times {
        mounts,
        start: started.duration_since(forking),
        ran: started.elapsed(),
    };
    Ok(match trouble {
        Some(Trouble { code: REFUSED, message }) => Reply::Failed(Failure::Refused(message)),
        Some(Trouble { code: 0, message }) => Reply::Failed(Failure::Setup {
            action: "start the program".to_owned(),
            reason: message,
        }),
        Some(Trouble { code, message }) => Reply::NotExecuted { code, message, stubs },
        None => Reply::Ended { status, stubs, times },
    })
}

/// Code of what a step asks for and cannot have: its program is not at fault.
const REFUSED: i32 = -1;

/// Why the program could not be executed; [`REFUSED`] if what it asks for is not possible, code 0 if the sandbox is at fault and not the program.
#[derive(serde::Serialize, serde::Deserialize)]
pub(super) struct Trouble {
    pub(super) code: i32,
    pub(super) message: String,
}

/// Waits for the step, and for every orphan that ends before it.
fn reap(step: Pid) -> Result<Status, Failure> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == step => {
                if let Some(code) = status.exit_status() {
                    return Ok(Status::Code(code));
                }
                if let Some(signal) = status.terminating_signal() {
                    return Ok(Status::Signal(signal));
                }
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).attempt("wait for the step"),
        }
    }
}

/// Gives up every privilege and executes the program. Returns only if that failed.
fn become_step(step: &Step) -> (i32, String) {
    match confine(step) {
        Ok(()) => step.command.execute(),
        Err(Failure::Setup { action, reason }) => (0, format!("{action}: {reason}")),
        Err(Failure::Refused(message)) => (REFUSED, message),
    }
}

fn confine(step: &Step) -> Result<(), Failure> {
    setsid().attempt("start a session")?;
    sys::reset_signals().attempt("reset signals")?;
    ulimit::apply(&step.ulimits, step.ids)?;
    rustix::process::fchdir(&step.cwd).attempt("enter the working directory")?;
    // A directory outside the root would be named `(unreachable)…` by the kernel.
    let cwd = rustix::process::getcwd(Vec::new()).attempt("read the working directory")?;
    if !cwd.as_bytes().starts_with(b"/") {
        return Err(Failure::Refused(
            "the working directory is outside the root filesystem".to_owned(),
        ));
    }
    match &step.stdio {
        Some(stdio) => stdio.put_on(&step.identity)?,
        None => lend_output(&step.identity)?,
    }
    let Some(profile) = profile::of(step.security) else {
        return insecure::keep_privileges(&step.identity);
    };
    if profile.no_new_privileges {
        set_no_new_privs(true).attempt("forbid new privileges")?;
    }
    // The filter first: without `no_new_privs` it takes a capability that is dropped below.
    sys::install_filter(&seccomp::program(profile.refused_calls)).attempt("install the system call filter")?;
    drop_privileges(&step.identity, profile.capabilities)
}

/// Makes the step's user the owner of its output: only an owner can open `/dev/stdout` again.
pub(super) fn lend_output(identity: &Identity) -> Result<(), Failure> {
    let owner = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    rustix::fs::fchown(io::stdout(), Some(owner.0), Some(owner.1)).attempt("give the output to the user")
}

/// Keeps no more than `capabilities`, and those only as root.
pub(super) fn drop_privileges(identity: &Identity, capabilities: CapabilitySet) -> Result<(), Failure> {
    clear_ambient_capability_set().attempt("clear ambient capabilities")?;
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if capabilities.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // The first number that the kernel does not know.
            Err(Errno::INVAL) => break,
            result => result.attempt("drop a capability")?,
        }
    }
    // Leaving uid 0 clears the permitted and effective sets.
    become_user(identity)?;
    let held = if identity.uid == 0 {
        capabilities
    } else {
        CapabilitySet::empty()
    };
    let sets = CapabilitySets {
        effective: held,
        permitted: held,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).attempt("set capabilities")
}

pub(super) fn become_user(identity: &Identity) -> Result<(), Failure> {
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    if identity.sets_groups {
        set_thread_groups(&groups).attempt("set groups")?;
    }
    set_thread_res_gid(gid, gid, gid).attempt("set the group")?;
    set_thread_res_uid(uid, uid, uid).attempt("set the user")
}

/// A program with everything that `execve` takes, made before the fork.
pub(super) struct Command {
    name: String,
    path: String,
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Command {
    pub(super) fn new(args: &[String], env: &[(String, String)]) -> Result<Self, Failure> {
        let refuse = || Failure::Refused("an argument or a variable of the step contains a NUL byte".to_owned());
        let string = |text: String| CString::new(text).map_err(|_| refuse());
        let Some(name) = args.first().filter(|name| !name.is_empty()) else {
            return Err(Failure::Refused("the step has no program to run".to_owned()));
        };
        // The last of equal names counts, as in a shell.
        let path = env
            .iter()
            .rev()
            .find(|(name, _)| name == "PATH")
            .map_or(DEFAULT_PATH, |(_, value)| value);
        let candidates: Vec<String> = if name.contains('/') {
            vec![name.clone()]
        } else {
            path.split(':')
                .map(|dir| format!("{}/{name}", if dir.is_empty() { "." } else { dir }))
                .collect()
        };
        Ok(Self {
            name: name.clone(),
            path: path.to_owned(),
            candidates: candidates.into_iter().map(string).collect::<Result<_, _>>()?,
            args: args.iter().cloned().map(string).collect::<Result<_, _>>()?,
            env: env
                .iter()
                .map(|(name, value)| string(format!("{name}={value}")))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Tries every candidate. Returns why none could be executed.
    pub(super) fn execute(&self) -> (i32, String) {
        // Descriptors close on exec from birth; this is the second lock, for what a library may have opened.
        if let Err(error) = sys::close_on_exec_from(3) {
            return (0, format!("close descriptors: {error}"));
        }
        let mut denied = None;
        for candidate in &self.candidates {
            let error = sys::execve(candidate, &self.args, &self.env);
            match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {}
                _ => denied = denied.or(Some(error)),
            }
        }
        let name = &self.name;
        match denied {
            Some(error) => (126, format!("exec: \"{name}\": {}", describe(&error))),
            None if name.contains('/') => (127, format!("exec: \"{name}\": stat {name}: no such file or directory")),
            None => (
                127,
                format!("exec: \"{name}\": executable file not found in $PATH ({})", self.path),
            ),
        }
    }
}

fn describe(error: &io::Error) -> String {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::ACCESS) => "permission denied".to_owned(),
        Some(Errno::NOEXEC) => "exec format error".to_owned(),
        Some(Errno::ISDIR) => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}
