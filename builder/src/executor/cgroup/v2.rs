//! Control groups of version 2: one hierarchy for all controllers, and one rule that shapes everything here: a group that hands
//! controllers down to groups below it has no processes of its own. Only the root of the machine is free of it.
//!
//! So groups of steps are made, in this order:
//!
//! 1. in the engine's own group, if that is the root of the machine;
//! 2. beside the engine, if an engine has made room before;
//! 3. in the engine's own group, from which the engine moves into a leaf of its own, if nobody else is in it (a unit of systemd
//!    with `Delegate=`), or if it is all that can be seen (a container, whose processes all move);
//! 4. in the nearest group above that can hand controllers down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mounts::Mounted;
use super::{Controller, ENGINE, Hierarchy, OWN_PROCESSES, PARENT, PROCESSORS, USUAL, Version};
use crate::limits::Limits;

/// How often processes are moved out of a group: one that forks meanwhile leaves a new one there.
const MOVES: u32 = 10;

/// Finds the place for groups of steps, and makes the engine leave it if it must.
///
/// # Errors
/// Why there is none.
pub(super) fn hierarchy(mount: &Mounted) -> Result<Hierarchy, String> {
    let base = base(&mount.at, &mount.own)?;
    let parent = base.join(PARENT);
    let made = fs::create_dir_all(&parent).and_then(|()| enable(&parent, &USUAL));
    made.map_err(|error| format!("`{}`: {error}", parent.display()))?;
    let offered = fs::read_to_string(parent.join("cgroup.controllers"));
    let offered = offered.map_err(|error| format!("`{}`: {error}", parent.display()))?;
    let is_offered = |one: &Controller| offered.split_whitespace().any(|name| name == one.name());
    let controllers = mount.controllers.iter().copied();
    Ok(Hierarchy {
        version: Version::Two,
        controllers: controllers
            .filter(|one| is_offered(one) || (PROCESSORS.contains(one) && is_possible(&base, *one)))
            .collect(),
        parent,
    })
}

/// Whether `base` could hand `controller` down, though it does not yet.
fn is_possible(base: &Path, controller: Controller) -> bool {
    // What cannot be read cannot be handed down either.
    let there = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    there.split_whitespace().any(|name| name == controller.name())
}

/// The group that has those of all engines below it.
fn base(at: &Path, own: &Path) -> Result<PathBuf, String> {
    let refused = |error: io::Error| format!("`{}`: {error}", own.display());
    if own.file_name().is_some_and(|name| name == ENGINE)
        && let Some(above) = own.parent()
    {
        return enable(above, &USUAL).map(|()| above.to_owned()).map_err(refused);
    }
    // Only the root of the machine has no type.
    let is_root = !own.join("cgroup.type").exists();
    if is_root {
        return enable(own, &USUAL).map(|()| own.to_owned()).map_err(refused);
    }
    let alone = own == at || is_alone(own).map_err(refused)?;
    let mut last = match alone.then(|| take_over(own)) {
        Some(Ok(())) => return Ok(own.to_owned()),
        Some(Err(error)) => refused(error),
        None => format!("`{}` has other processes than this engine", own.display()),
    };
    for above in own.ancestors().skip(1).take_while(|above| above.starts_with(at)) {
        match enable(above, &USUAL) {
            Ok(()) => return Ok(above.to_owned()),
            Err(error) => last = format!("`{}`: {error}", above.display()),
        }
    }
    Err(last)
}

/// Whether this process is the only one in `group`.
fn is_alone(group: &Path) -> io::Result<bool> {
    let processes = fs::read_to_string(group.join("cgroup.procs"))?;
    Ok(processes.trim() == std::process::id().to_string())
}

/// Moves everything in `group` into a leaf below it, and lets it hand controllers down.
fn take_over(group: &Path) -> io::Result<()> {
    let leaf = group.join(ENGINE);
    fs::create_dir_all(&leaf)?;
    for turn in 1.. {
        for process in fs::read_to_string(group.join("cgroup.procs"))?.lines() {
            match fs::write(leaf.join("cgroup.procs"), process) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                moved => moved?,
            }
        }
        match enable(group, &USUAL) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && turn < MOVES => {}
            enabled => return enabled,
        }
    }
    Ok(())
}

/// Lets `group` hand `controllers` down.
pub(super) fn enable(group: &Path, controllers: &[Controller]) -> io::Result<()> {
    let file = group.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file)?;
    let is_enabled = |one: &&Controller| enabled.split_whitespace().any(|name| name == one.name());
    let missing = controllers.iter().filter(|one| !is_enabled(one));
    let words: Vec<String> = missing.map(|one| format!("+{}", one.name())).collect();
    match words.is_empty() {
        true => Ok(()),
        false => fs::write(file, words.join(" ")),
    }
}

