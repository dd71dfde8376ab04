//! Why an exchange with a registry failed, as facts: who is to blame and what to advise is decided by the caller.

use std::io;
use std::time::Duration;

use proto::digest::Digest;

/// What went wrong between us and a registry. No variant ever holds a URL, a token or a password.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry says that there is no such manifest or blob.
    #[error("`{what}` was not found in the registry")]
    NotFound {
        /// Image reference or blob.
        what: String,
    },
    /// The registry wants credentials, or refused those it was given.
    #[error("`{registry}` refused access: {}", if *.had_credentials { "the credentials were not accepted" } else { "it asks for credentials and there are none" })]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// Whether credentials were sent.
        had_credentials: bool,
    },
    /// The registry knows who we are and does not let us.
    #[error("`{registry}` denied access to `{what}`")]
    Denied {
        /// Host and port.
        registry: String,
        /// Image reference or blob.
        what: String,
    },
    /// Nobody could say whether there are credentials.
    #[error("credentials for `{registry}` could not be obtained")]
    Credentials {
        /// Host and port.
        registry: String,
        /// What the source of credentials said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No connection, or it broke or stalled, in every attempt.
    #[error("`{registry}` could not be reached: {cause}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// The innermost cause, without any URL.
        cause: String,
    },
    /// It speaks TLS, and nobody whom this machine trusts vouches for it.
    #[error("the certificate of `{registry}` is not trusted: {cause}")]
    Untrusted {
        /// Host and port.
        registry: String,
        /// What the TLS library says.
        cause: String,
    },
    /// The registry asks for patience beyond ours.
    #[error("`{registry}` asks to wait {} s before the next request, the limit is {} s", .retry_after.as_secs(), .limit.as_secs())]
    RateLimited {
        /// Host and port.
        registry: String,
        /// What the registry asked for.
        retry_after: Duration,
        /// What we would have waited.
        limit: Duration,
    },
    /// The bytes are not those that were named.
    #[error("`{what}` has digest `{actual}` instead of `{expected}`")]
    DigestMismatch {
        /// Image reference or blob.
        what: String,
        /// What was asked for.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// The number of bytes is not the one that was named.
    #[error("`{what}` has {actual} bytes instead of {expected}")]
    SizeMismatch {
        /// Image reference or blob.
        what: String,
        /// What the descriptor says.
        expected: u64,
        /// What came or was announced; reading stops one byte past `expected`.
        actual: u64,
    },
    /// Larger than we read into memory.
    #[error("`{what}` is larger than {limit} bytes")]
    TooLarge {
        /// Image reference or blob.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The image exists, for other platforms.
    #[error("`{reference}` has no image for {wanted}, only for {}", .available.join(", "))]
    NoPlatform {
        /// Image reference.
        reference: String,
        /// The platform that was asked for, or `any single platform`.
        wanted: String,
        /// What there is.
        available: Vec<String>,
    },
    /// An answer that no rule expects.
    #[error("`{registry}` answered {status} for `{what}`{}", detail_suffix(.detail))]
    Status {
        /// Host and port.
        registry: String,
        /// Image reference or blob.
        what: String,
        /// HTTP status.
        status: u16,
        /// What the registry says in its error document, shortened; empty if nothing.
        detail: String,
    },
    /// A document or header that we do not trust.
    #[error("`{what}` is malformed: {problem}")]
    Malformed {
        /// Image reference, blob or registry.
        what: String,
        /// The rule it breaks.
        problem: String,
    },
    /// The receiver of a blob failed.
    #[error("the fetched bytes could not be written")]
    Sink(#[source] io::Error),
    /// The bytes to push could not be opened.
    #[error("the bytes to push could not be read")]
    Source(#[source] io::Error),
    /// This machine can not make HTTPS connections at all.
    #[error("the HTTPS client could not be set up: {cause}")]
    Setup {
        /// What the TLS library says.
        cause: String,
    },
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    }
}

/// The innermost cause of `error`: the outer ones only repeat that a request failed, or the URL.
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
