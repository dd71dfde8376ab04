//! Collection: marks from images, leases and recent use; drops the rest, cheapest to build per byte first; git mirrors last.
//!
//! A record goes before what it leads to, so a crash in between leaves things that nobody refers to and the next collection
//! takes. What waits for its group to be committed is never looked at, and each removal asks the leases once more.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::time::UNIX_EPOCH;

use proto::digest::{ChainId, DiffId, Digest};
use proto::record::{CacheKey, CacheRecord, LayerInfo};

use crate::blob::disk::file_name as blob_name;
use crate::durable::WriteError;
use crate::images::Variant;
use crate::index::Used;
use crate::lease::Held;
use crate::records::{forms_name, preimage_name, record_name};
use crate::store::Store;
use crate::trees::tree_name;
use crate::usage::{self, Row, allocated, there};

/// What was used within this time counts as recent: an hour.
pub const RECENT_MS: u64 = 3_600_000;

/// What to collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Stop once the store is this small; 0 for as small as it gets.
    pub keep_bytes: u64,
    /// Also what was used within [`RECENT_MS`]. What images and leases hold stays in any case.
    pub all: bool,
}

/// What a collection gave back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Freed {
    /// Allocated bytes.
    pub bytes: u64,
    /// Records, blobs, snapshots and other files.
    pub removed: u64,
}

/// The snapshots, as far as collection has to know them.
pub trait SnapshotSweep {
    /// All committed snapshots with their allocated bytes.
    fn list(&self) -> Vec<(ChainId, u64)>;

    /// Removes one.
    ///
    /// # Errors
    /// When it stays; collection goes on with the next.
    fn remove(&self, chain: ChainId) -> io::Result<()>;
}

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

/// Something that records lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Thing {
    Blob(Digest),
    Tree(DiffId),
    Forms(DiffId),
    Preimage(CacheKey),
    Snapshot(ChainId),
}

impl Thing {
    fn held(self) -> Held {
        match self {
            Self::Blob(digest) => Held::Blob(digest),
            Self::Tree(diff_id) | Self::Forms(diff_id) => Held::Layer(diff_id),
            Self::Preimage(key) => Held::Record(key),
            Self::Snapshot(chain) => Held::Chain(chain),
        }
    }

    fn used(self) -> Used {
        match self {
            Self::Blob(digest) => Used::Blob(digest),
            Self::Tree(diff_id) | Self::Forms(diff_id) => Used::Blob(diff_id.0),
            Self::Preimage(key) => Used::Record(key),
            Self::Snapshot(chain) => Used::Chain(chain),
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Blob(_) => "layer blobs",
            Self::Tree(_) => "trees",
            Self::Forms(_) | Self::Preimage(_) => "records",
            Self::Snapshot(_) => "snapshots",
        }
    }
}

/// Size and age of something.
#[derive(Debug, Clone, Copy)]
struct Facts {
    bytes: u64,
    last_use_ms: u64,
}

/// The store at one moment.
struct Survey {
    now_ms: u64,
    records: HashMap<CacheKey, (CacheRecord, Facts)>,
    things: HashMap<Thing, Facts>,
    /// Named by an image or held by a lease.
    kept: HashSet<Thing>,
    kept_records: HashSet<CacheKey>,
    /// How many records lead to it.
    references: HashMap<Thing, usize>,
    /// Keys that steps had in the last builds of their projects.
    step_keys: HashSet<CacheKey>,
}

/// What can be dropped at once, and how gladly.
struct Candidate {
    what: What,
    facts: Facts,
    duration_ms: u64,
}

enum What {
    Record(CacheKey),
    Loose(Thing),
}

impl Candidate {
    /// Long unused, large and quickly built goes first.
    fn eagerness(&self, now_ms: u64) -> f64 {
        let idle = now_ms.saturating_sub(self.facts.last_use_ms) + 1;
        (idle as f64) * (self.facts.bytes as f64 + 1.0) / (self.duration_ms as f64 + 1.0)
    }
}