/// Makes the new group `dir` what every step gets.
pub(super) fn prepare(parent: &Path, dir: &Path, controllers: &[Controller]) -> io::Result<()> {
    if controllers.iter().any(|one| PROCESSORS.contains(one)) {
        for group in [parent.parent().unwrap_or(parent), parent] {
            enable(group, controllers)?;
        }
    }
    match controllers.contains(&Controller::Memory) {
        // A step that the kernel kills for lack of memory dies whole.
        true => fs::write(dir.join("memory.oom.group"), "1"),
        false => Ok(()),
    }
}

/// Sets what `flag` asks for.
pub(super) fn keep(dir: &Path, flag: &str, limits: &Limits) -> io::Result<()> {
    let write = |name: &str, value: &dyn ToString| fs::write(dir.join(name), value.to_string());
    let cpu = &limits.cpu;
    match flag {
        "--memory" => limits.memory_bytes.map_or(Ok(()), |bytes| {
            write("memory.max", &bytes)?;
            match write("memory.swap.max", &0) {
                // A kernel without swap has no such file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                written => written,
            }
        }),
        "--pids-limit" => limits
            .processes
            .map_or(Ok(()), |most| write("pids.max", &most.saturating_add(OWN_PROCESSES))),
        "--cpus" => cpu.quota.map_or(Ok(()), |quota| {
            write("cpu.max", &format!("{} {}", quota.quota_us, quota.period_us))
        }),
        "--cpu-shares" => cpu.shares.map_or(Ok(()), |shares| write("cpu.weight", &weight(shares))),
        "--cpuset-cpus" => cpu.cpuset.as_ref().map_or(Ok(()), |set| write("cpuset.cpus", set)),
        other => Err(io::Error::other(format!("{other} is no limit of a group"))),
    }
}

/// The weight, 1 to 10,000, of shares, 2 to 262,144: on a line between the ends, as everybody converts them.
fn weight(shares: u64) -> u64 {
    1 + shares.saturating_sub(2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a group: files are kept, and nothing happens.
    fn group(dir: &Path, processes: &str, enabled: &str, is_root: bool) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("cgroup.procs"), processes).unwrap();
        fs::write(dir.join("cgroup.subtree_control"), enabled).unwrap();
        fs::write(dir.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        if !is_root {
            fs::write(dir.join("cgroup.type"), "domain\n").unwrap();
        }
    }

    fn enabled(dir: &Path) -> String {
        fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap()
    }

    #[test]
    fn an_engine_in_the_root_group_stays_there() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), "1\n2\n", "", true);
        assert_eq!(base(root.path(), root.path()), Ok(root.path().to_owned()));
        assert_eq!(enabled(root.path()), "+pids +memory");
    }

    #[test]
    fn an_engine_that_is_alone_moves_into_a_leaf() {
        let root = tempfile::tempdir().unwrap();
        let (unit, own) = (root.path().join("rbuild.service"), std::process::id().to_string());
        group(root.path(), "", "memory pids\n", true);
        group(&unit, &format!("{own}\n"), "", false);
        assert_eq!(base(root.path(), &unit), Ok(unit.clone()));
        assert_eq!(fs::read_to_string(unit.join(ENGINE).join("cgroup.procs")).unwrap(), own);
        assert_eq!(enabled(&unit), "+pids +memory");
        let again = unit.join(ENGINE);
        assert_eq!(base(root.path(), &again), Ok(unit), "the next engine finds room made");
    }

    #[test]
    fn in_a_container_everybody_moves() {
        let root = tempfile::tempdir().unwrap();
        group(root.path(), "1\n", "", false);
        assert_eq!(base(root.path(), root.path()), Ok(root.path().to_owned()));
        assert_eq!(
            fs::read_to_string(root.path().join(ENGINE).join("cgroup.procs")).unwrap(),
            "1"
        );
    }

    #[test]
    fn an_engine_in_company_goes_above_and_moves_nobody() {
        let root = tempfile::tempdir().unwrap();
        let slice = root.path().join("user.slice");
        let session = slice.join("session.scope");
        group(root.path(), "1\n", "", true);
        group(&slice, "", "pids\n", false);
        group(&session, "1\n2\n", "", false);
        assert_eq!(base(root.path(), &session), Ok(slice.clone()));
        assert_eq!(enabled(&slice), "+memory", "what is enabled is not enabled again");
        assert!(!session.join(ENGINE).exists());
    }

    #[test]
    fn shares_become_weights_between_the_same_ends() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }
}
