//! A server in little memory: layers that are larger than all of it are built, exported and read back.
//!
//! By hand: `RBUILD_TEST_LAYER_MB=4096` for a layer that is sixteen times as large as the memory; it needs some gigabytes of disk.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use testdata::machine::number;

use crate::support::Place;
use crate::support::build::needs;
use crate::support::leaks::nothing_is_left;
use crate::support::server::{end_of, wait_until};

/// What the server, its steps and their page cache have.
const LIMIT_BYTES: u64 = 256 << 20;
/// What the server itself may take of it at any time, whatever is built.
const MOST_RESIDENT_KB: u64 = 160 << 10;

/// A control group with a limit of memory; removed when it is dropped.
struct Group(PathBuf);

impl Group {
    /// Nothing if this machine has no such controller, or it is not ours to use.
    fn new(name: &str) -> Option<Self> {
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (parent, limit) = match v1.is_dir() {
            true => (v1, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let group = Self(parent.join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(limit), LIMIT_BYTES.to_string()).ok()?;
        Some(group)
    }

    /// What of it was used at most, page cache included, and why it was not more.
    fn facts(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.0.join(name)).unwrap_or_default();
        let stat = read("memory.stat");
        let wanted = ["rss ", "cache ", "mapped_file ", "anon ", "file ", "dirty "];
        let stat = stat
            .lines()
            .filter(|line| wanted.iter().any(|name| line.starts_with(name)));
        let stat: Vec<&str> = stat.collect();
        let most = read("memory.max_usage_in_bytes") + &read("memory.peak");
        format!("most {}, {}", most.trim(), stat.join(", "))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that has just ended may still be in it.
        let removed = || fs::remove_dir(&self.0).is_ok() || !self.0.exists();
        wait_until("the control group is empty", removed);
    }
}

/// Past the harness, which shows what a test prints only if it fails.
fn say(words: &str) {
    std::io::Write::write_all(&mut std::io::stderr(), format!("{words}\n").as_bytes()).unwrap();
}

fn most_resident_kb(server: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_layer_may_be_larger_than_the_memory_of_the_server() {
    needs!();
    let megabytes = number("RBUILD_TEST_LAYER_MB", 64);
    let place = Place::new();
    let Some(group) = Group::new(&format!("rbuild-test-{}", std::process::id())) else {
        let required = testdata::machine::path("RBUILD_TEST_REQUIRE").is_some();
        assert!(!required, "no memory controller can be used here");
        say("SKIPPED: no memory controller can be used here");
        return;
    };
    let serve = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
    let rbuild = place.command(&[]);
    let mut server = Command::new("/bin/sh");
    server
        .args(["-c", serve])
        .arg(&group.0)
        .arg(rbuild.get_program())
        .args(["serve", "--idle=10m"]);
    server
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("RBUILD_ROOT", place.root());
    fs::create_dir(place.root()).unwrap();
    fs::set_permissions(place.root(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let mut server = server.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the server listens", || place.root().join("server.sock").exists());
    place
        .dockerfile(&format!(
            "FROM base\nRUN yes {} | head -c {megabytes}m > /big\n",
            "0123456789".repeat(10)
        ))
        .file(
            "again",
            "FROM app\nRUN wc -c < /big > /size\nFROM base\nCOPY --from=0 /big /size /\n",
        );
    let base = place.base();
    let build = |arguments: &[&str]| {
        let mut all = vec!["build", "--progress=plain", base.as_str()];
        all.extend_from_slice(arguments);
        place.run(&all).exits(0)
    };
    build(&[
        "-t=app",
        "-o=type=image",
        "-o=type=oci,dest=app.tar,compression=gzip",
        ".",
    ]);
    build(&[
        "-f=again",
        "--build-context=app=docker-image://app",
        "-o=type=oci,dest=again.tar,compression=zstd",
        ".",
    ]);
    fs::remove_file(place.work().join("again.tar")).unwrap();
    let verified = place.run(&["store", "verify"]).exits(0).stdout;
    let pid = Pid::from_child(&server);
    let most_kb = most_resident_kb(pid);
    let facts = group.facts();
    say(&format!(
        "{megabytes} MiB: most resident {most_kb} kB; group: {facts}; {verified}"
    ));
    assert_eq!(place.server(), Some(pid), "the server lives");
    assert!(most_kb < MOST_RESIDENT_KB, "{most_kb} kB: {facts}");
    kill_process(pid, Signal::TERM).unwrap();
    assert!(end_of(&mut server).success());
    nothing_is_left(&place.root());
}
