//! What this machine offers to sandboxes, for those who ask why a tier was chosen.

use proto::platform::Platform;
use rustix::mount::{FsOpenFlags, fsconfig_set_string, fsopen};

use super::emulation::Handlers;
use super::network::helper;
use super::tier::{self, Tier};
use super::{cgroup, network};
use crate::ids::Ids;

/// One fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What was looked at.
    pub name: &'static str,
    /// Whether sandboxes of this process's kind find what they need.
    pub ok: bool,
    /// What was found.
    pub found: String,
}

/// Looks at everything that sandboxes of this process's kind need, without changing anything.
#[must_use]
pub fn probe() -> Vec<Probe> {
    if tier::choose(None) == Ok(Tier::Plain) {
        return vec![plain(), devices(), container_network(), emulation()];
    }
    vec![root(), overlay(), limits(), network(), emulation()]
}

fn root() -> Probe {
    let ok = rustix::process::geteuid().is_root();
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective);
    let admin = held.is_ok_and(|held| held.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
    let outside = Ids::of_process().is_outside();
    let found = match (ok, admin) {
        (true, true) if !outside => "root of a user namespace, with SYS_ADMIN",
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

/// Of a container that lets nobody mount anything.
fn plain() -> Probe {
    Probe {
        name: "privilege",
        ok: true,
        found: "root of a plain container: steps run in copies of their images, share its process ids, and have no `/proc/self`"
            .to_owned(),
    }
}

/// Never a failure: steps without them have an empty file as `/dev/null`.
fn devices() -> Probe {
    let held = rustix::thread::capabilities(None).map(|sets| sets.effective);
    let found = match held.is_ok_and(|held| held.contains(rustix::thread::CapabilitySet::MKNOD)) {
        true => "the usual ones",
        false => "none: the container lacks the capability `MKNOD`",
    };
    Probe {
        name: "devices",
        ok: true,
        found: found.to_owned(),
    }
}

fn container_network() -> Probe {
    Probe {
        name: "network",
        ok: true,
        found: "steps have that of this container; with `--network=none`, local sockets only".to_owned(),
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
    let (ok, found) = cgroup::probe();
    Probe {
        name: "limits",
        ok,
        found,
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

/// Everything that a network of a step needs is made in a namespace that is thrown away.
fn network() -> Probe {
    if !Ids::of_process().is_outside() {
        return helped_network();
    }
    let rehearsed = network::rehearse();
    let found = match &rehearsed {
        Ok(found) => format!("steps get networks of their own; {found}"),
        Err(error) if error.leaves_loopback() => {
            format!("steps run with `--network=none` or `--network=host` only: {error}")
        }
        Err(error) => format!("steps run with `--network=host` only: {error}"),
    };
    Probe {
        name: "network",
        ok: rehearsed.is_ok(),
        found,
    }
}

/// A program carries the packets of steps.
fn helped_network() -> Probe {
    let helper = helper::found();
    let found = match &helper {
        Ok(program) => format!("steps get networks of their own through `{}`", program.display()),
        Err(reason) => format!("steps run with `--network=none` or `--network=host` only: {reason}"),
    };
    Probe {
        name: "network",
        ok: helper.is_ok(),
        found,
    }
}
