//! One request: authorised, redirected, repeated; and the reading of small answers.
//!
//! A request is repeated after a broken connection and after 408, 429, 500, 502, 503, 504, with full jitter. An
//! `Authorization` header goes to the registry's own origin and nowhere else.

use std::time::Duration;

use proto::reference::Reference;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Body, Method, Response, StatusCode, Url};
use serde::Deserialize;

use crate::addresses::{self, HEADER_LIMIT_BYTES};

use super::error::root_cause;
use super::scheme::is_distrust;
use super::{Error, Patience, RegistryAccess};

/// As browsers and Go do; a longer chain is a loop.
const REDIRECTS: usize = 10;

/// Error documents of registries are short.
const DETAIL_LIMIT_BYTES: u64 = 64 * 1024;

/// Makes the body of a request, once for every attempt.
pub(super) type MakeBody<'a> = &'a (dyn Fn() -> Result<Body, Error> + Send + Sync);

/// One request and what to call it in errors.
pub(super) struct Call<'a> {
    pub(super) registry: &'a str,
    pub(super) what: String,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) scope: Vec<String>,
    pub(super) body: Option<MakeBody<'a>>,
}

/// `repository:<name>:<actions>`
pub(super) fn scope_of(repository: &str, actions: &str) -> String {
    format!("repository:{repository}:{actions}")
}

