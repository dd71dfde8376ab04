//! The only code that writes files of the store: temporary file, rename, and what makes a rename last.
//!
//! A file is published in one of three ways. [`Sync::Now`] syncs the bytes, renames, and syncs the directory. [`Sync::Group`]
//! syncs nothing: the file waits in a pending group, visible to this process at once, until [`Disk::commit_group`] makes the
//! whole group durable with one `syncfs`. [`Sync::Never`] is for sealed files that no result depends on. The argument why a
//! crash between any two steps is harmless is in [`crate::store_format`]. Names are relative to the root and made by this crate
//! from digests, never from foreign text.

mod error;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::budget::{BLOCK_BYTES, Budget};
use crate::remove::remove_tree;

pub use error::WriteError;

/// Directory of files that are being written.
pub const TMP: &str = "tmp";
/// Directory of files whose bytes were found to be wrong.
pub const QUARANTINE: &str = "quarantine";
const PENDING: &str = "pending-";
const SYNCED: &str = "synced-";

/// How durable a file has to be when publishing it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// It outlives a loss of power.
    Now,
    /// It outlives this process; a loss of power undoes it until the group is committed.
    Group,
    /// It outlives this process, is in its place at once, and is never waited for: a loss of power may leave anything of it. Only
    /// for files that say themselves whether they are whole, and that nothing else stands on.
    Never,
}

/// Steps of writing, each a place where a process can die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A directory is made.
    MakeDir,
    /// A temporary file is made.
    CreateTemp,
    /// Bytes are written.
    Write,
    /// The bytes of one file are synced.
    SyncFile,
    /// A file or group gets its name.
    Rename,
    /// A directory is synced.
    SyncDir,
    /// The whole file system is synced.
    SyncFs,
    /// A file is removed.
    Remove,
}

/// Told of every step before it happens; an error takes its place. Tests count and kill with it.
pub trait Faults: std::fmt::Debug + Send + std::marker::Sync {
    /// Lets `step` happen or not.
    ///
    /// # Errors
    /// The error that the step is to fail with.
    fn before(&self, step: Step) -> io::Result<()>;
}

/// No faults.
#[derive(Debug)]
pub struct NoFaults;

impl Faults for NoFaults {
    fn before(&self, _: Step) -> io::Result<()> {
        Ok(())
    }
}

/// The root directory as seen by everything that keeps files there.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    faults: Arc<dyn Faults>,
    boot_id: String,
    temp: AtomicU64,
    pending: RwLock<Pending>,
    committing: Mutex<()>,
    budget: Arc<Budget>,
}

/// Where files are that have not reached their place yet.
#[derive(Debug, Default)]
struct Pending {
    group: u64,
    places: HashMap<String, u64>,
}

/// A file that is being written; dropped, it never was.
#[derive(Debug)]
pub struct Temp {
    file: File,
    path: PathBuf,
    written: u64,
    /// What the budget counts for it.
    charged: u64,
    published: bool,
    faults: Arc<dyn Faults>,
    budget: Arc<Budget>,
}

impl Disk {
    /// Takes over the files below `root` and settles what earlier owners left: temporary files go, groups of this boot are
    /// made durable and put in place, groups of another boot are dropped, since a loss of power may have emptied them.
    ///
    /// `boot_id` names this run of the kernel; without one every group counts as of another boot.
    ///
    /// # Errors
    /// When the root cannot be read or written.
    pub fn open(root: &Path, boot_id: Option<&str>, faults: Arc<dyn Faults>) -> Result<Self, WriteError> {
        let disk = Self {
            root: root.to_owned(),
            faults,
            boot_id: boot_id.unwrap_or("unknown").replace('/', "_"),
            temp: AtomicU64::new(0),
            pending: RwLock::default(),
            committing: Mutex::default(),
            budget: Arc::default(),
        };
        disk.settle(boot_id.is_some())
            .map_err(|source| WriteError::new(root, 0, source))?;
        Ok(disk)
    }

