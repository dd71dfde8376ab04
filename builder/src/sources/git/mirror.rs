//! The mirror of a remote: a bare repository in the store that gets one commit after the other, without history.

use std::path::Path;
use std::sync::OnceLock;

use cache::addresses::Reach;
use cache::download::{DownloadError, Downloader, Request};
use cache::mirrors::Mirror;
use proto::address::redacted;
use proto::canonical;
use proto::definition::GitRemote;
use proto::record::Preimage;

use super::program::{Call, Failure, Git};
use super::remote::{self, Access, choose, is_hex, is_object};
use crate::build::Job;
use crate::request::{Blame, BuildError};

/// A remote and its mirror.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) git: Git,
    remote: GitRemote,
    /// Without password.
    address: String,
    access: Access,
    mirror: Mirror,
    /// Where the remote sends us.
    moved: OnceLock<String>,
    downloader: Downloader,
    reach: Reach,
}

/// What git asks a server for first, below the address of a repository.
const FIRST_QUESTION: &str = "/info/refs?service=git-upload-pack";

impl Repository {
    /// The mirror of `wanted`; made if there is none. `main` is the address whose login may be asked for without a host.
    pub(super) async fn open(git: &Git, wanted: &GitRemote, main: Option<&str>, job: &Job) -> Result<Self, BuildError> {
        remote::check_host(&wanted.address, crate::sources::reach(job)).await?;
        let access = Access::find(&wanted.address, main.unwrap_or(&wanted.address), job).await?;
        let address = remote::plain(&wanted.address);
        // Objects of the two kinds do not mix.
        let named = [Some(&wanted.reference), wanted.checksum.as_ref()];
        let is_sha256 = named
            .into_iter()
            .flatten()
            .any(|name| name.len() == 64 && is_object(name));
        let format = if is_sha256 { "sha256" } else { "sha1" };
        let mut preimage = Preimage::default();
        preimage.push("mirror", address.as_str());
        preimage.push("objects", format);
        let mirror = job.host.store.mirrors().take(canonical::key(&preimage)).await;
        let mirror = mirror.map_err(|error| BuildError::environment(format!("cannot make a git mirror: {error}")))?;
        let repository = Self {
            git: git.clone(),
            remote: wanted.clone(),
            address,
            access,
            mirror,
            moved: OnceLock::new(),
            downloader: job.host.sources.downloader.clone(),
            reach: crate::sources::reach(job),
        };
        let writing = repository.mirror.fetching().await;
        if !repository.path().join("HEAD").exists() {
            let arguments = ["init", "--quiet", "--bare", "--template=", "--initial-branch=main"];
            let call = Call::new(repository.path(), &arguments).arg(format!("--object-format={format}"));
            let made = repository.git.run(call).await;
            made.map_err(|failure| failure.into_error("cannot make a git mirror"))?;
        }
        drop(writing);
        Ok(repository)
    }

    /// Where the mirror is.
    pub(super) fn path(&self) -> &Path {
        self.mirror.path()
    }

