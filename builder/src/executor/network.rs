//! Networks of their own for steps: a network namespace each, a virtual cable to the host, and address translation.
//!
//! Making one takes tens of milliseconds, so they are kept and used again: a step cannot change its network (it lacks
//! `NET_ADMIN`), and nothing of it runs when it has ended. A namespace lives as long as its descriptor, and its cable as long
//! as the namespace: when the engine ends, however it does, they are gone.
//!
//! Steps reach neither each other, nor the host, nor link-local addresses (where clouds serve credentials).

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::thread::UnshareFlags;

use crate::sys;

/// Cables of every engine on this host begin like this.
const CABLE: &str = "rbv";
/// Networks of four addresses in 10.213.0.0/16.
const SLOTS: u32 = 1 << 14;
/// Slots that are tried for one network.
const ATTEMPTS: u32 = 8;
const RULES: &str = "\
table ip rbuild
delete table ip rbuild
table ip rbuild {
    chain nat {
        type nat hook postrouting priority srcnat;
        ip saddr 10.213.0.0/16 oifname != \"rbv*\" masquerade
    }
    chain forward {
        type filter hook forward priority filter;
        iifname \"rbv*\" oifname \"rbv*\" drop
        iifname \"rbv*\" ip daddr 169.254.0.0/16 drop
    }
    chain input {
        type filter hook input priority filter;
        iifname \"rbv*\" ct state established,related accept
        iifname \"rbv*\" drop
    }
}
";

/// The networks of an engine that no step uses now.
#[derive(Debug, Default)]
pub(super) struct Networks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<OwnedFd>,
    prepared: bool,
    next: u32,
}

impl State {
    /// Engines of one host start at different slots; where a slot is taken the next one is tried.
    fn make(&mut self) -> io::Result<OwnedFd> {
        let first = std::process::id().wrapping_mul(97);
        let mut failed = None;
        for _ in 0..ATTEMPTS {
            self.next += 1;
            match make(first.wrapping_add(self.next) % SLOTS) {
                Ok(namespace) => return Ok(namespace),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| io::Error::other("no slot was tried")))
    }
}

/// A network that a step uses. It goes back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    networks: Arc<Networks>,
    namespace: Option<OwnedFd>,
}

impl Networks {
    /// A network, made if none is idle. Blocks.
    pub(super) fn lease(self: &Arc<Self>) -> io::Result<Lease> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = match state.idle.pop() {
            Some(namespace) => namespace,
            None => {
                if !state.prepared {
                    prepare_host()?;
                    state.prepared = true;
                }
                state.make()?
            }
        };
        drop(state);
        Ok(Lease {
            networks: Arc::clone(self),
            namespace: Some(namespace),
        })
    }
}

impl Lease {
    /// The namespace, as a path that other processes can open.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let namespace = self.namespace.as_ref()?;
        Some(PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            namespace.as_raw_fd()
        )))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.networks.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.idle.extend(self.namespace.take());
    }
}

fn prepare_host() -> io::Result<()> {
    feed(Command::new("nft").args(["-f", "-"]), RULES)?;
    let forwarding = "/proc/sys/net/ipv4/ip_forward";
    if fs::read_to_string(forwarding)?.trim() != "1" {
        tracing::info!("forwarding of IPv4 packets is switched on for the networks of steps");
        fs::write(forwarding, "1")?;
    }
    Ok(())
}

/// A namespace with loopback, and `eth0` as the end of a cable to the host.
fn make(slot: u32) -> io::Result<OwnedFd> {
    let (third, fourth) = (slot / 64, slot % 64 * 4);
    let (host, step) = (
        format!("10.213.{third}.{}", fourth + 1),
        format!("10.213.{third}.{}", fourth + 2),
    );
    let namespace = new_namespace()?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let cable = format!("{CABLE}{slot}");
    let outside = format!(
        "link add {cable} type veth peer name eth0 netns {path}\naddr add {host}/30 dev {cable}\nlink set {cable} up\n"
    );
    feed(Command::new("ip").args(["-batch", "-"]), &outside)?;
    let inside = format!("addr add {step}/30 dev eth0\nlink set eth0 up\nroute add default via {host}\n");
    in_namespace(&namespace, || feed(Command::new("ip").args(["-batch", "-"]), &inside))?;
    Ok(namespace)
}

/// Network namespaces belong to threads: one of its own makes it, and ends.
fn new_namespace() -> io::Result<OwnedFd> {
    on_thread(|| {
        sys::unshare(UnshareFlags::NEWNET)?;
        sys::loopback_up()?;
        Ok(OwnedFd::from(fs::File::open("/proc/thread-self/ns/net")?))
    })
}

fn in_namespace<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    use std::os::fd::AsFd;
    on_thread(|| {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)?;
        work()
    })
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let panicked = |_| io::Error::other("a thread that sets up networks panicked");
    std::thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|payload| Err(panicked(payload)))
    })
}

/// Runs a tool on `input`; what it says on standard error becomes the error.
fn feed(command: &mut Command, input: &str) -> io::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let named = |error: io::Error| io::Error::new(error.kind(), format!("`{name}`: {error}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(named)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(named)?;
    }
    let output = child.wait_with_output().map_err(named)?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "`{name}`: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
