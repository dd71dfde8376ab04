//! `rbuild debug BUILD [STEP]`: what steps left, looked into.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;

use cache::kept::KEPT_MS;
use cache::store::{Options, Store};
use rustix::process::Signal;

use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;
use crate::support::pty::Sitting;
use crate::support::server::{end_of, runs, send, wait_until};
use crate::support::{Outcome, Place};

const PASSPHRASE: &str = "correct-horse-battery-staple-47";

const DOCKERFILE: &str = "\
FROM base AS tools
RUN echo hammer > /tool
FROM base
ENV COLOUR=blue
WORKDIR /src
COPY a .
RUN mkdir -m 777 /out
USER alice
RUN --mount=type=cache,target=/cache,uid=1000 --mount=from=tools,target=/tools --mount=type=tmpfs,target=/scratch \\
    --mount=type=secret,id=token,target=/token,uid=1000 \\
    echo warm > /cache/x; echo half > /out/half; rm /nothing; exit 3
";

/// A place where the last step of [`DOCKERFILE`] has failed, and the words that the failure says.
fn failed() -> (Place, Vec<String>) {
    let place = Place::new();
    place
        .file("a", "file a\n")
        .file("token", PASSPHRASE)
        .dockerfile(DOCKERFILE);
    let outcome = fails(&place, &["--secret", "id=token,src=token"]);
    let line = outcome
        .stderr
        .lines()
        .find(|line| line.starts_with("help: look at what it left: "));
    let words = line.unwrap_or_else(|| panic!("no help in:\n{}", outcome.stderr));
    let step = words
        .rsplit_once(": `rbuild debug [build] ")
        .unwrap()
        .1
        .trim_end_matches('`');
    let explained = place.run(&["explain", "--json"]).exits(0).stdout;
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    let build = &explained["id"].as_str().unwrap()[..12];
    (place, ["debug", build, step].map(str::to_owned).to_vec())
}

/// Builds by a server, which is started if there is none.
fn fails(place: &Place, arguments: &[&str]) -> Outcome {
    let base = place.base();
    let mut all = vec!["build", "--progress=plain", base.as_str()];
    all.extend_from_slice(arguments);
    all.push(".");
    place.run(&all).exits(1)
}

fn debug(place: &Place, words: &[&str], inside: &str) -> Outcome {
    let mut all = vec!["debug"];
    all.extend_from_slice(words);
    all.extend_from_slice(&["--", "sh", "-c", inside]);
    place.run(&all)
}

#[test]
fn a_failed_step_is_looked_into_as_it_was() {
    needs!();
    let (place, words) = failed();
    let inside = "cat /out/half a; echo $COLOUR; pwd; id -u; cat /cache/x /tools/tool; stat -c %a /scratch; ls /token/* 2> /dev/null; true";
    let mut all: Vec<&str> = words.iter().map(String::as_str).collect();
    all.extend_from_slice(&["--", "sh", "-c", inside]);
    let outcome = place.run(&all).exits(0);
    assert_eq!(outcome.stdout, "half\nfile a\nblue\n/src\n1000\nwarm\nhammer\n1777\n");
    assert_eq!(outcome.stderr, "");
    let words = ["latest", "-u", "root", "-w", "/out", "-e", "COLOUR=red", "-e", "MORE"];
    let outcome = debug(&place, &words, "pwd; id -u; echo $COLOUR-$MORE").exits(0);
    assert_eq!(outcome.stdout, "/out\n0\nred-\n");
    nothing_is_left_but_a_server(&place);
}

#[track_caller]
fn nothing_is_left_but_a_server(place: &Place) {
    place.end_server();
    nothing_is_left(&place.root());
}

#[test]
fn exit_codes_are_those_of_the_program_and_125_is_ours() {
    needs!();
    let (place, _) = failed();
    debug(&place, &["latest"], "exit 7").exits(7);
    debug(&place, &["latest"], "kill -9 $$").exits(137);
    place
        .run(&["debug", "latest", "--", "no-such-program"])
        .exits(127)
        .says("not found in $PATH");
    place
        .run(&["debug", "latest", "--", "/out/half"])
        .exits(126)
        .says("permission denied");
    place
        .run(&["debug", "latest", "99"])
        .exits(125)
        .says("has no step `99`");
    place
        .run(&["debug", "00000000", "1"])
        .exits(125)
        .says("no build `00000000` is remembered");
    place.run(&["debug", "latest", "-u", "nobody-here"]).exits(125);
}

