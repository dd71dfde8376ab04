//! The ids beside their own that a system gives its users, and the two programs that map them.
//!
//! Source: subuid(5), subgid(5), newuidmap(1), newgidmap(1).

use std::fs;
use std::path::{Path, PathBuf};

/// Where systems begin to give them away.
const FIRST: u32 = 100_000;
/// The kernel takes no longer maps.
const MAX_RANGES: usize = 339;
/// Where programs of the system are, and where NixOS keeps those with set-id bits.
const DIRECTORIES: [&str; 7] = [
    "/run/wrappers/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];

/// Consecutive ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    start: u32,
    count: u32,
}

/// A program of this machine.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let mut candidates = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
    candidates.find(|path| path.exists())
}

/// What the system calls a user; its number where it has no name.
pub(super) fn name_of(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&passwd, uid).unwrap_or_else(|| uid.to_string())
}

fn name_in(passwd: &str, uid: u32) -> Option<String> {
    let mut accounts = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let account = accounts.find(|fields| fields.get(2).and_then(|field| field.parse().ok()) == Some(uid))?;
    account.first().map(|name| (*name).to_owned())
}

/// The ranges that the file at `path` gives a user. A file that is not there gives none.
pub(super) fn ranges(path: &str, name: &str) -> Vec<Range> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    ranges_in(
        &fs::read_to_string(path).unwrap_or_default(),
        uid_in(&passwd, name),
        name,
    )
}

/// The first id from which on nobody has any.
pub(super) fn first_free() -> u32 {
    let files = ["/etc/subuid", "/etc/subgid"].map(|path| fs::read_to_string(path).unwrap_or_default());
    first_free_in(&files.concat())
}

fn first_free_in(text: &str) -> u32 {
    let end = |line: &str| {
        let mut fields = line.split(':').skip(1);
        let (start, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        start.checked_add(count)
    };
    text.lines().filter_map(end).fold(FIRST, u32::max)
}

/// The number of a user, who may have no name.
fn uid_in(passwd: &str, name: &str) -> Option<u32> {
    let mut accounts = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let account = accounts.find(|fields| fields.first() == Some(&name));
    account
        .map_or(name, |fields| fields.get(2).copied().unwrap_or_default())
        .parse()
        .ok()
}

fn ranges_in(text: &str, uid: Option<u32>, name: &str) -> Vec<Range> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let is_theirs = owner == name || uid.is_some_and(|uid| owner.parse() == Ok(uid));
        (is_theirs && count > 0).then_some(Range { start, count })
    };
    text.lines().filter_map(range).take(MAX_RANGES).collect()
}

/// The lines of a map: root inside is `own` outside, and the ranges follow.
pub(super) fn map(own: u32, ranges: &[Range]) -> Vec<[u32; 3]> {
    let mut lines = vec![[0, own, 1]];
    let mut next: u32 = 1;
    for range in ranges {
        lines.push([next, range.start, range.count]);
        next = next.saturating_add(range.count);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_belong_to_names_and_numbers() {
        let text = "ann:100000:65536\nbob:165536:65536\n1000:300000:10\nann:bad:1\nann:5:0\n\n";
        let found = ranges_in(text, Some(1000), "ann");
        assert_eq!(
            map(1000, &found),
            [[0, 1000, 1], [1, 100_000, 65536], [65537, 300_000, 10]]
        );
        assert_eq!(ranges_in(text, Some(7), "eve"), []);
        assert_eq!(
            name_in("root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:\n", 1000),
            Some("ann".to_owned())
        );
        assert_eq!(first_free_in(text), 300_010);
        assert_eq!(first_free_in(""), 100_000);
        assert_eq!(name_in("bad\n", 1000), None);
        assert_eq!(uid_in("ann:x:1000:1000::/:\n", "ann"), Some(1000));
        assert_eq!(uid_in("ann:x:1000:1000::/:\n", "77"), Some(77));
    }
}
