//! Records: key → result, and what belongs to keys: aliases, preimages, later forms of layers.
//!
//! One small sealed file each, so a lookup is one read of a file by name and knows no index. A record that is bad in any way
//! is a miss. The first writer of a key wins: the loser gets the winner's record and adopts it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use prost::Message;
use proto::digest::{ContentDigest, DiffId, Digest};
use proto::oci::Descriptor;
use proto::record::{Alias, CacheKey, CacheRecord, MissReason, Preimage};
use proto::v1;

use crate::durable::{Disk, Sync, WriteError, lock};
use crate::index::{Index, Used};
use crate::sealed;

/// What became of a record that was to be inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// It answers its key from now on.
    Mine,
    /// This one was there first and goes on answering.
    Theirs(Box<CacheRecord>),
}

/// Key → record. Visible at once, durable with the next commit of the store's group.
pub trait RecordStore: std::fmt::Debug + Send + std::marker::Sync {
    /// The record of each key, in the order of `keys`. What cannot be read is a miss.
    fn lookup(&self, keys: &[CacheKey]) -> Vec<Option<CacheRecord>>;

    /// Adds `record`, unless its key has one.
    ///
    /// # Errors
    /// When it cannot be written.
    fn insert(&self, record: &CacheRecord) -> Result<Inserted, WriteError>;

    /// Remembers that `form` holds the layer `diff_id`: every record of that layer has it from now on.
    ///
    /// # Errors
    /// When it cannot be written.
    fn add_form(&self, diff_id: DiffId, form: &Descriptor) -> Result<(), WriteError>;

    /// Removes the record of `key`. Returns whether there was one.
    ///
    /// # Errors
    /// When it is there and stays.
    fn remove(&self, key: CacheKey) -> Result<bool, WriteError>;
}

/// Records as files.
#[derive(Debug)]
pub struct DiskRecords {
    disk: Arc<Disk>,
    index: Arc<Index>,
    // Reading what is there and writing what is new must be one step.
    writing: Mutex<()>,
}

/// Directory of the aliases.
const ALIASES: &str = "aliases";

/// Name of a small file below `kind`, spread over 256 directories by its first two digits.
pub(crate) fn file_name(kind: &str, hex: &str) -> String {
    format!("{kind}/{}/{hex}", &hex[..2])
}

fn alias_name(key: CacheKey) -> String {
    file_name(ALIASES, &key.0.hex())
}

pub(crate) fn record_name(key: CacheKey) -> String {
    file_name("records", &key.0.hex())
}

pub(crate) fn preimage_name(key: CacheKey) -> String {
    file_name("preimages", &key.0.hex())
}

pub(crate) fn forms_name(diff_id: DiffId) -> String {
    file_name("forms", &diff_id.0.hex())
}

/// Blobs that hold a layer, and by which recipes those of this store were made.
pub(crate) type Forms = (Vec<Descriptor>, Vec<(Digest, String)>);

/// The forms that a file of forms names.
pub(crate) fn parse_forms(payload: &[u8]) -> Option<Forms> {
    // As for `sealed::decode`: whose file it is does not matter, it counts as absent.
    let stored = v1::StoredForms::decode(payload).ok()?;
    let forms = stored.forms.into_iter().map(|form| Descriptor::try_from(form).ok());
    let made = stored.made.into_iter().map(|made| {
        let digest = Digest::from_bytes(made.digest.try_into().ok()?);
        Some((digest, made.recipe))
    });
    Some((forms.collect::<Option<_>>()?, made.collect::<Option<_>>()?))
}

impl DiskRecords {
    pub(crate) fn new(disk: Arc<Disk>, index: Arc<Index>) -> Self {
        Self {
            disk,
            index,
            writing: Mutex::default(),
        }
    }

    fn read(&self, key: CacheKey) -> Option<CacheRecord> {
        let parse = |payload: Vec<u8>| sealed::decode::<v1::StoredRecord, CacheRecord>(&payload);
        sealed::read(&self.disk, &record_name(key), sealed::MAX_BYTES, parse).filter(|record| record.key == key)
    }

    /// Forms of a layer that became known after its records were written.
    #[must_use]
    pub fn forms(&self, diff_id: DiffId) -> Vec<Descriptor> {
        self.read_forms(diff_id).0
    }

