//! The trees of an engine: some that steps use, some that wait for a next step.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cache::budget::{Budget, Charge};
use rustix::fs::{FlockOperation, Mode, OFlags};

use super::lent::Lent;
use super::tree::{self, WorkTree};

/// Trees that are kept for a next step. Each may be as large as an image.
const MOST_IDLE: usize = 4;
/// How long a tree is kept that no step came for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Who holds this file shared works in one of the trees.
const LOCK: &str = "lock";

/// Trees below one directory.
#[derive(Debug)]
pub(super) struct Trees {
    dir: PathBuf,
    next: AtomicU64,
    idle: Mutex<Vec<(Instant, WorkTree)>>,
    budget: Arc<Budget>,
}

impl Trees {
    /// Opens `dir`, which is made if it is missing, once nobody works there any more. What a dead engine left is removed; before
    /// anything else, what it had lent to steps comes back and secrets are overwritten.
    ///
    /// # Errors
    /// What the file system reports.
    pub(super) fn open(dir: &Path, budget: Arc<Budget>) -> io::Result<Self> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::open(dir.join(LOCK), flags, Mode::RUSR | Mode::WUSR)?;
        // Supervisors of a dead engine end their steps first.
        rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))?;
        let left: Vec<PathBuf> = std::fs::read_dir(dir)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?;
        let left: Vec<PathBuf> = left.into_iter().filter(|path| path.is_dir()).collect();
        for dead in &left {
            Lent::return_all(&dead.join("aside"))?;
        }
        for dead in &left {
            tree::remove(dead)?;
        }
        Ok(Self {
            dir: dir.to_owned(),
            next: AtomicU64::new(0),
            idle: Mutex::default(),
            budget,
        })
    }

    /// What a supervisor holds while it works.
    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join(LOCK)
    }

    /// A tree that shows `layers`, the base first: the one that lacks least of it, or a new one. Blocks.
    ///
    /// # Errors
    /// What the file system reports.
    pub(super) fn take(&self, layers: &[PathBuf]) -> io::Result<WorkTree> {
        let mut tree = match self.best(layers) {
            Some(tree) => tree,
            None => self.make()?,
        };
        match tree.become_view_of(layers) {
            Ok(()) => Ok(tree),
            Err(error) => {
                self.discard(tree);
                Err(error)
            }
        }
    }

    fn best(&self, layers: &[PathBuf]) -> Option<WorkTree> {
        let mut idle = self.idle();
        let held = idle.iter().map(|(_, tree)| tree.holds(layers)).enumerate();
        let (best, _) = held
            .filter(|(_, held)| held.is_some_and(|held| held > 0))
            .max_by_key(|(_, held)| *held)?;
        Some(idle.swap_remove(best).1)
    }

    fn make(&self) -> io::Result<WorkTree> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        WorkTree::new(self.dir.join(number.to_string()), Charge::new(&self.budget))
    }

    /// Keeps a tree for a next step. Blocks.
    pub(super) fn keep(&self, tree: WorkTree) {
        let mut idle = self.idle();
        idle.push((Instant::now(), tree));
        let oldest = (0..idle.len()).min_by_key(|at| idle[*at].0);
        let surplus = oldest
            .filter(|_| idle.len() > MOST_IDLE)
            .map(|at| idle.swap_remove(at).1);
        drop(idle);
        surplus.into_iter().for_each(|tree| self.discard(tree));
    }

    /// Removes what has waited for longer than `patience`. Blocks.
    pub(super) fn expire(&self, patience: Duration) {
        let expired: Vec<WorkTree> = {
            let mut idle = self.idle();
            let (old, young) = std::mem::take(&mut *idle)
                .into_iter()
                .partition(|(since, _)| since.elapsed() >= patience);
            *idle = young;
            let old: Vec<(Instant, WorkTree)> = old;
            old.into_iter().map(|(_, tree)| tree).collect()
        };
        expired.into_iter().for_each(|tree| self.discard(tree));
    }

    /// Removes a tree. Blocks.
    pub(super) fn discard(&self, tree: WorkTree) {
        if let Err(error) = tree::remove(tree.dir()) {
            tracing::warn!(%error, path = %tree.dir().display(), "a tree of a step stays until the next start");
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Instant, WorkTree)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
