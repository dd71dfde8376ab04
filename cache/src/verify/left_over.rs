//! What is nobody's: temporary files, half-done snapshots, groups that no commit knows, descriptions of mounts that are gone.
//!
//! Everything of that kind that was there when reading began is suspected. What is still there once every build that ran then has
//! ended is left over, and removed if that is asked for.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;

use super::finding::{Finding, Part, Remedy, Wrong};
use super::snapshots::SnapshotCheck;
use super::{Run, VerifyError};
use crate::durable::TMP;
use crate::lease::Moment;
use crate::remove::remove_tree;
use crate::store::Store;
use crate::usage::there;

/// What may be left over.
pub(super) enum Suspect {
    /// A name in [`TMP`].
    Temporary(String),
    /// A directory beside the snapshots.
    Snapshot(String),
    /// The directory of a group.
    Group(String),
    /// The file that describes a cache mount.
    About(String),
}

pub(super) fn suspects(store: &Store, snapshots: &dyn SnapshotCheck) -> io::Result<Vec<Suspect>> {
    let mut suspects = Vec::new();
    for entry in there(fs::read_dir(store.tmp_dir()))?.into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        suspects.push(Suspect::Temporary(name));
    }
    suspects.extend(snapshots.others()?.into_iter().map(Suspect::Snapshot));
    for entry in fs::read_dir(store.root())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if crate::durable::is_group(&name) {
            suspects.push(Suspect::Group(name));
        }
    }
    for (name, _) in store.cache_mounts().about_files()? {
        suspects.push(Suspect::About(name));
    }
    Ok(suspects)
}

impl Run<'_> {
    pub(super) fn left_over(&mut self, began: Moment, suspects: &[Suspect]) -> Result<(), VerifyError> {
        let others = self.snapshots.others()?;
        let quiet = self.all_ended_since(began);
        for (done, suspect) in suspects.iter().enumerate() {
            self.progress(Part::Temporary, done, suspects.len())?;
            if !self.is_there(suspect, &others)? {
                continue;
            }
            if quiet {
                self.left(suspect)?;
            } else {
                self.summary.in_use += 1;
            }
        }
        Ok(())
    }

    /// Whether it is still there, and nobody is known to use it.
    fn is_there(&self, suspect: &Suspect, others: &[String]) -> io::Result<bool> {
        let disk = self.store.disk();
        Ok(match suspect {
            Suspect::Temporary(name) => {
                !disk.is_being_written(name) && there(fs::symlink_metadata(self.store.tmp_dir().join(name)))?.is_some()
            }
            Suspect::Snapshot(name) => others.contains(name),
            Suspect::Group(name) => !disk.owns_group(name) && self.store.root().join(name).is_dir(),
            Suspect::About(name) => {
                let mounts = self.store.cache_mounts();
                disk.contains(name)? && !mounts.has_mount_of(name, self.store.leases())
            }
        })
    }

    fn left(&mut self, suspect: &Suspect) -> Result<(), VerifyError> {
        let (store, snapshots) = (self.store, self.snapshots);
        let (part, name, detail) = match suspect {
            Suspect::Temporary(name) => (Part::Temporary, format!("{TMP}/{name}"), "no build writes it"),
            Suspect::Snapshot(name) => (Part::Snapshot, format!("snapshots/{name}"), "no build uses it"),
            Suspect::Group(name) => (Part::Group, name.clone(), "no commit knows of it"),
            Suspect::About(name) => (Part::CacheMount, name.clone(), "there is no such cache mount"),
        };
        let remedy = self.mend(Remedy::Removed, || {
            match suspect {
                Suspect::Temporary(name) => remove_in(&store.tmp_dir(), name)?,
                Suspect::Group(name) => remove_in(store.root(), name)?,
                Suspect::Snapshot(name) => snapshots.remove_other(name)?,
                Suspect::About(name) => return store.disk().remove(name),
            }
            Ok(true)
        });
        self.found(Finding {
            detail: detail.to_owned(),
            remedy,
            ..Finding::new(part, Wrong::LeftOver, name)
        })
    }
}

fn remove_in(dir: &std::path::Path, name: &str) -> io::Result<()> {
    let dir: OwnedFd = File::open(dir)?.into();
    remove_tree(&dir, name.as_ref())
}
