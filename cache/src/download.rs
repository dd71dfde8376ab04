//! One file behind an HTTP(S) URL: asked for again with what is known of it, streamed, never trusted.
//!
//! A request is repeated when the connection or the server fails, a broken transfer begins anew. A login goes to the origin of the URL and nowhere
//! else. Redirects are followed by hand, to HTTP only. Cloud metadata services and the like are never asked, wherever a name
//! or a redirect leads; this machine itself only if the URL says so.

use std::sync::Arc;
use std::time::Duration;

use proto::address::redacted;
use reqwest::header::{
    AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, RETRY_AFTER,
};
use reqwest::{Response, StatusCode, Url};

use crate::addresses::{self, CheckedNames, HEADER_LIMIT_BYTES, Reach};
use crate::registry::Patience;

/// As browsers do; a longer chain is a loop.
const REDIRECTS: usize = 10;

/// Fetches files. Cheap to clone; holds no logins.
#[derive(Debug, Clone)]
pub struct Downloader {
    /// Asks this machine, too.
    here: reqwest::Client,
    /// Asks other machines only.
    others: reqwest::Client,
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
    /// Where the URL may lead. A redirect to another host leads to this machine only from this machine.
    pub reach: Reach,
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

/// Keeps them in memory: for files that are limited to what fits there.
impl Receive for Vec<u8> {
    fn receive(&mut self, bytes: &[u8], _: Option<u64>) -> std::io::Result<()> {
        self.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.clear();
        Ok(())
    }
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
    /// An address that this build has no business with.
    #[error("`{url}` is on {}, which builds may not ask", on(.reach))]
    Forbidden {
        /// Without secrets.
        url: String,
        /// Where builds of this client may go.
        reach: Reach,
    },
    /// The server wants to be asked later than anybody waits.
    #[error("`{url}` asks to wait {seconds} s, and the limit is {limit} s")]
    Later {
        /// Without secrets.
        url: String,
        /// What it asks for.
        seconds: u64,
        /// The longest wait that is obeyed.
        limit: u64,
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
        let client = |reach| {
            let builder = reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(patience.connect)
                .dns_resolver(Arc::new(CheckedNames(reach)))
                .user_agent(concat!("rbuild/", env!("CARGO_PKG_VERSION")));
            builder.build().map_err(|error| DownloadError::Setup {
                cause: root_cause(&error),
            })
        };
        Ok(Self {
            here: client(Reach::ThisMachine)?,
            others: client(Reach::Others)?,
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

    /// The address that answers in the end, all redirects followed; nothing of the answer is read.
    ///
    /// # Errors
    /// See [`DownloadError`].
    pub async fn locate(&self, request: &Request) -> Result<String, DownloadError> {
        let url = Url::parse(&request.url).ok().filter(is_http);
        let url = url.ok_or_else(|| DownloadError::Url {
            url: redacted(&request.url),
        })?;
        Ok(self.ask(request, url).await?.url().to_string())
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
            if let Some(asked) = asked.filter(|asked| *asked > self.patience.retry_after) {
                return Err(DownloadError::Later {
                    url: redacted(&request.url),
                    seconds: asked.as_secs(),
                    limit: self.patience.retry_after.as_secs(),
                });
            }
            if attempt >= self.patience.tries {
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
            let reach = reach_of(request.reach, &first, &url);
            if !addresses::literal_is_allowed(&url, reach) {
                return Err(DownloadError::Forbidden { url: shown(), reach });
            }
            let client = match reach {
                Reach::ThisMachine => &self.here,
                Reach::Others => &self.others,
            };
            let mut asked = client.get(url.clone()).headers(conditions(&request.known));
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
            if addresses::headers_are_too_large(response.headers()) {
                let cause = format!("its headers are larger than the limit of {HEADER_LIMIT_BYTES} bytes");
                return Err(DownloadError::Unreachable { url: shown(), cause });
            }
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
            let own = addresses::is_this_machine(&target);
            if own && reach_of(request.reach, &first, &target) == Reach::Others {
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

/// How far a request that began at `first` may go for `url`: no server out there sends us to our own machine, whatever name
/// it has for it.
fn reach_of(asked: Reach, first: &Url, url: &Url) -> Reach {
    let same_host = url.host_str() == first.host_str();
    match asked {
        Reach::ThisMachine if same_host || addresses::is_this_machine(first) => Reach::ThisMachine,
        _ => Reach::Others,
    }
}

const fn on(reach: &Reach) -> &'static str {
    match reach {
        Reach::ThisMachine => "a link-local or multicast address",
        Reach::Others => "the build server or a link-local or multicast address",
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
