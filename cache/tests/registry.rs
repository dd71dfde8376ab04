//! The registry client against a registry that misbehaves on request, and against the reference registry.
//!
//! Long because the misbehaving registry and what it does to us are read together.
#![expect(
    clippy::unwrap_used,
    reason = "the lint spares test functions, not the helpers of an integration test"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Cursor};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cache::registry::{
    Anonymous, BlobReader, Client, CredentialSource, CredentialSourceError, Credentials, Error, Patience, Pushed,
    RegistryAccess,
};
use futures_util::future::BoxFuture;
use proto::digest::Digest;
use proto::oci::{Descriptor, Index, Manifest, media_type};
use proto::reference::Reference;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Answers of a faulty registry, in order; every request is kept, head and body.
struct Faulty {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

/// Whether a TLS handshake begins: the question what this registry speaks, answered by hanging up.
async fn speaks_tls(stream: &TcpStream) -> bool {
    const HANDSHAKE: u8 = 0x16;
    let mut first = [0];
    stream.peek(&mut first).await.unwrap() == 1 && first[0] == HANDSHAKE
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Faulty {
    async fn bind() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (listener, address)
    }

    async fn start(answers: Vec<Vec<u8>>) -> Self {
        let (listener, address) = Self::bind().await;
        Self::serve(listener, address, answers)
    }

    fn serve(listener: TcpListener, address: String, answers: Vec<Vec<u8>>) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let mut answers = VecDeque::from(answers);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                if speaks_tls(&stream).await {
                    continue;
                }
                let request = read_request(&mut stream).await;
                kept.lock().unwrap().push(request);
                let answer = answers.pop_front().unwrap_or_else(|| answer("500 Unscripted", "", b""));
                stream.write_all(&answer).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Self { address, seen, task }
    }

    fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    fn reference(&self) -> Reference {
        format!("{}/app:1", self.address).parse().unwrap()
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).to_string();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length: ")
                    .map(str::to_owned)
            });
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        let count = stream.read(&mut piece).await.unwrap();
        if count == 0 {
            return text;
        }
        bytes.extend_from_slice(&piece[..count]);
    }
}

/// `headers` are full lines, each ending in `\r\n`.
fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    raw(status, &format!("{headers}Content-Length: {length}\r\n"), body)
}

fn raw(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

struct Fixed(AtomicUsize);

impl CredentialSource for Fixed {
    fn credentials<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, CredentialSourceError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            Ok(Some(Credentials::Password {
                username: "me".to_owned(),
                password: "secret".to_owned(),
            }))
        })
    }
}

struct WrongPassword;

impl CredentialSource for WrongPassword {
    fn credentials<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Credentials>, CredentialSourceError>> {
        Box::pin(async {
            Ok(Some(Credentials::Password {
                username: "me".to_owned(),
                password: "guess".to_owned(),
            }))
        })
    }
}

fn access_with(source: Arc<dyn CredentialSource>) -> RegistryAccess {
    let patience = Patience {
        tries: 3,
        backoff: Duration::from_millis(1),
        ..Patience::default()
    };
    RegistryAccess::new(Client::new(patience).unwrap(), source, Vec::new())
}

fn access() -> RegistryAccess {
    access_with(Arc::new(Anonymous))
}

fn blob(content: &[u8]) -> Descriptor {
    Descriptor::new(media_type::LAYER, Digest::of(content), content.len() as u64)
}

async fn fetch(access: &RegistryAccess, reference: &Reference, wanted: &Descriptor) -> Result<Vec<u8>, Error> {
    let mut got = Vec::new();
    let mut sink = |piece: &[u8]| {
        got.extend_from_slice(piece);
        Ok(())
    };
    access.fetch_blob(reference, wanted, &mut sink).await?;
    Ok(got)
}

/// Fetches `wanted` through `answers`; also tells the requests made.
async fn through(answers: Vec<Vec<u8>>, wanted: &Descriptor) -> (Result<Vec<u8>, Error>, Vec<String>) {
    let server = Faulty::start(answers).await;
    let got = fetch(&access(), &server.reference(), wanted).await;
    (got, server.requests())
}

#[tokio::test]
async fn r01_other_bytes_of_the_right_length_are_refused() {
    let (got, _) = through(vec![answer("200 OK", "", b"hellO")], &blob(b"hello")).await;
    assert!(
        matches!(got, Err(Error::DigestMismatch { actual, .. }) if actual == Digest::of(b"hellO")),
        "{got:?}"
    );
}