    /// The address without password.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    fn shown(&self) -> String {
        redacted(&self.address)
    }

    /// The object that the reference names now.
    pub(super) async fn pin(&self) -> Result<String, BuildError> {
        let reference = self.remote.reference.clone();
        let checksum = self
            .remote
            .checksum
            .clone()
            .map(|checksum| checksum.to_ascii_lowercase());
        if let Some(checksum) = checksum.as_ref().filter(|checksum| !is_hex(checksum)) {
            let message = format!("invalid checksum {checksum} for Git URL, expected hex commit hash");
            return Err(BuildError::user(message));
        }
        if is_object(&reference) {
            let reference = reference.to_ascii_lowercase();
            return match checksum {
                Some(expected) if !reference.starts_with(&expected) => Err(mismatch(&expected, &reference)),
                _ => Ok(reference),
            };
        }
        if self.remote.by_commit {
            let checksum =
                checksum.ok_or_else(|| BuildError::user("fetch-by-commit requires a checksum or a commit SHA ref"))?;
            if !is_object(&checksum) {
                return Err(BuildError::user(format!(
                    "fetch-by-commit requires a full commit SHA checksum, got {checksum:?}"
                )));
            }
            return Ok(checksum);
        }
        let list = self.references(&reference).await?;
        let named = choose(&list, &reference).ok_or_else(|| {
            let name = if reference.is_empty() { "HEAD" } else { &reference };
            BuildError::user(format!("repository does not contain ref {name}"))
                .note(format!("the repository is `{}`", self.shown()))
        })?;
        let fits = |expected: &String| named.object.starts_with(expected) || named.commit.starts_with(expected);
        match checksum {
            Some(expected) if !fits(&expected) => {
                let found = match named.object == named.commit {
                    true => named.commit,
                    false => format!("{} or {}", named.object, named.commit),
                };
                Err(mismatch(&expected, &found))
            }
            _ => Ok(named.commit),
        }
    }

    async fn references(&self, reference: &str) -> Result<String, BuildError> {
        let wanted = if reference.is_empty() { "HEAD" } else { reference };
        let list = self.ask_remote(|address| {
            Call::new(self.path(), &["ls-remote", "--", address, wanted]).arg(format!("{wanted}^{{}}"))
        });
        let list = list
            .await
            .map_err(|failure| failure.into_error(&format!("failed to fetch remote {}", self.shown())))?;
        Ok(String::from_utf8_lossy(&list).into_owned())
    }

    /// Makes sure that `object` is in the mirror, and returns the commit that it is or names.
    pub(super) async fn fetch(&self, object: &str) -> Result<String, BuildError> {
        if let Some(commit) = self.commit(object).await {
            return Ok(commit);
        }
        let _writing = self.mirror.fetching().await;
        if let Some(commit) = self.commit(object).await {
            return Ok(commit);
        }
        let wanted = format!("+{object}:refs/rbuild/{object}");
        let first = self.fetch_with(&["--depth=1", "--no-tags"], &[&wanted]).await;
        if first.is_err() || self.commit(object).await.is_none() {
            // Some servers give only what has a name, and some do not know how to leave history out.
            let shallow = self.path().join("shallow").exists();
            let options: &[&str] = if shallow { &["--unshallow"] } else { &[] };
            let all = ["+refs/heads/*:refs/rbuild/heads/*", "+refs/tags/*:refs/rbuild/tags/*"];
            if let Err(failure) = self.fetch_with(options, &all).await {
                return Err(failure.into_error(&format!("failed to fetch remote {}", self.shown())));
            }
        }
        let found = self.commit(object).await;
        found.ok_or_else(|| {
            BuildError::new(Blame::User, format!("repository does not contain commit {object}"))
                .note(format!("the repository is `{}`", self.shown()))
        })
    }

    async fn fetch_with(&self, options: &[&str], references: &[&str]) -> Result<Vec<u8>, Failure> {
        let fixed = [
            "fetch",
            "--quiet",
            "--force",
            "--no-write-fetch-head",
            "--no-recurse-submodules",
        ];
        self.ask_remote(|address| {
            let remote = ["--", address];
            let arguments = options.iter().chain(&remote).chain(references);
            arguments.fold(Call::new(self.path(), &fixed), Call::arg)
        })
        .await
    }

    /// Runs a command on the remote, at the address that it has today. Git would follow a redirect anywhere.
    async fn ask_remote<'a>(&'a self, call: impl Fn(&str) -> Call<'a>) -> Result<Vec<u8>, Failure> {
        let here = self.moved.get().unwrap_or(&self.address);
        let outcome = self.git.run(call(here).remote(&self.access)).await;
        match outcome {
            Err(failure) if failure.is_redirect() && self.moved.get().is_none() => {
                let moved = self.locate().await.map_err(|error| Failure {
                    lines: vec![error.to_string()],
                    broken: false,
                })?;
                let moved = self.moved.get_or_init(|| moved);
                self.git.run(call(moved).remote(&self.access)).await
            }
            outcome => outcome,
        }
    }

    /// Where the address leads, with the rules for redirects of downloads.
    async fn locate(&self) -> Result<String, DownloadError> {
        let request = Request {
            url: format!("{}{FIRST_QUESTION}", self.address.trim_end_matches('/')),
            authorization: match &self.access {
                Access::Login(login) => Some(login.header().to_owned()),
                _ => None,
            },
            reach: self.reach,
            ..Request::default()
        };
        let found = self.downloader.locate(&request).await?;
        let address = found.strip_suffix(FIRST_QUESTION).map(str::to_owned);
        address.ok_or(DownloadError::Redirect {
            url: self.shown(),
            problem: "what is no repository",
        })
    }

    /// The commit that `object` is or names, if the mirror has it.
    async fn commit(&self, object: &str) -> Option<String> {
        let call = Call::new(self.path(), &["rev-parse", "--verify", "--quiet"]).arg(format!("{object}^{{commit}}"));
        // Absence is the usual reason of a failure, and any other one shows itself when the object is fetched.
        let found = self.git.run(call).await.ok()?;
        let commit = String::from_utf8(found).ok()?.trim().to_owned();
        is_object(&commit).then_some(commit)
    }

    /// Runs a command on the mirror that only reads.
    pub(super) async fn ask(&self, arguments: &[&str]) -> Result<Vec<u8>, BuildError> {
        let answer = self.git.run(Call::new(self.path(), arguments)).await;
        answer.map_err(|failure| failure.into_error(&format!("cannot read the repository {}", self.shown())))
    }

    /// When the commit was made, in seconds since 1970.
    pub(super) async fn time(&self, commit: &str) -> Result<i64, BuildError> {
        let text = self.ask(&["show", "--no-patch", "--format=%ct", commit]).await?;
        let text = String::from_utf8_lossy(&text);
        text.trim().parse().map_err(|_| {
            let what = format!("commit {commit} of {} has no time", self.shown());
            BuildError::new(Blame::Remote, what)
        })
    }
}

fn mismatch(expected: &str, found: &str) -> BuildError {
    BuildError::user(format!("expected checksum to match {expected}, got {found}"))
        .help("either the reference moved, or the checksum is that of another commit")
}
