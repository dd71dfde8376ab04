//! Builds whose steps get less than usual.

use rustix::process::Signal;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::server::{end_of, read_until, send};

#[test]
fn a_hardened_build_has_results_of_its_own() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nRUN grep NoNewPrivs /proc/self/status\nRUN --security=sandbox grep NoNewPrivs /proc/self/status\n",
    );
    let build = |arguments: &[&str]| {
        let outcome = place.build(&[arguments, &["."]].concat()).exits(0);
        let logs: Vec<String> = outcome.steps().iter().map(|step| step.log.clone()).collect();
        logs.concat()
    };
    assert_eq!(build(&[]), "NoNewPrivs:\t0\nNoNewPrivs:\t0\n");
    assert_eq!(build(&["--hardened"]), "NoNewPrivs:\t1\nNoNewPrivs:\t1\n");
    // What either of them left is still there.
    assert_eq!(build(&[]) + &build(&["--hardened"]), "");
}

#[test]
fn a_hardened_build_allows_nothing_more() {
    let place = Place::new();
    place.file("Dockerfile", "FROM scratch\n");
    for more in ["network.host", "security.insecure", "device"] {
        let outcome = place
            .run(&["build", "--in-process", "--hardened", "--allow", more, "."])
            .exits(1);
        outcome.says(&format!("error: {more} is not allowed"));
    }
}

#[test]
fn a_hardened_server_hardens_every_build() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN grep NoNewPrivs /proc/self/status\n");
    let mut serve = place.command(&["serve", "--hardened"]);
    let mut server = serve.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let log = read_until(&mut server, |line| line.contains("serving"));
    let base = place.base();
    let outcome = place.run(&["build", "--progress=plain", &base, "."]).exits(0);
    assert!(outcome.stderr.contains("NoNewPrivs:\t1"), "{}", outcome.stderr);
    let refused = place.run(&["build", &base, "--network=host", "."]).exits(1);
    refused.says("network.host is not allowed");
    send(&server, Signal::TERM);
    assert_eq!(end_of(&mut server).code(), Some(0));
    log.join().unwrap();
}
