//! What steps see beside the image's own files: secrets, caches, other stages, no network.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use crate::support::Place;
use crate::support::build::needs;

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
