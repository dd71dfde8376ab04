//! Servers: started when needed, shared, told to end, and leaving nothing.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal};

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;
use crate::support::server::{end_of, read_until, runs, send, step_started, wait_until};

/// A step that does not end by itself, and can be found among the processes: no two tests use one number.
fn endless(place: &Place, number: u32) -> String {
    place.dockerfile(&format!("FROM base\nRUN echo started; sleep {number}; echo no\n"));
    format!("sleep {number}")
}

fn on_server(place: &Place) -> Child {
    let base = place.base();
    let mut command = place.command(&["build", "--progress=plain", &base, "."]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn serve(place: &Place, arguments: &[&str]) -> (Child, std::thread::JoinHandle<String>) {
    let mut all = vec!["serve"];
    all.extend_from_slice(arguments);
    let mut child = place
        .command(&all)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = read_until(&mut child, |line| line.contains("serving"));
    (child, log)
}

#[test]
fn a_server_is_started_once_and_serves_later_builds() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo a\n");
    let base = place.base();
    let first = place.run(&["build", &base, "."]).exits(0).digest();
    let server = place.server().expect("a server serves now");
    let second = place.run(&["build", &base, "."]).exits(0);
    assert_eq!(second.digest(), first);
    assert_eq!(second.summary(), "CACHED RUN echo a\n");
    assert_eq!(place.server(), Some(server));
    let version = place.run(&["version"]).exits(0).stdout;
    assert!(
        version.contains(&format!("server {}", env!("CARGO_PKG_VERSION"))),
        "{version}"
    );
    place.end_server();
    nothing_is_left(&place.root());
    assert!(!place.root().join("server.sock").exists());
}

#[test]
fn a_server_in_the_foreground_serves_until_it_is_told_to_end() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo a\n");
    let (mut server, log) = serve(&place, &[]);
    place.run(&["build", &place.base(), "."]).exits(0);
    assert_eq!(
        place.server(),
        Some(Pid::from_child(&server)),
        "no second server was started"
    );
    send(&server, Signal::TERM);
    assert_eq!(end_of(&mut server).code(), Some(0));
    assert!(log.join().unwrap().contains("a signal came"));
    nothing_is_left(&place.root());
}

#[test]
fn a_server_logs_where_the_time_of_a_build_goes_if_it_is_asked_to() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo a\n");
    let (mut server, log) = place.serve_with_phases();
    place.run(&["build", &place.base(), "."]).exits(0);
    send(&server, Signal::TERM);
    assert_eq!(end_of(&mut server).code(), Some(0));
    let log = log.join().unwrap();
    for phase in [
        "build", "frontend", "lookup", "mounts", "process", "end", "diff", "keep", "sync",
    ] {
        // What `cargo xtask bench --profile` reads.
        let line = log
            .lines()
            .find(|line| line.contains(&format!(" phase: name=\"{phase}\" micros=")));
        assert!(line.is_some(), "no {phase} in {log}");
    }
}

#[test]
fn an_idle_server_ends_by_itself() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo a\n");
    let (mut server, log) = serve(&place, &["--idle", "1s"]);
    place.run(&["build", &place.base(), "."]).exits(0);
    assert_eq!(end_of(&mut server).code(), Some(0));
    log.join().unwrap();
    assert_eq!(place.server(), None);
    nothing_is_left(&place.root());
}

#[test]
fn a_command_with_a_server_of_its_own_does_not_wait_until_an_idle_one_ends() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo a\n");
    place.run(&["build", &place.base(), "."]).exits(0);
    let server = place.server().expect("a server serves now");
    let second = place.build(&["."]).exits(0);
    assert_eq!(second.summary(), "CACHED RUN echo a\n");
    assert_eq!(place.server(), None, "{server:?} is in the way");
    nothing_is_left(&place.root());
}

#[test]
fn an_interrupt_ends_an_in_process_build_and_its_step() {
    needs!();
    let place = Place::new();
    let step = endless(&place, 86_311);
    let mut build = place.build_command(&["."]);
    let mut build = build.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = read_until(&mut build, step_started);
    assert!(runs(&step));
    send(&build, Signal::INT);
    let status = end_of(&mut build);
    let said = said.join().unwrap();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(!runs(&step), "the step lives on");
    nothing_is_left(&place.root());
}

#[test]
fn an_interrupt_ends_the_step_on_a_server_that_serves_on() {
    needs!();
    let place = Place::new();
    let step = endless(&place, 86_312);
    let mut build = on_server(&place);
    let said = read_until(&mut build, step_started);
    let server = place.server();
    send(&build, Signal::INT);
    assert_eq!(end_of(&mut build).code(), Some(130));
    said.join().unwrap();
    wait_until("the step ends", || !runs(&step));
    place.dockerfile("FROM base\nRUN echo next\n");
    place.run(&["build", &place.base(), "."]).exits(0);
    assert_eq!(place.server(), server);
    place.end_server();
    nothing_is_left(&place.root());
}

#[test]
fn a_build_in_a_plain_pipe_that_closes_is_not_stuck() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN for i in $(seq 2000); do echo line $i; done\n");
    let mut build = place.build_command(&["."]);
    let mut build = build.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    drop(build.stderr.take());
    assert!(end_of(&mut build).code().is_some());
    nothing_is_left(&place.root());
}

#[test]
fn a_server_that_is_killed_takes_its_steps_with_it_and_is_replaced() {
    needs!();
    let place = Place::new();
    let step = endless(&place, 86_313);
    let mut build = on_server(&place);
    let said = read_until(&mut build, step_started);
    let server = place.server().unwrap();
    rustix::process::kill_process(server, Signal::KILL).unwrap();
    let status = end_of(&mut build);
    let said = said.join().unwrap();
    assert!(matches!(status.code(), Some(3 | 4)), "{status}: {said}");
    wait_until("the step ends", || !runs(&step));
    place.dockerfile("FROM base\nRUN echo next\n");
    place.run(&["build", &place.base(), "."]).exits(0);
    place.end_server();
    nothing_is_left(&place.root());
}

#[test]
fn two_builds_at_once_share_their_steps() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN --mount=type=cache,target=/c echo x >> /c/runs; sleep 1; cat /c/runs > /runs\n");
    let (mut server, log) = serve(&place, &[]);
    let base = place.base();
    let start = || {
        let mut command = place.command(&["build", "--progress=plain", &base, "."]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let builds = [start(), start()];
    let outcomes = builds.map(|child| place.outcome(child.wait_with_output().unwrap()).exits(0));
    assert_eq!(outcomes[0].digest(), outcomes[1].digest());
    place.dockerfile("FROM base\nRUN --mount=type=cache,target=/c cat /c/runs\n");
    let outcome = place.run(&["build", &base, "."]).exits(0);
    assert_eq!(outcome.steps()[0].log, "x\n", "the step ran twice");
    send(&server, Signal::TERM);
    end_of(&mut server);
    log.join().unwrap();
}