impl RegistryAccess {
    /// A request below `/v2/<repository>/`.
    pub(super) async fn call<'a>(
        &self,
        method: Method,
        reference: &'a Reference,
        path: &str,
    ) -> Result<Call<'a>, Error> {
        let registry = reference.registry();
        let host = if registry == "docker.io" {
            "registry-1.docker.io"
        } else {
            registry
        };
        let scheme = self.scheme(reference).await?.as_str();
        let text = format!("{scheme}://{host}/v2/{}/{path}", reference.repository());
        let url = Url::parse(&text).map_err(|error| Error::Malformed {
            what: registry.to_owned(),
            problem: error.to_string(),
        })?;
        Ok(Call {
            registry,
            what: reference.to_string(),
            method,
            url,
            headers: HeaderMap::new(),
            scope: vec![scope_of(reference.repository(), "pull")],
            body: None,
        })
    }

    /// Sends until there is an answer worth reading: any status but 401 and those that are repeated.
    pub(super) async fn send(&self, call: &Call<'_>) -> Result<Response, Error> {
        let mut attempt = 1;
        loop {
            let outcome = self.send_once(call).await;
            let asked = match &outcome {
                Ok(response) if is_transient(response.status()) => self.asked_wait(call, response)?,
                Err(Error::Unreachable { .. }) => None,
                _ => return outcome,
            };
            if attempt >= self.client.patience.tries {
                return outcome;
            }
            tracing::debug!(registry = call.registry, attempt, "the request is repeated");
            self.pause(attempt, asked).await;
            attempt += 1;
        }
    }

    /// Waits before attempt `attempt + 1`: what the registry asked for, else a random part of the doubled backoff.
    pub(super) async fn pause(&self, attempt: u32, asked: Option<Duration>) {
        let jitter = || self.client.patience.pause_after(attempt);
        tokio::time::sleep(asked.unwrap_or_else(jitter)).await;
    }

    fn asked_wait(&self, call: &Call<'_>, response: &Response) -> Result<Option<Duration>, Error> {
        let limit = self.client.patience.retry_after;
        // Dates and nonsense in `Retry-After` fall back to our own backoff, which is never longer than a minute.
        let asked = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        match asked
            .and_then(|seconds| seconds.trim().parse().ok())
            .map(Duration::from_secs)
        {
            Some(retry_after) if retry_after > limit => Err(Error::RateLimited {
                registry: call.registry.to_owned(),
                retry_after,
                limit,
            }),
            asked => Ok(asked),
        }
    }

    /// One attempt; a 401 of the registry itself is answered once.
    pub(super) async fn send_once(&self, call: &Call<'_>) -> Result<Response, Error> {
        let refused = self.authorization(call).await;
        let response = self.follow(call, refused.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !same_origin(response.url(), &call.url) {
            return Ok(response);
        }
        let authorization = self.answer(call, refused.as_ref(), &response).await?;
        drop(response);
        let response = self.follow(call, Some(&authorization)).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(Error::Unauthorized {
                registry: call.registry.to_owned(),
                had_credentials: self.has_credentials(call.registry).await,
            });
        }
        Ok(response)
    }

    /// What the user accepts of a registry holds for its own addresses only.
    fn client_for(&self, call: &Call<'_>, url: &Url) -> &reqwest::Client {
        match same_origin(url, &call.url) {
            true => self.own_client(call.registry),
            false => &self.client.http,
        }
    }

    pub(super) async fn follow(&self, call: &Call<'_>, authorization: Option<&HeaderValue>) -> Result<Response, Error> {
        let mut url = call.url.clone();
        for _ in 0..=REDIRECTS {
            let own = same_origin(&url, &call.url);
            let mut request = self
                .client_for(call, &url)
                .request(call.method.clone(), url.clone())
                .headers(call.headers.clone());
            if let Some(value) = authorization.filter(|_| own) {
                request = request.header(AUTHORIZATION, value.clone());
            }
            if let Some(make_body) = call.body {
                request = request.body(make_body()?);
            }
            let response = self.head(call, request).await?;
            match redirect_target(call, &response)? {
                Some(target) => url = target,
                None => return Ok(response),
            }
        }
        Err(malformed(call, "it redirects in circles"))
    }

    /// Waits for the head of an answer. Uploads watch their own progress, so only requests without a body are timed here.
    async fn head(&self, call: &Call<'_>, request: reqwest::RequestBuilder) -> Result<Response, Error> {
        let sent = request.send();
        let answer = if call.body.is_some() {
            sent.await
        } else {
            match tokio::time::timeout(self.client.patience.head, sent).await {
                Ok(answer) => answer,
                Err(_) => return Err(unreachable(call.registry, "no answer in time".to_owned())),
            }
        };
        let answer = answer.map_err(|error| send_error(call.registry, error))?;
        match addresses::headers_are_too_large(answer.headers()) {
            true => Err(malformed(
                call,
                &format!("its headers are larger than the limit of {HEADER_LIMIT_BYTES} bytes"),
            )),
            false => Ok(answer),
        }
    }

    /// The request for a token: never redirected, since the realm is checked before anything is sent to it.
    pub(super) async fn send_to_realm(
        &self,
        call: &Call<'_>,
        realm: Url,
        headers: HeaderMap,
        form: Option<String>,
    ) -> Result<Response, Error> {
        let mut attempt = 1;
        loop {
            let method = if form.is_some() { Method::POST } else { Method::GET };
            let client = self.client_for(call, &realm);
            let mut request = client.request(method, realm.clone()).headers(headers.clone());
            if let Some(form) = &form {
                request = request.body(form.clone());
            }
            let timed = tokio::time::timeout(self.client.patience.head, request.send()).await;
            let outcome = match timed {
                Ok(answer) => answer.map_err(|error| send_error(call.registry, error)),
                Err(_) => Err(unreachable(
                    call.registry,
                    "no answer of its token server in time".to_owned(),
                )),
            };
            let asked = match &outcome {
                Ok(response) if is_transient(response.status()) => self.asked_wait(call, response)?,
                Err(Error::Unreachable { .. }) => None,
                _ => return outcome,
            };
            if attempt >= self.client.patience.tries {
                return outcome;
            }
            self.pause(attempt, asked).await;
            attempt += 1;
        }
    }

    /// The error that a refused request means.
    pub(super) async fn status_error(&self, call: &Call<'_>, response: Response) -> Error {
        let status = response.status();
        let (registry, what) = (call.registry.to_owned(), call.what.clone());
        match status {
            StatusCode::NOT_FOUND => Error::NotFound { what },
            StatusCode::FORBIDDEN => Error::Denied { registry, what },
            _ => {
                let body = read_limited(&self.client.patience, &registry, &what, response, DETAIL_LIMIT_BYTES).await;
                Error::Status {
                    registry,
                    what,
                    status: status.as_u16(),
                    // The status is the error; a registry that explains itself badly changes nothing about it.
                    detail: body.map(|bytes| detail(&bytes)).unwrap_or_default(),
                }
            }
        }
    }
}

/// Where `response` sends us, if it does.
fn redirect_target(call: &Call<'_>, response: &Response) -> Result<Option<Url>, Error> {
    let reading = matches!(call.method, Method::GET | Method::HEAD);
    match response.status().as_u16() {
        301..=303 if reading => {}
        307 | 308 => {}
        _ => return Ok(None),
    }
    location(call, response).map(Some)
}

