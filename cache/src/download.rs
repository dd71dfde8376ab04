//! One file behind an HTTP(S) URL: asked for again with what is known of it, streamed, never trusted.
//!
//! A request is repeated when the connection or the server fails, a broken transfer begins anew. A login goes to the origin of the URL and nowhere
//! else. Redirects are followed by hand, to HTTP only. Cloud metadata services and the like are never asked, wherever a name
//! or a redirect leads; this machine itself only if the URL says so.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proto::address::redacted;
use reqwest::header::{
    AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};

use crate::registry::Patience;

/// As browsers do; a longer chain is a loop.
const REDIRECTS: usize = 10;

/// Fetches files. Cheap to clone; holds no logins.
#[derive(Debug, Clone)]
pub struct Downloader {
    http: reqwest::Client,
    patience: Arc<Patience>,
}

/// What is asked for.
#[derive(Clone, Default)]
pub struct Request {
    /// Where.
    pub url: String,
    /// Value of the `Authorization` header.
    pub authorization: Option<String>,
    /// What an earlier answer said of itself.
    pub known: Validators,
    /// Most bytes that are taken.
    pub limit_bytes: u64,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({})", redacted(&self.url))
    }
}

/// What tells whether a file is still the one that was fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Validators {
    /// `ETag`, as it was sent; empty if there was none.
    pub etag: String,
    /// `Last-Modified`, as it was sent; empty if there was none.
    pub last_modified: String,
}

impl Validators {
    /// Whether a server can say "unchanged" at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.etag.is_empty() && self.last_modified.is_empty()
    }
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The file is the one that [`Request::known`] describes.
    Unchanged,
    /// The sink got all of it.
    Fetched {
        /// For the next request.
        validators: Validators,
        /// `Last-Modified` in seconds since 1970.
        modified: Option<i64>,
    },
}

/// Takes the bytes of a file, in order: first how many there will be, if the server says so.
pub trait Receive: Send {
    /// The next bytes.
    ///
    /// # Errors
    /// When they cannot be kept; this ends the download.
    fn receive(&mut self, bytes: &[u8], expected: Option<u64>) -> std::io::Result<()>;

    /// Forgets all bytes: the transfer broke and begins anew.
    ///
    /// # Errors
    /// When they cannot be forgotten; this ends the download.
    fn restart(&mut self) -> std::io::Result<()>;
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The URL cannot be used.
    #[error("`{url}` is no HTTP(S) URL")]
    Url {
        /// Without secrets.
        url: String,
    },
    /// The server refuses.
    #[error("invalid response status {status} from `{url}`")]
    Status {
        /// Without secrets.
        url: String,
        /// The status.
        status: u16,
    },
    /// No whole answer.
    #[error("cannot fetch `{url}`: {cause}")]
    Unreachable {
        /// Without secrets.
        url: String,
        /// What happened.
        cause: String,
    },
    /// A redirect leads where no redirect may lead.
    #[error("`{url}` leads to {problem}")]
    Redirect {
        /// Without secrets.
        url: String,
        /// Where.
        problem: &'static str,
    },
    /// An address that no build has any business with.
    #[error("`{url}` is on a link-local or multicast address, which builds may not ask")]
    Forbidden {
        /// Without secrets.
        url: String,
    },
    /// More bytes than allowed.
    #[error("`{url}` is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Without secrets.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// The sink failed.
    #[error("cannot keep what was fetched")]
    Sink(#[source] std::io::Error),
    /// The client could not be made.
    #[error("cannot set up HTTP: {cause}")]
    Setup {
        /// What happened.
        cause: String,
    },
}

/// Where a download broke.
enum Broken {
    /// Before the first byte; what can be repeated was.
    Answer(DownloadError),
    /// In the middle.
    Transfer(DownloadError),
}

impl Downloader {
    /// A client that trusts the certificate authorities of this machine.
    ///
    /// # Errors
    /// [`DownloadError::Setup`] if the trusted certificates cannot be loaded.
    pub fn new(patience: Patience) -> Result<Self, DownloadError> {
        crate::registry::install_tls_provider();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(patience.connect)
            .dns_resolver(Arc::new(CheckedNames))
            .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| DownloadError::Setup {
                cause: root_cause(&error),
            })?;
        Ok(Self {
            http,
            patience: Arc::new(patience),
        })
    }

