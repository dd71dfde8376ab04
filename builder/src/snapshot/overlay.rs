//! Snapshots as directories in overlay format, one per layer; the kernel merges them.
//!
//! ```text
//! <root>/<64 hex digits of the chain>/fs      the layer
//! <root>/<64 hex digits of the chain>/synced  it is durable
//! <root>/<64 hex digits of the chain>/unsynced-<boot>  it is not, and was committed in this run of the kernel
//! <root>/active-<n>/{fs,work}                 being written
//! <root>/removed-<n>                          being removed
//! ```
//!
//! A rename makes a snapshot appear and disappear as a whole. A rename may reach the disk before the bytes do, so only the mark
//! `synced`, given after a sync of the file system, says that the snapshot survives a power cut. Without it the next owner keeps the
//! snapshot only if the kernel runs on, and with it everything that was written; else it removes it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use cache::budget::Budget;
use cache::durable::{Faults, NoFaults, Step};
use cache::remove::{disk_bytes, remove_tree};
use proto::digest::{ChainId, Digest};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::rootfs::{Rootfs, Upper};
use super::{Active, SnapshotError, SnapshotInfo, Snapshotter};
use crate::notes;

const SYNCED: &str = "synced";
const UNSYNCED: &str = "unsynced-";

/// Snapshots below one directory.
#[derive(Debug)]
pub struct OverlaySnapshotter {
    root: PathBuf,
    fd: OwnedFd,
    next: AtomicU64,
    /// Committed since the last sync.
    unsynced: Mutex<BTreeSet<ChainId>>,
    budget: Option<Arc<Budget>>,
    faults: Arc<dyn Faults>,
    boot_id: Option<String>,
}

/// A snapshot that nobody finds any more; nothing if there was none. Not removed, it goes when the store is opened again.
#[derive(Debug)]
#[must_use]
pub struct Hidden(Option<PathBuf>);

impl OverlaySnapshotter {
    /// Opens the snapshots in `root`, an absolute path, and makes the directory if it is missing. Only we may enter it: layers
    /// hold setuid programs.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn open(root: &Path) -> Result<Self, SnapshotError> {
        let failed = store(root);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(&failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        Ok(Self {
            root: root.to_owned(),
            fd,
            next: AtomicU64::new(0),
            unsynced: Mutex::default(),
            budget: None,
            faults: Arc::new(NoFaults),
            boot_id: None,
        })
    }

    /// The same snapshots, within `budget`.
    #[must_use]
    pub fn within(self, budget: Arc<Budget>) -> Self {
        Self {
            budget: Some(budget),
            ..self
        }
    }

    /// The same snapshots, with `faults` told of every step that gives a directory its name or makes it durable.
    #[must_use]
    pub fn telling(self, faults: Arc<dyn Faults>) -> Self {
        Self { faults, ..self }
    }

    /// The same snapshots, in the run of the kernel that `boot_id` names: what a process that died in it left is whole.
    #[must_use]
    pub fn on_boot(self, boot_id: Option<String>) -> Self {
        Self {
            boot_id: boot_id.map(|id| id.replace('/', "_")),
            ..self
        }
    }

    /// The name of the mark of what is not durable.
    fn unsynced_mark(&self) -> String {
        format!("{UNSYNCED}{}", self.boot_id.as_deref().unwrap_or("unknown"))
    }

    fn dir(&self, chain: &ChainId) -> PathBuf {
        self.root.join(chain.0.hex())
    }

    fn lowers(&self, parents: &[ChainId]) -> Result<Vec<PathBuf>, SnapshotError> {
        if let Some(missing) = parents.iter().find(|parent| !self.contains(parent)) {
            return Err(SnapshotError::Missing(*missing));
        }
        Ok(parents.iter().rev().map(|parent| self.layer_dir(parent)).collect())
    }

    /// A name that nobody uses.
    fn unused(&self, kind: &str) -> PathBuf {
        self.root
            .join(format!("{kind}-{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    fn make_active(&self) -> Result<PathBuf, SnapshotError> {
        loop {
            let dir = self.unused("active");
            self.before(Step::MakeDir(&dir))?;
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => return Ok(dir),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(store(&dir)(error)),
            }
        }
    }

    /// When a snapshot was committed, in milliseconds since 1970; 0 if that cannot be found out.
    #[must_use]
    pub fn committed_ms(&self, chain: &ChainId) -> u64 {
        let modified = std::fs::metadata(self.dir(chain)).and_then(|facts| facts.modified());
        // It only orders what is collected: one that vanished meanwhile may be as old as it likes.
        let age = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }

    /// Takes a committed snapshot out of sight: quick, however large it is.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn hide(&self, chain: &ChainId) -> Result<Hidden, SnapshotError> {
        Ok(Hidden(self.rename(&self.dir(chain), "removed")?))
    }

