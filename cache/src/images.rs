//! Images that have names. A name that was given is durable, and so is everything it leads to.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;

use prost::Message;
use proto::convert::{ConvertError, array};
use proto::digest::{DiffId, Digest};
use proto::platform::Platform;
use proto::record::LayerInfo;
use proto::reference::Reference;
use proto::v1;

use crate::durable::{Disk, Sync, WriteError};
use crate::sealed::{self, Inspected};

/// Longest name of a file made from a reference; longer ones are named by digest, since file systems end at 255 bytes.
const MAX_NAME: usize = 240;

/// A name in the store and what it stands for: an image, or an index over images for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The name.
    pub reference: Reference,
    /// The image, or the first one of the index.
    pub first: Variant,
    /// The others of the index, in its order.
    pub further: Vec<Variant>,
    /// Digest of the index; nothing for a single image without one.
    pub index: Option<Digest>,
    /// When it was made: milliseconds since 1970.
    pub created_ms: u64,
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variant {
    /// Digest of its config, a blob.
    pub config: Digest,
    /// What it runs on.
    pub platform: Platform,
    /// From the base upwards.
    pub layers: Vec<LayerInfo>,
    /// Where layers of base images can be had: for lazy fetching, and for mounting them across repositories on push.
    pub origins: BTreeMap<DiffId, Reference>,
}

impl Image {
    /// The images behind the name, in order.
    pub fn variants(&self) -> impl Iterator<Item = &Variant> {
        std::iter::once(&self.first).chain(&self.further)
    }

    /// The image for `platform`.
    #[must_use]
    pub fn variant(&self, platform: &Platform) -> Option<&Variant> {
        self.variants().find(|variant| variant.platform == *platform)
    }
}

/// Images as files.
#[derive(Debug)]
pub struct Images {
    disk: Arc<Disk>,
}

/// Name of the file of the image `reference`: percent-encoded, one component, never `.` or `..`.
#[must_use]
pub fn file_name(reference: &Reference) -> String {
    let text = reference.to_string();
    let mut name = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    if name.len() > MAX_NAME {
        name = format!("%{}", blake3::hash(text.as_bytes()).to_hex());
    }
    format!("images/{name}")
}

impl Images {
    pub(crate) fn new(disk: Arc<Disk>) -> Self {
        Self { disk }
    }

    /// Names `image`; what had the name before loses it. Everything published before is made durable first, then the name.
    ///
    /// # Errors
    /// When it cannot be written; then the name stands for what it stood for.
    pub fn put(&self, image: &Image) -> Result<(), WriteError> {
        self.disk.commit_group()?;
        let payload = v1::StoredImage::from(image).encode_to_vec();
        sealed::write(&self.disk, &file_name(&image.reference), payload, Sync::Now)
    }

    /// The image named `reference`; a damaged one is not there.
    #[must_use]
    pub fn image(&self, reference: &Reference) -> Option<Image> {
        self.read(&file_name(reference))
            .filter(|image| image.reference == *reference)
    }

    /// As [`Images::image`], but a damaged one stays where it is.
    pub(crate) fn peek(&self, reference: &Reference) -> Option<Image> {
        let parse = |payload: Vec<u8>| sealed::decode::<v1::StoredImage, Image>(&payload);
        match sealed::inspect(&self.disk, &file_name(reference), sealed::MAX_BYTES, parse) {
            Inspected::Good(image) => Some(image),
            Inspected::Absent | Inspected::Damaged(_) | Inspected::Unreadable(_) => None,
        }
    }

    fn read(&self, name: &str) -> Option<Image> {
        let parse = |payload: Vec<u8>| sealed::decode::<v1::StoredImage, Image>(&payload);
        sealed::read(&self.disk, name, sealed::MAX_BYTES, parse)
    }

    /// All images, in order of their names.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Image>> {
        let mut images = Vec::new();
        let dir = match fs::read_dir(self.disk.root().join("images")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(images),
            dir => dir?,
        };
        for entry in dir {
            let name = format!("images/{}", entry?.file_name().to_string_lossy());
            images.extend(self.read(&name));
        }
        images.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Gives the image named `source` the further name `target`. Returns whether there is such an image.
    ///
    /// # Errors
    /// As [`Images::put`].
    pub fn tag(&self, source: &Reference, target: &Reference) -> Result<bool, WriteError> {
        let Some(mut image) = self.image(source) else {
            return Ok(false);
        };
        image.reference = target.clone();
        self.put(&image)?;
        Ok(true)
    }

    /// Takes the name away; its bytes stay until they are collected. Returns whether there was such an image.
    ///
    /// # Errors
    /// When it is there and stays.
    pub fn remove(&self, reference: &Reference) -> Result<bool, WriteError> {
        let name = file_name(reference);
        let removed = self.disk.remove(&name);
        removed.map_err(|source| WriteError::new(&self.disk.root().join(name), 0, source))
    }
}

