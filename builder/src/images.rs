//! Base images: from a name to a pinned manifest, its config and its layers, bytes of layers not fetched.

use std::sync::Arc;

use cache::images::Variant;
use cache::lease::Held;
use cache::records::RecordStore;
use cache::registry::best_for;
use cache::registry::document::{self, Document, NESTING};
use proto::digest::Digest;
use proto::oci::{Compression, Descriptor, ImageConfig, Index, Manifest};
use proto::platform::Platform;
use proto::record::LayerInfo;
use proto::reference::Reference;

use crate::build::Job;
use crate::fetch;
use crate::request::{Blame, BuildError, BuildRequest, NamedContext};
use crate::stack::{Layer, Origin, Stack};

/// Manifests, indexes and configs are held in memory.
pub const DOCUMENT_LIMIT: usize = 4 << 20;
/// Start of the opaque names of OCI layouts among image names; no reference can start so.
const LAYOUT_PREFIX: &str = "oci-layout://";

/// An image that this build uses.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// Digest of the manifest for the platform.
    pub manifest: Digest,
    /// Its config.
    pub config: ImageConfig,
    /// The exact bytes of the config.
    pub config_bytes: Vec<u8>,
    /// Its layers.
    pub stack: Stack,
    /// What the registry had under the name, index or manifest; nothing for images from elsewhere.
    pub pin: Option<Digest>,
}

/// Where a name may be looked up.
#[derive(Debug, Clone, Copy)]
pub struct Lookup {
    /// In the store first.
    pub store: bool,
    /// What an earlier look at the registry found behind the name: a tag may move between two questions.
    pub pin: Option<Digest>,
}

/// Whether the store has an image of that name for each of `platforms`.
#[must_use]
pub fn all_in_store<'a>(name: &str, mut platforms: impl Iterator<Item = &'a Platform>, job: &Job) -> bool {
    // What is no reference has another home.
    let Ok(reference) = name.parse::<Reference>() else {
        return false;
    };
    let image = job.host.store.images().image(&reference);
    image.is_some_and(|image| platforms.all(|platform| image.variant(platform).is_some()))
}

/// The name under which the frontend asks for a named context that is an OCI layout.
#[must_use]
pub fn layout_name(context: &str) -> String {
    format!("{LAYOUT_PREFIX}{context}")
}

/// Finds the image behind a name that the frontend asks for.
///
/// An image of that name in the store wins over the registry's, if `lookup` lets it.
///
/// # Errors
/// Names nobody knows, registries that fail, documents that make no sense.
pub async fn resolve(
    name: &str,
    platform: &Platform,
    lookup: Lookup,
    request: &BuildRequest,
    job: &Job,
) -> Result<ResolvedImage, BuildError> {
    if let Some(context) = name.strip_prefix(LAYOUT_PREFIX) {
        return from_layout(context, platform, request, job).await;
    }
    let reference: Reference = name.parse().map_err(|error| BuildError::user(format!("{error}")))?;
    let mut damaged = false;
    if lookup.store
        && reference.digest().is_none()
        && let Some(image) = job.host.store.images().image(&reference)
        && let Some(variant) = image.variant(platform)
    {
        match from_store(variant, job)? {
            Some(image) => return Ok(image),
            None => damaged = true,
        }
    }
    let pinned = lookup
        .pin
        .map_or_else(|| reference.clone(), |digest| reference.with_digest(digest));
    let found = from_registry(&pinned, platform, job).await;
    let found = found.map_err(|error| match damaged {
        true => error
            .note(format!(
                "the store has `{}`, but not all of its bytes any more",
                reference.familiar()
            ))
            .help("build it again, or push it where it can be found"),
        false => error,
    });
    found.map_err(|error| match for_others(&reference, platform, job) {
        Some(others) => error.note(format!("the store has `{}` for {others} only", reference.familiar())),
        None => error,
    })
}

/// The platforms that the store has an image of that name for, if `platform` is not among them.
fn for_others(reference: &Reference, platform: &Platform, job: &Job) -> Option<String> {
    let image = job.host.store.images().image(reference)?;
    let platforms: Vec<String> = image.variants().map(|variant| variant.platform.to_string()).collect();
    image.variant(platform).is_none().then(|| platforms.join(", "))
}

