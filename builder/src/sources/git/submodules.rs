//! Submodules: each a commit of another repository, checked out in its place, and so on below it.

use std::collections::HashMap;
use std::path::PathBuf;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proto::definition::{GitFiles, GitRemote, GitTimes};
use proto::tree::RelPath;

use super::mirror::Repository;
use super::{checkout, remote};
use crate::build::Job;
use crate::layers::to_path;
use crate::request::{Blame, BuildError};

/// Repositories inside each other. A repository may hold itself; only a commit cannot.
const DEPTH: usize = 32;
/// Submodules of one repository.
const COUNT: usize = 10_000;

/// Where the files of a repository are.
#[derive(Debug, Clone)]
pub(super) struct At {
    /// The top of its files.
    pub(super) directory: PathBuf,
    /// Only what is below it is there.
    pub(super) subdir: String,
    /// The address that the user gave: a login without a host is for its host.
    pub(super) main: String,
}

/// Fills the submodules of `commit`.
pub(super) async fn fill(repository: &Repository, commit: &str, at: &At, job: &Job) -> Result<(), BuildError> {
    fill_at(repository, commit, at, job, 0).await
}

fn fill_at<'a>(
    repository: &'a Repository,
    commit: &'a str,
    at: &'a At,
    job: &'a Job,
    depth: usize,
) -> BoxFuture<'a, Result<(), BuildError>> {
    async move {
        let links = links(repository, commit, &at.subdir).await?;
        if links.is_empty() {
            return Ok(());
        }
        let Some(urls) = urls(repository, commit).await? else {
            // Without a list nobody can know where they are; git leaves them empty too.
            return Ok(());
        };
        if depth == DEPTH || links.len() > COUNT {
            let what = format!("`{}` has too many submodules", repository.address());
            return Err(BuildError::new(Blame::Remote, what).note(format!(
                "the limits are {COUNT} in one repository, and {DEPTH} inside each other"
            )));
        }
        for (path, object) in links {
            let url = urls.get(path.as_bytes()).ok_or_else(|| {
                let what = format!("no url found for submodule path '{path}' in .gitmodules");
                BuildError::new(Blame::Remote, what).help("`submodules=false` leaves submodules out")
            })?;
            let address = resolve(repository.address(), url).ok_or_else(|| {
                BuildError::new(Blame::Remote, format!("the submodule `{path}` has no usable address"))
            })?;
            one((&address, &object), &path, (repository, at), job, depth).await?;
        }
        Ok(())
    }
    .boxed()
}

async fn one(
    (address, object): (&str, &str),
    path: &RelPath,
    (above, at): (&Repository, &At),
    job: &Job,
    depth: usize,
) -> Result<(), BuildError> {
    let in_submodule = |error: BuildError| error.note(format!("in the submodule `{path}` of `{}`", above.address()));
    remote::refuse(address).map_err(in_submodule)?;
    // Git made an empty directory for it, and no link is on the way.
    drop(checkout::open(&at.directory, path)?);
    let directory = at.directory.join(to_path(path));
    let wanted = GitRemote {
        address: address.to_owned(),
        reference: object.to_owned(),
        checksum: None,
        by_commit: false,
    };
    let repository = Repository::open(&above.git, &wanted, Some(&at.main), job)
        .await
        .map_err(in_submodule)?;
    let commit = repository.fetch(object).await.map_err(in_submodule)?;
    let all = GitFiles {
        subdir: String::new(),
        keep_git_dir: false,
        submodules: true,
        times: GitTimes::default(),
    };
    let index = tempfile::Builder::new()
        .prefix("index-")
        .tempdir_in(job.host.store.tmp_dir());
    let index =
        index.map_err(|error| BuildError::environment(format!("cannot make a temporary directory: {error}")))?;
    let index_file = index.path().join("index");
    let files = checkout::files(&repository, &commit, &all, &directory, &index_file);
    files.await.map_err(in_submodule)?;
    let inside = At {
        directory,
        subdir: String::new(),
        main: at.main.clone(),
    };
    fill_at(&repository, &commit, &inside, job, depth + 1).await
}