#[test]
fn streams_are_apart_and_a_shell_reads_standard_input() {
    needs!();
    let (place, _) = failed();
    let outcome = place.run_with_stdin(&["debug", "latest"], b"echo out; echo err >&2; cat /out/half; exit 5\n");
    let outcome = outcome.exits(5);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\nhalf\n", "err\n")
    );
    let large = vec![b'x'; 3_000_000];
    let outcome = place
        .run_with_stdin(&["debug", "latest", "--", "wc", "-c"], &large)
        .exits(0);
    assert_eq!(outcome.stdout.trim(), "3000000");
    // Who does not read it loses it, and nobody waits.
    place.run_with_stdin(&["debug", "latest", "--", "true"], b"x").exits(0);
}

#[test]
fn who_looks_twice_sees_the_same() {
    needs!();
    let (place, _) = failed();
    debug(&place, &["latest"], "echo new > /out/new; rm /out/half").exits(0);
    let outcome = debug(&place, &["latest"], "ls /out").exits(0);
    assert_eq!(outcome.stdout, "half\n");
}

#[test]
fn secrets_are_kept_nowhere_and_come_from_who_looks() {
    needs!();
    let (place, _) = failed();
    let outcome = debug(&place, &["latest", "--secret", "id=token,src=token"], "cat /token").exits(0);
    assert_eq!(outcome.stdout, PASSPHRASE);
    place.end_server();
    let mut left = vec![place.root()];
    while let Some(path) = left.pop() {
        if path.is_dir() && !path.is_symlink() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() && !path.is_symlink() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes
                .windows(PASSPHRASE.len())
                .any(|window| window == PASSPHRASE.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

#[test]
fn what_a_step_left_survives_the_server_but_not_its_hour() {
    needs!();
    let (place, _) = failed();
    place.end_server();
    assert_eq!(debug(&place, &["latest"], "cat /out/half").exits(0).stdout, "half\n");
    place.end_server();
    let outcome = debug(&place, &["latest", "--in-process"], "cat /out/half").exits(0);
    assert_eq!(outcome.stdout, "half\n");
    assert_eq!(std::fs::read_dir(place.root().join("failed")).unwrap().count(), 1);

    let kept = {
        let store = Store::open(&place.root(), &Options::new(Arc::new(|| 0))).unwrap();
        store.kept().list().unwrap().pop().unwrap()
    };
    let after = kept.kept_ms + KEPT_MS;
    let store = Store::open(&place.root(), &Options::new(Arc::new(move || after))).unwrap();
    store.kept().sweep().unwrap();
    drop(store);
    assert_eq!(std::fs::read_dir(place.root().join("failed")).unwrap().count(), 0);
    debug(&place, &["latest"], "true")
        .exits(125)
        .says("left is not here any more")
        .says("it is kept for an hour");
}

#[test]
fn what_a_step_left_is_counted_and_pruned() {
    needs!();
    let (place, _) = failed();
    let row = |place: &Place| {
        let usage = place.run(&["du"]).exits(0).stdout;
        let row = usage.lines().find(|line| line.starts_with("failed steps")).unwrap();
        row.split_whitespace().nth(2).unwrap().to_owned()
    };
    assert_eq!(row(&place), "1");
    let items = place
        .run(&["du", "--verbose", "--filter", "type=failed-step"])
        .exits(0)
        .stdout;
    assert!(items.contains("echo half > /out/half"), "{items}");
    place.run(&["prune", "--filter", "type=blob"]).exits(0);
    assert_eq!(row(&place), "1", "nothing else was meant");
    // The layers below stay as long as it does.
    place.run(&["prune", "--all", "--filter", "type!=failed-step"]).exits(0);
    assert_eq!(debug(&place, &["latest"], "cat /out/half").exits(0).stdout, "half\n");
    place.run(&["prune", "--filter", "type=failed-step"]).exits(0);
    assert_eq!(row(&place), "0");
    debug(&place, &["latest"], "true")
        .exits(125)
        .says("left is not here any more");
    place.run(&["store", "verify"]).exits(0);
}

#[test]
fn a_step_that_succeeded_is_looked_into_by_its_words() {
    needs!();
    let (place, _) = failed();
    let outcome = debug(
        &place,
        &["latest", "RUN mkdir"],
        "ls -d /out; ls /out; echo $COLOUR; pwd; id -u",
    )
    .exits(0);
    assert_eq!(outcome.stdout, "/out\nblue\n/src\n0\n");
    let outcome = debug(&place, &["latest", "COPY"], "cat /src/a; ls /out 2> /dev/null").exits(1);
    assert_eq!(outcome.stdout, "file a\n");
    debug(&place, &["latest", "RUN"], "true")
        .exits(125)
        .says("these words mean several steps");
    place.dockerfile("FROM base\nRUN echo done > /done\n");
    let base = place.base();
    place.run(&["build", "-q", &base, "."]).exits(0);
    let outcome = debug(&place, &["latest"], "cat /done").exits(0);
    assert_eq!(outcome.stdout, "done\n");
}

#[test]
fn what_a_step_was_allowed_is_allowed_again_or_not_had() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN --network=host exit 1\n");
    fails(&place, &["--allow", "network.host"]);
    debug(&place, &["latest"], "true")
        .exits(125)
        .says("network.host is not allowed")
        .says("`--allow network.host`");
    debug(&place, &["latest", "--allow", "network.host"], "true").exits(0);
    let outcome = debug(&place, &["latest", "--network", "none"], "ls /sys/class/net").exits(0);
    assert_eq!(outcome.stdout, "lo\n");
}

#[test]
fn a_canceled_build_leaves_nothing_to_look_into() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo started; sleep 1000\n");
    let base = place.base();
    let mut build = place.command(&["build", "--progress=plain", &base, "."]);
    let mut child = build.stderr(Stdio::piped()).spawn().unwrap();
    let rest = crate::support::server::read_until(&mut child, crate::support::server::step_started);
    send(&child, Signal::INT);
    assert_eq!(end_of(&mut child).code(), Some(130));
    assert!(!rest.join().unwrap().contains("rbuild debug"));
    debug(&place, &["latest"], "true").exits(125);
    assert!(!place.root().join("failed").exists());
}

#[test]
fn a_client_that_is_killed_leaves_no_process() {
    needs!();
    let (place, _) = failed();
    let mut command = place.command(&[
        "debug",
        "latest",
        "--",
        "sh",
        "-c",
        "echo ready; sleep 4711 & sleep 4712",
    ]);
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    wait_until("the programs run", || runs("sleep 4711") && runs("sleep 4712"));
    send(&child, Signal::KILL);
    child.wait().unwrap();
    wait_until("the programs end", || !runs("sleep 4711") && !runs("sleep 4712"));
    let unfinished = || crate::support::leaks::unfinished(&place.root());
    wait_until("what it wrote is thrown away", || unfinished().is_empty());
}

#[test]
fn a_shell_has_a_terminal_of_its_own() {
    needs!();
    let (place, _) = failed();
    let mut command = place.command(&["debug", "latest"]);
    command.env("TERM", "vt220");
    let mut sitting = Sitting::start(&command, (24, 80));
    sitting.read("$ ");
    sitting.press("echo $((40+2))\r");
    sitting.read("\n42\r\n");
    sitting.press("echo $TERM-$(busybox stty size); tty; test -t 2 && echo own > /dev/tty\r");
    sitting.read("\nvt220-24 80\r\n/dev/pts/0\r\nown\r\n");
    sitting.resize((37, 91));
    // The change and the question come on two ways.
    sitting.press("until busybox stty size | grep '37 91'; do :; done\r");
    sitting.read("\n37 91\r\n");
    sitting.press("sleep 4713\r");
    wait_until("the program runs", || runs("sleep 4713"));
    sitting.press("\x03");
    wait_until("Ctrl-C reaches it", || !runs("sleep 4713"));
    sitting.read("$ ");
    sitting.press("echo $?; cat\r");
    sitting.read("\n130\r\n");
    sitting.press("typed\r");
    sitting.read("typed\r\ntyped\r\n");
    sitting.press("\x04");
    sitting.read("$ ");
    sitting.press("exit 3\r");
    assert_eq!(sitting.code(), Some(3));
    nothing_is_left_but_a_server(&place);
}

#[test]
fn a_terminal_that_is_gone_ends_its_shell() {
    needs!();
    let (place, _) = failed();
    let mut sitting = Sitting::start(&place.command(&["debug", "latest"]), (24, 80));
    sitting.read("$ ");
    sitting.press("sleep 4714\r");
    wait_until("the program runs", || runs("sleep 4714"));
    send(sitting.child(), Signal::KILL);
    sitting.code();
    wait_until("the program ends", || !runs("sleep 4714"));
}

#[test]
fn subcommands_and_builds_live_side_by_side() {
    let place = Place::new();
    place.file("Dockerfile", "FROM a\n");
    assert!(
        place
            .run(&["debug", "parse", "Dockerfile"])
            .exits(0)
            .stdout
            .contains("FROM a")
    );
    let help = place.run(&["debug", "--help"]).exits(0).stdout;
    for words in ["parse", "graph", "shell", "ignore", "[BUILD]", "--secret"] {
        assert!(help.contains(words), "{words}: {help}");
    }
    assert!(!place.root().exists());
}
