//! HTTPS or plain HTTP: how a registry is spoken to, found out once for each registry and build.
//!
//! | registry | spoken to over |
//! |---|---|
//! | any other | HTTPS with a certificate that this machine trusts |
//! | on loopback | the same; plain HTTP if it does not speak TLS |
//! | named insecure | HTTPS with any certificate; plain HTTP if it does not speak TLS |
//!
//! A certificate that is not trusted never leads to plain HTTP: whoever can present one could read that, too.

use std::sync::{Arc, PoisonError};

use proto::reference::Reference;
use reqwest::Url;
use tokio::sync::OnceCell;

use super::transport::{send_error, unreachable};
use super::{Error, RegistryAccess};

/// What a registry turned out to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    Http,
}

impl Scheme {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

/// The answer for one registry; the first who asks finds out, the others wait.
pub(super) type SharedScheme = Arc<OnceCell<Scheme>>;

impl RegistryAccess {
    /// How to speak to the registry of `reference`.
    pub(super) async fn scheme(&self, reference: &Reference) -> Result<Scheme, Error> {
        let registry = reference.registry();
        if !reference.is_loopback() && !self.is_insecure(registry) {
            return Ok(Scheme::Https);
        }
        let known = {
            let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
            schemes.entry(registry.to_owned()).or_default().clone()
        };
        known.get_or_try_init(|| self.find_scheme(registry)).await.copied()
    }

    /// Whether the user accepts any certificate, or none, of `registry`.
    pub(super) fn is_insecure(&self, registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        self.insecure.iter().any(|listed| listed == registry || listed == host)
    }

    /// The client for an address of `registry` itself.
    pub(super) fn own_client(&self, registry: &str) -> &reqwest::Client {
        if self.is_insecure(registry) {
            &self.client.unverified
        } else {
            &self.client.http
        }
    }

    async fn find_scheme(&self, registry: &str) -> Result<Scheme, Error> {
        let url = Url::parse(&format!("https://{registry}/v2/")).map_err(|error| Error::Malformed {
            what: registry.to_owned(),
            problem: error.to_string(),
        })?;
        let sent = self.own_client(registry).head(url).send();
        let Ok(answer) = tokio::time::timeout(self.client.patience.head, sent).await else {
            return Err(unreachable(registry, "no answer in time".to_owned()));
        };
        match answer.map_err(|error| send_error(registry, error)) {
            Ok(_) => Ok(Scheme::Https),
            Err(Error::Unreachable { cause, .. }) => {
                // No TLS there, or nobody at all: the request itself says which.
                tracing::debug!(registry, cause, "spoken to over plain HTTP");
                Ok(Scheme::Http)
            }
            Err(untrusted) => Err(untrusted),
        }
    }
}

/// Whether TLS was spoken and the certificate was the problem.
pub(super) fn is_distrust(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        // An I/O error shows the error inside it by `get_ref`, not by `source`.
        let inner = current
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        let tls = inner
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .or_else(|| current.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        cause = inner
            .map(|inner| inner as &(dyn std::error::Error + 'static))
            .or_else(|| current.source());
    }
    false
}
