//! Becoming root of a user namespace, for a build server whose user is not root.
//!
//! The process enters the namespace itself, before it has a second thread, and is root in it from then on: over files of its user,
//! of the ids that were mapped, and of mounts and namespaces that it makes. To everybody outside it stays the user that it was.
//! Since nobody can leave such a namespace, everything is tried in a child first.
//!
//! Source: user_namespaces(7); newuidmap(1).

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{CWD, Mode};
use rustix::mount::{
    FsOpenFlags, MountPropagationFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsopen, mount_change, move_mount,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use rustix::thread::UnshareFlags;

use super::root::{NODEV, NOEXEC, NOSUID, SCRATCH, new_mount};
use super::spec::Failure;
use super::subordinate::{Range, find_program, first_free, map, name_of, ranges};
use super::tier::Tier;
use crate::ids::Ids;
use crate::sys::{self, Fork};

/// Why a user namespace cannot be had, and what would change that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) reason: String,
    pub(super) help: String,
}

impl Lack {
    fn new(reason: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            help: help.into(),
        }
    }
}

/// Why this process is in a lesser namespace than it might be.
static LESSER: Mutex<Option<Lack>> = Mutex::new(None);

/// Notes why a better namespace could not be had. The last one counts: it is about the best that was not had.
pub(super) fn remember(lack: Lack) {
    *LESSER.lock().unwrap_or_else(PoisonError::into_inner) = Some(lack);
}

/// What [`remember`] was told.
pub(super) fn remembered() -> Option<Lack> {
    LESSER.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Stays root of the namespace that somebody else made, with mounts of its own. There must be one thread.
pub(super) fn stay() -> Result<(), Lack> {
    let apart = || sys::unshare(UnshareFlags::NEWNS).map_err(|error| refused("have mounts of its own", &error));
    rehearse(|| apart().and_then(|()| try_mounts()))?;
    apart()
}

/// Enters the namespace that `tier` needs. There must be one thread.
pub(super) fn enter(tier: Tier) -> Result<(), Lack> {
    let plan = Plan::new(tier)?;
    rehearse(|| plan.carry_out().and_then(|()| try_mounts()))?;
    plan.carry_out()
}

/// Does something in a child, so that nothing of it stays.
fn rehearse(work: impl FnOnce() -> Result<(), Lack>) -> Result<(), Lack> {
    let failed = |error: io::Error| Lack::new(format!("nothing can be tried: {error}"), "");
    let (mut from_child, to_parent) = io::pipe().map_err(failed)?;
    match sys::fork().map_err(failed)? {
        Fork::Child => {
            drop(from_child);
            tell(&to_parent, work())
        }
        Fork::Parent(child) => {
            drop(to_parent);
            hear(&mut from_child, child)
        }
    }
}

/// What is mapped, and how.
struct Plan {
    uid: u32,
    gid: u32,
    /// The programs that map ranges, and the ranges; nothing: only the own ids are mapped.
    further: Option<[(PathBuf, Vec<Range>); 2]>,
}

impl Plan {
    fn new(tier: Tier) -> Result<Self, Lack> {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let further = match tier {
            // What such a namespace has, it was given by whoever made it.
            Tier::Rootless if !Ids::now().is_outside() => {
                return Err(Lack::new(
                    "this server was started in a user namespace without further ids",
                    "to start it outside of that, or in one with a range",
                ));
            }
            Tier::Rootless => Some(further(&name_of(uid))?),
            _ => None,
        };
        Ok(Self { uid, gid, further })
    }

    fn carry_out(&self) -> Result<(), Lack> {
        let mapper = match &self.further {
            Some(further) => Some(Mapper::start(self, further)?),
            None => None,
        };
        let made = sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS);
        match (made, mapper) {
            (Ok(()), Some(mapper)) => mapper.map(),
            (Ok(()), None) => self.map_own(),
            (Err(error), mapper) => {
                let ended = mapper.map(Mapper::abandon).transpose();
                Err(ended.err().unwrap_or_else(|| refused("make one", &error)))
            }
        }
    }

    fn map_own(&self) -> Result<(), Lack> {
        let lines = [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {} 1", self.uid)),
            ("gid_map", format!("0 {} 1", self.gid)),
        ];
        lines.iter().try_for_each(|(name, text)| {
            let written = fs::write(Path::new("/proc/self").join(name), text);
            written.map_err(|error| refused(&format!("write its {name}"), &error))
        })
    }
}

