//! Certificates that the steps of one build trust, and nobody else.
//!
//! Programs look for certificates in a file of the image, each distribution in another one. Ours are added to the end of that file
//! for as long as the step runs, and taken away again before anybody reads what the step has left: what is back as it was is no
//! change, so layers are the same with and without. A read-only mount over the file would be simpler, and wrong: a package that
//! renews the file (`ca-certificates` in every distribution) renames another one over it, which fails where something is mounted.
//!
//! Programs with ways of their own are told of [`BUNDLE`] by variables: a read-only file with the certificates of the image and ours.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::root::{NODEV, NOEXEC, NOSUID, RDONLY, attach_at, new_mount, set_attributes};
use super::spec::{Attempt, Failure};
use super::target::{Tree, Want};

/// The certificates of the image and ours, in the step.
pub(crate) const BUNDLE: &str = "/dev/rbuild/ca-certificates.crt";

/// Where distributions have their certificates.
const PLACES: [&str; 7] = [
    // Debian, Ubuntu, Alpine, Arch.
    "etc/ssl/certs/ca-certificates.crt",
    // Fedora, RHEL.
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // SUSE.
    "etc/ssl/ca-bundle.pem",
    "var/lib/ca-certificates/ca-bundle.pem",
    // Arch.
    "etc/ca-certificates/extracted/tls-ca-bundle.pem",
    // Alpine, and what OpenSSL itself looks for.
    "etc/ssl/cert.pem",
];
/// A file of certificates is smaller.
const MAX_BYTES: u64 = 16 << 20;

/// What was added where.
pub(super) struct Trusted {
    block: Vec<u8>,
    places: Vec<&'static str>,
}

/// Adds `bundle` to the certificates of the root filesystem.
pub(super) fn trust(tree: &Tree, bundle: &[u8]) -> Result<Trusted, Failure> {
    let mut trusted = Trusted {
        block: [b"\n# Of this build: not in the image.\n", bundle, b"\n# End.\n"].concat(),
        places: Vec::new(),
    };
    let mut of_image: Option<Vec<u8>> = None;
    for place in PLACES {
        let Some(mut there) = Certificates::open(tree, place)? else {
            continue;
        };
        // Another name of a file that has them.
        if there.find(&trusted.block).is_none() {
            of_image.get_or_insert_with(|| there.bytes.clone());
            there.bytes.extend_from_slice(&trusted.block);
            there.write()?;
            trusted.places.push(place);
        }
    }
    if of_image.is_none() {
        let made = PLACES
            .into_iter()
            .find_map(|place| make(tree, place, &trusted.block).transpose());
        trusted.places.extend(made.transpose()?);
    }
    let mut whole = of_image.unwrap_or_default();
    whole.extend_from_slice(&trusted.block);
    offer(tree, &whole)?;
    Ok(trusted)
}

impl Trusted {
    /// Takes away what was added. A file that the step has made anew has nothing of it.
    pub(super) fn forget(self, tree: &Tree) -> Result<(), Failure> {
        for place in self.places {
            let Some(mut there) = Certificates::open(tree, place)? else {
                continue;
            };
            if let Some(at) = there.find(&self.block) {
                there.bytes.drain(at..at + self.block.len());
                there.write()?;
                if there.bytes.is_empty() {
                    rustix::fs::unlinkat(tree.root(), place, AtFlags::empty()).attempt("remove certificates")?;
                }
            }
        }
        Ok(())
    }
}

/// A file of certificates.
struct Certificates {
    file: File,
    stat: Stat,
    bytes: Vec<u8>,
}

impl Certificates {
    /// Opens one that can be changed; nothing if there is none, or if it belongs to a mount of the step.
    fn open(tree: &Tree, place: &str) -> Result<Option<Self>, Failure> {
        let action = format!("open `/{place}`");
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = match rustix::fs::openat2(tree.root(), place, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => return Ok(None),
            found => found.attempt(&action)?,
        };
        let stat = rustix::fs::fstat(&found).attempt(&action)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        let opened = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).attempt(&action)?;
        let mut file = File::from(opened);
        let mut bytes = Vec::new();
        let read = (&mut file)
            .take(MAX_BYTES + 1)
            .read_to_end(&mut bytes)
            .attempt(&action)?;
        if read as u64 > MAX_BYTES {
            return Err(Failure::Refused(format!("`/{place}` is larger than {MAX_BYTES} bytes")));
        }
        Ok(Some(Self { file, stat, bytes }))
    }

    fn find(&self, block: &[u8]) -> Option<usize> {
        // Only where a line ends can a block begin.
        let mut starts = (0..self.bytes.len()).filter(|at| self.bytes[*at] == b'\n');
        starts.find(|at| self.bytes[*at..].starts_with(block))
    }

    /// Writes the bytes back. The time stays: nobody is to see that the file was touched.
    fn write(&mut self) -> Result<(), Failure> {
        let action = "write certificates";
        std::io::Seek::rewind(&mut self.file).attempt(action)?;
        self.file.write_all(&self.bytes).attempt(action)?;
        self.file.set_len(self.bytes.len() as u64).attempt(action)?;
        let time = |seconds, nanoseconds: u64| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
        };
        let times = Timestamps {
            last_access: time(self.stat.st_atime, self.stat.st_atime_nsec),
            last_modification: time(self.stat.st_mtime, self.stat.st_mtime_nsec),
        };
        rustix::fs::futimens(&self.file, &times).attempt(action)
    }
}

