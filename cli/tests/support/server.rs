//! Servers of a place: who they are, and their end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Place;
use super::leaks::processes_about;

/// Longest wait for something that takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

impl Place {
    /// The process that serves the store, if one does.
    pub(crate) fn server(&self) -> Option<Pid> {
        let lock = std::fs::File::open(self.root().join("server.lock")).ok()?;
        let free = rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok();
        if free {
            return None;
        }
        let words = std::fs::read_to_string(self.root().join("server.lock")).unwrap();
        Pid::from_raw(words.trim().parse().unwrap())
    }

    /// A server that says in its log where time goes, once it serves; and that log, when it has ended.
    pub(crate) fn serve_with_phases(&self) -> (Child, JoinHandle<String>) {
        let mut serve = self.command(&["serve"]);
        serve
            .env("RUST_LOG", "info,phase=debug")
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut server = serve.spawn().unwrap();
        let log = read_until(&mut server, |line| line.contains("serving"));
        (server, log)
    }

    /// Ends the server that a command of this place started, and waits until it is gone.
    pub(crate) fn end_server(&self) {
        if let Some(server) = self.server() {
            kill_process(server, Signal::TERM).unwrap();
            // The lock is free a little before the process is gone.
            wait_until("the server ends", || processes_about(&self.root()).is_empty());
        }
    }
}

impl Drop for Place {
    /// No test leaves a server, not even one that fails.
    fn drop(&mut self) {
        if let Some(server) = self.server() {
            // It may be ending by itself at this moment.
            let killed = kill_process(server, Signal::KILL);
            assert!(killed.is_ok() || self.server().is_none());
        }
    }
}

/// Looks again and again until `done`; fails after [`PATIENCE`].
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a child as [`wait_until`] does; kills it if it does not end.
#[track_caller]
pub(crate) fn end_of(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the child does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a signal to a child that was not waited for yet.
pub(crate) fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits until the child's stderr has a line for which `wanted`; all of stderr is read in the background.
#[track_caller]
pub(crate) fn read_until(child: &mut Child, wanted: fn(&str) -> bool) -> JoinHandle<String> {
    let reader = BufReader::new(child.stderr.take().unwrap());
    let (sender, lines) = std::sync::mpsc::channel();
    let rest = std::thread::spawn(move || {
        let mut said = String::new();
        for line in reader.lines() {
            let line = line.unwrap();
            said += &format!("{line}\n");
            // Nobody listens any more once the line came.
            drop(sender.send(line));
        }
        said
    });
    let start = Instant::now();
    while let Ok(line) = lines.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
        if wanted(&line) {
            return rest;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("the line never came:\n{}", rest.join().unwrap());
}

/// Whether this is what `echo started` in a step shows.
pub(crate) fn step_started(line: &str) -> bool {
    line.starts_with('#') && line.ends_with(" started")
}

/// Whether some process has these words on its command line.
pub(crate) fn runs(words: &str) -> bool {
    let own = std::process::id().to_string();
    std::fs::read_dir("/proc").unwrap().any(|entry| {
        let path = entry.unwrap().path();
        !path.ends_with(&own) && has_words(&path, words)
    })
}

/// A process that ended meanwhile has none.
fn has_words(process: &Path, words: &str) -> bool {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ").contains(words)
}
