//! Every reason why a step ran, and `rbuild explain`.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cache::history::Remembered;
use cache::store::{Options, Store};
use serde_json::Value;

use crate::support::build::needs;
use crate::support::{Outcome, Place};

/// Builds, changes something, builds again: what the second build says of its steps.
fn check(dockerfile: &str, change: impl FnOnce(&Place), arguments: &[&str], expected: &str) {
    let place = Place::new();
    place.file("a", "a\n").file("b", "b\n").dockerfile(dockerfile);
    place.build(&["."]).exits(0);
    change(&place);
    let mut all = arguments.to_vec();
    all.push(".");
    assert_eq!(place.build(&all).exits(0).summary(), expected);
}

fn nothing(_: &Place) {}

const CHAIN: &str = "FROM base\nRUN echo one > /one\nRUN echo two > /two\nCOPY a /a\n";

#[test]
fn a_step_that_never_was_is_new_and_those_around_it_are_not() {
    needs!();
    let inserted = "FROM base\nRUN echo one > /one\nRUN echo new > /new\nRUN echo two > /two\nCOPY a /a\n";
    check(
        CHAIN,
        |place| {
            place.dockerfile(inserted);
        },
        &[],
        "CACHED RUN echo one > /one\n\
         DONE RUN echo new > /new: never built before\n\
         DONE RUN echo two > /two: an earlier step ran: RUN echo new > /new\n\
         DONE COPY a /a: an earlier step ran: RUN echo two > /two\n",
    );
}

#[test]
fn a_step_that_was_taken_out_is_named_by_the_one_that_followed_it() {
    needs!();
    check(
        CHAIN,
        |place| {
            place.dockerfile("FROM base\nRUN echo one > /one\nCOPY a /a\n");
        },
        &[],
        "CACHED RUN echo one > /one\n\
         DONE COPY a /a: it follows another step: `RUN echo two > /two` → `RUN echo one > /one`\n",
    );
}

#[test]
fn an_edited_instruction_is_shown_as_it_was_and_as_it_is() {
    needs!();
    check(
        CHAIN,
        |place| {
            place.dockerfile(&CHAIN.replace("echo two", "echo 2"));
        },
        &[],
        "CACHED RUN echo one > /one\n\
         DONE RUN echo 2 > /two: instruction changed: `RUN echo two > /two` → `RUN echo 2 > /two`\n\
         DONE COPY a /a: an earlier step ran: RUN echo 2 > /two\n",
    );
}

#[test]
fn arguments_and_variables_are_named_with_their_values() {
    needs!();
    let dockerfile = "FROM base\nARG V=1\nARG API_TOKEN=x\nRUN echo $V\nENV E=1\nRUN true\n";
    check(
        dockerfile,
        nothing,
        &["--build-arg=V=2"],
        "DONE RUN echo 2: build argument `V` changed: `1` → `2`\n\
         DONE RUN true: build argument `V` changed: `1` → `2`\n",
    );
    check(
        dockerfile,
        |place| {
            place.dockerfile(&dockerfile.replace("E=1", "E=2 F=3"));
        },
        &["--build-arg=API_TOKEN=y", "--build-arg=V=1"],
        "DONE RUN echo 1: build argument `API_TOKEN` changed\n\
         DONE RUN true: build argument `API_TOKEN` changed, environment variable `E` changed: `1` → `2`, \
         environment variable `F` added: `3`\n",
    );
}

#[test]
fn a_step_is_compared_with_the_last_build_even_if_it_did_not_run_there() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nARG V=1\nRUN echo $V\n");
    for (value, expected) in [
        ("1", "DONE RUN echo 1: never built before\n"),
        ("2", "DONE RUN echo 2: build argument `V` changed: `1` → `2`\n"),
        ("1", "CACHED RUN echo 1\n"),
        ("3", "DONE RUN echo 3: build argument `V` changed: `1` → `3`\n"),
    ] {
        let argument = format!("--build-arg=V={value}");
        assert_eq!(place.build(&[&argument, "."]).exits(0).summary(), expected);
    }
}

/// Exports the base image with one more layer, as a layout of its own.
fn layout(place: &Place, name: &str) -> String {
    place.dockerfile(&format!("FROM base\nRUN echo {name} > /{name}\n"));
    assert_eq!(place.image(&[]).manifest.layers.len(), 2);
    let directory = place.base_directory().with_file_name(name);
    std::fs::rename(place.base_directory().with_file_name("image"), &directory).unwrap();
    format!("oci-layout://{}", directory.display())
}

