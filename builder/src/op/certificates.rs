//! Variables that lead programs to certificates, where these have ways of their own.

use crate::executor::CA_BUNDLE;

/// Programs behind them: OpenSSL and all that is built on it, Node.js, pip, Python's requests, curl, git, cargo.
const VARIABLES: [&str; 7] = [
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
];

/// Sets those that a step does not set itself.
pub(super) fn name(env: &mut Vec<(String, String)>) {
    for name in VARIABLES {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), CA_BUNDLE.to_owned()));
        }
    }
}
