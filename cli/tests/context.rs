//! `rbuild context ls`: what of a folder a build reads, and why not the rest.

use expect_test::expect;
use serde_json::json;

use crate::support::Place;

fn place() -> Place {
    let place = Place::new();
    place
        .file("Dockerfile", "FROM base\nCOPY src /src\nCOPY big.bin Cargo.* /\n")
        .file(".dockerignore", "# nothing of these\nnode_modules\n*.log\n!keep.log\n")
        .file("src/main.rs", "12345")
        .file("src/deep/lib.rs", "1234567")
        .file("src/a.log", "1")
        .file("Cargo.toml", "123")
        .file("README.md", "1234")
        .file("docs/a", "1")
        .file("docs/b", "22")
        .file("keep.log", "123456")
        .file("other.log", "12")
        .file("node_modules/x/index.js", "123")
        .file("node_modules/y.js", "12")
        .file("big.bin", &"x".repeat(3000));
    place
}

#[test]
fn files_are_listed_by_size_with_the_reason_why_others_are_not_read() {
    let outcome = place().run(&["context", "ls", "--size"]).exits(0);
    expect![[r#"
        SIZE      PATH                      LEFT OUT
        2.92KiB   big.bin
        7B        src/deep/lib.rs
        5B        src/main.rs
        3B        Cargo.toml
        1B        src/a.log
        5B        node_modules/ (2 files)   excluded by `node_modules`, .dockerignore line 2
        2B        other.log                 excluded by `*.log`, .dockerignore line 3
        48B       .dockerignore             not copied by any instruction
        47B       Dockerfile                not copied by any instruction
        6B        keep.log                  not copied by any instruction
        4B        README.md                 not copied by any instruction
        3B        docs/ (2 files)           not copied by any instruction
        a build reads 5 files, 2.94KiB
    "#]]
    .assert_eq(&outcome.stdout);
    assert_eq!(outcome.stderr, "");
}

#[test]
fn without_a_dockerfile_all_that_is_not_ignored_counts() {
    let place = place();
    std::fs::remove_file(place.work().join("Dockerfile")).unwrap();
    place.file(".git/config", "1234567890");
    let outcome = place.run(&["context", "ls"]).exits(0);
    expect![[r#"
        PATH                      LEFT OUT
        big.bin
        .dockerignore
        .git/config
        src/deep/lib.rs
        keep.log
        src/main.rs
        README.md
        Cargo.toml
        docs/b
        docs/a
        src/a.log
        node_modules/ (2 files)   excluded by `node_modules`, .dockerignore line 2
        other.log                 excluded by `*.log`, .dockerignore line 3
        a build reads 11 files, 3.01KiB
    "#]]
    .assert_eq(&outcome.stdout);
    assert_eq!(
        outcome.stderr,
        "help: `.git` is part of it; if it is not needed, add `**/.git` to the ignore file\n"
    );
    assert!(!place.root().exists(), "nobody needs a store for this");
}

#[test]
fn a_file_that_copies_nothing_reads_nothing() {
    let place = place();
    place
        .file("other", "FROM base\nRUN x\n")
        .file("other.dockerignore", "docs\n");
    let outcome = place
        .run(&["context", "ls", "--file=other", "--format=json", "."])
        .exits(0);
    let answer: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(answer["ignore_file"], "other.dockerignore");
    assert_eq!((&answer["sent"], &answer["size_bytes"]), (&json!([]), &json!(0)));
    let excluded = json!([{"path": "docs", "size_bytes": 3, "files": 2, "pattern": "docs", "line": 1}]);
    assert_eq!(answer["excluded"], excluded);
    assert_eq!(answer["unused"][0]["path"], "big.bin");
}

#[test]
fn what_can_not_be_listed_is_told() {
    let place = Place::new();
    let missing = place.run(&["context", "ls", "nowhere"]).exits(2);
    assert_eq!(missing.stderr, "error: `nowhere` is not a directory\n");
    place.file("Dockerfile", "FRM base\n");
    let wrong = place.run(&["context", "ls"]).exits(1);
    assert_eq!(
        wrong.stderr,
        "error: `Dockerfile`: unknown instruction: FRM (did you mean FROM?)\nhelp: `rbuild check` shows where\n"
    );
    place.file("Dockerfile", "FROM base\n").file(".dockerignore", "a[\n");
    let pattern = place.run(&["context", "ls"]).exits(2);
    assert!(
        pattern
            .stderr
            .contains("`.dockerignore`: line 1: syntax error in pattern `a[`"),
        "{}",
        pattern.stderr
    );
}