/// The programs and ranges of a user.
fn further(name: &str) -> Result<[(PathBuf, Vec<Range>); 2], Lack> {
    let of = |program: &str, file: &str| {
        let path = find_program(program).ok_or_else(|| {
            Lack::new(
                format!("there is no program `{program}`"),
                "`apt-get install uidmap` (`shadow-utils` on Fedora)",
            )
        })?;
        let ranges = ranges(file, name);
        if ranges.is_empty() {
            let free = first_free();
            let range = format!("{free}-{}", free.saturating_add(65_535));
            return Err(Lack::new(
                format!("the user `{name}` has no range in {file}"),
                format!("`usermod --add-subuids {range} --add-subgids {range} {name}` as root"),
            ));
        }
        Ok((path, ranges))
    };
    Ok([of("newuidmap", "/etc/subuid")?, of("newgidmap", "/etc/subgid")?])
}

/// A child that stays outside, from where alone ranges can be mapped.
struct Mapper {
    child: Pid,
    begin: io::PipeWriter,
    done: io::PipeReader,
}

impl Mapper {
    fn start(plan: &Plan, [users, groups]: &[(PathBuf, Vec<Range>); 2]) -> Result<Self, Lack> {
        let failed = |error: io::Error| Lack::new(format!("nothing can be mapped: {error}"), "");
        let (mut wait, begin) = io::pipe().map_err(failed)?;
        let (done, to_parent) = io::pipe().map_err(failed)?;
        let target = std::process::id();
        match sys::fork().map_err(failed)? {
            Fork::Child => {
                drop((begin, done));
                let mut word = [0; 1];
                let outcome = match wait.read(&mut word) {
                    Ok(1) => run_mapper(target, plan.uid, users).and_then(|()| run_mapper(target, plan.gid, groups)),
                    // The namespace was not made, and somebody else says why.
                    _ => Ok(()),
                };
                tell(&to_parent, outcome);
            }
            Fork::Parent(child) => Ok(Self { child, begin, done }),
        }
    }

    /// Lets it end, since there is nothing to map.
    fn abandon(mut self) -> Result<(), Lack> {
        drop(self.begin);
        hear(&mut self.done, self.child)
    }

    fn map(mut self) -> Result<(), Lack> {
        let failed = |error: io::Error| Lack::new(format!("nothing can be mapped: {error}"), "");
        self.begin.write_all(b"m").map_err(failed)?;
        hear(&mut self.done, self.child)
    }
}

fn run_mapper(target: u32, own: u32, (program, ranges): &(PathBuf, Vec<Range>)) -> Result<(), Lack> {
    let lines = map(own, ranges);
    let numbers = lines.iter().flatten().map(u32::to_string);
    let help = "the package `uidmap`, whose programs must be set-user-ID root on a file system that allows it";
    let failed = |words: String| Lack::new(format!("`{}` failed: {words}", program.display()), help);
    let ran = Command::new(program)
        .arg(target.to_string())
        .args(numbers)
        .env_clear()
        .output();
    let ran = ran.map_err(|error| failed(error.to_string()))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(failed(
            String::from_utf8_lossy(&ran.stderr).trim().escape_debug().to_string(),
        )),
    }
}

/// Sends the outcome of a child, and ends it.
fn tell(mut to: &io::PipeWriter, outcome: Result<(), Lack>) -> ! {
    let text = match outcome {
        Ok(()) => "ok".to_owned(),
        Err(lack) => format!("{}\n{}", lack.reason, lack.help),
    };
    let sent = to.write_all(text.as_bytes());
    sys::exit_now(if sent.is_ok() { 0 } else { 1 })
}

/// Waits for a child and its outcome.
fn hear(from: &mut io::PipeReader, child: Pid) -> Result<(), Lack> {
    let mut text = String::new();
    let read = from.read_to_string(&mut text);
    let ended = rustix::io::retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()));
    match (read, ended) {
        (Ok(_), Ok(_)) if text == "ok" => Ok(()),
        (Ok(_), Ok(_)) if !text.is_empty() => {
            let (reason, help) = text.split_once('\n').unwrap_or((&text, ""));
            Err(Lack::new(reason, help))
        }
        _ => Err(Lack::new("the process that tried it ended without a word", "")),
    }
}

