//! Stores of earlier versions, as `cargo xtask old-store` made them: each later version opens them.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::path::Path;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;

/// Whether the keys of steps are still made as they were then. A version that makes them otherwise says so here: then steps run
/// again, and nothing else happens.
const SAME_KEYS: bool = true;

/// A place with the archive `name` unpacked: the store, the base image, and what was built.
fn unpacked(name: &str) -> Place {
    let place = Place::new();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testdata/stores")
        .join(name);
    let top = place.root().parent().unwrap().to_owned();
    let (archive, top) = (archive.to_str().unwrap().to_owned(), top.to_str().unwrap().to_owned());
    place.other(
        "tar",
        &[
            "-x",
            "-p",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "-f",
            &archive,
            "-C",
            &top,
        ],
    );
    place
}

const BUILD: [&str; 6] = [
    "--platform=linux/amd64",
    "--build-context=base=oci-layout://../base",
    "--tag=app:1",
    "--output=type=image",
    "--output=type=oci,dest=../image.tar,compression=gzip",
    ".",
];

fn build(place: &Place) -> crate::support::Outcome {
    let mut arguments = vec!["build", "--in-process", "--progress=plain"];
    arguments.extend(BUILD);
    let mut command = place.command(&arguments);
    command.env("SOURCE_DATE_EPOCH", "1700000000");
    place.outcome(command.output().unwrap()).exits(0)
}

#[test]
fn the_store_of_version_1_is_opened_and_answers() {
    needs!();
    let place = unpacked("v1.tar.gz");
    let listed = place.run(&["--in-process", "images"]).exits(0).stdout;
    assert!(listed.contains("app:1"), "{listed}");
    let verified = place.run(&["--in-process", "store", "verify"]).exits(0).stdout;
    assert!(verified.contains("nothing is wrong"), "{verified}");
    assert!(!verified.contains("nothing to compare"), "{verified}");
    let outcome = build(&place);
    if SAME_KEYS {
        assert!(!outcome.summary().contains("DONE"), "{}", outcome.stderr);
        // What the version that wrote the store printed.
        let digest = "sha256:6e15c50e1cdaf63590813671ffd0d8346c8c7c1b81dcea327f7178c6f2a661b8";
        assert_eq!(outcome.digest(), digest);
    }
    let mounts = place.run(&["--in-process", "du", "--verbose"]).exits(0).stdout;
    assert!(mounts.contains("/kept in "), "{mounts}");
    nothing_is_left(&place.root());
}

#[test]
fn what_it_lacks_is_made_again_in_an_old_store() {
    needs!();
    let place = unpacked("v1.tar.gz");
    for kind in ["records", "trees", "aliases"] {
        std::fs::remove_dir_all(place.root().join(kind)).unwrap();
    }
    build(&place);
    assert!(!build(&place).summary().contains("DONE"));
    place.run(&["--in-process", "store", "verify"]).exits(0);
    nothing_is_left(&place.root());
}
