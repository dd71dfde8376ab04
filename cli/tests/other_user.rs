//! Clients that are not the user of the server: their files come over the session.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::support::build::needs;
use crate::support::server::{end_of, send, wait_until};
use crate::support::{Outcome, Place};

/// Somebody without any rights, as on most systems.
const NOBODY: u32 = 65534;

/// A server that everybody may ask, and what it logs.
struct Server {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
}

fn let_in(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

impl Server {
    fn start(place: &Place) -> Self {
        let mut command = place.command(&["serve"]);
        command
            .env("RUST_LOG", "builder::op::remote=debug,builder::session=debug")
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || lines.for_each(|line| log.lock().unwrap().extend(line))
        });
        let socket = place.root().join("server.sock");
        let is_serving = || !place.run(&["version"]).stdout.contains("server not running");
        wait_until("the server answers", || {
            UnixStream::connect(&socket).is_ok() && is_serving()
        });
        let_in(place.root().parent().unwrap(), 0o755);
        let_in(&place.root(), 0o711);
        let_in(&socket, 0o666);
        Self { process, log }
    }

    fn build(&self, place: &Place) -> Outcome {
        let address = format!("unix://{}", place.root().join("server.sock").display());
        let mut command = place.command(&["build", "--progress=plain", "--builder", &address, "."]);
        command.env("SOURCE_DATE_EPOCH", "1").uid(NOBODY).gid(NOBODY);
        place.outcome(command.output().unwrap()).exits(0)
    }

    /// How many files each question since the last call named.
    fn asked(&self) -> Vec<usize> {
        let number = |line: String| line.split_once(" files=")?.1.parse().ok();
        self.log.lock().unwrap().drain(..).filter_map(number).collect()
    }

    /// How many directories were new, each time that one was.
    fn new_directories(&self) -> Vec<usize> {
        let log = self.log.lock().unwrap();
        let number = |line: &String| line.split_once(" new=")?.1.parse().ok();
        log.iter().filter_map(number).collect()
    }

    fn end(mut self) {
        send(&self.process, Signal::TERM);
        assert!(end_of(&mut self.process).success());
    }
}

#[test]
fn files_of_another_user_come_in_one_go_and_only_those_that_are_new() {
    needs!();
    let place = Place::new();
    for number in 0..30 {
        place.file(&format!("a/{}", 2 * number), &format!("even {number}\n"));
        place.file(&format!("b/{}", 2 * number + 1), &format!("odd {number}\n"));
    }
    place.file("b/large", &"line\n".repeat(300_000)).file("a/empty", "");
    place.dockerfile("FROM scratch\nCOPY a b /all/\n");
    let server = Server::start(&place);
    let first = server.build(&place).digest();
    assert_eq!((server.new_directories(), server.asked()), (vec![3], vec![62]));
    place.file("b/21", "edited\n").file("b/new", "new\n");
    let second = server.build(&place).digest();
    // `b` itself, and the root that has its time.
    assert_eq!((server.new_directories(), server.asked()), (vec![2], vec![2]));
    // A damaged file is no file that is known: the client has it.
    place.file("a/12", "another\n");
    for blob in crate::support::damage::files_below(&place.root().join("blobs")) {
        if std::fs::metadata(&blob).unwrap().len() > 1 << 20 {
            crate::support::damage::damage(&blob);
        }
    }
    let third = server.build(&place).digest();
    assert_eq!(server.asked(), [1, 1]);
    server.end();
    let fresh = Place::new();
    let server = Server::start(&fresh);
    std::fs::remove_dir_all(fresh.work()).unwrap();
    std::fs::rename(place.work(), fresh.work()).unwrap();
    assert_eq!(server.build(&fresh).digest(), third);
    assert_eq!(server.asked(), [63]);
    server.end();
    assert!(first != second && second != third);
}
