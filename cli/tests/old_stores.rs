//! Stores of earlier versions, as `cargo xtask old-store` made them: each later version opens them.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::path::Path;

use proto::canonical::SCHEMA;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;

/// Stores, and the schema of the keys in each. Where keys are made otherwise by now, steps run again, and nothing else happens.
const STORES: [(&str, u32); 2] = [("v1.tar.gz", 1), ("v2.tar.gz", 2)];

/// What every version so far printed: a change of it is one of the bytes that builds make.
const DIGEST: &str = "sha256:6e15c50e1cdaf63590813671ffd0d8346c8c7c1b81dcea327f7178c6f2a661b8";

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
fn the_store_of_each_version_is_opened_and_answers() {
    needs!();
    for (name, schema) in STORES {
        let place = unpacked(name);
        let listed = place.run(&["--in-process", "images"]).exits(0).stdout;
        assert!(listed.contains("app:1"), "{name}: {listed}");
        let verified = place.run(&["--in-process", "store", "verify"]).exits(0).stdout;
        assert!(verified.contains("nothing is wrong"), "{name}: {verified}");
        assert!(!verified.contains("nothing to compare"), "{name}: {verified}");
        let outcome = build(&place);
        assert_eq!(outcome.digest(), DIGEST, "{name}");
        if schema == SCHEMA {
            assert!(!outcome.summary().contains("DONE"), "{name}: {}", outcome.stderr);
        } else {
            let told = "ran because another version of rbuild made the last result";
            assert!(outcome.stderr.contains(told), "{name}: {}", outcome.stderr);
            assert!(!build(&place).summary().contains("DONE"), "{name}");
        }
        let mounts = place.run(&["--in-process", "du", "--verbose"]).exits(0).stdout;
        assert!(mounts.contains("/kept in "), "{name}: {mounts}");
        nothing_is_left(&place.root());
    }
}

#[test]
fn what_it_lacks_is_made_again_in_an_old_store() {
    needs!();
    for (name, _) in STORES {
        let place = unpacked(name);
        for kind in ["records", "trees", "aliases"] {
            std::fs::remove_dir_all(place.root().join(kind)).unwrap();
        }
        build(&place);
        assert!(!build(&place).summary().contains("DONE"), "{name}");
        place.run(&["--in-process", "store", "verify"]).exits(0);
        nothing_is_left(&place.root());
    }
}
