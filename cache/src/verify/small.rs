//! Small files with a checksum: each is read, and what it says is kept as far as others need it.

use std::fs::Metadata;

use prost::Message;
use proto::digest::{DiffId, Digest};
use proto::history::{BuildRecord, History};
use proto::record::{Alias, CacheRecord};
use proto::tree::Tree;
use proto::v1;

use super::finding::{Finding, Part, Remedy, Wrong};
use super::{Run, VerifyError};
use crate::images::{self, Image};
use crate::sealed::{self, Inspected};
use crate::{answers, cache_mounts, records, trees};

/// Kinds of small files and their directories. What others lead to comes after those who lead there.
const KINDS: [(Part, &str); 10] = [
    (Part::Record, "records"),
    (Part::Image, "images"),
    (Part::Forms, "forms"),
    (Part::Tree, "trees"),
    (Part::Alias, "aliases"),
    (Part::Preimage, "preimages"),
    (Part::Answer, "answers"),
    (Part::History, "history"),
    (Part::Build, "builds"),
    (Part::CacheMount, "cachemounts"),
];

/// What a small file says, if others need it.
enum Said {
    Record(Box<CacheRecord>),
    Image(Box<Image>),
    Forms(Vec<proto::oci::Descriptor>),
    Nothing,
}

impl Run<'_> {
    pub(super) fn small_files(&mut self) -> Result<(), VerifyError> {
        for (part, dir) in KINDS {
            let files = match part {
                // Steps keep what they like below the directories beside these.
                Part::CacheMount => self.store.cache_mounts().about_files()?,
                _ => self.store.disk().files(dir)?,
            };
            let total = files.len();
            for (done, (name, bytes)) in files.into_iter().enumerate() {
                self.progress(part, done, total)?;
                self.summary.files += 1;
                self.summary.bytes += bytes;
                self.small_file(part, &name)?;
            }
        }
        Ok(())
    }

    fn small_file(&mut self, part: Part, name: &str) -> Result<(), VerifyError> {
        let limit = match part {
            Part::Tree => trees::MAX_BYTES,
            _ => sealed::MAX_BYTES,
        };
        let parse = |payload: Vec<u8>| parse(part, name, &payload);
        let (detail, file) = match sealed::inspect(self.store.disk(), name, limit, parse) {
            Inspected::Good(said) => return self.keep(said, name),
            // Collected meanwhile.
            Inspected::Absent => return Ok(()),
            Inspected::Damaged(file) => ("it is not what was written".to_owned(), Some(file)),
            Inspected::Unreadable(error) => (format!("it cannot be read: {error}"), None),
        };
        self.damaged_small_file(part, name, detail, file.as_ref())
    }

    fn damaged_small_file(
        &mut self,
        part: Part,
        name: &str,
        detail: String,
        file: Option<&Metadata>,
    ) -> Result<(), VerifyError> {
        let disk = self.store.disk();
        let remedy = self.mend(Remedy::SetAside, || match file {
            Some(file) => disk.set_aside_this(name, file),
            None => disk.set_aside(name).map(|()| true),
        });
        let needed_by = match (part, digest_of(name)) {
            (Part::Tree | Part::Forms, Some(digest)) => self.known.users_of_layer(DiffId(digest)),
            _ => Vec::new(),
        };
        self.found(Finding {
            detail,
            needed_by,
            remedy,
            ..Finding::new(part, Wrong::Damaged, name)
        })
    }

    fn keep(&mut self, said: Said, name: &str) -> Result<(), VerifyError> {
        match said {
            Said::Record(record) => {
                self.known.records.insert(record.key, *record);
            }
            Said::Image(image) => self.known.images.push(*image),
            Said::Forms(forms) => {
                if let Some(digest) = digest_of(name) {
                    self.known.forms.insert(DiffId(digest), forms);
                }
            }
            Said::Nothing => {}
        }
        Ok(())
    }
}

/// What the file `name` says, if it is one of `part`.
fn parse(part: Part, name: &str, payload: &[u8]) -> Option<Said> {
    Some(match part {
        Part::Record => {
            let record = sealed::decode::<v1::StoredRecord, CacheRecord>(payload)?;
            let own = records::record_name(record.key) == name;
            own.then(|| Said::Record(Box::new(record)))?
        }
        Part::Image => {
            let image = sealed::decode::<v1::StoredImage, Image>(payload)?;
            let own = images::file_name(&image.reference) == name;
            own.then(|| Said::Image(Box::new(image)))?
        }
        Part::Forms => Said::Forms(records::parse_forms(payload)?.0),
        Part::Tree => nothing(sealed::decode::<v1::Tree, Tree>(payload)?),
        Part::Alias => nothing(sealed::decode::<v1::StoredAlias, Alias>(payload)?),
        Part::Preimage => nothing(v1::StoredPreimage::decode(payload).ok()?),
        Part::Answer => nothing(answers::parse(payload)?),
        Part::History => nothing(sealed::decode::<v1::StoredHistory, History>(payload)?),
        Part::Build => nothing(sealed::decode::<v1::StoredBuild, BuildRecord>(payload)?),
        Part::CacheMount => nothing(cache_mounts::parse(payload)?),
        Part::Blob | Part::Snapshot | Part::Index | Part::Temporary | Part::Group => Said::Nothing,
    })
}

fn nothing<T>(_: T) -> Said {
    Said::Nothing
}

/// The digest that a file is named after; nothing if it is named otherwise.
pub(super) fn digest_of(name: &str) -> Option<Digest> {
    let hex = name.rsplit('/').next()?;
    format!("sha256:{hex}").parse().ok()
}
