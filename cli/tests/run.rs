//! `rbuild run`: images of the store, tried out.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use rustix::process::Signal;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;
use crate::support::pty::Sitting;
use crate::support::server::{end_of, runs, send, wait_until};

/// A place with the image `app`.
fn with_image(dockerfile: &str) -> Place {
    let place = Place::new();
    place.dockerfile(dockerfile);
    let base = place.base();
    place.run(&["build", "-q", &base, "-t", "app", "."]).exits(0);
    place
}

const IMAGE: &str = "\
FROM base
ENV COLOUR=blue
WORKDIR /work
USER alice
ENTRYPOINT [\"sh\", \"-c\", \"echo $0 $* in $(pwd) as $(id -un) $COLOUR\"]
CMD [\"hello\", \"world\"]
";

#[test]
fn an_image_runs_with_what_its_config_says() {
    needs!();
    let place = with_image(IMAGE);
    let outcome = place.run(&["run", "app"]).exits(0);
    assert_eq!(outcome.stdout, "hello world in /work as alice blue\n");
    assert_eq!(outcome.stderr, "");
    let flags = [
        "run",
        "--rm",
        "-u",
        "0",
        "-w",
        "/etc",
        "-e",
        "COLOUR=red",
        "app",
        "a",
        "-b",
    ];
    assert_eq!(place.run(&flags).exits(0).stdout, "a -b in /etc as root red\n");
    assert_eq!(
        place.run(&["run", "--entrypoint", "id", "app", "-g"]).exits(0).stdout,
        "1001\n"
    );
    assert_eq!(
        place
            .run(&["run", "--entrypoint", "", "app", "echo", "x"])
            .exits(0)
            .stdout,
        "x\n"
    );
    let id = place.run(&["images", "-q"]).exits(0);
    let id = String::from_utf8(id.raw_stdout).unwrap();
    let short = &id.trim().strip_prefix("sha256:").unwrap()[..12];
    assert_eq!(
        place.run(&["run", "--entrypoint", "echo", short, "id"]).exits(0).stdout,
        "id\n"
    );
    place.end_server();
    nothing_is_left(&place.root());
}

#[test]
fn exit_codes_are_those_of_docker() {
    needs!();
    let place = with_image("FROM base\nUSER alice\n");
    place.run(&["run", "app", "sh", "-c", "exit 42"]).exits(42);
    place.run(&["run", "app", "sh", "-c", "kill -KILL $$"]).exits(137);
    place
        .run(&["run", "app", "no-such-program"])
        .exits(127)
        .says("not found in $PATH");
    place
        .run(&["run", "app", "/etc/passwd"])
        .exits(126)
        .says("permission denied");
    place
        .run(&["run", "none"])
        .exits(125)
        .says("no image `none` in the store");
    place
        .run(&["run", "-v", "/:/host", "app"])
        .exits(125)
        .says("nothing of this machine is mounted");
    place
        .run(&["run", "--network", "host", "app"])
        .exits(125)
        .says("--allow network.host");
    place
        .run(&["run", "--network", "moon", "app"])
        .exits(125)
        .says("`moon`");
    place
        .run(&["run", "-w", "relative", "app"])
        .exits(125)
        .says("is not absolute");
}

#[test]
fn what_it_writes_is_thrown_away_or_fails() {
    needs!();
    let place = with_image("FROM base\n");
    place
        .run(&["run", "app", "sh", "-c", "echo x > /new && cat /new"])
        .exits(0);
    place.run(&["run", "app", "test", "-e", "/new"]).exits(1);
    let outcome = place
        .run(&["run", "--read-only", "app", "sh", "-c", "echo x > /new"])
        .exits(1);
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    let outcome = place
        .run(&["run", "--network", "none", "app", "ls", "/sys/class/net"])
        .exits(0);
    assert_eq!(outcome.stdout, "lo\n");
}

#[test]
fn standard_input_comes_only_if_it_is_asked_for() {
    needs!();
    let place = with_image("FROM base\n");
    let outcome = place.run_with_stdin(
        &["run", "-i", "app", "sh", "-c", "tr a-z A-Z; echo end >&2"],
        b"words\n",
    );
    let outcome = outcome.exits(0);
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("WORDS\n", "end\n"));
    let mut command = place.command(&["run", "app", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(
        end_of(&mut child).code(),
        Some(0),
        "it does not wait for what is not sent"
    );
}

#[test]
fn secrets_are_files_for_a_run() {
    needs!();
    let place = with_image("FROM base\nUSER alice\n");
    place.file("token", "hush");
    let outcome = place
        .run(&[
            "run",
            "--secret",
            "id=token,src=token",
            "app",
            "cat",
            "/run/secrets/token",
        ])
        .exits(0);
    assert_eq!(outcome.stdout, "hush");
    place.run(&["run", "app", "cat", "/run/secrets/token"]).exits(1);
}

/// Starts a program that says `ready`.
fn ready(place: &Place, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut command = place.command(arguments);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, stdout)
}

#[test]
fn signals_reach_the_program() {
    needs!();
    let place = with_image("FROM base\n");
    let catching = "trap 'echo caught; exit 5' TERM; trap 'exit 6' INT; echo ready; while :; do sleep 0.05; done";
    let (mut child, mut stdout) = ready(&place, &["run", "app", "sh", "-c", catching]);
    send(&child, Signal::TERM);
    assert_eq!(end_of(&mut child).code(), Some(5));
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "caught\n");
    let (mut child, _stdout) = ready(&place, &["run", "app", "sh", "-c", catching]);
    send(&child, Signal::INT);
    assert_eq!(end_of(&mut child).code(), Some(6));
    let (mut child, _stdout) = ready(&place, &["run", "app", "sh", "-c", "echo ready; exec sleep 4720"]);
    send(&child, Signal::TERM);
    assert_eq!(end_of(&mut child).code(), Some(143));
    wait_until("nothing runs", || !runs("sleep 4720"));
}

#[test]
fn the_image_says_which_signal_stops_it() {
    needs!();
    let place = with_image("FROM base\nSTOPSIGNAL SIGQUIT\n");
    let catching = "trap 'exit 9' QUIT; echo ready; while :; do sleep 0.05; done";
    let (mut child, _stdout) = ready(&place, &["run", "app", "sh", "-c", catching]);
    send(&child, Signal::TERM);
    assert_eq!(end_of(&mut child).code(), Some(9));
}

#[test]
fn what_does_not_end_is_ended_with_the_third_signal() {
    needs!();
    let place = with_image("FROM base\n");
    let deaf = "trap '' INT TERM; echo ready; while :; do sleep 0.0473; done";
    let (mut child, _stdout) = ready(&place, &["run", "app", "sh", "-c", deaf]);
    while child.try_wait().unwrap().is_none() {
        send(&child, Signal::TERM);
        std::thread::yield_now();
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_until("nothing runs", || !runs("sleep 0.0473"));
}

#[test]
fn a_reader_that_goes_away_ends_the_program() {
    needs!();
    let place = with_image("FROM base\n");
    let (mut child, stdout) = ready(&place, &["run", "app", "sh", "-c", "echo ready; yes 4721"]);
    drop(stdout);
    assert_eq!(end_of(&mut child).code(), Some(141));
    wait_until("nothing runs", || !runs("yes 4721"));
}

#[test]
fn a_terminal_is_there_if_it_is_asked_for() {
    needs!();
    let place = with_image("FROM base\nUSER alice\n");
    place.run(&["run", "app", "test", "-t", "1"]).exits(1);
    let outcome = place.run(&[
        "run",
        "-t",
        "app",
        "sh",
        "-c",
        "test -t 0 && test -t 2 && echo yes > /dev/stdout",
    ]);
    assert_eq!(outcome.exits(0).stdout, "yes\r\n");
    let mut sitting = Sitting::start(&place.command(&["run", "-it", "app", "sh"]), (30, 100));
    sitting.read("$ ");
    sitting.press("busybox stty size; echo x > /dev/tty; exit 4\r");
    sitting.read("\n30 100\r\nx\r\n");
    assert_eq!(sitting.code(), Some(4));
}

#[test]
fn layers_that_were_never_unpacked_are_unpacked() {
    needs!();
    let place = Place::new();
    place.file("a", "file a\n").dockerfile("FROM base\nCOPY a /a\n");
    let base = place.base();
    place.run(&["build", "-q", &base, "-t", "app", "."]).exits(0);
    assert_eq!(place.run(&["run", "app", "cat", "/a"]).exits(0).stdout, "file a\n");
    // A server that would end by itself makes way.
    assert_eq!(
        place.run(&["run", "--in-process", "app", "cat", "/a"]).exits(0).stdout,
        "file a\n"
    );
}
