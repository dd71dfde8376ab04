//! Steps of a container without any further privilege: the images are those of every other sandbox, and nothing of the container
//! changes.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::{nothing_is_left, processes_about};
use crate::support::server::{end_of, wait_until};

/// All that can happen to files between layers, and every kind of mount.
const DOCKERFILE: &str = "FROM base AS tools\n\
    RUN mkdir /made && echo of another stage > /made/file && ln -s made /link\n\
    FROM base\n\
    RUN mkdir -p /o/a /o/b/c && echo 1 > /o/a/one && echo 2 > /o/b/two && ln /o/a/one /o/hard && ln -s a /o/link && \
        mkfifo /o/pipe && chmod 4755 /o/b/two && echo deep > /o/b/c/d\n\
    COPY --chown=55:66 f /own/\n\
    RUN rm -r /o/b && mkdir /o/b && echo new > /o/b/three && rm /o/a/one && chown 7:8 /own/f && chmod 711 /own\n\
    RUN rm -r /o/a && echo now a file > /o/a && echo more >> /o/hard && touch -d @1000 /own/f\n\
    COPY f /o/b/three\n\
    RUN --mount=type=cache,target=/cache --mount=type=tmpfs,target=/t --mount=type=secret,id=s \
        --mount=type=bind,from=tools,source=/link,target=/b \
        cat /o/b/three /b/file /run/secrets/s > /seen && echo kept >> /cache/kept && echo gone > /t/x; (echo h >> /etc/hosts) || true\n\
    RUN <<script\necho written by a script > /script\nscript\n\
    RUN --network=none --mount=type=cache,target=/cache wc -l /cache/kept > /count; true\n";

fn deterministic() -> Place {
    let place = Place::new();
    place
        .file("f", "file\n")
        .file("secret", "s3cret\n")
        .dockerfile(DOCKERFILE);
    place
}

#[test]
fn layers_of_a_plain_container_are_those_of_root() {
    needs!();
    let place = deterministic();
    let digest = |kind: &str| {
        let output = format!("--output=type=oci,rewrite-timestamp=true,dest={kind}.tar");
        let mut command = place.build_command(&["--sandbox", kind, "--secret=id=s,src=secret", &output, "."]);
        command
            .env("RBUILD_ROOT", place.work().join(kind))
            .env("SOURCE_DATE_EPOCH", "1");
        place.outcome(command.output().unwrap()).exits(0).digest()
    };
    assert_eq!(digest("plain"), digest("root"));
    let root = place.work().join("plain");
    let mut verify = place.command(&["store", "verify", "--in-process", "--sandbox=plain"]);
    place
        .outcome(verify.env("RBUILD_ROOT", &root).output().unwrap())
        .exits(0);
    let trees: Vec<_> = std::fs::read_dir(root.join("worktrees")).unwrap().collect();
    assert_eq!(trees.len(), 1, "only the lock is left: {trees:?}");
}

#[test]
fn a_killed_server_leaves_no_step_and_gives_caches_back() {
    needs!();
    let place = Place::new();
    let nap = format!("6{:07}1", std::process::id());
    place.dockerfile(&format!(
        "FROM base\nRUN --mount=type=cache,target=/c echo 1 > /c/kept\n\
         RUN --mount=type=cache,target=/c --mount=type=secret,id=s echo 2 >> /c/kept; (sleep {nap} &) ; sleep {nap}\n"
    ));
    place.file("secret", "correct-horse-battery");
    let mut command = place.build_command(&["--sandbox=plain", "--secret=id=s,src=secret", "."]);
    let mut build = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the step runs", || {
        processes_about(std::path::Path::new(&nap)).len() >= 2
    });
    build.kill().unwrap();
    end_of(&mut build);
    wait_until("the step ends", || {
        processes_about(std::path::Path::new(&nap)).is_empty()
    });
    place.dockerfile("FROM base\nRUN --mount=type=cache,target=/c cat /c/kept\n");
    let after = place.build(&["--sandbox=plain", "."]).exits(0);
    assert_eq!(after.steps()[0].log, "1\n2\n");
    assert_eq!(std::fs::read_dir(place.root().join("worktrees")).unwrap().count(), 1);
    nothing_is_left(&place.root());
}