    /// Blobs of a layer that were made in this store, and the recipes they were made by. A blob may have several: they gave
    /// the same bytes.
    #[must_use]
    pub fn made_forms(&self, diff_id: DiffId) -> Vec<(Digest, String)> {
        self.read_forms(diff_id).1
    }

    /// As [`RecordStore::add_form`], for a form that was made by `recipe`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_made_form(&self, diff_id: DiffId, form: &Descriptor, recipe: &str) -> Result<(), WriteError> {
        self.add(diff_id, form, Some(recipe))
    }

    fn read_forms(&self, diff_id: DiffId) -> Forms {
        let parse = |payload: Vec<u8>| parse_forms(&payload);
        sealed::read(&self.disk, &forms_name(diff_id), sealed::MAX_BYTES, parse).unwrap_or_default()
    }

    fn add(&self, diff_id: DiffId, form: &Descriptor, recipe: Option<&str>) -> Result<(), WriteError> {
        let _one_at_a_time = lock(&self.writing);
        let (mut forms, mut made) = self.read_forms(diff_id);
        let is_known = !merge(&mut forms, vec![form.clone()]);
        let recipe = recipe.map(|recipe| (form.digest, recipe.to_owned()));
        let recipe = recipe.filter(|recipe| !made.contains(recipe));
        if is_known && recipe.is_none() {
            return Ok(());
        }
        made.extend(recipe);
        let made = made.into_iter().map(|(digest, recipe)| v1::stored_forms::Made {
            digest: digest.as_bytes().to_vec(),
            recipe,
        });
        let stored = v1::StoredForms {
            forms: forms.iter().map(v1::StoredForm::from).collect(),
            made: made.collect(),
        };
        sealed::write(&self.disk, &forms_name(diff_id), stored.encode_to_vec(), Sync::Group)
    }

    /// What the definition key `key` led to last, for each key. What cannot be read is a miss.
    #[must_use]
    pub fn aliases(&self, keys: &[CacheKey]) -> Vec<Option<Alias>> {
        let read = |key: &CacheKey| self.read_alias(&alias_name(*key));
        keys.iter().map(read).collect()
    }

    /// Remembers that `key` leads to `alias`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_alias(&self, key: CacheKey, alias: &Alias) -> Result<(), WriteError> {
        let name = alias_name(key);
        let _one_at_a_time = lock(&self.writing);
        if self.read_alias(&name).as_ref() == Some(alias) {
            return Ok(());
        }
        sealed::write(
            &self.disk,
            &name,
            v1::StoredAlias::from(alias).encode_to_vec(),
            Sync::Group,
        )
    }

    /// What `key` was computed from, if it is known.
    #[must_use]
    pub fn preimage(&self, key: CacheKey) -> Option<Preimage> {
        let parse = |payload: Vec<u8>| Some(v1::StoredPreimage::decode(payload.as_slice()).ok()?.into());
        sealed::read(&self.disk, &preimage_name(key), sealed::MAX_BYTES, parse)
    }

    /// Remembers what `key` was computed from.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_preimage(&self, key: CacheKey, preimage: &Preimage) -> Result<(), WriteError> {
        // A key has one preimage, and an all-hit build must write nothing.
        if self.preimage(key).is_some() {
            return Ok(());
        }
        let payload = v1::StoredPreimage::from(preimage).encode_to_vec();
        sealed::write(&self.disk, &preimage_name(key), payload, Sync::Group)
    }

    /// Why `key`, known to have had a record, has none now: damaged or collected. Nothing if it has one.
    #[must_use]
    pub fn absence(&self, key: CacheKey) -> Option<MissReason> {
        if self.read(key).is_some() {
            None
        } else if self.disk.is_set_aside(&record_name(key)) {
            Some(MissReason::Damaged)
        } else {
            Some(MissReason::Evicted)
        }
    }

    /// As a lookup, but this is no use of the record.
    pub(crate) fn peek(&self, key: CacheKey) -> Option<CacheRecord> {
        let mut record = self.read(key)?;
        merge(&mut record.layer.forms, self.forms(record.layer.diff_id));
        Some(record)
    }

    pub(crate) fn has(&self, key: CacheKey) -> bool {
        self.read(key).is_some()
    }

    /// The key in the alias file `name`.
    pub(crate) fn key_in(&self, name: &str) -> Option<CacheKey> {
        if name.starts_with(ALIASES) {
            return self.read_alias(name).map(|alias| alias.key);
        }
        self.read_key(name)
    }

    fn read_alias(&self, name: &str) -> Option<Alias> {
        let parse = |payload: Vec<u8>| sealed::decode::<v1::StoredAlias, Alias>(&payload);
        sealed::read(&self.disk, name, sealed::MAX_BYTES, parse)
    }

    fn read_key(&self, name: &str) -> Option<CacheKey> {
        let parse = |payload: Vec<u8>| Some(CacheKey(ContentDigest::from_bytes(payload.try_into().ok()?)));
        sealed::read(&self.disk, name, sealed::MAX_BYTES, parse)
    }
}

