//! Ending every process that a step has started, without a namespace that would do it.
//!
//! Whoever calls this is the subreaper of the step: a process whose parent ends becomes its child, whatever sessions and forks it
//! went through. So when it has no child left, nothing of the step is left. Until then all are stopped, again and again until no
//! running one is found, since a stopped process cannot fork; then all are killed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process, waitid, waitpid};

/// Rounds of stopping before killing begins anyway: whoever forks faster than that is ended bit by bit.
const STOPPING_ROUNDS: usize = 50;
/// Between two looks at processes that take a while to die, in milliseconds.
const PAUSE_MS: u64 = 1;

/// A process as `/proc` shows it.
struct Seen {
    id: u32,
    parent: u32,
    group: u32,
    state: u8,
}

/// Ends all descendants of this process but `spared` and what these have started, and waits until they are gone.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn end_all(spared: &[Pid]) -> io::Result<()> {
    if spared.is_empty() && !has_children()? {
        return Ok(());
    }
    for _ in 0..STOPPING_ROUNDS {
        let running = || -> io::Result<Vec<Seen>> {
            let all = of_this_process(spared)?;
            Ok(all
                .into_iter()
                .filter(|seen| !matches!(seen.state, b'T' | b'Z' | b'X'))
                .collect())
        };
        let running = running()?;
        if running.is_empty() {
            break;
        }
        send(&running, Signal::STOP)?;
    }
    loop {
        let left = of_this_process(spared)?;
        if left.is_empty() {
            return Ok(());
        }
        send(&left, Signal::KILL)?;
        if !reap(spared)? {
            std::thread::sleep(std::time::Duration::from_millis(PAUSE_MS));
        }
    }
}

fn has_children() -> io::Result<bool> {
    let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match rustix::io::retry_on_intr(|| waitid(WaitId::All, flags)) {
        Ok(_) => Ok(true),
        Err(Errno::CHILD) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits for what has ended already. Returns whether there was something.
fn reap(spared: &[Pid]) -> io::Result<bool> {
    let own = getpid();
    let mut reaped = false;
    for seen in of_this_process(spared)? {
        let id = pid(seen.id);
        let Some(id) = id.filter(|_| seen.state == b'Z' && seen.parent == own.as_raw_nonzero().get().unsigned_abs())
        else {
            continue;
        };
        match waitpid(Some(id), WaitOptions::NOHANG) {
            Ok(found) => reaped |= found.is_some(),
            Err(Errno::CHILD | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(reaped)
}

fn send(to: &[Seen], signal: Signal) -> io::Result<()> {
    for id in to.iter().filter_map(|seen| pid(seen.id)) {
        match kill_process(id, signal) {
            // It has ended meanwhile. Its number is not given to another one before its parent, one of ours, has waited for it.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

/// The descendants of this process, without `spared` and theirs.
fn of_this_process(spared: &[Pid]) -> io::Result<Vec<Seen>> {
    let mut children: HashMap<u32, Vec<Seen>> = HashMap::new();
    for seen in all()? {
        children.entry(seen.parent).or_default().push(seen);
    }
    let spared: HashSet<u32> = spared
        .iter()
        .map(|id| id.as_raw_nonzero().get().unsigned_abs())
        .collect();
    let mut found = Vec::new();
    let mut parents = vec![getpid().as_raw_nonzero().get().unsigned_abs()];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            if !spared.contains(&child.id) {
                parents.push(child.id);
                found.push(child);
            }
        }
    }
    Ok(found)
}

/// Numbers of all processes here and of their groups: what a step must not name.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn everybody() -> io::Result<Vec<u32>> {
    let mut ids: Vec<u32> = all()?.into_iter().flat_map(|seen| [seen.id, seen.group]).collect();
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn all() -> io::Result<Vec<Seen>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok())
            // A process that ended while we looked is not there.
            && let Ok(stat) = fs::read(entry.path().join("stat"))
        {
            all.extend(parse(&stat));
        }
    }
    Ok(all)
}

/// `12 (name) S 1 12 …`; a name may hold anything, even parentheses.
fn parse(stat: &[u8]) -> Option<Seen> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let id = std::str::from_utf8(&stat[..stat.iter().position(|byte| *byte == b' ')?]).ok()?;
    let mut rest = std::str::from_utf8(stat.get(end + 2..)?).ok()?.split(' ');
    Some(Seen {
        id: id.parse().ok()?,
        state: *rest.next()?.as_bytes().first()?,
        parent: rest.next()?.parse().ok()?,
        group: rest.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_of_processes_do_not_confuse() {
        let seen = parse(b"12 (a) S 1 (b) T 7 9 12 0").unwrap();
        assert_eq!((seen.id, seen.state, seen.parent, seen.group), (12, b'T', 7, 9));
        assert!(parse(b"").is_none() && parse(b"12 (a)").is_none());
    }
}