    /// Removes what was hidden.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn remove_hidden(&self, Hidden(hidden): Hidden) -> Result<(), SnapshotError> {
        let Some(hidden) = hidden else { return Ok(()) };
        let name = hidden.file_name().unwrap_or_default();
        self.before(Step::Remove(&hidden))?;
        remove_tree(&self.fd, name).map_err(store(&hidden))
    }

    /// Gives a directory another name, of which nobody knows; nothing if there is no such directory.
    fn rename(&self, dir: &Path, kind: &str) -> Result<Option<PathBuf>, SnapshotError> {
        loop {
            let renamed = self.unused(kind);
            self.before(Step::Rename {
                from: dir,
                to: &renamed,
            })?;
            match rustix::fs::renameat_with(CWD, dir, CWD, &renamed, RenameFlags::NOREPLACE) {
                Ok(()) => return Ok(Some(renamed)),
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(store(dir)(error.into())),
            }
        }
    }

    /// Out of sight at once, then removed.
    fn discard(&self, dir: &Path) -> Result<(), SnapshotError> {
        let hidden = Hidden(self.rename(dir, "removed")?);
        self.remove_hidden(hidden)
    }

    /// Takes what the snapshot holds from the budget, before it gets a name.
    fn charge(&self, active: &Active) -> io::Result<()> {
        let Some(budget) = &self.budget else { return Ok(()) };
        budget.charge(match active.disk_bytes {
            Some(counted) => counted,
            None => disk_bytes(&self.fd, active.dir.file_name().unwrap_or_default())?,
        })
    }

    fn name(&self, active: &Active, chain: &ChainId) -> Result<(), SnapshotError> {
        let dir = active.dir.as_path();
        let work = dir.join("work");
        // overlayfs leaves directories without any permission in it.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(dir, flags, Mode::empty());
        let opened = opened.map_err(|error| store(dir)(error.into()))?;
        remove_tree(&opened, "work".as_ref()).map_err(store(&work))?;
        self.charge(active).map_err(store(dir))?;
        let mark = dir.join(self.unsynced_mark());
        self.before(Step::CreateTemp(&mark))?;
        std::fs::File::create(&mark).map_err(store(&mark))?;
        let target = self.dir(chain);
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        self.before(Step::Rename { from: dir, to: &target })?;
        match rustix::fs::renameat_with(CWD, dir, CWD, &target, RenameFlags::NOREPLACE) {
            Ok(()) => {
                unsynced.insert(*chain);
                Ok(())
            }
            Err(Errno::EXIST) => {
                drop(unsynced);
                self.discard(dir)
            }
            Err(error) => Err(store(&target)(error.into())),
        }
    }

    fn before(&self, step: Step<'_>) -> Result<(), SnapshotError> {
        self.faults.before(step).map_err(store(&self.root))
    }

    /// All committed snapshots in order of their names.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn chains(&self) -> Result<Vec<ChainId>, SnapshotError> {
        Ok(self.names()?.iter().filter_map(chain_of).collect())
    }

    /// Names of what is being written or removed.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn others(&self) -> Result<Vec<String>, SnapshotError> {
        let names = self.names()?.into_iter().filter(|name| chain_of(name).is_none());
        Ok(names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    /// Removes what [`OverlaySnapshotter::others`] named, and nobody uses.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn remove_other(&self, name: &str) -> Result<(), SnapshotError> {
        let path = self.root.join(name);
        self.before(Step::Remove(&path))?;
        remove_tree(&self.fd, name.as_ref()).map_err(store(&path))
    }

    /// A writable directory on `lower`, topmost first.
    fn prepare_on(&self, lower: Vec<PathBuf>) -> Result<Active, SnapshotError> {
        let dir = self.make_active()?;
        fill_active(&dir, lower.first()).map_err(store(&dir))?;
        let upper = dir.join("fs");
        Ok(Active {
            rootfs: Rootfs::Overlay {
                lower,
                upper: Some(Upper {
                    dir: upper.clone(),
                    work: dir.join("work"),
                }),
            },
            upper,
            disk_bytes: None,
            dir,
        })
    }

    fn names(&self) -> Result<Vec<OsString>, SnapshotError> {
        let failed = store(&self.root);
        let entries = std::fs::read_dir(&self.root).map_err(&failed)?;
        let mut names: Vec<OsString> = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()
            .map_err(&failed)?;
        names.sort();
        Ok(names)
    }
}

fn store(path: &Path) -> impl Fn(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Store {
        path: path.clone(),
        source,
    }
}

