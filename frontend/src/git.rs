//! Git references as users write them, in `ADD` and as build contexts.
//!
//! ```text
//! git://host/path  ssh://host/path  http(s)://host/path.git  user@host:path  github.com/path (contexts only)
//! each with  ?key=value&…  and  #reference:subdirectory  behind it
//! ```
//!
//! What these mean to a repository is not known here; whether two parts of one text contradict each other is.

use proto::address::{is_scp, percent_decoded};
use proto::definition::{GitFiles, GitOp, GitRemote, GitTimes};
use proto::tree::RelPath;

/// A git reference, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitReference {
    /// Which commit of which repository.
    pub remote: GitRemote,
    /// Directory that becomes the root; empty for all.
    pub subdir: String,
    /// `keep-git-dir`, if it is given.
    pub keep_git_dir: Option<bool>,
    /// `submodules`; they are filled if nothing is said.
    pub submodules: bool,
    /// `mtime`.
    pub times: GitTimes,
    /// Written as `github.com/…`, which could be a directory as well.
    pub shorthand: bool,
}

/// Why a text that is a git reference makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitReferenceError {
    /// A key that needs a value has none.
    #[error("query {0:?} has no value")]
    NoValue(String),
    /// A key is there twice.
    #[error("query {0:?} has multiple values")]
    SeveralValues(String),
    /// An unknown key.
    #[error("unexpected query {0:?}")]
    Unexpected(String),
    /// Two parts name different things.
    #[error("{what} conflicts: {first:?} vs {second:?}")]
    Conflict {
        /// `ref`, `subdir` or `checksum`.
        what: &'static str,
        /// What was said first.
        first: String,
        /// What was said then.
        second: String,
    },
    /// `branch` and `tag`.
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// A value that is neither true nor false.
    #[error("invalid {key} value: {value:?}")]
    NotBool {
        /// The key.
        key: String,
        /// Its value.
        value: String,
    },
    /// `mtime`.
    #[error("invalid mtime value: {0:?} (must be \"checkout\" or \"commit\")")]
    Times(String),
    /// Bytes that no git reference has.
    #[error("invalid ref {0:?}")]
    Reference(String),
}

impl GitReference {
    /// Takes `text` apart; nothing if it is no git reference at all.
    #[must_use]
    pub fn parse(text: &str) -> Option<Result<Self, GitReferenceError>> {
        let parts = Parts::of(text)?;
        let (reference, subdir) = parts.fragment.split_once(':').unwrap_or((&parts.fragment, ""));
        let mut found = Self {
            remote: GitRemote {
                address: parts.address,
                reference: reference.to_owned(),
                checksum: None,
                by_commit: false,
            },
            subdir: clean(subdir),
            keep_git_dir: None,
            submodules: true,
            times: GitTimes::default(),
            shorthand: parts.shorthand,
        };
        Some(found.read_query(&parts.query).map(|()| found))
    }

    /// The op that fetches it.
    #[must_use]
    pub fn into_op(self) -> GitOp {
        GitOp {
            remote: self.remote,
            files: GitFiles {
                subdir: self.subdir,
                keep_git_dir: self.keep_git_dir.unwrap_or(false),
                submodules: self.submodules,
                times: self.times,
            },
            pin: None,
        }
    }

