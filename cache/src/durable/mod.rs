//! The only code that writes files of the store: temporary file, rename, and what makes a rename last.
//!
//! A file is published in one of three ways. [`Sync::Now`] syncs the bytes, renames, and syncs the directory. [`Sync::Group`]
//! syncs nothing: the file waits in a pending group, visible to this process at once, until [`Disk::commit_group`] makes the
//! whole group durable with one `syncfs`. [`Sync::Never`] is for sealed files that no result depends on. The argument why a
//! crash between any two steps is harmless is in [`crate::store_format`]. Names are relative to the root and made by this crate
//! from digests, never from foreign text.

mod error;
mod faults;
mod temp;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::budget::{BLOCK_BYTES, Budget};
use crate::remove::remove_tree;
use crate::usage::there;

pub use error::WriteError;
pub use faults::{Faults, NoFaults, Step};
use temp::BeingWritten;
pub use temp::Temp;

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
    being_written: BeingWritten,
}

/// Where files are that have not reached their place yet.
#[derive(Debug, Default)]
struct Pending {
    group: u64,
    places: HashMap<String, u64>,
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
            being_written: Arc::default(),
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

    /// Who is told of every step.
    #[must_use]
    pub fn faults(&self) -> &Arc<dyn Faults> {
        &self.faults
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
                let dropped = self.root.join(name);
                self.faults.before(Step::Remove(&dropped))?;
                fs::remove_dir_all(dropped)?;
            }
        }
        Ok(())
    }

    /// Renames a pending group whose bytes are synced, so that whatever happens next, it is a durable one.
    fn settle_group(&self, pending: &str) -> io::Result<()> {
        let synced = pending.replacen(PENDING, SYNCED, 1);
        self.rename(&self.root.join(pending), &self.root.join(&synced))?;
        self.sync_dir(&self.root)?;
        self.put_in_place(&synced)
    }

    fn empty_tmp(&self) -> io::Result<()> {
        let tmp = self.root.join(TMP);
        self.make_dir(&tmp)?;
        let opened: OwnedFd = File::open(&tmp)?.into();
        for entry in fs::read_dir(&tmp)? {
            let entry = entry?;
            self.faults.before(Step::Remove(&entry.path()))?;
            // Among them is what steps wrote, so anything.
            remove_tree(&opened, &entry.file_name())?;
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
            self.rename(&entry.path(), &target)?;
        }
        self.faults.before(Step::Remove(&dir))?;
        fs::remove_dir(&dir)
    }

    /// Starts a file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(&self) -> Result<Temp, WriteError> {
        let path = self.root.join(TMP).join(self.unused("file"));
        Temp::create(path.clone(), &self.faults, &self.budget, &self.being_written)
            .map_err(|source| WriteError::new(&path, BLOCK_BYTES, source))
    }

    /// Whether the file `name` in [`TMP`] is one that is being written now.
    pub(crate) fn is_being_written(&self, name: &str) -> bool {
        lock(&self.being_written).contains(&self.root.join(TMP).join(name))
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
        self.faults.before(Step::SyncFile(&temp.path))?;
        temp.file.sync_data()?;
        let target = self.root.join(name);
        let parent = self.make_parent(&target)?;
        let mut pending = self.write_pending();
        self.rename(&temp.path, &target)?;
        temp.published = true;
        self.withdraw(&mut pending, name)?;
        drop(pending);
        self.sync_dir(&parent)
    }

    fn publish_pending(&self, mut temp: Temp, name: &str) -> io::Result<()> {
        let mut pending = self.write_pending();
        let target = self.pending_path(pending.group, name);
        self.make_parent(&target)?;
        self.rename(&temp.path, &target)?;
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
        self.rename(&temp.path, &target)?;
        temp.published = true;
        Ok(())
    }

    /// Takes the file `name` out of the group it waits in, and the group's directory with the last one. Returns whether it waited.
    fn withdraw(&self, pending: &mut Pending, name: &str) -> io::Result<bool> {
        let Some(group) = pending.places.remove(name) else {
            return Ok(false);
        };
        let removed = self.remove_if_there(&self.pending_path(group, name))?;
        self.drop_empty(pending, group)?;
        Ok(removed)
    }

    /// Removes the directory of a group of which nothing is left: no commit would look for it.
    fn drop_empty(&self, pending: &Pending, group: u64) -> io::Result<()> {
        if pending.places.values().any(|other| *other == group) {
            return Ok(());
        }
        let dir = self.root.join(self.group_name(PENDING, group));
        let mut files = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            files => files?,
        };
        if files.next().is_some() {
            return Ok(());
        }
        self.faults.before(Step::Remove(&dir))?;
        fs::remove_dir(dir)
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

    /// Writes a hint as the file `name`: in its place at once, never synced, and not counted by the budget.
    pub(crate) fn write_uncounted(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temp = self.root.join(TMP).join(self.unused(name));
        lock(&self.being_written).insert(temp.clone());
        let written = self.write_hint(&temp, &self.root.join(name), bytes);
        if written.is_err()
            && let Err(error) = self.remove_if_there(&temp)
        {
            tracing::debug!(%error, "a temporary file stays until the next start");
        }
        lock(&self.being_written).remove(&temp);
        written
    }

    fn write_hint(&self, temp: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
        self.faults.before(Step::CreateTemp(temp))?;
        let mut file = File::create_new(temp)?;
        self.faults.before(Step::Write(temp, bytes))?;
        file.write_all(bytes)?;
        self.rename(temp, target)
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
        let mut pending = self.write_pending();
        let waiting = pending.places.contains_key(name) && self.remove_if_there(&self.place(&pending, name))?;
        self.withdraw(&mut pending, name)?;
        let in_place = self.remove_if_there(&self.root.join(name))?;
        Ok(waiting || in_place)
    }

    /// Sets the file `name` aside because its bytes are wrong: from now on it is not there.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn set_aside(&self, name: &str) -> io::Result<()> {
        self.set_aside_if(name, |_| true).map(drop)
    }

    /// As [`Disk::set_aside`], if it is still the file that `facts` are of. Returns whether it was.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub(crate) fn set_aside_this(&self, name: &str, facts: &fs::Metadata) -> io::Result<bool> {
        let same = |found: &fs::Metadata| (found.dev(), found.ino()) == (facts.dev(), facts.ino());
        self.set_aside_if(name, same)
    }

    fn set_aside_if(&self, name: &str, wanted: impl Fn(&fs::Metadata) -> bool) -> io::Result<bool> {
        let target = self.root.join(quarantined(name));
        self.make_parent(&target)?;
        let mut pending = self.write_pending();
        let from = self.place(&pending, name);
        match fs::symlink_metadata(&from) {
            Ok(found) if wanted(&found) => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        tracing::warn!(file = name, "a file of the store is damaged and is set aside");
        self.rename(&from, &target)?;
        self.withdraw(&mut pending, name)?;
        Ok(true)
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

    /// Whether there is a file `name`.
    pub(crate) fn contains(&self, name: &str) -> io::Result<bool> {
        Ok(self.open_file(name)?.is_some())
    }

    /// The files below the directory `dir` of the root that are in their places, with their sizes in bytes, in order of their names.
    pub(crate) fn files(&self, dir: &str) -> io::Result<Vec<(String, u64)>> {
        let (mut found, mut left) = (Vec::new(), vec![dir.to_owned()]);
        while let Some(dir) = left.pop() {
            for entry in there(fs::read_dir(self.root.join(&dir)))?.into_iter().flatten() {
                let entry = entry?;
                let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
                match there(entry.metadata())? {
                    Some(facts) if facts.is_dir() => left.push(name),
                    Some(facts) => found.push((name, facts.len())),
                    None => {}
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Whether the directory `name` holds a group that this process will commit.
    pub(crate) fn owns_group(&self, name: &str) -> bool {
        let _no_commit = lock(&self.committing);
        let pending = self.read_pending();
        let groups = pending.places.values().chain([&pending.group]);
        groups.into_iter().any(|group| {
            [PENDING, SYNCED]
                .iter()
                .any(|state| self.group_name(state, *group) == name)
        })
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
        self.make_dir(&parent)?;
        Ok(parent)
    }

    /// Makes the directory `path` and those above it, if it is missing.
    pub(crate) fn make_dir(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        self.faults.before(Step::MakeDir(path))?;
        fs::create_dir_all(path)
    }

    /// Gives a file or a directory another name, replacing the file that had it.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.faults.before(Step::Rename { from, to })?;
        fs::rename(from, to)
    }

    fn remove_if_there(&self, path: &Path) -> io::Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        self.faults.before(Step::Remove(path))?;
        Ok(there(fs::remove_file(path))?.is_some())
    }

    /// Syncs `dir` and the directories above it, which may be new, up to the root.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        for dir in dir.ancestors().take_while(|dir| dir.starts_with(&self.root)) {
            self.faults.before(Step::SyncDir(dir))?;
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

/// Whether a directory of the root of that name holds a group.
pub(crate) fn is_group(name: &str) -> bool {
    name.starts_with(PENDING) || name.starts_with(SYNCED)
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
