//! `--ca-bundle`: steps trust more, and images know nothing of it.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::path::Path;
use std::process::Command;

use testdata::certificate::Certificate;
use testdata::machine::Need;
use testdata::registry::{PROGRAM, Registry};

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;

const CURL: &str = "/usr/bin/curl";
/// Where curl looks unless it is told otherwise.
const PLACE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Copies a program of this machine and its libraries into the context, below `tree`.
fn take_program(place: &Place, program: &str) {
    let listed = Command::new("/usr/bin/ldd").arg(program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for path in libraries.chain([program]) {
        let target = place.work().join("tree").join(path.trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(path, target).unwrap();
    }
}

#[test]
fn steps_reach_a_server_whose_certificate_only_the_bundle_knows() {
    needs!(
        Need::Program(PROGRAM),
        Need::Program(CURL),
        Need::Program("/usr/bin/ldd")
    );
    let certificate = Certificate::new();
    let registry = Registry::start_with_tls(&certificate);
    let place = Place::new();
    take_program(&place, CURL);
    // No authority: two of one name are one too many for programs.
    place
        .file(&format!("tree{PLACE}"), "# of the image")
        .file("ca.pem", &certificate.authority);
    place.file(".dockerignore", "ca.pem");
    let url = format!("https://{}/v2/", registry.address());
    let run = |command: &str| {
        place.dockerfile(&format!("FROM base\nCOPY tree /\nRUN {command}\n"));
        place.build(&["--network=host", "--ca-bundle=ca.pem", "."])
    };
    let fetch = format!("curl --silent --show-error --fail {url}");
    place.dockerfile(&format!("FROM base\nCOPY tree /\nRUN {fetch}\n"));
    place.build(&["--network=host", "."]).exits(1).says("exit code: 77");
    // By the variables, and by the file of the image alone.
    run(&fetch).exits(0);
    run(&format!("env -u SSL_CERT_FILE -u CURL_CA_BUNDLE {fetch}")).exits(0);
    let own = "SSL_CERT_FILE=/none CURL_CA_BUNDLE=/none";
    run(&format!("env {own} {fetch}")).exits(1).says("exit code: 77");
    nothing_is_left(&place.root());
}

/// Builds with and without a bundle, and returns the paths in the last layer, which must be the same.
#[track_caller]
fn same_with_and_without(place: &Place, layer: usize) -> Vec<String> {
    let epoch = "--build-arg=SOURCE_DATE_EPOCH=1";
    let without = place.image(&[epoch, "--no-cache"]);
    let with = place.image(&[epoch, "--no-cache", "--ca-bundle=ca.pem"]);
    assert_eq!(with.paths(layer), without.paths(layer));
    assert_eq!(with.digest, without.digest);
    with.paths(layer)
}

#[test]
fn layers_are_the_same_with_and_without() {
    needs!();
    let place = Place::new();
    place
        .file("ca.pem", &Certificate::new().authority)
        .file(".dockerignore", "ca.pem");
    place.file("of-image", &Certificate::new().authority);
    let copy = format!("COPY of-image {PLACE}");
    place.dockerfile(&format!("FROM base\n{copy}\nRUN echo a > /a\n"));
    assert_eq!(same_with_and_without(&place, 2), ["a"]);
    // A package renews the file by a new one, another program adds to it.
    let renew = format!("echo renewed > {PLACE}.new && touch -d @1 {PLACE}.new && mv -f {PLACE}.new {PLACE}");
    place.dockerfile(&format!("FROM base\n{copy}\nRUN {renew}\n"));
    let layer = same_with_and_without(&place, 2);
    assert!(layer.contains(&PLACE.trim_start_matches('/').to_owned()), "{layer:?}");
    place.dockerfile(&format!(
        "FROM base\n{copy}\nRUN echo more >> {PLACE} && touch -d @1 {PLACE}\n"
    ));
    same_with_and_without(&place, 2);
    // No file, but its directory; nothing at all.
    place.dockerfile(
        "FROM base\nRUN mkdir -p /etc/ssl/certs && touch -d @1 /etc /etc/ssl /etc/ssl/certs\nRUN echo b > /b\n",
    );
    assert_eq!(same_with_and_without(&place, 2), ["b"]);
    place.dockerfile("FROM base\nRUN echo c > /c\n");
    assert_eq!(same_with_and_without(&place, 1), ["c"]);
    nothing_is_left(&place.root());
}

#[test]
fn a_bundle_is_in_no_cache_key_and_variables_of_the_step_win() {
    needs!();
    let place = Place::new();
    place
        .file("ca.pem", &Certificate::new().authority)
        .file(".dockerignore", "ca.pem");
    place.dockerfile(
        "FROM base\nENV PIP_CERT=/own\nRUN echo $PIP_CERT $GIT_SSL_CAINFO; grep -c BEGIN $GIT_SSL_CAINFO; \
         echo x >> $GIT_SSL_CAINFO || echo read-only\n",
    );
    let log = place.steps(&["--ca-bundle=ca.pem"])[0].log.clone();
    assert!(log.starts_with("/own /dev/rbuild/ca-certificates.crt\n1\n"), "{log}");
    assert!(log.ends_with("read-only\n"), "{log}");
    assert_eq!(place.steps(&[])[0].status, "CACHED");
}

#[test]
fn what_is_no_bundle_is_refused() {
    let place = Place::new();
    let certificate = Certificate::new();
    place
        .dockerfile("FROM scratch\n")
        .file("key.pem", &certificate.key)
        .file("text", "hello\n");
    let refused = |path: &str| place.run(&["build", &format!("--ca-bundle={path}"), "."]).exits(2);
    drop(refused("none").says("--ca-bundle: `none` cannot be read"));
    drop(refused("text").says("holds no certificate"));
    drop(refused("key.pem").says("holds a private key"));
    assert!(!Path::new(&place.root()).exists());
}
