//! Files of snapshots, and trees, that are lost or have other bytes: whatever reads them, the next build is right.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::path::{Path, PathBuf};

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::{nothing_is_left, unfinished};
use crate::support::server::wait_until;

/// Makes a file that is nowhere but in the snapshot of its step.
const MADE: &str = "FROM base AS made\nRUN head -c 100000 /bin/busybox > /made\n";

/// What can happen to a file.
const HARMS: [fn(&Path); 2] = [flip, lose];

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn lose(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

/// The files below `directory` whose path ends with `name`.
fn files(directory: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path(), name));
        } else if entry.path().to_str().unwrap().ends_with(name) {
            found.push(entry.path());
        }
    }
    found
}

/// A place where `first` was built and every file of that name in `directory` of the store was harmed.
fn harmed(first: &str, (directory, name): (&str, &str), harm: fn(&Path)) -> Place {
    let place = Place::new();
    place.file("x", "x\n").dockerfile(first);
    place.build(&["."]).exits(0);
    let victims = files(&place.root().join(directory), name);
    assert!(!victims.is_empty(), "no `{name}` in {directory}");
    victims.iter().for_each(|path| harm(path));
    place
}

/// The files that `dockerfile` exports from `place`; the build after it has nothing left to repair.
fn exported(place: &Place, dockerfile: &str, name: &str) -> Vec<u8> {
    place.dockerfile(dockerfile);
    let directory = place.work().join("out");
    let output = format!("--output=type=local,dest={}", directory.display());
    place.build(&[&output, "."]).exits(0);
    let bytes = std::fs::read(directory.join(name)).unwrap();
    std::fs::remove_dir_all(directory).unwrap();
    let summary = place.build(&["."]).exits(0).summary();
    assert!(!summary.contains("DONE"), "repaired for good: {summary}");
    bytes
}

fn made() -> Vec<u8> {
    let mut bytes = std::fs::read("/bin/busybox").unwrap();
    bytes.truncate(100_000);
    bytes
}

#[test]
fn a_copy_from_a_damaged_snapshot_runs_its_step_again() {
    needs!();
    for harm in HARMS {
        let place = harmed(MADE, ("snapshots", "/fs/made"), harm);
        let copies = format!("{MADE}FROM base\nCOPY --from=made /made /copy\n");
        assert_eq!(exported(&place, &copies, "copy"), made());
    }
}

#[test]
fn an_export_of_a_damaged_snapshot_runs_its_step_again() {
    needs!();
    for harm in HARMS {
        let place = harmed(MADE, ("snapshots", "/fs/made"), harm);
        assert_eq!(exported(&place, MADE, "made"), made());
        let place = harmed(MADE, ("snapshots", "/fs/made"), harm);
        let image = place.image(&[]);
        let top = image.layer(image.manifest.layers.len() - 1);
        let file = top.iter().find(|entry| entry.path == "made").unwrap();
        assert_eq!(file.content, made());
    }
}

#[test]
fn steps_on_a_layer_without_its_tree_run_it_again() {
    needs!();
    let steps = [
        "RUN wc -c < /made > /size\n",
        "COPY x /x\nRUN wc -c < /made > /size\n",
        "FROM base\nRUN --mount=from=made,target=/m wc -c < /m/made > /size\n",
    ];
    for step in steps {
        for harm in HARMS {
            let place = harmed(MADE, ("trees", ""), harm);
            assert_eq!(exported(&place, &format!("{MADE}{step}"), "size"), b"100000\n");
        }
    }
    let place = harmed(MADE, ("trees", ""), lose);
    assert_eq!(exported(&place, MADE, "made"), made());
}

#[test]
fn owners_are_looked_up_in_the_database_that_the_image_has() {
    needs!();
    let run = "FROM base\nRUN true\n";
    for harm in HARMS {
        let place = harmed(run, ("snapshots", "/fs/etc/passwd"), harm);
        let copies = format!("{run}COPY --chown=alice x /x\n");
        place.dockerfile(&copies);
        let owner = |place: &Place| {
            let image = place.image(&[]);
            let top = image.layer(image.manifest.layers.len() - 1);
            top.iter().find(|entry| entry.path == "x").unwrap().owner
        };
        let found = owner(&place);
        let whole = Place::new();
        whole.file("x", "x\n").dockerfile(&copies);
        assert_eq!(found, owner(&whole));
        assert_ne!(found.0, 0, "alice is somebody");
    }
}

#[test]
fn an_image_that_lost_a_layer_is_not_built_on() {
    needs!();
    let place = Place::new();
    place.dockerfile(MADE);
    place.build(&["-t=127.0.0.1:1/app", "."]).exits(0);
    for snapshot in files(&place.root().join("snapshots"), "/fs/made") {
        lose(&snapshot);
    }
    place.dockerfile("FROM 127.0.0.1:1/app\nCOPY --from=127.0.0.1:1/app /made /copy\n");
    let outcome = place.build(&["."]);
    assert!(outcome.code == Some(4), "{:?} {}", outcome.code, outcome.stderr);
    assert!(outcome.stderr.contains("127.0.0.1:1"), "{}", outcome.stderr);
}

#[test]
fn a_damaged_snapshot_takes_no_room_once_nobody_uses_it() {
    needs!();
    let place = harmed(MADE, ("snapshots", "/fs/made"), flip);
    let base = place.base();
    place.dockerfile(&format!("{MADE}FROM base\nCOPY --from=made /made /copy\n"));
    place.run(&["build", "--progress=plain", &base, "."]).exits(0);
    let server = place.server();
    assert!(server.is_some(), "the server goes on");
    wait_until("the damaged snapshot is removed", || {
        unfinished(&place.root()).is_empty()
    });
    assert_eq!(place.server(), server);
    place.end_server();
    nothing_is_left(&place.root());
}
