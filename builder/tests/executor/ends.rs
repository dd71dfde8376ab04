//! However a step ends, nothing of it is left.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use builder::executor::{ExecError, Executor, ExitReport, NamespaceExecutor, Process};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;

/// Whether a process with this word in its command line runs on the host.
pub(crate) fn running(word: &str) -> bool {
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

/// The control groups that an engine has left, wherever it makes them.
fn groups_of(engine: u32) -> Vec<String> {
    let (mut found, mut left) = (Vec::new(), vec![PathBuf::from("/sys/fs/cgroup")]);
    while let Some(dir) = left.pop() {
        // Groups of others come and go.
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for path in entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir())
        {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if dir.ends_with("rbuild") && name.starts_with(&format!("{engine}-")) {
                found.push(name);
            }
            left.push(path);
        }
    }
    found
}

#[track_caller]
fn wait_for(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed().as_secs() < 60, "it did not happen within a minute");
        std::thread::yield_now();
    }
}

/// Id, state and parent of every process.
fn processes() -> Vec<(u32, char, u32)> {
    let stats = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("stat")).ok());
    let parse = |stat: String| {
        let id = stat.split(' ').next()?.parse().ok()?;
        let mut rest = stat.rsplit(") ").next()?.split(' ');
        Some((id, rest.next()?.chars().next()?, rest.next()?.parse().ok()?))
    };
    stats.filter_map(parse).collect()
}

pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let children = processes().into_iter().filter(|(_, _, of)| *of == parent);
    children.map(|(id, _, _)| id).collect()
}

/// Sandboxes wait for their steps; this one, and the process that made it, is killed before a step comes.
pub(crate) fn killing_what_waits_for_a_step_costs_no_step() {
    let bench = Bench::new();
    let before = children_of(std::process::id());
    bench.check("echo one", "one\n");
    let keepers = children_of(std::process::id());
    let keeper = *keepers.iter().find(|id| !before.contains(id)).unwrap();
    let waiting = children_of(keeper);
    assert!(!waiting.is_empty(), "a sandbox waits for the next step");
    let pid = rustix::process::Pid::from_raw(i32::try_from(keeper).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    wait_for(|| {
        let alive = |id: &u32| processes().iter().any(|(other, state, _)| other == id && *state != 'Z');
        !waiting.iter().chain([&keeper]).any(alive)
    });
    bench.check("echo two", "two\n");
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
