//! The store: one directory, one owner process, the parts of it handed out.
//!
//! Opening reads nothing but the version and the names in the root, however many records there are.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::answers::Answers;
use crate::blob::DiskBlobs;
use crate::budget::{Budget, Guess, Measured, Space};
use crate::builds::Builds;
use crate::cache_mounts::CacheMounts;
use crate::durable::{Disk, Faults, NoFaults, Sync, WriteError};
use crate::gc::{self, Filter, Freed, GcError, Item, Policy, SnapshotSweep};
use crate::history::Histories;
use crate::images::Images;
use crate::index::{Clock, Index};
use crate::kept::KeptSteps;
use crate::lease::{Lease, Leases, Moment};
use crate::mirrors::Mirrors;
use crate::records::DiskRecords;
use crate::store_format;
use crate::trees::Trees;
use crate::usage::{self, Row};
use crate::verify::{self, Event, Repair, SnapshotCheck, Summary, VerifyError};

/// Version of the tree on disk. A store of another major version is refused; see [`crate::store_format`].
pub const FORMAT: (u32, u32) = (1, 0);
/// How often a waiting process looks whether the store is free.
const POLL: Duration = Duration::from_millis(100);
/// Most bytes read of the small text files in the root.
const MAX_TEXT: u64 = 4096;

/// What the store takes from its surroundings.
#[derive(Clone)]
pub struct Options {
    /// The time, for last uses and the lock file.
    pub clock: Clock,
    /// Names this run of the kernel, see [`boot_id`]; without one, unsynced results of a killed server are dropped.
    pub boot_id: Option<String>,
    /// Told of every step of writing.
    pub faults: Arc<dyn Faults>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("boot_id", &self.boot_id)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// The kernel's boot ID, no faults, and the time from `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            boot_id: boot_id(),
            faults: Arc::new(NoFaults),
        }
    }
}

/// The ID of this run of the kernel, or nothing where it cannot be read: then less is kept after a kill, nothing is wrong.
#[must_use]
pub fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|id| !id.is_empty())
}

/// The process that has the store, as far as its lock file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owner {
    /// Its process ID; 0 if it did not get to write it.
    pub pid: u32,
    /// Since when, in milliseconds since 1970; 0 if not known.
    pub since_ms: u64,
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store `{root}` is in use by process {}", owner.pid)]
    Busy {
        /// The store.
        root: PathBuf,
        /// Who has it.
        owner: Owner,
    },
    /// The directory belongs to another user, who could change what we trust.
    #[error(
        "the store `{root}` belongs to user {found_uid}, not to user {own_uid}; use another directory, or `chown` it"
    )]
    Owner {
        /// The store.
        root: PathBuf,
        /// Whose it is.
        found_uid: u32,
        /// Who we are.
        own_uid: u32,
    },
    /// Others than its owner can read or write it.
    #[error("the store `{root}` is open to other users (mode {mode:o}); run `chmod 700 {root}`")]
    Permissions {
        /// The store.
        root: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There are files in it that no store has.
    #[error("`{root}` is not a store: it has no `VERSION`, but holds `{found}`; use an empty directory")]
    NotAStore {
        /// The directory.
        root: PathBuf,
        /// One of the files.
        found: String,
    },
    /// Written by a version that this one does not understand.
    #[error("the store `{root}` has format `{found}`, this version reads 1.x; use another directory, or remove it")]
    Version {
        /// The store.
        root: PathBuf,
        /// What it says.
        found: String,
    },
    /// The file system is full, or writing fails for another reason.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The system refuses something else.
    #[error("cannot open `{path}`")]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl OpenError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }
}

/// An open store. Dropped, it writes down last uses and is free for the next owner.
#[derive(Debug)]
pub struct Store {
    disk: Arc<Disk>,
    blobs: DiskBlobs,
    records: DiskRecords,
    trees: Trees,
    images: Images,
    answers: Answers,
    mirrors: Mirrors,
    histories: Histories,
    builds: Builds,
    cache_mounts: CacheMounts,
    kept: KeptSteps,
    index: Arc<Index>,
    leases: Arc<Leases>,
    // Last: everything else must have ended when the lock goes.
    _lock: File,
}

