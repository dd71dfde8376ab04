//! Several builds of one Dockerfile on one server at the same time.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rustix::process::Signal;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;
use crate::support::server::{end_of, read_until, send, step_started};

/// A build on the server of the place.
fn start(place: &Place) -> Child {
    let mut command = place.command(&["build", "--progress=plain", &place.base(), "."]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A file that steps wrote into the only cache mount of the place.
fn mounted(place: &Place, name: &str) -> Option<PathBuf> {
    let mut open = vec![place.root().join("cachemounts")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).ok()? {
            let entry = entry.unwrap();
            if entry.file_name() == name {
                return Some(entry.path());
            }
            open.extend(entry.file_type().unwrap().is_dir().then(|| entry.path()));
        }
    }
    None
}

#[test]
fn eight_builds_at_once_run_each_step_once_and_have_one_result() {
    needs!();
    let place = Place::new();
    place.file("x", "x\n").dockerfile(
        "FROM base AS made\nCOPY x /x\n\
         RUN --mount=type=cache,target=/c echo made >> /c/lines; cat /proc/sys/kernel/random/uuid > /uuid\n\
         FROM base\nCOPY --from=made /uuid /uuid\n\
         RUN --mount=type=cache,target=/c echo last >> /c/lines\n",
    );
    let builds: Vec<Child> = (0..8).map(|_| start(&place)).collect();
    let outcomes = builds.into_iter().map(|build| build.wait_with_output().unwrap());
    let digests: BTreeSet<String> = outcomes.map(|output| place.outcome(output).exits(0).digest()).collect();
    assert_eq!(digests.len(), 1, "{digests:?}");
    let lines = std::fs::read_to_string(mounted(&place, "lines").unwrap()).unwrap();
    assert_eq!(lines, "made\nlast\n");
    place.end_server();
    nothing_is_left(&place.root());
}

#[test]
fn a_step_of_a_canceled_build_goes_on_for_the_build_that_waits_for_it() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nRUN --mount=type=cache,target=/c echo once >> /c/lines; echo started; \
         until test -e /c/go; do sleep 0.05; done\n",
    );
    let mut first = start(&place);
    let said = read_until(&mut first, step_started);
    let mut second = start(&place);
    // What it takes from the cache is told when it begins to work on the rest.
    let rest = read_until(&mut second, |line| line.ends_with(" CACHED"));
    send(&first, Signal::INT);
    assert_eq!(end_of(&mut first).code(), Some(130));
    said.join().unwrap();
    let lines = mounted(&place, "lines").unwrap();
    std::fs::write(lines.with_file_name("go"), "").unwrap();
    let ended = end_of(&mut second);
    let told = rest.join().unwrap();
    assert!(ended.success(), "{told}");
    assert!(
        told.lines().any(|line| line.ends_with(" started")),
        "who waits sees what the step prints: {told}"
    );
    place.end_server();
    nothing_is_left(&place.root());
}
