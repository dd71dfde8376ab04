//! A name becomes a digest, a manifest and a config.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::digest::Digest;
use proto::oci::{Descriptor, Index, Manifest};
use proto::platform::Platform;
use proto::reference::Reference;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode};

use super::document::{self, Document, NESTING};
use super::transport::read_limited;
use super::{Error, RegistryAccess};

/// Largest manifest, index or config that is read: 4 MiB.
pub const RESOLVE_LIMIT_BYTES: u64 = 4 * 1024 * 1024;

/// Nested indexes looked at for one name.
const DOCUMENTS: usize = 16;

/// What a name stands for on one platform, every byte verified.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The outermost index and its bytes, if the name is one.
    pub index: Option<(Descriptor, Bytes)>,
    /// The manifest for the platform.
    pub manifest: Descriptor,
    /// Its bytes, which its digest names.
    pub manifest_bytes: Bytes,
    /// The same, parsed.
    pub parsed: Manifest,
    /// The image config's bytes.
    pub config_bytes: Bytes,
}

struct Fetched {
    descriptor: Descriptor,
    bytes: Bytes,
    document: Document,
}

impl RegistryAccess {
    /// What `reference` is on `platform`. Without a platform, an index must hold a single image. An image that is no index is
    /// taken as it is: whether its config fits `platform` is the caller's question.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NoPlatform`], [`Error::Malformed`], [`Error::DigestMismatch`], and those of the
    /// connection.
    pub async fn resolve(&self, reference: &Reference, platform: Option<&Platform>) -> Result<Resolved, Error> {
        let outer = self.fetch_document(reference, None).await?;
        let (index, image) = match outer.document {
            Document::Manifest(manifest) => (None, (outer.descriptor, outer.bytes, manifest)),
            Document::Index(parsed) => {
                let image = self.image_of(reference, parsed, platform).await?;
                (Some((outer.descriptor, outer.bytes)), image)
            }
        };
        let (manifest, manifest_bytes, parsed) = image;
        let config_bytes = self.fetch_small(reference, &parsed.config).await?;
        Ok(Resolved {
            index,
            manifest,
            manifest_bytes,
            parsed,
            config_bytes,
        })
    }

    /// The digest that `reference` has now, without its content where the registry can tell.
    ///
    /// # Errors
    /// As [`RegistryAccess::resolve`], except those about content.
    pub async fn resolve_digest(&self, reference: &Reference) -> Result<Digest, Error> {
        if let Some(digest) = reference.digest() {
            return Ok(digest);
        }
        let mut call = self
            .call(
                Method::HEAD,
                reference,
                &format!("manifests/{}", reference.manifest_name()),
            )
            .await?;
        call.headers = accept();
        let response = self.send(&call).await?;
        match response.status() {
            StatusCode::OK => {
                if let Some(digest) = content_digest(&response) {
                    return Ok(digest);
                }
            }
            StatusCode::METHOD_NOT_ALLOWED => {}
            _ => return Err(self.status_error(&call, response).await),
        }
        Ok(self.fetch_document(reference, None).await?.descriptor.digest)
    }

    /// A blob of at most [`RESOLVE_LIMIT_BYTES`] in memory: a config.
    ///
    /// # Errors
    /// [`Error::TooLarge`] before anything is fetched, and those of [`RegistryAccess::fetch_blob`].
    pub async fn fetch_small(&self, reference: &Reference, descriptor: &Descriptor) -> Result<Bytes, Error> {
        if descriptor.size > RESOLVE_LIMIT_BYTES {
            return Err(Error::TooLarge {
                what: descriptor.digest.to_string(),
                limit: RESOLVE_LIMIT_BYTES,
            });
        }
        let mut bytes = Vec::new();
        let mut sink = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        self.fetch_blob(reference, descriptor, &mut sink).await?;
        Ok(bytes.into())
    }

