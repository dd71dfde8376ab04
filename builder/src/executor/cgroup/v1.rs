//! Control groups of version 1: a directory for each controller, and files with other names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mounts::Mounted;
use super::{Controller, Hierarchy, OWN_PROCESSES, PARENT, Version};
use crate::limits::Limits;

/// Groups may have groups and processes at the same time here, so they are made in the engine's own.
pub(super) fn hierarchy(mount: &Mounted) -> Hierarchy {
    Hierarchy {
        version: Version::One,
        parent: mount.own_dir().join(PARENT),
        controllers: mount.controllers.clone(),
    }
}

/// Makes the new group `dir` fit for processes.
pub(super) fn prepare(parent: &Path, dir: &Path, controllers: &[Controller]) -> io::Result<()> {
    if controllers.contains(&Controller::Cpuset) {
        let above = parent.parent().unwrap_or(parent);
        for (from, to) in [(above, parent), (parent, dir)] {
            inherit(from, to)?;
        }
    }
    Ok(())
}

/// A new group has no processors and no memory nodes, and takes no process before it has.
fn inherit(from: &Path, to: &Path) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(to.join(name))?.trim().is_empty() {
            fs::write(to.join(name), fs::read_to_string(from.join(name))?.trim())?;
        }
    }
    Ok(())
}

/// Sets what `flag` asks for.
pub(super) fn keep(dir: &Path, flag: &str, limits: &Limits) -> io::Result<()> {
    let write = |name: &str, value: &dyn ToString| fs::write(dir.join(name), value.to_string());
    let cpu = &limits.cpu;
    match flag {
        "--memory" => limits.memory_bytes.map_or(Ok(()), |bytes| memory(dir, bytes)),
        "--pids-limit" => limits
            .processes
            .map_or(Ok(()), |most| write("pids.max", &most.saturating_add(OWN_PROCESSES))),
        "--cpus" => cpu.quota.map_or(Ok(()), |quota| {
            write("cpu.cfs_period_us", &quota.period_us)?;
            write("cpu.cfs_quota_us", &quota.quota_us)
        }),
        "--cpu-shares" => cpu.shares.map_or(Ok(()), |shares| write("cpu.shares", &shares)),
        "--cpuset-cpus" => cpu.cpuset.as_ref().map_or(Ok(()), |set| write("cpuset.cpus", set)),
        other => Err(io::Error::other(format!("{other} is no limit of a group"))),
    }
}

/// Memory, and together with swap no more than that.
fn memory(dir: &Path, bytes: u64) -> io::Result<()> {
    fs::write(dir.join("memory.limit_in_bytes"), bytes.to_string())?;
    let with_swap: PathBuf = dir.join("memory.memsw.limit_in_bytes");
    match fs::write(with_swap, bytes.to_string()) {
        // A kernel that does not count swap has the next best.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            fs::write(dir.join("memory.swappiness"), "0")
        }
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_inherited_until_somebody_chooses_some() {
        let root = tempfile::tempdir().unwrap();
        let parent = root.path().join(PARENT);
        let dir = parent.join("1-1");
        fs::create_dir_all(&dir).unwrap();
        for (place, cpus) in [(root.path(), "0-3\n"), (&parent, "\n"), (&dir, "\n")] {
            fs::write(place.join("cpuset.cpus"), cpus).unwrap();
            fs::write(place.join("cpuset.mems"), cpus.replace("-3", "")).unwrap();
        }
        prepare(&parent, &dir, &[Controller::Cpuset]).unwrap();
        assert_eq!(fs::read_to_string(dir.join("cpuset.cpus")).unwrap(), "0-3");
        assert_eq!(fs::read_to_string(dir.join("cpuset.mems")).unwrap(), "0");
        let limits = Limits {
            cpu: crate::limits::CpuLimits {
                cpuset: Some("1".to_owned()),
                ..Default::default()
            },
            ..Limits::default()
        };
        keep(&dir, "--cpuset-cpus", &limits).unwrap();
        assert_eq!(fs::read_to_string(dir.join("cpuset.cpus")).unwrap(), "1");
    }
}
