//! Sends a result to its registries: layers that are missing, each as soon as it has its form; when all are there configs,
//! manifests by digest, and each name last.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use cache::blob::{BlobStore, VerifiedReader};
use cache::registry::{BlobReader, Error, Pushed};
use proto::digest::Digest;
use proto::oci::Descriptor;
use proto::reference::Reference;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Semaphore;

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

/// Layers of one result under way at the same time.
const AT_ONCE: usize = 4;

/// What a push did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Layers that were there already, or were mounted from another repository.
    pub existing: u64,
    /// Layers whose bytes were sent.
    pub sent: u64,
}

/// Where a result goes, and what of it is there.
#[derive(Debug)]
pub struct Targets<'a> {
    /// Names in one repository share their blobs.
    repositories: Vec<Vec<&'a Reference>>,
    /// By repository and digest; nothing while it is under way.
    layers: Mutex<HashMap<(usize, Digest), Option<Pushed>>>,
    /// One permit for each blob under way.
    places: Semaphore,
}

impl<'a> Targets<'a> {
    /// The repositories of `names`.
    #[must_use]
    pub fn new(names: &'a [Reference]) -> Self {
        let mut repositories: BTreeMap<(&str, &str), Vec<&Reference>> = BTreeMap::new();
        for name in names {
            let repository = (name.registry(), name.repository());
            repositories.entry(repository).or_default().push(name);
        }
        Self {
            repositories: repositories.into_values().collect(),
            layers: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
        }
    }

    /// Makes sure that every repository has a layer, or is about to: whoever sends it first reports what becomes of it.
    ///
    /// # Errors
    /// Registries that fail; layers that can not be had any more.
    pub async fn send(
        &self,
        descriptor: &Descriptor,
        origin: &Origin,
        job: &Job,
        step: StepNumber,
    ) -> Result<(), BuildError> {
        for (index, names) in self.repositories.iter().enumerate() {
            let key = (index, descriptor.digest);
            {
                let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
                match layers.entry(key) {
                    Entry::Occupied(_) => continue,
                    Entry::Vacant(vacant) => vacant.insert(None),
                };
            }
            let place = self.places.acquire().await;
            let _place = place.map_err(|_| BuildError::bug("the places of uploads were closed"))?;
            let _phase = Phase::Push.start();
            let pushed = layer(descriptor, origin, names[0], job, step).await?;
            let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
            layers.insert(key, Some(pushed));
        }
        Ok(())
    }

    fn sent(&self) -> Sent {
        let mut sent = Sent::default();
        for pushed in self.layers.lock().unwrap_or_else(PoisonError::into_inner).values() {
            match pushed {
                Some(Pushed::Existed | Pushed::Mounted) => sent.existing += 1,
                Some(Pushed::Uploaded) => sent.sent += 1,
                None => {}
            }
        }
        sent
    }
}

/// Pushes a result whose layers are with `targets` to every name. Nobody who reads a registry meanwhile finds a manifest whose
/// blobs, or an index whose manifests are not there.
///
/// # Errors
/// Registries that fail.
pub async fn bundle(bundle: &Bundle, targets: &Targets<'_>, job: &Job, step: StepNumber) -> Result<Sent, BuildError> {
    let _phase = Phase::Push.start();
    let top = bundle.top()?;
    for (descriptor, origin) in bundle.layers() {
        targets.send(&descriptor, &origin, job, step).await?;
    }
    for names in &targets.repositories {
        configs(bundle, names[0], job).await?;
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
    Ok(targets.sent())
}

async fn configs(bundle: &Bundle, name: &Reference, job: &Job) -> Result<(), BuildError> {
    for image in &bundle.images {
        write_blob(job, &image.config)?;
        upload(&image.config.descriptor, None, name, job).await?;
    }
    Ok(())
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
