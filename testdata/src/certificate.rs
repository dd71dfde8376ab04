//! Certificates of an authority that only one test knows.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// A certificate for loopback, and who signed it.
#[derive(Debug)]
pub struct Certificate {
    /// PEM of the authority: what a client has to trust.
    pub authority: String,
    /// PEM of the certificate for `127.0.0.1` and `localhost`.
    pub certificate: String,
    /// PEM of its key.
    pub key: String,
}

impl Certificate {
    /// A new authority, and a certificate that it signed.
    ///
    /// # Panics
    /// If the machine has no random numbers.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // What is issued under its own name counts as signed by itself.
        params
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        Self {
            authority: authority.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}
