//! What happens to finished images: every requested output, in order.

pub mod bundle;
pub mod early;
pub mod encode;
pub mod files;
pub mod image;
pub mod layout;
pub mod push;
pub mod store;
pub mod stream;

use std::collections::BTreeSet;

use proto::reference::Reference;
use proto::v1;

use crate::build::Job;
use crate::event::StepNumber;
use crate::fetch;
use crate::request::{Blame, BuildError, BuildRequest, Encoding, Output};
use bundle::{Bundle, Made, Settled};
use encode::Packing;

/// Does what `request` asks for with the images that were made, and returns what the client prints.
///
/// # Errors
/// The first output that fails. Outputs before it are complete.
pub async fn all(request: &BuildRequest, made: &Made, job: &Job) -> Result<v1::Success, BuildError> {
    let mut success = v1::Success::default();
    let mut kept = BTreeSet::new();
    for (index, output) in request.outputs.iter().enumerate() {
        if job.cancel.is_cancelled() {
            return Err(BuildError::canceled());
        }
        let index = u32::try_from(index).map_err(|_| BuildError::bug("more outputs than a message can hold"))?;
        let (success, kept) = (&mut success, &mut kept);
        job.step(step_name(output), |step| async move {
            one(
                output,
                index,
                request,
                made,
                &mut Progress {
                    job,
                    step,
                    success,
                    kept,
                },
            )
            .await
        })
        .await?;
    }
    success.names = kept.into_iter().collect();
    // Last: what was promised is durable before the client hears of success.
    let layers = job.host.layers.clone();
    crate::blocking::run(move || layers.make_durable()).await?;
    Ok(success)
}

/// What outputs report while they work.
struct Progress<'a> {
    job: &'a Job,
    step: StepNumber,
    success: &'a mut v1::Success,
    kept: &'a mut BTreeSet<String>,
}

fn step_name(output: &Output) -> &'static str {
    match output {
        Output::Image { push: false, .. } => "exporting to image",
        Output::Image { push: true, .. } => "exporting to image and pushing",
        Output::Oci { .. } => "exporting to oci image format",
        Output::Files { .. } => "exporting to client directory",
    }
}

async fn one(
    output: &Output,
    index: u32,
    request: &BuildRequest,
    made: &Made,
    progress: &mut Progress<'_>,
) -> Result<(), BuildError> {
    let (job, step) = (progress.job, progress.step);
    match output {
        Output::Image { push, names, encoding } => {
            let names = all_names(request, names);
            keep(&names, *push, *encoding, made, progress).await?;
            progress.kept.extend(names.iter().map(ToString::to_string));
            Ok(())
        }
        Output::Oci { names, encoding } => {
            let names = all_names(request, names);
            let settled = bundle::settle(made, *encoding, job, step).await?;
            let packing = Packing {
                encoding: *encoding,
                targets: None,
            };
            let packed = bundle::pack(&settled, made.indexed, packing, job, step).await?;
            layout::write(index, &packed, &names, job, step).await?;
            progress.kept.extend(names.iter().map(ToString::to_string));
            tell_images(progress.success, &settled, made.indexed);
            tell_documents(progress.success, &packed)
        }
        Output::Files { platform_split } => {
            if let ([image], false) = (made.images.as_slice(), made.indexed) {
                let config = image.config_document(image.stack.diff_ids());
                progress.success.config_digest = config.descriptor.digest.to_string();
            }
            let split = platform_split.unwrap_or(made.indexed);
            files::write(index, &made.images, split, job, step).await
        }
    }
}

/// Keeps the images in the store, and sends them to their registries if `push` says so.
async fn keep(
    names: &[Reference],
    push: bool,
    encoding: Encoding,
    made: &Made,
    progress: &mut Progress<'_>,
) -> Result<(), BuildError> {
    let (job, step) = (progress.job, progress.step);
    if push && names.is_empty() {
        return Err(BuildError::new(Blame::Usage, "tag is needed when pushing to registry").help("add `-t NAME`"));
    }
    let settled = bundle::settle(made, encoding, job, step).await?;
    tell_images(progress.success, &settled, made.indexed);
    if !names.is_empty() {
        for image in &settled {
            fetch::what_only_the_client_has(&image.stack, job, step).await?;
        }
    }
    if !push && !made.indexed {
        return store::keep(&settled, None, names, job);
    }
    // What stands for several images is known by the digest of its index, and that depends on the blobs.
    let targets = push::Targets::new(if push { names } else { &[] });
    let packing = Packing {
        encoding,
        targets: Some(&targets),
    };
    let packed = bundle::pack(&settled, made.indexed, packing, job, step).await?;
    store::keep(&settled, packed.index_digest(), names, job)?;
    if push {
        let sent = push::bundle(&packed, &targets, job, step).await?;
        progress.success.layers_existing += sent.existing;
        progress.success.layers_pushed += sent.sent;
    }
    tell_documents(progress.success, &packed)
}

fn all_names(request: &BuildRequest, more: &[Reference]) -> Vec<Reference> {
    let names: BTreeSet<Reference> = request.tags.iter().chain(more).cloned().collect();
    names.into_iter().collect()
}

/// Tells the client the IDs of images.
pub fn tell_images(success: &mut v1::Success, images: &[Settled], indexed: bool) {
    let image = |image: &Settled| v1::success::PlatformImage {
        platform: image.platform.to_string(),
        config_digest: image.config.descriptor.digest.to_string(),
        manifest_digest: String::new(),
    };
    success.images = images.iter().map(image).collect();
    success.config_digest = match success.images.as_slice() {
        [single] if !indexed => single.config_digest.clone(),
        _ => String::new(),
    };
}

/// Tells the client the digests of manifests and index; after [`tell_images`].
///
/// # Errors
/// A bundle of nothing is a bug.
pub fn tell_documents(success: &mut v1::Success, bundle: &Bundle) -> Result<(), BuildError> {
    for (told, image) in success.images.iter_mut().zip(&bundle.images) {
        told.manifest_digest = image.manifest.descriptor.digest.to_string();
    }
    let top = &bundle.top()?.descriptor;
    success.manifest_digest = top.digest.to_string();
    success.manifest_media_type.clone_from(&top.media_type);
    success.manifest_size = top.size;
    Ok(())
}
