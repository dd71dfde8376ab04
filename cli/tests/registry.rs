//! Registries: push, pull, logins, and what goes wrong there.

use testdata::image::{Image, busybox};
use testdata::machine::Need;
use testdata::registry::{PASSWORD, PROGRAM, Registry, USER};

use crate::support::build::needs;
use crate::support::{Outcome, Place};

const SKOPEO: Need = Need::Program("/usr/bin/skopeo");
const REGISTRY: Need = Need::Program(PROGRAM);

fn place() -> Place {
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo made > /made\nENV A=b\n");
    place
}

/// A command that needs a store but no server beside it.
fn run(place: &Place, words: &[&str]) -> Outcome {
    let mut all = vec!["--in-process"];
    all.extend_from_slice(words);
    place.run(&all)
}

#[test]
fn what_is_pushed_is_read_back_by_others_and_pushed_only_once() {
    needs!(SKOPEO, REGISTRY);
    let (place, registry) = (place(), Registry::start());
    let name = registry.name("team/app:1");
    let pushed = place.build(&["-t", &name, "--push", "."]).exits(0);
    let remote = format!("docker://{name}");
    let raw = place.other("/usr/bin/skopeo", &["inspect", "--tls-verify=false", "--raw", &remote]);
    assert_eq!(proto::digest::Digest::of(&raw).to_string(), pushed.digest());
    let manifest: proto::oci::Manifest = serde_json::from_slice(&raw).unwrap();
    assert_eq!(manifest.layers.len(), 2);
    place.other(
        "/usr/bin/skopeo",
        &["copy", "--src-tls-verify=false", &remote, "oci:copied:1"],
    );
    assert_eq!(Image::read(&place.work().join("copied")).paths(1), ["made"]);

    let again = place.build(&["-t", &name, "--push", "."]).exits(0);
    assert_eq!(again.digest(), pushed.digest());
    let existing = again.stderr.matches(" already exists").count();
    assert_eq!(existing, 2, "{}", again.stderr);
}

#[test]
fn a_base_of_the_store_that_is_damaged_is_found_in_its_registry() {
    needs!(REGISTRY);
    let (place, registry) = (Place::new(), Registry::start());
    let base = registry.name("base:1");
    place.file("data", &"data\n".repeat(1000));
    place.dockerfile("FROM scratch\nCOPY data /\n");
    drop(place.build(&["-t", &base, "--push", "."]).exits(0));
    place.dockerfile(&format!("FROM {base}\nCOPY Dockerfile /d\n"));
    let before = place.image(&[]);
    place.damage_files("blobs");
    let after = place.image(&[]);
    assert_eq!(after.layer(0), before.layer(0));
    assert_eq!(after.layer(1).len(), before.layer(1).len());
    // Nobody else has this one.
    place.dockerfile("FROM scratch\nCOPY data /\n");
    drop(place.build(&["-t", "127.0.0.1:9/local:1", "."]).exits(0));
    place.dockerfile("FROM 127.0.0.1:9/local:1\nCOPY Dockerfile /d\n");
    drop(place.image(&[]));
    place.damage_files("blobs");
    place.dockerfile("FROM 127.0.0.1:9/local:1\nCOPY Dockerfile /e\n");
    let failed = place.build(&["--output=type=oci,dest=out.tar", "."]).exits(4);
    drop(failed.says("not all of its bytes any more").says("build it again"));
}

#[test]
fn an_image_of_the_store_is_tagged_pushed_pulled_and_removed() {
    needs!(REGISTRY);
    let (place, registry) = (place(), Registry::start());
    let name = registry.name("app:2");
    let id = place.build(&["-t", "app:2", "."]).exits(0).digest();
    run(&place, &["tag", "app:2", &name]).exits(0);
    let digest = run(&place, &["push", &name]).exits(0).digest();

    let other = Place::new();
    assert_eq!(run(&other, &["pull", &name]).exits(0).digest(), digest);
    let listed = run(&other, &["images", "--quiet"]).exits(0);
    assert_eq!(listed.raw_stdout, format!("{id}\n").as_bytes());
    let by_digest = format!("{}@{digest}", registry.name("app"));
    assert_eq!(run(&other, &["pull", &by_digest]).exits(0).digest(), digest);
    let inspected = run(&other, &["inspect", &name]).exits(0);
    let inspected: serde_json::Value = serde_json::from_slice(&inspected.raw_stdout).unwrap();
    assert_eq!(inspected[0]["id"], id);
    assert_eq!(
        inspected[0]["config"]["config"]["Env"],
        serde_json::json!(["PATH=/usr/bin:/bin", "A=b"])
    );
    let history = run(&other, &["history", &name]).exits(0).stdout;
    let newest: Vec<&str> = history
        .lines()
        .skip(1)
        .filter_map(|line| line.split("   ").last().map(str::trim))
        .collect();
    assert_eq!(
        newest,
        ["ENV A=b", "RUN /bin/sh -c echo made > /made # buildkit", "busybox"]
    );

    run(&other, &["rmi", &name]).exits(0);
    let gone = run(&other, &["inspect", &name]);
    assert_ne!(gone.code, Some(0));
    gone.says("app:2");
}

