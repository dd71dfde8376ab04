//! `rbuild store verify`: every kind of damage is named and mended, and builds are left in peace.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::build::needs;
use crate::support::damage::{damage, files_below};
use crate::support::leaks::nothing_is_left;
use crate::support::server::{end_of, read_until, step_started};
use crate::support::{Outcome, Place};

/// Leaves something of every kind in a store.
const DOCKERFILE: &str = "FROM base AS made\n\
                          RUN --mount=type=cache,target=/c head -c 100000 /bin/busybox > /made; ln /made /name; rm /etc/passwd\n\
                          FROM base\n\
                          COPY --from=made /made /copy\n\
                          COPY x /x\n\
                          RUN chown 7:8 /x\n\
                          COPY x /last\n";

const BUILD: [&str; 4] = [
    "-t=app",
    "-o=type=image",
    "-o=type=oci,dest=app.tar,compression=gzip",
    ".",
];

fn place() -> Place {
    let place = Place::new();
    place.file("x", "x\n").dockerfile(DOCKERFILE);
    place.build(&BUILD).exits(0);
    place
}

impl Place {
    fn verify(&self, arguments: &[&str]) -> Outcome {
        let mut all = vec!["--in-process", "store", "verify"];
        all.extend_from_slice(arguments);
        self.run(&all)
    }

    fn files_of(&self, directory: &str, end: &str) -> Vec<PathBuf> {
        let mut files = files_below(&self.root().join(directory));
        files.retain(|path| path.to_str().unwrap().ends_with(end));
        assert!(!files.is_empty(), "nothing like `{end}` is in {directory}");
        files
    }
}

#[test]
fn a_whole_store_is_found_whole_and_stays_as_it_is() {
    needs!();
    let place = place();
    for arguments in [&[][..], &["--repair"]] {
        let outcome = place.verify(arguments).exits(0);
        assert!(outcome.stdout.ends_with(": nothing is wrong\n"), "{}", outcome.stdout);
        assert_eq!(outcome.stdout.lines().count(), 1, "{}", outcome.stdout);
    }
    let summary = place.build(&BUILD).exits(0).summary();
    assert!(!summary.contains("DONE"), "{summary}");
    nothing_is_left(&place.root());
}

/// Harms some files, and checks that this is named as `expected`, mended, and no trouble for the next build.
fn check((directory, end): (&str, &str), harm: fn(&Path), expected: &str) {
    let place = place();
    let files = place.files_of(directory, end);
    files.iter().for_each(|path| harm(path));
    for _ in 0..2 {
        let outcome = place.verify(&[]).exits(3);
        assert!(outcome.stdout.contains(expected), "{directory}: {}", outcome.stdout);
    }
    let outcome = place.verify(&["--repair"]).exits(0);
    assert!(outcome.stdout.contains(expected), "{directory}: {}", outcome.stdout);
    assert!(!outcome.stdout.contains("cannot be mended"), "{}", outcome.stdout);
    let outcome = place.verify(&[]).exits(0);
    assert!(outcome.stdout.contains("nothing is wrong"), "{}", outcome.stdout);
    place.build(&BUILD).exits(0);
    let summary = place.build(&BUILD).exits(0).summary();
    assert!(!summary.contains("DONE"), "mended for good: {summary}");
    place.verify(&[]).exits(0);
    nothing_is_left(&place.root());
}

