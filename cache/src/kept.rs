//! What failed steps left: for an hour somebody may look into it, then it goes.
//!
//! ```text
//! failed/<build>-<step>/…       as the snapshotter put it there
//! failed/<build>-<step>/record  which layers it lies on, and what the step had; sealed
//! failed/removed-<n>            being removed
//! ```
//!
//! A directory without a record is nobody's, and so is one of another run of the kernel: nothing in it was ever synced.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use prost::Message;
use proto::convert::{ConvertError, array};
use proto::digest::{DiffId, Digest};
use proto::v1;

use crate::durable::{Disk, Sync, WriteError};
use crate::index::Index;
use crate::lease::{Held, Leases};
use crate::remove::{disk_bytes, remove_tree};
use crate::sealed;
use crate::usage::there;

/// How long it is kept: an hour.
pub const KEPT_MS: u64 = 3_600_000;

const DIR: &str = "failed";
const RECORD: &str = "record";
const REMOVED: &str = "removed";
const MAX_RECORD: u64 = 16 << 20;

/// Names a step of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeptName {
    build: u128,
    step: u32,
}

/// A text that names no step of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no step of a build has this name")]
pub struct NotAKeptName;

impl KeptName {
    /// Step number `step` of the build `build`, 32 hex digits.
    ///
    /// # Errors
    /// Another id.
    pub fn new(build: &str, step: u32) -> Result<Self, NotAKeptName> {
        let is_id = build.len() == 32 && build.bytes().all(|byte| byte.is_ascii_hexdigit());
        let build = u128::from_str_radix(build, 16).map_err(|_| NotAKeptName)?;
        if is_id {
            Ok(Self { build, step })
        } else {
            Err(NotAKeptName)
        }
    }

    /// The id of the build.
    #[must_use]
    pub fn build(self) -> String {
        format!("{:032x}", self.build)
    }

    /// The number of the step.
    #[must_use]
    pub fn step(self) -> u32 {
        self.step
    }
}

impl fmt::Display for KeptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{}", self.build, self.step)
    }
}

impl FromStr for KeptName {
    type Err = NotAKeptName;

    fn from_str(text: &str) -> Result<Self, NotAKeptName> {
        let (build, step) = text.split_once('-').ok_or(NotAKeptName)?;
        Self::new(build, step.parse().map_err(|_| NotAKeptName)?)
    }
}

/// What a failed step left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptStep {
    /// Whose it is.
    pub name: KeptName,
    /// The step, as progress shows it.
    pub title: String,
    /// Since when, in milliseconds since 1970.
    pub kept_ms: u64,
    /// Allocated bytes.
    pub bytes: u64,
    /// Stacks of layers that must stay with it, base first: the one it lies on, then those that were mounted beside.
    pub stacks: Vec<Vec<DiffId>>,
    /// What else whoever kept it has to know.
    pub setup: Vec<u8>,
}

impl KeptStep {
    /// When it goes, in milliseconds since 1970.
    #[must_use]
    pub fn until_ms(&self) -> u64 {
        self.kept_ms.saturating_add(KEPT_MS)
    }
}

/// What failed steps of a store left.
#[derive(Debug)]
pub struct KeptSteps {
    disk: Arc<Disk>,
    index: Arc<Index>,
    leases: Arc<Leases>,
    boot_id: String,
}

impl KeptSteps {
    pub(crate) fn new(disk: &Arc<Disk>, index: &Arc<Index>, leases: &Arc<Leases>, boot_id: Option<&str>) -> Self {
        Self {
            disk: Arc::clone(disk),
            index: Arc::clone(index),
            leases: Arc::clone(leases),
            boot_id: boot_id.unwrap_or_default().to_owned(),
        }
    }

    /// The directory of `name`, whether it exists or not.
    #[must_use]
    pub fn dir(&self, name: KeptName) -> PathBuf {
        self.disk.root().join(DIR).join(name.to_string())
    }

