//! Values of secrets are in no log, no error, no file and no environment, however a step prints them.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::path::Path;
use std::process::Command;

use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;
use crate::support::{Outcome, Place};

const VALUE: &str = "s3cr3t/value+of&the-step";
/// Of [`VALUE`], with and without a line break, and after one more byte.
const BASE64: [&str; 3] = [
    "czNjcjN0L3ZhbHVlK29mJnRoZS1zdGVw",
    "czNjcjN0L3ZhbHVlK29mJnRoZS1zdGVwCg",
    "M2NyM3QvdmFsdWUrb2YmdGhlLXN0ZX",
];
const PERCENT: &str = "s3cr3t%2Fvalue%2Bof%26the-step";

fn has_secret(bytes: &[u8]) -> Option<&'static str> {
    let all = BASE64.into_iter().chain([VALUE, PERCENT]);
    all.into_iter()
        .find(|text| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[track_caller]
fn is_clean(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            is_clean(&entry.path());
        } else if kind.is_file() {
            let found = has_secret(&std::fs::read(entry.path()).unwrap());
            assert_eq!(found, None, "{}", entry.path().display());
        }
    }
}

fn build(place: &Place, flags: &[&str]) -> Command {
    let base = place.base();
    let mut command = place.command(&[
        "build",
        &base,
        "--secret=id=token,src=token",
        "--secret=id=word,env=WORD",
    ]);
    command.args(flags).arg(".").env("WORD", VALUE);
    command
}

#[track_caller]
fn outcome(place: &Place, mut command: Command) -> Outcome {
    let output = command.output().unwrap();
    for stream in [&output.stdout, &output.stderr] {
        assert_eq!(has_secret(stream), None, "{}", String::from_utf8_lossy(stream));
    }
    place.outcome(output)
}

/// Prints a secret as programs do by mistake; `$1` is the value.
const PRINTS: &str = "print() {\n\
    echo \"plain $1 end\"\n\
    echo \"err $1\" >&2\n\
    printf %s \"$1\" | base64\n\
    echo \"$1\" | base64 -w0; echo\n\
    printf 'x%s' \"$1\" | base64\n\
    echo \"$1\" | sed 's,/,%2F,;s,+,%2B,;s,&,%26,'\n\
    printf 's3cr3t/val'; cat /proc/uptime > /dev/null; printf 'ue+of&the-step\\n'\n\
}\n";

#[test]
fn a_secret_that_steps_print_is_nowhere() {
    needs!();
    let place = Place::new();
    place.file("token", &format!("{VALUE}\n")).file("prints", PRINTS);
    place.dockerfile(
        "FROM base\nCOPY prints /prints\n\
         RUN --mount=type=secret,id=token . /prints && print \"$(cat /run/secrets/token)\" && cat /run/secrets/token\n\
         RUN --mount=type=secret,id=word,env=WORD . /prints && print \"$WORD\" && env | grep WORD\n",
    );
    for progress in ["plain", "json", "rawjson"] {
        let flags = [&format!("--progress={progress}"), "--no-cache", "-t=app"];
        let outcome = outcome(&place, build(&place, &flags)).exits(0);
        if progress == "plain" {
            let log = &outcome.steps()[1].log;
            let encoded: Vec<&str> = log.lines().filter(|line| line.contains("***")).collect();
            assert_eq!(encoded.len(), 8, "{log}");
            assert!(log.starts_with("plain *** end\nerr ***\n***\n***\n"), "{log}");
            assert_eq!(outcome.steps()[2].log.lines().last(), Some("WORD=***"));
        }
    }
    for arguments in [
        &["history", "app"][..],
        &["inspect", "app"],
        &["explain", "--json"],
        &["du", "--verbose"],
    ] {
        outcome(&place, place.command(arguments)).exits(0);
    }
    let server = place.server().unwrap().as_raw_nonzero();
    for file in ["environ", "cmdline"] {
        let bytes = std::fs::read(format!("/proc/{server}/{file}")).unwrap();
        assert_eq!(has_secret(&bytes), None, "{file}");
    }
    is_clean(&place.root());
    place.end_server();
    is_clean(&place.root());
    nothing_is_left(&place.root());
}

#[test]
fn a_step_that_fails_with_a_secret_on_its_lips_does_not_tell_it() {
    needs!();
    let place = Place::new();
    place.file("token", VALUE);
    place.dockerfile(
        "FROM base\nRUN --mount=type=secret,id=token printf 'denied: %s' \"$(cat /run/secrets/token)\" >&2; exit 1\n",
    );
    let failed = outcome(&place, build(&place, &["--progress=plain"])).exits(1);
    let tail = failed.says("denied: ***\n------\nerror: ");
    assert!(tail.stderr.contains("exit code: 1"), "{}", tail.stderr);
    let explained = outcome(&place, place.command(&["explain", "--json"])).exits(0);
    assert!(explained.stdout.contains("exit code: 1"), "{}", explained.stdout);
    place.end_server();
    is_clean(&place.root());
}

#[test]
fn each_line_of_a_secret_counts_and_short_values_do_not() {
    needs!();
    let place = Place::new();
    place
        .file("key", "first line of it\nsecond-line-of-it\n")
        .file("pin", "1234567");
    place.dockerfile(
        "FROM base\nRUN --mount=type=secret,id=key --mount=type=secret,id=pin \
         tail -n 1 /run/secrets/key; cat /run/secrets/pin; echo; echo first line\n",
    );
    let flags = ["--secret=id=key,src=key", "--secret=id=pin,src=pin"];
    assert_eq!(place.steps(&flags)[0].log, "***\n1234567\nfirst line\n");
}

#[test]
fn a_build_argument_that_looks_like_a_credential_warns() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nARG API_TOKEN\nRUN echo a\n");
    place
        .build(&["--build-arg=API_TOKEN=x", "."])
        .exits(0)
        .says("SecretsUsedInArgOrEnv")
        .says("(ARG \"API_TOKEN\")");
}
