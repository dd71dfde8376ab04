//! What only exists end to end: hostile Dockerfiles, images, contexts and clients. Named after the rows of `docs/security.md`.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use proto::oci::config::{Config, ImageConfig};
use rustix::process::Signal;
use testdata::hostile::{Lie, image, plain, tar};
use testdata::machine::Need;
use testdata::web::{Page, Web};

use crate::support::build::needs;
use crate::support::damage::files_below;
use crate::support::leaks::nothing_is_left;
use crate::support::remote::{added, one, sample, tar_gz, web_of};
use crate::support::server::{end_of, send, wait_until};
use crate::support::{Outcome, Place};

/// A directory of the machine that no build may read or change.
struct Canary(PathBuf);

const SECRET: &str = "alive-and-well";

impl Canary {
    fn new(place: &Place) -> Self {
        let directory = place.work().with_file_name("canary");
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("file"), SECRET).unwrap();
        Self(directory)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// Nothing was made, changed or told, and nothing of the build is left.
    #[track_caller]
    fn is_alive(&self, place: &Place, outcome: &Outcome) {
        let names: Vec<_> = std::fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["file"]);
        assert_eq!(std::fs::read_to_string(self.0.join("file")).unwrap(), SECRET);
        assert!(!outcome.stderr.contains(SECRET), "{}", outcome.stderr);
        nothing_is_left(&place.root());
    }
}

/// An image of one layer and what lies about it, as a context called `evil`.
fn evil(place: &Place, layer: &[u8], config: Config, lie: Lie) -> String {
    let directory = place.work().with_file_name("evil");
    if directory.exists() {
        std::fs::remove_dir_all(&directory).unwrap();
    }
    let config = ImageConfig {
        architecture: if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }.to_owned(),
        os: "linux".to_owned(),
        config,
        ..ImageConfig::default()
    };
    image(&directory, layer, config, lie);
    format!("--build-context=evil=oci-layout://{}", directory.display())
}

#[test]
fn t03_t07_mounts_lead_to_nothing_of_the_machine() {
    needs!();
    let place = Place::new();
    let canary = Canary::new(&place);
    symlink("/", place.work().join("out")).unwrap();
    symlink("../canary", place.work().join("beside")).unwrap();
    let path = canary.path();
    place.dockerfile(&format!(
        "FROM base AS links\nRUN ln -s / /all && ln -s {path} /there\n\
         FROM base\n\
         RUN --mount=type=cache,id=c,target=/c ln -s {path} /c/there; ln -s /../../.. /c/up; ln -s / /c/all\n\
         RUN --mount=type=cache,id=c,target=/c --mount=type=tmpfs,target=/c/there/x cat /c/there/file /c/all{path}/file; true\n\
         RUN --mount=type=cache,id=c,source=there,target=/m ls /m; cat /m/file; true\n\
         RUN --mount=type=cache,id=new,from=links,source=/all,target=/m cat /m{path}/file; true\n\
         RUN --mount=type=bind,from=links,source=/all,target=/m cat /m{path}/file; true\n\
         RUN --mount=type=bind,source=../../..,target=/m cat /m{path}/file; true\n"
    ));
    let outcome = place.build(&["."]).exits(0);
    canary.is_alive(&place, &outcome);
    for source in ["out/canary", "beside"] {
        place.dockerfile(&format!(
            "FROM base\nRUN --mount=type=bind,source={source},target=/m cat /m/file\n"
        ));
        let outcome = place.build(&["."]).exits(1);
        canary.is_alive(&place, &outcome);
    }
}

#[test]
fn t04_mount_points_are_not_taken_back_through_links() {
    needs!();
    let place = Place::new();
    let canary = Canary::new(&place);
    // The step puts a link where the directory of its mount point was.
    place.dockerfile(&format!(
        "FROM base\nRUN mkdir -p /keep/b && echo kept > /keep/b/file\n\
         RUN --mount=type=tmpfs,target=/a/b mv /a /z; ln -s /keep /a; ln -s {} /link\n\
         RUN cat /keep/b/file && readlink /a\n",
        canary.path()
    ));
    let outcome = place.build(&["."]).exits(0);
    assert_eq!(outcome.step("readlink /a").log, "kept\n/keep\n");
    canary.is_alive(&place, &outcome);
}

