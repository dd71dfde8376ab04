//! Pushes and pulls that are no build: `rbuild push`, `rbuild pull`.

use std::sync::Arc;

use proto::oci::{Compression, ImageConfig, json};
use proto::platform::Platform;
use proto::reference::Reference;
use proto::v1::{self, transfer_request::Kind};
use tokio_util::sync::CancellationToken;

use crate::build::Job;
use crate::event::{EventLog, StepNumber};
use crate::export::image::{Document, Image, manifest};
use crate::export::{encode, push, store};
use crate::host::Host;
use crate::images;
use crate::request::{Blame, BuildError, compression};
use crate::session::Session;

/// Does what `request` asks for.
///
/// # Errors
/// Names the store or the registry does not know, registries that fail.
pub async fn transfer(
    request: &v1::TransferRequest,
    session: &Arc<Session>,
    host: &Host,
    events: &Arc<EventLog>,
    cancel: &CancellationToken,
) -> Result<v1::Success, BuildError> {
    let job = Job::new(host, session, events, cancel, &request.insecure_registries);
    let (name, is_push) = match &request.kind {
        Some(Kind::Push(name)) => (name, true),
        Some(Kind::Pull(name)) => (name, false),
        None => return Err(BuildError::new(Blame::Usage, "a transfer without a direction")),
    };
    let reference: Reference = name
        .parse()
        .map_err(|error| BuildError::new(Blame::Usage, format!("{error}")))?;
    let verb = if is_push { "pushing" } else { "pulling" };
    let (job, reference) = (&job, &reference);
    job.step(&format!("{verb} {reference}"), |step| async move {
        if is_push {
            let encoding =
                compression(&request.compression).map_err(|error| BuildError::new(Blame::Usage, error.to_string()))?;
            push_image(reference, encoding, job, step).await
        } else {
            pull_image(reference, &request.platform, job, step).await
        }
    })
    .await
}

async fn push_image(
    reference: &Reference,
    encoding: Compression,
    job: &Job,
    step: StepNumber,
) -> Result<v1::Success, BuildError> {
    let found = images::from_store(reference, None, job)?;
    let found = found.ok_or_else(|| {
        BuildError::user(format!("no image `{}` in the store", reference.familiar()))
            .help("`rbuild images` lists what is there")
    })?;
    let bytes = json::compact(&found.config);
    // The very bytes that were stored: their digest is the image ID.
    let stored = store::read_blob(&job.host.store, found.manifest, images::DOCUMENT_LIMIT)?.unwrap_or(bytes);
    let config = Document::config(stored);
    let base_layers = found
        .stack
        .layers()
        .iter()
        .take_while(|layer| layer.origin != crate::stack::Origin::Built)
        .count();
    let encoded = encode::layers(&found.stack, base_layers, encoding, job, step).await?;
    let manifest = manifest(&config, encoded.descriptors());
    let sent = push::image(
        &encoded,
        &[&config, &manifest],
        std::slice::from_ref(reference),
        job,
        step,
    )
    .await?;
    Ok(v1::Success {
        config_digest: config.descriptor.digest.to_string(),
        manifest_digest: manifest.descriptor.digest.to_string(),
        manifest_media_type: manifest.descriptor.media_type.clone(),
        manifest_size: manifest.descriptor.size,
        names: vec![reference.to_string()],
        layers_existing: sent.existing,
        layers_pushed: sent.sent,
    })
}

async fn pull_image(
    reference: &Reference,
    platform: &str,
    job: &Job,
    step: StepNumber,
) -> Result<v1::Success, BuildError> {
    let platform: Platform = match platform {
        "" => job.host.platform.clone(),
        text => text
            .parse()
            .map_err(|error| BuildError::new(Blame::Usage, format!("{error}")))?,
    };
    let resolved = images::from_registry(reference, &platform, job).await?;
    for layer in resolved.stack.layers() {
        for form in layer.info.forms.iter().take(1) {
            crate::fetch::blob(&layer.origin, form, job, step).await?;
        }
    }
    let config = Document::config(resolved.config_bytes.clone());
    let image = Image {
        config: ImageConfig::default(),
        stack: resolved.stack.clone(),
        platform,
        created_ms: job.host.clock.now_ms(),
        base_layers: resolved.stack.layers().len(),
        epoch: None,
    };
    store::keep(&image, &resolved.stack, &config, std::slice::from_ref(reference), job)?;
    Ok(v1::Success {
        config_digest: config.descriptor.digest.to_string(),
        manifest_digest: resolved.manifest.to_string(),
        names: vec![reference.to_string()],
        ..v1::Success::default()
    })
}
