//! A token server: it sells signed tokens for a password or a refresh token, as registries of this protocol want them.
//!
//! Source: the distribution project's token specification, and its OAuth2 variant.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;

use crate::registry::{PASSWORD, USER};

/// Who signs the tokens; the registry has to be told.
pub const ISSUER: &str = "token server of the tests";

/// For whom the tokens are; the registry has to be told.
pub const SERVICE: &str = "registry of the tests";

/// What is accepted in place of the password.
pub const REFRESH_TOKEN: &str = "refresh-me";

/// A running token server on loopback; it ends with the process.
#[derive(Debug)]
pub struct TokenServer {
    address: String,
    certificate: String,
    sold: Arc<Mutex<Vec<Sale>>>,
}

/// One token that was sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sale {
    /// `password` or `refresh_token`.
    pub paid_with: &'static str,
    /// As asked for: `repository:app:pull,push`.
    pub scope: Vec<String>,
}

struct Signer {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
}

impl TokenServer {
    /// A server on a port of its own.
    ///
    /// # Panics
    /// If loopback has no free port, or the machine no random numbers.
    #[must_use]
    pub fn start() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let random = ring::rand::SystemRandom::new();
        let signer = Signer {
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random).unwrap(),
            certificate: certificate.der().to_vec(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let sold: Arc<Mutex<Vec<Sale>>> = Arc::default();
        let book = Arc::clone(&sold);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&stream.unwrap(), &signer, &book);
            }
        });
        Self {
            address,
            certificate: certificate.pem(),
            sold,
        }
    }

    /// Where tokens are sold.
    #[must_use]
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.address)
    }

    /// PEM of the certificate that tokens are signed with.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// What was sold so far.
    ///
    /// # Panics
    /// If the server panicked.
    #[must_use]
    pub fn sold(&self) -> Vec<Sale> {
        self.sold.lock().unwrap().clone()
    }
}

/// One request, one answer, and the connection is closed.
fn serve(mut stream: &TcpStream, signer: &Signer, book: &Mutex<Vec<Sale>>) {
    let (parameters, authorization) = read_request(stream);
    let one = |name: &str| parameters.get(name).and_then(|values| values.first()).cloned();
    let password = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let paid_with = match (authorization, one("refresh_token")) {
        (Some(header), None) if header == password => "password",
        (None, Some(token)) if token == REFRESH_TOKEN && one("grant_type").as_deref() == Some("refresh_token") => {
            "refresh_token"
        }
        _ => return answer(&mut stream, "401 Unauthorized", "{}"),
    };
    let scopes = parameters.get("scope").cloned().unwrap_or_default();
    let scope: Vec<String> = scopes
        .iter()
        .flat_map(|text| text.split(' '))
        .map(str::to_owned)
        .collect();
    let token = signer.token(&scope);
    book.lock().unwrap().push(Sale { paid_with, scope });
    answer(
        &mut stream,
        "200 OK",
        &json!({ "access_token": token, "expires_in": 300 }).to_string(),
    );
}

fn answer(stream: &mut &TcpStream, status: &str, body: &str) {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).unwrap();
}

/// Parameters of query and form, and the `Authorization` header.
fn read_request(stream: &TcpStream) -> (BTreeMap<String, Vec<String>>, Option<String>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let target = line.split(' ').nth(1).unwrap().to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut form = vec![0; length];
    reader.read_exact(&mut form).unwrap();
    let form = String::from_utf8(form).unwrap();
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in [query, form.as_str()]
        .iter()
        .flat_map(|text| text.split('&'))
        .filter_map(|pair| pair.split_once('='))
    {
        parameters.entry(decoded(name)).or_default().push(decoded(value));
    }
    (parameters, authorization)
}

/// Percent-decoding of a form.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(bytes).unwrap()
}

impl Signer {
    /// A JSON web token that allows what `scope` asks for.
    fn token(&self, scope: &[String]) -> String {
        let access: Vec<_> = scope
            .iter()
            .map(|text| {
                let (kind, rest) = text.split_once(':').unwrap();
                let (name, actions) = rest.rsplit_once(':').unwrap();
                json!({ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() })
            })
            .collect();
        #[expect(clippy::disallowed_methods, reason = "the registry compares with the real clock")]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)] });
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": USER, "jti": "1",
            "iat": now, "nbf": now - 60, "exp": now + 300, "access": access,
        });
        let mut token = URL_SAFE_NO_PAD.encode(header.to_string());
        write!(token, ".{}", URL_SAFE_NO_PAD.encode(claims.to_string())).unwrap();
        let random = ring::rand::SystemRandom::new();
        let signature = self.key.sign(&random, token.as_bytes()).unwrap();
        write!(token, ".{}", URL_SAFE_NO_PAD.encode(signature.as_ref())).unwrap();
        token
    }
}
