//! What is reused, what runs again, and why.

use std::process::Command;

use crate::support::Place;
use crate::support::build::needs;

const CHAIN: &str = "\
FROM base
RUN echo first > /first
COPY deps.txt /app/
RUN cat /app/deps.txt > /installed
COPY . /app/
RUN cat /app/main.txt > /compiled
";

fn chain() -> Place {
    let place = Place::new();
    place
        .dockerfile(CHAIN)
        .file("deps.txt", "deps\n")
        .file("main.txt", "main\n");
    place.build(&["."]).exits(0);
    place
}

#[test]
fn a_changed_file_runs_its_copy_and_what_follows_and_is_named() {
    needs!();
    let place = chain();
    place.file("main.txt", "Main\n");
    assert_eq!(
        place.build(&["."]).exits(0).summary(),
        "CACHED RUN echo first > /first\n\
         CACHED COPY deps.txt /app/\n\
         CACHED RUN cat /app/deps.txt > /installed\n\
         DONE COPY . /app/: `main.txt` changed\n\
         DONE RUN cat /app/main.txt > /compiled: an earlier step ran: COPY . /app/\n"
    );
    place.file("extra.txt", "").file("deps.txt", "more\n");
    let outcome = place.build(&["."]).exits(0);
    assert_eq!(outcome.step("COPY deps.txt /app/").reason, "`deps.txt` changed");
    let reason = outcome.step("COPY . /app/").reason;
    assert_eq!(reason, "`deps.txt` changed, `extra.txt` added");
    std::fs::remove_file(place.work().join("extra.txt")).unwrap();
    let outcome = place.build(&["."]).exits(0);
    assert_eq!(outcome.step("COPY . /app/").reason, "`extra.txt` removed");
}

#[test]
fn a_changed_argument_runs_only_the_steps_that_see_it() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN echo before\nARG V=1\nRUN echo $V\n");
    place.build(&["."]).exits(0);
    assert_eq!(
        place.build(&["--build-arg=V=2", "."]).exits(0).summary(),
        "CACHED RUN echo before\nDONE RUN echo 2: build argument `V` changed: `1` → `2`\n"
    );
    assert!(
        !place.build(&["."]).exits(0).summary().contains("DONE"),
        "the first result is still there"
    );
}

#[test]
fn an_edit_that_keeps_size_and_time_is_seen() {
    needs!();
    let place = chain();
    let path = place.work().join("main.txt");
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, "niam\n").unwrap();
    std::fs::File::open(&path).unwrap().set_modified(modified).unwrap();
    let outcome = place.build(&["."]).exits(0);
    assert_eq!(outcome.step("COPY . /app/").reason, "`main.txt` changed");
}

#[test]
fn times_and_order_of_files_change_nothing() {
    needs!();
    let place = chain();
    for name in ["deps.txt", "main.txt"] {
        let path = place.work().join(name);
        let content = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, content).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000))
            .unwrap();
    }
    let summary = place.build(&["."]).exits(0).summary();
    assert!(!summary.contains("DONE"), "{summary}");
    assert_eq!(summary.lines().count(), 5);
}

#[test]
fn modes_as_git_knows_them_make_checkouts_alike() {
    let place = Place::new();
    place.dockerfile("FROM scratch\nCOPY src /src/\n");
    place.file("src/f", "x").file("src/program", "x");
    let build = |umask: u32, modes: &str| {
        use std::os::unix::fs::PermissionsExt;
        for (name, mode) in [("src/f", 0o666), ("src/program", 0o777), ("src", 0o777)] {
            let permissions = std::fs::Permissions::from_mode(mode & !umask);
            std::fs::set_permissions(place.work().join(name), permissions).unwrap();
        }
        let mode = format!("--context-modes={modes}");
        place.build(&[&mode, "."]).exits(0).step("COPY src /src/").status
    };
    assert_eq!(build(0o002, "git"), "DONE");
    assert_eq!(build(0o077, "git"), "CACHED");
    // What git would keep is what is there.
    assert_eq!(build(0o022, "disk"), "CACHED");
    assert_eq!(build(0o077, "disk"), "DONE");
}

#[test]
fn no_cache_runs_every_step() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base AS a\nRUN echo a > /a\nFROM base AS b\nRUN echo b > /b\nCOPY --from=a /a /a\n");
    place.build(&["."]).exits(0);
    let outcome = place.build(&["--no-cache", "."]).exits(0);
    for step in outcome.steps() {
        assert_eq!(
            (step.status.as_str(), step.reason.as_str()),
            ("DONE", "--no-cache"),
            "{}",
            step.name
        );
    }
}

#[test]
fn an_ignored_file_changes_nothing() {
    needs!();
    let place = chain();
    place.file(".dockerignore", "*.log\n.dockerignore\n");
    place.build(&["."]).exits(0);
    place.file("noise.log", "x").file("sub/noise.log", "y");
    let outcome = place.build(&["."]).exits(0);
    // The pattern is not anchored: `sub` itself is new, the file in it is the one that counts.
    assert_eq!(outcome.step("COPY . /app/").status, "DONE");
    std::fs::remove_dir_all(place.work().join("sub")).unwrap();
    assert!(!place.build(&["."]).exits(0).summary().contains("DONE"));
}

