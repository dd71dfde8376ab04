//! What steps see beside the image's own files: secrets, caches, other stages, no network.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::process::Stdio;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;
use crate::support::server::end_of;

const PASSPHRASE: &str = "correct-horse-battery-staple-91";

#[test]
fn a_secret_is_in_its_step_and_nowhere_else() {
    needs!();
    let place = Place::new();
    place.file("token", PASSPHRASE).dockerfile(
        "FROM base\nRUN --mount=type=secret,id=token test \"$(wc -c < /run/secrets/token)\" = 31 && stat -c %a:%u /run/secrets/token\n\
         RUN --mount=type=secret,id=word,env=WORD test ${#WORD} = 31 && echo yes\n",
    );
    let base = place.base();
    let mut command = place.command(&["build", "--in-process", "--progress=plain", &base, "-t", "app"]);
    command.args(["--secret", "id=token,src=token", "--secret", "id=word,env=WORD"]);
    command
        .args([
            "-o",
            "type=image",
            "-o",
            "type=oci,dest=app.tar,compression=uncompressed",
            ".",
        ])
        .env("WORD", PASSPHRASE);
    let outcome = place.outcome(command.output().unwrap()).exits(0);
    assert_eq!(outcome.steps()[0].log, "400:0\n");
    assert_eq!(outcome.steps()[1].log, "yes\n");
    assert!(!outcome.stderr.contains(PASSPHRASE) && !outcome.stdout.contains(PASSPHRASE));
    assert_eq!(files_with(&place.root(), PASSPHRASE), [""; 0]);
    let archive = std::fs::read(place.work().join("app.tar")).unwrap();
    assert!(!contains(&archive, PASSPHRASE.as_bytes()));
}

fn files_with(directory: &std::path::Path, words: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(files_with(&entry.path(), words));
        } else if kind.is_file() && contains(&std::fs::read(entry.path()).unwrap(), words.as_bytes()) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

fn contains(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}

#[test]
fn a_missing_secret_fails_its_step_only_if_it_is_required() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN --mount=type=secret,id=token ls /run/secrets 2>/dev/null | wc -l\n");
    assert_eq!(place.steps(&[])[0].log, "0\n");
    place.dockerfile("FROM base\nRUN --mount=type=secret,id=token,required true\n");
    place.build(&["."]).exits(1).says("token");
}

#[test]
fn a_cache_mount_survives_builds_and_stays_out_of_the_image() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nARG N\nRUN --mount=type=cache,target=/c echo $N >> /c/seen && cat /c/seen > /all\n");
    place.image(&["--build-arg=N=1"]);
    let image = place.image(&["--build-arg=N=2"]);
    assert_eq!(image.paths(1), ["all"], "the mount point is removed too");
    assert_eq!(image.layer(1)[0].content, b"1\n2\n");
}

/// Builds, and fails if that does not end: a step that waits for itself waits for ever.
fn ends(place: &Place, arguments: &[&str]) {
    let mut command = place.build_command(arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    assert!(end_of(&mut child).success());
}

#[test]
fn steps_that_lock_mounts_in_another_order_or_twice_do_not_wait_for_ever() {
    needs!();
    let place = Place::new();
    let step = |stage: &str, first: &str, second: &str| {
        let mount = |id: &str, target: &str| format!("--mount=type=cache,sharing=locked,id={id},target={target}");
        let (first, second) = (mount(first, "/x"), mount(second, "/y"));
        format!("FROM base AS {stage}\nRUN {first} {second} echo {stage} >> /x/f && cat /y/f > /seen\n")
    };
    place.dockerfile(&step("twice", "c", "c"));
    ends(&place, &["."]);
    let stages: String = (0..6)
        .map(|number| match number % 2 {
            0 => step(&format!("s{number}"), "a", "b"),
            _ => step(&format!("s{number}"), "b", "a"),
        })
        .collect();
    let copies: String = (0..6)
        .map(|number| format!("COPY --from=s{number} /seen /{number}\n"))
        .collect();
    // Both are there before, so that each step finds something to show.
    place.dockerfile(&format!(
        "FROM base AS before\nRUN --mount=type=cache,id=a,target=/a --mount=type=cache,id=b,target=/b touch /a/f /b/f\n\
         {}FROM scratch\n{copies}",
        stages.replace("FROM base AS", "FROM before AS")
    ));
    ends(&place, &["."]);
}

#[test]
fn steps_that_wait_for_a_mount_keep_nobody_from_running() {
    needs!();
    let place = Place::new();
    let mounts = "--mount=type=cache,id=sign,target=/s --mount=type=cache,sharing=locked,id=locked,target=/l";
    let waiting: String = (0..40)
        .map(|number| {
            format!("FROM base AS s{number}\nRUN {mounts} while ! test -e /s/go; do sleep 0.01; done; echo {number} > /seen\n")
        })
        .collect();
    let copies: String = (0..40)
        .map(|number| format!("COPY --from=s{number} /seen /{number}\n"))
        .collect();
    place.dockerfile(&format!(
        "{waiting}FROM base AS go\nRUN sleep 0.3\nRUN --mount=type=cache,id=sign,target=/s touch /s/go /gone\n\
         FROM scratch\n{copies}COPY --from=go /gone /\n"
    ));
    ends(&place, &["."]);
}

#[test]
fn a_new_cache_mount_holds_what_it_is_made_from_and_keeps_what_is_added() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base AS seed\nRUN mkdir -p /seed/d && echo grown > /seed/d/f\nFROM base\nARG N\n\
         RUN --mount=type=cache,target=/c,from=seed,source=/seed cat /c/d/f && echo $N >> /c/d/f\n",
    );
    let log = |number: u32| {
        let argument = format!("--build-arg=N={number}");
        let outcome = place.build(&[&argument, "."]).exits(0);
        outcome.steps().last().unwrap().log.clone()
    };
    assert_eq!(log(1), "grown\n");
    assert_eq!(log(2), "grown\n1\n");
    nothing_is_left(&place.root());
}

