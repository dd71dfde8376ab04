//! `ADD` from web servers and git repositories.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use testdata::machine::Need;
use testdata::web::{Page, Web};

use crate::support::Place;
use crate::support::agent::{AGENT, Agent};
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;
use crate::support::remote::{Repository, added, files_with, one, page, sample, tar_gz, web_of};
use crate::support::server::{end_of, send, wait_until};
use crate::support::sshd::{SSHD, Sshd};

#[test]
fn a_file_behind_a_url_is_fetched_once_and_then_only_asked_for() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    web.put("/a/data.txt", page("one"));
    let dockerfile = format!("FROM scratch\nADD {} /srv/\n", web.url("/a/data.txt?x=1"));
    web.put("/a/data.txt?x=1", page("one"));
    let first = added(&place, &dockerfile, &[]);
    assert_eq!(one(&first, "srv/data.txt"), (0o600, 0, 784_111_777, "one".to_owned()));
    assert_eq!(web.log(), ["/a/data.txt?x=1 200"]);
    let again = place.build(&["."]).exits(0);
    assert_eq!(again.summary().matches("CACHED").count(), 1, "{}", again.stderr);
    assert_eq!(web.log(), ["/a/data.txt?x=1 304"]);
    // Other bytes under the same name.
    let mut changed = page("two");
    changed.etag = Some("\"2\"");
    web.put("/a/data.txt?x=1", changed);
    let second = added(&place, &dockerfile, &[]);
    assert_eq!(one(&second, "srv/data.txt").3, "two");
}

#[test]
fn the_same_file_from_another_server_is_a_hit() {
    needs!();
    let (place, one, two) = (Place::new(), Web::start(), Web::start());
    for web in [&one, &two] {
        web.put("/f", page("same"));
    }
    place.dockerfile(&format!("FROM scratch\nADD {} /\n", one.url("/f")));
    assert_eq!(place.steps(&[])[0].status, "DONE");
    place.dockerfile(&format!("FROM scratch\nADD {} /\n", two.url("/f")));
    assert_eq!(place.steps(&[])[0].status, "CACHED");
}

#[test]
fn destinations_decide_names_and_options_apply() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    web.put("/", page("root"));
    web.put("/b%5B1%5D", page("odd"));
    let dockerfile = format!(
        "FROM scratch\nADD --chmod=755 --chown=7:8 {} {} local /dir/\nADD {} /plain\n",
        web.url("/"),
        web.url("/b%5B1%5D"),
        web.url("/"),
    );
    place.file("local", "here");
    let first = added(&place, &dockerfile, &[]);
    assert_eq!(one(&first, "dir/__unnamed__").0, 0o755);
    assert_eq!(one(&first, "dir/b[1]"), (0o755, 7, 784_111_777, "odd".to_owned()));
    assert_eq!(one(&first, "dir/local").3, "here");
    let second = place.image(&[]).layer(1);
    assert_eq!(one(&second, "plain").3, "root");
}

#[test]
fn checksums_are_compared_and_spare_the_question() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    web.put("/f", page("x"));
    let url = web.url("/f");
    // printf x | sha256sum
    let sum = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    let good = format!("FROM scratch\nARG SUM={sum}\nADD --checksum=$SUM {url} /\n");
    place.dockerfile(&good);
    assert_eq!(place.steps(&[])[0].status, "DONE");
    assert_eq!(web.log().len(), 1);
    assert_eq!(place.steps(&[])[0].status, "CACHED");
    assert!(web.log().is_empty());
    let bad = format!("sha256:{}", "0".repeat(64));
    place.dockerfile(&format!("FROM scratch\nADD --checksum={bad} {url} /\n"));
    let failed = place.build(&["."]).exits(1).says("digest mismatch for");
    assert!(failed.stderr.contains("Dockerfile:2"), "{}", failed.stderr);
}

#[test]
fn archives_behind_urls_stay_packed_unless_asked_for() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    let mut page = page("");
    page.body = tar_gz(&[("in/side", "packed")]);
    web.put("/a.tgz", page);
    let url = web.url("/a.tgz");
    let packed = added(&place, &format!("FROM scratch\nADD {url} /x/\n"), &[]);
    assert!(packed.iter().any(|entry| entry.path == "x/a.tgz"));
    let unpacked = added(&place, &format!("FROM scratch\nADD --unpack=true {url} /x/\n"), &[]);
    assert_eq!(one(&unpacked, "x/in/side").3, "packed");
}

