//! Sends a result to its registries: blobs that are missing, then configs, manifests by digest, and each name last.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cache::blob::{BlobStore, VerifiedReader};
use cache::registry::{BlobReader, Error, Pushed};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use proto::oci::Descriptor;
use proto::reference::Reference;
use tokio::io::{AsyncRead, ReadBuf};

use super::bundle::Bundle;
use super::image::Document;
use super::store::write_blob;
use crate::build::Job;
use crate::event::StepNumber;
use crate::fetch;
use crate::layers::lost;
use crate::phase::Phase;
use crate::request::BuildError;
use crate::stack::Origin;

/// Blobs of one image under way at the same time.
const AT_ONCE: usize = 4;

/// What a push did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Layers that were there already, or were mounted from another repository.
    pub existing: u64,
    /// Layers whose bytes were sent.
    pub sent: u64,
}

/// Pushes a result to every name. Nobody who reads a registry meanwhile finds a manifest whose blobs, or an index whose manifests
/// are not there.
///
/// # Errors
/// Registries that fail; layers that can not be had any more.
pub async fn bundle(bundle: &Bundle, names: &[Reference], job: &Job, step: StepNumber) -> Result<Sent, BuildError> {
    let _phase = Phase::Push.start();
    let top = bundle.top()?;
    let mut total = Sent::default();
    // Names in one repository share their blobs.
    let mut repositories: BTreeMap<(&str, &str), Vec<&Reference>> = BTreeMap::new();
    for name in names {
        repositories
            .entry((name.registry(), name.repository()))
            .or_default()
            .push(name);
    }
    for names in repositories.values() {
        let sent = blobs(bundle, names[0], job, step).await?;
        total.existing += sent.existing;
        total.sent += sent.sent;
        if bundle.index.is_some() {
            for image in &bundle.images {
                let child = names[0].with_digest(image.manifest.descriptor.digest);
                document(&image.manifest, &child, job).await?;
            }
        }
        for name in names {
            document(top, name, job).await?;
        }
    }
    Ok(total)
}

/// A manifest or index under its name.
async fn document(document: &Document, name: &Reference, job: &Job) -> Result<(), BuildError> {
    let expected = document.descriptor.digest;
    let push = job
        .registry
        .push_manifest(name, &document.descriptor.media_type, &document.bytes);
    let digest = cancellable(job, push).await?;
    if digest == expected {
        return Ok(());
    }
    let message = format!("`{name}` was stored as {digest} instead of {expected}");
    Err(BuildError::new(crate::request::Blame::Remote, message))
}

/// Layers and configs to the repository of `name`.
async fn blobs(bundle: &Bundle, name: &Reference, job: &Job, step: StepNumber) -> Result<Sent, BuildError> {
    let wanted = bundle.layers();
    let mut pushes: Vec<BoxFuture<'_, Result<Pushed, BuildError>>> = Vec::new();
    for (descriptor, origin) in &wanted {
        pushes.push(layer(descriptor, origin, name, job, step).boxed());
    }
    let results: Vec<_> = stream::iter(pushes).buffer_unordered(AT_ONCE).collect().await;
    let mut sent = Sent::default();
    for result in results {
        match result? {
            Pushed::Existed | Pushed::Mounted => sent.existing += 1,
            Pushed::Uploaded => sent.sent += 1,
        }
    }
    for image in &bundle.images {
        write_blob(job, &image.config)?;
        upload(&image.config.descriptor, None, name, job).await?;
    }
    Ok(sent)
}

async fn layer(
    descriptor: &Descriptor,
    origin: &Origin,
    name: &Reference,
    job: &Job,
    step: StepNumber,
) -> Result<Pushed, BuildError> {
    let what = format!("pushing layer {}", descriptor.digest);
    job.events.progress(step, &what, 0, descriptor.size);
    let mount_from = match origin {
        Origin::Registry(from) if from.registry() == name.registry() => Some(from.repository().to_owned()),
        _ => None,
    };
    let pushed = upload(descriptor, mount_from.as_deref(), name, job).await?;
    let pushed = match pushed {
        Some(pushed) => pushed,
        // The registry has not got it and cannot take it from another repository: only now are the bytes needed here.
        None => {
            fetch::blob(origin, descriptor, job, step).await?;
            let again = upload(descriptor, mount_from.as_deref(), name, job).await?;
            again.ok_or_else(|| lost(&format!("blob {}", descriptor.digest)))?
        }
    };
    let note = match pushed {
        Pushed::Existed => format!("layer {} already exists", descriptor.digest),
        Pushed::Mounted => format!("layer {} mounted from another repository", descriptor.digest),
        Pushed::Uploaded => what,
    };
    job.events.progress(step, &note, descriptor.size, descriptor.size);
    Ok(pushed)
}

/// Makes sure that the registry has a blob. Nothing: it must be uploaded, and its bytes are not here.
async fn upload(
    descriptor: &Descriptor,
    mount_from: Option<&str>,
    name: &Reference,
    job: &Job,
) -> Result<Option<Pushed>, BuildError> {
    let store = Arc::clone(&job.host.store);
    let digest = descriptor.digest;
    let was_here = job.host.layers.has_blob(digest);
    let open = move || match store.blobs().open(digest) {
        Ok(Some(reader)) => Ok(Box::new(Local(reader)) as BlobReader),
        Ok(None) => Err(io::ErrorKind::NotFound.into()),
        Err(error) => Err(io::Error::other(error.to_string())),
    };
    tokio::select! {
        () = job.cancel.cancelled() => Err(BuildError::canceled()),
        pushed = job.registry.push_blob(name, descriptor, mount_from, &open) => match pushed {
            Ok(pushed) => Ok(Some(pushed)),
            Err(Error::Source(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Set aside while it was sent.
            Err(_) if was_here && !job.host.layers.has_blob(digest) => {
                Err(BuildError::environment(format!("blob {digest} was damaged in the store and has been set aside")).rewinding())
            }
            Err(error) => Err(fetch::registry_failed(error)),
        },
    }
}

/// A blob of the store as the registry client reads it. A read takes from the page cache what one frame of the upload holds:
/// well under a millisecond, less than handing it to another thread.
struct Local(VerifiedReader);

impl AsyncRead for Local {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.0.read(buffer.initialize_unfilled())?;
        buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

async fn cancellable<T>(job: &Job, work: impl Future<Output = Result<T, Error>>) -> Result<T, BuildError> {
    tokio::select! {
        () = job.cancel.cancelled() => Err(BuildError::canceled()),
        result = work => result.map_err(fetch::registry_failed),
    }
}
