//! Debian's docker, which has BuildKit inside, with a daemon of its own.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;
use tempfile::TempDir;

use super::server::{Memory, Server};
use super::{Build, Engine, State};
use crate::bench::workloads::Form;
use crate::run::{command, output};

/// Debian's client; another one that comes first in `PATH` may not have BuildKit built in.
pub(super) const CLIENT: &str = "/usr/bin/docker";

/// Debian's daemon.
pub(super) struct Docker {
    state: State,
    server: Option<Server>,
    /// Sockets and what its containers run on; their paths must be short.
    run: TempDir,
    peak_bytes: u64,
}

impl Docker {
    pub(super) fn new(work: &Path) -> Result<Self> {
        Ok(Self {
            state: State::new(work, "docker")?,
            server: None,
            run: tempfile::tempdir()?,
            peak_bytes: 0,
        })
    }

    fn client(&self, words: &[&str]) -> Command {
        let mut client = Command::new(CLIENT);
        client.env("HOME", self.state.path("home")).env("DOCKER_BUILDKIT", "1");
        client
            .env_remove("DOCKER_CONFIG")
            .env_remove("DOCKER_HOST")
            .env_remove("DOCKER_CONTEXT");
        client.arg("--host").arg(self.host()).args(words);
        client
    }

    fn host(&self) -> String {
        format!("unix://{}", self.run.path().join("docker.sock").display())
    }

    fn note_peak(&mut self) -> Result<()> {
        if let Some(server) = &self.server {
            self.peak_bytes = self.peak_bytes.max(server.memory_bytes(Memory::Peak)?);
        }
        Ok(())
    }
}

impl Engine for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn version(&self) -> Result<String> {
        Ok(output(&mut command(CLIENT, &["--version"]))?.trim().to_owned())
    }

    fn begin_empty(&mut self) -> Result<()> {
        self.note_peak()?;
        self.server = None;
        self.state.renew()?;
        let run = self.run.path();
        let mut dockerd = Command::new("dockerd");
        dockerd.arg("--data-root").arg(self.state.path("data"));
        dockerd.arg("--exec-root").arg(run.join("exec"));
        dockerd.arg("--pidfile").arg(run.join("pid"));
        dockerd.args(["--host", &self.host()]);
        dockerd.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        dockerd
            .stdout(Stdio::null())
            .stderr(File::create(self.state.path("dockerd.log"))?);
        let socket = run.join("docker.sock");
        let answers = || UnixStream::connect(&socket).is_ok();
        self.server = Some(Server::start("dockerd", "containerd", &mut dockerd, answers)?);
        // It listens before it can work; this waits for the latter.
        output(&mut self.client(&["info"])).map(drop)
    }

    fn build(&self, build: &Build<'_>) -> Command {
        let mut command = self.client(&["build", "--quiet", "--network=host", "--tag", &build.tag]);
        if build.no_cache {
            command.arg("--no-cache");
        }
        if let Some(number) = &build.number {
            command.arg(format!("--build-arg=NUMBER={number}"));
        }
        command.arg(build.context);
        command
    }

    fn export(&self, build: &Build<'_>, form: Form, to: &Path) -> Option<Vec<Command>> {
        // This version writes its own layout, and layers only as they are.
        (form == Form::Plain).then(|| {
            let mut save = self.client(&["save", "--output"]);
            save.arg(to).arg(&build.tag);
            vec![save]
        })
    }

    fn push(&self, build: &Build<'_>, name: &str) -> Vec<Command> {
        let tag = self.client(&["tag", &build.tag, name]);
        let push = self.client(&["push", "--quiet", name]);
        vec![tag, push]
    }

    fn memory_bytes(&self) -> Result<Option<u64>> {
        let server = self.server.as_ref();
        server.map(|server| server.memory_bytes(Memory::Now)).transpose()
    }

    fn take_peak_bytes(&mut self) -> Result<Option<u64>> {
        self.note_peak()?;
        Ok(Some(std::mem::take(&mut self.peak_bytes)))
    }

    fn disk_bytes(&self) -> Result<u64> {
        self.state.disk_bytes()
    }
}
