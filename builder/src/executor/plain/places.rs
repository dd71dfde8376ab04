//! What a step finds in its root beside the image's own files, put there without a mount, and taken away again.
//!
//! Everything is made beside the tree first, then changes places with what the image has there: a rename each. The way back is
//! the same. A directory keeps the time that it had, or that the step gave it, so that none of this can be seen in a layer.
//!
//! A step can write to all of it, where a mount would have been read-only; what it writes is thrown away. Cache mounts are the one
//! thing that keeps it: what they hold is moved in, and moved back.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cache::remove::remove_tree;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use super::super::spec::{Attempt, Failure};
use super::super::target::{Tree, Want};
use super::lent::{self, Lent};
use super::supervisor::Printed;
use super::{Placed, Placement, PlainSpec, contents};

/// Mount points that stay in the layer where an image lacked them, as in all sandboxes.
const KEPT: [&str; 3] = ["dev", "proc", "sys"];

/// Everything that was put into the tree of one step.
pub(super) struct Places<'a> {
    tree: &'a Tree,
    aside: OwnedFd,
    /// The path of `aside`.
    path: PathBuf,
    lent: Lent,
    put: Vec<Put>,
    stubs: Vec<PathBuf>,
}

/// One thing in its place.
struct Put {
    parent: OwnedFd,
    name: OsString,
    /// Names of ours and of the image's, beside the tree.
    ours: String,
    theirs: String,
    end: End,
}

/// What becomes of a thing when it is taken back.
enum End {
    Discard,
    /// Its bytes are overwritten first.
    Wipe {
        file: File,
        length: u64,
    },
    /// What it holds goes back to this directory.
    Return(PathBuf),
}

impl<'a> Places<'a> {
    /// Nothing is in its place yet. What comes and goes is kept in `aside`, a directory on the same file system.
    pub(super) fn new(tree: &'a Tree, aside: OwnedFd, path: &Path) -> Self {
        Self {
            tree,
            aside,
            path: path.to_owned(),
            lent: Lent::default(),
            put: Vec::new(),
            stubs: Vec::new(),
        }
    }

    /// Puts everything of the step into its place. Returns the pipe that it prints to.
    pub(super) fn put(&mut self, spec: &PlainSpec) -> Result<Printed, Failure> {
        let (aside, make) = (self.aside.as_fd(), |error: Errno| std::io::Error::from(error));
        let printed = contents::dev(aside, "dev", &spec.process)?;
        contents::proc(&self.path.join("proc")).attempt("make `/proc`")?;
        rustix::fs::mkdirat(aside, "sys", Mode::from_raw_mode(0o555))
            .map_err(make)
            .attempt("make `/sys`")?;
        for name in KEPT {
            self.swap(&format!("/{name}"), name.to_owned(), Want::Dir, End::Discard)?;
        }
        let hosts = [("/etc/hosts", &spec.hosts), ("/etc/resolv.conf", &spec.resolv_conf)];
        for (target, text) in hosts {
            self.file(target, text.as_bytes(), (0o644, 0, 0), false)?;
        }
        for file in &spec.process.files {
            self.file(&file.path, &file.bytes, (file.mode, 0, 0), false)?;
        }
        for placement in &spec.placements {
            self.placement(placement)?;
        }
        Ok(printed)
    }

    fn placement(&mut self, Placement { target, placed }: &Placement) -> Result<(), Failure> {
        let action = format!("make `{target}`");
        match placed {
            Placed::Ready { name, is_dir } => {
                let want = if *is_dir { Want::Dir } else { Want::File };
                self.swap(target, name.clone(), want, End::Discard)
            }
            Placed::Empty { mode } => {
                let name = self.fresh();
                rustix::fs::mkdirat(&self.aside, &name, Mode::RWXU).attempt(&action)?;
                rustix::fs::chmodat(&self.aside, &name, Mode::from_raw_mode(*mode), AtFlags::empty())
                    .attempt(&action)?;
                self.swap(target, name, Want::Dir, End::Discard)
            }
            Placed::Secret { value, mode, uid, gid } => self.file(target, &value.0, (*mode, *uid, *gid), true),
            Placed::Socket { path } => {
                let name = self.fresh();
                rustix::fs::linkat(CWD, path, &self.aside, &name, AtFlags::empty()).attempt(&action)?;
                self.swap(target, name, Want::File, End::Discard)
            }
            Placed::Lent { path } => self.lend(target, path),
        }
    }

