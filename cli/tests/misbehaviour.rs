//! Steps that do what steps should not: each ends within its limits with a clear error, leaves nothing, and harms no later build.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testdata::machine::Need;

use crate::support::build::needs;
use crate::support::leaks::{control_groups_of, nothing_is_left};
use crate::support::server::{end_of, read_until, runs, send, step_started, wait_until};
use crate::support::{Outcome, Place};

/// Builds `FROM base` and these lines on the server of the place.
fn build(place: &Place, lines: &str, flags: &[&str]) -> Outcome {
    place.dockerfile(&format!("FROM base\n{lines}\n"));
    let base = place.base();
    let mut all = vec!["build", "--progress=plain", &base];
    all.extend_from_slice(flags);
    all.push(".");
    place.run(&all)
}

/// Asserts that the server still builds, and that nothing is left when it ends.
#[track_caller]
fn goes_on(place: &Place) {
    let server = place.server().expect("a server runs");
    let after = build(place, "RUN echo well", &[]).exits(0);
    assert_eq!(after.step("RUN echo well").log, "well\n");
    assert_eq!(place.server(), Some(server), "it is the same server");
    place.end_server();
    nothing_is_left(&place.root());
    let engine = u32::try_from(server.as_raw_nonzero().get()).unwrap();
    wait_until("its control groups are gone", || control_groups_of(engine).is_empty());
}

#[test]
fn a_fork_bomb_ends_at_the_process_limit() {
    needs!();
    let place = Place::new();
    let bomb = "RUN while :; do sleep 7710 & done";
    let failed = build(&place, bomb, &["--pids-limit=64", "--step-timeout=20s"]).exits(1);
    let failed = failed
        .says("process limit 64 reached")
        .says("raise it with `--pids-limit`");
    assert!(failed.stderr.contains("--> Dockerfile:2:1"), "{}", failed.stderr);
    assert!(!runs("sleep 7710"));
    goes_on(&place);
}

#[test]
fn a_step_that_takes_too_much_memory_is_killed_and_says_so() {
    needs!();
    let place = Place::new();
    let hog = "RUN dd if=/dev/zero of=/dev/null bs=200M count=1";
    build(&place, hog, &["--memory=64m"])
        .exits(1)
        .says("error: step was killed: memory limit 64MiB\n  --> Dockerfile:2:1")
        .says("raise it with `--memory`");
    build(&place, hog, &["--memory=400m"]).exits(0);
    goes_on(&place);
}

#[test]
fn a_step_that_goes_on_after_one_of_its_processes_was_killed_is_blamed_for_its_own_end_only() {
    needs!();
    let place = Place::new();
    let hog = "dd if=/dev/zero of=/dev/null bs=200M count=1";
    let went_on = build(&place, &format!("RUN {hog} || echo went on"), &["--memory=64m"]);
    if went_on.code == Some(0) {
        assert!(!went_on.stderr.contains("memory limit"), "{}", went_on.stderr);
        build(&place, &format!("RUN {hog}; exit 3"), &["--memory=64m"])
            .exits(1)
            .says("did not complete successfully: exit code: 3")
            .says("a process of it was killed: memory limit 64MiB");
    } else {
        // With control groups of version 2 the step dies as a whole.
        went_on.exits(1).says("step was killed: memory limit 64MiB");
    }
    goes_on(&place);
}

#[test]
fn a_flood_of_output_is_cut_and_its_end_is_shown() {
    needs!();
    let place = Place::new();
    let outcome = build(&place, "RUN yes flood | head -c 200m; echo the end", &[]).exits(0);
    assert!(outcome.stderr.len() < 64 << 20, "{}", outcome.stderr.len());
    let outcome = outcome.says("bytes are left out here");
    let log = outcome.step("echo the end").log;
    assert!(log.ends_with("flood\nflthe end\n"), "{}", &log[log.len() - 100..]);
    build(&place, "RUN yes for ever", &["--step-timeout=2s"])
        .exits(1)
        .says("step did not end within 2s");
    goes_on(&place);
}

