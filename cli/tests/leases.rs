//! What a running build uses stays in the store, whoever prunes it meanwhile.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;
use crate::support::server::{end_of, read_until, step_started};

/// What the first build makes and the second finds.
const FOUND: &str = "FROM base AS found\nRUN echo one > /one\nCOPY two /two\n";

/// The second build waits in the middle, then reads everything that it found, in all the ways there are.
const WAITS: &str = "\
FROM found AS waits
RUN --mount=type=cache,id=gate,target=/gate touch /gate/here; echo started; until test -e /gate/go; do sleep 0.05; done; \
    cat /one /two && busybox true && touch /waited
FROM base
COPY --from=waits /waited /
COPY --from=found /one /two /
RUN --mount=from=found,target=/found cat /found/one /found/two > /both
";

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = std::fs::read_dir(directory).ok()?.map(Result::unwrap).collect();
    let here = entries
        .iter()
        .find(|entry| entry.file_name() == name)
        .map(|entry| entry.path());
    here.or_else(|| entries.iter().find_map(|entry| find(&entry.path(), name)))
}

#[test]
fn pruning_takes_nothing_from_a_build_that_runs() {
    needs!();
    let place = Place::new();
    place.file("two", "two\n").dockerfile(FOUND);
    let base = place.base();
    place.run(&["build", &base, "."]).exits(0);
    place.dockerfile(&format!("{FOUND}{WAITS}"));
    let output = place.work().join("out");
    let dest = format!("--output=type=local,dest={}", output.display());
    let mut command = place.command(&["build", "--progress=plain", &base, &dest, "."]);
    let mut build = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = read_until(&mut build, step_started);
    place.run(&["prune", "--all"]).exits(0);
    let here = find(&place.root().join("cachemounts"), "here").expect("the step made it");
    std::fs::write(here.with_file_name("go"), "").unwrap();
    let status = end_of(&mut build);
    let said = said.join().unwrap();
    assert!(status.success(), "{said}");
    assert!(!said.contains("ran because its result was collected"), "{said}");
    assert_eq!(std::fs::read_to_string(output.join("both")).unwrap(), "one\ntwo\n");
    assert!(output.join("waited").exists() && output.join("one").exists());
    place.run(&["prune", "--all"]).exits(0);
    let usage = place.run(&["du"]).exits(0).stdout;
    let snapshots = usage
        .lines()
        .find(|line| line.starts_with("snapshots"))
        .unwrap()
        .to_owned();
    assert_eq!(
        snapshots.split_whitespace().nth(1),
        Some("0"),
        "the lease ended with its build: {usage}"
    );
    place.end_server();
    nothing_is_left(&place.root());
}

#[test]
fn builds_are_right_while_all_else_is_pruned_again_and_again() {
    needs!();
    let place = Place::new();
    place.file("two", "two\n").dockerfile(
        "FROM base AS a\nARG N\nRUN echo one > /one\nCOPY two /two\nRUN echo $N > /n\n\
         FROM base\nRUN cat /etc/passwd > /p\nCOPY --from=a /one /two /n /\n\
         RUN --mount=from=a,target=/a cat /a/one /a/two /n > /all\n",
    );
    let base = place.base();
    for round in 0..3 {
        let start = |number: u32| {
            let dest = format!("--output=type=local,dest=out{number}");
            let argument = format!("--build-arg=N={round}.{number}");
            let mut command = place.command(&["build", "--progress=plain", &base, &dest, &argument, "."]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut builds: Vec<_> = (0..4).map(start).collect();
        while builds.iter_mut().any(|build| build.try_wait().unwrap().is_none()) {
            place.run(&["prune", "--all"]).exits(0);
        }
        for (number, build) in builds.into_iter().enumerate() {
            place.outcome(build.wait_with_output().unwrap()).exits(0);
            let all = std::fs::read_to_string(place.work().join(format!("out{number}/all"))).unwrap();
            assert_eq!(all, format!("one\ntwo\n{round}.{number}\n"));
        }
    }
    place.end_server();
    nothing_is_left(&place.root());
}