    fn read_query(&mut self, query: &[(String, String)]) -> Result<(), GitReferenceError> {
        for (at, (key, value)) in query.iter().enumerate() {
            if query[..at].iter().any(|(other, _)| other == key) {
                return Err(GitReferenceError::SeveralValues(key.clone()));
            }
            let may_be_bare = matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit");
            if value.is_empty() && !may_be_bare {
                return Err(GitReferenceError::NoValue(key.clone()));
            }
            self.read_pair(key, value)?;
        }
        let given = |wanted: &str| query.iter().find(|(key, _)| key == wanted);
        if given("tag").is_some() && given("branch").is_some() {
            return Err(GitReferenceError::BranchAndTag);
        }
        // Last, as `ref` may agree with them in the long form only.
        for (key, prefix) in [("tag", "refs/tags/"), ("branch", "refs/heads/")] {
            if let Some((_, name)) = given(key) {
                let full = match name.starts_with(prefix) {
                    true => name.clone(),
                    false => format!("{prefix}{name}"),
                };
                agree("ref", &mut self.remote.reference, &full)?;
            }
        }
        let reference = &self.remote.reference;
        if reference.starts_with('-') || reference.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(GitReferenceError::Reference(reference.clone()));
        }
        Ok(())
    }

    fn read_pair(&mut self, key: &str, value: &str) -> Result<(), GitReferenceError> {
        match key {
            "ref" => agree("ref", &mut self.remote.reference, value),
            "subdir" => agree("subdir", &mut self.subdir, &clean(value)),
            "checksum" | "commit" => {
                let mut known = self.remote.checksum.take().unwrap_or_default();
                agree("checksum", &mut known, value)?;
                self.remote.checksum = Some(known);
                Ok(())
            }
            "keep-git-dir" => flag(key, value).map(|keep| self.keep_git_dir = Some(keep)),
            "submodules" => flag(key, value).map(|fill| self.submodules = fill),
            "fetch-by-commit" => flag(key, value).map(|by| self.remote.by_commit = by),
            "mtime" => {
                self.times = match value {
                    "checkout" => GitTimes::Checkout,
                    "commit" => GitTimes::Commit,
                    other => return Err(GitReferenceError::Times(other.to_owned())),
                };
                Ok(())
            }
            "tag" | "branch" => Ok(()),
            other => Err(GitReferenceError::Unexpected(other.to_owned())),
        }
    }
}

fn agree(what: &'static str, known: &mut String, said: &str) -> Result<(), GitReferenceError> {
    if !known.is_empty() && known != said {
        return Err(GitReferenceError::Conflict {
            what,
            first: known.clone(),
            second: said.to_owned(),
        });
    }
    said.clone_into(known);
    Ok(())
}

fn flag(key: &str, value: &str) -> Result<bool, GitReferenceError> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GitReferenceError::NotBool {
            key: key.to_owned(),
            value: value.to_owned(),
        }),
    }
}

/// A path below the root; `..` stops there.
fn clean(path: &str) -> String {
    String::from_utf8_lossy(RelPath::clean(path.as_bytes()).as_bytes()).into_owned()
}

/// A text in its parts, nothing of them understood yet.
struct Parts {
    address: String,
    query: Vec<(String, String)>,
    fragment: String,
    shorthand: bool,
}