#[test]
fn a_step_that_fills_the_disk_is_ended() {
    needs!();
    let place = Place::new();
    let fill = "dd if=/dev/zero of=/big bs=1M count=60 2>/dev/null";
    let failed = build(&place, &format!("RUN {fill}; sleep 7720"), &["--step-disk=50m"]).exits(1);
    failed
        .says("error: step wrote more than 50MiB\n  --> Dockerfile:2:1")
        .says("raise it with `--step-disk`");
    assert!(!runs("sleep 7720"));
    // Over before anybody looked.
    build(&place, &format!("RUN {fill}"), &["--step-disk=50m"])
        .exits(1)
        .says("step wrote more than 50MiB");
    build(&place, &format!("RUN {fill} && rm /big"), &["--step-disk=500m"]).exits(0);
    goes_on(&place);
}

#[test]
fn a_daemon_ends_with_its_step() {
    needs!();
    let place = Place::new();
    build(&place, "RUN setsid sleep 7730 & echo gone", &[]).exits(0);
    assert!(!runs("sleep 7730"));
    goes_on(&place);
}

#[test]
fn a_step_that_ignores_signals_does_not_outlive_ctrl_c() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN trap '' TERM INT HUP; echo started; while :; do sleep 7740; done\n");
    let base = place.base();
    let mut command = place.command(&["build", "--progress=plain", &base, "."]);
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = read_until(&mut client, step_started);
    let began = Instant::now();
    send(&client, Signal::INT);
    assert_eq!(end_of(&mut client).code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(said.join().unwrap());
    assert!(!runs("sleep 7740"), "the client ends after the step");
    goes_on(&place);
}

#[test]
fn a_step_may_close_its_output_and_go_on() {
    needs!();
    let place = Place::new();
    let quiet = "RUN exec >&- 2>&-; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo $i > /counted";
    build(&place, &format!("{quiet}\nRUN cat /counted"), &[])
        .exits(0)
        .says("2000");
    build(&place, "RUN exec >&- 2>&-; exit 3", &[])
        .exits(1)
        .says("exit code: 3");
    build(&place, "RUN exec >&- 2>&-; sleep 7750", &["--step-timeout=1s"])
        .exits(1)
        .says("did not end within 1s");
    goes_on(&place);
}

#[test]
fn a_step_that_never_ends_is_ended_in_time() {
    needs!();
    let place = Place::new();
    let began = Instant::now();
    build(&place, "RUN sleep 7760", &["--step-timeout=1s"])
        .exits(1)
        .says("error: step did not end within 1s\n  --> Dockerfile:2:1\n   2 | RUN sleep 7760")
        .says("raise it with `--step-timeout`");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    wait_until("the step is gone", || !runs("sleep 7760"));
    goes_on(&place);
}

const SCRIPT: Need = Need::Program("/usr/bin/script");

#[test]
fn control_codes_of_a_step_do_not_reach_the_terminal() {
    needs!(SCRIPT);
    let place = Place::new();
    place.dockerfile("FROM base\nRUN printf 'a\\033]0;owned\\007b\\033[2Jc\\233d\\n'; exit 1\n");
    let base = place.base();
    for progress in ["plain", "tty"] {
        let rbuild = place.command(&[]).get_program().to_str().unwrap().to_owned();
        let line = format!("{rbuild} build --in-process --progress={progress} {base} .");
        let mut script = Command::new("/usr/bin/script");
        script.args(["-qec", &line, "/dev/null"]).env_clear();
        for (name, value) in place.command(&[]).get_envs() {
            script.env(name, value.unwrap());
        }
        let output = script
            .env("TERM", "xterm")
            .current_dir(place.work())
            .stdin(Stdio::null());
        let output = output.output().unwrap();
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{shown}");
        assert!(shown.contains("a\\x1b]0;owned\\x07b\\x1b[2Jc"), "{progress}: {shown:?}");
        assert!(
            !shown.contains("\x1b]0;") && !shown.contains("\x1b[2J"),
            "{progress}: {shown:?}"
        );
    }
    nothing_is_left(&place.root());
}
