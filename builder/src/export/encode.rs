//! Layers in the form that leaves the store: those of the base as they came, ours compressed as asked; and on to where they are
//! wanted, each as soon as it is ready.

use futures_util::stream;
use futures_util::{FutureExt, StreamExt};
use proto::oci::{Compression, Descriptor};

use super::bundle::Settled;
use super::image::Image;
use super::push::Targets;
use crate::blocking;
use crate::build::Job;
use crate::event::StepNumber;
use crate::fetch;
use crate::layers::encode::{Order, Urgency, Wanted};
use crate::request::{BuildError, Encoding};
use crate::stack::{Layer, Origin, Stack};

/// Layers on their way at the same time. How many of them are compressed at once is decided elsewhere, for all builds together.
const AT_ONCE: usize = 8;

/// What happens to layers that leave the store.
#[derive(Debug, Clone, Copy)]
pub struct Packing<'a> {
    /// The form they get.
    pub encoding: Encoding,
    /// Registries that they are sent to, each layer as soon as it has its form.
    pub targets: Option<&'a Targets<'a>>,
}

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

/// One blob for each layer of `image`. Layers of its base keep their form, unless another one is forced on them.
///
/// # Errors
/// As [`stack_of`]; registries that fail.
pub async fn layers(image: &Settled, packing: Packing<'_>, job: &Job, step: StepNumber) -> Result<Encoded, BuildError> {
    let pack = |index: usize| {
        async move {
            let (descriptor, origin) = match kept_form(image, index, packing.encoding) {
                Some(form) => (form, image.stack.layers()[index].origin.clone()),
                None => (encoded(image, index, packing.encoding, job, step).await?, Origin::Built),
            };
            let (what, size) = (format!("layer {}", descriptor.digest), descriptor.size);
            job.events.progress(step, &what, size, size);
            let descriptor = to_oci(descriptor);
            if let Some(targets) = packing.targets {
                targets.send(&descriptor, &origin, job, step).await?;
            }
            Ok::<_, BuildError>((descriptor, origin))
        }
        .boxed()
    };
    let packed: Vec<_> = stream::iter((0..image.stack.layers().len()).map(pack))
        .buffered(AT_ONCE)
        .collect()
        .await;
    Ok(Encoded {
        layers: packed.into_iter().collect::<Result<_, _>>()?,
    })
}

/// The form in which a layer of the base came, if it leaves in that.
fn kept_form(image: &Settled, index: usize, encoding: Encoding) -> Option<Descriptor> {
    let layer = &image.stack.layers()[index];
    // A base that was built here has no form of its own yet, only that in which the store keeps it.
    if index >= image.base_layers || layer.origin == Origin::Built {
        return None;
    }
    let form = layer.info.forms.first()?;
    let is_as_wanted = Compression::of_media_type(&form.media_type) == Some(encoding.form.recipe.compression());
    (!encoding.force_compression || is_as_wanted).then(|| form.clone())
}

async fn encoded(
    image: &Settled,
    index: usize,
    encoding: Encoding,
    job: &Job,
    step: StepNumber,
) -> Result<Descriptor, BuildError> {
    let (layers, layer) = (&job.host.layers, &image.stack.layers()[index]);
    if layer.origin != Origin::Built
        && !layers.is_local(layer, image.stack.chains()[index])
        && let Some(form) = layer.info.forms.first()
    {
        fetch::blob(&layer.origin, form, job, step).await?;
    }
    let wanted = Wanted {
        recipe: encoding.form.recipe,
        exact: encoding.form.exact || image.is_dated,
    };
    let order = Order {
        urgency: Urgency::Awaited,
        cancel: &job.cancel,
    };
    layers.encode(&image.stack, index, wanted, order).await
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