/// Asks the registry.
///
/// # Errors
/// As [`resolve`].
pub async fn from_registry(reference: &Reference, platform: &Platform, job: &Job) -> Result<ResolvedImage, BuildError> {
    let resolved = tokio::select! {
        () = job.cancel.cancelled() => return Err(BuildError::canceled()),
        resolved = job.registry.resolve(reference, Some(platform)) => resolved.map_err(fetch::registry_failed)?,
    };
    let config: ImageConfig = parse("image config", &resolved.config_bytes)?;
    let origin = Origin::Registry(Arc::new(reference.with_digest(resolved.manifest.digest)));
    let stack = stack_of(&resolved.parsed, &config, &origin, job)?;
    let outermost = resolved.index.as_ref().map_or(&resolved.manifest, |(index, _)| index);
    Ok(ResolvedImage {
        manifest: resolved.manifest.digest,
        config,
        config_bytes: resolved.config_bytes.to_vec(),
        stack,
        pin: Some(outermost.digest),
    })
}

/// An image of the store, if its bytes are still there.
///
/// # Errors
/// A store that cannot be read.
pub fn from_store(variant: &Variant, job: &Job) -> Result<Option<ResolvedImage>, BuildError> {
    let store = &job.host.store;
    job.lease.hold(Held::Blob(variant.config));
    let Some(bytes) = crate::export::store::read_blob(store, variant.config, DOCUMENT_LIMIT)? else {
        return Ok(None);
    };
    let config: ImageConfig = parse("image config", &bytes)?;
    let origins = &variant.origins;
    let layers = variant.layers.iter().cloned().map(|info| {
        let origin = origins
            .get(&info.diff_id)
            .map(|reference| Origin::Registry(Arc::new(reference.clone())));
        Layer {
            origin: origin.unwrap_or(Origin::Built),
            info,
        }
    });
    let stack = Stack::new(layers.collect());
    Ok(is_whole(&stack, job).then_some(ResolvedImage {
        manifest: variant.config,
        config,
        config_bytes: bytes,
        stack,
        pin: None,
    }))
}

/// Whether each layer of an image is here or can be fetched.
#[must_use]
pub fn is_whole(stack: &Stack, job: &Job) -> bool {
    let mut layers = stack.layers().iter().zip(stack.chains());
    layers.all(|(layer, chain)| layer.origin != Origin::Built || job.host.layers.is_local(layer, *chain))
}

async fn from_layout(
    context: &str,
    platform: &Platform,
    request: &BuildRequest,
    job: &Job,
) -> Result<ResolvedImage, BuildError> {
    let Some(NamedContext::OciLayout { tag, digest }) = request.contexts.get(context) else {
        return Err(BuildError::bug(format!("context `{context}` is no OCI layout")));
    };
    let bytes = fetch::layout_file(context, "index.json", DOCUMENT_LIMIT, job).await?;
    let index: Index = parse("index.json of the OCI layout", &bytes)?;
    let mut descriptor = choose(&index, tag.as_deref(), *digest, platform, context)?;
    // An index may lead to an index per platform, but not for ever.
    for _ in 0..NESTING {
        let bytes = layout_blob(context, &descriptor, job).await?;
        let (media_type, document) = document::parse(&bytes, &descriptor.media_type).map_err(|problem| {
            let what = format!(
                "{} of the OCI layout of context `{context}` is refused",
                descriptor.digest
            );
            BuildError::new(Blame::Remote, what).note(problem.escape_debug().to_string())
        })?;
        if media_type != descriptor.media_type {
            let what = format!(
                "the OCI layout of context `{context}` gives {} two media types",
                descriptor.digest
            );
            return Err(BuildError::new(Blame::Remote, what));
        }
        let inner = match document {
            Document::Manifest(manifest) => {
                let config_bytes = layout_blob(context, &manifest.config, job).await?;
                let config: ImageConfig = parse("image config", &config_bytes)?;
                let stack = stack_of(&manifest, &config, &Origin::Layout(context.into()), job)?;
                return Ok(ResolvedImage {
                    manifest: descriptor.digest,
                    config,
                    config_bytes,
                    stack,
                    pin: None,
                });
            }
            Document::Index(inner) => inner,
        };
        let found = best_for(&inner.manifests, platform);
        descriptor = found.ok_or_else(|| no_platform(&inner, platform, context))?.clone();
    }
    Err(BuildError::user(format!(
        "the OCI layout of context `{context}` nests indexes too deep"
    )))
}