impl Store {
    /// Opens the store at `root`, made with mode 0700 if it is not there.
    ///
    /// # Errors
    /// [`OpenError::Busy`] if another process has it; otherwise what is wrong with the directory.
    pub fn open(root: &Path, options: &Options) -> Result<Self, OpenError> {
        Self::open_waiting(root, options, &mut |_| false)
    }

    /// Opens the store; while another process has it, `wait` is asked every 100 ms whether to go on waiting.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_waiting(
        root: &Path,
        options: &Options,
        wait: &mut dyn FnMut(Owner) -> bool,
    ) -> Result<Self, OpenError> {
        let root = make_root(root)?;
        let lock = take_lock(&root, options, wait)?;
        let found = read_version(&root)?;
        let disk = Arc::new(Disk::open(
            &root,
            options.boot_id.as_deref(),
            Arc::clone(&options.faults),
        )?);
        if found.is_none() {
            let text = format!("rbuild store {}.{}\n", FORMAT.0, FORMAT.1);
            disk.write("VERSION", text.as_bytes(), Sync::Now)?;
        }
        let store = Self::assemble(disk, lock, options);
        for dir in [store.snapshots_dir(), store.root().join("cachemounts")] {
            store.disk.make_dir(&dir).map_err(OpenError::io(&dir))?;
        }
        Ok(store)
    }

    fn assemble(disk: Arc<Disk>, lock: File, options: &Options) -> Self {
        let index = Arc::new(Index::new(disk.root().join("index"), Arc::clone(&options.clock)));
        let leases = Arc::new(Leases::new(Arc::clone(&index)));
        Self {
            blobs: DiskBlobs::new(Arc::clone(&disk)),
            records: DiskRecords::new(Arc::clone(&disk), Arc::clone(&index)),
            trees: Trees::new(Arc::clone(&disk)),
            images: Images::new(Arc::clone(&disk)),
            answers: Answers::new(Arc::clone(&disk)),
            histories: Histories::new(Arc::clone(&disk)),
            builds: Builds::new(Arc::clone(&disk)),
            mirrors: Mirrors::new(disk.root().join("mirrors")),
            cache_mounts: CacheMounts::new(Arc::clone(&disk), Arc::clone(&index)),
            kept: KeptSteps::new(&disk, &index, &leases, options.boot_id.as_deref()),
            leases,
            index,
            disk,
            _lock: lock,
        }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.disk.root()
    }

    /// Who is told of every step of writing; for those who write in [`Store::snapshots_dir`].
    #[must_use]
    pub fn faults(&self) -> &Arc<dyn Faults> {
        self.disk.faults()
    }

    /// The blobs.
    #[must_use]
    pub fn blobs(&self) -> &DiskBlobs {
        &self.blobs
    }

    /// The records, and what belongs to keys.
    #[must_use]
    pub fn records(&self) -> &DiskRecords {
        &self.records
    }

    pub(crate) fn disk_records(&self) -> &DiskRecords {
        &self.records
    }

    /// The trees of layers.
    #[must_use]
    pub fn trees(&self) -> &Trees {
        &self.trees
    }

    /// The images.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// What servers said of fetched files.
    #[must_use]
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Git repositories, as far as builds fetched them.
    #[must_use]
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// What the steps of projects had when they were built last.
    #[must_use]
    pub fn histories(&self) -> &Histories {
        &self.histories
    }

    /// Records of the last builds.
    #[must_use]
    pub fn builds(&self) -> &Builds {
        &self.builds
    }

    /// Directories that steps keep.
    #[must_use]
    pub fn cache_mounts(&self) -> &CacheMounts {
        &self.cache_mounts
    }

    /// What failed steps left.
    #[must_use]
    pub fn kept(&self) -> &KeptSteps {
        &self.kept
    }

    /// Times of last use.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// A lease that holds nothing yet.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.leases.take()
    }

    /// This moment, by which leases there are.
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.leases.now()
    }

    /// Whether every build that ran at `moment` has ended.
    #[must_use]
    pub fn all_ended_since(&self, moment: Moment) -> bool {
        self.leases.all_ended_since(moment)
    }

    /// Where the snapshotter keeps its directories.
    #[must_use]
    pub fn snapshots_dir(&self) -> PathBuf {
        self.root().join("snapshots")
    }

    /// Where a snapshotter of another kind keeps its directories, which the first one could not use.
    #[must_use]
    pub fn snapshots_dir_of(&self, kind: &str) -> PathBuf {
        self.root().join(format!("snapshots-{kind}"))
    }

    /// On the same file system; emptied when the store is opened.
    #[must_use]
    pub fn tmp_dir(&self) -> PathBuf {
        self.root().join(crate::durable::TMP)
    }

    /// Makes everything published up to now durable, with one `syncfs`; with nothing pending it syncs nothing.
    ///
    /// # Errors
    /// When a step fails: then success must not be reported to anybody.
    pub fn commit_group(&self) -> Result<(), WriteError> {
        self.disk.commit_group()
    }

    /// Collects by `policy`. Snapshots are swept if `snapshots` is given.
    ///
    /// # Errors
    /// When the store cannot be looked through. A thing that cannot be removed is a line of the log.
    pub fn gc(&self, policy: &Policy, snapshots: Option<&dyn SnapshotSweep>) -> Result<Freed, GcError> {
        // For those who ask whether what is being removed is somebody's.
        let _lease = self.lease();
        let freed = gc::collect(self, policy, snapshots)?;
        let used_bytes = freed.before_bytes.saturating_sub(freed.bytes);
        self.measured(used_bytes, 0).map_err(GcError::List)?;
        Ok(freed)
    }

    /// How much it may hold.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        self.disk.budget()
    }

    /// What it holds, as far as that is known without walking through it: nothing if it was not measured for a day.
    ///
    /// # Errors
    /// What the system reports.
    pub fn guess_usage(&self) -> io::Result<Option<Guess>> {
        Measured::guess(&self.disk, self.index.now_ms())
    }

    /// What it holds, by walking through it. The next guess starts from there.
    ///
    /// # Errors
    /// When the store cannot be looked through.
    pub fn measure_usage(&self) -> io::Result<Guess> {
        let stuck_bytes = self.guess_usage()?.map_or(0, |guess| guess.stuck_bytes);
        let used_bytes = usage::measure(self.root())?.iter().map(|row| row.size_bytes).sum();
        self.measured(used_bytes, stuck_bytes)?;
        Ok(Guess {
            used_bytes,
            stuck_bytes,
        })
    }

    /// Notes that it holds `used_bytes`, and that no collection makes `stuck_bytes` of it smaller for now; 0 for unknown.
    ///
    /// # Errors
    /// What the system reports. A full disk is none: the next guess is worse for it, and that is all.
    pub fn measured(&self, used_bytes: u64, stuck_bytes: u64) -> io::Result<()> {
        self.budget().correct(used_bytes);
        let measured = Measured {
            used_bytes,
            free_bytes: Space::of(self.root())?.free_bytes,
            at_ms: self.index.now_ms(),
            stuck_bytes,
        };
        match measured.keep(&self.disk) {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(error),
            _ => Ok(()),
        }
    }

    /// What the store holds, one by one: what meets all of `filters`, the largest first.
    ///
    /// # Errors
    /// When the store cannot be looked through.
    pub fn items(&self, snapshots: Option<&dyn SnapshotSweep>, filters: &[Filter]) -> io::Result<Vec<Item>> {
        gc::items(self, snapshots, filters)
    }

    /// Reads everything and says what is wrong with it; see [`crate::verify`].
    ///
    /// # Errors
    /// When a directory cannot be listed, or what is pending cannot be made durable.
    pub fn verify(
        &self,
        snapshots: &dyn SnapshotCheck,
        repair: Repair,
        watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Summary, VerifyError> {
        verify::verify(self, snapshots, repair, watch)
    }

    /// What takes how much of the disk.
    ///
    /// # Errors
    /// When the store cannot be looked through.
    pub fn usage(&self, snapshots: Option<&dyn SnapshotSweep>) -> io::Result<Vec<Row>> {
        gc::usage(self, snapshots)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Only hints are written here; what has to last was made so by whoever promised it.
        self.index.flush();
        if let Err(error) = Measured::note_growth(&self.disk) {
            tracing::debug!(%error, "the next guess of the store's size is worse for this");
        }
    }
}

