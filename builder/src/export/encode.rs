//! Layers in the form that leaves the store: those of the base as they came, ours compressed as asked.

use futures_util::stream;
use futures_util::{FutureExt, StreamExt};
use proto::oci::{Compression, Descriptor};

use super::image::Image;
use crate::blocking;
use crate::build::Job;
use crate::event::StepNumber;
use crate::request::{BuildError, Encoding};
use crate::stack::{Layer, Origin, Stack};

/// Layers that are compressed at the same time; each uses several threads by itself.
const AT_ONCE: usize = 2;

/// A stack with one blob a layer.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Blob and where it is, base first.
    pub layers: Vec<(Descriptor, Origin)>,
}

impl Encoded {
    /// The blobs, base first.
    #[must_use]
    pub fn descriptors(&self) -> Vec<Descriptor> {
        self.layers.iter().map(|(descriptor, _)| descriptor.clone()).collect()
    }
}

/// The stack of `image` as `encoding` wants it: times of our own layers lowered, if there is a date to lower them to.
///
/// # Errors
/// Layers whose bytes are gone or damaged; a full disk.
pub async fn stack_of(image: &Image, encoding: Encoding, job: &Job, step: StepNumber) -> Result<Stack, BuildError> {
    let Some(epoch) = image.epoch else {
        if encoding.rewrite_timestamp {
            let message = "`rewrite-timestamp` needs a date to rewrite to";
            return Err(BuildError::new(crate::request::Blame::Usage, message).help("set SOURCE_DATE_EPOCH"));
        }
        return Ok(image.stack.clone());
    };
    let (layers, stack, base) = (job.host.layers.clone(), image.stack.clone(), image.base_layers);
    job.events.progress(step, "lowering times", 0, 0);
    blocking::run(move || {
        let all = stack.layers().iter().enumerate();
        let clamped = all.map(|(index, layer)| {
            if index < base {
                Ok(layer.clone())
            } else {
                layers.clamp(&stack, index, epoch)
            }
        });
        clamped.collect::<Result<Vec<Layer>, BuildError>>().map(Stack::new)
    })
    .await
}

/// One blob for each layer of `stack`, of which the lowest `base_layers` are not ours to encode.
///
/// # Errors
/// As [`stack_of`].
pub async fn layers(
    stack: &Stack,
    base_layers: usize,
    compression: Compression,
    job: &Job,
    step: StepNumber,
) -> Result<Encoded, BuildError> {
    let encode = |index: usize| {
        let stack = stack.clone();
        let future = async move {
            let layer = stack.layers()[index].clone();
            // A base that was built here has no form of its own yet, only that in which the store keeps it.
            let descriptor = if index < base_layers
                && layer.origin != Origin::Built
                && let Some(form) = layer.info.forms.first()
            {
                form.clone()
            } else {
                let layers = job.host.layers.clone();
                blocking::run(move || layers.encode(&stack, index, compression)).await?
            };
            job.events.progress(
                step,
                &format!("layer {}", descriptor.digest),
                descriptor.size,
                descriptor.size,
            );
            Ok::<_, BuildError>((to_oci(descriptor), layer.origin))
        };
        future.boxed()
    };
    let encoded: Vec<_> = stream::iter((0..stack.layers().len()).map(encode))
        .buffered(AT_ONCE)
        .collect()
        .await;
    Ok(Encoded {
        layers: encoded.into_iter().collect::<Result<_, _>>()?,
    })
}

/// Docker's media types of base layers are said in OCI's words; the bytes are the same.
fn to_oci(descriptor: Descriptor) -> Descriptor {
    match Compression::of_media_type(&descriptor.media_type) {
        Some(compression) => Descriptor {
            media_type: compression.media_type().to_owned(),
            ..descriptor
        },
        None => descriptor,
    }
}
