//! The control groups of one step: a limit on processes, and the answer to whether the kernel killed it for lack of memory.
//!
//! Version 2 where the root hierarchy has the controllers, else version 1 per controller (which includes hybrid hosts), else
//! none: limits protect the machine, and a machine that does not offer them still builds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const MOUNT: &str = "/sys/fs/cgroup";
/// The directory of this engine below each hierarchy.
const PARENT: &str = "rbuild";
/// Processes and threads of a step.
pub(super) const MAX_PIDS: u64 = 8192;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// The groups of one step. Dropping it removes them; they are empty by then.
#[derive(Debug, Default)]
pub(super) struct Group {
    dirs: Vec<PathBuf>,
}

impl Group {
    /// Makes the groups. What this machine does not offer is missing from them.
    pub(super) fn new() -> Self {
        let mut group = Self::default();
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = if has_version_2() {
            group.make_v2(&name)
        } else {
            group.make_v1(&name)
        };
        if let Err(error) = made {
            tracing::debug!(reason = %error, "steps run without limits on processes and memory");
        }
        group
    }

    fn make_v2(&mut self, name: &str) -> io::Result<()> {
        let parent = Path::new(MOUNT).join(PARENT);
        fs::write(Path::new(MOUNT).join("cgroup.subtree_control"), "+pids +memory")?;
        fs::create_dir_all(&parent)?;
        fs::write(parent.join("cgroup.subtree_control"), "+pids +memory")?;
        let dir = self.make(parent.join(name))?;
        fs::write(dir.join("pids.max"), MAX_PIDS.to_string())?;
        // A step that the kernel kills for lack of memory dies whole.
        fs::write(dir.join("memory.oom.group"), "1")
    }

    fn make_v1(&mut self, name: &str) -> io::Result<()> {
        for controller in ["pids", "memory"] {
            let parent = Path::new(MOUNT).join(controller).join(PARENT);
            fs::create_dir_all(&parent)?;
            self.make(parent.join(name))?;
        }
        fs::write(
            Path::new(MOUNT).join("pids").join(PARENT).join(name).join("pids.max"),
            MAX_PIDS.to_string(),
        )
    }

    fn make(&mut self, dir: PathBuf) -> io::Result<PathBuf> {
        fs::create_dir(&dir)?;
        self.dirs.push(dir.clone());
        Ok(dir)
    }

    /// Their directories.
    pub(super) fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// Whether the kernel killed something in the group for lack of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        ["memory.events", "memory.oom_control"].iter().any(|file| {
            self.dirs.iter().any(|dir| match fs::read_to_string(dir.join(file)) {
                Ok(text) => text
                    .lines()
                    .any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0")),
                // The other version's name, or a group without the controller: then nothing was limited.
                Err(_) => false,
            })
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for dir in &self.dirs {
            if let Err(error) = fs::remove_dir(dir) {
                tracing::debug!(path = %dir.display(), reason = %error, "a control group stays behind");
            }
        }
    }
}

/// Removes the groups of engines that are dead: a killed engine removes nothing.
pub(super) fn sweep() {
    for hierarchy in ["", "pids", "memory"] {
        // No directory, no groups: the other version, or an engine that never ran here.
        let Ok(entries) = fs::read_dir(Path::new(MOUNT).join(hierarchy).join(PARENT)) else {
            continue;
        };
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
}

/// Whether version 2 is the only hierarchy.
pub(super) fn has_version_2() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}