/// What the kernel refused, and the setting that is the likely cause.
fn refused(action: &str, error: &io::Error) -> Lack {
    Lack::new(
        format!("user namespaces do not work: cannot {action}: {error}"),
        setting(),
    )
}

fn setting() -> String {
    let read = |path: &str| fs::read_to_string(path).map_or_else(|_| String::new(), |text| text.trim().to_owned());
    let sysctl = |name: &str| read(&format!("/proc/sys/{}", name.replace('.', "/")));
    for (name, bad, good) in [
        ("user.max_user_namespaces", "0", "15000"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ] {
        if sysctl(name) == bad {
            return format!("`sysctl {name}={good}`");
        }
    }
    match read("/proc/self/status").contains("Seccomp:\t2") {
        true => "a seccomp profile for this container that allows user namespaces and mounts".to_owned(),
        false => String::new(),
    }
}

/// Tries the mounts that sandboxes are made of, in namespaces that go with this process.
fn try_mounts() -> Result<(), Lack> {
    let failed = |failure: Failure| match failure {
        Failure::Setup { action, reason } => Lack::new(format!("cannot {action}: {reason}"), setting()),
        Failure::Refused(reason) => Lack::new(reason, setting()),
    };
    let kernel = |action: &str| {
        let action = action.to_owned();
        move |error: rustix::io::Errno| refused(&action, &error.into())
    };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(kernel("keep mounts"))?;
    let scratch = new_mount("tmpfs", &[("mode", "0700")], NOSUID | NODEV).map_err(failed)?;
    move_mount(&scratch, "", CWD, SCRATCH, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(kernel("mount"))?;
    let config = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(kernel("make an overlay"))?;
    for name in ["lower", "below"] {
        let path = Path::new(SCRATCH).join(name);
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(kernel("make a directory"))?;
        fsconfig_set_string(&config, "lowerdir+", path).map_err(kernel("make an overlay of layers (Linux 6.5)"))?;
    }
    fsconfig_set_flag(&config, "userxattr").map_err(kernel("make an overlay with `userxattr`"))?;
    fsconfig_create(&config).map_err(kernel("make an overlay"))?;
    let flags = UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    try_proc(flags).map_err(failed_proc)
}

/// A process of a new namespace mounts what the kernel shows of it.
fn try_proc(flags: UnshareFlags) -> Result<(), String> {
    let (mut from_child, to_parent) = io::pipe().map_err(|error| error.to_string())?;
    match sys::fork_into(flags).map_err(|error| error.to_string())? {
        Fork::Child => {
            let outcome = match new_mount("proc", &[], NOSUID | NODEV | NOEXEC) {
                Ok(_) => Ok(()),
                Err(Failure::Setup { reason, .. } | Failure::Refused(reason)) => Err(Lack::new(reason, "")),
            };
            tell(&to_parent, outcome)
        }
        Fork::Parent(child) => {
            drop(to_parent);
            hear(&mut from_child, child).map_err(|lack| lack.reason)
        }
    }
}

fn failed_proc(reason: String) -> Lack {
    Lack::new(
        format!("a process namespace of its own cannot be shown to a step: {reason}"),
        "an unmasked /proc for this container (`--security-opt systempaths=unconfined`, or `procMount: Unmasked`)",
    )
}

/// The user of this process, as the machine knows it.
pub(super) fn name_outside() -> String {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let outside = numbers(&map).into_iter().find(|[inside, ..]| *inside == 0);
    name_of(outside.map_or_else(|| rustix::process::geteuid().as_raw(), |[_, outside, _]| outside))
}

/// How many ids this process has beside its own.
pub(super) fn further_ids() -> u64 {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let all: u64 = numbers(&map).into_iter().map(|[.., count]| u64::from(count)).sum();
    all.saturating_sub(1)
}

fn numbers(map: &str) -> Vec<[u32; 3]> {
    let line = |line: &str| {
        let numbers: Vec<u32> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        numbers.try_into().ok()
    };
    map.lines().filter_map(line).collect()
}

/// What a user who has become root of a namespace lacked for further ids; nothing if there would be some.
pub(super) fn lack_of_further(name: &str) -> Option<Lack> {
    remembered().or_else(|| further(name).err())
}
