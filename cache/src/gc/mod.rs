//! Collection: marks from images, leases and recent use; drops the rest, what is cheap to have again for its size first.
//!
//! A record goes before what it leads to, so a crash in between leaves things that nobody refers to and the next collection
//! takes. What waits for its group to be committed is never looked at, and each removal asks the leases once more.

mod thing;
mod filter;
mod survey;
mod candidates;
mod failed;
mod sweep;
mod list;

use std::io;

use proto::digest::ChainId;

use self::filter::Subject;
pub use self::filter::{Fact, Filter};
pub use self::list::Item;
use self::survey::{Survey, files};
use self::sweep::Sweep;
pub use self::thing::Kind;
use crate::durable::WriteError;
use crate::store::Store;
use crate::usage::{self, Row};

/// What was used within this time counts as recent: an hour.
pub const RECENT_MS: u64 = 3_600_000;

/// What to collect. What images and leases hold stays in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Stop once the store is this small; 0 for as small as it gets.
    pub keep_bytes: u64,
    /// Never make the store smaller than this, however old things are.
    pub reserved_bytes: u64,
    /// What was not used for longer goes first, and with nothing said of the size it alone goes.
    pub max_age_ms: Option<u64>,
    /// Also what was used within [`RECENT_MS`].
    pub all: bool,
    /// Only what meets all of these.
    pub filters: Vec<Filter>,
}

impl Policy {
    /// Whether everything goes that can: then there is nothing left to explain.
    fn is_everything(&self) -> bool {
        let limited = self.keep_bytes > 0 || self.reserved_bytes > 0 || self.max_age_ms.is_some();
        self.all && !limited && self.filters.is_empty()
    }

    /// Whether something that may go does, while the store has `used_bytes`.
    fn drops(&self, is_old: bool, used_bytes: u64) -> bool {
        if self.reserved_bytes > 0 && used_bytes <= self.reserved_bytes {
            return false;
        }
        match self.keep_bytes {
            _ if is_old => true,
            0 => self.max_age_ms.is_none(),
            keep_bytes => used_bytes > keep_bytes,
        }
    }
}

/// What a collection gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freed {
    /// Allocated bytes.
    pub bytes: u64,
    /// Records, blobs, snapshots and other files.
    pub removed: u64,
    /// What the store had before, in allocated bytes.
    pub before_bytes: u64,
}

impl Freed {
    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.removed += 1;
    }
}

/// A committed snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundSnapshot {
    /// Its name.
    pub chain: ChainId,
    /// Allocated bytes.
    pub bytes: u64,
    /// In milliseconds since 1970; 0 if it is not known.
    pub created_ms: u64,
}

/// The snapshots, as far as collection has to know them.
pub trait SnapshotSweep {
    /// All committed snapshots.
    fn list(&self) -> Vec<FoundSnapshot>;

    /// Takes one out of sight, which is quick. What is returned removes its files, which is not.
    ///
    /// # Errors
    /// When it stays; collection goes on with the next.
    fn take_away(&self, chain: ChainId) -> io::Result<Removal<'_>>;
}

/// The part of a removal that may take long.
pub type Removal<'a> = Box<dyn FnOnce() -> io::Result<()> + 'a>;

/// Why a collection did not happen.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// What is pending could not be made durable.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store could not be looked through.
    #[error("cannot list the store")]
    List(#[source] io::Error),
}

/// Collects by `policy`. Sweeps snapshots too if `snapshots` is given.
pub(crate) fn collect(store: &Store, policy: &Policy, snapshots: Option<&dyn SnapshotSweep>) -> Result<Freed, GcError> {
    match store.commit_group() {
        // From here on whatever is pending is newer than the marks, and not looked at.
        Ok(()) => {}
        // A full disk is what collections are for: what is pending stays so until there is room.
        Err(error) if error.is_full() => tracing::debug!(%error, "collecting before what is pending is durable"),
        Err(error) => return Err(error.into()),
    }
    let rows = usage::measure(store.root()).map_err(GcError::List)?;
    let mut freed = Freed {
        before_bytes: rows.iter().map(|row| row.size_bytes).sum(),
        ..Freed::default()
    };
    // Before the rest is looked at: the layers below it stay as long as it does.
    failed::collect(store, policy, &mut freed).map_err(GcError::List)?;
    let mut sweep = Sweep {
        store,
        snapshots,
        survey: Survey::of(store, snapshots).map_err(GcError::List)?,
        freed,
    };
    sweep.run(policy).map_err(GcError::List)?;
    store.index().flush();
    Ok(sweep.freed)
}

impl Sweep<'_> {
    fn run(&mut self, policy: &Policy) -> io::Result<()> {
        let damaged = Subject {
            kind: Kind::Damaged,
            ids: &[],
            idle_ms: u64::MAX,
            in_use: false,
            description: "",
        };
        if filter::meets_all(&policy.filters, &damaged) {
            self.drop_damaged()?;
        }
        for candidate in candidates::candidates(&self.survey, policy) {
            let used_bytes = self.freed.before_bytes.saturating_sub(self.freed.bytes);
            if policy.drops(candidate.is_old, used_bytes) {
                self.drop_candidate(&candidate);
            }
        }
        self.drop_dangling(policy)?;
        self.drop_builds(policy)
    }
}

/// [`usage::measure`], with what a collection of everything would give back.
pub(crate) fn usage(store: &Store, snapshots: Option<&dyn SnapshotSweep>) -> io::Result<Vec<Row>> {
    let survey = Survey::of(store, snapshots)?;
    let mut rows = usage::measure(store.root())?;
    let mut add = |kind: &str, bytes: u64| {
        for row in rows.iter_mut().filter(|row| row.kind == kind) {
            row.reclaimable_bytes += bytes;
        }
    };
    for (thing, facts) in &survey.things {
        if !survey.kept.contains(thing) {
            add(thing.row(), facts.bytes);
        }
    }
    for (key, (_, facts)) in &survey.records {
        if !survey.kept_records.contains(key) {
            add(Kind::Record.row(), facts.bytes);
        }
    }
    for (_, facts) in files(store, "quarantine")? {
        add(Kind::Damaged.row(), facts.bytes);
    }
    for build in store.builds().files()? {
        add("builds", build.bytes);
    }
    for step in store.kept().list()? {
        if !failed::is_in_use(store, &step) {
            add(Kind::FailedStep.row(), step.bytes);
        }
    }
    Ok(rows)
}

/// What the store holds, one by one: what meets all of `filters`, the largest first.
pub(crate) fn items(store: &Store, snapshots: Option<&dyn SnapshotSweep>, filters: &[Filter]) -> io::Result<Vec<Item>> {
    list::list(store, snapshots, filters)
}
