//! Blobs and manifests out: asked for first, mounted if possible, else uploaded in one piece.
//!
//! One piece rather than chunks: it needs one request less, and several registries fail with chunks. After a failure the
//! upload starts again from the first byte, in a new upload session.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use proto::digest::Digest;
use proto::oci::Descriptor;
use proto::reference::Reference;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use reqwest::{Body, Method, Response, StatusCode, Url};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::transport::{Call, is_transient, location, same_origin, scope_of, unreachable};
use super::{Error, RegistryAccess};

/// The bytes of a blob.
pub type BlobReader = Box<dyn AsyncRead + Send + Unpin>;

/// Opens a blob at its first byte; called again for every attempt.
pub type OpenBlob<'a> = &'a (dyn Fn() -> io::Result<BlobReader> + Send + Sync);

/// How a blob came to be in the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Existed,
    /// The registry took it from another repository of its own.
    Mounted,
    /// Its bytes were sent.
    Uploaded,
}

enum Opened {
    Mounted,
    Session(Url),
}

/// Bytes of a piece of an upload.
const PIECE_BYTES: usize = 256 * 1024;

impl RegistryAccess {
    /// Makes sure that the repository of `target` has the blob. `mount_from` is another repository of the same registry that
    /// is known to have it.
    ///
    /// # Errors
    /// [`Error::Source`] if `open` fails, [`Error::Denied`] without the right to push, and those of the connection.
    pub async fn push_blob(
        &self,
        target: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        open: OpenBlob<'_>,
    ) -> Result<Pushed, Error> {
        let _permit = self.client.permit(target.registry()).await;
        let mut head = self
            .call(Method::HEAD, target, &format!("blobs/{}", descriptor.digest))
            .await?;
        head.scope = push_scope(target);
        head.what = descriptor.digest.to_string();
        if self.exists(&head).await? {
            return Ok(Pushed::Existed);
        }
        let mut attempt = 1;
        loop {
            let session = match self
                .open_session(target, descriptor, mount_from.filter(|_| attempt == 1))
                .await?
            {
                Opened::Mounted => return Ok(Pushed::Mounted),
                Opened::Session(session) => session,
            };
            let error = match self.upload(target, descriptor, session, open).await {
                Ok(()) => return Ok(Pushed::Uploaded),
                Err(error) => error,
            };
            let transient = match &error {
                Error::Unreachable { .. } => true,
                Error::Status { status, .. } => StatusCode::from_u16(*status).is_ok_and(is_transient),
                // The session is gone, not the repository: it was opened a moment ago.
                Error::NotFound { .. } => true,
                _ => false,
            };
            if !transient || attempt >= self.client.patience.tries {
                return Err(error);
            }
            self.pause(attempt, None).await;
            attempt += 1;
        }
    }

    /// Puts a manifest or index under the tag of `target`, or under its digest if `target` says one. Blobs and children must
    /// be there already.
    ///
    /// # Errors
    /// [`Error::DigestMismatch`] before anything is sent if `target` names other bytes.
    pub async fn push_manifest(&self, target: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        if let Some(expected) = target.digest().filter(|expected| *expected != digest) {
            return Err(Error::DigestMismatch {
                what: target.to_string(),
                expected,
                actual: digest,
            });
        }
        let body = bytes::Bytes::copy_from_slice(bytes);
        let make_body = move || Ok(Body::from(body.clone()));
        let mut call = self
            .call(Method::PUT, target, &format!("manifests/{}", target.manifest_name()))
            .await?;
        call.scope = push_scope(target);
        call.body = Some(&make_body);
        let media_type = HeaderValue::from_str(media_type).map_err(|error| Error::Malformed {
            what: target.to_string(),
            problem: error.to_string(),
        })?;
        call.headers.insert(CONTENT_TYPE, media_type);
        let sent = tokio::time::timeout(self.client.patience.progress, self.send(&call)).await;
        let response = sent.map_err(|_| unreachable(call.registry, "no answer in time".to_owned()))??;
        match response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED => Ok(digest),
            _ => Err(self.status_error(&call, response).await),
        }
    }

    /// A mount that is declined is an upload session already.
    async fn open_session(
        &self,
        target: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
    ) -> Result<Opened, Error> {
        let mut call = self.call(Method::POST, target, "blobs/uploads/").await?;
        call.scope = push_scope(target);
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        if let Some(from) = mount_from {
            let plain = call.url.clone();
            call.scope.push(scope_of(from, "pull"));
            call.url
                .query_pairs_mut()
                .append_pair("mount", &descriptor.digest.to_string())
                .append_pair("from", from);
            match self.send(&call).await {
                Ok(response) if response.status() == StatusCode::CREATED => return Ok(Opened::Mounted),
                Ok(response) if response.status() == StatusCode::ACCEPTED => {
                    return location(&call, &response).map(Opened::Session);
                }
                // Mounting saves an upload; whatever speaks against it does not speak against uploading.
                Ok(_) | Err(Error::Unauthorized { .. } | Error::Denied { .. }) => {}
                Err(error) => return Err(error),
            }
            tracing::debug!(digest = %descriptor.digest, from, "the registry does not mount the blob");
            call.url = plain;
            call.scope.pop();
        }
        let response = self.send(&call).await?;
        match response.status() {
            StatusCode::ACCEPTED => location(&call, &response).map(Opened::Session),
            _ => Err(self.status_error(&call, response).await),
        }
    }

    async fn upload(
        &self,
        target: &Reference,
        descriptor: &Descriptor,
        mut session: Url,
        open: OpenBlob<'_>,
    ) -> Result<(), Error> {
        session
            .query_pairs_mut()
            .append_pair("digest", &descriptor.digest.to_string());
        let sent = Arc::new(AtomicU64::new(0));
        let make_body = || {
            let reader = open().map_err(Error::Source)?;
            let counter = Arc::clone(&sent);
            let pieces = ReaderStream::with_capacity(reader, PIECE_BYTES).inspect(move |_| {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            Ok(Body::wrap_stream(pieces))
        };
        let mut call = self.call(Method::PUT, target, "").await?;
        let foreign = !same_origin(&session, &call.url);
        call.url = session;
        call.scope = push_scope(target);
        call.what = descriptor.digest.to_string();
        call.headers.insert(CONTENT_LENGTH, HeaderValue::from(descriptor.size));
        call.headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        call.body = Some(&make_body);
        let response = self.watched(&call, foreign, &sent).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(self.status_error(&call, response).await),
        }
    }

    /// Sends, and gives up when no piece left for as long as our patience lasts. A session on a `foreign` origin gets no
    /// credentials.
    async fn watched(&self, call: &Call<'_>, foreign: bool, sent: &AtomicU64) -> Result<Response, Error> {
        let sending = async {
            if foreign {
                self.follow(call, None).await
            } else {
                self.send_once(call).await
            }
        };
        tokio::pin!(sending);
        let mut seen = 0;
        loop {
            tokio::select! {
                answer = &mut sending => return answer,
                () = tokio::time::sleep(self.client.patience.progress) => {
                    let now = sent.load(Ordering::Relaxed);
                    if now == seen {
                        return Err(unreachable(call.registry, "the upload stalled".to_owned()));
                    }
                    seen = now;
                }
            }
        }
    }
}

fn push_scope(target: &Reference) -> Vec<String> {
    vec![scope_of(target.repository(), "pull,push")]
}
