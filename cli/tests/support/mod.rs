//! A machine of its own for every test: store, home, working directory, and nothing of the caller's environment.
#![expect(clippy::unwrap_used, reason = "all of this is part of tests")]

pub(crate) mod agent;
pub(crate) mod build;
pub(crate) mod damage;
pub(crate) mod draw;
pub(crate) mod leaks;
pub(crate) mod pty;
pub(crate) mod remote;
pub(crate) mod server;
pub(crate) mod sshd;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Store, home and working directory of one test. Removed at its end.
#[derive(Debug)]
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    /// An empty place.
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("rbuild-test-").tempdir().unwrap();
        for name in ["home", "work"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        Self { directory }
    }

    /// The store; it does not exist before the first use.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// The current directory of commands.
    pub(crate) fn work(&self) -> PathBuf {
        self.directory.path().join("work")
    }

    /// Writes a file below the working directory.
    pub(crate) fn file(&self, path: &str, content: &str) -> &Self {
        let path = self.work().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// The command, ready for further arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rbuild"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.directory.path().join("home"))
            .env("RBUILD_ROOT", self.root())
            .current_dir(self.work())
            .stdin(Stdio::null());
        command
    }

    /// Runs the command.
    #[must_use]
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.outcome(self.command(arguments).output().unwrap())
    }

    /// Runs the command with bytes on stdin.
    #[must_use]
    pub(crate) fn run_with_stdin(&self, arguments: &[&str], stdin: &[u8]) -> Outcome {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        self.outcome(child.wait_with_output().unwrap())
    }

    /// What a command did, its output without what differs from run to run.
    #[must_use]
    pub(crate) fn outcome(&self, output: Output) -> Outcome {
        Outcome {
            code: output.status.code(),
            stdout: self.normal(&output.stdout),
            stderr: self.normal(&output.stderr),
            raw_stdout: output.stdout,
        }
    }

    fn normal(&self, bytes: &[u8]) -> String {
        normalise(&String::from_utf8_lossy(bytes), self.directory.path())
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Nothing if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The bytes, digests and all.
    pub(crate) raw_stdout: Vec<u8>,
}

impl Outcome {
    /// The digest on stdout.
    pub(crate) fn digest(&self) -> String {
        let text = String::from_utf8(self.raw_stdout.clone()).unwrap();
        let digest = text.strip_suffix('\n').unwrap();
        assert!(digest.starts_with("sha256:") && digest.len() == 71, "{text}");
        digest.to_owned()
    }

    /// Asserts that stderr has these words.
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "`{words}` is not in:\n{}", self.stderr);
        self
    }

    /// Asserts the exit code, showing the output if it is another one.
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }
}

/// Replaces the place, process ids, ids of builds, digests and times.
pub(crate) fn normalise(text: &str, place: &Path) -> String {
    let text = text.replace(place.to_str().unwrap(), "[place]");
    let mut normal = String::new();
    for line in text.split_inclusive('\n') {
        normal.push_str(&normalise_words(line));
    }
    normal
}

fn normalise_words(line: &str) -> String {
    let words: Vec<String> = line.split(' ').map(normalise_word).collect();
    let mut words = words;
    for at in 1..words.len() {
        let digits = words[at].bytes().take_while(u8::is_ascii_digit).count();
        if words[at - 1] == "process" && digits > 0 {
            words[at].replace_range(..digits, "[pid]");
        }
        let hex = words[at].bytes().take_while(u8::is_ascii_hexdigit).count();
        if words[at - 1] == "debug" && hex == 12 {
            words[at].replace_range(..hex, "[build]");
        }
    }
    words.join(" ")
}

fn normalise_word(word: &str) -> String {
    let trimmed = word.trim_end();
    let end = &word[trimmed.len()..];
    let is_digest = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    if trimmed.strip_prefix("sha256:").is_some_and(is_digest) {
        return format!("sha256:[digest]{end}");
    }
    let is_time = |text: &str| {
        let parts = text.split_once('.');
        parts.is_some_and(|(a, b)| {
            !a.is_empty() && !b.is_empty() && (a.to_owned() + b).bytes().all(|c| c.is_ascii_digit())
        })
    };
    let (number, unit) = trimmed.strip_suffix('s').map_or((trimmed, ""), |number| (number, "s"));
    if is_time(number) {
        return format!("[time]{unit}{end}");
    }
    word.to_owned()
}

#[test]
fn output_is_normalised() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let text = format!("#1 DONE 0.3s\n#2 12.345 /tmp/x/file\n{digest}\nthe process 123 serves\nv1.0 10.0.0.1\n");
    assert_eq!(
        normalise(&text, Path::new("/tmp/x")),
        "#1 DONE [time]s\n#2 [time] [place]/file\nsha256:[digest]\nthe process [pid] serves\nv1.0 10.0.0.1\n"
    );
}