    /// Fetches a file into `sink`, or learns that it is still the one that is known.
    ///
    /// # Errors
    /// See [`DownloadError`]; what the sink got so far is useless then.
    pub async fn fetch(&self, request: &Request, sink: &mut dyn Receive) -> Result<Answer, DownloadError> {
        let url = Url::parse(&request.url).ok().filter(is_http);
        let url = url.ok_or_else(|| DownloadError::Url {
            url: redacted(&request.url),
        })?;
        let mut attempt = 1;
        loop {
            let outcome = self.fetch_once(request, url.clone(), sink).await;
            match outcome {
                Err(Broken::Transfer(_)) if attempt < self.patience.tries => {
                    sink.restart().map_err(DownloadError::Sink)?;
                    tokio::time::sleep(self.patience.pause_after(attempt)).await;
                    attempt += 1;
                }
                Ok(answer) => return Ok(answer),
                Err(Broken::Transfer(error) | Broken::Answer(error)) => return Err(error),
            }
        }
    }

    async fn fetch_once(&self, request: &Request, url: Url, sink: &mut dyn Receive) -> Result<Answer, Broken> {
        let response = self.ask(request, url).await.map_err(Broken::Answer)?;
        if response.status() == StatusCode::NOT_MODIFIED && !request.known.is_empty() {
            return Ok(Answer::Unchanged);
        }
        if !response.status().is_success() {
            return Err(Broken::Answer(DownloadError::Status {
                url: redacted(&request.url),
                status: response.status().as_u16(),
            }));
        }
        let validators = Validators {
            etag: text(response.headers(), &ETAG),
            last_modified: text(response.headers(), &LAST_MODIFIED),
        };
        let modified = proto::date::parse_http(&validators.last_modified);
        self.receive(request, response, sink)
            .await
            .map_err(|error| match error {
                DownloadError::Unreachable { .. } => Broken::Transfer(error),
                other => Broken::Answer(other),
            })?;
        Ok(Answer::Fetched { validators, modified })
    }

    /// The head of an answer that is worth reading.
    async fn ask(&self, request: &Request, url: Url) -> Result<Response, DownloadError> {
        let mut attempt = 1;
        loop {
            let outcome = self.follow(request, url.clone()).await;
            let asked = match &outcome {
                Ok(response) if is_transient(response.status()) => retry_after(response),
                Err(DownloadError::Unreachable { .. }) => None,
                _ => return outcome,
            };
            if attempt >= self.patience.tries || asked.is_some_and(|asked| asked > self.patience.retry_after) {
                return outcome;
            }
            tokio::time::sleep(asked.unwrap_or_else(|| self.patience.pause_after(attempt))).await;
            attempt += 1;
        }
    }

