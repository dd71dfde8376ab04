//! Docker's `config.json`: who is logged in where.
//!
//! Own code rather than the `docker_credential` crate: that one finds the directory through the environment, does not tell
//! a missing helper from a missing login, and can neither store nor erase. Source: docker/cli `configfile`,
//! docker/docker-credential-helpers for the helper protocol.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Credentials;

/// Why credentials could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file could not be read or written.
    #[error("`{path}` could not be accessed")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what Docker writes.
    #[error("`{path}` is malformed: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, without the content.
        problem: String,
    },
    /// The helper could not be started or spoken to.
    #[error("credential helper `{helper}` could not be run")]
    HelperStart {
        /// Name of the program.
        helper: String,
        /// Why.
        source: io::Error,
    },
    /// The helper ran and failed.
    #[error("credential helper `{helper}` failed: {message}")]
    Helper {
        /// Name of the program.
        helper: String,
        /// What it said, shortened; nothing of it when it may hold a secret.
        message: String,
    },
}

/// What helpers say when there is simply no login. Source: docker-credential-helpers `credentials/error.go`.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Docker Hub is filed under the address of its first API.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// User name that marks the secret as an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    #[serde(rename = "ServerURL")]
    server_url: String,
    username: String,
    secret: String,
}

/// Credentials for `registry` from `config.json` in `config_dir`: its helper, the common store, the file itself.
///
/// # Errors
/// A missing file or login is no error; an unreadable one is.
pub fn lookup(config_dir: &Path, registry: &str) -> Result<Option<Credentials>, CredentialError> {
    let config = Config::read(config_dir)?;
    let server = server_of(registry);
    if let Some(helper) = config.helper(registry) {
        return ask_helper(&helper, server);
    }
    config.kept_in_file(registry)
}

/// Keeps `credentials` for `registry`, in its helper if it has one, else in the file, which only its owner can read.
///
/// # Errors
/// Nothing is changed then.
pub fn store(config_dir: &Path, registry: &str, credentials: &Credentials) -> Result<(), CredentialError> {
    let mut config = Config::read(config_dir)?;
    let (username, secret) = match credentials {
        Credentials::Password { username, password } => (username.as_str(), password.as_str()),
        Credentials::IdentityToken(token) => (TOKEN_USER, token.as_str()),
    };
    let server = server_of(registry);
    if let Some(helper) = config.helper(registry) {
        let answer = HelperAnswer {
            server_url: server.to_owned(),
            username: username.to_owned(),
            secret: secret.to_owned(),
        };
        let input = serde_json::to_string(&answer).expect("three strings are JSON");
        return run_helper(&helper, "store", &input).map(|_| ());
    }
    let entry = match credentials {
        Credentials::Password { .. } => {
            serde_json::json!({ "auth": STANDARD.encode(format!("{username}:{secret}")) })
        }
        Credentials::IdentityToken(_) => {
            serde_json::json!({ "auth": STANDARD.encode(format!("{TOKEN_USER}:")), "identitytoken": secret })
        }
    };
    config.auths_mut()?.insert(server.to_owned(), entry);
    config.write()
}

/// Forgets the login at `registry`; tells whether there was one in the file (helpers do not say).
///
/// # Errors
/// Nothing is changed then.
pub fn erase(config_dir: &Path, registry: &str) -> Result<bool, CredentialError> {
    let mut config = Config::read(config_dir)?;
    if let Some(helper) = config.helper(registry) {
        run_helper(&helper, "erase", server_of(registry))?;
    }
    let auths = config.auths_mut()?;
    let before = auths.len();
    auths.retain(|key, _| !names(key, registry));
    let found = auths.len() != before;
    if found {
        config.write()?;
    }
    Ok(found)
}

/// The file, with all that we do not know in it.
struct Config {
    path: PathBuf,
    members: Map<String, Value>,
}