fn make_root(root: &Path) -> Result<PathBuf, OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(root)
        .map_err(OpenError::io(root))?;
    let root = fs::canonicalize(root).map_err(OpenError::io(root))?;
    let facts = fs::metadata(&root).map_err(OpenError::io(&root))?;
    let (found_uid, own_uid) = (facts.uid(), rustix::process::geteuid().as_raw());
    if found_uid != own_uid {
        return Err(OpenError::Owner {
            root,
            found_uid,
            own_uid,
        });
    }
    let mode = facts.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(OpenError::Permissions { root, mode });
    }
    Ok(root)
}

fn take_lock(root: &Path, options: &Options, wait: &mut dyn FnMut(Owner) -> bool) -> Result<File, OpenError> {
    // Before the first file of ours is made there.
    refuse_foreign(root)?;
    let path = root.join("lock");
    let mut open = OpenOptions::new();
    let open = open.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = open.open(&path).map_err(OpenError::io(&path))?;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) => return Err(OpenError::Io { path, source }),
            Err(TryLockError::WouldBlock) => {
                let owner = read_owner(&path);
                if !wait(owner) {
                    let root = root.to_owned();
                    return Err(OpenError::Busy { root, owner });
                }
                thread::sleep(POLL);
            }
        }
    }
    let text = format!("{}\n{}\n", std::process::id(), (options.clock)());
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(text.as_bytes()));
    // The lock is the kernel's; the text only tells others who has it, so a full disk must not keep us out.
    if let Err(error) = written {
        tracing::debug!(%error, "the lock file does not say who has the store");
    }
    Ok(file)
}

