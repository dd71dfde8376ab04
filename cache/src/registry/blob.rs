//! Blobs in: counted and hashed while they stream, resumed where they were cut.

use std::io;

use proto::digest::Hasher;
use proto::oci::Descriptor;
use proto::reference::Reference;
use reqwest::header::{CONTENT_RANGE, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::transport::{Call, next_chunk, unreachable};
use super::{Error, RegistryAccess};

/// Takes the bytes of a blob in order, each exactly once; also the place to count progress. It runs on the runtime's threads:
/// hand the bytes on if writing them takes long.
pub type Sink<'a> = &'a mut (dyn FnMut(&[u8]) -> io::Result<()> + Send);

/// Progress that buys a new set of attempts: less would let a registry drip a blob forever.
const PROGRESS_BYTES: u64 = 1024 * 1024;

struct Received {
    hasher: Hasher,
    bytes: u64,
}

enum Interruption {
    /// Asking again for the rest may help.
    Cut(Error),
    Fatal(Error),
}

impl RegistryAccess {
    /// Streams a blob into `sink`. What the sink has got is the blob only if this returns `Ok`.
    ///
    /// # Errors
    /// [`Error::SizeMismatch`] at the first byte too many, [`Error::DigestMismatch`] after the last, [`Error::Sink`] if
    /// the sink fails, and those of the connection after all attempts.
    pub async fn fetch_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        sink: Sink<'_>,
    ) -> Result<(), Error> {
        let _permit = self.client.permit(reference.registry()).await;
        let mut call = self
            .call(Method::GET, reference, &format!("blobs/{}", descriptor.digest))
            .await?;
        call.what = descriptor.digest.to_string();
        let mut received = Received {
            hasher: Hasher::new(),
            bytes: 0,
        };
        let mut attempt = 1;
        let mut mark = 0;
        loop {
            match self.stream(&mut call, descriptor, &mut received, sink).await {
                Ok(()) => break,
                Err(Interruption::Fatal(error)) => return Err(error),
                Err(Interruption::Cut(error)) => {
                    if received.bytes - mark >= PROGRESS_BYTES {
                        (attempt, mark) = (0, received.bytes);
                    }
                    attempt += 1;
                    if attempt > self.client.patience.tries {
                        return Err(error);
                    }
                    tracing::debug!(digest = %descriptor.digest, bytes = received.bytes, "the transfer is resumed");
                    self.pause(attempt - 1, None).await;
                }
            }
        }
        let actual = received.hasher.finish();
        if actual != descriptor.digest {
            return Err(Error::DigestMismatch {
                what: call.what,
                expected: descriptor.digest,
                actual,
            });
        }
        Ok(())
    }

    /// Whether the registry has the blob in this repository.
    ///
    /// # Errors
    /// Any answer but yes and no.
    pub async fn blob_exists(&self, reference: &Reference, descriptor: &Descriptor) -> Result<bool, Error> {
        let mut call = self
            .call(Method::HEAD, reference, &format!("blobs/{}", descriptor.digest))
            .await?;
        call.what = descriptor.digest.to_string();
        self.exists(&call).await
    }

    pub(super) async fn exists(&self, call: &Call<'_>) -> Result<bool, Error> {
        let response = self.send(call).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.status_error(call, response).await),
        }
    }

    async fn stream(
        &self,
        call: &mut Call<'_>,
        descriptor: &Descriptor,
        received: &mut Received,
        sink: Sink<'_>,
    ) -> Result<(), Interruption> {
        if received.bytes > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", received.bytes));
            call.headers.insert(RANGE, range.expect("digits are legal in a header"));
        }
        let mut response = self.send(call).await.map_err(Interruption::Fatal)?;
        let mut skip = match response.status() {
            // The registry does not know ranges: what we have comes again and is dropped.
            StatusCode::OK => received.bytes,
            StatusCode::PARTIAL_CONTENT if received.bytes > 0 && range_start(&response) == Some(received.bytes) => 0,
            _ => return Err(Interruption::Fatal(self.status_error(call, response).await)),
        };
        let wrong_size = |actual| Error::SizeMismatch {
            what: descriptor.digest.to_string(),
            expected: descriptor.size,
            actual,
        };
        let awaited = descriptor.size - received.bytes + skip;
        if let Some(length) = response.content_length().filter(|length| *length != awaited) {
            let actual = received.bytes - skip + length;
            return Err(Interruption::Fatal(wrong_size(actual)));
        }
        loop {
            let chunk = next_chunk(&self.client.patience, call.registry, &mut response).await;
            let Some(chunk) = chunk.map_err(Interruption::Cut)? else {
                break;
            };
            let dropped = skip.min(chunk.len() as u64);
            skip -= dropped;
            let piece = &chunk[usize::try_from(dropped).expect("at most the length of a slice")..];
            received.bytes += piece.len() as u64;
            if received.bytes > descriptor.size {
                return Err(Interruption::Fatal(wrong_size(received.bytes)));
            }
            received.hasher.update(piece);
            sink(piece).map_err(|error| Interruption::Fatal(Error::Sink(error)))?;
        }
        if received.bytes < descriptor.size {
            let cause = format!(
                "it ended `{}` after {} of {} bytes",
                call.what, received.bytes, descriptor.size
            );
            return Err(Interruption::Cut(unreachable(call.registry, cause)));
        }
        Ok(())
    }
}

/// `bytes 7-99/100` → 7
fn range_start(response: &Response) -> Option<u64> {
    // An unreadable range is a wrong range.
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
