//! Server processes of engines: started, waited for, measured, ended with the value.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run::command;

/// A server, and how much memory it held at most, together with its children of one name.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    child: Child,
    /// Name of child processes that are part of the server.
    part: &'static str,
}

/// What the kernel counts of a process.
#[derive(Debug, Clone, Copy)]
pub(super) enum Memory {
    Now,
    Peak,
}

impl Server {
    /// Starts `server` and waits until it is ready.
    pub(super) fn start(
        name: &'static str,
        part: &'static str,
        server: &mut Command,
        is_ready: impl Fn() -> bool,
    ) -> Result<Self> {
        let child = server.spawn().with_context(|| format!("cannot start `{name}`"))?;
        let mut server = Self { name, child, part };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_ready() {
            if let Some(status) = server.child.try_wait()? {
                bail!("`{name}` ended at once: {status}");
            }
            if Instant::now() > deadline {
                bail!("`{name}` does not answer");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// Resident bytes of the server and its parts.
    pub(super) fn memory_bytes(&self, memory: Memory) -> Result<u64> {
        let pid = self.child.id();
        let mut total = field_bytes(pid, memory).with_context(|| format!("`{}` is gone", self.name))?;
        for (child, name) in children(pid)? {
            // A part that ended meanwhile holds nothing.
            if name == self.part {
                total += field_bytes(child, memory).unwrap_or(0);
            }
        }
        Ok(total)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM, so that it takes its steps and mounts with it.
        let mut end = command("kill", &[self.child.id().to_string()]);
        drop(end.status());
        drop(self.child.wait());
    }
}

fn field_bytes(pid: u32, memory: Memory) -> Option<u64> {
    let field = match memory {
        Memory::Now => "VmRSS:",
        Memory::Peak => "VmHWM:",
    };
    kibibytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, field)
}

/// A field of `/proc/PID/status` in bytes.
fn kibibytes(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    value
        .split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}

/// Child processes with their names.
fn children(pid: u32) -> Result<Vec<(u32, String)>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(child) = entry?.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // A process that ended between the listing and the reading is nobody's child.
        let Ok(status) = fs::read_to_string(format!("/proc/{child}/status")) else {
            continue;
        };
        let field = |name: &str| {
            Some(
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(name))?
                    .trim()
                    .to_owned(),
            )
        };
        if field("PPid:").is_some_and(|parent| parent == pid.to_string()) {
            children.push((child, field("Name:").unwrap_or_default()));
        }
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status_of_a_process() {
        let status = "Name:\trbuild\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kibibytes(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        let own = std::process::id();
        let (now, peak) = (
            field_bytes(own, Memory::Now).unwrap(),
            field_bytes(own, Memory::Peak).unwrap(),
        );
        assert!(0 < now && now <= peak, "{now} {peak}");
    }
}
