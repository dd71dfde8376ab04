//! What the kernel does not let this process give a file, noted in an attribute of the file.
//!
//! Inside a user namespace a file cannot belong to an id that is not mapped, and there are no new device nodes. The file then belongs
//! to root, or an empty file takes the place of the device, and what it should be is written beside. Whoever reads the file to make a
//! layer of it finds it there, also after overlayfs has copied the file up for a step. Links, pipes and sockets carry no such
//! attributes: of those the owner is lost, see [`crate::layer::diff`].
//!
//! A note counts only inside a user namespace, and only as long as nobody has given the file to somebody else. Attributes of these
//! names that images bring are dropped.

use std::io;
use std::os::fd::AsFd;

use proto::tree::EntryKind;
use rustix::fs::{Gid, Uid, XattrFlags};
use rustix::io::Errno;

use crate::ids::Ids;

/// Begins the names of all notes.
pub(crate) const PREFIX: &str = "user.rbuild.";
/// `uid:gid`.
pub(crate) const OWNER: &str = "user.rbuild.owner";
/// `c:major:minor` or `b:major:minor`.
pub(crate) const DEVICE: &str = "user.rbuild.device";

/// Longest note.
const MAX_BYTES: usize = 32;

/// Whether this process leaves notes, and reads them.
pub(crate) fn are_kept() -> bool {
    !Ids::of_process().is_outside()
}

/// Gives an open file or directory an owner, or notes who it should be.
pub(crate) fn give_to(file: impl AsFd, uid: u32, gid: u32) -> io::Result<()> {
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match rustix::fs::fchown(&file, owner.0, owner.1) {
        Err(Errno::INVAL) if are_kept() => note(file, OWNER, &format!("{uid}:{gid}")),
        given => Ok(given?),
    }
}

/// Who an open file should belong to, if that is noted.
pub(crate) fn owner(file: impl AsFd) -> io::Result<Option<(u32, u32)>> {
    let Some(text) = read(file, OWNER)? else {
        return Ok(None);
    };
    let (uid, gid) = text.split_once(':').unwrap_or_default();
    Ok(uid.parse().ok().zip(gid.parse().ok()))
}

/// Notes that an open empty file is a device.
pub(crate) fn stand_in_for(file: impl AsFd, device: &EntryKind) -> io::Result<()> {
    let text = match device {
        EntryKind::CharDevice { major, minor } => format!("c:{major}:{minor}"),
        EntryKind::BlockDevice { major, minor } => format!("b:{major}:{minor}"),
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    note(file, DEVICE, &text)
}

/// The device that an open empty file should be, if that is noted.
pub(crate) fn device(file: impl AsFd) -> io::Result<Option<EntryKind>> {
    Ok(read(file, DEVICE)?.as_deref().and_then(parse_device))
}

fn parse_device(text: &str) -> Option<EntryKind> {
    let mut fields = text.split(':');
    let kind = fields.next()?;
    let (major, minor) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    match kind {
        "c" => Some(EntryKind::CharDevice { major, minor }),
        "b" => Some(EntryKind::BlockDevice { major, minor }),
        _ => None,
    }
}

fn note(file: impl AsFd, name: &str, text: &str) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, name, text.as_bytes(), XattrFlags::empty())?)
}

fn read(file: impl AsFd, name: &str) -> io::Result<Option<String>> {
    let mut value = [0; MAX_BYTES];
    match rustix::fs::fgetxattr(file, name, &mut value[..]) {
        Ok(length) => Ok(String::from_utf8(value[..length].to_vec()).ok()),
        // Something that is longer is no note of ours.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_noted() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(device(&file).unwrap(), None);
        for kind in [
            EntryKind::CharDevice { major: 1, minor: 3 },
            EntryKind::BlockDevice { major: 259, minor: 0 },
        ] {
            stand_in_for(&file, &kind).unwrap();
            assert_eq!(device(&file).unwrap(), Some(kind));
        }
        for foreign in ["", "c:1", "x:1:3", "c:-1:3"] {
            note(&file, DEVICE, foreign).unwrap();
            assert_eq!(device(&file).unwrap(), None, "{foreign}");
        }
    }

    #[test]
    fn an_owner_is_read_as_it_is_noted() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(owner(&file).unwrap(), None);
        note(&file, OWNER, "55:66").unwrap();
        assert_eq!(owner(&file).unwrap(), Some((55, 66)));
        note(&file, OWNER, "55").unwrap();
        assert_eq!(owner(&file).unwrap(), None);
    }
}
