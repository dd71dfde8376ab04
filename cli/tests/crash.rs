//! A build that is killed at any moment: the next one is right, and nothing of the dead one is left.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::process::Stdio;
use std::time::{Duration, Instant};

use testdata::machine::Need;
use testdata::registry::{PROGRAM, Registry};

use crate::support::Place;
use crate::support::build::needs;
use crate::support::draw::{Draw, rounds};
use crate::support::leaks::{mounts_below, nothing_is_left, processes_about};
use crate::support::server::{end_of, wait_until};

const ROUNDS: u32 = 15;

/// Rounds after which the store is made anew, so that unpacking the base image is hit too.
const ROUNDS_PER_STORE: u32 = 3;

const DOCKERFILE: &str = "\
FROM base AS one
RUN for i in $(seq 40); do echo $i > /file$i; done; head -c 3000000 /bin/busybox /bin/busybox > /big
FROM base
COPY --from=one /big /file1 /from/
RUN --mount=type=cache,target=/c date > /c/last; cp -r /bin /copy; rm -r /copy/busybox; sleep 0.1
COPY data /data
";

struct Build<'a> {
    place: &'a Place,
    output: String,
}

impl Build<'_> {
    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.place.build_command(&["-o", &self.output, "--metadata-file=meta"]);
        command.args(arguments).arg(".").env("SOURCE_DATE_EPOCH", "1700000000");
        command
    }

    /// Builds undisturbed; returns the digest.
    fn whole(&self) -> String {
        self.place
            .outcome(self.command(&[]).output().unwrap())
            .exits(0)
            .digest()
    }

    /// Builds everything anew, and kills that after a while.
    fn killed(&self, after: Duration) {
        let mut command = self.command(&["--no-cache"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        child.kill().unwrap();
        end_of(&mut child);
    }
}

#[test]
fn a_killed_build_harms_no_later_one_and_leaves_nothing() {
    needs!(Need::Program(PROGRAM));
    let registry = Registry::start();
    let output = format!("type=registry,name={},rewrite-timestamp=true", registry.name("app:1"));
    let mut draw = Draw(0x5eed);
    let (reference, time) = {
        let place = Place::with_data(DOCKERFILE);
        let build = Build {
            place: &place,
            output: output.clone(),
        };
        let start = Instant::now();
        (build.whole(), start.elapsed())
    };
    let mut current = Place::with_data(DOCKERFILE);
    for round in 0..rounds(ROUNDS) {
        if round % ROUNDS_PER_STORE == 0 {
            current = Place::with_data(DOCKERFILE);
        }
        let build = Build {
            place: &current,
            output: output.clone(),
        };
        let after = draw.time(time);
        build.killed(after);
        let store = current.root();
        wait_until("the steps of a killed build end", || processes_about(&store).is_empty());
        assert_eq!(mounts_below(&store), [""; 0], "round {round}, killed after {after:?}");
        assert_eq!(build.whole(), reference, "round {round}, killed after {after:?}");
        nothing_is_left(&store);
    }
}