    /// The root directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How much it may hold.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    fn settle(&self, known_boot: bool) -> io::Result<()> {
        self.empty_tmp()?;
        let own = format!("{PENDING}{}-", self.boot_id);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_by_key(|name| group_number(name));
        let of_this_boot = |name: &&String| known_boot && name.starts_with(&own);
        if names.iter().any(|name| of_this_boot(&name)) {
            self.sync_fs()?;
        }
        for name in &names {
            if name.starts_with(SYNCED) {
                self.put_in_place(name)?;
            } else if of_this_boot(&name) {
                self.settle_group(name)?;
            } else if name.starts_with(PENDING) {
                tracing::warn!(group = %name, "results of a run that ended with the machine are dropped");
                fs::remove_dir_all(self.root.join(name))?;
            }
        }
        Ok(())
    }

    /// Renames a pending group whose bytes are synced, so that whatever happens next, it is a durable one.
    fn settle_group(&self, pending: &str) -> io::Result<()> {
        let synced = pending.replacen(PENDING, SYNCED, 1);
        self.faults.before(Step::Rename)?;
        fs::rename(self.root.join(pending), self.root.join(&synced))?;
        self.sync_dir(&self.root)?;
        self.put_in_place(&synced)
    }

    fn empty_tmp(&self) -> io::Result<()> {
        let tmp = self.root.join(TMP);
        fs::create_dir_all(&tmp)?;
        let opened: OwnedFd = File::open(&tmp)?.into();
        for entry in fs::read_dir(&tmp)? {
            // Among them is what steps wrote, so anything.
            remove_tree(&opened, &entry?.file_name())?;
        }
        Ok(())
    }

    /// Moves the files of a durable group to their places; what is interrupted here is continued when the store is opened.
    fn put_in_place(&self, group: &str) -> io::Result<()> {
        let dir = self.root.join(group);
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().replace('+', "/");
            let target = self.root.join(&name);
            self.make_parent(&target)?;
            self.faults.before(Step::Rename)?;
            fs::rename(entry.path(), target)?;
        }
        self.faults.before(Step::Remove)?;
        fs::remove_dir(&dir)
    }

    /// Starts a file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(&self) -> Result<Temp, WriteError> {
        let path = self.root.join(TMP).join(self.unused("file"));
        let charged = self.budget.charge(BLOCK_BYTES);
        charged.map_err(|source| WriteError::new(&path, BLOCK_BYTES, source))?;
        let file = self
            .faults
            .before(Step::CreateTemp)
            .and_then(|()| File::create_new(&path));
        let file = file.map_err(|source| {
            self.budget.refund(BLOCK_BYTES);
            WriteError::new(&path, 0, source)
        })?;
        Ok(Temp {
            file,
            path,
            written: 0,
            charged: BLOCK_BYTES,
            published: false,
            faults: Arc::clone(&self.faults),
            budget: Arc::clone(&self.budget),
        })
    }

    /// A name in [`TMP`] that nobody uses.
    pub(crate) fn unused(&self, kind: &str) -> String {
        format!("{kind}-{}", self.temp.fetch_add(1, Ordering::Relaxed))
    }

    /// Gives `temp` its `name`, replacing what had it.
    ///
    /// # Errors
    /// When a step fails; then the name stands for what it stood for before.
    pub fn publish(&self, temp: Temp, name: &str, sync: Sync) -> Result<(), WriteError> {
        let (path, size) = (self.root.join(name), temp.written);
        let done = match sync {
            Sync::Now => self.publish_now(temp, name),
            Sync::Group => self.publish_pending(temp, name),
            Sync::Never => self.publish_unsynced(temp, name),
        };
        done.map_err(|source| WriteError::new(&path, size, source))
    }

    fn publish_now(&self, mut temp: Temp, name: &str) -> io::Result<()> {
        self.faults.before(Step::SyncFile)?;
        temp.file.sync_data()?;
        let target = self.root.join(name);
        let parent = self.make_parent(&target)?;
        let mut pending = self.write_pending();
        self.faults.before(Step::Rename)?;
        fs::rename(&temp.path, &target)?;
        temp.published = true;
        self.withdraw(&mut pending, name)?;
        drop(pending);
        self.sync_dir(&parent)
    }

    fn publish_pending(&self, mut temp: Temp, name: &str) -> io::Result<()> {
        let mut pending = self.write_pending();
        let target = self.pending_path(pending.group, name);
        self.make_parent(&target)?;
        self.faults.before(Step::Rename)?;
        fs::rename(&temp.path, &target)?;
        temp.published = true;
        let group = pending.group;
        if pending.places.get(name).is_some_and(|earlier| *earlier != group) {
            // Or the earlier file would come back when the store is opened again.
            self.withdraw(&mut pending, name)?;
        }
        pending.places.insert(name.to_owned(), group);
        Ok(())
    }

    fn publish_unsynced(&self, mut temp: Temp, name: &str) -> io::Result<()> {
        let target = self.root.join(name);
        self.make_parent(&target)?;
        self.faults.before(Step::Rename)?;
        fs::rename(&temp.path, &target)?;
        temp.published = true;
        Ok(())
    }

    /// Takes the file `name` out of the group it waits in, and the group's directory with the last one. Returns whether it waited.
    fn withdraw(&self, pending: &mut Pending, name: &str) -> io::Result<bool> {
        let Some(group) = pending.places.remove(name) else {
            return Ok(false);
        };
        let removed = remove_if_there(&self.pending_path(group, name))?;
        self.drop_empty(pending, group)?;
        Ok(removed)
    }

    /// Removes the directory of a group of which nothing is left: no commit would look for it.
    fn drop_empty(&self, pending: &Pending, group: u64) -> io::Result<()> {
        if pending.places.values().any(|other| *other == group) {
            return Ok(());
        }
        match fs::remove_dir(self.root.join(self.group_name(PENDING, group))) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Writes `bytes` as the file `name`.
    ///
    /// # Errors
    /// As [`Disk::publish`].
    pub fn write(&self, name: &str, bytes: &[u8], sync: Sync) -> Result<(), WriteError> {
        let mut temp = self.begin()?;
        temp.write_all(bytes)
            .map_err(|source| WriteError::new(&self.root.join(name), bytes.len() as u64, source))?;
        self.publish(temp, name, sync)
    }

    /// Makes everything durable that was published up to now. Syncs nothing if nothing is pending.
    ///
    /// # Errors
    /// When a step fails; the group stays visible, and opening the store settles it.
    pub fn commit_group(&self) -> Result<(), WriteError> {
        let _one_at_a_time = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = self.close_group() else {
            return Ok(());
        };
        self.commit_up_to(last)
            .map_err(|source| WriteError::new(&self.root, 0, source))
    }

    /// Whether something was published that a loss of power would undo.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.read_pending().places.is_empty()
    }

    /// Ends the current group, so that what is published from now on waits for the next commit. Returns its number.
    fn close_group(&self) -> Option<u64> {
        let mut pending = self.write_pending();
        if pending.places.is_empty() {
            return None;
        }
        let last = pending.group;
        pending.group += 1;
        Some(last)
    }

    fn commit_up_to(&self, last: u64) -> io::Result<()> {
        self.sync_fs()?;
        let mut pending = self.write_pending();
        let mut groups: Vec<u64> = pending
            .places
            .values()
            .copied()
            .filter(|group| *group <= last)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            let (from, to) = (self.group_name(PENDING, group), self.group_name(SYNCED, group));
            // A commit that failed half-way may have done the first part, or all but forgetting the group.
            if self.root.join(&from).exists() {
                self.settle_group(&from)?;
            } else if self.root.join(&to).exists() {
                self.sync_dir(&self.root)?;
                self.put_in_place(&to)?;
            }
            pending.places.retain(|_, at| *at != group);
        }
        Ok(())
    }

    /// Opens the file `name`, if there is one.
    ///
    /// # Errors
    /// Anything but its absence.
    pub fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        let pending = self.read_pending();
        let path = self.place(&pending, name);
        match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The bytes of the file `name`, if there is one and it has at most `limit` bytes.
    ///
    /// # Errors
    /// When it cannot be read or is larger: no file of ours is.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(name)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("`{name}` has more than {limit} bytes"),
            ));
        }
        Ok(Some(bytes))
    }

    /// Removes the file `name`. Returns whether there was one.
    ///
    /// # Errors
    /// When it is there and stays.
    pub fn remove(&self, name: &str) -> io::Result<bool> {
        self.faults.before(Step::Remove)?;
        let mut pending = self.write_pending();
        let waiting = pending.places.contains_key(name) && remove_if_there(&self.place(&pending, name))?;
        self.withdraw(&mut pending, name)?;
        let in_place = remove_if_there(&self.root.join(name))?;
        Ok(waiting || in_place)
    }

    /// Sets the file `name` aside because its bytes are wrong: from now on it is not there.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self, name: &str) -> io::Result<()> {
        tracing::warn!(file = name, "a file of the store is damaged and was set aside");
        let target = self.root.join(quarantined(name));
        self.make_parent(&target)?;
        let mut pending = self.write_pending();
        let from = self.place(&pending, name);
        self.faults.before(Step::Rename)?;
        match fs::rename(from, target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.withdraw(&mut pending, name)?;
        Ok(())
    }

    /// Whether a file of that name was set aside and not written again.
    #[must_use]
    pub fn is_set_aside(&self, name: &str) -> bool {
        self.root.join(quarantined(name)).exists()
    }

    /// Whether `name` waits for its group to be committed.
    #[must_use]
    pub fn is_pending(&self, name: &str) -> bool {
        self.read_pending().places.contains_key(name)
    }

    fn place(&self, pending: &Pending, name: &str) -> PathBuf {
        match pending.places.get(name) {
            Some(group) => {
                let waiting = self.pending_path(*group, name);
                // A failed commit leaves a group under its second name, or some of its files in their places.
                let moved = self
                    .root
                    .join(self.group_name(SYNCED, *group))
                    .join(name.replace('/', "+"));
                let candidates = [waiting, moved];
                candidates
                    .into_iter()
                    .find(|path| path.exists())
                    .unwrap_or_else(|| self.root.join(name))
            }
            None => self.root.join(name),
        }
    }

    fn pending_path(&self, group: u64, name: &str) -> PathBuf {
        self.root
            .join(self.group_name(PENDING, group))
            .join(name.replace('/', "+"))
    }

    fn group_name(&self, state: &str, group: u64) -> String {
        format!("{state}{}-{group}", self.boot_id)
    }

    fn make_parent(&self, path: &Path) -> io::Result<PathBuf> {
        let parent = path.parent().unwrap_or(&self.root).to_owned();
        if !parent.is_dir() {
            self.faults.before(Step::MakeDir)?;
            fs::create_dir_all(&parent)?;
        }
        Ok(parent)
    }

    /// Syncs `dir` and the directories above it, which may be new, up to the root.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        for dir in dir.ancestors().take_while(|dir| dir.starts_with(&self.root)) {
            self.faults.before(Step::SyncDir)?;
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }

    fn sync_fs(&self) -> io::Result<()> {
        self.faults.before(Step::SyncFs)?;
        Ok(rustix::fs::syncfs(File::open(&self.root)?)?)
    }

    fn read_pending(&self) -> RwLockReadGuard<'_, Pending> {
        self.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_pending(&self) -> RwLockWriteGuard<'_, Pending> {
        self.pending.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Temp {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.faults.before(Step::Write)?;
        let needed = self.written + bytes.len() as u64;
        if needed > self.charged {
            self.budget.charge(needed - self.charged)?;
            self.charged = needed;
        }
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Temp {
    /// Where the file is while it has no name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for what is no byte of it.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.published {
            self.budget.refund(self.charged);
        }
        // A killed process removes nothing; opening the store does. So a failure here is no loss either.
        if !self.published
            && self.faults.before(Step::Remove).is_ok()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "a temporary file stays until the next start");
        }
    }
}

/// Locks `mutex`; what it guards is never left half-changed by a panic here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn quarantined(name: &str) -> String {
    format!("{QUARANTINE}/{}", name.replace('/', "+"))
}

fn group_number(name: &str) -> u64 {
    name.rsplit('-')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
