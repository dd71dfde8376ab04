//! What the store holds, one by one.

use std::collections::HashMap;
use std::io;

use super::filter::{Filter, Subject, meets_all};
use super::survey::{Facts, Survey, files, things_of_variant};
use super::thing::{Kind, Thing, things_of};
use super::{SnapshotSweep, failed};
use crate::store::Store;

/// Something that takes room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Its name: a digest, a key, or the name of a file.
    pub id: String,
    /// Allocated bytes.
    pub size_bytes: u64,
    /// In milliseconds since 1970; 0 if it is not known.
    pub created_ms: u64,
    /// In milliseconds since 1970; 0 if it is not known.
    pub last_used_ms: u64,
    /// Whether a build uses it now.
    pub in_use: bool,
    /// Whether nothing holds it: no build, no image.
    pub reclaimable: bool,
    /// The step that made it, the image that needs it, or what a mount is for; empty if it is not known.
    pub description: String,
}

/// All items that meet `filters`, the largest first.
pub(super) fn list(store: &Store, snapshots: Option<&dyn SnapshotSweep>, filters: &[Filter]) -> io::Result<Vec<Item>> {
    let survey = Survey::of(store, snapshots)?;
    let (of_records, of_images) = (described_by_records(&survey), described_by_images(store)?);
    let mut items = records(&survey);
    for (thing, facts) in &survey.things {
        // Small files that lie beside a record or a tree are counted with it.
        if matches!(thing, Thing::Preimage(key) if survey.records.contains_key(key)) {
            continue;
        }
        let made_by = of_records.get(thing);
        let mount = survey
            .mounts
            .get(thing)
            .map(|about| format!("{} in {}", about.id, about.step));
        let description = made_by.map(|(step, _)| (*step).to_owned());
        let explains = matches!(thing, Thing::Preimage(_)).then(|| "explains the next run of a step".to_owned());
        let of_image = || of_images.get(thing).cloned();
        let description = description.or_else(of_image).or(mount).or(explains);
        items.push(Item {
            kind: thing.kind(),
            id: thing.id(),
            size_bytes: facts.bytes,
            created_ms: made_by.map_or(facts.created_ms, |(_, created_ms)| *created_ms),
            last_used_ms: facts.last_use_ms,
            in_use: survey.in_use.contains(thing),
            reclaimable: !survey.kept.contains(thing),
            description: description.unwrap_or_default(),
        });
    }
    for (name, facts) in files(store, "quarantine")? {
        items.push(damaged(name, facts));
    }
    for step in store.kept().list()? {
        items.push(failed::item(store, &step));
    }
    items.retain(|item| {
        let subject = Subject {
            kind: item.kind,
            ids: std::slice::from_ref(&item.id),
            idle_ms: survey.now_ms.saturating_sub(item.last_used_ms),
            in_use: item.in_use,
            description: &item.description,
        };
        meets_all(filters, &subject)
    });
    items.sort_by(|a, b| (b.size_bytes, a.kind, &a.id).cmp(&(a.size_bytes, b.kind, &b.id)));
    Ok(items)
}

fn records(survey: &Survey) -> Vec<Item> {
    let item = |(key, (record, facts)): (&_, &(proto::record::CacheRecord, Facts))| {
        let explanation = survey.things.get(&Thing::Preimage(*key));
        Item {
            kind: Kind::Record,
            id: key.to_string(),
            size_bytes: facts.bytes + explanation.map_or(0, |facts| facts.bytes),
            created_ms: facts.created_ms,
            last_used_ms: facts.last_use_ms,
            in_use: survey.kept_records.contains(key),
            reclaimable: !survey.kept_records.contains(key),
            description: record.step.clone(),
        }
    };
    survey.records.iter().map(item).collect()
}

fn damaged(name: String, facts: Facts) -> Item {
    Item {
        kind: Kind::Damaged,
        id: name.rsplit('/').next().unwrap_or_default().to_owned(),
        size_bytes: facts.bytes,
        created_ms: facts.created_ms,
        last_used_ms: facts.last_use_ms,
        in_use: false,
        reclaimable: true,
        description: String::new(),
    }
}

/// The step that made each thing first, and when.
fn described_by_records(survey: &Survey) -> HashMap<Thing, (&str, u64)> {
    let mut described: HashMap<Thing, (&str, u64)> = HashMap::new();
    for (record, _) in survey.records.values() {
        for thing in things_of(record) {
            let mine = (record.step.as_str(), record.created_ms);
            let known = described.entry(thing).or_insert(mine);
            if (mine.1, mine.0) < (known.1, known.0) {
                *known = mine;
            }
        }
    }
    described
}

fn described_by_images(store: &Store) -> io::Result<HashMap<Thing, String>> {
    let mut described = HashMap::new();
    for image in store.images().list()? {
        for variant in image.variants() {
            for thing in things_of_variant(store, variant) {
                described
                    .entry(thing)
                    .or_insert_with(|| format!("image {}", image.reference.familiar()));
            }
        }
    }
    Ok(described)
}
