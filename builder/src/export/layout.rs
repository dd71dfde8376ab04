//! An OCI layout as one tar: `blobs/`, blobs in order of their digests, `index.json`, `oci-layout`.
//!
//! Equal images give equal bytes: modes, owners and times of the members are fixed. Source: OCI image-spec 1.1,
//! `image-layout.md`; order and annotations as BuildKit writes them, so that tools that read its layouts read ours.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::sync::Arc;

use cache::blob::{BlobStore, VerifiedReader};
use cache::store::Store;
use proto::digest::Digest;
use proto::oci::{Descriptor, Index, json, media_type};
use proto::reference::Reference;

use super::bundle::Bundle;
use super::image::{Document, rfc3339};
use super::stream::{self, Chunks};
use crate::build::Job;
use crate::event::StepNumber;
use crate::fetch;
use crate::layers::store_failed;
use crate::request::BuildError;

/// Writes the layout of `bundle`, known by `names`, to output number `output` of the client.
///
/// # Errors
/// Layers that can not be had any more; what the client says.
pub async fn write(
    output: u32,
    bundle: &Bundle,
    names: &[Reference],
    job: &Job,
    step: StepNumber,
) -> Result<(), BuildError> {
    let layers = bundle.layers();
    for (descriptor, origin) in &layers {
        fetch::blob(origin, descriptor, job, step).await?;
    }
    let layers: BTreeSet<(Digest, u64)> = layers
        .iter()
        .map(|(descriptor, _)| (descriptor.digest, descriptor.size))
        .collect();
    let index = json::compact(&entry_point(bundle, names)?);
    let small: Vec<Document> = bundle.documents().cloned().collect();
    let store = Arc::clone(&job.host.store);
    stream::to_client(output, job, move |sink| {
        write_tar(sink, &store, &layers, &small, &index).map_err(|error| store_failed(&error))
    })
    .await
}

/// `index.json`: what the bundle is, once for each name.
fn entry_point(bundle: &Bundle, names: &[Reference]) -> Result<Index, BuildError> {
    let created = rfc3339(bundle.created_ms);
    let top = bundle.top()?;
    // An index says itself what its images run on.
    let single = bundle.images.first().filter(|_| bundle.index.is_none());
    let describe = |name: Option<&Reference>| {
        let mut annotations = BTreeMap::from([("org.opencontainers.image.created".to_owned(), created.clone())]);
        if let Some(name) = name {
            annotations.insert("io.containerd.image.name".to_owned(), name.to_string());
        }
        let tag = name.and_then(Reference::tag).unwrap_or("latest");
        annotations.insert("org.opencontainers.image.ref.name".to_owned(), tag.to_owned());
        Descriptor {
            annotations,
            platform: single.map(|image| image.platform.clone()),
            ..top.descriptor.clone()
        }
    };
    let manifests = match names {
        [] => vec![describe(None)],
        names => names.iter().map(|name| describe(Some(name))).collect(),
    };
    Ok(Index {
        schema_version: 2,
        media_type: media_type::INDEX.to_owned(),
        manifests,
        annotations: BTreeMap::new(),
    })
}

fn write_tar(
    sink: &mut Chunks,
    store: &Arc<Store>,
    layers: &BTreeSet<(Digest, u64)>,
    small: &[Document],
    index: &[u8],
) -> io::Result<()> {
    let mut tar = tar::Builder::new(sink);
    directory(&mut tar, "blobs/")?;
    directory(&mut tar, "blobs/sha256/")?;
    let mut blobs: BTreeMap<Digest, Option<&Document>> = layers.iter().map(|(digest, _)| (*digest, None)).collect();
    blobs.extend(
        small
            .iter()
            .map(|document| (document.descriptor.digest, Some(document))),
    );
    for (digest, document) in blobs {
        let name = format!("blobs/sha256/{}", digest.hex());
        match document {
            Some(document) => file(&mut tar, &name, &document.bytes)?,
            None => {
                let size = layers
                    .iter()
                    .find(|(layer, _)| *layer == digest)
                    .map_or(0, |(_, size)| *size);
                let open = || {
                    let reader = store.blobs().open(digest);
                    let reader = reader.map_err(|error| io::Error::other(error.to_string()))?;
                    reader.ok_or_else(|| io::Error::other(cache::blob::Damaged(digest)))
                };
                blob(&mut tar, &name, size, &open)?;
            }
        }
    }
    file(&mut tar, "index.json", index)?;
    let marker = br#"{"imageLayoutVersion":"1.0.0"}"#;
    file(&mut tar, "oci-layout", marker)?;
    tar.into_inner()?.flush()
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn directory(tar: &mut tar::Builder<&mut Chunks>, name: &str) -> io::Result<()> {
    tar.append_data(&mut header(tar::EntryType::Directory, 0o755, 0), name, io::empty())
}

fn file(tar: &mut tar::Builder<&mut Chunks>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, 0o444, bytes.len() as u64);
    tar.append_data(&mut header, name, bytes)
}

/// A member that does not pass through the buffers of a tar writer.
fn blob(
    tar: &mut tar::Builder<&mut Chunks>,
    name: &str,
    size: u64,
    open: &dyn Fn() -> io::Result<VerifiedReader>,
) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, 0o444, size);
    header.set_path(name)?;
    header.set_cksum();
    tar.append(&header, io::empty())?;
    let sink = tar.get_mut();
    let sent = sink.send_blob(open)?;
    if sent != size {
        return Err(io::Error::other(format!("`{name}` has {sent} bytes instead of {size}")));
    }
    let padding = size.next_multiple_of(TAR_BLOCK) - size;
    io::copy(&mut io::repeat(0).take(padding), sink).map(drop)
}

/// Members of a tar begin at multiples of this.
const TAR_BLOCK: u64 = 512;
