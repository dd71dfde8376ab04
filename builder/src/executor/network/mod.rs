//! Networks of their own for steps: a network namespace each, a virtual cable to the host, and address translation.
//!
//! They are kept and used again: a step cannot change its network (it lacks `NET_ADMIN`), and nothing of it runs when it has
//! ended. A namespace lives as long as its descriptor, and its cable as long as the namespace: when the engine ends, however it
//! does, they are gone. All of it is said to the kernel directly, so no program is needed, and none is started.
//!
//! Steps reach neither each other, nor the host, nor link-local addresses (where clouds serve credentials).
//!
//! All of that is for root of the machine. For others a program of the machine carries packets, see [`helper`].

pub(super) mod helper;
mod link;
mod netlink;
mod rules;
mod tables;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, UnshareFlags};

use crate::sys;
use link::Cable;
use netlink::{NetlinkError, Socket};

/// Networks of four addresses in 10.213.0.0/16.
const SLOTS: u32 = 1 << 14;
/// Slots that are tried for one network.
const ATTEMPTS: u32 = 8;
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Why there is no network for a step.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetworkError {
    /// The kernel would refuse everything.
    #[error("the engine lacks the capability `NET_ADMIN`")]
    NoPrivilege,
    /// Who is not root cannot make a way out alone.
    #[error(
        "neither `pasta` nor `slirp4netns` is installed; `apt-get install passt` or `apt-get install slirp4netns` brings one"
    )]
    NoHelper,
    /// The program that should carry packets ended.
    #[error("`{name}` failed: {words}")]
    Helper {
        /// The program.
        name: String,
        /// What it said.
        words: String,
    },
    /// The kernel was built without something, or may not load it.
    #[error("this kernel has no {what}: {source}")]
    Missing {
        /// The part of the kernel.
        what: &'static str,
        /// What showed it.
        source: NetlinkError,
    },
    /// The kernel refused something that it knows.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// Something beside netlink failed.
    #[error("cannot {action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl NetworkError {
    /// Whether a step could still have a namespace with nothing but loopback: that, too, must be brought up.
    pub(super) fn leaves_loopback(&self) -> bool {
        !matches!(self, Self::NoPrivilege)
    }
}

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
    fn make(&mut self) -> Result<OwnedFd, NetworkError> {
        let first = std::process::id().wrapping_mul(97);
        let mut host = Socket::open(None)?;
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            self.next += 1;
            match make(&mut host, first.wrapping_add(self.next) % SLOTS) {
                Err(NetworkError::Kernel(error)) if left > 0 && error.errno() == Some(Errno::EXIST) => {}
                made => return made,
            }
        }
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
    pub(super) fn lease(self: &Arc<Self>) -> Result<Lease, NetworkError> {
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

/// Brings the loopback interface of this thread's namespace up.
pub(super) fn loopback_up() -> Result<(), NetworkError> {
    link::loopback_up().map_err(|error| match error.errno() {
        Some(Errno::PERM) => NetworkError::NoPrivilege,
        _ => NetworkError::Kernel(error),
    })
}

/// Tries everything that a network needs in a namespace that is thrown away, so nothing of the host changes. Returns what would
/// have to change.
pub(super) fn rehearse() -> Result<&'static str, NetworkError> {
    check_privilege()?;
    on_thread(|| {
        sys::unshare(UnshareFlags::NEWNET).map_err(failed("make a network namespace"))?;
        filter()?;
        make(&mut Socket::open(None)?, 0)
    })?;
    if forwards()? {
        return Ok("IPv4 forwarding is on");
    }
    rustix::fs::access(FORWARDING, rustix::fs::Access::WRITE_OK)
        .map_err(io::Error::from)
        .map_err(failed("switch forwarding of IPv4 packets on"))?;
    Ok("IPv4 forwarding is off, the first step switches it on")
}

fn prepare_host() -> Result<(), NetworkError> {
    check_privilege()?;
    filter()?;
    if !forwards()? {
        tracing::info!("forwarding of IPv4 packets is switched on for the networks of steps");
        fs::write(FORWARDING, "1").map_err(failed("switch forwarding of IPv4 packets on"))?;
    }
    Ok(())
}

fn forwards() -> Result<bool, NetworkError> {
    let setting = fs::read_to_string(FORWARDING).map_err(failed("read whether IPv4 packets are forwarded"))?;
    Ok(setting.trim() == "1")
}

fn check_privilege() -> Result<(), NetworkError> {
    let held = rustix::thread::capabilities(None)
        .map_err(io::Error::from)
        .map_err(failed("read the capabilities of the engine"))?;
    match held.effective.contains(CapabilitySet::NET_ADMIN) {
        true => Ok(()),
        false => Err(NetworkError::NoPrivilege),
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::System { action, source }
}

fn filter() -> Result<(), NetworkError> {
    tables::establish().map_err(without_nf_tables)
}

/// What the kernel answers where the whole filter, a kind of chain or an expression is not built in.
fn without_nf_tables(error: NetlinkError) -> NetworkError {
    match error.errno() {
        Some(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOENT) => {
            NetworkError::Missing {
                what: "packet filter `nf_tables` with address translation",
                source: error,
            }
        }
        _ => NetworkError::Kernel(error),
    }
}

fn without_cables(error: NetlinkError) -> NetworkError {
    match error.errno() {
        Some(Errno::OPNOTSUPP) => NetworkError::Missing {
            what: "virtual cables (`veth`)",
            source: error,
        },
        _ => NetworkError::Kernel(error),
    }
}

/// A namespace with loopback, and `eth0` as the end of a cable to the namespace of `host`.
fn make(host: &mut Socket, slot: u32) -> Result<OwnedFd, NetworkError> {
    let (namespace, mut step) = new_namespace()?;
    cable(slot).lay(host, &mut step, &namespace).map_err(without_cables)?;
    Ok(namespace)
}

fn cable(slot: u32) -> Cable {
    let [high, low] = rules::ADDRESSES;
    let network = u32::from(Ipv4Addr::new(high, low, 0, 0)) + slot * 4;
    Cable {
        name: format!("{}{slot}", rules::CABLE),
        host: Ipv4Addr::from(network + 1),
        step: Ipv4Addr::from(network + 2),
        prefix: 30,
    }
}

/// A namespace, and a socket that stays in it. Network namespaces belong to threads: one of its own makes it, and ends.
fn new_namespace() -> Result<(OwnedFd, Socket), NetworkError> {
    on_thread(|| {
        sys::unshare(UnshareFlags::NEWNET).map_err(failed("make a network namespace"))?;
        let namespace = fs::File::open("/proc/thread-self/ns/net").map_err(failed("open a network namespace"))?;
        Ok((OwnedFd::from(namespace), Socket::open(None)?))
    })
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T, NetworkError> + Send) -> Result<T, NetworkError> {
    let ended = |_| failed("set up a network")(io::Error::other("the thread panicked"));
    std::thread::scope(|scope| {
        let thread = scope.spawn(work);
        thread.join().unwrap_or_else(|payload| Err(ended(payload)))
    })
}

#[cfg(test)]
mod tests;
