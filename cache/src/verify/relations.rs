//! What leads where: records and images whose layers are nowhere whole.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;

use proto::digest::{ChainId, DiffId, Digest};
use proto::oci::Descriptor;
use proto::record::{CacheKey, CacheRecord, LayerInfo};

use super::finding::{Finding, Part, Remedy, Wrong};
use super::{Run, VerifyError};
use crate::blob::disk::file_name as blob_name;
use crate::images::{self, Image, Variant};
use crate::lease::Held;
use crate::records::{forms_name, parse_forms, record_name};
use crate::sealed::{self, Inspected};
use crate::trees::tree_name;

/// Most users that are named of one thing.
const MOST_USERS: usize = 10;

/// What was learned while reading.
#[derive(Default)]
pub(super) struct Known {
    pub(super) records: HashMap<CacheKey, CacheRecord>,
    pub(super) images: Vec<Image>,
    pub(super) forms: HashMap<DiffId, Vec<Descriptor>>,
    /// Damaged ones, with the inode of what was read: another one is another copy.
    pub(super) bad_blobs: HashMap<Digest, u64>,
    pub(super) bad_snapshots: HashSet<ChainId>,
}

impl Known {
    /// The topmost layer of each chain that a record or an image names.
    pub(super) fn layers(&self) -> HashMap<ChainId, DiffId> {
        let of_record = |record: &CacheRecord| (record.chain, record.layer.diff_id);
        let mut layers: HashMap<ChainId, DiffId> = self.records.values().map(of_record).collect();
        for variant in self.images.iter().flat_map(Image::variants) {
            layers.extend(chains(variant).into_iter().map(|(chain, layer)| (chain, layer.diff_id)));
        }
        layers
    }

    pub(super) fn users_of_blob(&self, digest: Digest) -> Vec<String> {
        let has = |layer: &LayerInfo| {
            let further = self.forms.get(&layer.diff_id).into_iter().flatten();
            layer.forms.iter().chain(further).any(|form| form.digest == digest)
        };
        self.users(has, |variant| variant.config == digest)
    }

    /// Whether a record or an image needs the layer.
    pub(super) fn needs(&self, diff_id: DiffId) -> bool {
        !self.users_of_layer(diff_id).is_empty()
    }

    pub(super) fn users_of_layer(&self, diff_id: DiffId) -> Vec<String> {
        self.users(|layer| layer.diff_id == diff_id, |_| false)
    }

    /// Steps and images with such a layer, or such an image.
    fn users(&self, layer: impl Fn(&LayerInfo) -> bool, variant: impl Fn(&Variant) -> bool) -> Vec<String> {
        let steps = self.records.values().filter(|record| layer(&record.layer));
        let mut users: Vec<String> = steps.map(|record| format!("step {}", record.step)).collect();
        let needs = |image: &&Image| {
            let mut variants = image.variants();
            variants.any(|found| variant(found) || found.layers.iter().any(&layer))
        };
        let images = self.images.iter().filter(needs);
        users.extend(images.map(|image| format!("image {}", image.reference.familiar())));
        users.sort();
        users.dedup();
        let more = users.len().saturating_sub(MOST_USERS);
        if more > 0 {
            users.truncate(MOST_USERS);
            users.push(format!("{more} more"));
        }
        users
    }
}

/// The layers of an image with their chains, base first.
fn chains(variant: &Variant) -> Vec<(ChainId, &LayerInfo)> {
    let mut chain = None;
    let mut chains = Vec::with_capacity(variant.layers.len());
    for layer in &variant.layers {
        let top = ChainId::append(chain, layer.diff_id);
        chains.push((top, layer));
        chain = Some(top);
    }
    chains
}

