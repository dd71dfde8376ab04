//! The root filesystem of a step as a directory of its own: layers copied over each other.
//!
//! A tree is made once and then changed into what the next step needs: layers that it lacks are laid over it, and what the last step
//! changed is made anew from them. So a chain of steps copies its base once. What a step changes is *moved* out of the tree, into
//! the directory that becomes its layer, and comes back as a copy when a later step runs on that layer.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cache::budget::Charge;
use cache::remove::remove_tree;
use proto::tree::RelPath;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::copy;
use super::nodes::{Nodes, Print};
use crate::layer::lower::{open_directory, open_root, stat_below};

/// Most threads that copy.
const MOST_COPIERS: usize = 8;
/// Files that one of them takes at once.
const BATCH: usize = 64;
/// Between two looks at the clock of the file system.
const TICK: Duration = Duration::from_micros(500);

/// A tree, and what is known of it.
#[derive(Debug)]
pub(super) struct WorkTree {
    /// Holds the tree, and beside it what comes and goes with steps.
    dir: PathBuf,
    /// What it was made of, the base first.
    layers: Vec<PathBuf>,
    pub(super) nodes: Nodes,
    /// What is not as `nodes` say.
    pub(super) dirty: BTreeSet<RelPath>,
    /// What its files take of the store's budget.
    charge: Charge,
}

impl WorkTree {
    /// An empty tree in `dir`, which is made. What it will take on disk is taken from `charge`.
    ///
    /// # Errors
    /// What the file system reports.
    pub(super) fn new(dir: PathBuf, charge: Charge) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).create(&dir)?;
        builder.create(dir.join("root"))?;
        builder.create(dir.join("aside"))?;
        Ok(Self {
            dir,
            layers: Vec::new(),
            nodes: Nodes::default(),
            dirty: BTreeSet::new(),
            charge,
        })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory that a step sees as its root.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// What comes and goes with steps.
    pub(super) fn aside(&self) -> PathBuf {
        self.dir.join("aside")
    }

    /// How many of the layers `wanted` (the base first) it holds already; nothing if it holds another one.
    pub(super) fn holds(&self, wanted: &[PathBuf]) -> Option<usize> {
        wanted.starts_with(&self.layers).then_some(self.layers.len())
    }

    /// Makes it the merged view of `wanted`, which begins with the layers that it holds.
    ///
    /// # Errors
    /// What the file system reports; the tree is good for nothing then.
    pub(super) fn become_view_of(&mut self, wanted: &[PathBuf]) -> io::Result<()> {
        let is_new = self.layers.is_empty();
        let layers: Vec<OwnedFd> = wanted.iter().map(|dir| open_root(dir)).collect::<io::Result<_>>()?;
        for (number, layer) in layers.iter().enumerate().skip(self.layers.len()) {
            self.nodes.apply(layer, number, &RelPath::root())?;
        }
        self.charge.add(std::mem::take(&mut self.nodes.disk_bytes))?;
        self.layers = wanted.to_vec();
        let mut touched = std::mem::take(&mut self.nodes.touched);
        for path in std::mem::take(&mut self.dirty) {
            if let Some(node) = self.nodes.all.get_mut(&path) {
                node.print = None;
            }
            touched.insert(path);
        }
        let root = open_root(&self.root())?;
        let view = View {
            nodes: &self.nodes,
            layers: &layers,
            top: RelPath::root(),
            dest: &root,
        };
        if !is_new {
            view.clear(&touched)?;
        }
        let remade = view.make(&touched)?;
        self.note(&root, &remade)
    }

    /// Notes how what was made looks now, and waits until the clock of the file system has gone on: whatever changes from then on,
    /// changes later than that.
    fn note(&mut self, root: &OwnedFd, remade: &BTreeSet<RelPath>) -> io::Result<()> {
        let mut last = (0, 0);
        for path in remade {
            let print = Print::of(&stat_below(root, path)?);
            last = last.max(print.changed);
            if let Some(node) = self.nodes.all.get_mut(path) {
                node.print = Some(print);
            }
        }
        let clock = self.dir.join("clock");
        loop {
            std::fs::write(&clock, b"tick")?;
            let now = Print::of(&rustix::fs::stat(&clock)?).changed;
            if now > last {
                return Ok(());
            }
            std::thread::sleep(TICK);
        }
    }
}

