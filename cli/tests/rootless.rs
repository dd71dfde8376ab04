//! Builds by somebody who is not root, with and without further ids: the images are those that root builds.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::Signal;
use testdata::ordinary::{Further, Ordinary};

use crate::support::build::needs;
use crate::support::leaks::processes_about;
use crate::support::server::{end_of, read_until, send, step_started, wait_until};
use crate::support::{Outcome, Place};

/// A place that others may look into, and a user.
struct Home {
    place: Place,
    user: Ordinary,
    program: PathBuf,
}

impl Home {
    fn new(place: Place, further: Further) -> Self {
        let user = Ordinary::new(further);
        let program = user.copy(Path::new(env!("CARGO_BIN_EXE_rbuild")));
        Self { place, user, program }
    }

    fn store(&self) -> PathBuf {
        self.user.own().join("store")
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.user.command(&self.program);
        command
            .args(arguments)
            .env("RBUILD_ROOT", self.store())
            .env("SOURCE_DATE_EPOCH", "1")
            .current_dir(self.place.work())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        self.place.outcome(self.command(arguments).output().unwrap())
    }

    fn build(&self, arguments: &[&str]) -> Outcome {
        let base = self.place.base();
        let mut all = vec!["build", "--in-process", "--progress=plain", base.as_str()];
        all.extend_from_slice(arguments);
        self.run(&all)
    }
}

/// Says that a test is skipped where ordinary users can make no namespaces.
fn lacks(test: &str, further: Further) -> bool {
    let Some(lacking) = Ordinary::new(further).lacking() else {
        return false;
    };
    assert!(!required(), "{test} needs {lacking}, and RBUILD_TEST_REQUIRE=all");
    let line = format!("SKIPPED {test}: it needs {lacking}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    true
}

#[expect(
    clippy::disallowed_methods,
    reason = "the switch that turns skipped tests into failures"
)]
fn required() -> bool {
    std::env::var("RBUILD_TEST_REQUIRE").is_ok_and(|value| value == "all")
}

/// Nothing in it depends on who builds, and there is everything that a layer can hold: links of both kinds, removed files,
/// directories that were made anew, owners, set-id bits, pipes; and every kind of mount.
const DOCKERFILE: &str = "FROM base AS tools\n\
    FROM base\n\
    RUN --network=none mkdir -p /o/a /o/b && echo 1 > /o/a/one && echo 2 > /o/b/two && ln /o/a/one /o/hard && \
        ln -s a /o/link && mkfifo /o/pipe && chmod 4755 /o/b/two\n\
    COPY --chown=55:66 f d /own/\n\
    RUN --network=none rm -r /o/b && mkdir /o/b && echo new > /o/b/three && rm /o/a/one && touch -d @1000 /own/f && \
        chmod 600 /own/x\n\
    RUN --network=none --mount=type=cache,target=/cache --mount=type=tmpfs,target=/t \
        --mount=type=bind,from=tools,source=/bin,target=/b --mount=type=secret,id=s \
        echo c > /cache/c && ls /b | grep -c busybox > /seen && cat /run/secrets/s >> /seen && rm -r /o/a\n";

const OUTPUT: &str = "--output=type=oci,rewrite-timestamp=true,dest=";

fn deterministic() -> Place {
    let place = Place::new();
    place
        .file("f", "file\n")
        .file("d/x", "x\n")
        .file("secret", "s3cret\n")
        .dockerfile(DOCKERFILE);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.work().parent().unwrap(), open).unwrap();
    place
}

fn same_images(further: Further) {
    let place = deterministic();
    let output = format!("{OUTPUT}{}", place.work().parent().unwrap().join("root.tar").display());
    let mut command = place.build_command(&["--secret=id=s,src=secret", &output, "."]);
    let of_root = place.outcome(command.env("SOURCE_DATE_EPOCH", "1").output().unwrap());
    let expected = of_root.exits(0).digest();
    let home = Home::new(place, further);
    let output = format!("{OUTPUT}{}", home.user.own().join("image.tar").display());
    let arguments = ["--secret=id=s,src=secret", &output, "."];
    assert_eq!(home.build(&arguments).exits(0).digest(), expected);
    let verified = home.run(&["store", "verify", "--in-process"]).exits(0);
    assert!(!verified.stdout.contains("damaged"), "{}", verified.stdout);
}

#[test]
fn a_user_with_further_ids_builds_the_image_that_root_builds() {
    needs!();
    if !lacks(
        "a_user_with_further_ids_builds_the_image_that_root_builds",
        Further::Ids,
    ) {
        same_images(Further::Ids);
    }
}

#[test]
fn a_user_without_further_ids_builds_the_image_that_root_builds() {
    needs!();
    if !lacks(
        "a_user_without_further_ids_builds_the_image_that_root_builds",
        Further::Nothing,
    ) {
        same_images(Further::Nothing);
    }
}

