//! Debian's `docker-registry` on a free port of loopback, with its data in a directory of its own.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A registry that ends with this value.
pub(crate) struct Registry {
    child: Child,
    address: String,
    _data: TempDir,
}

impl Registry {
    /// Starts a registry and waits until it answers.
    pub(crate) fn start() -> Result<Self> {
        let data = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        let config = data.path().join("config.yml");
        let storage = data.path().join("storage");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            storage.display()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command
            .spawn()
            .context("cannot start `docker-registry`; Debian's package has that name")?;
        let mut registry = Self {
            child,
            address,
            _data: data,
        };
        registry.wait()?;
        Ok(registry)
    }

    /// `127.0.0.1:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&self.address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("`docker-registry` ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!("`docker-registry` does not answer on {}", self.address);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end and nothing to wait for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
