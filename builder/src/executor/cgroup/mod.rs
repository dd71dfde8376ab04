//! The control groups of steps: limits on memory, processes and processors, and what the kernel says about them afterwards.
//!
//! Every controller belongs to one hierarchy: version 2, or one of version 1; machines with both are common. The groups of steps
//! lie below the group of the engine itself wherever that is possible, so that whatever holds the engine (a container, a unit of
//! systemd) holds its steps too. A machine that offers nothing of this still builds: what is missing is said once in the log, and
//! a limit that somebody asked for and nobody would keep is an error.

mod mounts;
mod v1;
mod v2;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::{CpuLimits, DEFAULT_PROCESSES, Limits};
use mounts::Mounted;

/// The directory of engines below the group that may have some.
const PARENT: &str = "rbuild";
/// Where an engine goes that must not stay in a group with groups below it.
const ENGINE: &str = "rbuild-engine";
/// Why an ordinary user has no groups.
const NOT_DELEGATED: &str = "no control group is delegated to the user of this server";
/// Processes of a sandbox that are not of the step: the first one.
const OWN_PROCESSES: u64 = 1;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A limit that nothing here would keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} cannot be kept here: {reason}")]
pub struct Unenforceable {
    /// What asks for it on the command line.
    pub flag: &'static str,
    /// What is missing.
    pub reason: String,
}

/// What a group can be told to do, by the names of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Controller {
    Pids,
    Memory,
    Cpu,
    Cpuset,
}

/// Those that every step has.
const USUAL: [Controller; 2] = [Controller::Pids, Controller::Memory];
/// Those that cost something to be in, so only steps with such limits are.
const PROCESSORS: [Controller; 2] = [Controller::Cpu, Controller::Cpuset];

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Pids => "pids",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Cpuset => "cpuset",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A hierarchy in which groups of steps can be made.
#[derive(Debug)]
struct Hierarchy {
    version: Version,
    /// Where they are made.
    parent: PathBuf,
    controllers: Vec<Controller>,
}

/// Where this engine makes the groups of its steps.
#[derive(Debug, Default)]
pub(super) struct Groups {
    hierarchies: Vec<Hierarchy>,
    /// Why a controller is not in any of them.
    missing: String,
    stale: Stale,
}

/// Groups that could not be removed yet: for a moment after its end, a process still counts.
type Stale = Arc<Mutex<Vec<PathBuf>>>;

impl Groups {
    /// Looks for them, removes what dead engines have left there, and says in the log what every step will lack.
    pub(super) fn find() -> Self {
        let groups = match mounts::read() {
            Ok(mounted) => Self::on(&mounted),
            Err(error) => Self {
                missing: format!("control groups cannot be read: {error}"),
                ..Self::default()
            },
        };
        for hierarchy in &groups.hierarchies {
            sweep(&hierarchy.parent);
        }
        let lacking: Vec<Controller> = USUAL.into_iter().filter(|one| groups.with(*one).is_none()).collect();
        if !lacking.is_empty() {
            let names = names(&lacking);
            tracing::warn!(reason = groups.missing, "steps run without control groups for {names}");
        }
        groups
    }

    fn on(mounted: &[Mounted]) -> Self {
        let mut groups = Self::default();
        let mut reasons: Vec<String> = Vec::new();
        for mount in mounted {
            let found = match mount.version {
                Version::One if !mount.is_writable() => Err(NOT_DELEGATED.to_owned()),
                Version::One => Ok(v1::hierarchy(mount)),
                Version::Two => v2::hierarchy(mount),
            };
            match found {
                Ok(hierarchy) => groups.hierarchies.push(hierarchy),
                Err(reason) if reasons.contains(&reason) => {}
                Err(reason) => reasons.push(reason),
            }
        }
        groups.missing = match reasons.is_empty() {
            true => "there is no such controller".to_owned(),
            false => reasons.join(", "),
        };
        groups
    }

    fn with(&self, controller: Controller) -> Option<&Hierarchy> {
        let mut all = self.hierarchies.iter();
        all.find(|hierarchy| hierarchy.controllers.contains(&controller))
    }

    /// Makes the groups of one step. What this machine does not offer is missing from them.
    pub(super) fn make(&self, cpu: &CpuLimits) -> Group {
        remove_stale(&self.stale);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut group = Group {
            parts: Vec::new(),
            dirs: Vec::new(),
            missing: self.missing.clone(),
            stale: Arc::clone(&self.stale),
        };
        for hierarchy in &self.hierarchies {
            let processors = match cpu.is_some() {
                true => PROCESSORS.as_slice(),
                false => &[],
            };
            let wanted = USUAL.iter().chain(processors).copied();
            let wanted: Vec<Controller> = wanted.filter(|one| hierarchy.controllers.contains(one)).collect();
            if wanted.is_empty() {
                continue;
            }
            if let Err(error) = group.join(hierarchy, &wanted, &name) {
                let (parent, names) = (hierarchy.parent.display(), names(&wanted));
                tracing::warn!(%parent, reason = %error, "a step runs without a control group for {names}");
                group.missing = format!("{parent}: {error}");
            }
        }
        group
    }

