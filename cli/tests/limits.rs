//! Limits of steps: asked for by builds, set by servers, kept by the kernel.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use testdata::machine::Need;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::{control_groups_of, nothing_is_left};
use crate::support::server::{end_of, read_until, send, step_started, wait_until};

#[test]
fn limits_of_processes_are_those_that_were_asked_for() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nUSER 1000\nRUN ulimit -n; ulimit -Hc; ulimit -Hn\n");
    let usual = place.steps(&[])[0].log.clone();
    // The hard limit on files depends on who started the tests.
    assert!(usual.starts_with("1024\n0\n"), "{usual}");
    let flags = ["--no-cache", "--ulimit=nofile=100:200", "--ulimit", "core=-1"];
    assert_eq!(place.steps(&flags)[0].log, "100\nunlimited\n200\n");
    place
        .build(&["--no-cache", "--ulimit=nofile=99999999999", "."])
        .exits(1)
        .says("error: --ulimit: the hard limit `nofile` cannot be raised to 99999999999: here it is ");
    place
        .build(&["--ulimit=files=1", "."])
        .exits(2)
        .says("no limit `files`");
}

#[test]
fn limits_are_in_no_cache_key() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo a > /a\n");
    let flags = [
        "--memory=200m",
        "--step-timeout=10m",
        "--step-disk=1g",
        "--pids-limit=100",
        "--cpus=1.5",
        "--cpu-shares=512",
        "--ulimit=nofile=2000",
    ];
    assert_eq!(place.steps(&flags)[0].status, "DONE");
    assert_eq!(place.steps(&[])[0].status, "CACHED");
}

/// What the control group of a step that runs says in one of these files, by the names of both versions.
fn in_group(engine: u32, names: [&str; 2]) -> String {
    let groups = control_groups_of(engine);
    let files = groups
        .iter()
        .flat_map(|group| names.map(|name| Path::new(group).join(name)));
    // Groups that wait for a step have the usual values.
    let texts: Vec<String> = files.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
    texts.join("").replace('\n', " ")
}

#[test]
fn processors_memory_and_processes_are_limited_by_the_kernel() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo started; sleep 7810\n");
    let flags = [
        "--cpus=0.5",
        "--cpuset-cpus=0",
        "-c=512",
        "-m=64m",
        "--pids-limit=77",
        ".",
    ];
    let mut command = place.build_command(&flags);
    let mut build = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = read_until(&mut build, step_started);
    let has = |names, words: &str| {
        let text = in_group(build.id(), names);
        assert!(text.split_whitespace().any(|word| word == words), "{names:?}: {text}");
    };
    has(["cpu.cfs_quota_us", "cpu.max"], "50000");
    has(
        ["cpu.shares", "cpu.weight"],
        if Path::new("/sys/fs/cgroup/cpu").exists() {
            "512"
        } else {
            "20"
        },
    );
    has(["cpuset.cpus", "cpuset.cpus"], "0");
    has(["memory.limit_in_bytes", "memory.max"], "67108864");
    has(["pids.max", "pids.max"], "78");
    let engine = build.id();
    send(&build, Signal::INT);
    assert_eq!(end_of(&mut build).code(), Some(130));
    drop(said.join().unwrap());
    wait_until("its control groups are gone", || control_groups_of(engine).is_empty());
    nothing_is_left(&place.root());
}

fn serve(place: &Place, arguments: &[&str]) -> (Child, std::thread::JoinHandle<String>) {
    let mut all = vec!["serve"];
    all.extend_from_slice(arguments);
    let mut command = place.command(&all);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = read_until(&mut child, |line| line.contains("serving"));
    (child, log)
}

#[test]
fn no_build_exceeds_the_limits_of_its_server() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN dd if=/dev/zero of=/dev/null bs=200M count=1\n");
    let (mut server, log) = serve(&place, &["--memory=64m", "--step-timeout=1m", "--ulimit=nofile=500"]);
    let base = place.base();
    let build = |flags: &[&str]| {
        let mut all = vec!["build", "--progress=plain", &base];
        all.extend_from_slice(flags);
        all.push(".");
        place.run(&all)
    };
    build(&["--memory=1g"])
        .exits(2)
        .says("error: --memory: 1GiB is more than this build server gives a step: 64MiB\n")
        .says("help: start the server with a larger limit: `rbuild serve --memory`");
    build(&["--step-timeout=2m"])
        .exits(2)
        .says("--step-timeout: 2m is more");
    build(&["--ulimit=nofile=501"]).exits(2).says("nofile=501 is more");
    build(&[])
        .exits(1)
        .says("step was killed: memory limit 64MiB")
        .says("note: it is the limit of the build server");
    place.dockerfile("FROM base\nRUN ulimit -n\n");
    assert_eq!(build(&["--memory=32m"]).exits(0).steps()[0].log, "500\n");
    send(&server, Signal::TERM);
    assert!(end_of(&mut server).success());
    drop(log.join().unwrap());
    nothing_is_left(&place.root());
}

#[test]
fn a_build_that_waits_for_the_step_of_another_does_not_fail_of_its_limits() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nRUN --mount=type=cache,target=/c test -e /c/second || { touch /c/second; echo started; sleep 7820; }\n",
    );
    let (mut server, log) = serve(&place, &[]);
    let base = place.base();
    let build = |flags: &[&str]| {
        let mut command = place.command(&["build", "--progress=plain", &base, "."]);
        command.args(flags).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut limited = build(&["--step-timeout=2s"]);
    let said = read_until(&mut limited, step_started);
    let unlimited = build(&[]);
    assert_eq!(end_of(&mut limited).code(), Some(1));
    assert!(said.join().unwrap().contains("step did not end within 2s"));
    drop(place.outcome(unlimited.wait_with_output().unwrap()).exits(0));
    send(&server, Signal::TERM);
    assert!(end_of(&mut server).success());
    drop(log.join().unwrap());
}

#[test]
fn a_limit_that_nothing_keeps_is_an_error_and_none_is_not() {
    needs!(Need::Program("/usr/bin/unshare"));
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo done\n");
    let base = place.base();
    let without = |flags: &[&str]| {
        let rbuild = place.command(&[]);
        let mut command = Command::new("/usr/bin/unshare");
        let script = "umount -R /sys/fs/cgroup && exec \"$@\"";
        command
            .args(["-m", "/bin/sh", "-c", script, "sh"])
            .arg(rbuild.get_program());
        command.args(flags).current_dir(place.work()).env_clear();
        for (name, value) in rbuild.get_envs() {
            command.env(name, value.unwrap());
        }
        place.outcome(command.stdin(Stdio::null()).output().unwrap())
    };
    let build = ["build", "--in-process", "--progress=plain", &base, "."];
    without(&[&build[..], &["--memory=64m"]].concat())
        .exits(3)
        .says("error: --memory cannot be kept here: there is no such controller");
    without(&["serve", "--pids-limit=5"])
        .exits(3)
        .says("--pids-limit cannot be kept here");
    without(&[&build[..], &["--step-timeout=1m", "--step-disk=1g"]].concat()).exits(0);
}