    async fn follow(&self, request: &Request, first: Url) -> Result<Response, DownloadError> {
        let shown = || redacted(&request.url);
        let refused = |problem| DownloadError::Redirect { url: shown(), problem };
        let mut url = first.clone();
        for _ in 0..=REDIRECTS {
            if literal_address(&url).is_some_and(is_forbidden) {
                return Err(DownloadError::Forbidden { url: shown() });
            }
            let mut asked = self.http.get(url.clone()).headers(conditions(&request.known));
            if let Some(value) = request
                .authorization
                .as_ref()
                .filter(|_| url.origin() == first.origin())
            {
                let mut value =
                    HeaderValue::from_str(value).map_err(|_| unreachable(request, "the login is no text"))?;
                value.set_sensitive(true);
                asked = asked.header(AUTHORIZATION, value);
            }
            let response = match tokio::time::timeout(self.patience.head, asked.send()).await {
                Ok(answer) => answer.map_err(|error| unreachable(request, &root_cause(&error.without_url())))?,
                Err(_) => return Err(unreachable(request, "no answer in time")),
            };
            if !matches!(response.status().as_u16(), 301..=303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let target = location.and_then(|text| url.join(text).ok());
            let target = target.ok_or_else(|| refused("no usable address"))?;
            if !is_http(&target) {
                return Err(refused("an address that is not HTTP"));
            }
            if first.scheme() == "https" && target.scheme() != "https" {
                return Err(refused("an unencrypted address"));
            }
            if is_this_machine(&target) && !is_this_machine(&first) {
                return Err(refused("an address of the build server"));
            }
            url = target;
        }
        Err(refused("itself in circles"))
    }

    async fn receive(
        &self,
        request: &Request,
        mut response: Response,
        sink: &mut dyn Receive,
    ) -> Result<(), DownloadError> {
        let limit = request.limit_bytes;
        let expected = response.content_length();
        let too_large = || DownloadError::TooLarge {
            url: redacted(&request.url),
            limit,
        };
        if expected.is_some_and(|expected| expected > limit) {
            return Err(too_large());
        }
        let mut received = 0;
        loop {
            let chunk = match tokio::time::timeout(self.patience.progress, response.chunk()).await {
                Ok(chunk) => chunk.map_err(|error| unreachable(request, &root_cause(&error.without_url())))?,
                Err(_) => return Err(unreachable(request, "the transfer stalled")),
            };
            let Some(chunk) = chunk else { return Ok(()) };
            received += chunk.len() as u64;
            if received > limit {
                return Err(too_large());
            }
            sink.receive(&chunk, expected).map_err(DownloadError::Sink)?;
        }
    }
}

fn unreachable(request: &Request, cause: &str) -> DownloadError {
    DownloadError::Unreachable {
        url: redacted(&request.url),
        cause: cause.to_owned(),
    }
}

fn conditions(known: &Validators) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.last_modified)] {
        // What a server sent as a header can be sent back as one.
        if let Some(value) = HeaderValue::from_str(value).ok().filter(|value| !value.is_empty()) {
            headers.insert(name, value);
        }
    }
    headers
}

fn text(headers: &HeaderMap, name: &reqwest::header::HeaderName) -> String {
    // A header that is no text cannot be sent back: as if it were not there.
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn retry_after(response: &Response) -> Option<Duration> {
    text(response.headers(), &RETRY_AFTER)
        .trim()
        .parse()
        .ok()
        .map(Duration::from_secs)
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

/// The innermost cause: the outer ones only say that sending failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn literal_address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    // No address is the answer for a name.
    host.trim_matches(['[', ']']).parse().ok()
}

fn is_this_machine(url: &Url) -> bool {
    let named = url
        .host_str()
        .is_some_and(|host| host == "localhost" || host.ends_with(".localhost"));
    named || literal_address(url).is_some_and(|address| address.to_canonical().is_loopback())
}

/// Link-local addresses hold the metadata services of clouds, which know passwords; the others are no machine at all.
fn is_forbidden(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified(),
    }
}

/// Whether builds may ask `host`, a name or an address, without or with a port: for those who connect by other means.
///
/// # Errors
/// Names that nobody knows.
pub async fn is_allowed(host: &str) -> std::io::Result<bool> {
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(name, _)| !name.contains(':') || name.ends_with(']'));
    let with_port = match has_port {
        true => host.to_owned(),
        false => format!("{host}:0"),
    };
    let found = tokio::net::lookup_host(with_port).await?;
    Ok(found.map(|address| address.ip()).all(|address| !is_forbidden(address)))
}

/// Looks names up, and connects to nothing else than what was checked.
#[derive(Debug)]
struct CheckedNames;

impl reqwest::dns::Resolve for CheckedNames {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| !is_forbidden(address.ip())).collect();
            if allowed.is_empty() {
                return Err(format!("`{}` has no address that builds may ask", name.as_str()).into());
            }
            Ok(Box::new(allowed.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_services_are_never_asked() {
        for (text, forbidden) in [
            ("169.254.169.254", true),
            ("::ffff:169.254.169.254", true),
            ("fe80::1", true),
            ("0.0.0.0", true),
            ("::", true),
            ("224.0.0.1", true),
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(is_forbidden(text.parse().unwrap()), forbidden, "{text}");
        }
    }

    #[test]
    fn this_machine_has_many_names() {
        for (text, own) in [
            ("http://localhost/", true),
            ("http://a.localhost/", true),
            ("http://127.1/", true),
            ("http://[::1]/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://localhost.example/", false),
        ] {
            assert_eq!(is_this_machine(&Url::parse(text).unwrap()), own, "{text}");
        }
    }
}
