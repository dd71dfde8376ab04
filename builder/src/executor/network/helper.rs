//! Networks of steps where the engine is not root of the machine: a namespace of its own, and a program that carries its packets
//! through sockets of the engine's user.
//!
//! That is `pasta`, or else `slirp4netns`, whichever is installed. There is one for each step: it is started by the keeper, in no
//! namespace of the step, and ends with it. Its input is the step's network, so that it needs no right to look into a process.
//! Addresses of the machine itself and link-local ones are closed off before a packet flows; a step cannot change routes.
//!
//! Source: pasta(1), slirp4netns(1).

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

use super::{NetworkError, failed, link, new_namespace};
use crate::executor::ExecError;
use crate::executor::keeper::Work;
use crate::executor::launch::Launcher;
use crate::executor::subordinate::find_program;

/// Where clouds serve credentials.
const LINK_LOCAL: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 0, 0), 16);
/// Through which both programs make the step's interface.
const TUN: &str = "/dev/net/tun";
/// The network to work on is the standard input of the program.
const NETWORK: &str = "/proc/self/fd/0";
/// What a program may say until it is ready.
const MAX_WORDS: usize = 16 << 10;

/// Nothing goes from outside into the step, nothing to the machine's loopback; the number of the process says that it is ready.
const PASTA: [&str; 21] = [
    "--foreground",
    "--quiet",
    "--config-net",
    "--ipv4-only",
    "--no-map-gw",
    "--no-dhcp",
    "--no-dhcpv6",
    "--no-ndp",
    "--no-ra",
    "--no-netns-quit",
    "-t",
    "none",
    "-u",
    "none",
    "-T",
    "none",
    "-U",
    "none",
    "--pid",
    "/dev/stdout",
    "--netns",
];
const SLIRP: [&str; 5] = [
    "--configure",
    "--mtu=65520",
    "--disable-host-loopback",
    "--ready-fd=1",
    "--netns-type=path",
];

/// The program of this machine, with its arguments.
#[derive(Debug)]
struct Helper {
    program: PathBuf,
    args: Vec<String>,
}

impl Helper {
    fn find() -> Option<Self> {
        let with = |program: &str, args: &[&str], last: &[&str]| {
            let words = args.iter().chain([&NETWORK]).chain(last);
            Some(Self {
                program: find_program(program)?,
                args: words.map(|word| (*word).to_owned()).collect(),
            })
        };
        with("pasta", &PASTA, &[]).or_else(|| with("slirp4netns", &SLIRP, &["tap0"]))
    }

    fn command(self) -> Vec<String> {
        [vec![self.program.display().to_string()], self.args].concat()
    }
}

/// What networks of steps would be made with; else what is missing.
pub(in crate::executor) fn found() -> Result<PathBuf, String> {
    let helper = Helper::find().ok_or_else(|| NetworkError::NoHelper.to_string())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    match rustix::fs::open(TUN, flags, rustix::fs::Mode::empty()) {
        Ok(_) => Ok(helper.program),
        Err(error) => Err(format!(
            "`{TUN}`, which `{}` needs, cannot be opened: {error}",
            helper.program.display()
        )),
    }
}

/// A network that a program carries. It ends when dropped.
#[derive(Debug)]
pub(in crate::executor) struct Helped {
    namespace: OwnedFd,
    /// The keeper ends the program when this closes.
    _control: std::os::unix::net::UnixStream,
    listener: JoinHandle<()>,
}

impl Helped {
    /// The namespace, as a path that other processes can open.
    pub(in crate::executor) fn path(&self) -> PathBuf {
        let (engine, number) = (std::process::id(), self.namespace.as_raw_fd());
        PathBuf::from(format!("/proc/{engine}/fd/{number}"))
    }
}

impl Drop for Helped {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// A network with a way out.
pub(in crate::executor) async fn connect(launcher: &Launcher) -> Result<Helped, ExecError> {
    let helper = Helper::find().ok_or_else(|| refused(&NetworkError::NoHelper))?;
    let name = helper.program.display().to_string();
    let namespace = tokio::task::spawn_blocking(closed_off);
    let namespace = namespace
        .await
        .map_err(|error| refused(&failed("make a network")(io::Error::other(error))))?
        .map_err(|error| refused(&error))?;
    let pipes = || -> io::Result<_> { Ok((std::os::unix::net::UnixStream::pair()?, io::pipe()?)) };
    let ((control, theirs), (reader, writer)) = pipes().map_err(|error| refused(&failed("make pipes")(error)))?;
    let mut said =
        pipe::Receiver::from_owned_fd(reader.into()).map_err(|error| refused(&failed("make pipes")(error)))?;
    let work = Work::Helper { args: helper.command() };
    launcher.order(&work, &[theirs.as_fd(), writer.as_fd(), namespace.as_fd()])?;
    drop((theirs, writer));
    ready(&mut said).await.map_err(|words| {
        let words = words.trim().escape_debug().to_string();
        refused(&NetworkError::Helper { name, words })
    })?;
    // Somebody has to read it, or the program would wait for ever one day.
    let listener = tokio::spawn(async move {
        while let Ok(words) = hear(&mut said).await {
            tracing::debug!(words, "the program for the network of a step");
        }
    });
    Ok(Helped {
        namespace,
        _control: control,
        listener,
    })
}

/// Waits for a line that is a number, or a first word that is one; else returns what was said.
async fn ready(said: &mut pipe::Receiver) -> Result<(), String> {
    let mut words = String::new();
    while words.len() < MAX_WORDS {
        match hear(said).await {
            Ok(more) => words += &more,
            Err(_) => return Err(words),
        }
        let is_number = |line: &str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit());
        if words.lines().any(|line| is_number(line.trim())) {
            return Ok(());
        }
    }
    Err(words)
}

/// What comes next; an error at the end.
async fn hear(said: &mut pipe::Receiver) -> io::Result<String> {
    let mut buffer = Vec::with_capacity(4096);
    match said.read_buf(&mut buffer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(String::from_utf8_lossy(&buffer).into_owned()),
    }
}

/// A namespace from which neither the machine nor its link-local neighbours will be reached.
fn closed_off() -> Result<OwnedFd, NetworkError> {
    let table = fs::read_to_string("/proc/net/fib_trie").map_err(failed("read the addresses of this machine"))?;
    let own = own_addresses(&table).into_iter().map(|address| (address, 32));
    let closed: Vec<(Ipv4Addr, u8)> = own.chain([LINK_LOCAL]).collect();
    let (namespace, mut socket) = new_namespace()?;
    link::close_off(&mut socket, &closed)?;
    Ok(namespace)
}

/// The machine's addresses in the text form of its routes: an address, and in the line below that it is local.
fn own_addresses(table: &str) -> Vec<Ipv4Addr> {
    let mut last = None;
    let mut own = Vec::new();
    for line in table.lines() {
        match line.trim().strip_prefix("|-- ") {
            Some(address) => last = address.parse::<Ipv4Addr>().ok(),
            None if line.trim() == "/32 host LOCAL" => own.extend(last.filter(|address| !address.is_loopback())),
            None => {}
        }
    }
    own.sort_unstable();
    own.dedup();
    own
}

fn refused(error: &NetworkError) -> ExecError {
    ExecError::Network {
        loopback: true,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_the_machine_are_read_from_its_routes() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\nLocal:\n     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 10.0.0.1\n        /32 host LOCAL\n";
        let expected: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 2)];
        assert_eq!(own_addresses(table), expected);
    }
}