/// Collects by `policy`. Sweeps snapshots too if `snapshots` is given.
pub(crate) fn collect(store: &Store, policy: Policy, snapshots: Option<&dyn SnapshotSweep>) -> Result<Freed, GcError> {
    // From here on whatever is pending is newer than the marks, and not looked at.
    store.commit_group()?;
    let mut survey = survey(store, snapshots).map_err(GcError::List)?;
    let rows = usage::measure(store.root()).map_err(GcError::List)?;
    let total: u64 = rows.iter().map(|row| row.size_bytes).sum();
    let mut freed = Freed::default();
    for (name, facts) in files(store, "quarantine").map_err(GcError::List)? {
        remove_file(store, &name, facts.bytes, &mut freed);
    }
    for candidate in candidates(&survey, policy) {
        if policy.keep_bytes > 0 && total.saturating_sub(freed.bytes) <= policy.keep_bytes {
            break;
        }
        drop_candidate(store, &candidate, &mut survey, snapshots, &mut freed);
    }
    drop_dangling_keys(store, &survey, &mut freed).map_err(GcError::List)?;
    drop_answers(store, &survey, &mut freed).map_err(GcError::List)?;
    if policy.keep_bytes == 0 || total.saturating_sub(freed.bytes) > policy.keep_bytes {
        drop_mirrors(store, policy, survey.now_ms, &mut freed).map_err(GcError::List)?;
        drop_builds(store, policy, survey.now_ms, &mut freed).map_err(GcError::List)?;
    }
    for (name, bytes) in store.histories().surplus().map_err(GcError::List)? {
        remove_file(store, &name, bytes, &mut freed);
    }
    store.index().flush();
    Ok(freed)
}

/// [`usage::measure`], with what a collection of everything would give back.
pub(crate) fn usage(store: &Store, snapshots: Option<&dyn SnapshotSweep>) -> io::Result<Vec<Row>> {
    let survey = survey(store, snapshots)?;
    let mut rows = usage::measure(store.root())?;
    let mut add = |kind: &str, bytes: u64| {
        for row in rows.iter_mut().filter(|row| row.kind == kind) {
            row.reclaimable_bytes += bytes;
        }
    };
    for (thing, facts) in &survey.things {
        if !survey.kept.contains(thing) {
            add(thing.kind(), facts.bytes);
        }
    }
    for (key, (_, facts)) in &survey.records {
        if !survey.kept_records.contains(key) {
            add("records", facts.bytes);
        }
    }
    for (_, facts) in files(store, "quarantine")? {
        add("damaged", facts.bytes);
    }
    for mirror in store.mirrors().list()? {
        add("git mirrors", mirror.bytes);
    }
    for build in store.builds().files()? {
        add("builds", build.bytes);
    }
    Ok(rows)
}

fn survey(store: &Store, snapshots: Option<&dyn SnapshotSweep>) -> io::Result<Survey> {
    let mut survey = Survey {
        now_ms: store.index().now_ms(),
        records: HashMap::new(),
        things: find_things(store)?,
        kept: HashSet::new(),
        kept_records: HashSet::new(),
        references: HashMap::new(),
        step_keys: HashSet::new(),
    };
    for (chain, bytes) in snapshots.map(SnapshotSweep::list).unwrap_or_default() {
        let last_use_ms = store.index().last_use_ms(Used::Chain(chain)).unwrap_or(0);
        survey
            .things
            .insert(Thing::Snapshot(chain), Facts { bytes, last_use_ms });
    }
    find_records(store, &mut survey)?;
    mark_images(store, &mut survey)?;
    mark_leases(store, &mut survey);
    Ok(survey)
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
                if let Some(used) = store.index().last_use_ms(thing.used()) {
                    facts.last_use_ms = facts.last_use_ms.max(used);
                }
                things.insert(thing, facts);
            }
        }
    }
    Ok(things)
}

fn find_records(store: &Store, survey: &mut Survey) -> io::Result<()> {
    for (name, mut facts) in files(store, "records")? {
        let Some(key) = key(&hex_of(&name)) else { continue };
        let last_use_ms = store.index().last_use_ms(Used::Record(key));
        let Some(record) = store.disk_records().peek(key) else {
            continue;
        };
        facts.last_use_ms = last_use_ms.unwrap_or(facts.last_use_ms);
        for thing in things_of(&record) {
            *survey.references.entry(thing).or_default() += 1;
        }
        survey.records.insert(key, (record, facts));
    }
    for (name, _) in files(store, "history")? {
        let keys = store.histories().keys_in(&name);
        survey.step_keys.extend(keys);
    }
    Ok(())
}

fn things_of(record: &CacheRecord) -> Vec<Thing> {
    let mut things = things_of_layer(&record.layer);
    things.push(Thing::Preimage(record.key));
    things.push(Thing::Snapshot(record.chain));
    things
}

