//! Directories that survive builds: `RUN --mount=type=cache`.
//!
//! A mount's directory is named by a hash of its id and platform, so that no id is ever a path.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use proto::definition::{MountAccess, Sharing};
use proto::digest::ContentDigest;
use proto::platform::Platform;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::request::BuildError;

/// The cache mounts of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CacheMounts {
    root: PathBuf,
    locks: Arc<Mutex<HashMap<String, Arc<RwLock<()>>>>>,
}

/// A cache mount that a step uses.
#[derive(Debug)]
pub struct CacheMount {
    /// Its directory.
    pub path: PathBuf,
    /// Whether it was made just now, and may be filled.
    pub is_new: bool,
    _guard: Guard,
}

/// How long a mount is held, and against whom. Held, never looked into.
#[derive(Debug)]
enum Guard {
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Locked { _guard: OwnedRwLockWriteGuard<()> },
}

impl CacheMounts {
    /// Cache mounts below `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            locks: Arc::default(),
        }
    }

    /// Takes the mount `id`, waiting for its other users if `sharing` says so.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub async fn take(
        &self,
        id: &str,
        platform: &Platform,
        sharing: Sharing,
        access: MountAccess,
    ) -> Result<CacheMount, BuildError> {
        let name = ContentDigest::of(format!("{platform}\0{id}").as_bytes()).hex();
        match sharing {
            Sharing::Shared => {
                let guard = self.lock(&name).read_owned().await;
                self.open(&name, access, Guard::Shared { _guard: guard })
            }
            Sharing::Locked => {
                let guard = self.lock(&name).write_owned().await;
                self.open(&name, access, Guard::Locked { _guard: guard })
            }
            Sharing::Private => {
                // The first free copy: each is a mount of its own that nobody else uses at the same time.
                for copy in 0u32.. {
                    let name = if copy == 0 {
                        name.clone()
                    } else {
                        format!("{name}-{copy}")
                    };
                    if let Ok(guard) = self.lock(&name).try_write_owned() {
                        return self.open(&name, access, Guard::Locked { _guard: guard });
                    }
                }
                Err(BuildError::bug("there are more copies of a cache mount than numbers"))
            }
        }
    }

    fn lock(&self, name: &str) -> Arc<RwLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(name.to_owned()).or_default())
    }

    fn open(&self, name: &str, access: MountAccess, guard: Guard) -> Result<CacheMount, BuildError> {
        use rustix::fs::{Gid, Mode, Uid};
        let path = self.root.join(name);
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            BuildError::environment(format!("cannot {what} cache mount `{}`: {error}", path.display()))
        };
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(CacheMount {
                path,
                is_new: false,
                _guard: guard,
            }),
            Err(error) => Err(failed("make", &error)),
            Ok(()) => {
                let owner = (Some(Uid::from_raw(access.uid)), Some(Gid::from_raw(access.gid)));
                rustix::fs::chown(&path, owner.0, owner.1).map_err(|error| failed("own", &error))?;
                let mode = Mode::from_raw_mode(access.mode);
                rustix::fs::chmod(&path, mode).map_err(|error| failed("set the mode of", &error))?;
                Ok(CacheMount {
                    path,
                    is_new: true,
                    _guard: guard,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: MountAccess = MountAccess {
        mode: 0o755,
        uid: 0,
        gid: 0,
    };

    fn mounts(root: &tempfile::TempDir) -> CacheMounts {
        CacheMounts::new(root.path().to_owned())
    }

    fn owned_by_me() -> MountAccess {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        MountAccess { uid, gid, ..ACCESS }
    }

    #[tokio::test]
    async fn ids_and_platforms_have_directories_of_their_own() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mounts(&root);
        let (amd64, arm64) = (Platform::new("linux", "amd64", ""), Platform::new("linux", "arm64", ""));
        let first = mounts
            .take("../../etc", &amd64, Sharing::Shared, owned_by_me())
            .await
            .unwrap();
        let again = mounts
            .take("../../etc", &amd64, Sharing::Shared, owned_by_me())
            .await
            .unwrap();
        let other = mounts
            .take("../../etc", &arm64, Sharing::Shared, owned_by_me())
            .await
            .unwrap();
        assert_eq!((first.is_new, again.is_new, other.is_new), (true, false, true));
        assert_eq!(first.path, again.path);
        assert_ne!(first.path, other.path);
        assert!(first.path.starts_with(root.path()));
    }

    #[tokio::test]
    async fn private_mounts_are_never_shared_and_are_used_again() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mounts(&root);
        let platform = Platform::new("linux", "amd64", "");
        let first = mounts
            .take("a", &platform, Sharing::Private, owned_by_me())
            .await
            .unwrap();
        let second = mounts
            .take("a", &platform, Sharing::Private, owned_by_me())
            .await
            .unwrap();
        assert_ne!(first.path, second.path);
        let path = first.path.clone();
        drop(first);
        assert_eq!(
            mounts
                .take("a", &platform, Sharing::Private, owned_by_me())
                .await
                .unwrap()
                .path,
            path
        );
    }

    #[tokio::test]
    async fn a_locked_mount_waits_for_its_user() {
        let root = tempfile::tempdir().unwrap();
        let mounts = mounts(&root);
        let platform = Platform::new("linux", "amd64", "");
        let first = mounts
            .take("a", &platform, Sharing::Locked, owned_by_me())
            .await
            .unwrap();
        let (other, access) = (mounts.clone(), owned_by_me());
        let waiting =
            tokio::spawn(async move { other.take("a", &platform, Sharing::Locked, access).await.unwrap().path });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let path = first.path.clone();
        drop(first);
        assert_eq!(waiting.await.unwrap(), path);
    }
}
