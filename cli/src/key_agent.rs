//! An SSH agent for key files: the user's own `ssh-agent` and `ssh-add`, for as long as a build runs.
//!
//! OpenSSH knows every kind and format of key, and refuses files that others can read; no key is ever in this process. The agent
//! runs beside a command that lives as long as a pipe of ours is open, so it ends with this process, even if that is killed. It
//! makes the directory of its socket itself, and removes it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::exit::Problem;

/// Tells the agent's process id and socket, then waits for the end of its input.
const COMPANION: &str = "echo \"$SSH_AGENT_PID $SSH_AUTH_SOCK\"; exec cat >/dev/null";

/// Longest line that tells them.
const LINE_BYTES: u64 = 4096;

/// A running agent. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct KeyAgent {
    companion: Child,
    agent: Pid,
    socket: PathBuf,
}

impl KeyAgent {
    /// An agent that holds `keys`, for the name that `--ssh` gives it.
    ///
    /// # Errors
    /// OpenSSH is not installed; a key that it does not take, as those with a passphrase.
    pub(crate) fn start(id: &str, keys: &[PathBuf]) -> Result<Self, Problem> {
        let mut companion = Command::new("ssh-agent")
            .args(["sh", "-c", COMPANION])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| not_started(id, "ssh-agent", &error.to_string()))?;
        let Some((agent, socket)) = first_line(&mut companion) else {
            end(&mut companion);
            return Err(not_started(id, "ssh-agent", "it did not say where it listens"));
        };
        let started = Self {
            companion,
            agent,
            socket,
        };
        for key in keys {
            started.add(id, key)?;
        }
        Ok(started)
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    fn add(&self, id: &str, key: &Path) -> Result<(), Problem> {
        // Nobody is asked for a passphrase: builds run where nobody is.
        let output = Command::new("ssh-add")
            .arg("-q")
            .arg(key)
            .env("SSH_AUTH_SOCK", &self.socket)
            .env("SSH_ASKPASS", "false")
            .env("SSH_ASKPASS_REQUIRE", "force")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| not_started(id, "ssh-add", &error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let key = key.display();
        let mut problem = Problem::usage(format!("--ssh: `{id}`: the key `{key}` could not be used"));
        let said = String::from_utf8_lossy(&output.stderr);
        for line in said.lines().filter(|line| !line.trim().is_empty()) {
            problem = problem.note(crate::ui::escape::line(line.as_bytes()));
        }
        Err(problem.help(format!(
            "a key with a passphrase must be in an agent: `ssh-add {key}`, then `--ssh {id}`"
        )))
    }
}

impl Drop for KeyAgent {
    fn drop(&mut self) {
        // The companion still lives, and an agent ends only after its companion: the number is still its own.
        if let Err(error) = kill_process(self.agent, Signal::TERM) {
            tracing::debug!(reason = %error, "the agent for key files has ended before");
        }
        end(&mut self.companion);
    }
}

/// Closes its input, upon which it ends.
fn end(companion: &mut Child) {
    drop(companion.stdin.take());
    // It has no other way to fail than to be gone.
    drop(companion.wait());
}

fn first_line(companion: &mut Child) -> Option<(Pid, PathBuf)> {
    let mut line = String::new();
    let output = companion.stdout.take()?;
    // What cannot be read holds no number.
    drop(BufReader::new(output.take(LINE_BYTES)).read_line(&mut line));
    let (agent, socket) = line.strip_suffix('\n')?.split_once(' ')?;
    Some((Pid::from_raw(agent.parse().ok()?)?, PathBuf::from(socket)))
}

fn not_started(id: &str, program: &str, reason: &str) -> Problem {
    Problem::environment(format!("--ssh: `{id}`: `{program}` cannot be run: {reason}"))
        .help("key files need OpenSSH's `ssh-agent` and `ssh-add`; the socket of a running agent does not")
}