#[test]
fn cache_mounts_are_listed_with_their_step_and_pruned() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nRUN --mount=type=cache,id=kept,target=/c head -c 1000000 /dev/urandom > /c/f\n\
         RUN --mount=type=cache,id=other,target=/o touch /o/f\n",
    );
    place.build(&["-t=app", "."]).exits(0);
    let du = || {
        place
            .run(&["--in-process", "du", "--verbose", "--filter", "type=exec.cachemount"])
            .exits(0)
            .stdout
    };
    let listed = du();
    let kept = listed.lines().nth(1).unwrap();
    assert!(
        kept.starts_with("cache-mount ") && kept.contains("kept in [1/3] RUN --mount"),
        "{listed}"
    );
    assert_eq!(listed.lines().count(), 3, "{listed}");
    let id = kept.split_whitespace().nth(1).unwrap();
    let recent = place
        .run(&["--in-process", "prune", "--filter", "type=exec.cachemount"])
        .exits(0);
    assert_eq!(recent.stdout, "freed 0B in 0 entries\n", "used within the last hour");
    let filter = format!("id={id}");
    let pruned = place
        .run(&["--in-process", "prune", "--all", "--filter", &filter])
        .exits(0);
    assert!(pruned.stdout.ends_with(" in 1 entries\n"), "{}", pruned.stdout);
    assert_eq!(du().lines().count(), 2);
    place.run(&["--in-process", "prune", "--all"]).exits(0);
    assert_eq!(du().lines().count(), 1);
    let left = std::fs::read_dir(place.root().join("cachemounts")).unwrap().count();
    assert_eq!(left, 0);
}

#[test]
fn a_temporary_file_system_leaves_nothing() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nRUN --mount=type=tmpfs,target=/t echo x > /t/x && cp /t/x /y && grep -c ' /t tmpfs' /proc/mounts\n",
    );
    let image = place.image(&[]);
    assert_eq!(image.paths(1), ["y"]);
}

#[test]
fn other_stages_and_the_context_can_be_mounted() {
    needs!();
    let place = Place::new();
    place.file("data/in", "of the context\n").dockerfile(
        "FROM base AS tools\nRUN mkdir /kit && echo of-a-stage > /kit/tool\nFROM base\n\
         RUN --mount=type=bind,from=tools,source=/kit,target=/kit cat /kit/tool > /copy && ! touch /kit/no\n\
         RUN --mount=target=/ctx,source=data cat /ctx/in\n\
         RUN --mount=type=bind,from=tools,source=/kit,target=/kit,rw echo changed > /kit/tool\n\
         RUN --mount=type=bind,from=tools,source=/kit,target=/kit cat /kit/tool\n",
    );
    let outcome = place.build(&["-o", "type=tar,dest=out.tar", "."]).exits(0);
    assert_eq!(outcome.step("cat /ctx/in").log, "of the context\n");
    let last = outcome.steps().last().unwrap().clone();
    assert_eq!(last.log, "of-a-stage\n", "what is written to a mount is dropped");
    let entries = testdata::image::entries(&std::fs::read(place.work().join("out.tar")).unwrap());
    assert!(
        !entries
            .iter()
            .any(|entry| entry.path.starts_with("kit") || entry.path.starts_with("ctx"))
    );
    assert_eq!(
        entries.iter().find(|e| e.path == "copy").unwrap().content,
        b"of-a-stage\n"
    );
}

#[test]
fn a_step_without_network_has_loopback_only() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN ls /sys/class/net\n");
    assert_eq!(place.steps(&["--network=none"])[0].log, "lo\n");
    place.dockerfile("FROM base\nRUN --network=none ls /sys/class/net && grep -c localhost /etc/hosts\n");
    let log = place.steps(&[])[0].log.clone();
    assert!(log.starts_with("lo\n"), "{log}");
}

#[test]
fn files_that_the_sandbox_makes_are_not_in_layers() {
    needs!();
    let place = Place::new();
    place.dockerfile(
        "FROM base\nRUN test -s /etc/hosts && test -e /etc/resolv.conf && test -c /dev/null && echo > /made\n",
    );
    assert_eq!(place.image(&["--add-host=x.example:10.1.2.3"]).paths(1), ["made"]);
}

#[test]
fn mount_points_are_removed_again_but_for_those_that_every_step_needs() {
    needs!();
    let place = Place::new();
    place.file("token", "x").dockerfile(
        "FROM scratch\nCOPY --from=base /bin /bin\n\
         RUN --mount=type=secret,id=token --mount=type=cache,target=/deep/er/cache echo > /made\n",
    );
    let image = place.image(&["--secret=id=token,src=token"]);
    assert_eq!(image.paths(1), ["dev/", "made", "proc/", "sys/"]);
}
