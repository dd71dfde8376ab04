//! The store at one moment: what is there, what leads to it, what must stay.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::time::UNIX_EPOCH;

use proto::digest::{ChainId, DiffId, Digest};
use proto::record::{CacheKey, CacheRecord};

use super::SnapshotSweep;
use super::thing::{Thing, things_of, things_of_layer};
use crate::cache_mounts::About;
use crate::images::Variant;
use crate::index::Used;
use crate::lease::Held;
use crate::store::Store;
use crate::usage::{allocated, there};

/// Size and age of something.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) bytes: u64,
    pub(super) last_use_ms: u64,
    /// 0 if it is not known.
    pub(super) created_ms: u64,
}

pub(super) struct Survey {
    pub(super) now_ms: u64,
    pub(super) records: HashMap<CacheKey, (CacheRecord, Facts)>,
    pub(super) things: HashMap<Thing, Facts>,
    /// Named by an image or held by a lease.
    pub(super) kept: HashSet<Thing>,
    pub(super) kept_records: HashSet<CacheKey>,
    /// The part of `kept` that is used now.
    pub(super) in_use: HashSet<Thing>,
    /// How many records lead to it.
    pub(super) references: HashMap<Thing, usize>,
    /// Keys that steps had in the last builds of their projects, which explain misses.
    pub(super) last_keys: HashSet<CacheKey>,
    pub(super) mounts: HashMap<Thing, About>,
}

impl Survey {
    pub(super) fn of(store: &Store, snapshots: Option<&dyn SnapshotSweep>) -> io::Result<Self> {
        let mut survey = Self {
            now_ms: store.index().now_ms(),
            records: HashMap::new(),
            things: find_things(store)?,
            kept: HashSet::new(),
            kept_records: HashSet::new(),
            in_use: HashSet::new(),
            references: HashMap::new(),
            last_keys: HashSet::new(),
            mounts: HashMap::new(),
        };
        for snapshot in snapshots.map(SnapshotSweep::list).unwrap_or_default() {
            let last_use_ms = store.index().last_use_ms(Used::Chain(snapshot.chain)).unwrap_or(0);
            let facts = Facts {
                bytes: snapshot.bytes,
                last_use_ms: last_use_ms.max(snapshot.created_ms),
                created_ms: snapshot.created_ms,
            };
            survey.things.insert(Thing::Snapshot(snapshot.chain), facts);
        }
        survey.find_directories(store)?;
        survey.find_records(store)?;
        survey.mark_images(store)?;
        survey.mark_leases(store);
        survey.mark_kept(store)?;
        Ok(survey)
    }

    fn find_directories(&mut self, store: &Store) -> io::Result<()> {
        for mount in store.cache_mounts().list()? {
            let facts = Facts {
                bytes: mount.bytes,
                last_use_ms: mount.last_use_ms,
                created_ms: mount.about.created_ms,
            };
            let thing = Thing::CacheMount(mount.name);
            self.things.insert(thing, facts);
            self.mounts.insert(thing, mount.about);
        }
        for mirror in store.mirrors().list()? {
            let Some(name) = key(&mirror.name) else { continue };
            let facts = Facts {
                bytes: mirror.bytes,
                last_use_ms: mirror.last_use_ms,
                created_ms: 0,
            };
            self.things.insert(Thing::Mirror(name), facts);
            if mirror.in_use {
                self.in_use.insert(Thing::Mirror(name));
                self.kept.insert(Thing::Mirror(name));
            }
        }
        Ok(())
    }

    fn find_records(&mut self, store: &Store) -> io::Result<()> {
        for (name, mut facts) in files(store, "records")? {
            let Some(key) = key(&hex_of(&name)) else { continue };
            let last_use_ms = store.index().last_use_ms(Used::Record(key));
            let Some(record) = store.disk_records().peek(key) else {
                continue;
            };
            facts.last_use_ms = last_use_ms.unwrap_or(facts.last_use_ms);
            facts.created_ms = record.created_ms;
            for thing in things_of(&record) {
                *self.references.entry(thing).or_default() += 1;
            }
            self.records.insert(key, (record, facts));
        }
        for (name, _) in files(store, "history")? {
            self.last_keys.extend(store.histories().keys_in(&name));
        }
        Ok(())
    }

    fn mark_images(&mut self, store: &Store) -> io::Result<()> {
        for image in store.images().list()? {
            for variant in image.variants() {
                self.kept.extend(things_of_variant(store, variant));
            }
        }
        Ok(())
    }

