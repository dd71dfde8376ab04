//! Keeps an image in the store under its names.

use std::io::{Read, Write};
use std::sync::Arc;

use cache::blob::BlobStore;
use cache::images::{Image as StoredImage, Variant};
use cache::store::Store;
use proto::digest::Digest;
use proto::reference::Reference;

use super::bundle::Settled;
use super::image::Document;
use crate::build::Job;
use crate::layers::store_failed;
use crate::phase::Phase;
use crate::request::BuildError;
use crate::stack::Origin;

/// Writes the configs, then moves every name to the images, or to the `index` over them. Everything the names lead to is durable
/// before the first one moves.
///
/// # Errors
/// A store that cannot be written.
pub fn keep(images: &[Settled], index: Option<Digest>, names: &[Reference], job: &Job) -> Result<(), BuildError> {
    let _phase = Phase::Keep.start();
    let store = &job.host.store;
    for image in images {
        write_blob(job, &image.config)?;
    }
    let [first, further @ ..] = images else {
        return Err(BuildError::bug("a result without an image"));
    };
    if names.is_empty() {
        return Ok(());
    }
    job.host.layers.make_durable()?;
    for name in names {
        let stored = StoredImage {
            reference: name.clone(),
            first: variant(first),
            further: further.iter().map(variant).collect(),
            index,
            created_ms: images.iter().map(|image| image.created_ms).max().unwrap_or(0),
        };
        store.images().put(&stored).map_err(|error| store_failed(&error))?;
    }
    Ok(())
}

fn variant(image: &Settled) -> Variant {
    let layers = image.stack.layers();
    let origins = layers.iter().filter_map(|layer| match &layer.origin {
        Origin::Registry(reference) => Some((layer.info.diff_id, (**reference).clone())),
        Origin::Built | Origin::Layout(_) | Origin::Fetched(_) => None,
    });
    Variant {
        config: image.config.descriptor.digest,
        platform: image.platform.clone(),
        layers: layers.iter().map(|layer| layer.info.clone()).collect(),
        origins: origins.collect(),
    }
}

/// Writes a document as a blob, unless it is there.
///
/// # Errors
/// A store that cannot be written.
pub fn write_blob(job: &Job, document: &Document) -> Result<(), BuildError> {
    if job.host.layers.has_blob(document.descriptor.digest) {
        return Ok(());
    }
    let store = &job.host.store;
    let mut ingest = store.blobs().ingest().map_err(|error| store_failed(&error))?;
    ingest
        .write_all(&document.bytes)
        .map_err(|error| store_failed(&error))?;
    let expected = (document.descriptor.digest, document.descriptor.size);
    ingest.commit(Some(expected)).map_err(|error| store_failed(&error))?;
    Ok(())
}

/// A small blob of the store, verified; nothing if it is not there.
///
/// # Errors
/// Blobs over `limit` bytes; a store that cannot be read. A damaged blob counts as absent.
pub fn read_blob(store: &Arc<Store>, digest: Digest, limit: usize) -> Result<Option<Vec<u8>>, BuildError> {
    let Some(reader) = store.blobs().open(digest).map_err(|error| store_failed(&error))? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    match reader.take(limit as u64 + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() > limit => Err(BuildError::environment(format!(
            "blob {digest} is larger than {limit} bytes"
        ))),
        Ok(_) => Ok(Some(bytes)),
        Err(error) if cache::blob::damaged(&error).is_some() => Ok(None),
        Err(error) => Err(store_failed(&error)),
    }
}
