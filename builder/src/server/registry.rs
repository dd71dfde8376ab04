//! Pushes and pulls that are no build: `rbuild push`, `rbuild pull`.

use std::sync::Arc;

use proto::platform::Platform;
use proto::reference::Reference;
use proto::v1::{self, transfer_request::Kind};
use tokio_util::sync::CancellationToken;

use crate::build::Job;
use crate::event::{EventLog, StepNumber};
use crate::export::bundle::{self, Settled};
use crate::export::encode::Packing;
use crate::export::image::Document;
use crate::export::{self, push, store};
use crate::host::Host;
use crate::images::{self, ResolvedImage};
use crate::request::{Blame, BuildError, Encoding};
use crate::session::Session;
use crate::stack::{Layer, Origin};

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
            let encoding = Encoding::named(&request.compression)
                .map_err(|error| BuildError::new(Blame::Usage, error.to_string()))?;
            push_image(reference, encoding, job, step).await
        } else {
            pull_image(reference, &request.platform, job, step).await
        }
    })
    .await
}

async fn push_image(
    reference: &Reference,
    encoding: Encoding,
    job: &Job,
    step: StepNumber,
) -> Result<v1::Success, BuildError> {
    let missing = || {
        BuildError::user(format!("no image `{}` in the store", reference.familiar()))
            .help("`rbuild images` lists what is there")
    };
    let stored = job.host.store.images().image(reference).ok_or_else(missing)?;
    let mut images = Vec::new();
    for variant in stored.variants() {
        let found = images::from_store(variant, job)?.ok_or_else(missing)?;
        images.push(settled(found, variant.platform.clone(), stored.created_ms));
    }
    let targets = push::Targets::new(std::slice::from_ref(reference));
    let packing = Packing {
        encoding,
        targets: Some(&targets),
    };
    let packed = bundle::pack(&images, stored.index.is_some(), packing, job, step).await?;
    let sent = push::bundle(&packed, &targets, job, step).await?;
    let mut success = v1::Success {
        names: vec![reference.to_string()],
        layers_existing: sent.existing,
        layers_pushed: sent.sent,
        ..v1::Success::default()
    };
    export::tell_images(&mut success, &images, stored.index.is_some());
    export::tell_documents(&mut success, &packed)?;
    Ok(success)
}

/// An image of the store as it is: the very bytes of its config, since their digest is the image ID.
fn settled(found: ResolvedImage, platform: Platform, created_ms: u64) -> Settled {
    let foreign = |layer: &&Layer| layer.origin != Origin::Built;
    Settled {
        platform,
        base_layers: found.stack.layers().iter().take_while(foreign).count(),
        config: Document::config(found.config_bytes),
        stack: found.stack,
        created_ms,
        is_dated: false,
    }
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
    let manifest_digest = resolved.manifest.to_string();
    let image = settled(resolved, platform, job.host.clock.now_ms());
    store::keep(std::slice::from_ref(&image), None, std::slice::from_ref(reference), job)?;
    Ok(v1::Success {
        config_digest: image.config.descriptor.digest.to_string(),
        manifest_digest,
        names: vec![reference.to_string()],
        ..v1::Success::default()
    })
}
