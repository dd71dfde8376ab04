//! Brings blobs that are elsewhere into the store, verified on the way.

use std::io::Write;
use std::sync::Arc;

use cache::blob::BlobStore;
use cache::blob::follow::Follower;
use cache::registry::{Client, CredentialSource, CredentialSourceError, Credentials, RegistryAccess};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::oci::Descriptor;
use proto::reference::Reference;

use crate::blocking;
use crate::build::Job;
use crate::event::StepNumber;
use crate::layers::{lost, store_failed};
use crate::phase::Phase;
use crate::request::{Blame, BuildError};
use crate::room;
use crate::session::Session;
use crate::sources;
use crate::stack::{Origin, Stack};

/// Bytes between two reports of a download.
const REPORT_EVERY: u64 = 1 << 20;

/// Fetches `blob` from `origin` into the store.
///
/// # Errors
/// Registries that fail, bytes that do not match their digest, a full disk.
pub async fn blob(origin: &Origin, blob: &Descriptor, job: &Job, step: StepNumber) -> Result<(), BuildError> {
    followed(origin, blob, job, step, |_| ()).await
}

/// [`blob`] for those who read it while it comes: a blob that is downloaded now is told of when its first bytes are there. One
/// that comes at once, or was there, is not.
///
/// # Errors
/// As [`blob`].
pub async fn followed(
    origin: &Origin,
    blob: &Descriptor,
    job: &Job,
    step: StepNumber,
    coming: impl FnOnce(Follower),
) -> Result<(), BuildError> {
    let layers = &job.host.layers;
    if layers.has_blob(blob.digest) {
        return Ok(());
    }
    // Builds that need the same base at the same time download it once.
    let _turn = layers.download_turn(blob.digest).await;
    if layers.has_blob(blob.digest) {
        return Ok(());
    }
    match origin {
        Origin::Registry(reference) => from_registry(reference, blob, job, step, coming).await,
        // Boxed: this is written by the same code that reads layers.
        Origin::Fetched(source) => sources::again(source, blob, job, step).boxed().await,
        Origin::Layout(context) => from_layout(context, blob, job).await,
        // Built here: only the step that made it can make it again.
        Origin::Built => Err(lost(&format!("blob {}", blob.digest))),
    }
}

/// Fetches the layers of `stack` that came with the client of this build, so that an image keeps them when it is gone.
/// What a registry has may stay there until somebody needs it.
///
/// # Errors
/// As [`blob`].
pub async fn what_only_the_client_has(stack: &Stack, job: &Job, step: StepNumber) -> Result<(), BuildError> {
    for layer in stack.layers() {
        let form = layer.info.forms.first();
        if let (Origin::Layout(_), Some(form)) = (&layer.origin, form) {
            blob(&layer.origin, form, job, step).await?;
        }
    }
    Ok(())
}

async fn from_registry(
    reference: &Reference,
    blob: &Descriptor,
    job: &Job,
    step: StepNumber,
    coming: impl FnOnce(Follower),
) -> Result<(), BuildError> {
    let _phase = Phase::Pull.start();
    let ingest = job.host.store.blobs().ingest().map_err(|error| store_failed(&error))?;
    // The client compares the digest.
    let mut ingest = ingest.digested_by_writer();
    coming(ingest.follow().map_err(|error| store_failed(&error))?);
    let what = format!("layer {}", blob.digest);
    let (mut received, mut reported) = (0, 0);
    let mut sink = |bytes: &[u8]| -> std::io::Result<()> {
        ingest.write_all(bytes)?;
        received += bytes.len() as u64;
        if received - reported >= REPORT_EVERY {
            reported = received;
            job.events.progress(step, &what, received, blob.size);
        }
        Ok(())
    };
    tokio::select! {
        () = job.cancel.cancelled() => return Err(BuildError::canceled()),
        fetched = job.registry.fetch_blob(reference, blob, &mut sink) => fetched.map_err(registry_failed)?,
    }
    job.events.progress(step, &what, blob.size, blob.size);
    ingest
        .commit(blob.digest, blob.size)
        .map_err(|error| store_failed(&error))
}