/// The `Location` of `response`, checked: HTTP only, never from HTTPS to HTTP, never into this machine or its link.
pub(super) fn location(call: &Call<'_>, response: &Response) -> Result<Url, Error> {
    let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let target = text.and_then(|text| response.url().join(text).ok());
    let target = target.ok_or_else(|| malformed(call, "it sends us on without a usable address"))?;
    let downgraded = call.url.scheme() == "https" && target.scheme() != "https";
    if downgraded || !matches!(target.scheme(), "http" | "https") {
        return Err(malformed(call, "it sends us on to an unencrypted address"));
    }
    if leads_inside(&target, &call.url) {
        return Err(malformed(call, "it sends us on to an address of this machine"));
    }
    Ok(target)
}

fn malformed(call: &Call<'_>, problem: &str) -> Error {
    Error::Malformed {
        what: call.registry.to_owned(),
        problem: problem.to_owned(),
    }
}

pub(super) fn unreachable(registry: &str, cause: String) -> Error {
    Error::Unreachable {
        registry: registry.to_owned(),
        cause,
    }
}

/// Why nothing came back: a certificate is worth no second attempt, a broken connection is.
pub(super) fn send_error(registry: &str, error: reqwest::Error) -> Error {
    let distrust = is_distrust(&error);
    let cause = root_cause(&error.without_url());
    if distrust {
        let registry = registry.to_owned();
        return Error::Untrusted { registry, cause };
    }
    unreachable(registry, cause)
}

pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Scheme, host and port are equal.
pub(super) fn same_origin(left: &Url, right: &Url) -> bool {
    left.origin() == right.origin()
}

pub(super) fn is_loopback(url: &Url) -> bool {
    addresses::is_this_machine(url)
}

/// Whether `target` is an address that a registry at `registry` has no business naming: link-local (cloud metadata), unspecified and
/// multicast ones never, loopback only from loopback. Names are looked at when they are looked up.
pub(super) fn leads_inside(target: &Url, registry: &Url) -> bool {
    let forbidden = addresses::literal(target).is_some_and(addresses::is_forbidden);
    forbidden || is_loopback(target) && !is_loopback(registry)
}

/// The whole body, if it is at most `limit` bytes.
pub(super) async fn read_limited(
    patience: &Patience,
    registry: &str,
    what: &str,
    mut response: Response,
    limit: u64,
) -> Result<Vec<u8>, Error> {
    let too_large = || Error::TooLarge {
        what: what.to_owned(),
        limit,
    };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = next_chunk(patience, registry, &mut response).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > limit {
            return Err(too_large());
        }
    }
    Ok(bytes)
}

/// The next bytes of a body, unless none come in time.
pub(super) async fn next_chunk(
    patience: &Patience,
    registry: &str,
    response: &mut Response,
) -> Result<Option<bytes::Bytes>, Error> {
    match tokio::time::timeout(patience.progress, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| unreachable(registry, root_cause(&error.without_url()))),
        Err(_) => Err(unreachable(registry, "the transfer stalled".to_owned())),
    }
}

#[derive(Deserialize)]
struct ErrorDocument {
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The first error of a registry's error document in one short line; empty if there is none.
fn detail(bytes: &[u8]) -> String {
    let Ok(document) = serde_json::from_slice::<ErrorDocument>(bytes) else {
        // Proxies answer in HTML; quoting that helps nobody.
        return String::new();
    };
    let Some(first) = document.errors.first() else {
        return String::new();
    };
    let text = if first.message.is_empty() {
        &first.code
    } else {
        &first.message
    };
    text.chars()
        .filter(|character| !character.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_documents_become_one_short_line() {
        assert_eq!(
            detail(br#"{"errors":[{"code":"X","message":"a\nb\u001b[31m"}]}"#),
            "ab[31m"
        );
        assert_eq!(detail(br#"{"errors":[{"code":"X"}]}"#), "X");
        assert_eq!(detail(b"<html>"), "");
    }

    #[test]
    fn r03_a_registry_names_no_metadata_service_and_loopback_only_from_there() {
        for (target, from_afar, from_loopback) in [
            ("http://169.254.169.254/x", true, true),
            ("http://[fe80::1]/x", true, true),
            ("http://[::ffff:169.254.169.254]/x", true, true),
            ("http://0.0.0.0/x", true, true),
            ("http://127.0.0.1/x", true, false),
            ("http://[::1]/x", true, false),
            ("http://localhost:5000/x", true, false),
            ("https://cdn.example/x", false, false),
            ("https://10.0.0.1/x", false, false),
        ] {
            let url = |text: &str| Url::parse(text).unwrap();
            let found =
                ["https://r.example/", "http://127.0.0.1:1/"].map(|from| leads_inside(&url(target), &url(from)));
            assert_eq!(found, [from_afar, from_loopback], "{target}");
        }
    }
}
