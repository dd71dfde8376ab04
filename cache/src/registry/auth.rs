//! Challenges answered: Basic, tokens, anonymous tokens; each kept for one build and bound to one registry.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base64::Engine;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, Url};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::challenge::{Challenge, strongest};
use super::transport::{Call, is_loopback, leads_inside, read_limited, same_origin};
use super::{Credentials, Error, RegistryAccess};

/// Answers of token servers are a token and a date.
const TOKEN_LIMIT_BYTES: u64 = 1024 * 1024;

/// Lifetime of a token that names none. Source: the token protocol's default.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// The longest lifetime that is believed; it also keeps the addition to the clock in range.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) type SharedWallet = Arc<Mutex<Wallet>>;

/// What one build holds for one registry. Its lock is held while a token is fetched, so that parallel transfers ask once.
#[derive(Default)]
pub(super) struct Wallet {
    /// Nothing: not asked yet.
    credentials: Option<Option<Credentials>>,
    basic: bool,
    tokens: HashMap<String, Token>,
}

struct Token {
    header: HeaderValue,
    expires: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl RegistryAccess {
    fn wallet(&self, registry: &str) -> SharedWallet {
        let mut wallets = self.wallets.lock().unwrap_or_else(PoisonError::into_inner);
        wallets.entry(registry.to_owned()).or_default().clone()
    }

    /// The `Authorization` header for `call`, from what earlier challenges left behind.
    pub(super) async fn authorization(&self, call: &Call<'_>) -> Option<HeaderValue> {
        let wallet = self.wallet(call.registry);
        let wallet = wallet.lock().await;
        if wallet.basic {
            return basic_header(wallet.credentials.as_ref()?.as_ref()?);
        }
        let token = wallet.tokens.get(&call.scope.join(" "))?;
        (token.expires > Instant::now()).then(|| token.header.clone())
    }

    /// Answers the challenge of a 401 with the header to send next, which is good for one attempt however short it lives. `refused` is the header that was not accepted: if another transfer has replaced it
    /// meanwhile, there is nothing to do.
    ///
    /// # Errors
    /// [`Error::Unauthorized`] when there is nothing (more) to offer.
    pub(super) async fn answer(
        &self,
        call: &Call<'_>,
        refused: Option<&HeaderValue>,
        response: &Response,
    ) -> Result<HeaderValue, Error> {
        let wallet = self.wallet(call.registry);
        let mut wallet = wallet.lock().await;
        let scope = call.scope.join(" ");
        if let Some(token) = wallet.tokens.get(&scope)
            && token.expires > Instant::now()
            && Some(&token.header) != refused
        {
            return Ok(token.header.clone());
        }
        let credentials = match wallet.credentials.clone() {
            Some(known) => known,
            None => {
                let asked = self.credentials.credentials(call.registry).await;
                let asked = asked.map_err(|source| Error::Credentials {
                    registry: call.registry.to_owned(),
                    source,
                })?;
                wallet.credentials.insert(asked).clone()
            }
        };
        let unauthorized = || Error::Unauthorized {
            registry: call.registry.to_owned(),
            had_credentials: credentials.is_some(),
        };
        let values = response.headers().get_all(WWW_AUTHENTICATE);
        // A header that is no text is no challenge that we could answer.
        match strongest(values.iter().filter_map(|value| value.to_str().ok())).ok_or_else(unauthorized)? {
            Challenge::Basic => {
                let header = credentials.as_ref().and_then(basic_header);
                // The same password again would be the same refusal.
                let header = header
                    .filter(|header| Some(header) != refused)
                    .ok_or_else(unauthorized)?;
                wallet.basic = true;
                Ok(header)
            }
            Challenge::Bearer { realm, service } => {
                let realm = realm_url(&realm, call)?;
                // A realm that is neither encrypted nor the registry itself learns nothing of us.
                let credentials = credentials.as_ref().filter(|_| realm_is_trusted(&realm, &call.url));
                let token = self.fetch_token(call, realm, service, credentials).await?;
                let header = token.header.clone();
                wallet.tokens.insert(scope, token);
                Ok(header)
            }
        }
    }

    /// Whether the source had credentials for `registry`; an anonymous token is none.
    pub(super) async fn has_credentials(&self, registry: &str) -> bool {
        matches!(self.wallet(registry).lock().await.credentials, Some(Some(_)))
    }

    async fn fetch_token(
        &self,
        call: &Call<'_>,
        mut realm: Url,
        service: Option<String>,
        credentials: Option<&Credentials>,
    ) -> Result<Token, Error> {
        let service = service.unwrap_or_default();
        let mut headers = HeaderMap::new();
        let mut form = None;
        match credentials {
            Some(Credentials::IdentityToken(token)) => {
                form = Some(refresh_form(&service, &call.scope, token));
                headers.insert(
                    reqwest::header::CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                );
            }
            other => {
                let mut query = realm.query_pairs_mut();
                if !service.is_empty() {
                    query.append_pair("service", &service);
                }
                for scope in &call.scope {
                    query.append_pair("scope", scope);
                }
                drop(query);
                if let Some(header) = other.and_then(basic_header) {
                    headers.insert(AUTHORIZATION, header);
                }
            }
        }
        let response = self.send_to_realm(call, realm, headers, form).await?;
        match response.status().as_u16() {
            200 => {}
            400 | 401 | 403 => {
                return Err(Error::Unauthorized {
                    registry: call.registry.to_owned(),
                    had_credentials: credentials.is_some(),
                });
            }
            _ => return Err(self.status_error(call, response).await),
        }
        let what = format!("token for {}", call.registry);
        let bytes = read_limited(&self.client.patience, call.registry, &what, response, TOKEN_LIMIT_BYTES).await?;
        parse_token(&bytes).ok_or_else(|| Error::Malformed {
            what,
            problem: "no usable `token` in the answer".to_owned(),
        })
    }
}

fn parse_token(bytes: &[u8]) -> Option<Token> {
    // The caller names the failure; the parser's message could quote the token.
    let answer: TokenAnswer = serde_json::from_slice(bytes).ok()?;
    let text = answer.token.or(answer.access_token).filter(|token| !token.is_empty())?;
    let lifetime = answer.expires_in.map_or(TOKEN_LIFETIME, Duration::from_secs);
    Some(Token {
        header: sensitive(&format!("Bearer {text}"))?,
        expires: Instant::now() + lifetime.min(TOKEN_LIFETIME_MAX),
    })
}

fn refresh_form(service: &str, scope: &[String], token: &str) -> String {
    let scope = scope.join(" ");
    let parameters = [
        ("grant_type", "refresh_token"),
        ("client_id", "rbuild"),
        ("service", service),
        ("scope", &scope),
        ("refresh_token", token),
    ];
    let url = Url::parse_with_params("https://form.invalid/", parameters).expect("a constant URL parses");
    url.query().unwrap_or_default().to_owned()
}

fn basic_header(credentials: &Credentials) -> Option<HeaderValue> {
    match credentials {
        Credentials::Password { username, password } => {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
            sensitive(&format!("Basic {pair}"))
        }
        Credentials::IdentityToken(_) => None,
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    // A token with control characters is no token; who asked says so without quoting it.
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn realm_url(realm: &str, call: &Call<'_>) -> Result<Url, Error> {
    let url = Url::parse(realm)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"));
    let malformed = |problem: &str| Error::Malformed {
        what: call.registry.to_owned(),
        problem: problem.to_owned(),
    };
    let url = url.ok_or_else(|| malformed("its token server is no HTTP address"))?;
    // It learns nothing from us there, but to be asked can be all that somebody wants of an address.
    if leads_inside(&url, &call.url) {
        return Err(malformed("its token server is an address of this machine"));
    }
    Ok(url)
}

/// Credentials go to a token server over HTTPS, to the registry's own origin, or from loopback to loopback.
fn realm_is_trusted(realm: &Url, registry: &Url) -> bool {
    realm.scheme() == "https" || same_origin(realm, registry) || (is_loopback(realm) && is_loopback(registry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r02_credentials_reach_only_encrypted_or_own_realms() {
        for (realm, registry, trusted) in [
            ("https://auth.example/token", "https://r.example/", true),
            ("http://r.example:5000/token", "http://r.example:5000/", true),
            ("http://auth.example/token", "https://r.example/", false),
            ("http://r.example/token", "https://r.example/", false),
            ("http://127.0.0.1:1/token", "https://r.example/", false),
            ("http://127.0.0.1:1/token", "http://localhost:2/", true),
        ] {
            let url = |text: &str| Url::parse(text).unwrap();
            assert_eq!(
                realm_is_trusted(&url(realm), &url(registry)),
                trusted,
                "{realm} {registry}"
            );
        }
    }

    #[test]
    fn debug_output_shows_no_secret() {
        let credentials = Credentials::Password {
            username: "u".to_owned(),
            password: "hunter2".to_owned(),
        };
        assert_eq!(format!("{credentials:?}"), "Password(..)");
        assert!(!format!("{:?}", basic_header(&credentials)).contains("aHVudGVyMg"));
    }
}
