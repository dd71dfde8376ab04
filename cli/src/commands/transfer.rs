//! `rbuild push` and `rbuild pull`.

use std::collections::BTreeMap;

use proto::platform::Platform;
use proto::reference::Reference;
use proto::v1;
use proto::v1::transfer_request::Kind;

use crate::agent::Agents;
use crate::args::{PullArgs, PushArgs, ShowArgs};
use crate::config::{Config, Display};
use crate::drive::{self, Job, Start};
use crate::exit::Problem;
use crate::output;
use crate::secret::Secrets;
use crate::server;
use crate::session::Session;
use crate::ui;

/// Pushes; prints the digest of what was pushed.
///
/// # Errors
/// The registry does not have the image under its name.
pub(crate) async fn push(args: PushArgs, config: &Config) -> Result<(), Problem> {
    let compression = args.compression.as_deref().map(output::compression).transpose()?;
    let request = v1::TransferRequest {
        kind: Some(Kind::Push(reference(&args.reference)?)),
        compression: compression.unwrap_or_default(),
        insecure_registries: args.insecure_registries,
        ..v1::TransferRequest::default()
    };
    transfer(request, &args.show, config).await
}

/// Pulls; prints the digest of what was pulled.
///
/// # Errors
/// The store does not have the image under its name.
pub(crate) async fn pull(args: PullArgs, config: &Config) -> Result<(), Problem> {
    let platform = match &args.platform {
        Some(text) => text
            .parse::<Platform>()
            .map_err(|error| Problem::usage(error.to_string()))?
            .to_string(),
        None => String::new(),
    };
    let request = v1::TransferRequest {
        kind: Some(Kind::Pull(reference(&args.reference)?)),
        platform,
        insecure_registries: args.insecure_registries,
        ..v1::TransferRequest::default()
    };
    transfer(request, &args.show, config).await
}

fn reference(text: &str) -> Result<String, Problem> {
    let reference = text.parse::<Reference>();
    reference
        .map(|reference| reference.to_string())
        .map_err(|error| Problem::usage(error.to_string()))
}

async fn transfer(request: v1::TransferRequest, show: &ShowArgs, config: &Config) -> Result<(), Problem> {
    let display = Display::new(show, &config.environment)?;
    let job = Job {
        start: Start::Transfer(request),
        session: Session {
            build_id: String::new(),
            description: None,
            contexts: BTreeMap::new(),
            secrets: Secrets::default(),
            agents: Agents::default(),
            docker_config: config.docker_config.clone(),
            cache_dir: config.cache_dir.clone(),
            share_paths: false,
        },
        destinations: Vec::new(),
    };
    let success = server::with(config, async |connection| drive::run(connection, job, display).await).await?;
    match success.manifest_digest.as_str() {
        "" => ui::result(&format!("{}\n", success.config_digest)),
        digest => ui::result(&format!("{digest}\n")),
    }
}
