//! Directories that survive builds: `RUN --mount=type=cache`, and who may use one at the same time.
//!
//! A mount's directory is named by a hash of its id and platform, so that no id is ever a path. A step takes all of its mounts
//! at once, in the order of their names: two steps that wait for each other's mounts cannot be. A new mount is filled beside
//! its place and renamed, so nobody ever sees half of one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cache::cache_mounts::{About, MountName};
use cache::lease::{Held, Lease};
use cache::store::Store;
use proto::definition::{ExecOp, MountAccess, MountKind, Sharing, VertexId};
use proto::digest::ContentDigest;
use proto::platform::Platform;
use tempfile::TempDir;
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::fill;
use super::work::BuildWork;
use crate::blocking;
use crate::ids::give;
use crate::layers::store_failed;
use crate::request::BuildError;
use crate::solve::Inputs;

/// The cache mounts of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CacheMounts {
    store: Arc<Store>,
    locks: Arc<Mutex<HashMap<MountName, Locks>>>,
}

/// The locks of one directory.
#[derive(Debug, Clone, Default)]
struct Locks {
    users: Arc<RwLock<()>>,
    /// Held while it is made and filled: users that share it wait for its first content, too.
    making: Arc<tokio::sync::Mutex<()>>,
}

/// What a step wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its identity.
    pub id: String,
    /// What the step runs on.
    pub platform: Platform,
    /// Who may use it at the same time.
    pub sharing: Sharing,
    /// Mode and owner of a new directory.
    pub access: MountAccess,
    /// Name of the step.
    pub step: String,
}

/// A cache mount that a step uses: nobody collects it meanwhile.
#[derive(Debug)]
pub struct CacheMount {
    name: MountName,
    store: Arc<Store>,
    _lease: Lease,
    _guard: Guard,
}

/// How long a mount is held, and against whom. Held, never looked into.
#[derive(Debug)]
enum Guard {
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Locked { _guard: OwnedRwLockWriteGuard<()> },
}

/// What taking a mount gave.
#[derive(Debug)]
pub enum Taken {
    /// It was there.
    Ready(CacheMount),
    /// It is to be made.
    New(Box<NewMount>),
}

/// A mount that is being made; dropped, it never was.
#[derive(Debug)]
pub struct NewMount {
    mount: CacheMount,
    directory: TempDir,
    about: About,
    _making: OwnedMutexGuard<()>,
}

impl CacheMounts {
    /// The cache mounts of `store`.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            locks: Arc::default(),
        }
    }

    /// Takes a mount, waiting for its other users if its sharing says so.
    ///
    /// # Errors
    /// A directory that cannot be made.
    pub async fn take(&self, wanted: &Wanted) -> Result<Taken, BuildError> {
        let name = name_of(&wanted.platform, &wanted.id);
        let (name, guard) = match wanted.sharing {
            Sharing::Shared => {
                let guard = self.locks(name).users.read_owned().await;
                (name, Guard::Shared { _guard: guard })
            }
            Sharing::Locked => {
                let guard = self.locks(name).users.write_owned().await;
                (name, Guard::Locked { _guard: guard })
            }
            Sharing::Private => self.first_free(name)?,
        };
        let lease = self.store.lease();
        // Held first, then looked at: so it is not collected in between.
        lease.hold(Held::CacheMount(name));
        let mount = CacheMount {
            name,
            store: Arc::clone(&self.store),
            _lease: lease,
            _guard: guard,
        };
        let making = self.locks(name).making.lock_owned().await;
        if mount.path().is_dir() {
            return Ok(Taken::Ready(mount));
        }
        let directory = self.make(wanted.access)?;
        let about = About {
            id: wanted.id.clone(),
            platform: wanted.platform.to_string(),
            created_ms: self.store.index().now_ms(),
            step: wanted.step.clone(),
        };
        Ok(Taken::New(Box::new(NewMount {
            mount,
            directory,
            about,
            _making: making,
        })))
    }

    /// The first copy that nobody uses: each is a mount of its own.
    fn first_free(&self, name: MountName) -> Result<(MountName, Guard), BuildError> {
        for copy in 0..u32::MAX {
            let name = name.copy(copy);
            if let Ok(guard) = self.locks(name).users.try_write_owned() {
                return Ok((name, Guard::Locked { _guard: guard }));
            }
        }
        Err(BuildError::bug("there are more copies of a cache mount than numbers"))
    }

    fn locks(&self, name: MountName) -> Locks {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.entry(name).or_default().clone()
    }

    fn make(&self, access: MountAccess) -> Result<TempDir, BuildError> {
        use rustix::fs::Mode;
        let directory = tempfile::Builder::new()
            .prefix("cache-mount-")
            .tempdir_in(self.store.tmp_dir())
            .map_err(|error| store_failed(&error))?;
        give(directory.path(), access.uid, access.gid).map_err(|error| store_failed(&error))?;
        rustix::fs::chmod(directory.path(), Mode::from_raw_mode(access.mode)).map_err(|error| store_failed(&error))?;
        Ok(directory)
    }
}

