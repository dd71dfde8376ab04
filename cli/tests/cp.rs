//! `rbuild cp`: files out of steps and images.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use crate::support::Place;
use crate::support::build::needs;

const DOCKERFILE: &str = "\
FROM base
RUN mkdir -p /d/sub && echo one > /d/a && echo two > /d/sub/b && chmod 640 /d/a && chown 1000:1001 /d/a \\
    && ln /d/a /d/hard && ln -s /etc/passwd /d/absolute && ln -s ../../../../etc/group /d/up && ln -s d /link \\
    && ln -s /link/sub /chain && touch -d @1000000000 /d/a
RUN rm /d/sub/b && echo three > /d/sub/c
";

/// A place with the image `app`, and a build that failed after it.
fn place() -> Place {
    let place = Place::new();
    place.dockerfile(DOCKERFILE);
    let base = place.base();
    place.run(&["build", "-q", &base, "-t", "app:1", "."]).exits(0);
    place.dockerfile(&format!(
        "{DOCKERFILE}RUN echo half > /d/half; rm -r /d/sub; echo more >> /d/hard; exit 1\n"
    ));
    place.run(&["build", "-q", &base, "."]).exits(1);
    place
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_directory_comes_with_modes_times_and_links_as_they_are() {
    needs!();
    let place = place();
    place.run(&["cp", "app:1:/d", "out"]).exits(0);
    let out = place.work().join("out");
    assert_eq!(text(&out.join("a")), "one\n");
    assert_eq!(text(&out.join("sub/c")), "three\n");
    assert!(!out.join("sub/b").exists(), "it was removed in a later layer");
    let facts = std::fs::metadata(out.join("a")).unwrap();
    assert_eq!(
        (facts.permissions().mode() & 0o7777, facts.mtime()),
        (0o640, 1_000_000_000)
    );
    assert_eq!(
        (facts.uid(), facts.ino()),
        (
            rustix::process::geteuid().as_raw(),
            std::fs::metadata(out.join("hard")).unwrap().ino()
        )
    );
    assert_eq!(
        std::fs::read_link(out.join("up")).unwrap(),
        Path::new("../../../../etc/group")
    );
    // Into what is there already, under its own name; then without it.
    place.run(&["cp", "app:1:/d/sub", "out"]).exits(0);
    place.run(&["cp", "app:1:/d/sub/.", "contents"]).exits(0);
    assert_eq!(text(&place.work().join("contents/c")), "three\n");
}

#[test]
fn owners_come_only_if_root_asks_for_them() {
    needs!();
    let place = place();
    place.run(&["cp", "--archive", "app:1:/d/.", "out"]).exits(0);
    let owner = |name: &str| {
        let facts = std::fs::symlink_metadata(place.work().join("out").join(name)).unwrap();
        (facts.uid(), facts.gid())
    };
    assert_eq!((owner("a"), owner("up")), ((1000, 1001), (0, 0)));
}

#[test]
fn files_get_the_name_they_are_given() {
    needs!();
    let place = place();
    std::fs::create_dir(place.work().join("dir")).unwrap();
    place.run(&["cp", "app:1:/d/a", "dir"]).exits(0);
    place.run(&["cp", "app:1:/d/hard", "dir/new"]).exits(0);
    assert_eq!(text(&place.work().join("dir/a")), "one\n");
    assert_eq!(text(&place.work().join("dir/new")), "one\n");
    place
        .run(&["cp", "app:1:/none", "dir"])
        .exits(1)
        .says("there is no `/none`");
    place
        .run(&["cp", "app:1:/d/a/.", "dir"])
        .exits(1)
        .says("is no directory");
    place
        .run(&["cp", "app:1:/d/a", "none/"])
        .exits(2)
        .says("`none/` is no directory");
    place
        .run(&["cp", "none:/d", "dir"])
        .exits(1)
        .says("no image `none` in the store");
    place.run(&["cp", "app", "dir"]).exits(2).says("say BUILD:/path");
}

#[test]
fn links_are_followed_inside_the_root_only() {
    needs!();
    let place = place();
    // On the way always, at the end only if that is asked for.
    place.run(&["cp", "app:1:/chain/c", "c"]).exits(0);
    assert_eq!(text(&place.work().join("c")), "three\n");
    place.run(&["cp", "app:1:/d/up", "up"]).exits(0);
    assert!(place.work().join("up").is_symlink());
    place.run(&["cp", "-L", "app:1:/d/up", "group"]).exits(0);
    let group = text(&place.work().join("group"));
    assert!(
        group.contains("extra:x:2000:alice"),
        "not the one of this machine: {group}"
    );
    place.run(&["cp", "app:1:/../../etc/group", "again"]).exits(0);
    assert_eq!(text(&place.work().join("again")), group);
}

#[test]
fn links_of_the_destination_are_replaced_and_never_followed() {
    needs!();
    let place = place();
    let (work, outside) = (place.work(), place.work().join("outside"));
    std::fs::create_dir_all(work.join("out/d")).unwrap();
    std::fs::write(&outside, "safe").unwrap();
    symlink(&outside, work.join("out/d/a")).unwrap();
    symlink("/", work.join("out/d/sub")).unwrap();
    place.run(&["cp", "app:1:/d", "out"]).exits(1);
    assert_eq!(text(&outside), "safe");
    assert!(!Path::new("/c").exists());
    std::fs::remove_file(work.join("out/d/sub")).unwrap();
    place.run(&["cp", "app:1:/d", "out"]).exits(0);
    assert_eq!(
        (text(&outside), text(&work.join("out/d/a"))),
        ("safe".to_owned(), "one\n".to_owned())
    );
}

#[test]
fn a_dash_is_a_tar_on_stdout() {
    needs!();
    let place = place();
    let outcome = place.run(&["cp", "app:1:/d", "-"]).exits(0);
    let mut archive = tar::Archive::new(outcome.raw_stdout.as_slice());
    let mut found = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        let owner = entry.header().uid().unwrap();
        found.insert(entry.path().unwrap().display().to_string(), (owner, content));
    }
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["d/", "d/a", "d/absolute", "d/hard", "d/sub/", "d/sub/c", "d/up"]
    );
    assert_eq!(found["d/a"], (1000, "one\n".to_owned()));
}

#[test]
fn what_a_failed_step_left_is_copied_too() {
    needs!();
    let place = place();
    place.run(&["cp", "latest:/d", "out"]).exits(0);
    let out = place.work().join("out");
    assert_eq!(text(&out.join("half")), "half\n");
    assert_eq!(text(&out.join("hard")), "one\nmore\n");
    assert!(!out.join("sub").exists());
    place.run(&["cp", "latest/RUN mkdir:/d/sub/b", "b"]).exits(0);
    assert_eq!(text(&place.work().join("b")), "two\n");
    place
        .run(&["cp", "latest/99:/d", "x"])
        .exits(1)
        .says("has no step `99`");
}