/// The submodules of a commit below `subdir`: where, and which commit.
async fn links(repository: &Repository, commit: &str, subdir: &str) -> Result<Vec<(RelPath, String)>, BuildError> {
    let list = repository.ask(&["ls-tree", "-r", "-z", "--full-tree", commit]).await?;
    let below = RelPath::clean(subdir.as_bytes());
    let mut links = Vec::new();
    for line in list.split(|byte| *byte == 0) {
        let Some(tab) = line.iter().position(|byte| *byte == b'\t') else {
            continue;
        };
        let facts = String::from_utf8_lossy(&line[..tab]).into_owned();
        let Some(object) = facts.strip_prefix("160000 commit ") else {
            continue;
        };
        let path = RelPath::parse(&line[tab + 1..]);
        let path = path.map_err(|error| BuildError::new(Blame::Remote, format!("a submodule: {error}")))?;
        if path.below(&below).is_some() && remote::is_object(object) {
            links.push((path, object.to_owned()));
        }
    }
    Ok(links)
}

/// The addresses of submodules by path, as `.gitmodules` has them; nothing if there is no such file.
async fn urls(repository: &Repository, commit: &str) -> Result<Option<HashMap<Vec<u8>, String>>, BuildError> {
    let there = repository
        .ask(&["ls-tree", "-z", "--full-tree", commit, "--", ".gitmodules"])
        .await?;
    if !there.starts_with(b"100") {
        return Ok(None);
    }
    let blob = format!("{commit}:.gitmodules");
    let list = repository.ask(&["config", "--null", "--blob", &blob, "--list"]).await?;
    Ok(Some(by_path(&list)))
}

/// Joins the paths and addresses of `git config --null --list`.
fn by_path(list: &[u8]) -> HashMap<Vec<u8>, String> {
    let mut modules: HashMap<Vec<u8>, (Vec<u8>, String)> = HashMap::new();
    for entry in list.split(|byte| *byte == 0) {
        let Some(newline) = entry.iter().position(|byte| *byte == b'\n') else {
            continue;
        };
        let (key, value) = (&entry[..newline], &entry[newline + 1..]);
        let Some(key) = key.strip_prefix(b"submodule.") else {
            continue;
        };
        if let Some(name) = key.strip_suffix(b".path") {
            modules.entry(name.to_owned()).or_default().0 = value.to_owned();
        } else if let Some(name) = key.strip_suffix(b".url") {
            modules.entry(name.to_owned()).or_default().1 = String::from_utf8_lossy(value).into_owned();
        }
    }
    let complete = modules
        .into_values()
        .filter(|(path, url)| !path.is_empty() && !url.is_empty());
    complete
        .map(|(path, url)| (RelPath::clean(&path).as_bytes().to_owned(), url))
        .collect()
}

/// The address `url` as it is meant in a repository at `base`: `../other.git` is beside it.
fn resolve(base: &str, url: &str) -> Option<String> {
    if !(url.starts_with("./") || url.starts_with("../")) {
        return Some(url.to_owned());
    }
    let (host, path) = match base.split_once("://") {
        Some((scheme, rest)) => base.split_at(scheme.len() + "://".len() + rest.find('/')?),
        None => base.split_at(base.find(':')? + 1),
    };
    // `user@host:path` may lead to the home of the user, a URL leads to the root.
    let root = if path.starts_with('/') { "/" } else { "" };
    let path = path.trim_matches('/');
    let mut components: Vec<&str> = path.split('/').collect();
    for component in url.split('/') {
        match component {
            "" | "." => {}
            ".." => drop(components.pop()?),
            name => components.push(name),
        }
    }
    Some(format!("{host}{root}{}", components.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_addresses_stay_on_their_host() {
        for (url, expected) in [
            ("../other.git", Some("https://h:1/team/other.git")),
            ("./inside.git", Some("https://h:1/team/app.git/inside.git")),
            ("../../other/x", Some("https://h:1/other/x")),
            ("../../../x", None),
            ("https://else/x.git", Some("https://else/x.git")),
        ] {
            assert_eq!(resolve("https://h:1/team/app.git", url).as_deref(), expected, "{url}");
        }
        for (base, expected) in [
            ("git@h:team/app.git", "git@h:team/other.git"),
            ("git@h:/team/app.git", "git@h:/team/other.git"),
            ("git@h:app.git", "git@h:other.git"),
            ("ssh://git@h/app.git", "ssh://git@h/other.git"),
        ] {
            assert_eq!(resolve(base, "../other.git").as_deref(), Some(expected), "{base}");
        }
    }

    #[test]
    fn modules_are_found_by_path() {
        let list =
            b"submodule.a.b.path\nlib/x\0submodule.a.b.url\nhttps://h/x.git\0submodule.half.path\ny\0core.x\n1\0";
        let found = by_path(list);
        assert_eq!(found.len(), 1);
        assert_eq!(found[&b"lib/x"[..]], "https://h/x.git");
    }
}
