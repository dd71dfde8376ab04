//! `rbuild.v1.Admin`: what an operator asks a server.

use std::collections::BTreeMap;
use std::sync::Arc;

use cache::images::{Image, Variant};
use proto::digest::DiffId;
use proto::platform::Platform;
use proto::reference::Reference;
use proto::v1;
use proto::v1::admin_server::Admin as AdminApi;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Shared, pruning, verifying};
use crate::executor::{self, tier::Tier};
use crate::export::store::read_blob;
use crate::images::DOCUMENT_LIMIT;
use crate::room::SnapshotsOf;

/// The service.
#[derive(Debug)]
pub struct AdminService(pub Arc<Shared>);

#[tonic::async_trait]
impl AdminApi for AdminService {
    async fn info(&self, request: Request<v1::InfoRequest>) -> Result<Response<v1::InfoReply>, Status> {
        let probes = match request.into_inner().with_probes {
            true => self.blocking(|shared| Ok(probes(shared.host.tier))).await?,
            false => Vec::new(),
        };
        Ok(Response::new(v1::InfoReply {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            root: self.0.root.display().to_string(),
            builds_running: self.0.builds.running() as u64,
            probes,
            ends_when_idle: self.0.idle_timeout.is_some(),
            sandbox: self.0.host.tier.to_string(),
        }))
    }

    async fn shutdown(&self, request: Request<v1::ShutdownRequest>) -> Result<Response<v1::ShutdownReply>, Status> {
        if request.into_inner().drain {
            self.0.builds.all_ended().await;
        }
        tracing::info!("asked to shut down");
        self.0.shutdown.cancel();
        Ok(Response::new(v1::ShutdownReply {}))
    }

    async fn list_images(
        &self,
        _request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesReply>, Status> {
        let images = self
            .blocking(|shared| shared.host.store.images().list().map_err(internal))
            .await?;
        Ok(Response::new(v1::ListImagesReply {
            images: images.iter().map(listed).collect(),
        }))
    }

    async fn tag_image(&self, request: Request<v1::TagImageRequest>) -> Result<Response<v1::TagImageReply>, Status> {
        let request = request.into_inner();
        let (source, target) = (parse(&request.source)?, parse(&request.target)?);
        self.blocking(move |shared| {
            let images = shared.host.store.images();
            let mut image = images.image(&source).ok_or_else(|| no_image(&source))?;
            image.reference = target;
            images.put(&image).map_err(internal)
        })
        .await?;
        Ok(Response::new(v1::TagImageReply {}))
    }

    async fn remove_image(
        &self,
        request: Request<v1::RemoveImageRequest>,
    ) -> Result<Response<v1::RemoveImageReply>, Status> {
        let reference = parse(&request.into_inner().reference)?;
        let removed = reference.to_string();
        self.blocking(
            move |shared| match shared.host.store.images().remove(&reference).map_err(internal)? {
                true => Ok(()),
                false => Err(no_image(&reference)),
            },
        )
        .await?;
        Ok(Response::new(v1::RemoveImageReply { removed: vec![removed] }))
    }

    async fn inspect_image(
        &self,
        request: Request<v1::InspectImageRequest>,
    ) -> Result<Response<v1::InspectImageReply>, Status> {
        let request = request.into_inner();
        let reference = parse(&request.reference)?;
        let platform = match request.platform.as_str() {
            "" => None,
            text => Some(
                text.parse::<Platform>()
                    .map_err(|error| Status::invalid_argument(error.to_string()))?,
            ),
        };
        let reply = self
            .blocking(move |shared| inspect(shared, &reference, platform.as_ref()))
            .await?;
        Ok(Response::new(reply))
    }

    async fn disk_usage(&self, request: Request<v1::DiskUsageRequest>) -> Result<Response<v1::DiskUsageReply>, Status> {
        let request = request.into_inner();
        let filters = pruning::filters(request.filters)?;
        let reply = self
            .blocking(move |shared| {
                let (store, sweep) = (&shared.host.store, SnapshotsOf(&shared.host.layers));
                let rows = store.usage(Some(&sweep)).map_err(internal)?;
                let items = match request.verbose {
                    true => store.items(Some(&sweep), &filters).map_err(internal)?,
                    false => Vec::new(),
                };
                Ok(pruning::usage_reply(rows, items))
            })
            .await?;
        Ok(Response::new(reply))
    }

    async fn prune(&self, request: Request<v1::PruneRequest>) -> Result<Response<v1::PruneReply>, Status> {
        let policy = pruning::policy(request.into_inner())?;
        let freed = self
            .blocking(move |shared| shared.host.room.collect(&policy).map_err(internal))
            .await?;
        Ok(Response::new(v1::PruneReply {
            freed_bytes: freed.bytes,
            removed: freed.removed,
        }))
    }

    type VerifyStoreStream = ReceiverStream<Result<v1::VerifyStoreReply, Status>>;

    async fn verify_store(
        &self,
        request: Request<v1::VerifyStoreRequest>,
    ) -> Result<Response<Self::VerifyStoreStream>, Status> {
        self.0.touch();
        let replies = verifying::verify(&self.0, request.into_inner().repair);
        Ok(Response::new(ReceiverStream::new(replies)))
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::ExplainReply>, Status> {
        let request = request.into_inner();
        let reply = self
            .blocking(move |shared| super::explain::explain(&shared.host.store, &request))
            .await?;
        Ok(Response::new(reply))
    }
}

impl AdminService {
    /// Runs `work`, which reads or writes files, on a thread that may block.
    async fn blocking<T, F>(&self, work: F) -> Result<T, Status>
    where
        T: Send + 'static,
        F: FnOnce(&Shared) -> Result<T, Status> + Send + 'static,
    {
        self.0.touch();
        let shared = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.map_err(|error| Status::internal(error.to_string()))?
    }
}

/// What this machine offers to builds.
fn probes(tier: Tier) -> Vec<v1::info_reply::Probe> {
    let standing = executor::standing(tier);
    let sandbox = v1::info_reply::Probe {
        name: "sandbox".to_owned(),
        ok: true,
        detail: format!("{tier}: {}", standing.why),
        help: standing.help.unwrap_or_default(),
    };
    let all = executor::probe().into_iter().chain([crate::sources::git::probe()]);
    let wire = |probe: executor::Probe| v1::info_reply::Probe {
        name: probe.name.to_owned(),
        ok: probe.ok,
        detail: probe.found,
        help: String::new(),
    };
    [sandbox].into_iter().chain(all.map(wire)).collect()
}

fn listed(image: &Image) -> v1::list_images_reply::Image {
    let layers = image.variants().flat_map(|variant| &variant.layers);
    let sizes: BTreeMap<DiffId, u64> = layers.map(|layer| (layer.diff_id, layer.known_size_bytes())).collect();
    v1::list_images_reply::Image {
        reference: image.reference.to_string(),
        config_digest: image.first.config.to_string(),
        created_ms: image.created_ms,
        size_bytes: sizes.values().sum(),
        platform: image.first.platform.to_string(),
        index_digest: index_digest(image),
        platforms: platforms(image),
    }
}

fn index_digest(image: &Image) -> String {
    image.index.map(|index| index.to_string()).unwrap_or_default()
}

fn platforms(image: &Image) -> Vec<String> {
    image.variants().map(|variant| variant.platform.to_string()).collect()
}

/// The image for `platform`; without one the image that this machine would run, if there is one.
fn choose<'a>(image: &'a Image, platform: Option<&Platform>, native: &Platform) -> Result<&'a Variant, Status> {
    let Some(platform) = platform else {
        return Ok(image.variant(native).unwrap_or(&image.first));
    };
    image.variant(platform).ok_or_else(|| {
        let there = platforms(image).join(", ");
        Status::not_found(format!(
            "`{}` has no image for {platform}, only for {there}",
            image.reference.familiar()
        ))
    })
}