fn read_owner(path: &Path) -> Owner {
    // Who it is matters to the reader of a message only; an owner that has just started has not written it yet.
    let text = fs::read_to_string(path).unwrap_or_default();
    let mut lines = text.lines();
    Owner {
        pid: lines.next().and_then(|pid| pid.parse().ok()).unwrap_or(0),
        since_ms: lines.next().and_then(|since| since.parse().ok()).unwrap_or(0),
    }
}

fn refuse_foreign(root: &Path) -> Result<(), OpenError> {
    if root.join("VERSION").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(root).map_err(OpenError::io(root))? {
        let name = entry
            .map_err(OpenError::io(root))?
            .file_name()
            .to_string_lossy()
            .into_owned();
        let ours =
            store_format::NAMES.contains(&name.as_str()) || name.starts_with("pending-") || name.starts_with("synced-");
        if !ours {
            return Err(OpenError::NotAStore {
                root: root.to_owned(),
                found: name,
            });
        }
    }
    Ok(())
}

/// The version, if the store has one; only versions that can be read are returned.
fn read_version(root: &Path) -> Result<Option<String>, OpenError> {
    let path = root.join("VERSION");
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(MAX_TEXT).read_to_string(&mut text)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => "not text".clone_into(&mut text),
        Err(source) => return Err(OpenError::Io { path, source }),
        Ok(_) => {}
    }
    let first = text.lines().next().unwrap_or_default();
    let version = first
        .strip_prefix("rbuild store ")
        .and_then(|version| version.split_once('.'));
    let major = version.and_then(|(major, minor)| minor.parse::<u32>().is_ok().then(|| major.parse::<u32>()));
    if major == Some(Ok(FORMAT.0)) {
        return Ok(Some(first.to_owned()));
    }
    Err(OpenError::Version {
        root: root.to_owned(),
        found: first.chars().take(40).collect(),
    })
}
