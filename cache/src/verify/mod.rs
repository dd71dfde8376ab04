//! Reads everything that the store holds, and says what is damaged, missing or left over, and who needs it.
//!
//! Nothing is changed unless it is asked for: then what is damaged is set aside, what is left over is removed, and a record or
//! image that leads nowhere goes, so that the next build makes it again. Builds go on meanwhile, so nothing is judged by one look:
//! what is missing is looked for again before it is named, a file is set aside only if it is the one that was read, and what may
//! belong to a build is only called left over once every build that ran when it was seen has ended ([`Moment`]).
//!
//! Not looked into: what steps keep in cache mounts, and git mirrors. Only their owners know what is right there.

mod small;
mod blobs;
mod snapshots;
mod relations;
mod left_over;
mod finding;

use std::io;
use std::ops::ControlFlow;

pub use self::finding::{Event, Finding, Part, Progress, Remedy, Summary, Wrong};
use self::relations::Known;
pub use self::snapshots::{Compared, SnapshotCheck};
use crate::durable::WriteError;
use crate::lease::Moment;
use crate::store::Store;

/// Whether to mend what is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Only say it.
    No,
    /// Set aside, remove, make anew.
    Yes,
}

/// Why the store was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Whoever watched wants no more of it.
    #[error("interrupted")]
    Stopped,
    /// What is pending could not be made durable.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A directory cannot be listed.
    #[error("cannot list the store")]
    List(#[from] io::Error),
}

/// A store that is being read.
struct Run<'a> {
    store: &'a Store,
    snapshots: &'a dyn SnapshotCheck,
    repair: Repair,
    watch: &'a mut dyn FnMut(Event) -> ControlFlow<()>,
    summary: Summary,
    known: Known,
}

pub(crate) fn verify(
    store: &Store,
    snapshots: &dyn SnapshotCheck,
    repair: Repair,
    watch: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<Summary, VerifyError> {
    let mut run = Run {
        store,
        snapshots,
        repair,
        watch,
        summary: Summary::default(),
        known: Known::default(),
    };
    let (began, suspects) = (store.moment(), left_over::suspects(store, snapshots)?);
    run.commit()?;
    run.small_files()?;
    run.blobs()?;
    run.snapshots(began)?;
    run.relations()?;
    run.index()?;
    run.left_over(began, &suspects)?;
    run.summary.set_aside = store.disk().files(crate::durable::QUARANTINE)?.len() as u64;
    Ok(run.summary)
}

impl Run<'_> {
    /// Puts in place what is pending, so that it is read too. On a full disk it stays where it is.
    fn commit(&self) -> Result<(), VerifyError> {
        match self.store.commit_group() {
            Err(error) if error.is_full() => tracing::debug!(%error, "verifying before what is pending is durable"),
            done => done?,
        }
        Ok(())
    }

    /// Tells how far it is; the end if nobody wants to know more.
    fn progress(&mut self, part: Part, done: usize, total: usize) -> Result<(), VerifyError> {
        let progress = Progress {
            part,
            done: done as u64,
            total: total as u64,
            bytes: self.summary.bytes,
        };
        self.tell(Event::Progress(progress))
    }

    fn tell(&mut self, event: Event) -> Result<(), VerifyError> {
        match (self.watch)(event) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(VerifyError::Stopped),
        }
    }

    fn found(&mut self, finding: Finding) -> Result<(), VerifyError> {
        self.summary.count(&finding);
        self.tell(Event::Found(finding))
    }

    /// What `mend` did, if anything is to be mended.
    fn mend(&self, done: Remedy, mend: impl FnOnce() -> io::Result<bool>) -> Remedy {
        match self.repair {
            Repair::No => Remedy::None,
            Repair::Yes => match mend() {
                Ok(true) => done,
                // Somebody uses it, or put another in its place meanwhile.
                Ok(false) => Remedy::None,
                Err(error) => Remedy::Failed(error.to_string()),
            },
        }
    }

    fn index(&mut self) -> Result<(), VerifyError> {
        self.progress(Part::Index, 0, 1)?;
        let index = self.store.index();
        let Some(reason) = index.damage() else {
            if self.repair == Repair::Yes {
                index.renew();
            }
            return Ok(());
        };
        let remedy = self.mend(Remedy::Rebuilt, || {
            index.rebuild();
            Ok(index.damage().is_none())
        });
        self.found(Finding {
            detail: format!("{reason}; only times of last use are lost"),
            remedy,
            ..Finding::new(Part::Index, Wrong::Damaged, "index")
        })
    }

    fn all_ended_since(&self, moment: Moment) -> bool {
        self.store.all_ended_since(moment)
    }
}