fn name_of(platform: &Platform, id: &str) -> MountName {
    MountName::new(ContentDigest::of(format!("{platform}\0{id}").as_bytes()))
}

impl CacheMount {
    /// Its directory.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.store.cache_mounts().path(self.name)
    }
}

impl Drop for CacheMount {
    fn drop(&mut self) {
        // It was noted when the step began, which may be hours ago.
        self.store.cache_mounts().touch(self.name);
    }
}

impl NewMount {
    /// Where its first content goes.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Puts it into its place, as it is now.
    ///
    /// # Errors
    /// A store that cannot be written.
    pub fn finish(self) -> Result<CacheMount, BuildError> {
        let mounts = self.mount.store.cache_mounts();
        mounts
            .publish(self.mount.name, self.directory.path(), &self.about)
            .map_err(|error| store_failed(&error))?;
        // It is no longer where the guard would look for it.
        let _moved = self.directory.keep();
        Ok(self.mount)
    }
}

/// The cache mounts of one step.
#[derive(Debug, Default)]
pub struct StepMounts(BTreeMap<MountName, CacheMount>, Option<Platform>);

impl StepMounts {
    /// Takes all cache mounts of the step `id`, and fills those that are new.
    ///
    /// # Errors
    /// Directories that cannot be made or filled; cancellation.
    pub async fn take(work: &BuildWork, id: VertexId, exec: &ExecOp, inputs: &Inputs) -> Result<Self, BuildError> {
        let vertex = work.definition.vertex(id);
        let mut taken = Self(BTreeMap::new(), Some(vertex.platform.clone()));
        for (name, (wanted, from)) in wanted(exec, &vertex.platform, &vertex.name) {
            let mount = tokio::select! {
                () = work.job.cancel.cancelled() => return Err(BuildError::canceled()),
                // Steps that wait for each other need no processor.
                mount = work.slot.lend(work.job.host.cache_mounts.take(&wanted)) => mount?,
            };
            let mount = match mount {
                Taken::Ready(mount) => mount,
                Taken::New(new) => {
                    if let Some((from, source)) = from {
                        fill::directory(work, from, &source, inputs, new.path()).await?;
                    }
                    blocking::run(move || new.finish()).await?
                }
            };
            taken.0.insert(name, mount);
        }
        Ok(taken)
    }

    /// The directory of the mount `id`, if it is one of the step's.
    #[must_use]
    pub fn path(&self, id: &str) -> Option<PathBuf> {
        let name = name_of(self.1.as_ref()?, id);
        Some(self.0.get(&name)?.path())
    }
}

/// Each mount once, however often the step names it, for the strictest use, in the order in which they are taken.
fn wanted(exec: &ExecOp, platform: &Platform, step: &str) -> BTreeMap<MountName, (Wanted, Option<(VertexId, String)>)> {
    let mut all: BTreeMap<MountName, (Wanted, Option<(VertexId, String)>)> = BTreeMap::new();
    for mount in &exec.mounts {
        let MountKind::Cache {
            id,
            sharing,
            from,
            access,
            ..
        } = &mount.kind
        else {
            continue;
        };
        let (known, filled) = all.entry(name_of(platform, id)).or_insert_with(|| {
            let wanted = Wanted {
                id: id.clone(),
                platform: platform.clone(),
                sharing: *sharing,
                access: *access,
                step: step.to_owned(),
            };
            (wanted, None)
        });
        if strictness(*sharing) > strictness(known.sharing) {
            known.sharing = *sharing;
        }
        if filled.is_none() {
            filled.clone_from(from);
        }
    }
    all
}

fn strictness(sharing: Sharing) -> u8 {
    match sharing {
        Sharing::Shared => 0,
        Sharing::Private => 1,
        Sharing::Locked => 2,
    }
}

#[cfg(test)]
mod tests {
    use cache::store::Options;
    use proto::definition::{Mount, Network, Security};

    use super::*;

    struct Bench {
        _root: TempDir,
        mounts: CacheMounts,
    }

    fn bench() -> Bench {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(&root.path().join("store"), &Options::new(Arc::new(|| 1))).unwrap();
        Bench {
            _root: root,
            mounts: CacheMounts::new(Arc::new(store)),
        }
    }

    fn access() -> MountAccess {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        MountAccess { mode: 0o755, uid, gid }
    }

    fn want(id: &str, arch: &str, sharing: Sharing) -> Wanted {
        Wanted {
            id: id.to_owned(),
            platform: Platform::new("linux", arch, ""),
            sharing,
            access: access(),
            step: "RUN make".to_owned(),
        }
    }

    impl Bench {
        /// Takes a mount and says whether it was made.
        async fn take(&self, id: &str, arch: &str, sharing: Sharing) -> (CacheMount, bool) {
            match self.mounts.take(&want(id, arch, sharing)).await.unwrap() {
                Taken::Ready(mount) => (mount, false),
                Taken::New(new) => (new.finish().unwrap(), true),
            }
        }
    }

