//! Removes what was chosen. Each removal asks the leases once more, under the lock that gives them out.

use std::io;
use std::time::UNIX_EPOCH;

use proto::digest::ChainId;
use proto::record::CacheKey;

use super::candidates::{Candidate, What};
use super::survey::{Survey, files};
use super::thing::{Thing, things_of};
use super::{Freed, Policy, RECENT_MS, SnapshotSweep};
use crate::blob::disk::file_name as blob_name;
use crate::cache_mounts::MountName;
use crate::index::Used;
use crate::lease::Held;
use crate::records::{forms_name, preimage_name, record_name};
use crate::store::Store;
use crate::trees::tree_name;

/// A collection that is under way.
pub(super) struct Sweep<'a> {
    pub(super) store: &'a Store,
    pub(super) snapshots: Option<&'a dyn SnapshotSweep>,
    pub(super) survey: Survey,
    pub(super) freed: Freed,
}

impl Sweep<'_> {
    pub(super) fn drop_candidate(&mut self, candidate: &Candidate) {
        match candidate.what {
            What::Loose(thing) => self.drop_thing(thing),
            What::Record(key) => self.drop_record(key),
        }
    }

    /// A record goes before what it leads to.
    fn drop_record(&mut self, key: CacheKey) {
        let before = self.freed.removed;
        let bytes = self.survey.records.get(&key).map_or(0, |(_, facts)| facts.bytes);
        let (store, freed) = (self.store, &mut self.freed);
        store.leases().unless_held(&[Held::Record(key)], || {
            remove_file(store, &record_name(key), bytes, freed)
        });
        if self.freed.removed == before {
            return;
        }
        store.index().forget(Used::Record(key));
        let Some((record, _)) = self.survey.records.remove(&key) else {
            return;
        };
        for thing in things_of(&record) {
            let left = self.survey.references.entry(thing).or_default();
            *left = left.saturating_sub(1);
            // Its explanation outlives the record as long as it is the last word on its step.
            let explains = matches!(thing, Thing::Preimage(_)) && self.survey.last_keys.contains(&key);
            if *left == 0 && !self.survey.kept.contains(&thing) && !explains {
                self.drop_thing(thing);
            }
        }
    }

    fn drop_thing(&mut self, thing: Thing) {
        let Some(facts) = self.survey.things.remove(&thing) else {
            return;
        };
        let name = match thing {
            Thing::Blob(digest) => blob_name(digest),
            Thing::Tree(diff_id) => tree_name(diff_id),
            Thing::Forms(diff_id) => forms_name(diff_id),
            Thing::Preimage(key) => preimage_name(key),
            Thing::Snapshot(chain) => return self.drop_snapshot(chain, facts.bytes),
            Thing::CacheMount(name) => return self.drop_cache_mount(name, facts.bytes),
            Thing::Mirror(key) => return self.drop_mirror(key, facts.bytes),
        };
        let (store, freed) = (self.store, &mut self.freed);
        let held: Vec<Held> = thing.held().into_iter().collect();
        let removed = store
            .leases()
            .unless_held(&held, || remove_file(store, &name, facts.bytes, freed));
        if let (Some(()), Some(used)) = (removed, thing.used()) {
            store.index().forget(used);
        }
    }

    fn drop_snapshot(&mut self, chain: ChainId, bytes: u64) {
        let Some(snapshots) = self.snapshots else { return };
        let taken = self
            .store
            .leases()
            .unless_held(&[Held::Chain(chain)], || snapshots.take_away(chain));
        // Builds that want to hold something wait for the first part only.
        match taken.map(|taken| taken.and_then(|rest| rest())) {
            Some(Ok(())) => {
                self.freed.add(bytes);
                self.store.index().forget(Used::Chain(chain));
            }
            Some(Err(error)) => tracing::warn!(%chain, %error, "a snapshot cannot be collected"),
            None => {}
        }
    }

    fn drop_cache_mount(&mut self, name: MountName, bytes: u64) {
        let mounts = self.store.cache_mounts();
        let taken = self
            .store
            .leases()
            .unless_held(&[Held::CacheMount(name)], || mounts.take_away(name));
        match taken.map(|taken| taken.and_then(|taken| mounts.remove(&taken))) {
            Some(Ok(())) => self.freed.add(bytes),
            Some(Err(error)) => tracing::warn!(mount = %name, %error, "a cache mount cannot be collected"),
            None => {}
        }
    }

    fn drop_mirror(&mut self, key: CacheKey, bytes: u64) {
        match self.store.mirrors().remove(&key.to_string()) {
            Ok(true) => self.freed.add(bytes),
            Ok(false) => {}
            Err(error) => tracing::warn!(mirror = %key, %error, "a git mirror cannot be collected"),
        }
    }

    pub(super) fn drop_damaged(&mut self) -> io::Result<()> {
        for (name, facts) in files(self.store, "quarantine")? {
            remove_file(self.store, &name, facts.bytes, &mut self.freed);
        }
        Ok(())
    }

    /// Removes records of builds that may go. Histories stay, within their number: they say of what is collected that it was there.
    pub(super) fn drop_builds(&mut self, policy: &Policy) -> io::Result<()> {
        let store = self.store;
        for file in store.builds().files()? {
            let written = file.written.duration_since(UNIX_EPOCH).unwrap_or_default();
            let written_ms = u64::try_from(written.as_millis()).unwrap_or(u64::MAX);
            let idle_ms = self.survey.now_ms.saturating_sub(written_ms);
            let is_old = policy.max_age_ms.is_some_and(|age| idle_ms > age);
            let is_recent = !policy.all && !is_old && idle_ms < RECENT_MS;
            let used_bytes = self.freed.before_bytes.saturating_sub(self.freed.bytes);
            if policy.filters.is_empty() && !is_recent && policy.drops(is_old, used_bytes) {
                remove_file(store, &file.name, file.bytes, &mut self.freed);
            }
        }
        for (name, bytes) in store.histories().surplus()? {
            remove_file(store, &name, bytes, &mut self.freed);
        }
        Ok(())
    }

    /// Removes aliases and answers that lead to no record: files have to be fetched again anyway.
    pub(super) fn drop_dangling(&mut self, policy: &Policy) -> io::Result<()> {
        let (store, records) = (self.store, self.store.disk_records());
        for dir in ["aliases", "answers"] {
            for (name, facts) in files(store, dir)? {
                let target = match dir {
                    "answers" => store.answers().key_in(&name),
                    _ => records.key_in(&name),
                };
                // That of a step that runs now is written before its record.
                let may_run = !policy.is_everything() && self.survey.idle_ms(&facts) < RECENT_MS;
                let leads_nowhere = |key| !self.survey.records.contains_key(&key) && !records.has(key);
                if !may_run && target.is_some_and(leads_nowhere) {
                    remove_file(store, &name, facts.bytes, &mut self.freed);
                }
            }
        }
        Ok(())
    }
}

fn remove_file(store: &Store, name: &str, bytes: u64, freed: &mut Freed) {
    match store.disk().remove(name) {
        Ok(true) => freed.add(bytes),
        Ok(false) => {}
        Err(error) => tracing::warn!(file = name, %error, "a file of the store cannot be collected"),
    }
}
