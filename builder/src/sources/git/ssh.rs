//! Git over SSH: OpenSSH's client with the agent that the user lends, and with nothing else of this machine.
//!
//! Hosts are known by the keys that the user lends, or else by those that they showed first: these are kept in the store.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use proto::address::is_ssh;
use proto::definition::MountAccess;

use super::program::find;
use crate::build::Job;
use crate::op::agent::AgentSocket;
use crate::request::BuildError;

/// The agent of builds that name none, as in `--ssh default`.
const AGENT: &str = "default";
/// The secret with the keys of hosts.
const KNOWN_HOSTS: &str = "GIT_KNOWN_HOSTS";

/// Options of every connection. The server's own keys, settings and known hosts are not for builds.
const OPTIONS: [&str; 12] = [
    "BatchMode=yes",
    "IdentityFile=none",
    "GlobalKnownHostsFile=/dev/null",
    "HashKnownHosts=no",
    "UpdateHostKeys=no",
    "CheckHostIP=no",
    "PreferredAuthentications=publickey",
    "ForwardAgent=no",
    "ClearAllForwardings=yes",
    "ConnectTimeout=30",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
];

/// What connections to a remote need. Dropping it takes the agent away.
#[derive(Debug)]
pub(super) struct Ssh {
    agent: AgentSocket,
    /// Of the socket, and of the keys if the user lent them.
    lent: File,
    /// Of the keys that hosts showed first; nothing if the user lent keys.
    kept: Option<File>,
}

impl Ssh {
    /// For `address`; nothing if that is not reached over SSH.
    pub(super) async fn find(address: &str, job: &Job) -> Result<Option<Self>, BuildError> {
        if !is_ssh(address) {
            return Ok(None);
        }
        if find("ssh").is_none() {
            let what = "git over SSH needs the program `ssh`, which the build server does not have";
            return Err(BuildError::environment(what)
                .help("install it there: `apt-get install openssh-client`, `dnf install openssh-clients`"));
        }
        if !job.session.has_agent(AGENT) {
            let what = format!(
                "`{}` is fetched over SSH, which needs an SSH agent",
                proto::address::redacted(address)
            );
            return Err(BuildError::user(what)
                .help("lend the one of SSH_AUTH_SOCK with `--ssh default`, or a key with `--ssh default=KEY`"));
        }
        let known = job.session.secret(KNOWN_HOSTS).await?;
        let ssh = Self::open(known.as_deref(), job);
        ssh.map(Some)
            .map_err(|error| BuildError::environment(format!("cannot make a socket for the SSH agent: {error}")))
    }

    fn open(known: Option<&[u8]>, job: &Job) -> io::Result<Self> {
        let access = MountAccess {
            mode: 0o600,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let agent = AgentSocket::open(&job.session, AGENT, &access, &job.host.store.tmp_dir())?;
        let directory = agent.directory();
        let kept = match known {
            Some(keys) => {
                fs::write(directory.join(KNOWN), keys)?;
                None
            }
            None => Some(File::open(job.host.store.root())?),
        };
        Ok(Self {
            lent: File::open(directory)?,
            agent,
            kept,
        })
    }

    /// What git and ssh find in their environment.
    pub(super) fn environment(&self) -> [(&'static str, PathBuf); 3] {
        let (keys, check) = match &self.kept {
            Some(kept) => (kept, "accept-new"),
            None => (&self.lent, "yes"),
        };
        let options: String = OPTIONS.iter().map(|option| format!(" -o {option}")).collect();
        let keys = through(keys).join(KNOWN);
        let command = format!(
            "ssh -F /dev/null{options} -o StrictHostKeyChecking={check} -o UserKnownHostsFile={}",
            keys.display()
        );
        let socket = self.agent.path();
        let socket = through(&self.lent).join(socket.file_name().unwrap_or_default());
        [
            ("GIT_SSH_COMMAND", command.into()),
            ("GIT_SSH_VARIANT", "ssh".into()),
            ("SSH_AUTH_SOCK", socket),
        ]
    }
}

/// The file with the keys of hosts.
const KNOWN: &str = "known_hosts";

/// A name of an open directory for processes that this one starts: short, as addresses of sockets must be, and without a
/// character that means something to a shell or to ssh.
fn through(directory: &File) -> PathBuf {
    Path::new("/proc")
        .join(std::process::id().to_string())
        .join("fd")
        .join(directory.as_raw_fd().to_string())
}