impl Run<'_> {
    pub(super) fn relations(&mut self) -> Result<(), VerifyError> {
        let records = std::mem::take(&mut self.known.records);
        for record in records.values() {
            self.record(record)?;
        }
        self.known.records = records;
        for image in std::mem::take(&mut self.known.images) {
            self.image(&image)?;
        }
        Ok(())
    }

    fn record(&mut self, record: &CacheRecord) -> Result<(), VerifyError> {
        let (disk, name) = (self.store.disk(), record_name(record.key));
        // A collection removes the record first: one that is there after its layer was looked for should have found it. One that
        // was written again meanwhile has its layer by now.
        if self.has_layer(&record.layer, record.chain)
            || !disk.contains(&name)?
            || self.has_layer(&record.layer, record.chain)
        {
            return Ok(());
        }
        let leases = self.store.leases();
        let remedy = self.mend(Remedy::Removed, || {
            let held = [Held::Record(record.key)];
            leases.unless_held(&held, || disk.remove(&name)).unwrap_or(Ok(false))
        });
        self.found(Finding {
            detail: format!("layer {} is nowhere whole: its step runs again", record.layer.diff_id),
            needed_by: vec![format!("step {}", record.step)],
            remedy,
            ..Finding::new(Part::Record, Wrong::Missing, record.key.to_string())
        })
    }

    fn image(&mut self, image: &Image) -> Result<(), VerifyError> {
        let name = images::file_name(&image.reference);
        let Some(detail) = image.variants().find_map(|variant| self.lack(variant)) else {
            return Ok(());
        };
        // Another build may have given the name to another image.
        if self.store.images().peek(&image.reference).as_ref() != Some(image) {
            return Ok(());
        }
        let disk = self.store.disk();
        let remedy = self.mend(Remedy::SetAside, || disk.set_aside(&name).map(|()| true));
        self.found(Finding {
            detail,
            remedy,
            ..Finding::new(Part::Image, Wrong::Missing, image.reference.familiar().to_string())
        })
    }

    /// What an image needs and cannot have.
    fn lack(&self, variant: &Variant) -> Option<String> {
        if !self.has_blob(variant.config) {
            return Some(format!("its config {} is gone: build or pull it again", variant.config));
        }
        let lost = chains(variant).into_iter().find(|(chain, layer)| {
            // What came from elsewhere is fetched again when it is needed.
            !variant.origins.contains_key(&layer.diff_id) && !self.has_layer(layer, *chain)
        });
        lost.map(|(_, layer)| format!("layer {} is nowhere whole: build or pull it again", layer.diff_id))
    }

    /// Whether the bytes of a layer are there: as a blob, or as a snapshot with the tree that says in which order they were.
    fn has_layer(&self, layer: &LayerInfo, chain: ChainId) -> bool {
        let disk = self.store.disk();
        let unpacked = self.snapshots.contains(chain)
            && !self.known.bad_snapshots.contains(&chain)
            && disk.contains(&tree_name(layer.diff_id)).is_ok_and(|there| there);
        unpacked || layer.forms.iter().any(|form| self.has_blob(form.digest)) || self.has_further_form(layer.diff_id)
    }

    fn has_further_form(&self, diff_id: DiffId) -> bool {
        let parse = |payload: Vec<u8>| Some(parse_forms(&payload)?.0);
        let forms = match sealed::inspect(self.store.disk(), &forms_name(diff_id), sealed::MAX_BYTES, parse) {
            Inspected::Good(forms) => forms,
            Inspected::Absent | Inspected::Damaged(_) | Inspected::Unreadable(_) => return false,
        };
        forms.iter().any(|form| self.has_blob(form.digest))
    }

    /// Whether a blob is there, and is not the copy that was found to be damaged.
    fn has_blob(&self, digest: Digest) -> bool {
        // One that cannot be opened is as good as none.
        let Ok(Some(file)) = self.store.disk().open_file(&blob_name(digest)) else {
            return false;
        };
        let inode = file.metadata().map_or(0, |facts| facts.ino());
        self.known.bad_blobs.get(&digest) != Some(&inode)
    }
}
