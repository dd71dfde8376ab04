//! What a store has to survive, done to it for real: servers killed in the middle, flipped bits, a disk that is full at any point.
//!
//! A few rounds by default. By hand: `RBUILD_TEST_ROUNDS` for more, `RBUILD_TEST_BASE` for an OCI layout directory with an image that
//! is larger than a shell, its architecture this machine's.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use testdata::machine::Need;

use crate::support::build::needs;
use crate::support::damage::files_below;
use crate::support::draw::{Draw, rounds};
use crate::support::leaks::{mounts_below, nothing_is_left, processes_about, unfinished};
use crate::support::server::{end_of, wait_until};
use crate::support::{Outcome, Place};

/// Rounds after which the store is made anew, so that unpacking the base image is hit too.
const ROUNDS_PER_STORE: u32 = 4;

const DOCKERFILE: &str = "\
FROM base AS one
RUN for i in $(seq 40); do echo $i > /file$i; done; head -c 3000000 /dev/zero | tr '\\0' x > /big
FROM base
COPY --from=one /big /file1 /from/
RUN --mount=type=cache,target=/c date > /c/last; cp -rL /bin/sh /etc /copy* /from /tmp/ 2> /dev/null; rm /file1 2> /dev/null; sleep 0.1
COPY data /data
";

const OUTPUT: &str = "-o=type=oci,dest=image.tar,rewrite-timestamp=true,compression=gzip";

/// The base image, as a flag.
fn base(place: &Place) -> String {
    match testdata::machine::path("RBUILD_TEST_BASE") {
        Some(layout) => format!("--build-context=base=oci-layout://{layout}"),
        None => place.base(),
    }
}

/// A build by a server, which is started if there is none.
fn command(place: &Place, arguments: &[&str]) -> Command {
    let base = base(place);
    let mut command = place.command(&["build", "--progress=plain", &base]);
    command.args(arguments).arg(".").env("SOURCE_DATE_EPOCH", "1700000000");
    command
}

fn build(place: &Place, arguments: &[&str]) -> Outcome {
    let mut all = vec![OUTPUT, "-o=type=image"];
    all.extend_from_slice(arguments);
    ends_well(place, place.outcome(command(place, &all).output().unwrap()))
}

/// Asserts that a command did what it was asked for; if not, what its server has to say is shown, too.
#[track_caller]
fn ends_well(place: &Place, outcome: Outcome) -> Outcome {
    let log = std::fs::read_to_string(place.root().join("server.log")).unwrap_or_default();
    assert_eq!(outcome.code, Some(0), "{}\n{}\n{log}", outcome.stdout, outcome.stderr);
    outcome
}

/// The digest on a store of its own, and how long that takes.
fn reference() -> (String, Duration) {
    let place = Place::with_data(DOCKERFILE);
    let start = Instant::now();
    let digest = build(&place, &[]).digest();
    (digest, start.elapsed())
}

/// Everything in the store is as it should be.
#[track_caller]
fn is_whole(place: &Place, told: &str) {
    let outcome = place.run(&["store", "verify"]);
    let log = std::fs::read_to_string(place.root().join("server.log")).unwrap_or_default();
    assert_eq!(
        outcome.code,
        Some(0),
        "{told}: {}{}\n{log}",
        outcome.stdout,
        outcome.stderr
    );
    assert!(
        outcome.stdout.contains("nothing is wrong"),
        "{told}: {}",
        outcome.stdout
    );
}

#[test]
fn servers_killed_during_builds_lose_nothing_that_was_acknowledged() {
    needs!();
    let (reference, time) = reference();
    let mut draw = Draw(0x5eed);
    let mut current = Place::with_data(DOCKERFILE);
    let mut names: Vec<String> = Vec::new();
    for round in 0..rounds(8) {
        if round % ROUNDS_PER_STORE == 0 {
            current.end_server();
            nothing_is_left(&current.root());
            current = Place::with_data(DOCKERFILE);
            names.clear();
        }
        let after = draw.time(time);
        let told = format!("round {round}, killed after {after:?}");
        let mut child = command(&current, &["--no-cache", OUTPUT, "-o=type=image", "-t=lost"]);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(after);
        if let Some(server) = current.server() {
            kill_process(server, Signal::KILL).unwrap();
        }
        end_of(&mut child);
        // If the client came too early for a server, it may have started one since.
        if let Some(server) = current.server() {
            kill_process(server, Signal::KILL).unwrap();
        }
        let store = current.root();
        // Its threads end one by one, and the last one frees its lock.
        let is_gone = || current.server().is_none() && processes_about(&store).is_empty();
        wait_until("a killed server and its steps end", is_gone);
        assert_eq!(mounts_below(&store), [""; 0], "{told}");
        let listed = ends_well(&current, current.run(&["images"])).stdout;
        for name in &names {
            assert!(listed.contains(name), "{told}: {name} was promised: {listed}");
        }
        let name = format!("kept{round}");
        assert_eq!(build(&current, &[&format!("-t={name}")]).digest(), reference, "{told}");
        names.push(name);
        // The server writes down how full the store is after it has told the client.
        wait_until("nothing half-written is left", || unfinished(&store).is_empty());
        is_whole(&current, &told);
    }
    current.end_server();
    nothing_is_left(&current.root());
}