    /// Moves what `home` holds into its place.
    fn lend(&mut self, target: &str, home: &Path) -> Result<(), Failure> {
        let (name, action) = (self.fresh(), format!("lend `{}`", home.display()));
        rustix::fs::mkdirat(&self.aside, &name, Mode::RWXU).attempt(&action)?;
        let (from, to) = (
            open_dir(CWD, home).attempt(&action)?,
            open_dir(&self.aside, &name).attempt(&action)?,
        );
        // The place first, while it is empty: from then on the note says truly where to look for the content.
        self.swap(target, name, Want::Dir, End::Return(home.to_owned()))?;
        let place = fs::read_link(format!("/proc/self/fd/{}", to.as_raw_fd())).attempt(&action)?;
        self.lent.add(&place, home);
        self.lent.write(&self.path).attempt(&action)?;
        lent::move_all(&from, &to).attempt(&action)?;
        like(&from, &to).attempt(&action)
    }

    /// Puts a file there.
    fn file(
        &mut self,
        target: &str,
        bytes: &[u8],
        (mode, uid, gid): (u32, u32, u32),
        is_secret: bool,
    ) -> Result<(), Failure> {
        let (name, action) = (self.fresh(), format!("make `{target}`"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.aside, &name, flags, Mode::RUSR | Mode::WUSR).attempt(&action)?;
        let mut file = File::from(opened);
        if is_secret {
            self.lent.add_secret(&self.path.join(&name));
            self.lent.write(&self.path).attempt(&action)?;
        }
        file.write_all(bytes).attempt(&action)?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).attempt(&action)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).attempt(&action)?;
        let end = match is_secret {
            true => End::Wipe {
                file,
                length: bytes.len() as u64,
            },
            false => End::Discard,
        };
        self.swap(target, name, Want::File, end)
    }

    fn fresh(&self) -> String {
        format!("new-{}", self.put.len())
    }

    /// Lets `ours`, a name beside the tree, and what is at `target` change places. What is missing there is made first.
    fn swap(&mut self, target: &str, ours: String, want: Want, end: End) -> Result<(), Failure> {
        let unreachable = |error| Failure::Refused(format!("cannot make mount point `{target}`: {error}"));
        let reached = match self.deepest_above(target) {
            Some(above) => keeping_times(&above, || self.tree.reach(target, want)),
            None => self.tree.reach(target, want),
        };
        let reached = reached.map_err(unreachable)?;
        let kept = |stub: &PathBuf| KEPT.iter().any(|kept| stub == Path::new(kept));
        self.stubs
            .extend(reached.created.into_iter().filter(|stub| !kept(stub)));
        self.refuse_kernel(target, &reached.fd)?;
        let Some((parent, name)) = reached.place else {
            return Err(Failure::Refused(format!("cannot mount over the root at `{target}`")));
        };
        // A path of the kernel's: this one can be read and written, those of a walk cannot.
        let parent = open_dir(&parent, ".").attempt(&format!("open the parent of `{target}`"))?;
        let theirs = format!("theirs-{}", self.put.len());
        let swapped = keeping_times(&parent, || {
            rustix::fs::renameat(&parent, &name, &self.aside, &theirs)?;
            rustix::fs::renameat(&self.aside, &ours, &parent, &name)
        });
        self.put.push(Put {
            parent,
            name,
            ours,
            theirs,
            end,
        });
        swapped.attempt(&format!("put `{target}` into its place"))
    }

    /// The last directory on the way to `target` that is there: making a mount point in it shall not be seen in its time. Nothing
    /// for what stays in the layer anyway.
    fn deepest_above(&self, target: &str) -> Option<OwnedFd> {
        if KEPT.iter().any(|kept| Path::new(target) == Path::new("/").join(kept)) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let open = |path: &Path| rustix::fs::openat2(self.tree.root(), path, flags, Mode::empty(), resolve).ok();
        // A path that leads nowhere is refused by whoever walks it.
        Path::new(target).ancestors().skip(1).find_map(open)
    }

    /// Nothing is placed into what stands for the file systems of the kernel, or over them a second time.
    fn refuse_kernel(&self, target: &str, reached: &OwnedFd) -> Result<(), Failure> {
        if self.put.len() < KEPT.len() {
            return Ok(());
        }
        let name_of = |fd: BorrowedFd<'_>| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let (root, found) = (name_of(self.tree.root().as_fd()), name_of(reached.as_fd()));
        let (root, found) = (root.attempt("name the root")?, found.attempt("name a mount target")?);
        let is_kernel = ["proc", "sys"].iter().any(|name| found.starts_with(root.join(name)));
        if is_kernel || found == root.join("dev") {
            return Err(Failure::Refused(format!(
                "mount target `{target}` leads into a file system of the kernel"
            )));
        }
        Ok(())
    }

    /// Takes everything back, the last first. All of it is tried, whatever fails; the first failure is returned.
    pub(super) fn put_back(self) -> Result<(), Failure> {
        let mut result = Ok(());
        for put in self.put.into_iter().rev() {
            let taken = put.take_back(&self.aside);
            result = result.and(taken.attempt("put back what the image had"));
        }
        for stub in self.stubs.iter().rev() {
            result = result.and(remove_stub(self.tree.root(), stub).attempt("remove a mount point"));
        }
        result.and(Lent::forget(&self.path).attempt("forget what was lent"))
    }
}