#[test]
fn servers_that_refuse_and_redirects_that_lead_astray_fail_the_build() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    let redirect = |location: &str| Page {
        location: Some(location.to_owned()),
        ..Page::default()
    };
    web.put("/f", page("found"));
    web.put("/good", redirect("/f"));
    web.put("/file", redirect("file:///etc/passwd"));
    web.put("/cloud", redirect("http://169.254.169.254/latest"));
    web.put("/loop", redirect("/loop"));
    let build = |path: &str| {
        place.dockerfile(&format!("FROM scratch\nADD {} /\n", web.url(path)));
        place.build(&["."])
    };
    drop(build("/none").exits(4).says("invalid response status 404"));
    drop(build("/file").exits(4).says("leads to an address that is not HTTP"));
    drop(build("/cloud").exits(1).says("link-local"));
    drop(build("/loop").exits(4).says("leads to itself in circles"));
    drop(build("/good").exits(0));
}

#[test]
fn logins_for_web_servers_are_secrets_and_never_shown() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    let locked = |login| Page {
        login: Some(login),
        ..page("private")
    };
    web.put("/token", locked("Bearer s3cret"));
    web.put("/header", locked("Token s3cret"));
    web.put("/basic", locked("Basic bWU6czNjcmV0"));
    place.file("secret", "s3cret\n").file("whole", "Token s3cret");
    let build = |url: &str, secrets: &[&str]| {
        place.dockerfile(&format!("FROM scratch\nADD {url} /\n"));
        let mut arguments = secrets.to_vec();
        arguments.push(".");
        place.build(&arguments)
    };
    let host = web.address();
    drop(
        build(&web.url("/token"), &[])
            .exits(4)
            .says(&format!("HTTP_AUTH_TOKEN_{host}")),
    );
    let token = format!("--secret=id=HTTP_AUTH_TOKEN_{host},src=secret");
    drop(build(&web.url("/token"), &[&token]).exits(0));
    let header = format!("--secret=id=HTTP_AUTH_HEADER_{host},src=whole");
    drop(build(&web.url("/header"), &[&header]).exits(0));
    drop(build(&format!("http://me:s3cret@{host}/basic"), &[]).exits(0));
    let failed = build(&format!("http://me:s3cret@{host}/none?key=s3cret"), &[]).exits(4);
    let told: Vec<&str> = failed.stderr.lines().filter(|line| line.contains("error")).collect();
    assert!(told.iter().all(|line| !line.contains("s3cret")), "{told:?}");
}

#[test]
fn a_broken_transfer_begins_anew() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    web.put(
        "/f",
        Page {
            cuts: 2,
            ..page("all of it")
        },
    );
    let entries = added(&place, &format!("FROM scratch\nADD {} /\n", web.url("/f")), &[]);
    assert_eq!(one(&entries, "f").3, "all of it");
    assert_eq!(web.log().len(), 3);
}

#[test]
fn a_fetch_that_is_cancelled_leaves_nothing() {
    needs!(Need::Git);
    let (place, web) = (Place::new(), Web::start());
    let hangs = Page {
        hangs: true,
        ..Page::default()
    };
    web.put("/f", hangs.clone());
    web.put("/r.git/info/refs", hangs);
    place.dockerfile(&format!(
        "FROM scratch\nADD {} {} /x/\n",
        web.url("/f"),
        web.url("/r.git")
    ));
    let mut child = place.build_command(&["."]).stderr(Stdio::null()).spawn().unwrap();
    wait_until("both are asked", || web.hanging() == 2);
    send(&child, Signal::INT);
    assert_eq!(end_of(&mut child).code(), Some(130));
    nothing_is_left(&place.root());
}

#[test]
fn logins_in_addresses_are_in_no_image_and_no_progress() {
    needs!();
    let (place, web) = (Place::new(), Web::start());
    web.put("/f", page("x"));
    place.dockerfile(&format!("FROM scratch\nADD http://me:s3cret@{}/f /\n", web.address()));
    let built = place.build(&["."]).exits(0);
    assert!(!built.stderr.contains("s3cret"), "{}", built.stderr);
    let image = place.image(&[]);
    assert_eq!(
        image.config.history[0].created_by,
        format!("ADD {} / # buildkit", web.url("/f"))
    );
}