/// Files of a store that a bit may flip in: all but those that are no part of what is stored.
fn victims(place: &Place) -> Vec<PathBuf> {
    let kinds = [
        "blobs",
        "records",
        "trees",
        "snapshots",
        "aliases",
        "preimages",
        "forms",
        "images",
        "history",
        "builds",
        "index",
    ];
    let mut victims = Vec::new();
    for kind in kinds {
        let mut files = files_below(&place.root().join(kind));
        files.retain(|path| {
            path.symlink_metadata()
                .is_ok_and(|facts| facts.is_file() && facts.len() > 0)
        });
        files.sort();
        victims.push(files);
    }
    // Of each kind as many as of any other: there are more files in snapshots than in all others.
    let most = victims.iter().map(Vec::len).max().unwrap();
    victims
        .iter()
        .flat_map(|files| files.iter().cycle().take(if files.is_empty() { 0 } else { most }))
        .cloned()
        .collect()
}

fn flip(path: &PathBuf, draw: &mut Draw) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let at = draw.below(usize::try_from(file.metadata().unwrap().len()).unwrap()) as u64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << draw.below(8)], at).unwrap();
}

#[test]
fn single_flipped_bits_never_reach_an_image() {
    needs!();
    let (reference, _) = reference();
    let place = Place::with_data(DOCKERFILE);
    build(&place, &["-t=app"]);
    let mut draw = Draw(0xb17);
    for round in 0..rounds(10) {
        place.end_server();
        let victims = victims(&place);
        let victim = &victims[draw.below(victims.len())];
        let told = format!("round {round}, a bit of {}", victim.display());
        flip(victim, &mut draw);
        assert_eq!(build(&place, &["-t=app"]).digest(), reference, "{told}");
        place.run(&["store", "verify", "--repair"]).exits(0);
        is_whole(&place, &told);
        assert_eq!(build(&place, &["-t=app"]).digest(), reference, "{told}");
        if round % 10 == 9 {
            place.end_server();
            std::fs::remove_dir_all(place.root().join("index")).unwrap();
        }
    }
    place.end_server();
    nothing_is_left(&place.root());
}

/// Runs builds on a disk that has less and less room for them, and then enough. `$@` builds.
const FULL: &str = r#"
mount -t tmpfs -o size=900m,mode=0700 none "$RBUILD_ROOT" || exit 99
"$@" -f first -t kept . > /dev/null || exit 98
used=$(df -k --output=used "$RBUILD_ROOT" | tail -n 1)
for room in $ROOMS; do
    mount -o remount,size=$((used + room))k "$RBUILD_ROOT" || exit 97
    "$@" --no-cache -t lost . > /dev/null 2> err
    code=$?
    case $code in
        0 | 1) ;;
        3) grep -q -i -e 'no space' -e 'make room' err || { cat err; exit 96; } ;;
        *) cat err; echo "room $room: $code"; exit 95 ;;
    esac
    left=$(ls -A "$RBUILD_ROOT/tmp"; ls -d "$RBUILD_ROOT"/snapshots/active-* 2> /dev/null)
    [ -z "$left" ] || { echo "room $room left $left"; exit 94; }
    mount -o remount,size=900m "$RBUILD_ROOT" || exit 93
    "$RBUILD" --in-process images | grep -q kept || { echo "room $room: lost kept"; exit 92; }
    "$RBUILD" --in-process store verify > verified || { cat verified; echo "room $room"; exit 91; }
    echo "code $code"
    "$@" . 2> err || { cat err; exit 90; }
    used=$(df -k --output=used "$RBUILD_ROOT" | tail -n 1)
done
"#;

#[test]
fn a_disk_that_is_full_at_any_point_harms_nothing() {
    needs!(Need::Program("/usr/bin/unshare"));
    let place = Place::with_data(DOCKERFILE);
    place.file("first", "FROM base\nRUN echo first > /first\n");
    let base = base(&place);
    let build = [
        "build",
        "--in-process",
        "--progress=plain",
        &base,
        OUTPUT,
        "-o=type=image",
    ];
    let mut draw = Draw(0xf011);
    let count = rounds(5);
    // The build writes some ten megabytes.
    let rooms: Vec<String> = (0..count).map(|_| draw.below(16_000).to_string()).collect();
    std::fs::create_dir(place.root()).unwrap();
    let mut command = Command::new("/usr/bin/unshare");
    command.args(["-m", "/bin/sh", "-c", FULL, "sh", env!("CARGO_BIN_EXE_rbuild")]);
    command.args(build).current_dir(place.work()).env_clear();
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", place.work())
        .env("RBUILD_ROOT", place.root())
        .env("RBUILD", env!("CARGO_BIN_EXE_rbuild"))
        .env("ROOMS", rooms.join(" "))
        .env("RBUILD_MIN_FREE", "0")
        .env("SOURCE_DATE_EPOCH", "1700000000");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(output.status.code(), Some(0), "rooms {rooms:?}\n{stdout}\n{stderr}");
    let (reference, _) = reference();
    let digests: Vec<&str> = stdout.lines().filter(|line| line.starts_with("sha256:")).collect();
    assert_eq!(digests.len(), rooms.len(), "{stdout}");
    assert!(
        digests.iter().all(|digest| *digest == reference),
        "{reference}: {stdout}"
    );
    let failed = stdout
        .lines()
        .filter(|line| line.starts_with("code ") && *line != "code 0")
        .count();
    assert!(failed > 0, "none of the disks was full: {stdout}");
    nothing_is_left(&place.root());
}
