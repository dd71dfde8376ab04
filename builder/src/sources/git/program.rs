//! Runs the program `git`, with nothing of this machine but its certificates.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::remote::Access;
use crate::executor::Probe;
use crate::request::{Blame, BuildError};

/// Where programs are; the search path of whoever started the server does not matter.
const DIRECTORIES: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/sbin",
    "/sbin",
    "/usr/local/bin",
    "/usr/bin",
    "/bin",
];
/// Longest run of one command. Transfers without progress are ended far earlier, by git.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// Most bytes of output that are read: lists of files and references.
const OUTPUT_LIMIT: u64 = 512 << 20;
/// Most bytes of error messages that are kept.
const MESSAGE_LIMIT: u64 = 64 << 10;
/// Lines of a message that are shown.
const MESSAGE_LINES: usize = 8;

/// Settings of every command: nothing of the repository runs, nothing asks, nothing lingers.
const SETTINGS: [(&str, &str); 15] = [
    ("core.hooksPath", "/dev/null"),
    ("core.attributesFile", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.symlinks", "true"),
    ("core.logAllRefUpdates", "false"),
    ("credential.helper", ""),
    ("fetch.recurseSubmodules", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    // Redirects are looked at before they are followed: see the mirror.
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("safe.directory", "*"),
    ("submodule.recurse", "false"),
    ("uploadpack.allowAnySHA1InWant", "true"),
];

/// The program.
#[derive(Debug, Clone)]
pub(super) struct Git {
    path: PathBuf,
}

/// One command.
#[derive(Debug)]
pub(super) struct Call<'a> {
    arguments: Vec<OsString>,
    git_dir: &'a Path,
    work_tree: Option<(&'a Path, &'a Path)>,
    protocols: &'static str,
    access: &'a Access,
    input: Vec<u8>,
}

/// A command that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// What git said, in printable lines.
    pub(super) lines: Vec<String>,
    /// The command did not even run, or was given up.
    pub(super) broken: bool,
}

impl<'a> Call<'a> {
    /// A command on the repository `git_dir`.
    pub(super) fn new(git_dir: &'a Path, arguments: &[&str]) -> Self {
        Self {
            arguments: arguments.iter().map(OsString::from).collect(),
            git_dir,
            work_tree: None,
            protocols: "none",
            access: &Access::Anybody,
            input: Vec::new(),
        }
    }

    /// Adds an argument.
    pub(super) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// The command writes files below `directory` and its index to `index`.
    pub(super) const fn in_tree(mut self, directory: &'a Path, index: &'a Path) -> Self {
        self.work_tree = Some((directory, index));
        self
    }

    /// The command asks a remote to which one gets with `access`.
    pub(super) const fn remote(mut self, access: &'a Access) -> Self {
        self.protocols = match access {
            Access::Ssh(_) => "ssh",
            Access::Anybody | Access::Login(_) => "https:http:git",
        };
        self.access = access;
        self
    }

    /// The command reads another repository of this store.
    pub(super) const fn local(mut self) -> Self {
        self.protocols = "file";
        self
    }

    /// What the command reads.
    pub(super) fn input(mut self, input: Vec<u8>) -> Self {
        self.input = input;
        self
    }
}