#[test]
fn t09_the_id_of_a_cache_mount_is_no_path() {
    needs!();
    let place = Place::new();
    let canary = Canary::new(&place);
    for id in ["../../../canary", canary.path(), "..", ".", "a/../../b"] {
        place.dockerfile(&format!(
            "FROM base\nRUN --mount=type=cache,id={id},target=/c touch /c/made\n"
        ));
        let outcome = place.build(&["."]).exits(0);
        canary.is_alive(&place, &outcome);
    }
    let made = files_below(&place.root())
        .into_iter()
        .filter(|path| path.ends_with("made"));
    for path in made {
        assert!(path.starts_with(place.root().join("cachemounts")), "{}", path.display());
    }
}

#[test]
fn l10_no_program_of_the_machine_unpacks_for_us() {
    needs!();
    let place = Place::new();
    let canary = Canary::new(&place);
    let programs = place.work().with_file_name("programs");
    std::fs::create_dir(&programs).unwrap();
    for name in [
        "gzip", "gunzip", "unpigz", "pigz", "xz", "unxz", "bzip2", "bunzip2", "zstd", "unzstd", "tar", "sh",
    ] {
        let path = programs.join(name);
        std::fs::write(&path, format!("#!/bin/sh\ntouch {}/ran-{name}\n", canary.path())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::write(place.work().join("a.tgz"), tar_gz(&[("f", "x")])).unwrap();
    place.dockerfile("FROM scratch\nADD a.tgz /\n");
    let mut command = place.build_command(&["."]);
    command.env("PATH", &programs);
    let outcome = place.outcome(command.output().unwrap()).exits(0);
    canary.is_alive(&place, &outcome);
}

#[test]
fn l11_l12_l13_l14_images_that_lie_are_refused() {
    needs!();
    let place = Place::new();
    let canary = Canary::new(&place);
    let layer = tar(&[plain("file")]);
    place.dockerfile("FROM evil\nCOPY --from=evil /file /copy\n");
    for (lie, words) in [
        (Lie::DiffId, "but the image says"),
        (Lie::OneLayerMore, "has 1 layers, but its config names 2"),
        (Lie::Ambiguous, "a manifest and an index at once"),
        (Lie::MediaType, "calls itself"),
        (Lie::Size, "is damaged"),
        (Lie::Digest, "is damaged"),
        (Lie::Depth, "nested deeper than 64"),
        (Lie::Layers, "10000 layers, the limit is 500"),
        (Lie::LayerType, "are not supported"),
        (Lie::Path, "digest"),
        (Lie::FirstSchema, "only schema version 2"),
    ] {
        let context = evil(&place, &layer, Config::default(), lie);
        let outcome = place.build(&[context.as_str(), "."]);
        assert!(matches!(outcome.code, Some(1 | 4)), "{lie:?}: {}", outcome.stderr);
        let outcome = outcome.says(words);
        canary.is_alive(&place, &outcome);
    }
    let context = evil(&place, &layer, Config::default(), Lie::None);
    place.build(&[context.as_str(), "."]).exits(0);
}

#[test]
fn l02_l05_layers_that_lead_out_name_their_entry() {
    needs!();
    let place = Place::new();
    let canary = Canary::new(&place);
    place.dockerfile("FROM evil\nRUN [\"/none\"]\n");
    let link = testdata::hostile::symlink("out", canary.path());
    for (members, words) in [
        (vec![plain("../../canary/x")], "leaves the root"),
        (
            vec![link.clone(), testdata::hostile::hardlink("h", "out/file")],
            "hard link target",
        ),
        (
            vec![testdata::hostile::pax("GNU.sparse.size", b"4398046511104"), plain("x")],
            "sparse",
        ),
    ] {
        let context = evil(&place, &tar(&members), Config::default(), Lie::None);
        let outcome = place
            .build(&[context.as_str(), "."])
            .exits(4)
            .says(words)
            .says("sha256:");
        canary.is_alive(&place, &outcome);
    }
    let context = evil(&place, &tar(&[link, plain("out/file")]), Config::default(), Lie::None);
    let outcome = place.build(&[context.as_str(), "."]);
    canary.is_alive(&place, &outcome);
}

#[test]
fn l15_the_config_of_an_image_grants_nothing() {
    needs!();
    let place = Place::new();
    let canary = Canary::new(&place);
    let layer = tar(&[plain("file")]);
    place.dockerfile("FROM evil\nRUN [\"/file\"]\n");
    let trigger = |text: &str| Config {
        on_build: vec![text.to_owned()],
        ..Config::default()
    };
    let table = [
        (trigger("RUN --security=insecure true"), "security.insecure"),
        (trigger("RUN --network=host true"), "network.host"),
        (trigger("ONBUILD RUN true"), "ONBUILD"),
        (trigger("FROM scratch"), "FROM"),
        (trigger("WORKDIR /proc/self/fd/7"), "/proc/self/fd/7"),
        (
            Config {
                working_dir: "/proc/self/fd/7".to_owned(),
                ..Config::default()
            },
            "cannot enter working directory `/proc/self/fd/7`",
        ),
        (
            Config {
                user: "4294967296".to_owned(),
                ..Config::default()
            },
            "4294967296",
        ),
    ];
    for (config, words) in table {
        let context = evil(&place, &layer, config, Lie::None);
        let outcome = place.build(&[context.as_str(), "."]).exits(1).says(words);
        canary.is_alive(&place, &outcome);
    }
    // Labels are kept, shown without their control characters, and mean nothing.
    let mut labels = std::collections::BTreeMap::new();
    labels.insert("io.example.run\u{1b}[2J".to_owned(), "\u{1b}]0;gone\u{7}".to_owned());
    let config = Config {
        labels,
        ..Config::default()
    };
    let context = evil(&place, &layer, config, Lie::None);
    place.dockerfile("FROM evil\nLABEL a=b\n");
    let outcome = place.build(&[context.as_str(), "-t", "labelled", "."]).exits(0);
    assert!(!outcome.stderr.contains('\u{1b}'), "{:?}", outcome.stderr);
    let shown = place.run(&["--in-process", "inspect", "labelled"]);
    assert!(!shown.stdout.contains(['\u{1b}', '\u{7}']), "{:?}", shown.stdout);
}

#[test]
fn r06_a_git_server_sends_us_to_no_other_place_than_downloads_may_go() {
    needs!(Need::Git);
    let place = Place::new();
    let (_repository, _) = sample(&place);
    let (web, moved) = (web_of(&place), Web::start());
    let question = "/info/refs?service=git-upload-pack";
    let redirect = |to: String| Page {
        location: Some(to),
        ..Page::default()
    };
    moved.put(
        &format!("/old.git{question}"),
        redirect(web.url(&format!("/git/app.git{question}"))),
    );
    let entries = added(
        &place,
        &format!("FROM scratch\nADD {} /src\n", moved.url("/old.git")),
        &[],
    );
    assert_eq!(one(&entries, "src/a.txt").3, "first\n");
    for (path, to, words) in [
        (
            "/cloud.git",
            format!("http://169.254.169.254/x.git{question}"),
            "link-local",
        ),
        ("/file.git", "file:///etc".to_owned(), "not HTTP"),
        ("/page.git", web.url("/git/app.git/HEAD"), "no repository"),
    ] {
        moved.put(&format!("{path}{question}"), redirect(to));
        place.dockerfile(&format!("FROM scratch\nADD {} /src\n", moved.url(path)));
        drop(place.build(&["."]).exits(4).says(words));
    }
    nothing_is_left(&place.root());
}

#[test]
fn r06_a_repository_runs_nothing_and_reads_no_file_of_the_machine() {
    needs!(Need::Git);
    let place = Place::new();
    let canary = Canary::new(&place);
    let (repository, _) = sample(&place);
    // A filter, a link to the machine, and a submodule that is a directory of the machine.
    repository
        .write(".gitattributes", "*.txt filter=evil diff=evil merge=evil\n")
        .write(
            ".gitmodules",
            &format!(
                "[submodule \"x\"]\n\tpath = x\n\turl = file://{}\n\tupdate = !touch {}/ran\n",
                canary.path(),
                canary.path()
            ),
        );
    symlink(canary.path(), repository.directory.join("out")).unwrap();
    let commit = repository.commit();
    repository.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},x")]);
    repository.git(&["commit", "--quiet", "--message=x"]);
    let web = web_of(&place);
    let url = web.url("/git/app.git");
    place.dockerfile(&format!("FROM scratch\nADD {url} /src\n"));
    let outcome = place.build(&["."]).says("is no git remote");
    canary.is_alive(&place, &outcome);
    for subdir in ["out", "../../canary", "/etc", ".git"] {
        place.dockerfile(&format!("FROM scratch\nADD --link {url}#main:{subdir} /src\n"));
        let outcome = place.build(&["."]);
        assert_ne!(outcome.code, Some(0), "{subdir}: {}", outcome.stderr);
        canary.is_alive(&place, &outcome);
    }
    for reference in ["--upload-pack=touch x", "-o", "a..b", "@{u}", "refs/../x"] {
        place.dockerfile(&format!("FROM scratch\nADD [\"{url}#{reference}\", \"/src\"]\n"));
        let outcome = place.build(&["."]);
        assert_ne!(outcome.code, Some(0), "{reference}: {}", outcome.stderr);
        canary.is_alive(&place, &outcome);
    }
}

#[test]
fn s06_garbage_on_the_socket_ends_nothing() {
    needs!();
    let place = Place::new();
    let mut serve = place.command(&["serve"]);
    let mut process = serve.stderr(Stdio::null()).spawn().unwrap();
    let socket = place.root().join("server.sock");
    wait_until("the server answers", || {
        place.run(&["version"]).stdout.contains("server") && socket.exists() && UnixStream::connect(&socket).is_ok()
    });
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut kept = Vec::new();
    for number in 0..60_u8 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        let mut bytes = if number % 2 == 0 { preface.to_vec() } else { Vec::new() };
        match number % 5 {
            0 => bytes.extend_from_slice(&settings),
            // A frame of 16 MiB, of a type that nobody knows, on a stream that is not there.
            1 => bytes.extend_from_slice(&[0xff, 0xff, 0xff, number, 0xff, 0x7f, 0xff, 0xff, 0xff]),
            // Headers without an end.
            2 => bytes.extend_from_slice(&[0, 0, 4, 1, 0, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0xff]),
            3 => bytes.extend(std::iter::repeat_n(number, 5000)),
            _ => {}
        }
        // What the server does not want to hear it need not read.
        drop(stream.write_all(&bytes));
        if number % 3 == 0 {
            kept.push(stream);
        }
    }
    let answer = place.run(&["version"]).exits(0);
    assert!(!answer.stdout.contains("not running"), "{}", answer.stdout);
    for mut stream in kept {
        stream.set_nonblocking(true).unwrap();
        // Whatever it got is not looked at.
        drop(stream.read(&mut [0; 64]));
    }
    send(&process, Signal::TERM);
    assert!(end_of(&mut process).success());
}

#[test]
fn s09_an_export_goes_through_no_link() {
    needs!();
    let place = Place::new();
    let canary = Canary::new(&place);
    let out = place.work().join("out");
    std::fs::create_dir(&out).unwrap();
    symlink(canary.path(), out.join("etc")).unwrap();
    symlink(canary.0.join("file"), out.join("plain")).unwrap();
    place
        .file("f", "new")
        .dockerfile("FROM scratch\nCOPY f /plain\nCOPY f /etc/file\n");
    let outcome = place.build(&["--output=type=local,dest=out", "."]);
    canary.is_alive(&place, &outcome);
    let outcome = place.build(&["--output=type=tar,dest=out/plain", "."]);
    canary.is_alive(&place, &outcome);
}
