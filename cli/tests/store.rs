//! A store that is damaged, full, or somebody else's: the next build is right all the same.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use testdata::image::{Image, LayerEntry};
use testdata::machine::Need;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::damage::{damage, files_below};
use crate::support::leaks::nothing_is_left;
use crate::support::server::{end_of, read_until, send, step_started};

const DOCKERFILE: &str = "FROM base\nRUN head -c 100000 /bin/busybox > /made\nCOPY --from=base /etc/passwd /p\n";

/// The layers without times: a step that runs again makes its files at another time.
fn timeless(image: &Image) -> Vec<Vec<LayerEntry>> {
    let timeless = |entry| LayerEntry { mtime: 0, ..entry };
    let layers = 0..image.manifest.layers.len();
    layers
        .map(|number| image.layer(number).into_iter().map(timeless).collect())
        .collect()
}

/// Builds, harms the files below `directories` of the store, and builds again: the image must be whole and hold the same.
fn survives(directories: &[&str], harm: fn(&Path)) {
    let place = Place::new();
    place.dockerfile(DOCKERFILE);
    let before = timeless(&place.image(&["-t=app"]));
    let mut harmed = 0;
    for directory in directories {
        for path in files_below(&place.root().join(directory)) {
            harm(&path);
            harmed += 1;
        }
    }
    assert!(harmed > 0, "nothing is in {directories:?}");
    assert_eq!(timeless(&place.image(&["-t=app"])), before);
    let third = place.build(&["."]).exits(0);
    assert!(!third.summary().contains("DONE"), "repaired for good: {}", third.stderr);
}

#[test]
fn lost_blobs_are_made_again() {
    needs!();
    survives(&["blobs"], |path| std::fs::remove_file(path).unwrap());
}

#[test]
fn lost_or_damaged_trees_are_made_again() {
    needs!();
    survives(&["trees"], |path| std::fs::remove_file(path).unwrap());
    survives(&["trees"], damage);
    survives(&["trees", "blobs"], |path| std::fs::remove_file(path).unwrap());
}

#[test]
fn damaged_records_are_made_again() {
    needs!();
    survives(&["records"], damage);
}

#[test]
fn a_damaged_or_lost_index_is_built_again() {
    needs!();
    let place = Place::new();
    place.dockerfile(DOCKERFILE);
    place.build(&["-t=app", "."]).exits(0);
    for path in files_below(&place.root().join("index")) {
        std::fs::write(path, "no index\n".repeat(1000)).unwrap();
    }
    let summary = place.build(&["."]).exits(0).summary();
    assert!(!summary.contains("DONE"), "{summary}");
    std::fs::remove_dir_all(place.root().join("index")).unwrap();
    let summary = place.build(&["."]).exits(0).summary();
    assert!(!summary.contains("DONE"), "{summary}");
    assert!(
        place
            .run(&["--in-process", "images"])
            .exits(0)
            .stdout
            .contains("app:latest")
    );
}

#[test]
fn a_store_of_another_version_is_refused_and_left_alone() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\n");
    place.build(&["."]).exits(0);
    let version = place.root().join("VERSION");
    std::fs::write(&version, "rbuild store 9.0\n").unwrap();
    place.build(&["."]).exits(3).says("9.0");
    assert_eq!(std::fs::read_to_string(version).unwrap(), "rbuild store 9.0\n");
}

/// Runs a shell script with the store on a small file system that nobody else sees. `$@` builds the file `$1`.
fn on_a_small_disk(place: &Place, script: &str) -> crate::support::Outcome {
    let build = place.build_command(&[]);
    std::fs::create_dir(place.root()).unwrap();
    let mut command = Command::new("/usr/bin/unshare");
    let start = "mount -t tmpfs -o size=32m,mode=0700 none \"$RBUILD_ROOT\" || exit 99\n";
    command.args(["-m", "/bin/sh", "-c", &format!("{start}{script}"), "sh"]);
    command
        .arg(build.get_program())
        .args(build.get_args())
        .current_dir(place.work())
        .env_clear();
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("RBUILD_ROOT", place.root());
    command.env("HOME", place.work()).stdin(Stdio::null());
    place.outcome(command.output().unwrap())
}

#[test]
fn a_full_disk_is_said_plainly_and_the_next_build_works() {
    needs!(Need::Program("/usr/bin/unshare"));
    let place = Place::new();
    place
        .file("step", "FROM base\nRUN dd if=/dev/urandom of=/big bs=1M count=64\n")
        .file("export", "FROM base\nRUN dd if=/dev/urandom of=/big bs=1M count=20\n")
        .file("small", "FROM base\nRUN echo small > /small\n");
    let script = "\"$@\" -f step . ; echo step $?\n\
                  \"$@\" -f export -t big -o type=image,compression=gzip -o type=oci,dest=big.tar . ; echo export $?\n\
                  \"$@\" -f small -o type=oci,dest=small.tar . >/dev/null; echo small $?\n";
    let outcome = on_a_small_disk(&place, script).exits(0);
    let codes: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| !line.starts_with("sha256:"))
        .collect();
    assert_eq!(codes, ["step 1", "export 3", "small 0"], "{}", outcome.stderr);
    assert!(outcome.stderr.contains("No space left on device"), "{}", outcome.stderr);
    assert!(!place.work().join("big.tar").exists(), "half an output");
}