fn things_of_layer(layer: &LayerInfo) -> Vec<Thing> {
    // A set first: one blob under two media types must not count twice.
    let blobs: HashSet<Digest> = layer.forms.iter().map(|form| form.digest).collect();
    let mut things: Vec<Thing> = blobs.into_iter().map(Thing::Blob).collect();
    things.extend([Thing::Tree(layer.diff_id), Thing::Forms(layer.diff_id)]);
    things
}

fn mark_images(store: &Store, survey: &mut Survey) -> io::Result<()> {
    for image in store.images().list()? {
        for variant in image.variants() {
            mark_variant(store, survey, variant);
        }
    }
    Ok(())
}

fn mark_variant(store: &Store, survey: &mut Survey, variant: &Variant) {
    survey.kept.insert(Thing::Blob(variant.config));
    let mut chain = None;
    for mut layer in variant.layers.iter().cloned() {
        crate::records::merge(&mut layer.forms, store.disk_records().forms(layer.diff_id));
        let top = ChainId::append(chain, layer.diff_id);
        survey.kept.extend(things_of_layer(&layer));
        survey.kept.insert(Thing::Snapshot(top));
        chain = Some(top);
    }
}

fn mark_leases(store: &Store, survey: &mut Survey) {
    for held in store.leases().held() {
        match held {
            Held::Blob(digest) => {
                survey.kept.insert(Thing::Blob(digest));
            }
            Held::Chain(chain) => {
                survey.kept.insert(Thing::Snapshot(chain));
            }
            Held::Layer(diff_id) => survey.kept.extend([Thing::Tree(diff_id), Thing::Forms(diff_id)]),
            Held::Record(key) => {
                survey.kept_records.insert(key);
                let things = survey.records.get(&key).map(|(record, _)| things_of(record));
                survey.kept.extend(things.unwrap_or_default());
            }
        }
    }
}

/// What may go, in the order in which it goes.
fn candidates(survey: &Survey, policy: Policy) -> Vec<Candidate> {
    let recent = |facts: &Facts| !policy.all && facts.last_use_ms.saturating_add(RECENT_MS) > survey.now_ms;
    let mut candidates = Vec::new();
    for (key, (record, facts)) in &survey.records {
        if survey.kept_records.contains(key) || recent(facts) {
            continue;
        }
        let things = things_of(record);
        let bytes: u64 = things
            .iter()
            .filter_map(|thing| survey.things.get(thing))
            .map(|facts| facts.bytes)
            .sum();
        candidates.push(Candidate {
            what: What::Record(*key),
            facts: Facts {
                bytes: facts.bytes + bytes,
                ..*facts
            },
            duration_ms: record.duration_ms,
        });
    }
    for (thing, facts) in &survey.things {
        let explains = matches!(thing, Thing::Preimage(key) if survey.step_keys.contains(key)) && !policy.all;
        let used = survey.kept.contains(thing) || survey.references.contains_key(thing);
        if !used && !explains && !recent(facts) {
            candidates.push(Candidate {
                what: What::Loose(*thing),
                facts: *facts,
                duration_ms: 0,
            });
        }
    }
    candidates.sort_by(|a, b| b.eagerness(survey.now_ms).total_cmp(&a.eagerness(survey.now_ms)));
    candidates
}

fn drop_candidate(
    store: &Store,
    candidate: &Candidate,
    survey: &mut Survey,
    snapshots: Option<&dyn SnapshotSweep>,
    freed: &mut Freed,
) {
    let key = match candidate.what {
        What::Loose(thing) => return drop_thing(store, thing, survey, snapshots, freed),
        What::Record(key) => key,
    };
    let name = record_name(key);
    let before = freed.removed;
    let bytes = survey.records.get(&key).map_or(0, |(_, facts)| facts.bytes);
    store
        .leases()
        .unless_held(&[Held::Record(key)], || remove_file(store, &name, bytes, freed));
    if freed.removed == before {
        return;
    }
    store.index().forget(Used::Record(key));
    let Some((record, _)) = survey.records.remove(&key) else {
        return;
    };
    for thing in things_of(&record) {
        let left = survey.references.entry(thing).or_default();
        *left = left.saturating_sub(1);
        // Its explanation outlives the record as long as it is the last word on its step.
        let explains = matches!(thing, Thing::Preimage(_)) && survey.step_keys.contains(&key);
        if *left == 0 && !survey.kept.contains(&thing) && !explains {
            drop_thing(store, thing, survey, snapshots, freed);
        }
    }
}

