//! Which users and groups this process can give files to, by the user namespace that it is in.
//!
//! Outside of user namespaces root has them all. Inside of one there are those that were mapped into it; to the kernel all others
//! do not exist. What follows from that for files is decided here once: how a layer directory says that it is opaque, and that no
//! directory that was made for one kind is used for another.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// The users and groups of a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// All: no user namespace, or one that changes nothing.
    All,
    /// Root and a range.
    Range,
    /// Root alone, and nobody can change groups.
    One,
}

impl Ids {
    /// Those of this process, as they were when it asked first. A process that enters a user namespace does so before.
    #[must_use]
    pub fn of_process() -> Self {
        static FOUND: OnceLock<Ids> = OnceLock::new();
        *FOUND.get_or_init(Self::now)
    }

    /// Those of this process at this moment.
    #[must_use]
    pub fn now() -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}"));
        match (read("uid_map"), read("setgroups")) {
            (Ok(map), Ok(setgroups)) => Self::judge(&map, &setgroups),
            // A kernel without user namespaces.
            _ => Self::All,
        }
    }

    fn judge(map: &str, setgroups: &str) -> Self {
        let words: Vec<&str> = map.split_whitespace().collect();
        match &words[..] {
            ["0", "0", "4294967295"] => Self::All,
            [_, _, "1"] => Self::One,
            _ if setgroups.trim() == "deny" => Self::One,
            _ => Self::Range,
        }
    }

    /// Whether the kernel lets this process make device nodes and write attributes that only the machine's root reads.
    #[must_use]
    pub fn is_outside(self) -> bool {
        self == Self::All
    }
}

/// Gives what a step is lent, by its path, to the user that the step names. Where there is only root, root is who can use it.
///
/// # Errors
/// What the system reports; an id that this process does not have.
pub(crate) fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    match Ids::of_process() {
        Ids::One => Ok(()),
        Ids::All | Ids::Range => std::os::unix::fs::chown(path, Some(uid), Some(gid)),
    }
}

/// The attribute by which overlayfs knows an opaque directory, in the mounts that this process makes.
///
/// Directories that carry the other one are of another kind of sandbox and lie elsewhere, so the other one means nothing: a step
/// may have set it, or an image.
#[must_use]
pub fn opaque_mark() -> &'static str {
    MARK.get_or_init(|| match may_use_trusted() {
        true => "trusted.overlay.opaque",
        false => OF_USERS,
    })
}

static MARK: OnceLock<&str> = OnceLock::new();
const OF_USERS: &str = "user.overlay.opaque";

/// Makes [`opaque_mark`] the one that everybody can read, for directories that no overlay is mounted on: then it does not matter
/// what whoever reads them next may do. To be called before anybody asks.
///
/// # Errors
/// The other mark is in use already.
pub fn mark_for_everybody() -> Result<(), &'static str> {
    match *MARK.get_or_init(|| OF_USERS) {
        OF_USERS => Ok(()),
        other => Err(other),
    }
}

/// Root of the machine, with the capability that `trusted.*` attributes take.
fn may_use_trusted() -> bool {
    let held = rustix::thread::capabilities(None);
    Ids::of_process().is_outside() && held.is_ok_and(|held| held.effective.contains(CapabilitySet::SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_map() {
        let table = [
            ("         0          0 4294967295\n", "allow\n", Ids::All),
            ("         0       1000          1\n", "deny\n", Ids::One),
            ("0 1000 1\n1 100000 65536\n", "allow\n", Ids::Range),
            ("0 1000 1\n1 100000 65536\n", "deny\n", Ids::One),
            ("0 100000 65536\n", "allow\n", Ids::Range),
        ];
        for (map, setgroups, expected) in table {
            assert_eq!(Ids::judge(map, setgroups), expected, "{map}");
        }
    }
}
