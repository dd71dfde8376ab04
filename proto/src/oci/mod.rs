//! What OCI images are made of, as JSON: descriptors, manifests, indexes, configs.
//!
//! Own types rather than a crate's: Docker's config fields (`Healthcheck`, `OnBuild`, `Shell`, `ArgsEscaped`) and unknown
//! fields of a base image must survive a build, and the order of members is part of the bytes that digests name.

pub mod config;
pub mod json;
pub mod manifest;

pub use config::{Config, Healthcheck, History, ImageConfig, RootFs};
pub use manifest::{Descriptor, Index, Manifest};

/// Media types, OCI's first, Docker's beside them.
pub mod media_type {
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// Uncompressed layer.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Layer compressed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Layer compressed with zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker's index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's uncompressed layer.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker's gzip layer.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker's zstd layer.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
}

/// How the bytes of a layer blob are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compression {
    /// Plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// Compression of a layer by its media type, OCI's or Docker's; nothing for what is no layer.
    #[must_use]
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        match media_type {
            media_type::LAYER | media_type::DOCKER_LAYER => Some(Self::None),
            media_type::LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => Some(Self::Gzip),
            media_type::LAYER_ZSTD | media_type::DOCKER_LAYER_ZSTD => Some(Self::Zstd),
            _ => None,
        }
    }

    /// OCI's media type for a layer in this compression.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::None => media_type::LAYER,
            Self::Gzip => media_type::LAYER_GZIP,
            Self::Zstd => media_type::LAYER_ZSTD,
        }
    }
}