fn drop_thing(
    store: &Store,
    thing: Thing,
    survey: &mut Survey,
    snapshots: Option<&dyn SnapshotSweep>,
    freed: &mut Freed,
) {
    let Some(facts) = survey.things.remove(&thing) else {
        return;
    };
    let name = match thing {
        Thing::Blob(digest) => blob_name(digest),
        Thing::Tree(diff_id) => tree_name(diff_id),
        Thing::Forms(diff_id) => forms_name(diff_id),
        Thing::Preimage(key) => preimage_name(key),
        Thing::Snapshot(chain) => return drop_snapshot(store, chain, facts.bytes, snapshots, freed),
    };
    let removed = store
        .leases()
        .unless_held(&[thing.held()], || remove_file(store, &name, facts.bytes, freed));
    if removed.is_some() {
        store.index().forget(thing.used());
    }
}

fn drop_snapshot(store: &Store, chain: ChainId, bytes: u64, snapshots: Option<&dyn SnapshotSweep>, freed: &mut Freed) {
    let Some(snapshots) = snapshots else { return };
    match store
        .leases()
        .unless_held(&[Held::Chain(chain)], || snapshots.remove(chain))
    {
        Some(Ok(())) => {
            freed.bytes += bytes;
            freed.removed += 1;
            store.index().forget(Used::Chain(chain));
        }
        Some(Err(error)) => tracing::warn!(%chain, %error, "a snapshot cannot be collected"),
        None => {}
    }
}

/// Removes aliases that lead to no record.
fn drop_dangling_keys(store: &Store, survey: &Survey, freed: &mut Freed) -> io::Result<()> {
    for (name, facts) in files(store, "aliases")? {
        let target = store.disk_records().key_in(&name);
        if target.is_some_and(|key| !survey.records.contains_key(&key) && !store.disk_records().has(key)) {
            remove_file(store, &name, facts.bytes, freed);
        }
    }
    Ok(())
}

/// Removes records of builds. Histories stay, within their number: they say of what is collected here that it was.
fn drop_builds(store: &Store, policy: Policy, now_ms: u64, freed: &mut Freed) -> io::Result<()> {
    for file in store.builds().files()? {
        let written = file.written.duration_since(UNIX_EPOCH).unwrap_or_default();
        let written_ms = u64::try_from(written.as_millis()).unwrap_or(u64::MAX);
        if policy.all || written_ms.saturating_add(RECENT_MS) <= now_ms {
            remove_file(store, &file.name, file.bytes, freed);
        }
    }
    Ok(())
}

/// Removes answers whose file is not in the store any more: it has to be fetched again anyway.
fn drop_answers(store: &Store, survey: &Survey, freed: &mut Freed) -> io::Result<()> {
    for (name, facts) in files(store, "answers")? {
        let target = store.answers().key_in(&name);
        if target.is_some_and(|key| !survey.records.contains_key(&key) && !store.disk_records().has(key)) {
            remove_file(store, &name, facts.bytes, freed);
        }
    }
    Ok(())
}

/// Removes git repositories that nobody uses: everything in them can be fetched again.
fn drop_mirrors(store: &Store, policy: Policy, now_ms: u64, freed: &mut Freed) -> io::Result<()> {
    for mirror in store.mirrors().list()? {
        let recent = !policy.all && mirror.last_use_ms.saturating_add(RECENT_MS) > now_ms;
        if recent {
            continue;
        }
        match store.mirrors().remove(&mirror.name) {
            Ok(true) => {
                freed.bytes += mirror.bytes;
                freed.removed += 1;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(mirror = mirror.name, %error, "a git mirror cannot be collected"),
        }
    }
    Ok(())
}

fn remove_file(store: &Store, name: &str, bytes: u64, freed: &mut Freed) {
    match store.disk().remove(name) {
        Ok(true) => {
            freed.bytes += bytes;
            freed.removed += 1;
        }
        Ok(false) => {}
        Err(error) => tracing::warn!(file = name, %error, "a file of the store cannot be collected"),
    }
}

/// All files below the directory `dir` of the root, by name.
fn files(store: &Store, dir: &str) -> io::Result<Vec<(String, Facts)>> {
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
                let last_use_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                let bytes = allocated(&facts);
                found.push((name, Facts { bytes, last_use_ms }));
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