impl RecordStore for DiskRecords {
    fn lookup(&self, keys: &[CacheKey]) -> Vec<Option<CacheRecord>> {
        let look = |key: &CacheKey| {
            let record = self.peek(*key)?;
            self.index.touch(Used::Record(*key));
            Some(record)
        };
        keys.iter().map(look).collect()
    }

    fn insert(&self, record: &CacheRecord) -> Result<Inserted, WriteError> {
        let _one_at_a_time = lock(&self.writing);
        if let Some(theirs) = self.lookup(&[record.key]).pop().flatten() {
            return Ok(Inserted::Theirs(Box::new(theirs)));
        }
        let payload = v1::StoredRecord::from(record).encode_to_vec();
        sealed::write(&self.disk, &record_name(record.key), payload, Sync::Group)?;
        self.index.touch(Used::Record(record.key));
        Ok(Inserted::Mine)
    }

    fn add_form(&self, diff_id: DiffId, form: &Descriptor) -> Result<(), WriteError> {
        self.add(diff_id, form, None)
    }

    fn remove(&self, key: CacheKey) -> Result<bool, WriteError> {
        let name = record_name(key);
        let removed = self.disk.remove(&name);
        removed.map_err(|source| WriteError::new(&self.disk.root().join(name), 0, source))
    }
}

/// Adds those of `more` whose blobs `forms` does not have. Returns whether there were any.
pub(crate) fn merge(forms: &mut Vec<Descriptor>, more: Vec<Descriptor>) -> bool {
    let before = forms.len();
    for form in more {
        if !forms.iter().any(|known| known.digest == form.digest) {
            forms.push(form);
        }
    }
    forms.len() > before
}

/// Records in memory: the second implementation, for tests.
#[derive(Debug, Default)]
pub struct MemoryRecords {
    records: Mutex<HashMap<CacheKey, CacheRecord>>,
    forms: Mutex<HashMap<DiffId, Vec<Descriptor>>>,
}

impl RecordStore for MemoryRecords {
    fn lookup(&self, keys: &[CacheKey]) -> Vec<Option<CacheRecord>> {
        let look = |key: &CacheKey| {
            let mut record = lock(&self.records).get(key)?.clone();
            let forms = lock(&self.forms)
                .get(&record.layer.diff_id)
                .cloned()
                .unwrap_or_default();
            merge(&mut record.layer.forms, forms);
            Some(record)
        };
        keys.iter().map(look).collect()
    }

    fn insert(&self, record: &CacheRecord) -> Result<Inserted, WriteError> {
        if let Entry::Vacant(vacant) = lock(&self.records).entry(record.key) {
            vacant.insert(record.clone());
            return Ok(Inserted::Mine);
        }
        let theirs = self.lookup(&[record.key]).pop().flatten();
        Ok(Inserted::Theirs(Box::new(theirs.unwrap_or_else(|| record.clone()))))
    }

    fn add_form(&self, diff_id: DiffId, form: &Descriptor) -> Result<(), WriteError> {
        merge(lock(&self.forms).entry(diff_id).or_default(), vec![form.clone()]);
        Ok(())
    }

    fn remove(&self, key: CacheKey) -> Result<bool, WriteError> {
        Ok(lock(&self.records).remove(&key).is_some())
    }
}
