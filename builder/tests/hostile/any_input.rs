//! The fuzz targets, with a few damaged inputs each: what they ask for holds in every run of the tests.

use std::time::Duration;

use testdata::fuzz::try_some;
use testdata::machine::{Need, lacks};

#[expect(
    dead_code,
    unreachable_pub,
    reason = "a crate of its own, which libFuzzer needs more of than tests do"
)]
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

/// Damaged inputs for each target, if nobody asks for more.
const RUNS: u64 = 100;

/// Longer with `RBUILD_TEST_FUZZ_SECONDS`, for each target.
#[expect(
    clippy::disallowed_methods,
    reason = "only tests ask for this variable, and cli's configuration is not in here"
)]
#[expect(clippy::print_stderr, reason = "a long search tells what it did")]
fn check(name: &str) {
    if name == "unpack" && lacks("r08_any_input_unpack", &[Need::Root]) {
        return;
    }
    let seconds = std::env::var("RBUILD_TEST_FUZZ_SECONDS").ok();
    let seconds = seconds.map_or(0, |seconds| seconds.parse().unwrap());
    let target = fuzz::TARGETS.iter().find(|target| target.name == name).unwrap();
    let done = try_some(target, 1 + seconds, RUNS, Duration::from_secs(seconds));
    eprintln!("{name}: {done} inputs");
}

#[test]
fn l02_no_layer_reaches_what_is_beside_its_directory() {
    check("unpack");
}

#[test]
fn l05_any_tar_is_a_tree_or_refused() {
    check("layer");
}

#[test]
fn l12_any_document_has_one_meaning_or_none() {
    check("documents");
}

#[test]
fn r08_any_message_of_a_client_is_understood_or_refused() {
    check("requests");
}

#[test]
fn s04_any_record_is_a_record_or_a_miss() {
    check("records");
}