#[test]
fn an_image_without_layers_of_its_own_outlives_the_layout_that_its_base_came_from() {
    needs!(REGISTRY);
    let (place, registry) = (Place::new(), Registry::start());
    let name = registry.name("app:1");
    place.dockerfile("FROM base\nENV A=b\n");
    place.build(&["-t", &name, "."]).exits(0);
    std::fs::remove_dir_all(place.base_directory()).unwrap();
    let listed = run(&place, &["images"]).exits(0).stdout;
    assert!(!listed.contains(" 0B"), "{listed}");
    run(&place, &["push", &name]).exits(0);
}

#[test]
fn a_pulled_base_image_is_mounted_and_not_uploaded_again() {
    needs!(SKOPEO, REGISTRY);
    let (place, registry) = (Place::new(), Registry::start());
    let base = registry.name("bases/shell:1");
    place.base();
    let source = format!("oci:{}:latest", place.base_directory().display());
    let target = format!("docker://{base}");
    place.other(
        "/usr/bin/skopeo",
        &["copy", "--dest-tls-verify=false", &source, &target],
    );
    place.dockerfile(&format!("FROM {base}\nRUN echo own > /own\n"));
    let outcome = place
        .build(&["-t", &registry.name("other/app:1"), "--push", "."])
        .exits(0);
    assert!(
        outcome.stderr.contains("mounted from another repository"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.step("RUN echo own > /own").status, "DONE");
}

#[test]
fn a_base_image_is_pinned_by_digest() {
    needs!(SKOPEO, REGISTRY);
    let (place, registry) = (Place::new(), Registry::start());
    place.base();
    let digest = busybox(&place.work().join("copy"), "base");
    let target = format!("docker://{}", registry.name("shell:1"));
    place.other(
        "/usr/bin/skopeo",
        &["copy", "--dest-tls-verify=false", "oci:copy:latest", &target],
    );
    place.dockerfile(&format!("FROM {}@{digest}\nRUN true\n", registry.name("shell")));
    place.build(&["."]).exits(0);
    let other = proto::digest::Digest::of(b"something else");
    place.dockerfile(&format!("FROM {}@{other}\nRUN true\n", registry.name("shell")));
    let outcome = place.build(&["."]);
    assert_ne!(outcome.code, Some(0));
    outcome.says(&other.to_string()).says("shell");
}

#[test]
fn a_login_is_kept_used_and_forgotten() {
    needs!(REGISTRY);
    let (place, registry) = (place(), Registry::start_with_login());
    let name = registry.name("app:1");
    place.build(&["-t", &name, "."]).exits(0);
    let refused = run(&place, &["push", &name]).exits(4);
    refused.says(registry.address());

    login(&place, &registry, PASSWORD);
    let digest = run(&place, &["push", &name]).exits(0).digest();
    assert_eq!(run(&place, &["pull", &name]).exits(0).digest(), digest);

    place.run(&["logout", registry.address()]).exits(0);
    run(&place, &["pull", &name]).exits(4);
}

#[test]
fn a_wrong_password_is_the_registrys_word_and_is_not_shown() {
    needs!(REGISTRY);
    let (place, registry) = (place(), Registry::start_with_login());
    let name = registry.name("app:1");
    login(&place, &registry, "wrong-password-17");
    let outcome = place
        .build(&["-t", &name, "--push", "."])
        .exits(4)
        .says(registry.address());
    assert!(!outcome.stderr.contains("wrong-password-17"));
}

fn login(place: &Place, registry: &Registry, password: &str) {
    let words = ["login", "-u", USER, "--password-stdin", registry.address()];
    let outcome = place
        .run_with_stdin(&words, format!("{password}\n").as_bytes())
        .exits(0);
    assert!(!outcome.stderr.contains(password));
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    needs!();
    let place = Place::new();
    // Bound, so that nobody else gets the port, and closed to strangers: nobody listens.
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    drop(socket);
    place.dockerfile(&format!("FROM {address}/no/such:1\n"));
    place.build(&["."]).exits(4).says(&address);
    run(&place, &["pull", &format!("{address}/x:1")])
        .exits(4)
        .says(&address);
}

#[test]
fn a_tag_that_is_not_there_is_named_with_the_line_that_wants_it() {
    needs!(REGISTRY);
    let (place, registry) = (Place::new(), Registry::start());
    let name = registry.name("no/such:tag");
    place.dockerfile(&format!("FROM {name}\n"));
    let outcome = place.build(&["."]);
    assert!(matches!(outcome.code, Some(1 | 4)), "{outcome:?}");
    outcome.says(&name).says("Dockerfile:1");
    run(&place, &["pull", &name]).exits(4).says(&name);
}

#[test]
fn pushing_what_the_store_does_not_have_is_an_error_of_the_user() {
    needs!();
    let place = Place::new();
    run(&place, &["push", "r.example/no/such:1"])
        .exits(1)
        .says("r.example/no/such:1");
}