fn lose(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

#[test]
fn damaged_blobs_are_named_with_what_needs_them() {
    needs!();
    check(("blobs", ""), damage, "needed by image app");
    check(("blobs", ""), damage, "COPY x /x");
}

#[test]
fn damaged_small_files_are_named_and_set_aside() {
    needs!();
    let kinds = [
        ("records", "damaged record records/"),
        ("aliases", "damaged alias aliases/"),
        ("preimages", "damaged preimage preimages/"),
        ("forms", "damaged forms forms/"),
        ("history", "damaged history history/"),
        ("builds", "damaged build builds/"),
        ("images", "damaged image images/"),
    ];
    for (directory, expected) in kinds {
        check((directory, ""), damage, expected);
    }
    check(("cachemounts", ".about"), damage, "damaged cache-mount cachemounts/");
}

#[test]
fn damaged_trees_and_snapshots_without_one_are_made_again() {
    needs!();
    check(("trees", ""), damage, "damaged tree trees/");
    check(("trees", ""), lose, "no tree says what is in it");
}

#[test]
fn files_of_snapshots_are_compared_with_their_trees() {
    needs!();
    check(
        ("snapshots", "/fs/made"),
        damage,
        "`/made` has other bytes; needed by step [",
    );
    check(("snapshots", "/fs/made"), lose, "`/made` is gone");
    check(
        ("snapshots", "/fs/x"),
        |path| std::os::unix::fs::chown(path, Some(9), None).unwrap(),
        "`/x` has another owner",
    );
    // A base image that no record names.
    check(("snapshots", "/bin/busybox"), damage, "`/bin/busybox` has other bytes");
}

#[test]
fn what_leads_nowhere_is_named() {
    needs!();
    check(("blobs", ""), lose, "missing record ");
    check(("blobs", ""), lose, "missing image app:latest: its config ");
}

#[test]
fn a_damaged_index_is_made_anew() {
    needs!();
    check(
        ("index", ""),
        |path| std::fs::write(path, "no index\n".repeat(1000)).unwrap(),
        "damaged index index",
    );
}

#[test]
fn findings_and_sum_are_json_if_asked_for() {
    needs!();
    let place = place();
    place.damage_files("images");
    let outcome = place.verify(&["--json"]).exits(3);
    let lines: Vec<serde_json::Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{}", outcome.stdout);
    assert_eq!(lines[0]["wrong"], "damaged");
    assert_eq!(lines[0]["part"], "image");
    assert_eq!(lines[0]["remedy"], "none");
    assert_eq!(lines[1]["open"], 1);
}

#[test]
fn what_is_left_over_in_the_store_of_a_running_server_is_found_and_removed() {
    needs!();
    let place = place();
    let base = place.base();
    let build = |arguments: &[&str]| {
        let mut all = vec!["build", "--progress=plain", base.as_str()];
        all.extend_from_slice(arguments);
        place.run(&all).exits(0)
    };
    build(&["."]);
    let root = place.root();
    std::fs::write(root.join("tmp/file-7777"), "half").unwrap();
    std::fs::create_dir_all(root.join("snapshots/active-7777/fs")).unwrap();
    std::fs::create_dir(root.join("pending-somewhen-3")).unwrap();
    let about = place.files_of("cachemounts", ".about").remove(0);
    let nobody = root.join(format!("cachemounts/{}.about", "0".repeat(64)));
    std::fs::copy(about, nobody).unwrap();
    let expected = [
        "left-over temporary tmp/file-7777: ",
        "left-over snapshot snapshots/active-7777: ",
        "left-over group pending-somewhen-3: ",
        "left-over cache-mount cachemounts/000",
    ];
    let outcome = place.run(&["store", "verify"]).exits(3);
    for line in expected {
        assert!(outcome.stdout.contains(line), "{line}: {}", outcome.stdout);
    }
    place.run(&["store", "verify", "--repair"]).exits(0);
    let outcome = place.run(&["store", "verify"]).exits(0);
    assert!(outcome.stdout.contains("nothing is wrong"), "{}", outcome.stdout);
    build(&["."]);
    nothing_is_left_but_a_server(&root);
    place.end_server();
    nothing_is_left(&root);
}

fn nothing_is_left_but_a_server(store: &Path) {
    assert_eq!(crate::support::leaks::unfinished(store), [""; 0], "files");
}

#[test]
fn a_running_build_is_neither_judged_nor_disturbed() {
    needs!();
    let place = place();
    let base = place.base();
    place.file(
        "long",
        "FROM base\nCOPY x /y\nRUN --mount=type=cache,target=/c head -c 5000 /bin/busybox > /made; echo started; \
             while [ ! -e /c/go ]; do sleep 0.1; done\nRUN cat /made /y > /z\n",
    );
    let mut long = place.command(&["build", "--progress=plain", &base, "-f", "long", "."]);
    let mut long = long.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let rest = read_until(&mut long, step_started);
    for _ in 0..3 {
        let outcome = place.run(&["store", "verify", "--repair"]).exits(0);
        assert!(outcome.stdout.contains("nothing is wrong"), "{}", outcome.stdout);
        assert!(
            outcome.stdout.contains("in use by running builds"),
            "{}",
            outcome.stdout
        );
    }
    let mounts = std::fs::read_dir(place.root().join("cachemounts")).unwrap();
    let mounts: Vec<PathBuf> = mounts
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    assert_eq!(mounts.len(), 1, "that of the step");
    std::fs::write(mounts[0].join("go"), "").unwrap();
    let status = end_of(&mut long);
    assert!(status.success(), "{}", rest.join().unwrap());
    place.run(&["store", "verify"]).exits(0);
    place.end_server();
    nothing_is_left(&place.root());
}