impl From<&Image> for v1::StoredImage {
    fn from(image: &Image) -> Self {
        let first = v1::stored_image::Variant::from(&image.first);
        Self {
            reference: image.reference.to_string(),
            config: first.config,
            os: first.os,
            architecture: first.architecture,
            variant: first.variant,
            os_version: first.os_version,
            layers: first.layers,
            origins: first.origins,
            created_ms: image.created_ms,
            index: image.index.map(|index| index.as_bytes().to_vec()).unwrap_or_default(),
            further: image.further.iter().map(v1::stored_image::Variant::from).collect(),
        }
    }
}

impl From<&Variant> for v1::stored_image::Variant {
    fn from(variant: &Variant) -> Self {
        let origin = |(diff_id, reference): (&DiffId, &Reference)| v1::stored_image::Origin {
            diff_id: diff_id.0.as_bytes().to_vec(),
            reference: reference.to_string(),
        };
        Self {
            config: variant.config.as_bytes().to_vec(),
            os: variant.platform.os.clone(),
            architecture: variant.platform.architecture.clone(),
            variant: variant.platform.variant.clone(),
            os_version: variant.platform.os_version.clone(),
            layers: variant.layers.iter().map(v1::StoredLayer::from).collect(),
            origins: variant.origins.iter().map(origin).collect(),
        }
    }
}

fn reference(field: &'static str, text: &str) -> Result<Reference, ConvertError> {
    text.parse().map_err(|_| ConvertError::Range {
        field,
        path: text.to_owned(),
    })
}

impl TryFrom<v1::StoredImage> for Image {
    type Error = ConvertError;

    fn try_from(message: v1::StoredImage) -> Result<Self, ConvertError> {
        let first = v1::stored_image::Variant {
            config: message.config,
            os: message.os,
            architecture: message.architecture,
            variant: message.variant,
            os_version: message.os_version,
            layers: message.layers,
            origins: message.origins,
        };
        let further = message.further.into_iter().map(Variant::try_from);
        Ok(Self {
            reference: reference("reference", &message.reference)?,
            first: first.try_into()?,
            further: further.collect::<Result<_, _>>()?,
            index: match message.index.as_slice() {
                [] => None,
                bytes => Some(Digest::from_bytes(array("index", bytes)?)),
            },
            created_ms: message.created_ms,
        })
    }
}

impl TryFrom<v1::stored_image::Variant> for Variant {
    type Error = ConvertError;

    fn try_from(message: v1::stored_image::Variant) -> Result<Self, ConvertError> {
        let mut platform = Platform::new(&message.os, &message.architecture, &message.variant);
        platform.os_version = message.os_version;
        let origin = |origin: v1::stored_image::Origin| {
            let diff_id = DiffId(Digest::from_bytes(array("origins", &origin.diff_id)?));
            Ok((diff_id, reference("origins", &origin.reference)?))
        };
        let layers = message.layers.into_iter().map(LayerInfo::try_from);
        Ok(Self {
            config: Digest::from_bytes(array("config", &message.config)?),
            platform,
            layers: layers.collect::<Result<_, _>>()?,
            origins: message.origins.into_iter().map(origin).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(platform: &str) -> Variant {
        let diff_id = DiffId(Digest::of(platform.as_bytes()));
        Variant {
            config: Digest::of(b"config"),
            platform: platform.parse().unwrap(),
            layers: vec![LayerInfo {
                diff_id,
                size_bytes: 7,
                forms: Vec::new(),
            }],
            origins: BTreeMap::from([(diff_id, "debian:12".parse().unwrap())]),
        }
    }

    #[test]
    fn an_index_survives_the_way_to_the_disk_and_back() {
        let image = Image {
            reference: "app:1".parse().unwrap(),
            first: variant("linux/amd64"),
            further: vec![variant("linux/arm/v7"), variant("linux/arm64")],
            index: Some(Digest::of(b"index")),
            created_ms: 5,
        };
        let read = Image::try_from(v1::StoredImage::from(&image)).unwrap();
        assert_eq!(read, image);
        assert_eq!(read.variants().count(), 3);
        let found = read.variant(&"linux/arm/v7".parse().unwrap());
        assert_eq!(found, Some(&image.further[0]));
        assert_eq!(read.variant(&"linux/arm/v6".parse().unwrap()), None);
    }

    #[test]
    fn file_names_are_one_component_and_fit() {
        let check = |text: &str, expected: &str| assert_eq!(file_name(&text.parse().unwrap()), expected);
        check("app:1", "images/docker.io%2Flibrary%2Fapp%3A1");
        check(
            "registry.example:5000/a/b:x_Y",
            "images/registry.example%3A5000%2Fa%2Fb%3Ax_Y",
        );
        let long: Reference = format!("r.example/{}:1", "a/".repeat(99) + "a").parse().unwrap();
        assert_eq!(file_name(&long).len(), "images/%".len() + 64);
    }
}
