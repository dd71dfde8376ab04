//! What this machine offers to sandboxes, for those who ask why a tier was chosen.

use std::path::Path;

use proto::platform::Platform;
use rustix::mount::{FsOpenFlags, fsconfig_set_string, fsopen};

use super::cgroup;
use super::emulation::Handlers;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was looked at.
    pub name: &'static str,
    /// Whether the root tier finds what it needs.
    pub ok: bool,
    /// What was found.
    pub found: String,
}

/// Looks at everything that the root tier needs, without changing anything.
#[must_use]
pub fn probe() -> Vec<Probe> {
    vec![root(), overlay(), limits(), tool("ip"), tool("nft"), emulation()]
}

fn root() -> Probe {
    let ok = rustix::process::geteuid().is_root();
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective);
    let admin = held.is_ok_and(|held| held.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
    let found = match (ok, admin) {
        (true, true) => "root with SYS_ADMIN",
        (true, false) => "root without SYS_ADMIN",
        (false, _) => "not root",
    };
    Probe {
        name: "privilege",
        ok: ok && admin,
        found: found.to_owned(),
    }
}

fn overlay() -> Probe {
    let layers = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
        .and_then(|config| fsconfig_set_string(&config, "lowerdir+", "/"));
    let found = match &layers {
        Ok(()) => "overlayfs with one option per layer".to_owned(),
        Err(error) => format!("no overlayfs with one option per layer (Linux 6.5): {error}"),
    };
    Probe {
        name: "overlay",
        ok: layers.is_ok(),
        found,
    }
}

fn limits() -> Probe {
    let v1 = Path::new("/sys/fs/cgroup/pids").is_dir();
    let found = match (cgroup::has_version_2(), v1) {
        (true, _) => "control groups version 2",
        (false, true) => "control groups version 1",
        (false, false) => "no control groups: steps run without limits",
    };
    Probe {
        name: "limits",
        ok: cgroup::has_version_2() || v1,
        found: found.to_owned(),
    }
}

/// Never a failure: most builds are for the machine they run on.
fn emulation() -> Probe {
    let native = Platform::new("linux", std::env::consts::ARCH, "");
    let runnable = Handlers::read().runnable(&native);
    let foreign: Vec<String> = runnable.iter().skip(1).map(ToString::to_string).collect();
    let found = match foreign.is_empty() {
        true => format!("steps for {native} only: binfmt_misc has no handlers with the flag F"),
        false => format!("steps for {native} and {}", foreign.join(", ")),
    };
    Probe {
        name: "platforms",
        ok: true,
        found,
    }
}

/// A tool that networks of steps need.
fn tool(name: &'static str) -> Probe {
    let dirs = [
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
        "/usr/local/bin",
        "/usr/bin",
        "/bin",
    ];
    let path = dirs
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists());
    let found = path.as_ref().map_or_else(
        || "missing: no default network for steps".to_owned(),
        |path| path.display().to_string(),
    );
    Probe {
        name,
        ok: path.is_some(),
        found,
    }
}