#[tokio::test]
async fn an_announced_wrong_length_is_refused_before_reading() {
    let (got, requests) = through(vec![answer("200 OK", "", b"hello!")], &blob(b"hello")).await;
    assert!(
        matches!(
            got,
            Err(Error::SizeMismatch {
                expected: 5,
                actual: 6,
                ..
            })
        ),
        "{got:?}"
    );
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn r01_a_body_without_end_is_left_after_one_byte_too_many() {
    let (got, _) = through(vec![raw("200 OK", "", &[b'x'; 9000])], &blob(b"hello")).await;
    assert!(matches!(got, Err(Error::SizeMismatch { expected: 5, .. })), "{got:?}");
}

#[tokio::test]
async fn a_cut_transfer_goes_on_where_it_stopped() {
    let answers = vec![
        raw("200 OK", "Content-Length: 5\r\n", b"he"),
        answer("206 Partial Content", "Content-Range: bytes 2-4/5\r\n", b"llo"),
    ];
    let (got, requests) = through(answers, &blob(b"hello")).await;
    assert_eq!(got.unwrap(), b"hello");
    assert!(
        requests[1].to_lowercase().contains("range: bytes=2-\r\n"),
        "{}",
        requests[1]
    );
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_again_and_no_byte_arrives_twice() {
    let answers = vec![
        raw("200 OK", "Content-Length: 5\r\n", b"he"),
        answer("200 OK", "", b"hello"),
    ];
    assert_eq!(through(answers, &blob(b"hello")).await.0.unwrap(), b"hello");
}

#[tokio::test]
async fn a_transfer_that_never_gets_further_ends() {
    let cut = || raw("200 OK", "Content-Length: 5\r\n", b"");
    let (got, requests) = through(vec![cut(), cut(), cut(), cut()], &blob(b"hello")).await;
    assert!(matches!(got, Err(Error::Unreachable { .. })), "{got:?}");
    assert_eq!(requests.len(), 3);
}

#[tokio::test]
async fn r04_overload_is_waited_out_and_endless_waits_are_refused() {
    let patient = vec![
        answer("429 Slow", "Retry-After: 0\r\n", b""),
        answer("503 Busy", "", b""),
        answer("200 OK", "", b"hello"),
    ];
    assert_eq!(through(patient, &blob(b"hello")).await.0.unwrap(), b"hello");
    let (got, requests) = through(vec![answer("429 Slow", "Retry-After: 86400\r\n", b"")], &blob(b"hello")).await;
    assert!(
        matches!(got, Err(Error::RateLimited { retry_after, .. }) if retry_after.as_secs() == 86400),
        "{got:?}"
    );
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn lasting_failure_tells_status_and_the_registrys_words() {
    let failure = || answer("500 Oops", "", br#"{"errors":[{"code":"X","message":"disk full"}]}"#);
    let (got, requests) = through(vec![failure(), failure(), failure()], &blob(b"hello")).await;
    assert!(
        matches!(&got, Err(Error::Status { status: 500, detail, .. }) if detail == "disk full"),
        "{got:?}"
    );
    assert_eq!(requests.len(), 3);
}

#[tokio::test]
async fn r02_a_redirect_to_another_origin_carries_no_credentials() {
    let elsewhere = Faulty::start(vec![answer("200 OK", "", b"hello")]).await;
    let redirect = format!("Location: http://{}/cdn?sig=1\r\n", elsewhere.address);
    let server = Faulty::start(vec![
        answer("401 No", "WWW-Authenticate: Basic realm=\"r\"\r\n", b""),
        answer("307 There", &redirect, b""),
    ])
    .await;
    let got = fetch(
        &access_with(Arc::new(Fixed(AtomicUsize::new(0)))),
        &server.reference(),
        &blob(b"hello"),
    )
    .await;
    assert_eq!(got.unwrap(), b"hello");
    assert!(server.requests()[1].to_lowercase().contains("authorization: basic"));
    assert!(!elsewhere.requests()[0].to_lowercase().contains("authorization"));
}

#[tokio::test]
async fn r03_a_registry_leads_to_no_metadata_service() {
    let redirect = answer("307 There", "Location: http://169.254.169.254/latest\r\n", b"");
    let (got, requests) = through(vec![redirect], &blob(b"hello")).await;
    assert!(matches!(got, Err(Error::Malformed { .. })), "{got:?}");
    assert_eq!(requests.len(), 1);
    let realm = "WWW-Authenticate: Bearer realm=\"http://169.254.169.254/token\"\r\n";
    let (got, requests) = through(vec![answer("401 No", realm, b"")], &blob(b"hello")).await;
    assert!(matches!(got, Err(Error::Malformed { .. })), "{got:?}");
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn r04_headers_without_end_are_refused() {
    let many = |count: usize| {
        let lines = (0..count).map(|number| format!("X-{number}: {}\r\n", "x".repeat(1000)));
        answer("200 OK", &lines.collect::<String>(), b"hello")
    };
    let (got, _) = through(vec![many(50)], &blob(b"hello")).await;
    assert_eq!(got.unwrap(), b"hello");
    for count in [70, 90, 5000] {
        let (got, _) = through(vec![many(count); 3], &blob(b"hello")).await;
        assert!(got.is_err(), "{count}");
    }
    let (got, _) = through(vec![many(70)], &blob(b"hello")).await;
    assert!(got.unwrap_err().to_string().contains("limit of 65536 bytes"));
}

#[tokio::test]
async fn redirects_in_circles_end() {
    let again = || answer("307 There", "Location: /v2/app/again\r\n", b"");
    let (got, requests) = through((0..20).map(|_| again()).collect(), &blob(b"hello")).await;
    assert!(matches!(got, Err(Error::Malformed { .. })), "{got:?}");
    assert_eq!(requests.len(), 11);
}

#[tokio::test]
async fn a_token_that_is_no_longer_accepted_is_replaced_once_and_credentials_are_asked_once() {
    let (listener, address) = Faulty::bind().await;
    let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"s\"\r\n");
    let denied = || answer("401 No", &challenge, b"");
    let token = |name: &str| {
        answer(
            "200 OK",
            "",
            format!(r#"{{"token":"{name}","expires_in":300}}"#).as_bytes(),
        )
    };
    let hello = || answer("200 OK", "", b"hello");
    let answers = vec![denied(), token("one"), hello(), denied(), token("two"), hello()];
    let server = Faulty::serve(listener, address, answers);
    let source = Arc::new(Fixed(AtomicUsize::new(0)));
    let access = access_with(source.clone());
    for _ in 0..2 {
        assert_eq!(
            fetch(&access, &server.reference(), &blob(b"hello")).await.unwrap(),
            b"hello"
        );
    }
    let requests: Vec<_> = server.requests().iter().map(|text| text.to_lowercase()).collect();
    assert!(
        requests[1].starts_with("get /token?service=s&scope=repository%3aapp%3apull "),
        "{}",
        requests[1]
    );
    assert!(requests[1].contains("authorization: basic"));
    assert!(requests[3].contains("bearer one") && requests[5].contains("bearer two"));
    assert_eq!(source.0.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_expired_token_is_not_sent_again() {
    let (listener, address) = Faulty::bind().await;
    let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{address}/token\"\r\n");
    let denied = || answer("401 No", &challenge, b"");
    let token = |name: &str, seconds: u32| {
        answer(
            "200 OK",
            "",
            format!(r#"{{"token":"{name}","expires_in":{seconds}}}"#).as_bytes(),
        )
    };
    let hello = || answer("200 OK", "", b"hello");
    // The first token is dead on arrival: good for the request that wanted it and for no other.
    let answers = vec![
        denied(),
        token("dead", 0),
        hello(),
        denied(),
        token("live", 300),
        hello(),
    ];
    let server = Faulty::serve(listener, address, answers);
    let access = access_with(Arc::new(Fixed(AtomicUsize::new(0))));
    for _ in 0..2 {
        assert_eq!(
            fetch(&access, &server.reference(), &blob(b"hello")).await.unwrap(),
            b"hello"
        );
    }
    let requests = server.requests();
    assert!(requests[2].contains("Bearer dead") && requests[5].contains("Bearer live"));
    assert!(!requests[3].to_lowercase().contains("authorization"), "{}", requests[3]);
}

#[tokio::test]
async fn a_refusal_without_challenge_is_unauthorized() {
    let (got, requests) = through(vec![answer("401 No", "", b"")], &blob(b"hello")).await;
    assert!(
        matches!(
            got,
            Err(Error::Unauthorized {
                had_credentials: false,
                ..
            })
        ),
        "{got:?}"
    );
    assert_eq!(requests.len(), 1);
}

#[tokio::test]
async fn a_huge_manifest_is_refused_by_its_announcement() {
    let server = Faulty::start(vec![raw("200 OK", "Content-Length: 99999999\r\n", b"{")]).await;
    let got = access().resolve(&server.reference(), None).await;
    assert!(matches!(got, Err(Error::TooLarge { .. })), "{got:?}");
}

#[tokio::test]
async fn a_manifest_is_compared_with_its_digest_before_it_is_parsed() {
    let server = Faulty::start(vec![answer("200 OK", "", b"no json")]).await;
    let pinned = server.reference().with_digest(Digest::of(b"other"));
    let got = access().resolve(&pinned, None).await;
    assert!(matches!(got, Err(Error::DigestMismatch { .. })), "{got:?}");
}

#[tokio::test]
async fn a_declined_mount_becomes_the_upload_session() {
    let server = Faulty::start(vec![
        answer("404 None", "", b""),
        answer("202 Declined", "Location: /v2/app/blobs/uploads/7?state=a\r\n", b""),
        answer("201 Created", "", b""),
    ])
    .await;
    let open = || Ok(Box::new(Cursor::new(b"hello".to_vec())) as BlobReader);
    let pushed = access()
        .push_blob(&server.reference(), &blob(b"hello"), Some("base"), &open)
        .await
        .unwrap();
    let requests = server.requests();
    assert_eq!((pushed, requests.len()), (Pushed::Uploaded, 3));
    assert!(
        requests[1].starts_with("POST /v2/app/blobs/uploads/?mount=sha256%3A") && requests[1].contains("from=base")
    );
    assert!(
        requests[2].starts_with("PUT /v2/app/blobs/uploads/7?state=a&digest=sha256%3A"),
        "{}",
        requests[2]
    );
    assert!(requests[2].ends_with("\r\n\r\nhello"), "{}", requests[2]);
}

#[tokio::test]
async fn a_failed_upload_starts_again_from_the_first_byte() {
    let session = |number: u32| answer("202 Go", &format!("Location: /up/{number}\r\n"), b"");
    let server = Faulty::start(vec![
        answer("404 None", "", b""),
        session(1),
        answer("502 Bad", "", b""),
        session(2),
        answer("201 Created", "", b""),
    ])
    .await;
    let open = || Ok(Box::new(Cursor::new(b"hello".to_vec())) as BlobReader);
    let pushed = access()
        .push_blob(&server.reference(), &blob(b"hello"), None, &open)
        .await
        .unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    let last = server.requests().pop().unwrap();
    assert!(
        last.starts_with("PUT /up/2?") && last.ends_with("\r\n\r\nhello"),
        "{last}"
    );
}

/// The reference implementation on a port of its own; ends with the value.
struct RealRegistry {
    child: std::process::Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// `me` with the password `secret`, bcrypt.
const HTPASSWD: &str = "me:$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW\n";

const REGISTRY_PROGRAM: &str = "/usr/bin/docker-registry";

#[expect(
    clippy::disallowed_methods,
    reason = "a test has no configuration but the environment"
)]
fn everything_is_required() -> bool {
    std::env::var("RBUILD_TEST_REQUIRE").is_ok_and(|value| value == "all")
}

#[expect(clippy::print_stderr, reason = "a skipped test says so")]
fn real_registry(with_login: bool) -> Option<RealRegistry> {
    if !Path::new(REGISTRY_PROGRAM).exists() {
        assert!(!everything_is_required(), "{REGISTRY_PROGRAM} is not installed");
        eprintln!("SKIPPED: {REGISTRY_PROGRAM} is not installed");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().display();
    std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
    let login = if with_login {
        format!("auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n")
    } else {
        String::new()
    };
    let config = format!(
        "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\n\
         http: {{addr: \"127.0.0.1:0\"}}\n{login}"
    );
    std::fs::write(dir.path().join("config.yml"), config).unwrap();
    let mut child = Command::new(REGISTRY_PROGRAM)
        .arg("serve")
        .arg(dir.path().join("config.yml"))
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines
        .find(|line| line.as_ref().unwrap().contains("listening on "))
        .unwrap()
        .unwrap();
    // Reads on until the registry ends, or it would block on a full pipe.
    std::thread::spawn(move || lines.for_each(drop));
    let after = line.split("listening on ").nth(1).unwrap();
    let address = after
        .split(|c: char| c != '.' && c != ':' && !c.is_ascii_digit())
        .next()
        .unwrap()
        .to_owned();
    Some(RealRegistry {
        child,
        address,
        _dir: dir,
    })
}

/// Pushes an image of one layer and an index over it; returns manifest and index digests.
async fn push_image(access: &RegistryAccess, target: &Reference, layer: &[u8]) -> (Digest, Digest) {
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    for content in [config.as_slice(), layer] {
        let owned = content.to_vec();
        let open = move || Ok(Box::new(Cursor::new(owned.clone())) as BlobReader);
        assert_eq!(
            access.push_blob(target, &blob(content), None, &open).await.unwrap(),
            Pushed::Uploaded
        );
        assert_eq!(
            access.push_blob(target, &blob(content), None, &open).await.unwrap(),
            Pushed::Existed
        );
    }
    let descriptor = |kind: &str, content: &[u8]| Descriptor::new(kind, Digest::of(content), content.len() as u64);
    let manifest = proto::oci::json::pretty(&Manifest {
        schema_version: 2,
        media_type: media_type::MANIFEST.to_owned(),
        config: descriptor(media_type::CONFIG, config),
        layers: vec![descriptor(media_type::LAYER, layer)],
        annotations: BTreeMap::new(),
    });
    let pinned = target.with_digest(Digest::of(&manifest));
    let manifest_digest = access
        .push_manifest(&pinned, media_type::MANIFEST, &manifest)
        .await
        .unwrap();
    let mut entry = descriptor(media_type::MANIFEST, &manifest);
    entry.platform = Some("linux/amd64".parse().unwrap());
    let index = proto::oci::json::pretty(&Index {
        schema_version: 2,
        media_type: media_type::INDEX.to_owned(),
        manifests: vec![entry],
        annotations: BTreeMap::new(),
    });
    let index_digest = access.push_manifest(target, media_type::INDEX, &index).await.unwrap();
    (manifest_digest, index_digest)
}

#[tokio::test]
async fn an_image_survives_the_way_to_a_real_registry_and_back() {
    let Some(registry) = real_registry(false) else { return };
    let target: Reference = format!("{}/team/app:1", registry.address).parse().unwrap();
    let layer: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let access = access();
    let (manifest, index) = push_image(&access, &target, &layer).await;

    assert_eq!(access.resolve_digest(&target).await.unwrap(), index);
    let resolved = access
        .resolve(&target, Some(&"linux/amd64".parse().unwrap()))
        .await
        .unwrap();
    assert_eq!(
        (resolved.manifest.digest, resolved.index.unwrap().0.digest),
        (manifest, index)
    );
    assert!(resolved.config_bytes.starts_with(b"{\"architecture\""));
    assert!(fetch(&access, &target, &resolved.parsed.layers[0]).await.unwrap() == layer);

    let other: Reference = format!("{}/team/other:1", registry.address).parse().unwrap();
    assert!(!access.blob_exists(&other, &blob(&layer)).await.unwrap());
    let open = || panic!("a mounted blob is not read");
    assert_eq!(
        access
            .push_blob(&other, &blob(&layer), Some("team/app"), &open)
            .await
            .unwrap(),
        Pushed::Mounted
    );
    assert!(access.blob_exists(&other, &blob(&layer)).await.unwrap());

    let wrong = access.resolve(&target, Some(&"linux/s390x".parse().unwrap())).await;
    assert!(
        matches!(&wrong, Err(Error::NoPlatform { available, .. }) if available == &["linux/amd64"]),
        "{wrong:?}"
    );
    let missing = format!("{}/team/app:none", registry.address).parse().unwrap();
    assert!(matches!(
        access.resolve(&missing, None).await,
        Err(Error::NotFound { .. })
    ));
}

#[tokio::test]
async fn a_real_registry_with_logins_takes_the_right_password_only() {
    let Some(registry) = real_registry(true) else { return };
    let target: Reference = format!("{}/app:1", registry.address).parse().unwrap();
    push_image(&access_with(Arc::new(Fixed(AtomicUsize::new(0)))), &target, b"layer").await;
    for (access, had_credentials) in [(access(), false), (access_with(Arc::new(WrongPassword)), true)] {
        let refused = access.resolve(&target, None).await;
        assert!(
            matches!(refused, Err(Error::Unauthorized { had_credentials: had, .. }) if had == had_credentials),
            "{refused:?}"
        );
    }
}