    fn mark_leases(&mut self, store: &Store) {
        for held in store.leases().held() {
            let things = match held {
                Held::Blob(digest) => vec![Thing::Blob(digest)],
                Held::Chain(chain) => vec![Thing::Snapshot(chain)],
                Held::Layer(diff_id) => vec![Thing::Tree(diff_id), Thing::Forms(diff_id)],
                Held::CacheMount(name) => vec![Thing::CacheMount(name)],
                Held::Kept(_) => Vec::new(),
                Held::Record(key) => {
                    self.kept_records.insert(key);
                    // Also one that is not durable yet, and so not among those found: on a full disk it stays so.
                    let record = store.disk_records().peek(key);
                    record.as_ref().map(things_of).unwrap_or_default()
                }
            };
            self.in_use.extend(&things);
            self.kept.extend(things);
        }
    }

    /// What a failed step left is worth nothing without the layers that it lies on.
    fn mark_kept(&mut self, store: &Store) -> io::Result<()> {
        for step in store.kept().list()? {
            for stack in &step.stacks {
                let mut chain = None;
                for diff_id in stack {
                    let top = ChainId::append(chain, *diff_id);
                    let things = [Thing::Snapshot(top), Thing::Tree(*diff_id), Thing::Forms(*diff_id)];
                    self.kept.extend(things);
                    chain = Some(top);
                }
            }
        }
        Ok(())
    }

    pub(super) fn idle_ms(&self, facts: &Facts) -> u64 {
        self.now_ms.saturating_sub(facts.last_use_ms)
    }
}

/// What an image needs: its config, and all forms of its layers.
pub(super) fn things_of_variant(store: &Store, variant: &Variant) -> Vec<Thing> {
    let mut things = vec![Thing::Blob(variant.config)];
    let mut chain = None;
    for mut layer in variant.layers.iter().cloned() {
        crate::records::merge(&mut layer.forms, store.disk_records().forms(layer.diff_id));
        let top = ChainId::append(chain, layer.diff_id);
        things.extend(things_of_layer(&layer));
        things.push(Thing::Snapshot(top));
        chain = Some(top);
    }
    things
}

fn find_things(store: &Store) -> io::Result<HashMap<Thing, Facts>> {
    let mut things = HashMap::new();
    let layer = |hex: &str| sha256(hex).map(DiffId);
    for (dir, thing) in [
        (
            "blobs",
            &(|hex: &str| sha256(hex).map(Thing::Blob)) as &dyn Fn(&str) -> Option<Thing>,
        ),
        ("trees", &|hex| layer(hex).map(Thing::Tree)),
        ("forms", &|hex| layer(hex).map(Thing::Forms)),
        ("preimages", &|hex| key(hex).map(Thing::Preimage)),
    ] {
        for (name, mut facts) in files(store, dir)? {
            if let Some(thing) = thing(&hex_of(&name)) {
                if let Some(used) = thing.used().and_then(|used| store.index().last_use_ms(used)) {
                    facts.last_use_ms = facts.last_use_ms.max(used);
                }
                things.insert(thing, facts);
            }
        }
    }
    Ok(things)
}

/// All files below the directory `dir` of the root, by name.
pub(super) fn files(store: &Store, dir: &str) -> io::Result<Vec<(String, Facts)>> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in there(fs::read_dir(store.root().join(&dir)))?.into_iter().flatten() {
            let entry = entry?;
            let name = format!("{dir}/{}", entry.file_name().to_string_lossy());
            let Some(facts) = there(entry.metadata())? else {
                continue;
            };
            if facts.is_dir() {
                left.push(name);
            } else {
                let age = facts.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
                let modified_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let facts = Facts {
                    bytes: allocated(&facts),
                    last_use_ms: modified_ms,
                    created_ms: modified_ms,
                };
                found.push((name, facts));
            }
        }
    }
    Ok(found)
}

/// The 64 hex digits that the name of a file ends with; blobs have the first two in the directory's name only.
fn hex_of(name: &str) -> String {
    let mut parts = name.rsplit('/');
    let (file, dir) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if file.len() == 62 {
        format!("{dir}{file}")
    } else {
        file.to_owned()
    }
}

/// A file that is named by no digest is none of ours and stays.
fn sha256(hex: &str) -> Option<Digest> {
    format!("sha256:{hex}").parse().ok()
}

/// As [`sha256`], for keys.
fn key(hex: &str) -> Option<CacheKey> {
    hex.parse().ok().map(CacheKey)
}
