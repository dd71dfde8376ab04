//! A remote: which ones are asked at all, with which login, and what their names stand for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cache::addresses::{self, Reach};
use proto::address::{host, is_http, is_ssh, percent_decoded, redacted, split_login};

use super::ssh::Ssh;

use crate::build::Job;
use crate::request::BuildError;
use crate::sources::http::secret;

/// `Authorization` of a user with a password, `user:password`.
pub(in crate::sources) fn basic(login: &[u8]) -> String {
    let mut login = login.to_owned();
    if !login.contains(&b':') {
        login.push(b':');
    }
    format!("Basic {}", STANDARD.encode(login))
}

/// How one gets to a remote.
#[derive(Debug)]
pub(super) enum Access {
    /// As anybody.
    Anybody,
    /// Over HTTP, with a login.
    Login(Login),
    /// Over SSH.
    Ssh(Ssh),
}

impl Access {
    /// The way to `address`, with what the client lends.
    pub(super) async fn find(address: &str, main: &str, job: &Job) -> Result<Self, BuildError> {
        if let Some(ssh) = Ssh::find(address, job).await? {
            return Ok(Self::Ssh(ssh));
        }
        let login = Login::find(address, main, job).await?;
        Ok(login.map_or(Self::Anybody, Self::Login))
    }
}

/// `address` without the secrets in it. Over SSH the user is none.
pub(super) fn plain(address: &str) -> String {
    let (login, plain) = split_login(address);
    let user = login
        .filter(|_| is_ssh(address))
        .and_then(|login| login.split(':').next());
    match (user, plain.split_once("://")) {
        (Some(user), Some((scheme, rest))) => format!("{scheme}://{user}@{rest}"),
        _ => plain,
    }
}

/// The value of an `Authorization` header, and to whom it goes.
pub(super) struct Login {
    scope: String,
    header: String,
}

impl std::fmt::Debug for Login {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.scope)
    }
}

impl Login {
    /// The login for `address`: from the address itself, or a secret that the client lends. A secret that names no host goes
    /// to the host of `main` only: that a repository lists a submodule elsewhere gives nobody a token.
    async fn find(address: &str, main: &str, job: &Job) -> Result<Option<Self>, BuildError> {
        if !is_http(address) {
            return Ok(None);
        }
        let (login, plain) = split_login(address);
        let Some(host) = host(&plain) else {
            return Ok(None);
        };
        let scheme = if plain.starts_with("https:") { "https" } else { "http" };
        let found = |header| {
            Ok(Some(Self {
                scope: format!("{scheme}://{host}/"),
                header,
            }))
        };
        if let Some(login) = login {
            return found(basic(&percent_decoded(login)));
        }
        let is_main = proto::address::host(main) == Some(host);
        let wanted = [
            (format!("GIT_AUTH_HEADER.{host}"), false, true),
            (format!("GIT_AUTH_TOKEN.{host}"), true, true),
            ("GIT_AUTH_HEADER".to_owned(), false, is_main),
            ("GIT_AUTH_TOKEN".to_owned(), true, is_main),
        ];
        for (id, is_token, may_ask) in wanted {
            if !may_ask {
                continue;
            }
            if let Some(value) = secret(&id, job).await? {
                return found(match is_token {
                    true => basic(format!("x-access-token:{value}").as_bytes()),
                    false => value,
                });
            }
        }
        Ok(None)
    }

    /// The value of the header.
    pub(super) fn header(&self) -> &str {
        &self.header
    }

    /// As a setting of git.
    pub(super) fn setting(&self) -> (String, String) {
        (
            format!("http.{}.extraHeader", self.scope),
            format!("Authorization: {}", self.header),
        )
    }
}

/// Refuses what is no remote: files of this machine, and programs as transports.
pub(super) fn refuse(address: &str) -> Result<(), BuildError> {
    let shown = || redacted(address);
    match address.split_once("://") {
        Some(("http" | "https" | "git" | "ssh", _)) => {}
        None if is_ssh(address) => {}
        _ => {
            return Err(BuildError::user(format!("`{}` is no git remote", shown()))
                .help("remotes are fetched over https, http, ssh and git"));
        }
    }
    let name = host(address).unwrap_or_default();
    let user = split_login(address).0.unwrap_or_default();
    if name.is_empty() || name.starts_with('-') || user.starts_with('-') {
        return Err(BuildError::user(format!("`{}` names no host", shown())));
    }
    Ok(())
}