#[test]
fn what_a_plain_container_cannot_do_is_refused() {
    needs!();
    let place = Place::new();
    place.dockerfile("FROM base\nRUN --security=insecure true\n");
    let _refused = place
        .build(&["--sandbox=plain", "--allow=security.insecure", "."])
        .exits(1)
        .says("`--security=insecure` is not possible in the sandbox `plain`");
}

/// The program that makes containers, which is built with the tests.
fn container() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_rbuild"));
    program.parent().unwrap().join("examples/plain_container")
}

/// Builds in a container and says what became different there.
const IN_CONTAINER: &str = "list() { find /etc /usr/bin /usr/sbin /srv -xdev -printf '%p %i %C@ %m\\n' | sort; }\n\
    list > /tmp/before; cd \"$1\"; shift; \"$@\" || exit 9; list > /tmp/after; diff /tmp/before /tmp/after >&2";

#[test]
fn builds_work_in_a_container_without_privileges_and_change_nothing_of_it() {
    needs!();
    let place = deterministic();
    let base = place.base();
    let output = "--output=type=oci,rewrite-timestamp=true,dest=/tmp/image.tar";
    let mut digests = Vec::new();
    for kind in ["volume", "overlay"] {
        let state = place.work().join("state");
        // The place is in the machine's own temporary directory, and the program may be: the container's hides it.
        let work = place.work().join("context");
        std::fs::create_dir_all(&state).unwrap();
        std::fs::create_dir_all(state.join("tmp")).unwrap();
        let here = match kind {
            "volume" => PathBuf::from("/tmp/work"),
            _ => work.clone(),
        };
        for (name, from) in [("f", "f"), ("secret", "secret"), ("Dockerfile", "Dockerfile")] {
            for to in [state.join("tmp/work"), work.clone()] {
                std::fs::create_dir_all(&to).unwrap();
                std::fs::copy(place.work().join(from), to.join(name)).unwrap();
            }
        }
        let base_here = match kind {
            "volume" => {
                let copied = Command::new("cp")
                    .arg("-r")
                    .arg(place.base_directory())
                    .arg(state.join("tmp/base"))
                    .status();
                assert!(copied.unwrap().success());
                "--build-context=base=oci-layout:///tmp/base".to_owned()
            }
            _ => base.clone(),
        };
        let program = match kind {
            "volume" => {
                std::fs::copy(env!("CARGO_BIN_EXE_rbuild"), state.join("tmp/rbuild")).unwrap();
                "/tmp/rbuild"
            }
            _ => env!("CARGO_BIN_EXE_rbuild"),
        };
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]);
        command
            .arg(container())
            .arg(kind)
            .arg(&state)
            .args(["sh", "-c", IN_CONTAINER, "sh"]);
        command.arg(here).arg(program);
        command.args(["build", "--in-process", "--progress=plain", "--secret=id=s,src=secret"]);
        command.args([base_here.as_str(), output, "--root=/var/lib/rbuild-test", "."]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/tmp");
        command.env("SOURCE_DATE_EPOCH", "1").stdin(Stdio::null());
        digests.push(place.outcome(command.output().unwrap()).exits(0).digest());
    }
    let output = format!(
        "--output=type=oci,rewrite-timestamp=true,dest={}",
        place.work().join("root.tar").display()
    );
    let mut command = place.build_command(&["--sandbox=root", "--secret=id=s,src=secret", &output, "."]);
    let of_root = place
        .outcome(command.env("SOURCE_DATE_EPOCH", "1").output().unwrap())
        .exits(0)
        .digest();
    assert_eq!(digests, [of_root.clone(), of_root]);
}
