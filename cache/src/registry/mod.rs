//! The registry client: names to manifests, blobs in, blobs and manifests out.
//!
//! Reading order: this file says who talks for whom; [`RegistryAccess::resolve`] and `document` read manifests,
//! [`RegistryAccess::fetch_blob`] streams and verifies, [`RegistryAccess::push_blob`] uploads; all of them speak through
//! `transport` (redirects, retries) and `auth` (challenges, tokens). `credentials` reads Docker's configuration and
//! is only called by whoever knows where that is.
//!
//! Source: OCI distribution-spec 1.1, and the token protocol of the distribution project.

mod auth;
mod blob;
mod challenge;
pub mod credentials;
pub mod document;
mod error;
mod push;
mod resolve;
mod scheme;
mod transport;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::addresses::{CheckedNames, Reach};

pub use blob::Sink;
pub use error::Error;
pub use push::{BlobReader, OpenBlob, Pushed};
pub use resolve::{RESOLVE_LIMIT_BYTES, Resolved, best_for};

/// How long to wait and how often to try.
#[derive(Debug, Clone)]
pub struct Patience {
    /// For a connection.
    pub connect: Duration,
    /// For the head of an answer.
    pub head: Duration,
    /// For the next bytes of a transfer, in either direction.
    pub progress: Duration,
    /// Attempts of one request, the first included.
    pub tries: u32,
    /// The wait before the second attempt is random below this; it doubles with each further one.
    pub backoff: Duration,
    /// The longest `Retry-After` that is obeyed; a longer one is an error.
    pub retry_after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            head: Duration::from_secs(30),
            progress: Duration::from_secs(60),
            tries: 5,
            backoff: Duration::from_millis(500),
            retry_after: Duration::from_secs(60),
        }
    }
}

/// Transfers at the same time with one registry, over all builds.
const TRANSFERS_PER_REGISTRY: usize = 4;

/// Connections to registries; cheap to clone, one for a whole build server. Holds no credentials and no tokens: those
/// belong to a [`RegistryAccess`].
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// The same without a look at certificates: for registries that the user named insecure, and only for themselves.
    unverified: reqwest::Client,
    patience: Arc<Patience>,
    limits: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

impl Patience {
    /// How long to wait before attempt `attempt + 1`: a random part of the doubled backoff.
    #[must_use]
    pub fn pause_after(&self, attempt: u32) -> Duration {
        use std::hash::BuildHasher;
        let ceiling = self.backoff.saturating_mul(1 << attempt.saturating_sub(1).min(10));
        // Randomly keyed for each hasher: as random as jitter needs to be.
        let random = std::hash::RandomState::new().hash_one(attempt);
        let ceiling = u64::try_from(ceiling.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(random % ceiling.max(1))
    }
}

/// Chooses the TLS implementation of this process, once.
pub(crate) fn install_tls_provider() {
    if rustls::crypto::CryptoProvider::get_default().is_none()
        && rustls::crypto::ring::default_provider().install_default().is_err()
    {
        tracing::debug!("another thread chose the TLS provider first");
    }
}

impl Client {
    /// A client that trusts the certificate authorities of this machine.
    ///
    /// # Errors
    /// [`Error::Setup`] if the trusted certificates can not be loaded.
    pub fn new(patience: Patience) -> Result<Self, Error> {
        install_tls_provider();
        Ok(Self {
            http: connections(&patience, Certificates::Verified)?,
            unverified: connections(&patience, Certificates::Any)?,
            patience: Arc::new(patience),
            limits: Arc::default(),
        })
    }

    async fn permit(&self, registry: &str) -> OwnedSemaphorePermit {
        let semaphore = {
            let mut limits = self.limits.lock().unwrap_or_else(PoisonError::into_inner);
            limits
                .entry(registry.to_owned())
                .or_insert_with(|| Arc::new(Semaphore::new(TRANSFERS_PER_REGISTRY)))
                .clone()
        };
        semaphore
            .acquire_owned()
            .await
            .expect("the semaphores of `limits` are never closed")
    }
}

/// Which certificates of a registry are good enough.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Certificates {
    Verified,
    Any,
}

fn connections(patience: &Patience, certificates: Certificates) -> Result<reqwest::Client, Error> {
    let builder = reqwest::Client::builder()
        // Redirects are followed by hand: credentials must not cross origins.
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(patience.connect)
        .dns_resolver(Arc::new(CheckedNames(Reach::ThisMachine)))
        .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
        .tls_danger_accept_invalid_certs(certificates == Certificates::Any);
    builder.build().map_err(|error| Error::Setup {
        cause: error::root_cause(&error),
    })
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

/// What convinces a registry. `Debug` shows none of it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// User name and password, or an access token in place of the password.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(..)",
            Self::IdentityToken(_) => "IdentityToken(..)",
        })
    }
}

/// Why a [`CredentialSource`] has no answer.
pub type CredentialSourceError = Box<dyn std::error::Error + Send + Sync>;

/// Who knows the credentials of a build: its client, over the session.
pub trait CredentialSource: Send + Sync {
    /// Credentials for `registry` (`docker.io`, `registry.example:5000`), or nothing for anonymous access. Asked once
    /// for each registry of a [`RegistryAccess`], and only when that registry wants to know.
    fn credentials<'a>(
        &'a self,
        registry: &'a str,
    ) -> BoxFuture<'a, Result<Option<Credentials>, CredentialSourceError>>;
}

/// A source that has none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Anonymous;

impl CredentialSource for Anonymous {
    fn credentials<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, CredentialSourceError>> {
        Box::pin(async { Ok(None) })
    }
}

/// One build's view of all registries: its credentials, and the tokens they bought. Cheap to clone; never shared between
/// builds of different users.
#[derive(Clone)]
pub struct RegistryAccess {
    client: Client,
    credentials: Arc<dyn CredentialSource>,
    insecure: Arc<[String]>,
    schemes: Arc<Mutex<HashMap<String, scheme::SharedScheme>>>,
    wallets: Arc<Mutex<HashMap<String, auth::SharedWallet>>>,
}

impl RegistryAccess {
    /// Access through `client` with what `credentials` knows. Registries in `insecure` (host, or host and port) may show any
    /// certificate; they and those on loopback are spoken to over plain HTTP if they do not speak TLS.
    #[must_use]
    pub fn new(client: Client, credentials: Arc<dyn CredentialSource>, insecure: Vec<String>) -> Self {
        Self {
            client,
            credentials,
            insecure: insecure.into(),
            schemes: Arc::default(),
            wallets: Arc::default(),
        }
    }
}

impl fmt::Debug for RegistryAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAccess")
            .field("insecure", &self.insecure)
            .finish_non_exhaustive()
    }
}