    /// Breadth first through nested indexes: a direct entry is a better answer than one further down.
    async fn image_of(
        &self,
        reference: &Reference,
        outermost: Index,
        wanted: Option<&Platform>,
    ) -> Result<(Descriptor, Bytes, Manifest), Error> {
        let mut queue = VecDeque::from([(outermost, 1)]);
        let mut available = Vec::new();
        let mut documents = 0;
        while let Some((index, depth)) = queue.pop_front() {
            let chosen = choose(&index, wanted, &mut available).cloned();
            if let Some(descriptor) = chosen {
                let fetched = self.fetch_document(reference, Some(&descriptor)).await?;
                return match fetched.document {
                    Document::Manifest(manifest) => Ok((fetched.descriptor, fetched.bytes, manifest)),
                    Document::Index(_) => Err(malformed(reference, "an entry for an image is an index")),
                };
            }
            for entry in index
                .manifests
                .iter()
                .filter(|entry| document::is_index(&entry.media_type))
            {
                documents += 1;
                if depth >= NESTING || documents > DOCUMENTS {
                    return Err(malformed(reference, "too many indexes within indexes"));
                }
                if let Document::Index(inner) = self.fetch_document(reference, Some(entry)).await?.document {
                    queue.push_back((inner, depth + 1));
                } else {
                    return Err(malformed(reference, "an entry for an index is an image"));
                }
            }
        }
        Err(Error::NoPlatform {
            reference: reference.to_string(),
            wanted: wanted.map_or_else(|| "any single platform".to_owned(), ToString::to_string),
            available,
        })
    }

    async fn fetch_document(&self, reference: &Reference, entry: Option<&Descriptor>) -> Result<Fetched, Error> {
        let name = entry.map_or_else(|| reference.manifest_name(), |entry| entry.digest.to_string());
        let mut call = self.call(Method::GET, reference, &format!("manifests/{name}")).await?;
        call.headers = accept();
        let response = self.send(&call).await?;
        if response.status() != StatusCode::OK {
            return Err(self.status_error(&call, response).await);
        }
        // A name that says a digest is believed before the registry's header.
        let expected = entry
            .map(|entry| entry.digest)
            .or(reference.digest())
            .or_else(|| content_digest(&response));
        let content_type = response.headers().get(CONTENT_TYPE);
        let said = content_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let patience = &self.client.patience;
        let bytes = read_limited(patience, call.registry, &call.what, response, RESOLVE_LIMIT_BYTES).await?;
        let actual = Digest::of(&bytes);
        if let Some(expected) = expected.filter(|expected| *expected != actual) {
            return Err(Error::DigestMismatch {
                what: call.what,
                expected,
                actual,
            });
        }
        let size = bytes.len() as u64;
        if let Some(entry) = entry.filter(|entry| entry.size != size) {
            return Err(Error::SizeMismatch {
                what: call.what,
                expected: entry.size,
                actual: size,
            });
        }
        let (media_type, document) =
            document::parse(&bytes, &said).map_err(|problem| malformed(reference, &problem))?;
        if entry.is_some_and(|entry| entry.media_type != media_type) {
            return Err(malformed(reference, "its index gives it another media type"));
        }
        let descriptor = entry
            .cloned()
            .unwrap_or_else(|| Descriptor::new(&media_type, actual, size));
        Ok(Fetched {
            descriptor,
            bytes: bytes.into(),
            document,
        })
    }
}

fn malformed(reference: &Reference, problem: &str) -> Error {
    Error::Malformed {
        what: reference.to_string(),
        problem: problem.to_owned(),
    }
}

fn accept() -> HeaderMap {
    document::ACCEPT
        .iter()
        .map(|media_type| (ACCEPT, HeaderValue::from_static(media_type)))
        .collect()
}

