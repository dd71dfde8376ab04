//! SSH agents, real ones, and the programs that speak to them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use testdata::machine::Need;

use super::Place;
use super::server::wait_until;

/// What tests with agents need.
pub(crate) const AGENT: Need = Need::Program("/usr/bin/ssh-agent");

/// A real agent. It ends with the test.
#[derive(Debug)]
pub(crate) struct Agent {
    process: Child,
    /// Where it listens.
    pub(crate) socket: PathBuf,
    /// As `ssh-add -L` shows it; empty without a key.
    pub(crate) public_key: String,
}

impl Agent {
    /// An agent with one key; both lie in `directory`.
    pub(crate) fn new(directory: &Path) -> Self {
        let mut agent = Self::empty(directory);
        let key = directory.join("key");
        let make = Command::new("/usr/bin/ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "a key", "-f"])
            .arg(&key)
            .status();
        assert!(make.unwrap().success());
        let add = Command::new("/usr/bin/ssh-add")
            .args(["-q"])
            .arg(&key)
            .env("SSH_AUTH_SOCK", &agent.socket)
            .stderr(Stdio::null())
            .status();
        assert!(add.unwrap().success());
        agent.public_key = std::fs::read_to_string(directory.join("key.pub")).unwrap();
        agent
    }

    /// An agent without keys.
    pub(crate) fn empty(directory: &Path) -> Self {
        let socket = directory.join("agent.sock");
        let process = Command::new("/usr/bin/ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the agent listens", || socket.exists());
        Self {
            process,
            socket,
            public_key: String::new(),
        }
    }

    /// The flag that lends it.
    pub(crate) fn flag(&self, id: &str) -> String {
        format!("--ssh={id}={}", self.socket.display())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Place {
    /// A stage with this machine's OpenSSH client and the libraries it needs, as a context.
    pub(crate) fn ssh_tools(&self) -> String {
        let root = self.work().join("tools");
        for program in ["/usr/bin/ssh-add", "/usr/bin/ssh-agent", "/usr/bin/ssh-keygen"] {
            let listed = String::from_utf8(self.other("/usr/bin/ldd", &[program])).unwrap();
            let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
            for path in libraries.chain([program]) {
                let copy = root.join(path.trim_start_matches('/'));
                std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
                std::fs::copy(path, &copy).unwrap();
            }
        }
        format!("--build-context=tools={}", root.display())
    }
}
