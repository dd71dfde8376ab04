//! The result of a build in the form in which it leaves the store: blobs, configs, manifests, and an index if there is one.

use proto::digest::Digest;
use proto::oci::Descriptor;
use proto::platform::Platform;

use super::encode::{self, Encoded, Packing};
use super::image::{self, Document, Image};
use crate::build::Job;
use crate::event::StepNumber;
use crate::request::{BuildError, Encoding};
use crate::stack::{Origin, Stack};

/// What a build made: an image for each platform.
#[derive(Debug, Clone)]
pub struct Made {
    /// In the order of the platforms, at least one.
    pub images: Vec<Image>,
    /// Whether the result is an index over them.
    pub indexed: bool,
}

/// An image whose layers are final, and so is its config.
#[derive(Debug, Clone)]
pub struct Settled {
    /// What it runs on.
    pub platform: Platform,
    /// Its layers.
    pub stack: Stack,
    /// How many of the lowest layers are not ours to encode.
    pub base_layers: usize,
    /// Its config.
    pub config: Document,
    /// Time of its newest entry of history, in milliseconds since 1970.
    pub created_ms: u64,
    /// Whether its times come from a date that was given: equal builds make equal images then, compressed layers included.
    pub is_dated: bool,
}

/// An image with one blob a layer.
#[derive(Debug, Clone)]
pub struct Packed {
    /// What it runs on.
    pub platform: Platform,
    /// Its layers.
    pub layers: Encoded,
    /// Its config.
    pub config: Document,
    /// The manifest over both.
    pub manifest: Document,
}

/// Everything that has to be somewhere before a name can stand for it.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// In the order of the platforms.
    pub images: Vec<Packed>,
    /// The index over them, if the result is one.
    pub index: Option<Document>,
    /// When the newest of them was made, in milliseconds since 1970.
    pub created_ms: u64,
}

/// The images of `made` with their layers as `encoding` wants them.
///
/// # Errors
/// As [`encode::stack_of`].
pub async fn settle(made: &Made, encoding: Encoding, job: &Job, step: StepNumber) -> Result<Vec<Settled>, BuildError> {
    let mut settled = Vec::with_capacity(made.images.len());
    for image in &made.images {
        let stack = encode::stack_of(image, encoding, job, step).await?;
        settled.push(Settled {
            platform: image.platform.clone(),
            base_layers: image.base_layers,
            config: image.config_document(stack.diff_ids()),
            created_ms: image.created_ms,
            is_dated: image.epoch.is_some(),
            stack,
        });
    }
    Ok(settled)
}

/// Blobs and documents of `images`; when it returns, layers are also where `packing` sends them.
///
/// # Errors
/// As [`encode::layers`].
pub async fn pack(
    images: &[Settled],
    indexed: bool,
    packing: Packing<'_>,
    job: &Job,
    step: StepNumber,
) -> Result<Bundle, BuildError> {
    let mut packed = Vec::with_capacity(images.len());
    for image in images {
        let layers = encode::layers(image, packing, job, step).await?;
        packed.push(Packed {
            platform: image.platform.clone(),
            manifest: image::manifest(&image.config, layers.descriptors()),
            config: image.config.clone(),
            layers,
        });
    }
    let entries = packed.iter().map(|image| (&image.manifest, &image.platform));
    Ok(Bundle {
        index: indexed.then(|| image::index(entries)),
        images: packed,
        created_ms: images.iter().map(|image| image.created_ms).max().unwrap_or(0),
    })
}

impl Bundle {
    /// What a name stands for: the index, or the manifest of the only image.
    ///
    /// # Errors
    /// A bundle of nothing is a bug.
    pub fn top(&self) -> Result<&Document, BuildError> {
        let single = self.images.first().map(|image| &image.manifest);
        let top = self.index.as_ref().or(single);
        top.ok_or_else(|| BuildError::bug("a result without an image"))
    }

    /// Blobs of all layers and where they are, each once.
    #[must_use]
    pub fn layers(&self) -> Vec<(Descriptor, Origin)> {
        let mut layers: Vec<(Descriptor, Origin)> = Vec::new();
        for (descriptor, origin) in self.images.iter().flat_map(|image| &image.layers.layers) {
            if !layers.iter().any(|(known, _)| known.digest == descriptor.digest) {
                layers.push((descriptor.clone(), origin.clone()));
            }
        }
        layers
    }

    /// Configs, manifests and the index.
    pub fn documents(&self) -> impl Iterator<Item = &Document> {
        let images = self.images.iter();
        images
            .flat_map(|image| [&image.config, &image.manifest])
            .chain(&self.index)
    }

    /// Digest of the index, if there is one.
    #[must_use]
    pub fn index_digest(&self) -> Option<Digest> {
        self.index.as_ref().map(|index| index.descriptor.digest)
    }
}
