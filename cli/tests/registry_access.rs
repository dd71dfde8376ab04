//! What a registry must show, and what it wants to see: certificates, tokens, credential helpers.

#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::os::unix::fs::PermissionsExt;

use testdata::certificate::Certificate;
use testdata::machine::Need;
use testdata::registry::{PASSWORD, PROGRAM, Registry, USER};
use testdata::token_server::{REFRESH_TOKEN, TokenServer};

use crate::support::build::needs;
use crate::support::{Outcome, Place};

const REGISTRY: Need = Need::Program(PROGRAM);

/// A place with an image that is named `name`.
fn place_with(name: &str) -> Place {
    let place = Place::new();
    place.dockerfile("FROM base\nENV A=b\n");
    place.build(&["-t", name, "."]).exits(0);
    place
}

/// Runs a command that trusts the authority of `certificate`, and no other.
fn run_trusting(place: &Place, certificate: &Certificate, words: &[&str]) -> Outcome {
    place.file("authority.pem", &certificate.authority);
    let mut command = place.command(&["--in-process"]);
    command
        .args(words)
        .env("SSL_CERT_FILE", place.work().join("authority.pem"));
    place.outcome(command.output().unwrap())
}

fn run(place: &Place, words: &[&str]) -> Outcome {
    let mut all = vec!["--in-process"];
    all.extend_from_slice(words);
    place.run(&all)
}

#[test]
fn https_is_spoken_with_a_registry_whose_authority_is_trusted() {
    needs!(REGISTRY);
    let certificate = Certificate::new();
    let registry = Registry::start_with_tls(&certificate);
    let name = registry.name("app:1");
    let place = place_with(&name);
    let pushed = run_trusting(&place, &certificate, &["push", &name]).exits(0).digest();
    let other = Place::new();
    let pulled = run_trusting(&other, &certificate, &["pull", &name]).exits(0).digest();
    assert_eq!(pulled, pushed);
}

#[test]
fn a_certificate_that_nobody_signed_is_refused_unless_it_is_asked_for() {
    needs!(REGISTRY);
    let registry = Registry::start_with_tls(&Certificate::new());
    let name = registry.name("app:1");
    let place = place_with(&name);
    let advice = format!("--insecure-registry {}", registry.address());
    run_trusting(&place, &Certificate::new(), &["push", &name])
        .exits(4)
        .says("is not trusted")
        .says(&advice);
    run(&place, &["push", "--insecure-registry", registry.address(), &name]).exits(0);
    let other = Place::new();
    run(&other, &["pull", "--insecure-registry", registry.address(), &name]).exits(0);
}

#[test]
fn tokens_are_bought_with_a_password_and_only_for_what_is_done() {
    needs!(REGISTRY);
    let server = TokenServer::start();
    let registry = Registry::start_with_tokens(&server);
    let name = registry.name("team/app:1");
    let place = place_with(&name);
    let login = ["login", "-u", USER, "--password-stdin", registry.address()];
    place.run_with_stdin(&login, PASSWORD.as_bytes()).exits(0);
    let pushed = run(&place, &["push", &name]).exits(0).digest();
    assert_eq!(run(&place, &["pull", &name]).exits(0).digest(), pushed);
    let sold = server.sold();
    assert!(sold.iter().all(|sale| sale.paid_with == "password"), "{sold:?}");
    let scopes: Vec<String> = sold.iter().map(|sale| sale.scope.join(" ")).collect();
    assert_eq!(scopes.first().unwrap(), "repository:team/app:pull,push");
    assert_eq!(scopes.last().unwrap(), "repository:team/app:pull");
}

#[test]
fn an_identity_token_buys_tokens_in_place_of_a_password() {
    needs!(REGISTRY);
    let server = TokenServer::start();
    let registry = Registry::start_with_tokens(&server);
    let name = registry.name("app:1");
    let place = place_with(&name);
    let config = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"{REFRESH_TOKEN}"}}}}}}"#,
        registry.address()
    );
    place.file("../home/.docker/config.json", &config);
    run(&place, &["push", &name]).exits(0);
    assert!(server.sold().iter().all(|sale| sale.paid_with == "refresh_token"));
    place.file(
        "../home/.docker/config.json",
        &config.replace(REFRESH_TOKEN, "expired-token-23"),
    );
    let refused = run(&place, &["push", &name]).exits(4).says("rbuild login");
    assert!(!refused.stderr.contains("expired-token-23"));
}

/// A helper that keeps its one login in a file beside it.
const HELPER: &str = r#"#!/bin/sh
read -r server
kept="$(dirname "$0")/kept"
case "$1" in
store) cat > /dev/null; exit 1 ;;
get) if [ -e "$kept" ]; then cat "$kept"; else echo "credentials not found in native keychain"; exit 1; fi ;;
esac
"#;

#[test]
fn a_credential_helper_is_asked_in_the_docker_way() {
    needs!(REGISTRY);
    let registry = Registry::start_with_login();
    let name = registry.name("app:1");
    let place = place_with(&name);
    place.file("bin/docker-credential-tests", HELPER);
    let helper = place.work().join("bin/docker-credential-tests");
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(r#"{{"credHelpers":{{"{}":"tests"}}}}"#, registry.address());
    place.file("../home/.docker/config.json", &config);
    let push = || {
        let mut command = place.command(&["--in-process", "push", &name]);
        let path = format!("{}:/usr/bin:/bin", helper.parent().unwrap().display());
        place.outcome(command.env("PATH", path).output().unwrap())
    };
    push().exits(4).says("asks for credentials and there are none");
    let kept = format!(
        r#"{{"ServerURL":"{}","Username":"{USER}","Secret":"{PASSWORD}"}}"#,
        registry.address()
    );
    place.file("bin/kept", &kept);
    push().exits(0);
    run(&place, &["push", &name]).exits(1).says("docker-credential-tests");
}

#[test]
fn the_proxies_of_docker_reach_steps_and_are_no_part_of_the_image() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo $http_proxy $HTTP_PROXY\n");
    let config = r#"{"proxies":{"default":{"httpProxy":"http://proxy.example:3128"}}}"#;
    place.file("../home/.docker/config.json", config);
    let built = place.build(&["."]).exits(0);
    let step = built.step("RUN echo $http_proxy $HTTP_PROXY");
    assert_eq!(step.log.trim(), "http://proxy.example:3128 http://proxy.example:3128");
    assert!(!built.stderr.contains("warning"), "{}", built.stderr);
    let image = place.image(&[]);
    assert!(!serde_json::to_string(&image.config).unwrap().contains("proxy.example"));
}