impl Parts {
    fn of(text: &str) -> Option<Self> {
        if text.starts_with("./") || text.starts_with("../") {
            return None;
        }
        let (whole, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (address, query) = whole.split_once('?').unwrap_or((whole, ""));
        let shorthand = text.starts_with("github.com/");
        let scheme = address
            .split_once("://")
            .filter(|(scheme, _)| !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let is_url = shorthand || scheme.is_some();
        let address = match scheme {
            _ if shorthand => format!("https://{address}"),
            Some((scheme, rest)) => url(&scheme.to_ascii_lowercase(), rest)?,
            None => is_scp(address).then(|| address.to_owned())?,
        };
        // Only a URL is percent-encoded.
        let decoded = |text: &str| match is_url {
            true => String::from_utf8_lossy(&percent_decoded(text)).into_owned(),
            false => text.to_owned(),
        };
        Some(Self {
            address,
            query: pairs(query),
            fragment: decoded(fragment),
            shorthand,
        })
    }
}

/// A URL that git takes. Over HTTP the path must say that it is a repository; anything else is a file.
fn url(scheme: &str, rest: &str) -> Option<String> {
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let is_repository = match scheme {
        "git" | "ssh" => true,
        "http" | "https" => percent_decoded(path).ends_with(b".git"),
        _ => false,
    };
    is_repository.then(|| format!("{scheme}://{rest}"))
}

/// `key=value&key`, decoded as forms are.
fn pairs(query: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| String::from_utf8_lossy(&percent_decoded(&text.replace('+', " "))).into_owned();
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(key), decoded(value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `address reference:subdir`, then whatever is not the default.
    fn shown(text: &str) -> String {
        let parsed = match GitReference::parse(text) {
            None => return "no git reference".to_owned(),
            Some(Err(error)) => return error.to_string(),
            Some(Ok(parsed)) => parsed,
        };
        let mut shown = format!(
            "{} {}:{}",
            parsed.remote.address, parsed.remote.reference, parsed.subdir
        );
        for (set, text) in [
            (
                parsed.remote.checksum.is_some(),
                format!(" checksum={}", parsed.remote.checksum.unwrap_or_default()),
            ),
            (parsed.remote.by_commit, " by-commit".to_owned()),
            (
                parsed.keep_git_dir.is_some(),
                format!(" keep={}", parsed.keep_git_dir == Some(true)),
            ),
            (!parsed.submodules, " no-submodules".to_owned()),
            (parsed.times == GitTimes::Checkout, " checkout-times".to_owned()),
            (parsed.shorthand, " shorthand".to_owned()),
        ] {
            shown.push_str(if set { &text } else { "" });
        }
        shown
    }

    #[test]
    fn references_are_taken_apart() {
        for (text, expected) in [
            // Forms.
            ("https://h/a.git", "https://h/a.git :"),
            ("http://h:80/a/b.git#main", "http://h:80/a/b.git main:"),
            ("HTTPS://h/a.git", "https://h/a.git :"),
            ("git://h/a#v1:sub/dir", "git://h/a v1:sub/dir"),
            ("ssh://git@h/a#:sub", "ssh://git@h/a :sub"),
            ("git@h:a/b.git#main:/x/../y/", "git@h:a/b.git main:y"),
            ("github.com/a/b#c", "https://github.com/a/b c: shorthand"),
            ("https://me:word@h/a.git", "https://me:word@h/a.git :"),
            ("https://h/a.git#feature%2Fx", "https://h/a.git feature/x:"),
            ("git@h:a.git#feature%2Fx", "git@h:a.git feature%2Fx:"),
            ("https://h/a.git#:../../etc", "https://h/a.git :etc"),
            // Not git.
            ("https://h/a.tar.gz", "no git reference"),
            ("https://h/a.git/b", "no git reference"),
            ("https://h/a?x=.git", "no git reference"),
            ("file:///a.git", "no git reference"),
            ("ext::sh -c x", "no git reference"),
            ("./git@h:a", "no git reference"),
            ("a/b@h:c", "no git reference"),
            ("@h:c", "no git reference"),
            ("user@h:", "no git reference"),
            ("app.git", "no git reference"),
            ("-o@h:a", "no git reference"),
            // Queries.
            ("https://h/a.git?ref=x&subdir=y", "https://h/a.git x:y"),
            ("https://h/a.git?tag=v1", "https://h/a.git refs/tags/v1:"),
            ("https://h/a.git?branch=refs/heads/x", "https://h/a.git refs/heads/x:"),
            ("https://h/a.git?checksum=ab12", "https://h/a.git : checksum=ab12"),
            (
                "https://h/a.git?commit=ab12&fetch-by-commit",
                "https://h/a.git : checksum=ab12 by-commit",
            ),
            ("https://h/a.git?keep-git-dir", "https://h/a.git : keep=true"),
            ("https://h/a.git?keep-git-dir=f", "https://h/a.git : keep=false"),
            (
                "https://h/a.git?submodules=0&mtime=checkout",
                "https://h/a.git : no-submodules checkout-times",
            ),
            ("https://h/a.git?mtime=commit", "https://h/a.git :"),
            ("https://h/a.git?ref=x#x", "https://h/a.git x:"),
            ("git@h:a?ref=x#:y", "git@h:a x:y"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        for (query, expected) in [
            ("?depth=3", "unexpected query \"depth\""),
            ("?ref=", "query \"ref\" has no value"),
            ("?ref", "query \"ref\" has no value"),
            ("?ref=a&ref=a", "query \"ref\" has multiple values"),
            ("?ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("?tag=a#b", "ref conflicts: \"b\" vs \"refs/tags/a\""),
            ("?subdir=a#:b", "subdir conflicts: \"b\" vs \"a\""),
            ("?checksum=a&commit=b", "checksum conflicts: \"a\" vs \"b\""),
            ("?branch=a&tag=a", "branch conflicts with tag"),
            ("?submodules=maybe", "invalid submodules value: \"maybe\""),
            (
                "?mtime=now",
                "invalid mtime value: \"now\" (must be \"checkout\" or \"commit\")",
            ),
            ("#--upload-pack=x", "invalid ref \"--upload-pack=x\""),
            ("#a%0Ab", "invalid ref \"a\\nb\""),
        ] {
            assert_eq!(shown(&format!("https://h/a.git{query}")), expected, "{query}");
        }
    }
}