#[test]
fn a_step_that_fills_the_disk_runs_again_when_there_is_something_to_collect() {
    needs!(Need::Program("/usr/bin/unshare"));
    let place = Place::new();
    let step = |name: &str| format!("FROM base\nRUN echo {name} && dd if=/dev/urandom of=/{name} bs=1M count=15\n");
    place.file("first", &step("first")).file("second", &step("second"));
    let script = "\"$@\" -f first . >/dev/null; echo first $?\n\"$@\" -f second . >/dev/null; echo second $?\n";
    let outcome = on_a_small_disk(&place, script).exits(0);
    assert_eq!(outcome.stdout, "first 0\nsecond 0\n", "{}", outcome.stderr);
    assert!(outcome.stderr.contains("make room in the store"), "{}", outcome.stderr);
}

const RANDOM: &str = "FROM base\nARG N\nRUN echo $N; head -c 20000000 /dev/urandom > /big\n";

#[test]
fn a_store_beyond_its_mark_is_collected_after_the_build_and_images_stay() {
    needs!();
    let place = Place::new();
    place
        .file("big", RANDOM)
        .dockerfile("FROM base\nRUN echo small > /small\n");
    place.build(&["-t=app", "."]).exits(0);
    place.build(&["-f=big", "."]).exits(0);
    let size = || {
        let usage = place.run(&["--in-process", "du", "--format=json"]).exits(0).stdout;
        let usage: serde_json::Value = serde_json::from_str(&usage).unwrap();
        usage["total_bytes"].as_u64().unwrap()
    };
    let before = size();
    assert!(before > 20_000_000, "{before}");
    let mut command = place.build_command(&["-f=big", "--build-arg=N=1", "."]);
    // What is free on the machine of the tests must not matter.
    let marks = [
        ("RBUILD_KEEP_STORAGE", "15m"),
        ("RBUILD_RESERVED", "0"),
        ("RBUILD_MIN_FREE", "0"),
    ];
    command.envs(marks);
    let third = place.outcome(command.output().unwrap()).exits(0);
    let after = size();
    let measured = std::fs::read_to_string(place.root().join("usage")).unwrap();
    assert!(
        after < 15 << 20,
        "{before} to {after}, measured as {measured}: {}",
        third.stderr
    );
    assert_eq!(
        place.build(&["."]).exits(0).summary(),
        "CACHED RUN echo small > /small\n"
    );
    nothing_is_left(&place.root());
}

#[test]
fn a_store_at_its_limit_makes_room_once_and_fails_the_build_that_still_does_not_fit() {
    needs!();
    let place = Place::new();
    place
        .file("big", RANDOM)
        .file("huge", "FROM base\nRUN head -c 60000000 /dev/urandom > /huge\n")
        .dockerfile("FROM base\nRUN echo small > /small\n");
    let base = place.base();
    let build = |arguments: &[&str]| {
        let mut command = place.command(&["build", "--progress=plain", &base]);
        command.args(arguments).arg(".").env("RBUILD_MAX_STORAGE", "40m");
        place.outcome(command.output().unwrap())
    };
    build(&["-f=big", "--build-arg=N=1"]).exits(0);
    let server = place.server().unwrap();
    build(&["-f=big", "--build-arg=N=2"])
        .exits(0)
        .says("make room in the store");
    let failed = build(&["-f=huge"]).exits(3);
    assert!(
        failed
            .stderr
            .contains("the store has reached its limit of 41943040 bytes"),
        "{}",
        failed.stderr
    );
    assert!(failed.stderr.contains("rbuild prune --all"), "{}", failed.stderr);
    build(&[]).exits(0);
    assert_eq!(place.server(), Some(server), "the server goes on");
    place.end_server();
    nothing_is_left(&place.root());
}

#[test]
fn a_second_build_waits_for_the_store_and_says_for_whom() {
    needs!();
    let place = Place::new();
    place
        .file("long", "FROM base\nRUN echo started; sleep 3600\n")
        .dockerfile("FROM base\nRUN echo second\n");
    let mut long = place.build_command(&["-f", "long", "."]);
    let mut long = long.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let rest = read_until(&mut long, step_started);
    let mut second = place.build_command(&["."]);
    let mut second = second.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = read_until(&mut second, |line| line.contains("wait"));
    let owner = long.id().to_string();
    send(&long, Signal::INT);
    assert_eq!(end_of(&mut long).code(), Some(130));
    rest.join().unwrap();
    let status = end_of(&mut second);
    let said = said.join().unwrap();
    assert!(status.success(), "{said}");
    assert!(said.contains(&owner), "{said}");
    nothing_is_left(&place.root());
}

#[test]
fn damaged_blobs_are_made_again() {
    needs!();
    survives(&["blobs"], damage);
}

#[test]
fn empty_files_are_made_again() {
    needs!();
    survives(&["blobs", "records", "trees"], |path| {
        drop(std::fs::File::create(path).unwrap());
    });
}

#[test]
fn everything_damaged_at_once_is_made_again() {
    needs!();
    let sealed = ["records", "trees", "preimages", "steps", "aliases", "forms"];
    survives(&sealed, damage);
    survives(&["blobs", "records", "trees", "steps", "forms"], damage);
}