/// The chain that a directory is named after; nothing for all other names.
fn chain_of(name: &OsString) -> Option<ChainId> {
    let digest: Digest = format!("sha256:{}", name.to_str()?).parse().ok()?;
    Some(ChainId(digest))
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// `fs` and `work`, the former with the root directory's owner and mode of the layer below.
fn fill_active(dir: &Path, below: Option<&PathBuf>) -> io::Result<()> {
    let upper = dir.join("fs");
    std::fs::DirBuilder::new().mode(0o755).create(&upper)?;
    std::fs::DirBuilder::new().mode(0o700).create(dir.join("work"))?;
    let (mode, uid, gid) = match below {
        Some(below) => {
            let metadata = std::fs::metadata(below)?;
            (metadata.mode(), metadata.uid(), metadata.gid())
        }
        // Said again on purpose: the umask of whoever started us must not get into a layer.
        None => (0o755, 0, 0),
    };
    if let Some(below) = below {
        let noted = match notes::are_kept() {
            true => notes::owner(open_dir(below)?)?,
            false => None,
        };
        let (uid, gid) = noted.unwrap_or((uid, gid));
        notes::give_to(open_dir(&upper)?, uid, gid)?;
    }
    Ok(rustix::fs::chmod(&upper, Mode::from_raw_mode(mode))?)
}

impl Snapshotter for OverlaySnapshotter {
    fn contains(&self, chain: &ChainId) -> bool {
        self.layer_dir(chain).is_dir()
    }

    fn layer_dir(&self, chain: &ChainId) -> PathBuf {
        self.dir(chain).join("fs")
    }

    fn prepare(&self, parents: &[ChainId]) -> Result<Active, SnapshotError> {
        self.prepare_on(self.lowers(parents)?)
    }

    fn keep(&self, active: Active, into: &Path) -> Result<(), SnapshotError> {
        let to = self.kept_dir(into);
        let moved = self
            .before(Step::Rename {
                from: &active.upper,
                to: &to,
            })
            .and_then(|()| std::fs::rename(&active.upper, &to).map_err(store(&to)));
        let discarded = self.discard(&active.dir);
        moved.and(discarded)
    }

    fn kept_dir(&self, kept: &Path) -> PathBuf {
        kept.join("fs")
    }

    fn prepare_on_kept(&self, parents: &[ChainId], kept: &Path) -> Result<Active, SnapshotError> {
        let mut lower = self.lowers(parents)?;
        lower.insert(0, self.kept_dir(kept));
        self.prepare_on(lower)
    }

    fn commit(&self, active: Active, chain: &ChainId) -> Result<(), SnapshotError> {
        let named = self.name(&active, chain);
        if named.is_err()
            && let Err(error) = self.discard(&active.dir)
        {
            tracing::warn!(%error, "a snapshot that cannot be kept stays until the next start");
        }
        named
    }

    fn abandon(&self, active: Active) -> Result<(), SnapshotError> {
        self.discard(&active.dir)
    }

    fn view(&self, parents: &[ChainId]) -> Result<Rootfs, SnapshotError> {
        Ok(Rootfs::Overlay {
            lower: self.lowers(parents)?,
            upper: None,
        })
    }

    fn list(&self) -> Result<Vec<SnapshotInfo>, SnapshotError> {
        let mut found = Vec::new();
        for name in self.names()? {
            if let Some(chain) = chain_of(&name) {
                match disk_bytes(&self.fd, &name) {
                    Ok(disk_bytes) => found.push(SnapshotInfo { chain, disk_bytes }),
                    // Removed while we looked.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(store(&self.root.join(&name))(error)),
                }
            }
        }
        Ok(found)
    }

    fn remove(&self, chain: &ChainId) -> Result<(), SnapshotError> {
        self.discard(&self.dir(chain))
    }

    fn set_aside(&self, chain: &ChainId) -> Result<Hidden, SnapshotError> {
        Ok(Hidden(self.rename(&self.dir(chain), "damaged")?))
    }

    fn sync(&self) -> Result<(), SnapshotError> {
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        if unsynced.is_empty() {
            return Ok(());
        }
        self.before(Step::SyncFs)?;
        rustix::fs::syncfs(&self.fd).map_err(|error| store(&self.root)(error.into()))?;
        for chain in unsynced.iter().filter(|chain| self.contains(chain)) {
            let dir = self.dir(chain);
            let (from, to) = (dir.join(self.unsynced_mark()), dir.join(SYNCED));
            self.before(Step::Rename { from: &from, to: &to })?;
            match std::fs::rename(&from, &to) {
                // A sync that failed half-way gave it before; or the snapshot was removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed.map_err(store(&to))?,
            }
        }
        self.before(Step::SyncFs)?;
        // The marks themselves: without them the snapshots would not survive either.
        rustix::fs::syncfs(&self.fd).map_err(|error| store(&self.root)(error.into()))?;
        unsynced.clear();
        Ok(())
    }

    fn sweep(&self) -> Result<(), SnapshotError> {
        for name in self.names()? {
            let path = self.root.join(&name);
            match chain_of(&name) {
                Some(_) if path.join(SYNCED).exists() => {}
                Some(chain) if self.boot_id.is_some() && path.join(self.unsynced_mark()).exists() => {
                    let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
                    unsynced.insert(chain);
                }
                Some(_) => self.discard(&path)?,
                None => {
                    self.before(Step::Remove(&path))?;
                    remove_tree(&self.fd, &name).map_err(store(&path))?;
                }
            }
        }
        Ok(())
    }
}