    /// Whether steps can be held to `limits` here.
    ///
    /// # Errors
    /// The first that they cannot be held to.
    pub(super) fn check(&self, limits: &Limits) -> Result<(), Unenforceable> {
        let missing = needs(limits).find(|(_, controller)| self.with(*controller).is_none());
        missing.map_or(Ok(()), |(flag, _)| {
            Err(Unenforceable {
                flag,
                reason: self.missing.clone(),
            })
        })
    }
}

/// Refuses every limit that takes a control group to keep.
///
/// # Errors
/// The first one.
pub(super) fn refuse(limits: &Limits, reason: &str) -> Result<(), Unenforceable> {
    needs(limits).next().map_or(Ok(()), |(flag, _)| {
        let reason = reason.to_owned();
        Err(Unenforceable { flag, reason })
    })
}

fn names(controllers: &[Controller]) -> String {
    let names: Vec<&str> = controllers.iter().map(|one| one.name()).collect();
    names.join(" and ")
}

/// The flags behind `limits`, with the controllers that keep them.
fn needs(limits: &Limits) -> impl Iterator<Item = (&'static str, Controller)> {
    let cpu = &limits.cpu;
    [
        ("--memory", Controller::Memory, limits.memory_bytes.is_some()),
        ("--pids-limit", Controller::Pids, limits.processes.is_some()),
        ("--cpus", Controller::Cpu, cpu.quota.is_some()),
        ("--cpu-shares", Controller::Cpu, cpu.shares.is_some()),
        ("--cpuset-cpus", Controller::Cpuset, cpu.cpuset.is_some()),
    ]
    .into_iter()
    .filter_map(|(flag, controller, wanted)| wanted.then_some((flag, controller)))
}

/// The groups of one step. Dropping it removes them; they are empty by then.
#[derive(Debug, Default)]
pub(super) struct Group {
    parts: Vec<Part>,
    dirs: Vec<PathBuf>,
    missing: String,
    stale: Stale,
}

/// The group in one hierarchy.
#[derive(Debug)]
struct Part {
    version: Version,
    dir: PathBuf,
    controllers: Vec<Controller>,
}

/// What of its limits a step came up against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hits {
    /// The kernel killed a process for lack of memory.
    pub memory: bool,
    /// A process could not be made because there were too many.
    pub processes: bool,
}

impl Group {
    fn join(&mut self, hierarchy: &Hierarchy, wanted: &[Controller], name: &str) -> io::Result<()> {
        let dir = hierarchy.parent.join(name);
        make_in(hierarchy, &dir)?;
        self.dirs.push(dir.clone());
        match hierarchy.version {
            Version::One => v1::prepare(&hierarchy.parent, &dir, wanted)?,
            Version::Two => v2::prepare(&hierarchy.parent, &dir, wanted)?,
        }
        if wanted.contains(&Controller::Pids) {
            fs::write(dir.join("pids.max"), (DEFAULT_PROCESSES + OWN_PROCESSES).to_string())?;
        }
        self.parts.push(Part {
            version: hierarchy.version,
            dir,
            controllers: wanted.to_vec(),
        });
        Ok(())
    }

    /// Their directories.
    pub(super) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Holds the step to `limits`, from now on.
    ///
    /// # Errors
    /// One that nothing would keep.
    pub(super) fn limit(&self, limits: &Limits) -> Result<(), Unenforceable> {
        for (flag, controller) in needs(limits) {
            let part = self.parts.iter().find(|part| part.controllers.contains(&controller));
            let kept = match part {
                None => Err(self.missing.clone()),
                Some(part) => part.keep(flag, limits).map_err(|error| error.to_string()),
            };
            kept.map_err(|reason| Unenforceable { flag, reason })?;
        }
        Ok(())
    }

    /// What the step came up against until now.
    pub(super) fn hits(&self) -> Hits {
        Hits {
            // The names of both versions.
            memory: self.count(&["memory.events", "memory.oom_control"], "oom_kill ") > 0,
            processes: self.count(&["pids.events"], "max ") > 0,
        }
    }

    fn count(&self, files: &[&str], key: &str) -> u64 {
        let paths = files
            .iter()
            .flat_map(|file| self.dirs.iter().map(move |dir| dir.join(file)));
        // A file that is not there belongs to the other version, or to a controller that this group lacks.
        let texts = paths.filter_map(|path| fs::read_to_string(path).ok());
        let counts = texts.map(|text| {
            let value = text.lines().find_map(|line| line.strip_prefix(key));
            value.map_or(0, |value| value.trim().parse().unwrap_or(0))
        });
        counts.max().unwrap_or(0)
    }
}