#[test]
fn fetched_bytes_that_vanish_from_the_store_are_fetched_again() {
    needs!(Need::Git);
    let place = Place::new();
    let (_repository, _) = sample(&place);
    let web = web_of(&place);
    web.put("/f", page("x"));
    let dockerfile = |dest: &str| {
        let (file, repository) = (web.url("/f"), web.url("/git/app.git"));
        format!("FROM scratch\nADD {file} {dest}/\nADD {repository} {dest}\n")
    };
    drop(added(&place, &dockerfile("/one"), &[]));
    for directory in ["blobs", "snapshots", "mirrors"] {
        std::fs::remove_dir_all(place.root().join(directory)).unwrap();
        std::fs::create_dir(place.root().join(directory)).unwrap();
    }
    place.dockerfile(&dockerfile("/two"));
    let image = place.image(&[]);
    assert_eq!(one(&image.layer(0), "two/f").3, "x");
    assert_eq!(one(&image.layer(1), "two/a.txt").3, "first\n");
}

#[test]
fn a_repository_is_added_as_its_files() {
    needs!(Need::Git);
    let place = Place::new();
    let (_repository, _) = sample(&place);
    let web = web_of(&place);
    let url = web.url("/git/app.git");
    let entries = added(&place, &format!("FROM scratch\nADD {url} /src\n"), &[]);
    assert_eq!(
        one(&entries, "src/a.txt"),
        (0o644, 0, 1_000_000_000, "first\n".to_owned())
    );
    assert_eq!(one(&entries, "src/tool").0, 0o755);
    assert_eq!(one(&entries, "src/run.bat").3, "echo\r\n");
    assert!(entries.iter().any(|entry| entry.path == "src/link"));
    assert!(!entries.iter().any(|entry| entry.path.contains(".git/")), "{entries:?}");
    let below = added(&place, &format!("FROM scratch\nADD {url}#v1:sub /src/\n"), &[]);
    assert_eq!(one(&below, "src/b.txt").3, "below\n");
    assert!(!below.iter().any(|entry| entry.path.contains("a.txt")), "{below:?}");
    // Everything there is known: one question for the name, no fetch.
    drop(web.seen());
    let again = place.build(&["."]).exits(0);
    assert_eq!(again.steps()[0].status, "CACHED");
    let asked = web.log();
    assert!(
        asked.iter().all(|line| !line.contains("POST")) && asked.len() <= 2,
        "{asked:?}"
    );
}

#[test]
fn only_what_is_new_is_fetched_and_unchanged_files_are_hits() {
    needs!(Need::Git);
    let place = Place::new();
    let (repository, first) = sample(&place);
    let web = web_of(&place);
    let url = web.url("/git/app.git");
    place.dockerfile(&format!("FROM scratch\nADD {url}#main:sub /sub\nADD {url}#main /all\n"));
    drop(place.build(&["."]).exits(0));
    repository.write("a.txt", "second\n");
    repository.commit();
    let second = place.build(&["."]).exits(0);
    let status: Vec<String> = second.steps().into_iter().map(|step| step.status).collect();
    assert_eq!(status, ["CACHED", "DONE"]);
    // A commit that no branch names any more still can be had by its name.
    let old = added(&place, &format!("FROM scratch\nADD {url}#{first} /\n"), &[]);
    assert_eq!(one(&old, "a.txt").3, "first\n");
    let checked = format!("FROM scratch\nADD --checksum={first} {url}#v1 /\n");
    assert_eq!(one(&added(&place, &checked, &[]), "a.txt").3, "first\n");
    place.dockerfile(&format!("FROM scratch\nADD --checksum={first} {url} /\n"));
    drop(
        place
            .build(&["."])
            .exits(1)
            .says(&format!("expected checksum to match {first}")),
    );
    place.dockerfile(&format!("FROM scratch\nADD {url}#nothing /\n"));
    drop(
        place
            .build(&["."])
            .exits(1)
            .says("repository does not contain ref nothing"),
    );
    place.dockerfile(&format!("FROM scratch\nADD {url}#main:link /\n"));
    drop(place.build(&["."]).exits(1).says("subdir not found link"));
}

