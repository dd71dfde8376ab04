//! `--chown`: names to numbers, by the `/etc/passwd` and `/etc/group` of the root filesystem itself.

use std::io;

use proto::definition::{Id, Owner};
use proto::tree::RelPath;

/// Reads a file of the root filesystem; nothing if it is not there.
pub type Lookup<'a> = &'a mut dyn FnMut(&RelPath) -> io::Result<Option<Vec<u8>>>;

/// Why an owner has no numbers.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// A name, but no root filesystem to look it up in: the first step of `scratch`, or `--link`.
    #[error("invalid user index: -1: no user or group `{}`, for there is no root filesystem to look it up in", .name.escape_debug())]
    NoRoot {
        /// The name as written.
        name: String,
    },
    /// A database could not be read.
    #[error("cannot read `/{path}` of the root filesystem")]
    Read {
        /// The database.
        path: RelPath,
        /// The cause.
        source: io::Error,
    },
}

/// The numbers of `owner`. Without `lookup` there is no root filesystem, and `root` is the only name.
///
/// Names that the databases do not have mean 0, and such a group the one of the user, as users of other builders rely on.
///
/// # Errors
/// See [`OwnerError`].
pub fn numbers(owner: &Owner, mut lookup: Option<Lookup<'_>>) -> Result<(u32, u32), OwnerError> {
    let (uid, primary) = match &owner.user {
        None => (0, 0),
        Some(Id::Number(uid)) => (*uid, *uid),
        Some(Id::Name(name)) => match find(name, b"etc/passwd", &mut lookup)? {
            Some(fields) => (field(&fields, 2), field(&fields, 3)),
            None => (0, 0),
        },
    };
    let gid = match &owner.group {
        None => primary,
        Some(Id::Number(gid)) => *gid,
        Some(Id::Name(name)) => find(name, b"etc/group", &mut lookup)?.map_or(primary, |fields| field(&fields, 2)),
    };
    Ok((uid, gid))
}

fn find(name: &str, database: &[u8], lookup: &mut Option<Lookup<'_>>) -> Result<Option<Vec<String>>, OwnerError> {
    let Some(read) = lookup else {
        return match name {
            "root" => Ok(None),
            _ => Err(OwnerError::NoRoot { name: name.to_owned() }),
        };
    };
    let path = RelPath::clean(database);
    let bytes = read(&path).map_err(|source| OwnerError::Read { path, source })?;
    let text = String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned();
    Ok(text
        .lines()
        .map(|line| line.split(':').map(str::to_owned).collect::<Vec<_>>())
        .find(|fields| fields.first().is_some_and(|first| first == name)))
}

/// A field that is no number belongs to a damaged line, which counts as one that is not there: 0.
fn field(fields: &[String], index: usize) -> u32 {
    fields.get(index).and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> Option<Id> {
        match text.parse() {
            Ok(number) => Some(Id::Number(number)),
            Err(_) if text.is_empty() => None,
            Err(_) => Some(Id::Name(text.to_owned())),
        }
    }

    fn owner(user: &str, group: &str) -> Owner {
        Owner {
            user: id(user),
            group: id(group),
        }
    }

    #[test]
    fn names_are_looked_up_and_numbers_taken_as_they_are() {
        let mut read = |path: &RelPath| -> io::Result<Option<Vec<u8>>> {
            Ok(match path.as_bytes() {
                b"etc/passwd" => Some(b"root:x:0:0\njoe:x:55:66:Joe:/:/bin/sh\n".to_vec()),
                b"etc/group" => Some(b"grp:x:77:\n".to_vec()),
                _ => None,
            })
        };
        for (user, group, expected) in [
            ("3", "", (3, 3)),
            ("root", "", (0, 0)),
            ("nosuch", "", (0, 0)),
            ("joe", "", (55, 66)),
            ("joe", "grp", (55, 77)),
            ("", "grp", (0, 77)),
            ("1", "grp", (1, 77)),
            ("joe", "0", (55, 0)),
            ("joe", "nosuch", (55, 66)),
            ("nosuch", "nosuch", (0, 0)),
            ("1", "nosuch", (1, 1)),
            ("", "nosuch", (0, 0)),
        ] {
            let found = numbers(&owner(user, group), Some(&mut read)).unwrap();
            assert_eq!(found, expected, "{user}:{group}");
        }
    }

    #[test]
    fn without_a_root_filesystem_only_root_is_a_name() {
        assert_eq!(numbers(&owner("root", ""), None).unwrap(), (0, 0));
        let error = numbers(&owner("joe", ""), None).unwrap_err();
        assert!(error.to_string().contains("`joe`"), "{error}");
    }
}
