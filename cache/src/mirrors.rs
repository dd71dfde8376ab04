//! Bare git repositories, one for each remote: a second build fetches only what is new. What is in them is git's business.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use proto::record::CacheKey;
use tokio::sync::{MutexGuard, OwnedRwLockReadGuard, RwLock};

use crate::durable::lock;
use crate::usage::{self, there};

/// Its time of modification is the time of last use.
const USED: &str = "rbuild-used";

/// The mirrors of a store. One process owns the store, so its locks are in memory.
#[derive(Debug)]
pub struct Mirrors {
    root: PathBuf,
    locks: Mutex<HashMap<String, Arc<Locks>>>,
}

#[derive(Debug, Default)]
struct Locks {
    /// Read by whoever uses the mirror, written by who removes it, without ever waiting: users wait for nobody here.
    users: Arc<RwLock<()>>,
    fetching: tokio::sync::Mutex<()>,
}

/// A mirror that is in use, and so not collected. Others may use it too.
#[derive(Debug)]
pub struct Mirror {
    path: PathBuf,
    locks: Arc<Locks>,
    _user: OwnedRwLockReadGuard<()>,
}

/// A mirror, as collection sees it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) last_use_ms: u64,
    pub(crate) in_use: bool,
}

impl Mirror {
    /// The directory; it exists, and is empty but for the mark of its use before the first fetch.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until nobody else writes to it. Whoever holds this takes no other mirror.
    pub async fn fetching(&self) -> MutexGuard<'_, ()> {
        self.locks.fetching.lock().await
    }
}

impl Mirrors {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            locks: Mutex::default(),
        }
    }

    /// The mirror of the remote that `key` names.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub async fn take(&self, key: CacheKey) -> io::Result<Mirror> {
        let name = key.to_string();
        let locks = self.locks_of(&name);
        let user = Arc::clone(&locks.users).read_owned().await;
        let path = self.root.join(name);
        fs::create_dir_all(&path)?;
        File::create(path.join(USED))?;
        Ok(Mirror {
            path,
            locks,
            _user: user,
        })
    }

    fn locks_of(&self, name: &str) -> Arc<Locks> {
        Arc::clone(lock(&self.locks).entry(name.to_owned()).or_default())
    }

    pub(crate) fn list(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in there(fs::read_dir(&self.root))?.into_iter().flatten() {
            let entry = entry?;
            let used = there(fs::metadata(entry.path().join(USED)))?;
            let age = used.and_then(|used| used.modified().ok()?.duration_since(UNIX_EPOCH).ok());
            let (_, bytes) = usage::walk(&entry.path(), &mut HashSet::new())?;
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push(Found {
                in_use: self.locks_of(&name).users.try_write().is_err(),
                name,
                bytes,
                // A mirror without its mark was never used.
                last_use_ms: age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            });
        }
        Ok(found)
    }

    /// Removes a mirror; false if somebody uses it.
    pub(crate) fn remove(&self, name: &str) -> io::Result<bool> {
        let locks = self.locks_of(name);
        let Ok(_alone) = locks.users.try_write() else {
            return Ok(false);
        };
        fs::remove_dir_all(self.root.join(name))?;
        Ok(true)
    }
}