impl Config {
    fn read(config_dir: &Path) -> Result<Self, CredentialError> {
        let path = config_dir.join("config.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
            Err(source) => return Err(CredentialError::File { path, source }),
        };
        match serde_json::from_slice(&bytes) {
            Ok(members) => Ok(Self { path, members }),
            Err(error) => Err(CredentialError::Malformed {
                problem: format!("no JSON object (line {}, column {})", error.line(), error.column()),
                path,
            }),
        }
    }

    /// The program that keeps the login at `registry`.
    fn helper(&self, registry: &str) -> Option<String> {
        let helpers = self.members.get("credHelpers").and_then(Value::as_object);
        let own = helpers.and_then(|helpers| {
            let mut matching = helpers.iter().filter(|(key, _)| names(key, registry));
            matching.find_map(|(_, value)| value.as_str())
        });
        let common = self.members.get("credsStore").and_then(Value::as_str);
        let name = own.or(common).filter(|name| !name.is_empty())?;
        Some(format!("docker-credential-{name}"))
    }

    fn kept_in_file(&self, registry: &str) -> Result<Option<Credentials>, CredentialError> {
        let auths = self.members.get("auths").and_then(Value::as_object);
        let entry = auths.and_then(|auths| auths.iter().find(|(key, _)| names(key, registry)));
        let Some((_, entry)) = entry else {
            return Ok(None);
        };
        let text = |member: &str| {
            entry
                .get(member)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credentials::IdentityToken(token.to_owned())));
        }
        if let (Some(username), Some(password)) = (text("username"), text("password")) {
            return Ok(Some(password_of(username, password)));
        }
        // Docker leaves an empty entry behind when a store keeps the secret.
        let Some(auth) = text("auth") else {
            return Ok(None);
        };
        // The decoders' errors would quote the secret, so they are replaced.
        let decoded = STANDARD
            .decode(auth)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
            Some((username, password)) => Ok(Some(password_of(username, password.trim_end_matches('\0')))),
            None => Err(CredentialError::Malformed {
                path: self.path.clone(),
                problem: format!("the entry for `{registry}` is no base64 of `user:password`"),
            }),
        }
    }

    fn auths_mut(&mut self) -> Result<&mut Map<String, Value>, CredentialError> {
        let auths = self.members.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        auths.as_object_mut().ok_or_else(|| CredentialError::Malformed {
            path: self.path.clone(),
            problem: "`auths` is no object".to_owned(),
        })
    }

    /// Beside the old file, then over it: a crash leaves one of the two, whole.
    fn write(&self) -> Result<(), CredentialError> {
        let fail = |source| CredentialError::File {
            path: self.path.clone(),
            source,
        };
        // A link to a file kept elsewhere stays a link.
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(fail)?;
        }
        let temporary = target.with_extension(format!("json.{}", std::process::id()));
        let written = write_private(&temporary, &self.members).and_then(|()| std::fs::rename(&temporary, &target));
        if written.is_err()
            && let Err(error) = std::fs::remove_file(&temporary)
        {
            tracing::debug!(%error, "the temporary file could not be removed");
        }
        written.map_err(fail)
    }
}

fn write_private(path: &Path, members: &Map<String, Value>) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    let mut text = serde_json::to_vec_pretty(members)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()
}

fn password_of(username: &str, password: &str) -> Credentials {
    Credentials::Password {
        username: username.to_owned(),
        password: password.to_owned(),
    }
}

fn server_of(registry: &str) -> &str {
    if registry == "docker.io" { DOCKER_HUB } else { registry }
}

/// Whether a key of the file means `registry`: old keys are URLs.
fn names(key: &str, registry: &str) -> bool {
    let rest = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let host = rest.split('/').next().unwrap_or_default();
    match registry {
        "docker.io" => matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io"),
        _ => host == registry,
    }
}

