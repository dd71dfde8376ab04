//! What happens to a finished image: every requested output, in order.

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
use crate::request::{Blame, BuildError, BuildRequest, Output};
use image::{Document, Image};

/// Does what `request` asks for with `image`, and returns what the client prints.
///
/// # Errors
/// The first output that fails. Outputs before it are complete.
pub async fn all(request: &BuildRequest, image: &Image, job: &Job) -> Result<v1::Success, BuildError> {
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
                image,
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
        Output::Files => "exporting to client directory",
    }
}

async fn one(
    output: &Output,
    index: u32,
    request: &BuildRequest,
    image: &Image,
    progress: &mut Progress<'_>,
) -> Result<(), BuildError> {
    let (job, step) = (progress.job, progress.step);
    match output {
        Output::Image { push, names, encoding } => {
            let names = all_names(request, names);
            if *push && names.is_empty() {
                return Err(
                    BuildError::new(Blame::Usage, "tag is needed when pushing to registry").help("add `-t NAME`")
                );
            }
            let layers = encode::stack_of(image, *encoding, job, step).await?;
            let config = image.config_document(layers.diff_ids());
            if !names.is_empty() {
                fetch::what_only_the_client_has(&layers, job, step).await?;
            }
            store::keep(image, &layers, &config, &names, job)?;
            progress.kept.extend(names.iter().map(ToString::to_string));
            progress.success.config_digest = config.descriptor.digest.to_string();
            if *push {
                let encoded = encode::layers(&layers, image.base_layers, encoding.compression, job, step).await?;
                let manifest = image::manifest(&config, encoded.descriptors());
                let pushed = push::image(&encoded, &[&config, &manifest], &names, job, step).await?;
                progress.success.layers_existing += pushed.existing;
                progress.success.layers_pushed += pushed.sent;
                set_manifest(progress.success, &manifest);
            }
            Ok(())
        }
        Output::Oci { names, encoding } => {
            let names = all_names(request, names);
            let layers = encode::stack_of(image, *encoding, job, step).await?;
            let config = image.config_document(layers.diff_ids());
            let encoded = encode::layers(&layers, image.base_layers, encoding.compression, job, step).await?;
            let manifest = image::manifest(&config, encoded.descriptors());
            layout::write(
                index,
                &encoded,
                &layout::Documents {
                    config: &config,
                    manifest: &manifest,
                    image,
                    names: &names,
                },
                job,
                step,
            )
            .await?;
            progress.kept.extend(names.iter().map(ToString::to_string));
            progress.success.config_digest = config.descriptor.digest.to_string();
            set_manifest(progress.success, &manifest);
            Ok(())
        }
        Output::Files => {
            let config = image.config_document(image.stack.diff_ids());
            progress.success.config_digest = config.descriptor.digest.to_string();
            files::write(index, image, job, step).await
        }
    }
}

fn all_names(request: &BuildRequest, more: &[Reference]) -> Vec<Reference> {
    let names: BTreeSet<Reference> = request.tags.iter().chain(more).cloned().collect();
    names.into_iter().collect()
}

fn set_manifest(success: &mut v1::Success, manifest: &Document) {
    success.manifest_digest = manifest.descriptor.digest.to_string();
    success.manifest_media_type.clone_from(&manifest.descriptor.media_type);
    success.manifest_size = manifest.descriptor.size;
}