#[test]
fn what_one_kind_of_sandbox_built_is_a_hit_for_another() {
    needs!();
    if lacks("what_one_kind_of_sandbox_built_is_a_hit_for_another", Further::Ids) {
        return;
    }
    let home = Home::new(deterministic(), Further::Ids);
    let output = format!("--output=type=oci,dest={}", home.user.own().join("image.tar").display());
    let build = |tier: &str| {
        let arguments = [tier, "--secret=id=s,src=secret", &output, "."];
        home.build(&arguments).exits(0)
    };
    let first = build("--sandbox=single-id");
    let second = build("--sandbox=rootless");
    assert_eq!(first.digest(), second.digest());
    assert!(
        second.steps().iter().all(|step| step.status == "CACHED"),
        "{}",
        second.summary()
    );
    // On top of layers that the other kind unpacked in its own way: what is hidden stays hidden, owners stay who they are.
    home.place.dockerfile(&format!(
        "{DOCKERFILE}RUN --network=none ls /o/b /o && stat -c %s /own/f && chmod 640 /own/f\n"
    ));
    let third = build("--sandbox=rootless");
    assert_eq!(
        third.step("chmod 640 /own/f").log,
        "/o:\nb\nhard\nlink\npipe\n\n/o/b:\nthree\n5\n"
    );
    // The other way only what root's own number may read is found again; the rest is made again, and is the same.
    let fourth = build("--sandbox=single-id");
    let first_of = |outcome: &Outcome| outcome.steps()[0].status.clone();
    assert_eq!(first_of(&fourth), "CACHED");
}

#[test]
fn doctor_names_the_sandbox_and_what_would_make_it_better() {
    needs!();
    if lacks("doctor_names_the_sandbox_and_what_would_make_it_better", Further::Ids) {
        return;
    }
    let with = Home::new(deterministic(), Further::Ids).run(&["doctor", "--in-process"]);
    assert!(
        with.stdout
            .starts_with("ok   sandbox: rootless: the user `games` is not root"),
        "{}",
        with.stdout
    );
    let home = Home::new(deterministic(), Further::Nothing);
    let without = home.run(&["doctor", "--in-process"]);
    let words = "ok   sandbox: single-id: the user `games` has no range in /etc/subuid";
    assert!(without.stdout.starts_with(words), "{}", without.stdout);
    assert!(
        without.stdout.contains("help: `usermod --add-subuids"),
        "{}",
        without.stdout
    );
    home.run(&["doctor", "--in-process", "--sandbox=rootless"])
        .exits(3)
        .says("the sandbox `rootless` is not possible here: the user `games` has no range");
    home.run(&["doctor", "--in-process", "--sandbox=root"])
        .exits(3)
        .says("the sandbox `root` is not possible here: not root");
    let json = home.run(&["doctor", "--in-process", "--format=json"]).stdout;
    assert!(json.contains("\"sandbox\":\"single-id\""), "{json}");
}

#[test]
fn what_needs_a_second_id_says_how_to_get_one() {
    needs!();
    if lacks("what_needs_a_second_id_says_how_to_get_one", Further::Nothing) {
        return;
    }
    let home = Home::new(deterministic(), Further::Nothing);
    let table = [
        ("RUN --network=none touch /f && chown 5:5 /f", "Invalid argument"),
        ("USER 5\nRUN --network=none true", "has no users but root"),
    ];
    for (step, words) in table {
        home.place.dockerfile(&format!("FROM base\n{step}\n"));
        home.build(&["."])
            .exits(1)
            .says(words)
            .says("its sandbox has no user and no group but root")
            .says("usermod --add-subuids");
    }
}

#[test]
fn a_killed_server_of_an_ordinary_user_leaves_nothing() {
    needs!();
    if lacks("a_killed_server_of_an_ordinary_user_leaves_nothing", Further::Ids) {
        return;
    }
    let home = Home::new(deterministic(), Further::Ids);
    let doctor = home.run(&["doctor", "--in-process"]).stdout;
    let network = if doctor.contains("ok   network") {
        "default"
    } else {
        "none"
    };
    let script = format!("FROM base\nRUN --network={network} echo started; sleep 1000 & sleep 1000\n");
    home.place.dockerfile(&script);
    let base = home.place.base();
    let arguments = ["build", "--progress=plain", base.as_str(), "."];
    let mut client = home.command(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    let rest = read_until(&mut client, step_started);
    let about = home.user.own();
    assert!(!processes_about(&about).is_empty());
    let lock = std::fs::read_to_string(home.store().join("server.lock")).unwrap();
    let server = rustix::process::Pid::from_raw(lock.trim().parse().unwrap()).unwrap();
    // With the program that carries the packets of the step, which has nothing of the build on its command line.
    let family = descendants(server.as_raw_nonzero().get());
    assert!(family.len() > 2, "{family:?}");
    rustix::process::kill_process(server, Signal::KILL).unwrap();
    send(&client, Signal::KILL);
    assert!(!end_of(&mut client).success());
    rest.join().unwrap();
    wait_until("nothing of the build runs", || processes_about(&about).is_empty());
    let runs = |process: &i32| PathBuf::from(format!("/proc/{process}/exe")).read_link().is_ok();
    wait_until("no descendant of the server runs", || !family.iter().any(runs));
    home.place.dockerfile("FROM base\nRUN --network=none echo again\n");
    home.build(&["."]).exits(0);
}

/// The processes that a process started, and those that they started.
fn descendants(process: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten();
    let of_threads = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    let all: std::collections::BTreeSet<i32> = of_threads
        .chain([children])
        .flat_map(|line| {
            line.split_whitespace()
                .map(|id| id.parse().unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    all.into_iter()
        .flat_map(|child| [vec![child], descendants(child)].concat())
        .collect()
}