    #[tokio::test]
    async fn ids_and_platforms_have_directories_of_their_own() {
        let bench = bench();
        let (first, first_new) = bench.take("../../etc", "amd64", Sharing::Shared).await;
        let (again, again_new) = bench.take("../../etc", "amd64", Sharing::Shared).await;
        let (other, other_new) = bench.take("../../etc", "arm64", Sharing::Shared).await;
        assert_eq!((first_new, again_new, other_new), (true, false, true));
        assert_eq!(first.path(), again.path());
        assert_ne!(first.path(), other.path());
        assert!(first.path().starts_with(bench.mounts.store.root().join("cachemounts")));
        let about = bench.mounts.store.cache_mounts().about(other.name).unwrap();
        assert_eq!(
            (about.id.as_str(), about.platform.as_str()),
            ("../../etc", "linux/arm64")
        );
        assert_eq!(about.step, "RUN make");
    }

    #[tokio::test]
    async fn private_mounts_are_never_shared_and_are_used_again() {
        let bench = bench();
        let (first, _) = bench.take("a", "amd64", Sharing::Private).await;
        let (second, _) = bench.take("a", "amd64", Sharing::Private).await;
        assert_ne!(first.path(), second.path());
        let path = first.path();
        drop(first);
        assert_eq!(bench.take("a", "amd64", Sharing::Private).await.0.path(), path);
    }

    #[tokio::test]
    async fn a_locked_mount_waits_for_its_user() {
        let bench = bench();
        let (first, _) = bench.take("a", "amd64", Sharing::Locked).await;
        let other = bench.mounts.clone();
        let waiting = tokio::spawn(async move {
            match other.take(&want("a", "amd64", Sharing::Locked)).await.unwrap() {
                Taken::Ready(mount) => mount.path(),
                Taken::New(_) => panic!("it was made before"),
            }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        let path = first.path();
        drop(first);
        assert_eq!(waiting.await.unwrap(), path);
    }

    #[tokio::test]
    async fn who_shares_a_new_mount_waits_for_its_first_content() {
        let bench = bench();
        let Taken::New(new) = bench.mounts.take(&want("a", "amd64", Sharing::Shared)).await.unwrap() else {
            panic!("nobody made it")
        };
        let other = bench.mounts.clone();
        let waiting = tokio::spawn(async move {
            match other.take(&want("a", "amd64", Sharing::Shared)).await.unwrap() {
                Taken::Ready(mount) => std::fs::read(mount.path().join("file")).unwrap(),
                Taken::New(_) => panic!("somebody makes it"),
            }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        std::fs::write(new.path().join("file"), "whole").unwrap();
        assert!(!new.mount.path().exists(), "nothing is there before all is");
        drop(new.finish().unwrap());
        assert_eq!(waiting.await.unwrap(), b"whole");
    }

    #[tokio::test]
    async fn a_mount_that_could_not_be_filled_is_made_again() {
        let bench = bench();
        let Taken::New(new) = bench.mounts.take(&want("a", "amd64", Sharing::Locked)).await.unwrap() else {
            panic!("nobody made it")
        };
        std::fs::write(new.path().join("half"), "").unwrap();
        drop(new);
        let (mount, is_new) = bench.take("a", "amd64", Sharing::Locked).await;
        assert!(is_new);
        assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(bench.mounts.store.tmp_dir()).unwrap().count(), 0);
    }

    fn exec(mounts: &[(&str, Sharing)]) -> ExecOp {
        let mount = |(id, sharing): &(&str, Sharing)| Mount {
            target: format!("/{id}"),
            kind: MountKind::Cache {
                id: (*id).to_owned(),
                sharing: *sharing,
                from: None,
                writable: true,
                access: access(),
            },
        };
        ExecOp {
            root: None,
            args: Vec::new(),
            env: Vec::new(),
            build_args: Vec::new(),
            proxy_env: Vec::new(),
            cwd: String::new(),
            user: String::new(),
            mounts: mounts.iter().map(mount).collect(),
            network: Network::Default,
            security: Security::Sandbox,
            devices: Vec::new(),
            hostname: None,
            extra_hosts: Vec::new(),
            shm_size_bytes: None,
            script: None,
        }
    }

    #[test]
    fn mounts_are_taken_once_and_in_one_order_however_a_step_names_them() {
        use Sharing::{Locked, Private, Shared};
        let check = |mounts: &[(&str, Sharing)]| {
            let wanted = wanted(&exec(mounts), &Platform::new("linux", "amd64", ""), "RUN x");
            let shown = wanted.into_values().map(|(wanted, _)| (wanted.id, wanted.sharing));
            shown.collect::<Vec<_>>()
        };
        let ab = check(&[("a", Locked), ("b", Locked)]);
        assert_eq!(ab, check(&[("b", Locked), ("a", Locked)]));
        assert_eq!(ab.len(), 2);
        assert_eq!(check(&[("a", Locked), ("a", Locked)]), [("a".to_owned(), Locked)]);
        assert_eq!(check(&[("a", Shared), ("a", Locked)]), [("a".to_owned(), Locked)]);
        assert_eq!(check(&[("a", Private), ("a", Shared)]), [("a".to_owned(), Private)]);
    }
}