#[test]
fn a_copy_from_a_stage_whose_result_is_the_same_is_reused() {
    needs!();
    let place = Place::new();
    place.file("in", "a").dockerfile(
        "FROM base AS make\nCOPY in /in\nRUN wc -c < /in > /size\nFROM base\nCOPY --from=make /size /\nRUN cat /size\n",
    );
    place.build(&["."]).exits(0);
    place.file("in", "b");
    let outcome = place.build(&["."]).exits(0);
    assert_eq!(outcome.step("COPY in /in").reason, "`in` changed");
    assert_eq!(outcome.step("COPY --from=make /size /").status, "CACHED");
    assert_eq!(outcome.step("RUN cat /size").status, "CACHED");
}

#[test]
fn stages_that_nothing_needs_are_not_built() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base AS unused\nRUN exit 9\nFROM base AS used\nRUN true\nFROM base AS last\nRUN exit 8\n");
    let outcome = place.build(&["--target=used", "."]).exits(0);
    assert_eq!(outcome.steps().len(), 1);
}

#[test]
fn stages_that_do_not_need_each_other_run_at_the_same_time() {
    needs!();
    let place = Place::new();
    let wait = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,id=meet,target=/m touch /m/{own}; \
             for i in $(seq 200); do test -e /m/{other} && exit 0; sleep 0.1; done; exit 1\n"
        )
    };
    let (left, right) = (wait("l", "r"), wait("r", "l"));
    place.dockerfile(&format!(
        "FROM base AS left\n{left}FROM base AS right\n{right}FROM scratch\n\
         COPY --from=left /etc/passwd /l\nCOPY --from=right /etc/passwd /r\n"
    ));
    place.build(&["."]).exits(0);
}

const REPRODUCIBLE: &str = "\
FROM base
WORKDIR /made/here
COPY . /src/
RUN mkdir -p /out/x && cp /src/a /out/x/a && ln -s a /out/x/l && chown alice /out/x && rm /etc/group
LABEL a=b
";

#[test]
fn one_epoch_gives_one_digest_whatever_the_machine_looks_like() {
    needs!();
    let digests = ["022", "077"].map(|umask| {
        let place = Place::new();
        place.dockerfile(REPRODUCIBLE).file("a", "a").file("d/b", "b");
        let base = place.base();
        let mut words = vec!["build", &base, "-o=type=oci,dest=out.tar,rewrite-timestamp=true", "."];
        if umask == "022" {
            words.push("--in-process");
        }
        let mut command = under_umask(&place, umask, &words);
        command.env("SOURCE_DATE_EPOCH", "1700000000");
        let outcome = place.outcome(command.output().unwrap());
        place.end_server();
        outcome.exits(0).digest()
    });
    assert_eq!(digests[0], digests[1]);
}

fn under_umask(place: &Place, umask: &str, words: &[&str]) -> Command {
    let real = place.command(words);
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")])
        .arg(real.get_program())
        .args(real.get_args());
    command.env_clear().current_dir(place.work());
    for (name, value) in real.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    command
}

#[test]
fn no_cache_for_one_stage_runs_its_steps_even_if_its_files_are_known() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base AS a\nRUN echo a > /a\nFROM base AS b\nRUN echo b > /b\nCOPY --from=a /a /a\n");
    place.build(&["."]).exits(0);
    let outcome = place.build(&["--no-cache-filter=a", "."]).exits(0);
    assert_eq!(outcome.step("RUN echo a > /a").reason, "--no-cache");
    assert_eq!(outcome.step("RUN echo b > /b").status, "CACHED");
}

#[test]
fn a_stage_that_ran_again_is_copied_from_again() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base AS a\nRUN cat /proc/sys/kernel/random/uuid > /d\n\
         FROM base\nCOPY --from=a /d /first\nRUN --mount=from=a,target=/a cat /a/d > /second\n",
    );
    let files = || {
        let image = place.image(&[]);
        let number = image.manifest.layers.len();
        let content = |number: usize, name: &str| {
            let layer = image.layer(number).into_iter();
            layer
                .filter(|entry| entry.path == name)
                .map(|entry| entry.content)
                .collect::<Vec<_>>()
        };
        let (first, second) = (content(number - 2, "first"), content(number - 1, "second"));
        assert!(first.len() == 1 && first == second, "{first:?} {second:?}");
        first
    };
    let before = files();
    place.build(&["--no-cache", "--target=a", "."]).exits(0);
    let after = files();
    assert_ne!(after, before, "files of a run that is over");
    assert!(!place.build(&["."]).exits(0).summary().contains("DONE"));
}

#[test]
fn layers_without_times_to_lower_leave_the_store_among_those_with() {
    needs!();
    let place = Place::new();
    // The first RUN makes the directories that every step needs, the others nothing, and the last one only what is old.
    place.dockerfile("FROM base\nRUN true\nRUN true\nRUN echo a > /a\nRUN true\nRUN mkdir /old && touch -d @1 /old\n");
    let base = place.base();
    for output in ["", ",compression=uncompressed", ",compression=zstd"] {
        let output = format!("-o=type=oci,dest=out.tar,rewrite-timestamp=true{output}");
        let mut build = place.command(&["build", "--in-process", &base, &output, "."]);
        let built = build.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
        place.outcome(built).exits(0);
    }
}
