//! Programs that are run by somebody who is not root: with ids beside the own one, and without.
//!
//! Where the tests are root, that is a user whom every Debian has and nobody uses; in a mount namespace of its own the files that
//! give users further ids name that user. Where the tests are not root, it is whoever runs them, as the system has it.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Exists on every Debian, owns nothing and runs nothing.
const NAME: &str = "games";
/// Ids that no other user is given by default.
const FURTHER: &str = "games:1879048192:65536\n";

/// Beside its own, the ids that the user has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Further {
    /// A range of 65,536.
    Ids,
    /// None.
    Nothing,
}

/// Makes the mounts and becomes the user. The device of networks is for root alone on some machines.
const SCRIPT: &str = r#"
set -e
for file in /etc/subuid /etc/subgid; do mount --bind "$ORDINARY/$FURTHER" "$file"; done
if [ -c /dev/net/tun ] && [ -c "$ORDINARY/tun" ]; then mount --bind "$ORDINARY/tun" /dev/net/tun; fi
unset FURTHER
exec setpriv --reuid "$NAME" --regid "$NAME" --clear-groups -- "$@"
"#;

/// An ordinary user, with a directory.
#[derive(Debug)]
pub struct Ordinary {
    directory: tempfile::TempDir,
    further: Further,
}

impl Ordinary {
    /// One with or without further ids.
    #[must_use]
    pub fn new(further: Further) -> Self {
        let directory = tempfile::Builder::new().prefix("rbuild-user-").tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(path("own")).unwrap();
        std::fs::set_permissions(path("own"), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(path("ids"), FURTHER).unwrap();
        std::fs::write(path("nothing"), "").unwrap();
        if is_root() {
            let mode = rustix::fs::Mode::from_raw_mode(0o666);
            let tun = rustix::fs::makedev(10, 200);
            // Where devices cannot be made, tests of networks say that they are skipped.
            if rustix::fs::mknodat(
                rustix::fs::CWD,
                path("tun"),
                rustix::fs::FileType::CharacterDevice,
                mode,
                tun,
            )
            .is_ok()
            {
                std::fs::set_permissions(path("tun"), std::fs::Permissions::from_mode(0o666)).unwrap();
            }
        }
        Self { directory, further }
    }

    /// A directory that the user can write.
    #[must_use]
    pub fn own(&self) -> PathBuf {
        self.directory.path().join("own")
    }

    /// A copy of a program that the user can reach, wherever the original is.
    #[must_use]
    pub fn copy(&self, program: &Path) -> PathBuf {
        let copy = self.directory.path().join("program");
        if !copy.exists() {
            std::fs::copy(program, &copy).unwrap();
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        copy
    }

    /// The program, to be run by the user with nothing in its environment but a path and a home.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = if is_root() {
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.own())
            .env("TMPDIR", self.own())
            .env("NAME", NAME)
            .env("ORDINARY", self.directory.path())
            .env("FURTHER", if self.further == Further::Ids { "ids" } else { "nothing" })
            .current_dir(self.own());
        command
    }

    /// What the machine lacks for such a user's sandboxes, found out by trying; nothing if it lacks nothing.
    #[must_use]
    pub fn lacking(&self) -> Option<String> {
        let own = match self.further {
            Further::Ids => ["--map-auto"].as_slice(),
            Further::Nothing => [].as_slice(),
        };
        let output = self
            .command("unshare")
            .args(["--user", "--map-root-user", "--mount"])
            .args(own)
            .arg("true")
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        (!output.status.success()).then(|| format!("user namespaces for ordinary users: {words}"))
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
