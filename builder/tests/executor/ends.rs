//! However a step ends, nothing of it is left.

use std::fs;
use std::path::Path;
use std::time::Instant;

use builder::executor::{ExecError, Executor, ExitReport, NamespaceExecutor, Process};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;

/// Whether a process with this word in its command line runs on the host.
fn running(word: &str) -> bool {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path().join("cmdline"));
    // A process that ends while we look is not running.
    processes
        .filter_map(|path| fs::read(path).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(word))
}

/// A time to sleep that no other process on this machine sleeps.
fn nap(digit: u8) -> String {
    format!("7{:08}{digit}", std::process::id())
}

pub(crate) fn daemons_end_with_their_step() {
    let (bench, nap) = (Bench::new(), nap(1));
    let script = format!("setsid sleep {nap} & setsid sh -c 'trap \"\" TERM HUP; sleep {nap}' & echo done");
    bench.check(&script, "done\n");
    assert!(!running(&nap));
}

fn cancel_after_first_output(bench: &Bench, process: &Process) -> Result<ExitReport, ExecError> {
    let (sender, mut receiver) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    bench.runtime.block_on(async {
        let trigger = async {
            receiver.recv().await;
            cancel.cancel();
            while receiver.recv().await.is_some() {}
        };
        tokio::join!(bench.executor.run(process, sender, cancel.clone()), trigger).0
    })
}

pub(crate) fn cancelling_kills_everything() {
    let (bench, nap) = (Bench::new(), nap(2));
    let process = bench.process(&format!(
        "trap '' TERM INT; setsid sleep {nap} & echo ready; sleep {nap}; sleep {nap}"
    ));
    assert!(matches!(
        cancel_after_first_output(&bench, &process),
        Err(ExecError::Cancelled)
    ));
    assert!(!running(&nap));
}

pub(crate) fn dropping_the_future_kills_everything() {
    let (bench, nap) = (Bench::new(), nap(3));
    let process = bench.process(&format!("echo ready; exec sleep {nap}"));
    let (sender, mut receiver) = mpsc::channel(1);
    bench.runtime.block_on(async {
        tokio::select! {
            _ = bench.executor.run(&process, sender, CancellationToken::new()) => panic!("the step ended by itself"),
            chunk = receiver.recv() => assert!(chunk.is_some()),
        }
    });
    bench.runtime.block_on(bench.executor.finish());
    assert!(!running(&nap));
}

/// Argument with which this program plays an engine: it runs one step, and waits for it.
pub(crate) const ENGINE_ARGUMENT: &str = "__engine";

pub(crate) fn engine(nap: &str) {
    let bench = Bench::new();
    bench.run(&bench.process(&format!("setsid sleep {nap} & sleep {nap}")));
}

pub(crate) fn a_killed_engine_takes_its_steps_along() {
    let (bench, nap) = (Bench::new(), nap(4));
    let own = std::env::current_exe().unwrap();
    // What the engine cannot remove any more goes with our directory.
    let mut engine = std::process::Command::new(own)
        .args([ENGINE_ARGUMENT, &nap])
        .env("TMPDIR", bench.dir.path())
        .spawn()
        .unwrap();
    wait_for(|| running(&format!("sleep\0{nap}")));
    engine.kill().unwrap();
    engine.wait().unwrap();
    wait_for(|| !running(&nap));
    // The next engine removes the groups of the dead one, once the kernel is through with the last process in them.
    wait_for(|| {
        drop(NamespaceExecutor::new().unwrap());
        groups_of(engine.id()).is_empty()
    });
}

/// The control groups that an engine has left.
fn groups_of(engine: u32) -> Vec<String> {
    let dirs = ["", "pids", "memory"].map(|hierarchy| Path::new("/sys/fs/cgroup").join(hierarchy).join("rbuild"));
    let entries = dirs
        .iter()
        .filter(|dir| dir.exists())
        .flat_map(|dir| fs::read_dir(dir).unwrap());
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("{engine}-"))).collect()
}

#[track_caller]
fn wait_for(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed().as_secs() < 60, "it did not happen within a minute");
        std::thread::yield_now();
    }
}

pub(crate) fn no_mount_and_no_control_group_is_left() {
    let bench = Bench::new();
    bench.check("mkdir /tmp/x", "");
    bench.refusal(&Process {
        user: "nobody-here".to_owned(),
        ..bench.process("true")
    });
    let process = bench.process("echo ready; sleep 1000");
    assert!(cancel_after_first_output(&bench, &process).is_err());
    let name = bench.dir.path().file_name().unwrap().to_string_lossy().into_owned();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&name));
    bench.runtime.block_on(bench.executor.finish());
    assert_eq!(groups_of(std::process::id()), Vec::<String>::new());
}