async fn from_layout(context: &Arc<str>, blob: &Descriptor, job: &Job) -> Result<(), BuildError> {
    let path = format!("blobs/sha256/{}", blob.digest.hex());
    let mut answers = job.session.read_files(context, vec![path.into_bytes()]).await?;
    let (store, blob) = (Arc::clone(&job.host.store), blob.clone());
    blocking::run(move || {
        let mut ingest = store.blobs().ingest().map_err(|error| store_failed(&error))?;
        let mut received = 0;
        while let Some(piece) = answers.blocking_piece()? {
            received += piece.data.len() as u64;
            if received > blob.size {
                break;
            }
            ingest.write_all(&piece.data).map_err(|error| store_failed(&error))?;
        }
        match ingest.commit(Some((blob.digest, blob.size))) {
            Ok(_) => Ok(()),
            Err(error) => Err(
                BuildError::user(format!("blob {} of the OCI layout is damaged", blob.digest)).note(error.to_string()),
            ),
        }
    })
    .await
}

/// A small file of an OCI layout.
///
/// # Errors
/// What the client says; files over `limit` bytes.
pub async fn layout_file(context: &str, path: &str, limit: usize, job: &Job) -> Result<Vec<u8>, BuildError> {
    let mut answers = job.session.read_files(context, vec![path.as_bytes().to_vec()]).await?;
    let path = path.to_owned();
    blocking::run(move || {
        let mut all = Vec::new();
        while let Some(piece) = answers.blocking_piece()? {
            all.extend_from_slice(&piece.data);
            if all.len() > limit {
                return Err(BuildError::user(format!(
                    "`{path}` of the OCI layout is larger than {limit} bytes"
                )));
            }
        }
        Ok(all)
    })
    .await
}

/// The registries of one build, with its client's logins.
#[must_use]
pub fn access(client: &Client, session: &Arc<Session>, insecure: &[String]) -> RegistryAccess {
    let credentials = Arc::new(SessionCredentials(Arc::clone(session)));
    RegistryAccess::new(client.clone(), credentials, insecure.to_vec())
}

/// Logins come from the client, when a registry asks for one.
struct SessionCredentials(Arc<Session>);

impl CredentialSource for SessionCredentials {
    fn credentials<'a>(
        &'a self,
        registry: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credentials>, CredentialSourceError>> {
        async move {
            let found = self.0.credentials(registry).await?;
            Ok(found.map(|found| {
                if found.identity_token.is_empty() {
                    Credentials::Password {
                        username: found.username,
                        password: found.password,
                    }
                } else {
                    Credentials::IdentityToken(found.identity_token)
                }
            }))
        }
        .boxed()
    }
}

/// A registry's failure in the words of a build.
#[must_use]
pub fn registry_failed(error: cache::registry::Error) -> BuildError {
    use cache::registry::Error;
    let failure = BuildError::new(Blame::Remote, error.to_string());
    match &error {
        Error::Unauthorized {
            registry,
            had_credentials,
        } => failure.help(if *had_credentials {
            format!("the login for `{registry}` was refused: run `rbuild login {registry}` again")
        } else {
            format!("run `rbuild login {registry}`")
        }),
        Error::NotFound { .. } => {
            failure.help("check the name and the tag, and whether you are logged in to its registry")
        }
        Error::Untrusted { registry, .. } => failure.help(format!(
            "let this machine trust its authority (`SSL_CERT_FILE`), or accept any certificate with `--insecure-registry {registry}`"
        )),
        Error::DigestMismatch { .. } | Error::SizeMismatch { .. } => failure
            .note("nothing of it was kept")
            .help("build again; if that does not help, the registry's copy is damaged: push the image again"),
        Error::NoPlatform { .. } => failure.help("choose another platform with `--platform`"),
        Error::Sink(source) | Error::Source(source) => {
            room::no_room(source).unwrap_or_else(|| BuildError::environment(error.to_string()).note(source.to_string()))
        }
        Error::Credentials { source, .. } => BuildError::user(error.to_string()).note(source.to_string()),
        Error::Setup { .. } => BuildError::environment(error.to_string()),
        _ => failure,
    }
}