impl Put {
    fn take_back(self, aside: &OwnedFd) -> std::io::Result<()> {
        let (parent, name) = (&self.parent, &self.name);
        // Whatever is there now: a step may have replaced it, where a mount point would have been busy.
        let moved = keeping_times(parent, || {
            let found = match rustix::fs::renameat(parent, name, aside, &self.ours) {
                Err(Errno::NOENT) => Ok(false),
                moved => moved.map(|()| true),
            };
            match rustix::fs::renameat_with(aside, &self.theirs, parent, name, RenameFlags::NOREPLACE) {
                // It never was moved away.
                Err(Errno::NOENT) => {}
                back => back?,
            }
            found
        });
        match self.end {
            End::Discard => {}
            End::Wipe { file, length } => {
                // Other names of it that a step made have nothing in them either.
                file.write_all_at(&vec![0; usize::try_from(length).unwrap_or_default()], 0)?;
                file.set_len(0)?;
            }
            End::Return(home) if moved? => {
                let home = open_dir(CWD, &home)?;
                // A step that put something else there has emptied it.
                if let Ok(from) = open_dir(aside, &self.ours) {
                    lent::move_all(&from, &home)?;
                    like(&from, &home)?;
                }
                return Ok(());
            }
            End::Return(_) => return Ok(()),
        }
        moved.map(drop).map_err(std::io::Error::from)
    }
}

/// A directory of ours, or one that was reached, for reading and moving.
fn open_dir<P: rustix::path::Arg>(at: impl AsFd, path: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

/// Gives `to` the owner and mode of `from`.
fn like(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

/// Does something in a directory whose time stays what it is.
fn keeping_times<T>(directory: &OwnedFd, change: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let stat = rustix::fs::fstat(directory)?;
    let changed = change();
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.cast_signed(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    rustix::fs::futimens(directory, &times)?;
    changed
}

/// Removes a mount point that was made for the step, unless the step has put something into it or in its place.
fn remove_stub(root: &OwnedFd, stub: &Path) -> Result<(), Errno> {
    let (Some(name), parent) = (stub.file_name(), stub.parent().unwrap_or(Path::new(""))) else {
        return Ok(());
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let removed = rustix::fs::openat2(root, parent, flags, Mode::empty(), resolve).and_then(|parent| {
        let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        keeping_times(&parent, || match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR),
            FileType::RegularFile if stat.st_size == 0 => rustix::fs::unlinkat(&parent, name, AtFlags::empty()),
            _ => Ok(()),
        })
    });
    match removed {
        Err(Errno::NOENT | Errno::NOTEMPTY | Errno::NOTDIR | Errno::LOOP) => Ok(()),
        removed => removed,
    }
}

/// Empties a directory of ours.
///
/// # Errors
/// What the file system reports.
pub(super) fn empty(directory: &Path) -> std::io::Result<()> {
    let opened = open_dir(CWD, directory)?;
    let names: Vec<OsString> = lent::names(&mut Dir::read_from(&opened)?)?;
    names.iter().try_for_each(|name| remove_tree(&opened, name))
}
