//! `USER` to numbers, by the `passwd` and `group` files of the root filesystem.
//!
//! The files belong to the image, so they are hostile: regular files only, at most [`MAX_BYTES`], opened without waiting, and
//! ids above 2^31 - 2 are refused, since a wrapped id could be 0.

use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use crate::ids::Ids;

/// Largest `passwd` or `group` file that is read.
const MAX_BYTES: u64 = 1 << 20;
/// Largest user or group id.
const MAX_ID: u32 = i32::MAX as u32 - 1;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// All groups, the primary one first.
    pub(super) groups: Vec<u32>,
    /// Whether the groups can be set: not where nobody can change them.
    pub(super) sets_groups: bool,
    pub(super) home: String,
}

impl Identity {
    /// The same, as far as there are such users.
    ///
    /// # Errors
    /// Somebody else than root where nobody else is.
    pub(super) fn within(self, ids: Ids) -> Result<Self, String> {
        if ids != Ids::One {
            return Ok(self);
        }
        if (self.uid, self.gid) != (0, 0) {
            let (uid, gid) = (self.uid, self.gid);
            return Err(format!(
                "the step runs as user {uid} and group {gid}, but the sandbox `single-id` has no users but root"
            ));
        }
        // The groups of the engine's user stay: nobody can take them from a process in such a namespace.
        Ok(Self {
            sets_groups: false,
            ..self
        })
    }
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Looks up `user[:group]`; an empty user is root.
pub(super) fn lookup(user: &str, passwd: &str, group: &str) -> Result<Identity, String> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = parse_id(user)?;
    // A number is a number, even where somebody is called like that.
    let account = passwd.lines().filter_map(account).find(|account| match number {
        Some(uid) => account.uid == uid,
        None => account.name == user,
    });
    let uid = account.as_ref().map(|account| account.uid).or(number);
    let uid = uid.ok_or_else(|| format!("unable to find user {user}: no matching entries in passwd file"))?;
    let (gid, mut others) = match (wanted_group, &account) {
        (Some(wanted), _) => (find_group(wanted, group)?, Vec::new()),
        (None, Some(account)) => (account.gid, memberships(account.name, group)),
        (None, None) => (0, Vec::new()),
    };
    others.retain(|other| *other != gid);
    let home = account
        .map(|account| account.home)
        .filter(|home| !home.is_empty())
        .unwrap_or("/")
        .to_owned();
    Ok(Identity {
        uid,
        gid,
        groups: [vec![gid], others].concat(),
        sets_groups: true,
        home,
    })
}

/// The number, if the text is one. A text of digits that is out of range is an error, never a name.
fn parse_id(text: &str) -> Result<Option<u32>, String> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID && digits == text => Ok(Some(id)),
        _ => Err(format!("`{text}` is not an id between 0 and {MAX_ID}")),
    }
}

fn account(line: &str) -> Option<Account<'_>> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let uid = fields.next()?.parse().ok().filter(|id| *id <= MAX_ID)?;
    let gid = fields.next()?.parse().ok().filter(|id| *id <= MAX_ID)?;
    Some(Account {
        name,
        uid,
        gid,
        home: fields.nth(1).unwrap_or(""),
    })
}

fn groups(file: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok().filter(|id| *id <= MAX_ID)?;
        Some((name, gid, fields.next().unwrap_or("")))
    })
}

fn find_group(wanted: &str, file: &str) -> Result<u32, String> {
    if let Some(gid) = parse_id(wanted)? {
        return Ok(gid);
    }
    let found = groups(file).find(|(name, ..)| *name == wanted);
    found
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| format!("unable to find group {wanted}: no matching entries in group file"))
}

fn memberships(user: &str, file: &str) -> Vec<u32> {
    let of_user = groups(file).filter(|(_, _, members)| members.split(',').any(|member| member == user));
    let mut gids: Vec<u32> = of_user.map(|(_, gid, _)| gid).collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

/// Reads an account file of the image below `root`; a missing one is empty.
pub(super) fn read_accounts(root: &OwnedFd, path: &str) -> Result<String, String> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(error) => return Err(format!("cannot open `/{path}` of the image: {error}")),
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| format!("cannot read `/{path}` of the image: {error}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(format!("`/{path}` of the image is not a regular file"));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file)
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot read `/{path}` of the image: {error}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("`/{path}` of the image is larger than {MAX_BYTES} bytes"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::lookup;
    use crate::ids::Ids;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\njoe:x:55:66::/home/joe:/bin/sh\nbad\nbig:x:4294967296:0::/:\n";
    const GROUP: &str = "root:x:0:joe\ngrp:x:77:joe,ann\nown:x:66:joe\n";

    #[test]
    fn users_are_found_by_the_files_of_the_image() {
        let table = [
            ("", "0 0 [0] /root"),
            ("root", "0 0 [0] /root"),
            ("joe", "55 66 [66, 0, 77] /home/joe"),
            ("55", "55 66 [66, 0, 77] /home/joe"),
            ("joe:grp", "55 77 [77] /home/joe"),
            ("joe:5", "55 5 [5] /home/joe"),
            ("joe:", "55 66 [66, 0, 77] /home/joe"),
            (":grp", "0 77 [77] /root"),
            ("1000", "1000 0 [0] /"),
            ("1000:1001", "1000 1001 [1001] /"),
            ("ann", "unable to find user ann: no matching entries in passwd file"),
            ("joe:no", "unable to find group no: no matching entries in group file"),
            ("big", "unable to find user big: no matching entries in passwd file"),
            ("4294967296", "`4294967296` is not an id between 0 and 2147483646"),
            ("-1", "`-1` is not an id between 0 and 2147483646"),
            ("0x0", "unable to find user 0x0: no matching entries in passwd file"),
        ];
        for (user, expected) in table {
            let found = match lookup(user, PASSWD, GROUP) {
                Ok(found) => format!("{} {} {:?} {}", found.uid, found.gid, found.groups, found.home),
                Err(message) => message,
            };
            assert_eq!(found, expected, "USER {user}");
        }
    }

    #[test]
    fn without_further_ids_there_is_only_root() {
        let within = |user, ids| lookup(user, PASSWD, GROUP).unwrap().within(ids);
        assert!(within("joe", Ids::Range).unwrap().sets_groups);
        assert!(!within("root", Ids::One).unwrap().sets_groups);
        for user in ["joe", "root:grp"] {
            assert!(
                within(user, Ids::One).unwrap_err().contains("no users but root"),
                "{user}"
            );
        }
    }
}
