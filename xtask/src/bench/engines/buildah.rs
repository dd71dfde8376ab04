//! buildah, which has no server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Build, Engine, State};
use crate::bench::workloads::Form;
use crate::run::{command, output};

/// Hard limits cannot be raised everywhere, so steps get low ones.
const CONFIG: &str = "[containers]\ndefault_ulimits = [\"nofile=1024:4096\"]\n[engine]\nruntime = \"runc\"\n";

/// Debian's program.
pub(super) struct Buildah {
    state: State,
    config: PathBuf,
}

impl Buildah {
    pub(super) fn new(work: &Path) -> Result<Self> {
        let config = work.join("containers.conf");
        fs::write(&config, CONFIG)?;
        Ok(Self {
            state: State::new(work, "buildah")?,
            config,
        })
    }

    fn client(&self, words: &[&str]) -> Command {
        let mut client = Command::new("buildah");
        client
            .env("HOME", self.state.path("home"))
            .env("CONTAINERS_CONF", &self.config);
        client.arg("--root").arg(self.state.path("storage"));
        client.arg("--runroot").arg(self.state.path("run"));
        client.args(words);
        client
    }
}

impl Engine for Buildah {
    fn name(&self) -> &'static str {
        "buildah"
    }

    fn version(&self) -> Result<String> {
        Ok(output(&mut command("buildah", &["--version"]))?.trim().to_owned())
    }

    fn begin_empty(&mut self) -> Result<()> {
        self.state.renew()
    }

    fn build(&self, build: &Build<'_>) -> Command {
        let mut command = self.client(&["build", "--quiet", "--layers", "--runtime=runc", "--network=host"]);
        command.args(["--tls-verify=false", "--tag", &build.tag]);
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
        let mut push = self.client(&["push", "--quiet", "--format=oci"]);
        push.args(match form {
            Form::Plain => ["--disable-compression"].as_slice(),
            Form::Gzip => &["--compression-format=gzip"],
            Form::Zstd => &["--compression-format=zstd"],
        });
        push.arg(&build.tag).arg(format!("oci-archive:{}", to.display()));
        Some(vec![push])
    }

    fn push(&self, build: &Build<'_>, name: &str) -> Vec<Command> {
        let mut push = self.client(&["push", "--quiet", "--tls-verify=false", &build.tag]);
        push.arg(format!("docker://{name}"));
        vec![push]
    }

    fn memory_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn take_peak_bytes(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn disk_bytes(&self) -> Result<u64> {
        self.state.disk_bytes()
    }
}