    /// Makes the directory of `name`, empty: what is put there is kept once [`KeptSteps::put`] has recorded it.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn make_dir(&self, name: KeptName) -> io::Result<PathBuf> {
        self.take_away(name)?;
        let dir = self.dir(name);
        self.disk.make_dir(&dir)?;
        Ok(dir)
    }

    /// What the directory of `name` takes on disk.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn measure(&self, name: KeptName) -> io::Result<u64> {
        disk_bytes(&self.opened()?, name.to_string().as_ref())
    }

    /// Records what is in the directory of `step`, which counts in the budget of the store from now on.
    ///
    /// # Errors
    /// When it cannot be written, or the store may not be that large. Then it is not kept.
    pub fn put(&self, step: &KeptStep) -> Result<(), WriteError> {
        let name = record_name(&step.name.to_string());
        let charged = self.disk.budget().charge(step.bytes);
        charged.map_err(|source| WriteError::new(&self.dir(step.name), step.bytes, source))?;
        let stack = |stack: &Vec<DiffId>| v1::stored_kept::Stack {
            diff_ids: stack.iter().map(|diff_id| diff_id.0.as_bytes().to_vec()).collect(),
        };
        let stored = v1::StoredKept {
            title: step.title.clone(),
            kept_ms: step.kept_ms,
            bytes: step.bytes,
            stacks: step.stacks.iter().map(stack).collect(),
            setup: step.setup.clone(),
            boot_id: self.boot_id.clone(),
        };
        sealed::write(&self.disk, &name, stored.encode_to_vec(), Sync::Never)
    }

    /// What the step `name` left, unless its time is over.
    #[must_use]
    pub fn find(&self, name: KeptName) -> Option<KeptStep> {
        self.read(name).filter(|step| !self.is_over(step))
    }

    /// Everything there is, the oldest first, also what has to go.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<KeptStep>> {
        let names = self.names()?;
        let named = names.iter().filter_map(|name| name.parse().ok());
        let mut steps: Vec<KeptStep> = named.filter_map(|name| self.read(name)).collect();
        steps.sort_by_key(|step| (step.kept_ms, step.name));
        Ok(steps)
    }

    /// Whether its time is over. A clock that was set back ends it, too.
    #[must_use]
    pub fn is_over(&self, step: &KeptStep) -> bool {
        let now_ms = self.index.now_ms();
        now_ms >= step.until_ms() || now_ms.saturating_add(KEPT_MS) < step.kept_ms
    }

    /// Removes what is over.
    ///
    /// # Errors
    /// When the directory cannot be read. What cannot be removed is a line of the log.
    pub fn expire(&self) -> io::Result<()> {
        for step in self.list()?.iter().filter(|step| self.is_over(step)) {
            self.remove(step);
        }
        Ok(())
    }

    /// Removes the oldest until all take at most `bytes`.
    ///
    /// # Errors
    /// As [`KeptSteps::expire`].
    pub fn shrink_to(&self, bytes: u64) -> io::Result<()> {
        let steps = self.list()?;
        let mut left: u64 = steps.iter().map(|step| step.bytes).sum();
        for step in &steps {
            if left <= bytes {
                break;
            }
            if self.remove(step) {
                left -= step.bytes;
            }
        }
        Ok(())
    }

    /// Removes what `step` left, unless somebody looks into it. Returns whether it is gone.
    pub(crate) fn remove(&self, step: &KeptStep) -> bool {
        let removed = self
            .leases
            .unless_held(&[Held::Kept(step.name)], || self.take_away(step.name));
        match removed {
            Some(Ok(())) => {
                self.disk.budget().refund(step.bytes);
                true
            }
            Some(Err(error)) => {
                tracing::warn!(step = %step.name, %error, "what a failed step left cannot be removed");
                false
            }
            None => false,
        }
    }

    /// Removes the directory of `name`, if there is one.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn take_away(&self, name: KeptName) -> io::Result<()> {
        self.discard(&name.to_string())
    }

    /// Removes what nobody can look into: directories without a record, or of another run of the kernel, and what is over. To be
    /// called once, before anything else.
    ///
    /// # Errors
    /// What the file system reports.
    pub fn sweep(&self) -> io::Result<()> {
        for name in self.names()? {
            if name.starts_with(REMOVED) {
                remove_tree(&self.opened()?, name.as_ref())?;
                continue;
            }
            let step = name.parse().ok().and_then(|name| self.read(name));
            if step.is_none_or(|step| self.is_over(&step)) {
                self.discard(&name)?;
            }
        }
        Ok(())
    }

    /// Out of sight at once, then removed.
    fn discard(&self, name: &str) -> io::Result<()> {
        let root = self.disk.root().join(DIR);
        let hidden = self.disk.unused(REMOVED);
        match self.disk.rename(&root.join(name), &root.join(&hidden)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        remove_tree(&self.opened()?, hidden.as_ref())
    }

    fn opened(&self) -> io::Result<OwnedFd> {
        let opened = fs::File::open(self.disk.root().join(DIR))?;
        Ok(opened.into())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let entries = there(fs::read_dir(self.disk.root().join(DIR)))?;
        let names = entries.into_iter().flatten();
        names
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn read(&self, name: KeptName) -> Option<KeptStep> {
        let parse = |payload: Vec<u8>| v1::StoredKept::decode(payload.as_slice()).ok();
        let stored = sealed::read(&self.disk, &record_name(&name.to_string()), MAX_RECORD, parse)?;
        if self.boot_id.is_empty() || stored.boot_id != self.boot_id {
            return None;
        }
        let stack = |stack: v1::stored_kept::Stack| -> Result<Vec<DiffId>, ConvertError> {
            let ids = stack.diff_ids.iter();
            ids.map(|id| Ok(DiffId(Digest::from_bytes(array("diff_ids", id)?))))
                .collect()
        };
        let stacks: Result<_, ConvertError> = stored.stacks.into_iter().map(stack).collect();
        Some(KeptStep {
            name,
            title: stored.title,
            kept_ms: stored.kept_ms,
            bytes: stored.bytes,
            // Its checksum is right, so another version wrote it: it counts as absent.
            stacks: stacks.ok()?,
            setup: stored.setup,
        })
    }
}

fn record_name(name: &str) -> String {
    format!("{DIR}/{name}/{RECORD}")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::store::{Options, Store};

    const BUILD: &str = "0123456789abcdef0123456789abcdef";

    struct Bench {
        dir: tempfile::TempDir,
        now: Arc<AtomicU64>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                now: Arc::new(AtomicU64::new(1)),
            }
        }

        fn open(&self, boot_id: &str) -> Store {
            let now = Arc::clone(&self.now);
            let options = Options {
                boot_id: Some(boot_id.to_owned()),
                ..Options::new(Arc::new(move || now.load(Ordering::Relaxed)))
            };
            Store::open(&self.dir.path().join("store"), &options).unwrap()
        }
    }

    fn keep(store: &Store, number: u32, size: usize) -> KeptName {
        let name = KeptName::new(BUILD, number).unwrap();
        let dir = store.kept().make_dir(name).unwrap();
        fs::write(dir.join("file"), vec![1; size]).unwrap();
        let step = KeptStep {
            name,
            title: "[1/1] RUN make".to_owned(),
            kept_ms: store.index().now_ms(),
            bytes: store.kept().measure(name).unwrap(),
            stacks: vec![vec![DiffId(Digest::of(b"layer"))], Vec::new()],
            setup: b"setup".to_vec(),
        };
        store.kept().put(&step).unwrap();
        assert_eq!(store.kept().find(name), Some(step));
        name
    }

    #[test]
    fn names_are_those_of_builds_and_steps() {
        let name = KeptName::new(BUILD, 7).unwrap();
        assert_eq!(name.to_string(), format!("{BUILD}-7"));
        assert_eq!(name.to_string().parse(), Ok(name));
        assert_eq!((name.build().as_str(), name.step()), (BUILD, 7));
        for text in ["../etc-1", "removed-0", BUILD, "", &format!("+{}-1", &BUILD[1..])] {
            assert_eq!(text.parse::<KeptName>(), Err(NotAKeptName), "{text}");
        }
    }

    #[test]
    fn it_stays_for_an_hour_and_over_a_restart_and_not_longer() {
        let bench = Bench::new();
        let name = keep(&bench.open("boot"), 7, 1);
        bench.now.store(KEPT_MS, Ordering::Relaxed);
        let store = bench.open("boot");
        store.kept().sweep().unwrap();
        assert!(store.kept().find(name).is_some());
        bench.now.store(KEPT_MS + 1, Ordering::Relaxed);
        assert_eq!(store.kept().find(name), None, "also before anybody removed it");
        assert!(store.kept().dir(name).exists());
        store.kept().expire().unwrap();
        assert!(!store.kept().dir(name).exists());
    }

    #[test]
    fn what_nobody_can_look_into_is_swept() {
        let bench = Bench::new();
        let store = bench.open("boot");
        let name = keep(&store, 7, 1);
        let without_record = KeptName::new(BUILD, 8).unwrap();
        store.kept().make_dir(without_record).unwrap();
        let left = store.root().join("failed/removed-9");
        fs::create_dir(&left).unwrap();
        store.kept().sweep().unwrap();
        assert!(store.kept().find(name).is_some());
        assert!(!store.kept().dir(without_record).exists() && !left.exists());
        drop(store);
        let store = bench.open("another boot");
        store.kept().sweep().unwrap();
        assert!(!store.kept().dir(name).exists());
    }

    #[test]
    fn the_newest_stay_within_the_budget_and_what_is_used_stays_in_any_case() {
        let bench = Bench::new();
        let store = bench.open("boot");
        let names: Vec<KeptName> = (1..=3)
            .map(|number| {
                bench.now.store(u64::from(number), Ordering::Relaxed);
                keep(&store, number, 100_000)
            })
            .collect();
        let one = store.kept().find(names[0]).unwrap().bytes;
        let lease = store.lease();
        lease.hold(Held::Kept(names[0]));
        store.kept().shrink_to(2 * one).unwrap();
        let left = |name: &KeptName| store.kept().find(*name).is_some();
        assert_eq!(names.iter().map(left).collect::<Vec<_>>(), [true, false, true]);
        drop(lease);
        store.kept().shrink_to(0).unwrap();
        assert!(!names.iter().any(left));
    }
}
