//! `rbuild cp`: files out of what a step left, of a step's result, or of an image.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, PoisonError};

use proto::v1;
use proto::v1::copy_reply::Outcome;
use proto::v1::exec_client::ExecClient;
use proto::v1::exec_root::Root;

use super::args::CpArgs;
use super::{failed, session};
use crate::agent::Agents;
use crate::config::Config;
use crate::exit::{Blame, Problem};
use crate::output::Destination;
use crate::secret::Secrets;
use crate::server;
use crate::session::stream;
use crate::ui;

/// Copies.
///
/// # Errors
/// There is no such file, or no place for it.
pub(crate) async fn run(args: CpArgs, config: &Config) -> Result<(), Problem> {
    let (root, path) = source(&args.source)?;
    let (destination, name) = place(path, &args.destination, args.archive)?;
    let mut request = v1::CopyRequest {
        session_id: String::new(),
        root: Some(v1::ExecRoot {
            root: Some(Root::Any(root.to_owned())),
        }),
        path: path.as_bytes().to_vec(),
        name,
        follow: args.follow_link || path.ends_with('/'),
        platform: args.platform.unwrap_or_default(),
        insecure_registries: Vec::new(),
    };
    let remarks = server::with(config, async |connection| {
        let session = session(Secrets::default(), Agents::default(), config, connection)?;
        request.session_id.clone_from(&session.build_id);
        let open = stream::open(connection.channel.clone(), Arc::new(session), vec![destination]).await?;
        let remarks = open.remarks();
        let mut client = ExecClient::new(connection.channel.clone());
        let (mut session, mut copying) = (pin!(open.run()), pin!(client.copy(request)));
        let reply = tokio::select! {
            reply = &mut copying => reply,
            session = &mut session => {
                session?;
                copying.await
            }
        };
        match reply?.into_inner().outcome {
            Some(Outcome::Entries(_)) => Ok(remarks),
            Some(Outcome::Failure(failure)) => Err(failed(failure)),
            None => Err(Problem::new(Blame::Bug, "the build server copied without an outcome")),
        }
    })
    .await?;
    for remark in &*remarks.lock().unwrap_or_else(PoisonError::into_inner) {
        ui::remark(&format!("warning: {remark}"));
    }
    Ok(())
}

/// What is meant, and the path in it: before and after the first `:/`, or else the last colon.
fn source(text: &str) -> Result<(&str, &str), Problem> {
    let at = text.find(":/").or_else(|| text.rfind(':'));
    match at.map(|at| (&text[..at], &text[at + 1..])) {
        Some((root, path)) if !root.is_empty() && !path.is_empty() => Ok((root, path)),
        _ => Err(Problem::usage(format!("`{text}` names no path in a build or an image"))
            .help("say BUILD:/path, BUILD/STEP:/path or IMAGE:/path")),
    }
}

/// Where the archive goes, and what its top is called; no name for what is in a directory, without itself.
fn place(path: &str, destination: &str, with_owners: bool) -> Result<(Destination, Vec<u8>), Problem> {
    let own_name = match Path::new(path).components().next_back() {
        Some(Component::Normal(name)) if !path.ends_with("/.") => name.as_bytes().to_vec(),
        _ => Vec::new(),
    };
    let into = |directory: PathBuf| match with_owners {
        true => Destination::WithOwners(directory),
        false => Destination::Directory(directory),
    };
    if destination == "-" {
        return Ok((Destination::Stdout, own_name));
    }
    let place = PathBuf::from(destination);
    if place.is_dir() {
        return Ok((into(place), own_name));
    }
    if own_name.is_empty() {
        return Ok((into(place), own_name));
    }
    let is_file_name = !destination.ends_with('/');
    match (place.parent(), place.file_name()) {
        (Some(parent), Some(name)) if is_file_name => {
            let parent = match parent.as_os_str().is_empty() {
                true => PathBuf::from("."),
                false => parent.to_owned(),
            };
            if !parent.is_dir() {
                return Err(Problem::usage(format!("`{}` is no directory", parent.display())));
            }
            Ok((into(parent), name.as_bytes().to_vec()))
        }
        _ => Err(Problem::usage(format!("`{destination}` is no directory"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_behind_the_first_colon_with_a_slash() {
        let check = |text: &str, root: &str, path: &str| assert_eq!(source(text).unwrap(), (root, path));
        check("latest:/etc", "latest", "/etc");
        check("0123abcd/7:/a:/b", "0123abcd/7", "/a:/b");
        check(
            "registry.example:5000/app:1:/etc/x",
            "registry.example:5000/app:1",
            "/etc/x",
        );
        check("app:etc", "app", "etc");
        for text in ["app", ":/etc", "app:"] {
            assert_eq!(source(text).unwrap_err().blame, Blame::Usage, "{text}");
        }
    }

    #[test]
    fn the_destination_says_where_files_go_and_what_they_are_called() {
        let there = tempfile::tempdir().unwrap();
        let dir = there.path().to_str().unwrap();
        let check = |path: &str, destination: &str, expected: &str, name: &str| {
            let expected = Destination::Directory(expected.into());
            let place = place(path, destination, false).unwrap();
            assert_eq!(place, (expected, name.as_bytes().to_vec()), "{path} {destination}");
        };
        check("/a/b", dir, dir, "b");
        check("/a/b", &format!("{dir}/new"), dir, "new");
        check("/a/.", dir, dir, "");
        check("/a/.", &format!("{dir}/new"), &format!("{dir}/new"), "");
        check("/", dir, dir, "");
        check("/a/b", "new", ".", "new");
        assert_eq!(place("/a/b", "-", true).unwrap(), (Destination::Stdout, b"b".to_vec()));
        assert!(place("/a/b", &format!("{dir}/new/"), false).is_err());
        assert!(place("/a/b", &format!("{dir}/none/new"), false).is_err());
        let owners = place("/a/b", dir, true).unwrap().0;
        assert_eq!(owners, Destination::WithOwners(dir.into()));
    }
}