/// The entry of `index.json` that is meant. Some tools write one a platform, all of one name or of none.
fn choose(
    index: &Index,
    tag: Option<&str>,
    digest: Option<Digest>,
    platform: &Platform,
    context: &str,
) -> Result<Descriptor, BuildError> {
    const NAME: &str = "org.opencontainers.image.ref.name";
    let all = index.manifests.as_slice();
    let named = |tag: &str| -> Vec<Descriptor> {
        let named = |entry: &&Descriptor| entry.annotations.get(NAME).is_some_and(|name| name == tag);
        all.iter().filter(named).cloned().collect()
    };
    let candidates = match (digest, tag) {
        (Some(digest), _) => all.iter().filter(|entry| entry.digest == digest).cloned().collect(),
        (None, Some(tag)) => named(tag),
        (None, None) if all.len() == 1 || all.iter().all(|entry| !entry.annotations.contains_key(NAME)) => all.to_vec(),
        (None, None) => named("latest"),
    };
    let found = match candidates.as_slice() {
        [single] => Some(single),
        several => best_for(several, platform),
    };
    found.cloned().ok_or_else(|| {
        let known: Vec<&str> = index
            .manifests
            .iter()
            .filter_map(|found| Some(found.annotations.get(NAME)?.as_str()))
            .collect();
        BuildError::user(format!("the OCI layout of context `{context}` has no such image"))
            .note(format!(
                "it holds {} images: {}",
                index.manifests.len(),
                known.join(", ").escape_debug()
            ))
            .help(format!("choose one: `--build-context {context}=oci-layout://PATH:TAG`"))
    })
}

fn no_platform(index: &Index, platform: &Platform, context: &str) -> BuildError {
    let offered = index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
    let offered: Vec<String> = offered.map(ToString::to_string).collect();
    BuildError::user(format!(
        "the OCI layout of context `{context}` has no image for {platform}"
    ))
    .note(format!("it is for {}", offered.join(", ").escape_debug()))
}

async fn layout_blob(context: &str, descriptor: &Descriptor, job: &Job) -> Result<Vec<u8>, BuildError> {
    let path = format!("blobs/sha256/{}", descriptor.digest.hex());
    let bytes = fetch::layout_file(context, &path, DOCUMENT_LIMIT, job).await?;
    if Digest::of(&bytes) != descriptor.digest || bytes.len() as u64 != descriptor.size {
        return Err(BuildError::user(format!(
            "blob {} of context `{context}` is damaged",
            descriptor.digest
        )));
    }
    Ok(bytes)
}

/// Layers of the manifest, with their identities from the config.
fn stack_of(manifest: &Manifest, config: &ImageConfig, origin: &Origin, job: &Job) -> Result<Stack, BuildError> {
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let (layers, ids) = (manifest.layers.len(), diff_ids.len());
        return Err(BuildError::new(
            Blame::Remote,
            format!("the image has {layers} layers, but its config names {ids}"),
        ));
    }
    let mut layers = Vec::with_capacity(diff_ids.len());
    for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids) {
        if Compression::of_media_type(&descriptor.media_type).is_none() {
            let kind = descriptor.media_type.escape_debug();
            return Err(BuildError::new(
                Blame::Remote,
                format!("layers of type `{kind}` are not supported"),
            ));
        }
        let forms = vec![descriptor.clone()];
        // Remembered with the diff ID, so that images that share the layer find its blob.
        job.host
            .store
            .records()
            .add_form(*diff_id, descriptor)
            .map_err(|error| crate::layers::store_failed(&error))?;
        layers.push(Layer {
            info: LayerInfo {
                diff_id: *diff_id,
                size_bytes: 0,
                forms,
            },
            origin: origin.clone(),
        });
    }
    Ok(Stack::new(layers))
}

fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, BuildError> {
    document::parse_json(bytes)
        .map_err(|problem| BuildError::new(Blame::Remote, format!("the {what} makes no sense: {problem}")))
}