fn content_digest(response: &Response) -> Option<Digest> {
    // A header we can not read is a header that is not there: the bytes are hashed in any case.
    response
        .headers()
        .get("docker-content-digest")?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// The image that runs best on `wanted` among the entries of an index: the same platform, else the nearest older variant.
#[must_use]
pub fn best_for<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    let mut best: Option<(usize, &Descriptor)> = None;
    for entry in entries.iter().filter(|entry| is_image(entry)) {
        if let Some(platform) = platform_of(entry)
            && let Some(rank) = rank(wanted, &platform)
            && best.is_none_or(|(so_far, _)| rank < so_far)
        {
            best = Some((rank, entry));
        }
    }
    best.map(|(_, entry)| entry)
}

/// [`best_for`] in `index`, or its only image if no platform is wanted; what there is goes to `available`.
fn choose<'a>(index: &'a Index, wanted: Option<&Platform>, available: &mut Vec<String>) -> Option<&'a Descriptor> {
    let images: Vec<_> = index.manifests.iter().filter(|entry| is_image(entry)).collect();
    let platforms = images.iter().filter_map(|entry| platform_of(entry));
    available.extend(platforms.map(|platform| platform.to_string()));
    match (wanted, images.as_slice()) {
        (Some(wanted), _) => best_for(&index.manifests, wanted),
        (None, [single]) => Some(single),
        (None, _) => None,
    }
}

/// Attestations live in indexes beside images, for the platform `unknown/unknown`.
fn is_image(entry: &Descriptor) -> bool {
    let attestation = entry.annotations.contains_key("vnd.docker.reference.type");
    let unknown = entry.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
    !document::is_index(&entry.media_type) && !attestation && !unknown
}

fn platform_of(entry: &Descriptor) -> Option<Platform> {
    let said = entry.platform.as_ref()?;
    let normal = Platform::new(&said.os, &said.architecture, &said.variant);
    Some(Platform {
        os_version: said.os_version.clone(),
        ..normal
    })
}

/// How far `offered` is from `wanted`, nothing if it does not run there: 0 is equal, then the older variants.
fn rank(wanted: &Platform, offered: &Platform) -> Option<usize> {
    if (&wanted.os, &wanted.architecture) != (&offered.os, &offered.architecture) {
        return None;
    }
    if !wanted.os_version.is_empty() && wanted.os_version != offered.os_version {
        return None;
    }
    if wanted.variant == offered.variant {
        return Some(0);
    }
    let variants: &[&str] = match wanted.architecture.as_str() {
        "arm" => &["v8", "v7", "v6", "v5"],
        "arm64" => &["v9", "v8.5", "v8.2", ""],
        "amd64" => &["v4", "v3", "v2", ""],
        _ => return None,
    };
    let place = |variant: &str| variants.iter().position(|known| *known == variant);
    place(&offered.variant)?.checked_sub(place(&wanted.variant)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, offered: &[&str], expected: Option<usize>) {
        let mut index = Index {
            schema_version: 2,
            media_type: String::new(),
            manifests: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
        };
        for (number, text) in offered.iter().enumerate() {
            let digest = Digest::of(&[u8::try_from(number).unwrap()]);
            let mut entry = Descriptor::new(proto::oci::media_type::MANIFEST, digest, 1);
            entry.platform = Some(text.parse().unwrap());
            index.manifests.push(entry);
        }
        let chosen = choose(&index, Some(&wanted.parse().unwrap()), &mut Vec::new());
        assert_eq!(
            chosen,
            expected.map(|at| &index.manifests[at]),
            "{wanted} of {offered:?}"
        );
    }

    #[test]
    fn the_nearest_older_variant_is_chosen_and_never_a_newer_one() {
        check("linux/amd64", &["linux/arm64", "linux/amd64"], Some(1));
        check("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some(1));
        check("linux/arm/v7", &["linux/arm/v6", "linux/arm/v7"], Some(1));
        check("linux/arm/v6", &["linux/arm/v7"], None);
        check("linux/amd64", &["linux/amd64/v3"], None);
        check("linux/amd64/v3", &["linux/amd64"], Some(0));
        check("linux/s390x", &["linux/amd64"], None);
        check("linux/amd64", &["unknown/unknown"], None);
    }
}