fn inspect(
    shared: &Shared,
    reference: &Reference,
    platform: Option<&Platform>,
) -> Result<v1::InspectImageReply, Status> {
    let store = &shared.host.store;
    let named = store.images().image(reference).ok_or_else(|| no_image(reference))?;
    let image = choose(&named, platform, &shared.host.platform)?;
    let config = read_blob(store, image.config, DOCUMENT_LIMIT).map_err(internal)?;
    let config =
        config.ok_or_else(|| Status::data_loss(format!("the config of `{reference}` is gone: build it again")))?;
    let layers = image.layers.iter().map(|layer| {
        let forms = layer.forms.iter().cloned().chain(store.records().forms(layer.diff_id));
        let mut seen = std::collections::BTreeSet::new();
        let forms = forms
            .filter(|form| seen.insert(form.digest))
            .map(|form| v1::inspect_image_reply::Form {
                media_type: form.media_type.clone(),
                digest: form.digest.to_string(),
                size: form.size,
            });
        v1::inspect_image_reply::Layer {
            forms: forms.collect(),
            diff_id: layer.diff_id.to_string(),
            size_bytes: layer.size_bytes,
        }
    });
    Ok(v1::InspectImageReply {
        reference: reference.to_string(),
        config_digest: image.config.to_string(),
        layers: layers.collect(),
        config,
        platform: image.platform.to_string(),
        index_digest: index_digest(&named),
        platforms: platforms(&named),
    })
}

fn parse(text: &str) -> Result<Reference, Status> {
    text.parse()
        .map_err(|error| Status::invalid_argument(format!("{error}")))
}

fn no_image(reference: &Reference) -> Status {
    Status::not_found(format!("no image `{}` in the store", reference.familiar()))
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}
