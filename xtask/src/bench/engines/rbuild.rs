//! rbuild, with a server of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use super::server::{Memory, Server};
use super::{Build, Engine, State};
use crate::bench::workloads::Form;
use crate::run::{command, output, rbuild};

/// The program of this repository.
pub(super) struct Rbuild {
    program: PathBuf,
    state: State,
    server: Option<Server>,
    peak_bytes: u64,
    profile: bool,
}

impl Rbuild {
    pub(super) fn new(work: &Path, profile: bool) -> Result<Self> {
        Ok(Self {
            program: rbuild()?,
            state: State::new(work, "rbuild")?,
            server: None,
            peak_bytes: 0,
            profile,
        })
    }

    /// A command of the client, which knows nothing but the state of now.
    fn client(&self, words: &[&str]) -> Command {
        let mut client = command(&self.program, words);
        client.env("HOME", self.state.path("home"));
        for name in ["XDG_CACHE_HOME", "DOCKER_CONFIG", "RBUILD_BUILDER", "SOURCE_DATE_EPOCH"] {
            client.env_remove(name);
        }
        client.arg("--root").arg(self.state.path("store"));
        client
    }

    fn log(&self) -> PathBuf {
        self.state.path("server.log")
    }

    fn note_peak(&mut self) -> Result<()> {
        if let Some(server) = &self.server {
            self.peak_bytes = self.peak_bytes.max(server.memory_bytes(Memory::Peak)?);
        }
        Ok(())
    }
}

impl Engine for Rbuild {
    fn name(&self) -> &'static str {
        "rbuild"
    }

    fn version(&self) -> Result<String> {
        let mut version = command(&self.program, &["--version"]);
        Ok(output(&mut version)?.trim().to_owned())
    }

    fn begin_empty(&mut self) -> Result<()> {
        self.note_peak()?;
        self.server = None;
        self.state.renew()?;
        let level = if self.profile { "warn,phase=debug" } else { "warn" };
        let mut serve = self.client(&["serve"]);
        serve
            .env("RUST_LOG", level)
            .stdout(Stdio::null())
            .stderr(File::create(self.log())?);
        let socket = self.state.path("store").join("server.sock");
        self.server = Some(Server::start("rbuild serve", "", &mut serve, || socket.exists())?);
        Ok(())
    }

    fn build(&self, build: &Build<'_>) -> Command {
        let mut command = self.client(&["build", "--quiet", "--tag", &build.tag]);
        if build.no_cache {
            command.arg("--no-cache");
        }
        if let Some(number) = &build.number {
            command.arg(format!("--build-arg=NUMBER={number}"));
        }
        if build.host_network {
            command.args(["--network=host", "--allow=network.host"]);
        }
        command.arg(build.context);
        command
    }

    fn export(&self, build: &Build<'_>, form: Form, to: &Path) -> Option<Vec<Command>> {
        let form = match form {
            Form::Plain => "uncompressed",
            Form::Gzip => "gzip",
            Form::Zstd => "zstd",
        };
        // The build is a cached one; its time counts.
        let mut export = self.build(&Build {
            no_cache: false,
            ..build.clone()
        });
        export.arg(format!("--output=type=oci,compression={form},dest={}", to.display()));
        Some(vec![export])
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

    fn phase_log(&self) -> Option<PathBuf> {
        self.profile.then(|| self.log())
    }
}