/// Refuses hosts that builds may not ask; git itself asks any.
pub(super) async fn check_host(address: &str, reach: Reach) -> Result<(), BuildError> {
    let host = host(address).unwrap_or_default();
    let what = match reach {
        Reach::ThisMachine => "a link-local or multicast address",
        Reach::Others => "the build server or a link-local or multicast address",
    };
    match addresses::is_allowed(host, reach).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(BuildError::user(format!(
            "`{}` is on {what}, which builds may not ask",
            redacted(address)
        ))),
        // With a proxy only the proxy may know the name; git says what is wrong if nobody does.
        Err(_) => Ok(()),
    }
}

/// Whether `text` is a whole object name.
pub(super) fn is_object(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && is_hex(text)
}

/// Whether `text` could begin an object name.
pub(super) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// The object of that name.
    pub(super) object: String,
    /// The commit behind it, if the object is a tag.
    pub(super) commit: String,
}

/// Finds `reference` in a list of references, as `git ls-remote` writes it. Branches win over tags.
pub(super) fn choose(list: &str, reference: &str) -> Option<Named> {
    let of = |name: &str| {
        let mut lines = list.lines().filter_map(|line| line.split_once('\t'));
        let found = lines.find(|(object, listed)| *listed == name && is_object(object));
        found.map(|(object, _)| object.to_owned())
    };
    if reference.is_empty() {
        return of("HEAD").map(|object| Named {
            commit: object.clone(),
            object,
        });
    }
    let below = |prefix: &str| format!("{prefix}{}", reference.strip_prefix(prefix).unwrap_or(reference));
    let names = [below("refs/"), below("refs/heads/"), below("refs/tags/")];
    let (name, object) = names
        .into_iter()
        .find_map(|name| Some((of(&name)?, name)).map(|(o, n)| (n, o)))?;
    let commit = of(&format!("{name}^{{}}")).unwrap_or_else(|| object.clone());
    Some(Named { object, commit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_commits_and_branches_come_first() {
        let object = |digit: &str| digit.repeat(40);
        let line = |digit: &str, name: &str| format!("{}\t{name}\n", object(digit));
        let list = [
            line("1", "HEAD"),
            line("2", "refs/heads/both"),
            line("3", "refs/heads/other/both"),
            line("4", "refs/tags/both"),
            line("5", "refs/tags/v1"),
            line("6", "refs/tags/v1^{}"),
            line("7", "refs/pull/1/head"),
        ]
        .concat();
        let found = |reference: &str| choose(&list, reference).map(|named| (named.object, named.commit));
        let same = |digit: &str| Some((object(digit), object(digit)));
        assert_eq!(found(""), same("1"));
        assert_eq!(found("both"), same("2"));
        assert_eq!(found("refs/tags/both"), same("4"));
        assert_eq!(found("other/both"), same("3"));
        assert_eq!(found("v1"), Some((object("5"), object("6"))));
        assert_eq!(found("pull/1/head"), same("7"));
        assert_eq!(found("1/head"), None);
        assert_eq!(found("nothing"), None);
    }

    #[test]
    fn only_remotes_over_a_network_are_asked() {
        for (address, good) in [
            ("https://h/a.git", true),
            ("git://h/a", true),
            ("file:///etc", false),
            ("/etc", false),
            ("ext::sh -c x", false),
            ("ssh://git@h/a", true),
            ("git@h:a", true),
            ("h:a", false),
            ("ext::sh -c git@h:x", false),
            ("git@-oProxyCommand=x:a", false),
            ("ssh://-oProxyCommand=x/a", false),
            ("ssh://-l@h/a", false),
            ("https:///a.git", false),
            ("git://-oProxyCommand=x/a", false),
        ] {
            assert_eq!(refuse(address).is_ok(), good, "{address}");
        }
    }

    #[test]
    fn only_users_of_ssh_belong_to_an_address() {
        for (address, expected) in [
            ("https://me:word@h/a", "https://h/a"),
            ("ssh://git:word@h:22/a", "ssh://git@h:22/a"),
            ("ssh://h/a", "ssh://h/a"),
            ("git@h:a", "git@h:a"),
        ] {
            assert_eq!(plain(address), expected, "{address}");
        }
    }

    #[test]
    fn a_login_is_never_shown() {
        let login = Login {
            scope: "https://h/".into(),
            header: basic(b"me:word"),
        };
        assert_eq!(format!("{login:?}"), "Login(https://h/)");
        assert_eq!(login.setting().1, "Authorization: Basic bWU6d29yZA==");
        assert_eq!(basic(b"token"), "Basic dG9rZW46");
    }
}