impl Part {
    fn keep(&self, flag: &str, limits: &Limits) -> io::Result<()> {
        match self.version {
            Version::One => v1::keep(&self.dir, flag, limits),
            Version::Two => v2::keep(&self.dir, flag, limits),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        stale.append(&mut self.dirs);
        drop(stale);
        remove_stale(&self.stale);
    }
}

/// Removes all groups of an engine that ends, and the directory of all engines if it was the last one.
pub(super) fn remove_all(parent: &Path, engine: i32) {
    let (prefix, began) = (format!("{engine}-"), Instant::now());
    while !remove_those(parent, &prefix) && began.elapsed() < LINGER {
        std::thread::sleep(Duration::from_millis(1));
    }
    // It fails if there are other engines; the last one removes it.
    drop(fs::remove_dir(parent));
}

/// Removes the groups whose names begin so; returns whether that is all of them.
fn remove_those(parent: &Path, prefix: &str) -> bool {
    // No directory, no groups.
    let Ok(entries) = fs::read_dir(parent) else {
        return true;
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_own = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.is_dir() && name.is_some_and(|name| name.starts_with(prefix))
    };
    let left = paths.filter(is_own).filter(|path| fs::remove_dir(path).is_err());
    left.count() == 0
}

/// How long an engine that ends waits for the kernel to let go of groups.
const LINGER: Duration = Duration::from_secs(1);

/// Removes what can be removed; returns whether that is all.
fn remove_stale(stale: &Stale) -> bool {
    let mut stale = stale.lock().unwrap_or_else(PoisonError::into_inner);
    stale.retain(|dir| match fs::remove_dir(dir) {
        Ok(()) => false,
        Err(error) => {
            tracing::trace!(path = %dir.display(), reason = %error, "a control group stays for a while");
            error.kind() == io::ErrorKind::ResourceBusy
        }
    });
    stale.is_empty()
}

/// Makes `dir` below the directory of a hierarchy, which an engine that ended a moment ago may just have removed.
fn make_in(hierarchy: &Hierarchy, dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        made => return made,
    }
    fs::create_dir_all(&hierarchy.parent)?;
    if hierarchy.version == Version::Two {
        v2::enable(&hierarchy.parent, &USUAL)?;
    }
    fs::create_dir(dir)
}

/// Removes the groups of engines that are dead: a killed engine removes nothing.
fn sweep(parent: &Path) {
    // No directory, no groups: no engine ever ran here.
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    // What vanishes meanwhile is not left behind.
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let owner = path
            .file_name()
            .and_then(|name| name.to_str()?.split_once('-'))
            .map(|(pid, _)| pid.to_owned());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
            && let Err(error) = fs::remove_dir(&path)
        {
            tracing::debug!(path = %path.display(), reason = %error, "a dead engine's control group stays behind");
        }
    }
}

/// Whether version 2 is the only hierarchy.
pub(super) fn has_version_2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// What limits on memory and processes steps can be held to, for those who ask; changes nothing.
pub(super) fn probe() -> (bool, String) {
    let mounted = match mounts::read() {
        Ok(mounted) => mounted,
        Err(error) => return (false, format!("control groups cannot be read: {error}")),
    };
    let usable: Vec<&Mounted> = mounted.iter().filter(|mount| mount.is_writable()).collect();
    let has = |controller| usable.iter().find(|mount| mount.controllers.contains(&controller));
    let versions = USUAL.map(|controller| has(controller).map(|mount| mount.version));
    match versions {
        [None, None] if !mounted.is_empty() => (true, format!("{NOT_DELEGATED}: steps run without limits on memory")),
        [Some(Version::Two), Some(Version::Two)] => (true, "control groups version 2".to_owned()),
        [Some(Version::One), Some(Version::One)] => (true, "control groups version 1".to_owned()),
        [Some(_), Some(_)] => (true, "control groups of both versions".to_owned()),
        [None, None] => (false, "no control groups: steps run without limits".to_owned()),
        [None, Some(_)] => (true, "control groups without limits on processes".to_owned()),
        [Some(_), None] => (true, "control groups without limits on memory".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_nothing_keeps_is_named_with_the_reason() {
        let groups = Groups {
            missing: "no place".to_owned(),
            ..Groups::default()
        };
        let limits = Limits {
            memory_bytes: Some(64 << 20),
            ..Limits::default()
        };
        let error = groups.check(&limits).unwrap_err();
        assert_eq!(error.to_string(), "--memory cannot be kept here: no place");
        assert_eq!(groups.make(&CpuLimits::default()).limit(&limits), Err(error));
        assert_eq!(groups.check(&Limits::default()), Ok(()));
    }

    #[test]
    fn an_engine_that_ends_removes_its_groups_and_the_last_one_their_parent() {
        let place = tempfile::tempdir().unwrap();
        let parent = place.path().join(PARENT);
        for name in ["11-1", "11-2", "112-1"] {
            fs::create_dir_all(parent.join(name)).unwrap();
        }
        remove_all(&parent, 11);
        let there: Vec<_> = fs::read_dir(&parent)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(there, ["112-1"]);
        remove_all(&parent, 112);
        assert!(!parent.exists());
    }

    #[test]
    fn groups_of_dead_engines_are_swept_and_those_of_the_living_stay() {
        let parent = tempfile::tempdir().unwrap();
        let own = format!("{}-7", std::process::id());
        for name in [own.as_str(), "999999999-1", "else"] {
            fs::create_dir(parent.path().join(name)).unwrap();
        }
        sweep(parent.path());
        let there = |name: &str| parent.path().join(name).exists();
        assert!(there(&own) && there("else") && !there("999999999-1"));
    }
}