impl Git {
    /// The program of this machine.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn find() -> Result<Self, BuildError> {
        let path = find("git").ok_or_else(|| {
            BuildError::environment("git sources need the program `git`, which the build server does not have")
                .help("install it there: `apt-get install git`, `dnf install git`, `apk add git`")
        })?;
        Ok(Self { path })
    }

    /// Runs a command to its end and returns its output. Dropping the future kills it and all it started.
    pub(super) async fn run(&self, call: Call<'_>) -> Result<Vec<u8>, Failure> {
        let mut command = self.command(&call);
        let broken = |error: &dyn std::fmt::Display| Failure {
            lines: vec![format!("`git`: {error}")],
            broken: true,
        };
        let mut running = Running(command.spawn().map_err(|error| broken(&error))?);
        let work = running.work(call.input);
        let outcome = tokio::time::timeout(TIMEOUT, work).await;
        let (status, output, messages) = outcome
            .map_err(|_| broken(&format!("no end after {} seconds", TIMEOUT.as_secs())))?
            .map_err(|error| broken(&error))?;
        if status.success() {
            return Ok(output);
        }
        Err(Failure {
            lines: printable(&messages),
            broken: false,
        })
    }

    fn command(&self, call: &Call<'_>) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&call.arguments)
            .env_clear()
            .env("PATH", DIRECTORIES.join(":"))
            .env("HOME", "/dev/null")
            .env("LC_ALL", "C")
            .env("GIT_DIR", call.git_dir)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", call.protocols)
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .current_dir(call.git_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // A group of its own: what git starts ends with it.
            .process_group(0);
        if let Some((work_tree, index)) = call.work_tree {
            command
                .env("GIT_WORK_TREE", work_tree)
                .env("GIT_INDEX_FILE", index)
                .current_dir(work_tree);
        }
        // In the environment, where other users cannot see it: a command line is for everybody.
        let login = match call.access {
            Access::Anybody => None,
            Access::Login(login) => Some(login.setting()),
            Access::Ssh(ssh) => {
                command.envs(ssh.environment());
                None
            }
        };
        let settings = SETTINGS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .chain(login);
        let mut count = 0;
        for (name, value) in settings {
            command.env(format!("GIT_CONFIG_KEY_{count}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        command.env("GIT_CONFIG_COUNT", count.to_string());
        command
    }
}

/// A command that runs; killed with all it started when it is dropped.
struct Running(Child);

impl Running {
    async fn work(&mut self, input: Vec<u8>) -> io::Result<(std::process::ExitStatus, Vec<u8>, Vec<u8>)> {
        let (stdin, stdout, stderr) = (self.0.stdin.take(), self.0.stdout.take(), self.0.stderr.take());
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A command that does not read to the end says why by its status.
                drop(stdin.write_all(&input).await);
            }
        };
        let ((), output, messages) = tokio::join!(feed, read(stdout, OUTPUT_LIMIT), read(stderr, MESSAGE_LIMIT));
        let status = self.0.wait().await?;
        let (output, complete) = output?;
        if !complete && status.success() {
            return Err(io::Error::other(format!("more than {OUTPUT_LIMIT} bytes of output")));
        }
        Ok((status, output, messages?.0))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Without an id it has ended, and was waited for.
        let group = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(group) = group
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "git ended by itself");
        }
    }
}

/// Reads all of `stream`, keeps the first `limit` bytes, and says whether that was all.
async fn read(stream: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<(Vec<u8>, bool)> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else {
        return Ok((kept, true));
    };
    (&mut stream).take(limit).read_to_end(&mut kept).await?;
    let more = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok((kept, more == 0))
}

/// The last lines of a message. Some of it may come from the remote.
fn printable(message: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(message);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut lines: Vec<String> = lines
        .map(|line| line.chars().filter(|c| !c.is_control()).collect())
        .collect();
    let first = lines.len().saturating_sub(MESSAGE_LINES);
    lines.split_off(first)
}

impl Failure {
    /// Whether the server sent git elsewhere.
    pub(super) fn is_redirect(&self) -> bool {
        self.lines.iter().any(|line| line.contains("returned error: 30"))
    }

    /// The failure of a build that could not do `what`.
    pub(super) fn into_error(self, what: &str) -> BuildError {
        let blame = if self.broken { Blame::Environment } else { Blame::Remote };
        let says = |words: &[&str]| {
            let found = |line: &String| words.iter().any(|word| line.contains(word));
            self.lines.iter().any(found)
        };
        let helps: [(&[&str], &str); 3] = [
            (
                &[
                    "could not read Username",
                    "Authentication failed",
                    "error: 401",
                    "error: 403",
                ],
                "lend a token with `--secret id=GIT_AUTH_TOKEN,env=…`",
            ),
            (
                &["Permission denied (publickey"],
                "the host takes none of the keys of `--ssh default`; `ssh-add -l` lists them",
            ),
            (
                &["Host key verification failed"],
                "the host shows another key than before; if that is right, lend its key with \
                 `--secret id=GIT_KNOWN_HOSTS,src=FILE`, as `ssh-keyscan` prints it",
            ),
        ];
        let failure = BuildError::new(blame, what);
        let failure = match helps.iter().find(|(words, _)| says(words)) {
            Some((_, help)) => failure.help(*help),
            None => failure,
        };
        self.lines.into_iter().fold(failure, BuildError::note)
    }
}

/// A program of this machine.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    let mut candidates = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name));
    candidates.find(|path| path.exists())
}

/// Whether git sources work on this machine.
#[must_use]
pub fn probe() -> Probe {
    let path = find("git");
    Probe {
        name: "git",
        ok: path.is_some(),
        found: path.map_or_else(
            || "missing: no git repositories as sources and contexts".to_owned(),
            |path| path.display().to_string(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_remote_cannot_move_the_cursor() {
        let lines = printable(b"one\r\n\x1b[2Jremote: two\n\n");
        assert_eq!(lines, ["one", "[2Jremote: two"]);
        let many = "x\n".repeat(20);
        assert_eq!(printable(many.as_bytes()).len(), MESSAGE_LINES);
    }
}