/// Makes the file where its directory is; returns whether it did.
fn make(tree: &Tree, place: &'static str, block: &[u8]) -> Result<Option<&'static str>, Failure> {
    let action = format!("make `/{place}`");
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::openat2(tree.root(), place, flags, Mode::from_raw_mode(0o644), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::EXIST | Errno::ROFS) => Ok(None),
        made => {
            let mut file = File::from(made.attempt(&action)?);
            file.write_all(block).attempt(&action)?;
            Ok(Some(place))
        }
    }
}

/// Shows `bytes` at [`BUNDLE`].
fn offer(tree: &Tree, bytes: &[u8]) -> Result<(), Failure> {
    let (directory, name) = BUNDLE.rsplit_once('/').unwrap_or(("/", BUNDLE));
    let size = (bytes.len() + (64 << 10)).to_string();
    let mount: OwnedFd = new_mount("tmpfs", &[("mode", "0755"), ("size", &size)], NOSUID | NODEV | NOEXEC)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&mount, name, flags, Mode::from_raw_mode(0o644)).attempt("make certificates")?;
    File::from(file).write_all(bytes).attempt("write certificates")?;
    set_attributes(&mount, RDONLY).attempt("set the options of a mount")?;
    let reached = tree
        .reach(directory, Want::Dir)
        .attempt("reach the place of certificates")?;
    attach_at(&mount, &reached.fd).attempt("mount certificates")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tree(dir: &Path) -> Tree {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Tree::new(rustix::fs::open(dir, flags, Mode::empty()).unwrap()).unwrap()
    }

    fn add(tree: &Tree, place: &'static str, block: &[u8]) -> Trusted {
        let mut there = Certificates::open(tree, place).unwrap().unwrap();
        there.bytes.extend_from_slice(block);
        there.write().unwrap();
        Trusted {
            block: block.to_vec(),
            places: vec![place],
        }
    }

    #[test]
    fn what_is_taken_away_again_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PLACES[0]);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "image").unwrap();
        let before = std::fs::metadata(&path).unwrap().modified().unwrap();
        let tree = tree(dir.path());
        let trusted = add(&tree, PLACES[0], b"\nours\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"image\nours\n");
        trusted.forget(&tree).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"image");
        assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), before);
    }

    #[test]
    fn what_the_step_adds_or_renews_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(PLACES[0]);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let tree = tree(dir.path());
        std::fs::write(&path, "image").unwrap();
        let trusted = add(&tree, PLACES[0], b"\nours\n");
        std::fs::write(&path, "image\nours\nof the step\n").unwrap();
        trusted.forget(&tree).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"imageof the step\n");
        let trusted = add(&tree, PLACES[0], b"\nours\n");
        std::fs::write(&path, "renewed\n").unwrap();
        trusted.forget(&tree).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"renewed\n");
    }

    #[test]
    fn a_file_that_was_made_for_them_goes_with_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc/ssl/certs")).unwrap();
        let tree = tree(dir.path());
        assert_eq!(make(&tree, PLACES[1], b"\nours\n").unwrap(), None);
        assert_eq!(make(&tree, PLACES[0], b"\nours\n").unwrap(), Some(PLACES[0]));
        let trusted = Trusted {
            block: b"\nours\n".to_vec(),
            places: vec![PLACES[0]],
        };
        trusted.forget(&tree).unwrap();
        assert!(!dir.path().join(PLACES[0]).exists());
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::write(&outside, "theirs").unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc/ssl/certs")).unwrap();
        std::os::unix::fs::symlink("../../../../outside", root.join(PLACES[0])).unwrap();
        assert!(Certificates::open(&tree(&root), PLACES[0]).unwrap().is_none());
    }
}
