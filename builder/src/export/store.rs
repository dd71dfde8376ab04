//! Keeps an image in the store under its names.

use std::io::{Read, Write};
use std::sync::Arc;

use cache::blob::BlobStore;
use cache::images::Image as StoredImage;
use cache::store::Store;
use proto::digest::Digest;
use proto::reference::Reference;

use super::image::{Document, Image};
use crate::build::Job;
use crate::layers::store_failed;
use crate::request::BuildError;
use crate::stack::{Origin, Stack};

/// Writes the config, then moves every name to it. Everything the names lead to is durable before the first one moves.
///
/// # Errors
/// A store that cannot be written.
pub fn keep(image: &Image, stack: &Stack, config: &Document, names: &[Reference], job: &Job) -> Result<(), BuildError> {
    let store = &job.host.store;
    write_blob(store, config)?;
    if names.is_empty() {
        return Ok(());
    }
    job.host.layers.make_durable()?;
    for name in names {
        let origins = stack.layers().iter().filter_map(|layer| match &layer.origin {
            Origin::Registry(reference) => Some((layer.info.diff_id, (**reference).clone())),
            Origin::Built | Origin::Layout(_) | Origin::Fetched(_) => None,
        });
        let stored = StoredImage {
            reference: name.clone(),
            config: config.descriptor.digest,
            platform: image.platform.clone(),
            layers: stack.layers().iter().map(|layer| layer.info.clone()).collect(),
            origins: origins.collect(),
            created_ms: image.created_ms,
        };
        store.images().put(&stored).map_err(|error| store_failed(&error))?;
    }
    Ok(())
}

/// Writes a document as a blob, unless it is there.
///
/// # Errors
/// A store that cannot be written.
pub fn write_blob(store: &Arc<Store>, document: &Document) -> Result<(), BuildError> {
    if store
        .blobs()
        .size(document.descriptor.digest)
        .is_ok_and(|size| size.is_some())
    {
        return Ok(());
    }
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