#[test]
fn the_repository_is_kept_on_request_and_is_the_same_every_time() {
    needs!(Need::Git);
    let (place, other) = (Place::new(), Place::new());
    let (_repository, commit) = sample(&place);
    let web = web_of(&place);
    let dockerfile = format!(
        "FROM scratch\nADD --keep-git-dir=true {}#main /\n",
        web.url("/git/app.git")
    );
    let entries = added(&place, &dockerfile, &[]);
    assert_eq!(one(&entries, ".git/HEAD").3.trim(), commit);
    assert_eq!(one(&entries, ".git/refs/heads/main").3.trim(), commit);
    assert!(one(&entries, ".git/config").3.contains(&web.url("/git/app.git")));
    assert!(entries == added(&other, &dockerfile, &[]), "two machines");
    // Git itself agrees that nothing was changed.
    let out = place.work().join("out");
    drop(place.build(&["-o", out.to_str().unwrap(), "."]).exits(0));
    let status = place.other(
        "git",
        &[
            "-C",
            out.to_str().unwrap(),
            "-c",
            "safe.directory=*",
            "status",
            "--porcelain",
        ],
    );
    assert_eq!(String::from_utf8(status).unwrap(), "");
}

#[test]
fn submodules_are_filled_unless_they_are_not_wanted() {
    needs!(Need::Git);
    let place = Place::new();
    let (_library, _) = sample(&place);
    let app = Repository::new(&place, "main.git");
    let web = web_of(&place);
    app.git(&[
        "submodule",
        "--quiet",
        "add",
        place.work().join("git/app.git").to_str().unwrap(),
        "lib/app",
    ]);
    app.git(&["config", "--file", ".gitmodules", "submodule.lib/app.url", "../app.git"]);
    app.write("top", "x").commit();
    let url = web.url("/git/main.git");
    let filled = added(&place, &format!("FROM scratch\nADD {url} /\n"), &[]);
    assert_eq!(one(&filled, "lib/app/sub/b.txt").3, "below\n");
    let empty = added(&place, &format!("FROM scratch\nADD {url}?submodules=false /\n"), &[]);
    assert!(!empty.iter().any(|entry| entry.path.contains("b.txt")), "{empty:?}");
    app.git(&["config", "--file", ".gitmodules", "submodule.lib/app.url", "/etc"]);
    app.commit();
    place.dockerfile(&format!("FROM scratch\nADD {url} /\n"));
    drop(place.build(&["."]).exits(1).says("`/etc` is no git remote"));
}

#[test]
fn a_server_that_knows_nothing_of_git_serves_repositories_too() {
    needs!(Need::Git);
    let place = Place::new();
    let (repository, _) = sample(&place);
    repository.git(&["update-server-info"]);
    let web = Web::start();
    let link = place.work().join("plain");
    std::fs::create_dir(&link).unwrap();
    std::os::unix::fs::symlink(repository.directory.join(".git"), link.join("app.git")).unwrap();
    web.serve_files(&link);
    let entries = added(
        &place,
        &format!("FROM scratch\nADD {}#v1 /\n", web.url("/files/app.git")),
        &[],
    );
    assert_eq!(one(&entries, "a.txt").3, "first\n");
}

#[test]
fn logins_for_git_are_secrets() {
    needs!(Need::Git);
    let place = Place::new();
    let (_repository, _) = sample(&place);
    let web = Web::start();
    // printf x-access-token:s3cret | base64
    web.serve_git(&place.work().join("git"), Some("Basic eC1hY2Nlc3MtdG9rZW46czNjcmV0"));
    place
        .file("token", "s3cret\n")
        .dockerfile(&format!("FROM scratch\nADD {} /\n", web.url("/git/app.git")));
    drop(place.build(&["."]).exits(4).says("GIT_AUTH_TOKEN"));
    drop(place.build(&["--secret=id=GIT_AUTH_TOKEN,src=token", "."]).exits(0));
    let named = format!("--secret=id=GIT_AUTH_TOKEN.{},src=token", web.address());
    drop(place.build(&["--no-cache", &named, "."]).exits(0));
    drop(
        place
            .build(&["--secret=id=GIT_AUTH_TOKEN.else.example,src=token", "."])
            .exits(4),
    );
    for secret in ["s3cret", "eC1hY2Nlc3MtdG9rZW46"] {
        assert_eq!(files_with(&place.root(), secret.as_bytes()), Vec::<PathBuf>::new());
    }
}

