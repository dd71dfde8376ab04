//! Every way of writing, stopped at every step: by a kill, by a loss of power, by a full disk, by a disk that fails.
//!
//! `RBUILD_TEST_ROUNDS` says how many losses of power are tried at each step.
#![expect(clippy::unwrap_used, reason = "a step of a test that cannot be done fails the test")]

mod disk;
#[path = "../samples/mod.rs"]
mod samples;
mod scenario;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use disk::{Draw, Failure, Journal, Tape, come_up};
use scenario::{Expected, Promise, Promises, build, check, check_files, open, run};

/// Losses of power at each step, unless told otherwise.
const ROUNDS: u32 = 4;

/// In memory if that can be: these tests sync thousands of times.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the environment of the tests, not of the program"
)]
fn rounds() -> u32 {
    std::env::var("RBUILD_TEST_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap())
}

fn tape(root: &Path, failure: Option<Failure>) -> Arc<Tape> {
    Arc::new(Tape::new(root, failure))
}

/// The store comes up, keeps its promises, and works on.
fn comes_back(root: &Path, boot: &str, expected: &Expected, told: &str) {
    let whole = tape(root, None);
    let store = open(root, boot, &whole).unwrap_or_else(|error| panic!("{told}: {error}"));
    check_files(&store, expected, told);
    check(&store, expected, told);
    build(&store, "after").unwrap();
    store.commit_group().unwrap();
    drop(store);
    let store = open(root, "one more boot", &whole).unwrap();
    let mut expected = expected.clone();
    expected.promises.push(Promise::Build("after"));
    check(&store, &expected, told);
}

/// What the machine came up with is opened by a process that dies, too, and then by one that lives.
fn check_after(ops: &[disk::Op], journal: Journal, seed: u32, expected: &Expected) {
    let told = format!("{} steps, {journal:?}, seed {seed}, last {:?}", ops.len(), ops.last());
    let dir = directory();
    let root = dir.path().join("store");
    std::fs::create_dir(&root).unwrap();
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut draw = Draw(u64::from(seed) * 1_000_003 + ops.len() as u64);
    come_up(ops, journal, &mut draw, &root);
    let boot = match journal {
        Journal::Kept => "boot",
        Journal::Ordered | Journal::Loose => "another boot",
    };
    let killed = Failure {
        at: draw.below(12),
        kind: ErrorKind::Other,
        lasting: true,
    };
    drop(open(&root, boot, &tape(&root, Some(killed))));
    comes_back(&root, boot, expected, &told);
}

/// All steps of the scenario, and what was promised after how many of them.
fn recorded() -> (Vec<disk::Op>, Promises) {
    let dir = directory();
    let root = dir.path().join("store");
    let tape = tape(&root, None);
    let store = open(&root, "boot", &tape).unwrap();
    let promises = run(&store, &tape);
    drop(store);
    let ops = tape.ops();
    assert!(ops.len() > 150, "only {} steps", ops.len());
    (ops, promises)
}

#[test]
fn a_kill_at_any_step_loses_no_promise() {
    let (ops, promises) = recorded();
    for steps in 0..=ops.len() {
        check_after(&ops[..steps], Journal::Kept, 0, &promises.after(steps, Journal::Kept));
    }
}

#[test]
fn a_loss_of_power_at_any_step_loses_no_promise_and_shows_nothing_torn() {
    let (ops, promises) = recorded();
    for steps in 0..=ops.len() {
        for seed in 0..rounds() {
            for journal in [Journal::Ordered, Journal::Loose] {
                check_after(&ops[..steps], journal, seed, &promises.after(steps, journal));
            }
        }
    }
}

/// Runs the scenario with a failure at every step, one after the other; a lasting one ends before the store is looked at.
fn fail_everywhere(kind: ErrorKind, lasting: bool) {
    let mut at = 0;
    // Those that a failure leaves out make the tape shorter, never longer.
    let steps_of_all = recorded().0.len();
    while at <= steps_of_all {
        let dir = directory();
        let root = dir.path().join("store");
        let told = format!("{kind:?} at step {at}, lasting: {lasting}");
        let tape = tape(&root, Some(Failure { at, kind, lasting }));
        let opened = open(&root, "boot", &tape);
        let promises = match &opened {
            Ok(store) => run(store, &tape),
            Err(_) => Promises::default(),
        };
        let expected = promises.after(tape.position(), Journal::Kept);
        tape.heal();
        if let Ok(store) = opened {
            // The server goes on: what failed can be done again.
            check(&store, &expected, &told);
            build(&store, "two").unwrap_or_else(|error| panic!("{told}: {error}"));
            store.commit_group().unwrap_or_else(|error| panic!("{told}: {error}"));
            check(&store, &expected, &told);
        }
        comes_back(&root, "boot", &expected, &told);
        at += 1;
    }
}

#[test]
fn a_disk_that_is_full_once_at_any_step_is_survived() {
    fail_everywhere(ErrorKind::StorageFull, false);
}

#[test]
fn a_disk_that_is_full_from_any_step_on_is_survived() {
    fail_everywhere(ErrorKind::StorageFull, true);
}

#[test]
fn a_disk_that_fails_once_at_any_step_is_survived() {
    fail_everywhere(ErrorKind::Other, false);
}