#[test]
fn a_base_image_that_moved_is_told_from_another_one() {
    needs!();
    let place = Place::new();
    let (moved, other) = (layout(&place, "moved"), layout(&place, "other"));
    place.dockerfile("FROM base\nRUN true\n");
    place.build(&["."]).exits(0);
    let base = format!("--build-context=base={moved}");
    let outcome = place
        .run(&["build", "--in-process", "--progress=plain", &base, "."])
        .exits(0);
    assert_eq!(
        outcome.summary(),
        "DONE RUN true: base image `oci-layout://base` moved\n"
    );
    let explained = json(place.run(&["--in-process", "explain", "RUN true", "--json"]));
    let name = "oci-layout://base";
    assert_eq!(
        explained["steps"][0]["differences"],
        serde_json::json!([{"kind": "base-image", "name": "", "change": "changed", "old": name, "new": name}])
    );
    place.dockerfile("FROM other\nRUN true\n");
    let outcome = place.build(&[&format!("--build-context=other={other}"), "."]).exits(0);
    assert_eq!(
        outcome.summary(),
        "DONE RUN true: base image changed: `oci-layout://base` → `oci-layout://other`\n"
    );
}

#[test]
fn files_are_named_with_what_happened_to_them() {
    needs!();
    let mode = |place: &Place, mode| {
        std::fs::set_permissions(place.work().join("b"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    check(
        "FROM base\nCOPY . /c/\n",
        |place| {
            place
                .file("Dockerfile", "FROM base\nCOPY . /c/\n")
                .file("a", "A\n")
                .file("d/e", "");
            mode(place, 0o755);
        },
        &[],
        "DONE COPY . /c/: `a` changed, `b` mode changed (644 → 755), `d` added and 1 more\n",
    );
    check(
        "FROM base\nCOPY [ab] /c/\n",
        |place| std::fs::remove_file(place.work().join("a")).unwrap(),
        &[],
        "DONE COPY [ab] /c/: `a` removed\n",
    );
    let stage = "FROM base AS s\nRUN cp -p /etc/passwd /f; chown 1:2 /f\nFROM base\nCOPY --from=s /f /f\n";
    check(
        stage,
        |place| {
            place.dockerfile(&stage.replace("1:2", "3:4"));
        },
        &[],
        "DONE [s] RUN cp -p /etc/passwd /f; chown 3:4 /f: instruction changed: \
         `RUN cp -p /etc/passwd /f; chown 1:2 /f` → `RUN cp -p /etc/passwd /f; chown 3:4 /f`\n\
         DONE [stage-1] COPY --from=s /f /f: `/f` owner changed (1:2 → 3:4)\n",
    );
}

#[test]
fn what_other_instructions_set_is_named() {
    needs!();
    check(
        "FROM base\nWORKDIR /x\nUSER alice\nRUN true\n",
        |place| {
            place.dockerfile("FROM base\nWORKDIR /x\nUSER root\nRUN true\n");
        },
        &[],
        "CACHED WORKDIR /x\nDONE RUN true: user changed: `alice` → `root`\n",
    );
}

#[test]
fn a_collected_result_is_said_to_be_collected() {
    needs!();
    check(
        CHAIN,
        |place| drop(place.run(&["--in-process", "prune", "--all"]).exits(0)),
        &[],
        "DONE RUN echo one > /one: its result was collected\n\
         DONE RUN echo two > /two: its result was collected\n\
         DONE COPY a /a: its result was collected\n",
    );
}

fn store(place: &Place) -> Store {
    Store::open(&place.root(), &Options::new(std::sync::Arc::new(|| 1))).unwrap()
}

/// Flips a bit in the middle of every file.
fn damage_files_below(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage_files_below(&path);
            continue;
        }
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn a_damaged_result_is_said_to_be_damaged() {
    needs!();
    let place = Place::new();
    place.file("a", "a\n").dockerfile("FROM scratch\nCOPY a /a\n");
    place.image(&[]);
    damage_files_below(&place.root().join("blobs"));
    let output = place.work().with_file_name("again");
    let output = format!("-o=type=oci,tar=false,dest={}", output.display());
    let outcome = place.build(&[&output, "."]).exits(0);
    let copies = outcome.steps();
    assert_eq!(
        copies.last().map(|step| step.reason.as_str()),
        Some("its result was damaged and set aside"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_result_on_another_one_below_is_not_called_collected() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base AS a\nRUN head -c 9 /dev/urandom > /now\nFROM a AS b\nRUN echo b > /b\n");
    place.build(&["."]).exits(0);
    place.build(&["--no-cache", "--target=a", "."]).exits(0);
    assert_eq!(
        place.build(&["."]).exits(0).summary(),
        "CACHED [a] RUN head -c 9 /dev/urandom > /now\n\
         DONE [b] RUN echo b > /b: an earlier step has another result: [a] RUN head -c 9 /dev/urandom > /now\n"
    );
}

#[test]
fn another_platform_is_named() {
    needs!();
    check(
        "FROM scratch\nCOPY a /a\n",
        nothing,
        &["--platform=linux/s390x"],
        &format!(
            "DONE COPY a /a: built for linux/{} only, never for linux/s390x\n",
            match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            }
        ),
    );
}

/// Leaves nothing of what steps made, and nothing that tells that it was there.
fn forget_results(place: &Place) {
    for kind in ["records", "preimages"] {
        std::fs::remove_dir_all(place.root().join(kind)).unwrap();
    }
}

#[test]
fn keys_that_another_version_made_are_not_compared() {
    needs!();
    let project = |place: &Place| {
        let files = std::fs::read_dir(place.root().join("history")).unwrap();
        let directory = files.map(|entry| entry.unwrap().path()).next().unwrap();
        let file = std::fs::read_dir(directory).unwrap().next().unwrap().unwrap();
        file.file_name().to_str().unwrap().parse().unwrap()
    };
    check(
        CHAIN,
        |place| {
            let project = project(place);
            let store = store(place);
            let Remembered::Steps(mut history) = store.histories().of(project) else {
                panic!("no history")
            };
            for series in &mut history.series {
                series.schema = 0;
                series.engine = "0.0.9".to_owned();
                for step in &mut series.steps {
                    step.key = step
                        .key
                        .map(|key| proto::record::CacheKey(proto::digest::ContentDigest::of(key.0.as_bytes())));
                }
            }
            store.histories().put(project, &history).unwrap();
            drop(store);
            forget_results(place);
        },
        &[],
        &["RUN echo one > /one", "RUN echo two > /two", "COPY a /a"]
            .map(|step| {
                format!(
                    "DONE {step}: another version of rbuild: 0.0.9 → {}\n",
                    env!("CARGO_PKG_VERSION")
                )
            })
            .concat(),
    );
}

#[test]
fn what_no_build_remembers_but_was_there_was_collected() {
    needs!();
    let place = Place::new();
    let (one, other) = ("FROM base\nRUN echo one\n", "FROM base\nRUN echo one\nRUN echo two\n");
    for dockerfile in [other, one] {
        place.dockerfile(dockerfile);
        place.build(&["."]).exits(0);
    }
    std::fs::remove_dir_all(place.root().join("records")).unwrap();
    place.dockerfile(other);
    assert_eq!(
        place.build(&["."]).exits(0).summary(),
        "DONE RUN echo one: its result was collected\nDONE RUN echo two: its result was collected\n"
    );
}

#[test]
fn a_build_that_gets_a_name_is_compared_with_the_one_without() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nARG V=1\nRUN echo $V\n");
    place.build(&["."]).exits(0);
    let outcome = place.build(&["-t=app", "--build-arg=V=2", "."]).exits(0);
    assert_eq!(
        outcome.step("RUN echo 2").reason,
        "build argument `V` changed: `1` → `2`"
    );
}

#[test]
fn a_lost_history_is_said_to_be_lost() {
    needs!();
    check(
        "FROM base\nRUN true\n",
        |place| {
            for directory in std::fs::read_dir(place.root().join("history")).unwrap() {
                for file in std::fs::read_dir(directory.unwrap().path()).unwrap() {
                    std::fs::write(file.unwrap().path(), "torn").unwrap();
                }
            }
            forget_results(place);
        },
        &[],
        "DONE RUN true: what it was built from last time is not known any more\n",
    );
}

#[test]
fn no_cache_is_a_reason() {
    needs!();
    check(
        "FROM base\nRUN true\n",
        nothing,
        &["--no-cache"],
        "DONE RUN true: --no-cache\n",
    );
}

fn json(outcome: Outcome) -> Value {
    serde_json::from_slice(&outcome.exits(0).raw_stdout).unwrap()
}

#[test]
fn explain_shows_everything_that_differed() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nARG V=1\nRUN echo $V > /v\nCOPY . /c/\n");
    for number in 0..20 {
        place.file(&format!("src/f{number:02}"), "old");
    }
    place.build(&["."]).exits(0);
    for number in 0..15 {
        place.file(&format!("src/f{number:02}"), "new");
    }
    place.build(&["-t=app", "--build-arg=V=2", "."]).exits(0);
    let explain = |arguments: &[&str]| place.run(&[&["--in-process", "explain"], arguments].concat());
    let all = explain(&[]).exits(0);
    for words in [
        "of Dockerfile for linux/",
        "docker.io/library/app:latest\n",
        "because build argument `V` changed: `1` → `2`\n   - build argument `V` changed: `1` → `2`\n",
        "because `src/f00` changed, `src/f01` changed, `src/f02` changed and 12 more\n   - file `src/f00` changed\n",
        "   - and 6 more\n",
    ] {
        assert!(all.stdout.contains(words), "`{words}` is not in:\n{}", all.stdout);
    }
    let copy = explain(&["COPY"]).exits(0).stdout;
    assert_eq!(copy.matches("   - file `src/f").count(), 15, "{copy}");
    assert!(
        copy.contains("   - earlier step changed: `RUN echo 1 > /v` → `RUN echo 2 > /v`\n"),
        "{copy}"
    );
    assert!(!copy.contains("FROM"), "{copy}");
    let last = json(explain(&["--json"]));
    let steps = last["steps"].as_array().unwrap();
    let copy = steps.iter().find(|step| step["miss"]["reason"] == "files").unwrap();
    assert_eq!(copy["differences"].as_array().unwrap().len(), 16);
    assert_eq!(copy["differences"][14]["name"], "src/f14");
    assert_eq!(steps[0]["cached"], true);
    let number = copy["number"].to_string();
    assert_eq!(
        json(explain(&[&number, "--json"]))["steps"].as_array().unwrap().len(),
        1
    );
    // A build that finds everything is a build, too; the one before it is found by its id.
    place.build(&["--build-arg=V=2", "."]).exits(0);
    let cached = json(explain(&["--json"]));
    assert!(
        cached["steps"]
            .as_array()
            .unwrap()
            .iter()
            .all(|step| step["cached"] == true),
        "{cached}"
    );
    assert_ne!(cached["id"], last["id"]);
    let id = last["id"].as_str().unwrap();
    assert_eq!(json(explain(&[&id[..10], "--json"])), last);
    assert_eq!(json(explain(&[&id[..10], &number, "--json"]))["steps"][0], *copy);
    explain(&["no such step"]).exits(1).says("has no step `no such step`");
}

#[test]
fn a_step_that_failed_says_why_it_ran() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN exit 7\n");
    place.build(&["."]).exits(1).says("ran because never built before\n");
}

#[test]
fn a_failed_build_is_explained_and_the_next_one_is_compared_with_what_was_built() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo fine\n");
    place.build(&["."]).exits(0);
    place.dockerfile("FROM base\nRUN exit 7\n");
    place.build(&["."]).exits(1);
    let failed = place.run(&["--in-process", "explain", "RUN"]).exits(0).stdout;
    let words = "because instruction changed: `RUN echo fine` → `RUN exit 7`\n";
    assert!(failed.contains("failed: ") && failed.contains(words), "{failed}");
    place.dockerfile("FROM base\nRUN echo good\n");
    assert_eq!(
        place.build(&["."]).exits(0).summary(),
        "DONE RUN echo good: instruction changed: `RUN echo fine` → `RUN echo good`\n"
    );
}

#[test]
fn builds_are_counted_and_pruned() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN true\n");
    place.build(&["."]).exits(0);
    let du = json(place.run(&["--in-process", "du", "--format=json"]));
    let rows = du["rows"].as_array().unwrap();
    let builds = rows.iter().find(|row| row["kind"] == "builds").unwrap();
    assert_eq!(builds["count"], 1);
    place.run(&["--in-process", "prune", "--all"]).exits(0);
    place
        .run(&["--in-process", "explain"])
        .exits(1)
        .says("no build is remembered");
}