fn ask_helper(helper: &str, server: &str) -> Result<Option<Credentials>, CredentialError> {
    let output = match run_helper(helper, "get", server) {
        Ok(output) => output,
        Err(CredentialError::Helper { message, .. }) if message.contains(NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    let answer: HelperAnswer = serde_json::from_slice(&output).map_err(|_| CredentialError::Helper {
        helper: helper.to_owned(),
        message: "its answer is not what the protocol says".to_owned(),
    })?;
    Ok(Some(if answer.username == TOKEN_USER {
        Credentials::IdentityToken(answer.secret)
    } else {
        password_of(&answer.username, &answer.secret)
    }))
}

fn run_helper(helper: &str, action: &str, input: &str) -> Result<Vec<u8>, CredentialError> {
    let start = |source| CredentialError::HelperStart {
        helper: helper.to_owned(),
        source,
    };
    let mut child = Command::new(helper)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(start)?;
    // A helper that does not read its input says why when it ends; only that is worth reporting.
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(input.as_bytes())
    {
        tracing::debug!(helper, %error, "the helper did not read its input");
    }
    let output = child.wait_with_output().map_err(start)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let message = said
        .trim()
        .chars()
        .filter(|character| !character.is_control())
        .take(200)
        .collect();
    Err(CredentialError::Helper {
        helper: helper.to_owned(),
        message,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn dir_with(text: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        dir
    }

    #[test]
    fn logins_are_found_under_all_their_keys() {
        let auth = STANDARD.encode("me:a:b");
        for (key, registry) in [
            ("r.example:5000", "r.example:5000"),
            ("https://r.example/v1/", "r.example"),
            (DOCKER_HUB, "docker.io"),
        ] {
            let dir = dir_with(&format!(r#"{{"auths":{{"{key}":{{"auth":"{auth}"}}}}}}"#));
            assert_eq!(
                lookup(dir.path(), registry).unwrap(),
                Some(password_of("me", "a:b")),
                "{key}"
            );
            assert_eq!(lookup(dir.path(), "other.example").unwrap(), None);
        }
    }

    #[test]
    fn a_stored_login_is_private_found_and_erasable_and_spares_the_rest() {
        let dir = dir_with(r#"{"detachKeys":"ctrl-x"}"#);
        let token = Credentials::IdentityToken("t".to_owned());
        store(dir.path(), "docker.io", &token).unwrap();
        store(dir.path(), "r.example", &password_of("u", "p")).unwrap();
        let path = dir.path().join("config.json");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(lookup(dir.path(), "docker.io").unwrap(), Some(token));
        assert!(erase(dir.path(), "docker.io").unwrap());
        assert!(!erase(dir.path(), "docker.io").unwrap());
        assert_eq!(lookup(dir.path(), "docker.io").unwrap(), None);
        assert_eq!(lookup(dir.path(), "r.example").unwrap(), Some(password_of("u", "p")));
        assert!(std::fs::read_to_string(&path).unwrap().contains("ctrl-x"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_file_is_an_error_and_is_not_quoted() {
        let dir = dir_with(r#"{"auths":{"r.example":{"auth":"c2VjcmV0"}}}"#);
        let message = lookup(dir.path(), "r.example").unwrap_err().to_string();
        assert!(
            message.contains("`r.example`") && !message.contains("c2VjcmV0"),
            "{message}"
        );
        let dir = dir_with("hunter2");
        assert!(
            !lookup(dir.path(), "r.example")
                .unwrap_err()
                .to_string()
                .contains("hunter2")
        );
    }

    #[test]
    fn a_missing_helper_is_an_error_and_a_missing_file_is_none() {
        let dir = dir_with(r#"{"credHelpers":{"r.example":"rbuild-test-none"}}"#);
        assert!(matches!(
            lookup(dir.path(), "r.example"),
            Err(CredentialError::HelperStart { .. })
        ));
        assert_eq!(lookup(tempfile::tempdir().unwrap().path(), "r.example").unwrap(), None);
    }
}