#[test]
fn repositories_over_ssh_need_an_agent_and_a_host_that_stays_the_same() {
    needs!(Need::Git, AGENT, SSHD);
    let place = Place::new();
    let (repository, commit) = sample(&place);
    let agent = Agent::new(&place.work());
    let mut sshd = Sshd::start(&place.work().join("sshd"), &agent.public_key);
    let url = sshd.url(&repository.directory);
    let ssh = agent.flag("default");
    place.dockerfile(&format!("FROM scratch\nADD {url}#v1 /\n"));
    drop(
        place
            .build(&["."])
            .exits(1)
            .says("which needs an SSH agent")
            .says("--ssh default"),
    );
    drop(place.build(&[&ssh, "."]).exits(0));
    assert_eq!(one(&place.image(&[&ssh]).layer(0), "a.txt").3, "first\n");
    // A key that nobody knows.
    let other = place.work().join("other");
    std::fs::create_dir(&other).unwrap();
    let stranger = Agent::new(&other);
    let refused = place.build(&[&stranger.flag("default"), "."]);
    drop(refused.exits(4).says("Permission denied").says("`ssh-add -l`"));
    // Somebody in between.
    sshd.change_host_key();
    let changed = place.build(&[&ssh, "."]);
    drop(
        changed
            .exits(4)
            .says("Host key verification failed")
            .says("GIT_KNOWN_HOSTS"),
    );
    // The user knows better, and then nobody else is believed.
    place.file("known", &sshd.known_host());
    let known = "--secret=id=GIT_KNOWN_HOSTS,src=known";
    drop(place.build(&[&ssh, known, "."]).exits(0));
    sshd.change_host_key();
    drop(place.build(&[&ssh, known, "."]).exits(4));
    // A commit that is there needs no host.
    place.dockerfile(&format!("FROM scratch\nADD {url}#{commit} /\n"));
    drop(place.build(&[&ssh, "."]).exits(0));
    place.end_server();
    nothing_is_left(&place.root());
}

#[test]
fn a_context_over_ssh_takes_the_agent_of_the_user() {
    needs!(Need::Git, AGENT, SSHD);
    let place = Place::new();
    let (repository, _) = sample(&place);
    repository.write("Dockerfile", "FROM scratch\nCOPY a.txt /\n").commit();
    let inner = Repository::new(&place, "outer.git");
    inner.write("Dockerfile", "FROM scratch\nCOPY app /\n");
    inner.git(&[
        "submodule",
        "--quiet",
        "add",
        repository.directory.to_str().unwrap(),
        "app",
    ]);
    inner.git(&["config", "--file=.gitmodules", "submodule.app.url", "../app.git"]);
    inner.commit();
    let agent = Agent::new(&place.work());
    let sshd = Sshd::start(&place.work().join("sshd"), &agent.public_key);
    for (directory, file) in [(&repository.directory, "a.txt"), (&inner.directory, "sub/b.txt")] {
        let url = sshd.url(directory);
        let mut build = place.command(&["build", "--output=type=tar,dest=out.tar", &url]);
        build.env("SSH_AUTH_SOCK", &agent.socket);
        drop(place.outcome(build.output().unwrap()).exits(0));
        let list = place.other("tar", &["-tf", "out.tar"]);
        assert!(String::from_utf8(list).unwrap().contains(file), "{url}");
    }
}

#[test]
fn remotes_that_are_no_network_addresses_are_refused() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM scratch\nADD git@h.example:a.git /\n");
    drop(place.build(&["."]).exits(1).says("`--ssh default`"));
    // Not taken for a repository at all: a file of the context of that name.
    place.dockerfile("FROM scratch\nADD file:///etc/passwd /\n");
    drop(place.build(&["."]).exits(1).says("is not in the build context"));
}

#[test]
fn what_was_fetched_is_collected_and_fetched_again() {
    needs!(Need::Git);
    let place = Place::new();
    let (_repository, _) = sample(&place);
    let web = web_of(&place);
    web.put("/f", page("x"));
    let dockerfile = format!(
        "FROM scratch\nADD {} /\nADD {} /r\n",
        web.url("/f"),
        web.url("/git/app.git")
    );
    let before = added(&place, &dockerfile, &[]);
    let count = |directory: &Path| std::fs::read_dir(directory).map_or(0, Iterator::count);
    assert_eq!(count(&place.root().join("mirrors")), 1);
    drop(place.run(&["prune", "--all", "--in-process"]).exits(0));
    assert_eq!(count(&place.root().join("mirrors")), 0);
    assert_eq!(added(&place, &dockerfile, &[]), before);
}
