//! What enters the keys of remote sources. The record of what was fetched lies under these keys too.

use proto::definition::{GitOp, GitTimes, HttpOp};
use proto::record::Preimage;

/// The file behind a URL: its bytes, its name and its time, never where it was. Nothing but `unknown` until it is pinned.
#[must_use]
pub fn http(op: &HttpOp) -> Preimage {
    let mut out = Preimage::default();
    out.push("op", "http");
    out.push("file name", op.file_name.as_str());
    match &op.pin {
        Some(pin) => {
            out.push("digest", pin.digest.to_string());
            out.push("modified", pin.modified.to_string());
        }
        None => out.push("digest", "unknown"),
    }
    out
}

/// The files of an archive behind a URL, as a build context.
#[must_use]
pub fn http_archive(op: &HttpOp) -> Preimage {
    let mut out = Preimage::default();
    out.push("op", "http archive");
    out.push(
        "digest",
        op.pin
            .map_or_else(|| "unknown".to_owned(), |pin| pin.digest.to_string()),
    );
    out
}

/// The files of a commit. Where the repository is, and by which name the commit was found, matters only to who keeps `.git`,
/// which says so itself.
#[must_use]
pub fn git(op: &GitOp) -> Preimage {
    let mut out = Preimage::default();
    out.push("op", "git");
    out.push("commit", op.pin.as_deref().unwrap_or("unknown"));
    out.push("directory", op.files.subdir.as_str());
    let flag = |set| if set { "yes" } else { "no" };
    out.push("submodules", flag(op.files.submodules));
    out.push(
        "times",
        match op.files.times {
            GitTimes::Commit => "commit",
            GitTimes::Checkout => "checkout",
        },
    );
    out.push("keep-git-dir", flag(op.files.keep_git_dir));
    if op.files.keep_git_dir {
        out.push("address", proto::address::split_login(&op.remote.address).1);
        out.push("reference", op.remote.reference.as_str());
    }
    out
}

#[cfg(test)]
mod tests {
    use proto::canonical;
    use proto::definition::{GitFiles, GitRemote, HttpPin};
    use proto::digest::Digest;

    use super::*;

    fn file(change: impl FnOnce(&mut HttpOp)) -> String {
        let mut op = HttpOp {
            url: "http://h/f".into(),
            file_name: "f".into(),
            checksum: None,
            pin: Some(HttpPin {
                digest: Digest::of(b"x"),
                modified: 7,
            }),
        };
        change(&mut op);
        canonical::key(&http(&op)).to_string()
    }

    fn repository(change: impl FnOnce(&mut GitOp)) -> String {
        let mut op = GitOp {
            remote: GitRemote {
                address: "https://h/r.git".into(),
                reference: "main".into(),
                checksum: None,
                by_commit: false,
            },
            files: GitFiles {
                subdir: "a".into(),
                keep_git_dir: false,
                submodules: true,
                times: GitTimes::Commit,
            },
            pin: Some("12".repeat(20)),
        };
        change(&mut op);
        canonical::key(&git(&op)).to_string()
    }

    #[test]
    fn golden_keys() {
        // A change here makes remote sources of every store cold.
        assert_eq!(
            file(|_| {}),
            "265dce6eb73b289ae0f324844353cc7fd835deac18e9fbe04cbd9e9b20487f03"
        );
        assert_eq!(
            repository(|_| {}),
            "2f27a743064925ee77f4ffb66fe043c8a157b27f10fc2a9159a9416488c3f819"
        );
    }

    #[test]
    fn a_file_is_its_bytes_name_and_time_and_not_its_address() {
        let base = file(|_| {});
        assert_eq!(base, file(|op| op.url = "https://mirror/f".into()));
        assert_eq!(base, file(|op| op.checksum = Some(Digest::of(b"x"))));
        assert_ne!(base, file(|op| op.file_name = "g".into()));
        let pinned = |digest, modified| file(move |op| op.pin = Some(HttpPin { digest, modified }));
        assert_ne!(base, pinned(Digest::of(b"y"), 7));
        assert_ne!(base, pinned(Digest::of(b"x"), 8));
    }

    #[test]
    fn files_of_git_are_a_commit_and_not_a_branch_of_some_server() {
        let base = repository(|_| {});
        let moved = |op: &mut GitOp| {
            op.remote.address = "https://mirror/r.git".into();
            op.remote.reference = "v1".into();
        };
        assert_eq!(base, repository(moved));
        assert_ne!(base, repository(|op| op.pin = Some("34".repeat(20))));
        assert_ne!(base, repository(|op| op.files.subdir = "b".into()));
        assert_ne!(base, repository(|op| op.files.submodules = false));
        assert_ne!(base, repository(|op| op.files.times = GitTimes::Checkout));
        let kept = |op: &mut GitOp| op.files.keep_git_dir = true;
        assert_ne!(base, repository(kept));
        assert_ne!(
            repository(kept),
            repository(|op| {
                kept(op);
                moved(op);
            })
        );
    }
}