/// Makes what is at and below `top` in the merged view of `layers` (the base first) as `name` in the directory `at`: a directory
/// or a file. Returns whether it is a directory; nothing if there is nothing.
///
/// # Errors
/// What the file system reports.
pub(super) fn copy_part(layers: &[PathBuf], top: &RelPath, at: &OwnedFd, name: &str) -> io::Result<Option<bool>> {
    let layers: Vec<OwnedFd> = layers.iter().map(|dir| open_root(dir)).collect::<io::Result<_>>()?;
    let mut nodes = Nodes::default();
    for (number, layer) in layers.iter().enumerate() {
        nodes.apply(layer, number, top)?;
    }
    let Some(node) = nodes.all.get(top) else {
        return Ok(None);
    };
    if !node.is_dir {
        let parent = open_directory(&layers[node.layer], &top.parent().unwrap_or_default())?;
        let from = OsStr::from_bytes(top.name().unwrap_or_default());
        copy::entry(parent.as_fd(), at.as_fd(), from, name.as_ref())?;
        return Ok(Some(false));
    }
    rustix::fs::mkdirat(at, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dest = rustix::fs::openat(at, name, flags, Mode::empty())?;
    let view = View {
        nodes: &nodes,
        layers: &layers,
        top: top.clone(),
        dest: &dest,
    };
    view.make(&nodes.touched)?;
    Ok(Some(true))
}

/// A merged view that is made in a directory.
struct View<'a> {
    nodes: &'a Nodes,
    layers: &'a [OwnedFd],
    /// What the directory stands for.
    top: RelPath,
    dest: &'a OwnedFd,
}

impl View<'_> {
    /// Where a path of the view is in the directory.
    fn place(&self, path: &RelPath) -> RelPath {
        path.below(&self.top).unwrap_or_default()
    }

    /// Removes what is in the way of `touched`.
    fn clear(&self, touched: &BTreeSet<RelPath>) -> io::Result<()> {
        for path in touched {
            let Some((parent, name)) = path.parent().zip(path.name()) else {
                continue;
            };
            let parent = match open_directory(self.dest, &self.place(&parent)) {
                Ok(parent) => parent,
                // Gone with something above it.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error.into()),
            };
            let name = OsStr::from_bytes(name);
            let stays = self.nodes.all.get(path).is_some_and(|node| node.is_dir)
                && rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| super::nodes::is_dir(&stat));
            if !stays {
                remove_tree(&parent, name)?;
            }
        }
        Ok(())
    }

    /// Makes all of `touched` that the view has. Returns everything that looks different now.
    fn make(&self, touched: &BTreeSet<RelPath>) -> io::Result<BTreeSet<RelPath>> {
        let mut files: Vec<&RelPath> = Vec::new();
        let mut remade = BTreeSet::new();
        for path in touched {
            // A directory in which something came or went has another time.
            for above in std::iter::successors(path.parent(), RelPath::parent) {
                if !above.is_inside(&self.top) || !remade.insert(above) {
                    break;
                }
            }
            match self.nodes.all.get(path) {
                Some(node) if node.is_dir && !self.place(path).is_root() => self.directory(path)?,
                Some(node) if !node.is_dir => files.push(path),
                _ => {}
            }
            remade.insert(path.clone());
        }
        remade.retain(|path| self.nodes.all.contains_key(path));
        self.files(&files)?;
        for path in remade.iter().rev() {
            if let Some(node) = self.nodes.all.get(path).filter(|node| node.is_dir) {
                let stat = stat_below(&self.layers[node.layer], path)?;
                let directory = open_directory(self.dest, &self.place(path))?;
                copy::finish(&directory, &stat, &[])?;
            }
        }
        Ok(remade)
    }

    fn directory(&self, path: &RelPath) -> io::Result<()> {
        let place = self.place(path);
        let parent = open_directory(self.dest, &place.parent().unwrap_or_default())?;
        match rustix::fs::mkdirat(&parent, OsStr::from_bytes(place.name().unwrap_or_default()), Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Copies files, several at a time.
    fn files(&self, files: &[&RelPath]) -> io::Result<()> {
        let batches: Vec<&[&RelPath]> = files.chunks(BATCH).collect();
        let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.batch(batch) {
                    next.store(batches.len(), Ordering::Relaxed);
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            }
        };
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let copiers = processors.min(MOST_COPIERS).min(batches.len());
        std::thread::scope(|scope| {
            for _ in 1..copiers {
                scope.spawn(work);
            }
            work();
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(()), Err)
    }

    fn batch(&self, files: &[&RelPath]) -> io::Result<()> {
        let mut last: Option<(usize, RelPath, OwnedFd, OwnedFd)> = None;
        for path in files {
            let (Some(node), Some(name)) = (self.nodes.all.get(path), path.name()) else {
                continue;
            };
            let parent = path.parent().unwrap_or_default();
            if !last
                .as_ref()
                .is_some_and(|(layer, directory, ..)| *layer == node.layer && *directory == parent)
            {
                let from = open_directory(&self.layers[node.layer], &parent)?;
                let to = open_directory(self.dest, &self.place(&parent))?;
                last = Some((node.layer, parent, from, to));
            }
            if let Some((_, _, from, to)) = &last {
                let name = OsStr::from_bytes(name);
                copy::entry(from.as_fd(), to.as_fd(), name, name)?;
            }
        }
        Ok(())
    }
}

/// Removes a directory that nobody uses, in which steps may have left anything.
///
/// # Errors
/// What the file system reports.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let parent = dir.parent().unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, parent, flags, Mode::empty())?;
    remove_tree(&opened, dir.file_name().unwrap_or_default())
}
