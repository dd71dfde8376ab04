//! What steps reach over their networks. The engine runs in a namespace made for the test, with another machine behind a cable: two
//! addresses of it can be reached from the engine's host, 192.0.2.2, and 169.254.169.254, where clouds serve credentials.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use builder::executor::{Executor, Network, Process};
use builder::snapshot::rootfs::{Rootfs, Upper};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use testdata::machine::{Need, lacks};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;

const IP: &str = "/usr/sbin/ip";
const NFT: &str = "/usr/sbin/nft";

/// A network namespace.
struct Machine {
    namespace: OwnedFd,
}

impl Machine {
    fn new() -> Self {
        let mut first = Command::new("/usr/bin/unshare")
            .args(["--net", "/bin/busybox", "sh", "-c", "echo; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut printed = BufReader::new(first.stdout.take().unwrap());
        printed.read_line(&mut line).unwrap();
        assert_eq!(line, "\n");
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", first.id())).unwrap();
        // It waits for a line, and ends without one; the descriptor keeps the namespace.
        drop(first.stdin.take());
        first.wait().unwrap();
        Self {
            namespace: namespace.into(),
        }
    }

    /// Everything that `work` starts is on this machine.
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            });
            there
                .join()
                .unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })
    }

    fn ip(&self, words: &str) {
        let output = self.run(|| Command::new(IP).args(words.split(' ')).output().unwrap());
        assert!(output.status.success(), "ip {words}: {output:?}");
    }

    /// Greets everybody who connects to any of its addresses.
    fn serve(&self) -> u16 {
        // An address of IPv6 also takes connections of IPv4.
        let listener = self.run(|| TcpListener::bind("[::]:0").unwrap());
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || listener.incoming().for_each(|guest| greet(guest.unwrap())));
        port
    }
}

/// Says where the guest comes from. One who is gone already hears nothing.
fn greet(mut guest: TcpStream) {
    let from = guest.peer_addr().unwrap().ip();
    drop(writeln!(guest, "hello {from}"));
}

/// The engine's host with a cable to another machine, which does not know how to reach steps.
fn host_and_other() -> (Machine, Machine) {
    let (host, other) = (Machine::new(), Machine::new());
    let path = format!("/proc/{}/fd/{}", std::process::id(), other.namespace.as_raw_fd());
    host.ip(&format!("link add name out type veth peer name in netns {path}"));
    for words in [
        "link set lo up",
        "addr add 192.0.2.1/24 dev out",
        "addr add 169.254.0.1/16 dev out",
        "link set out up",
    ] {
        host.ip(words);
    }
    for words in [
        "link set lo up",
        "addr add 192.0.2.2/24 dev in",
        "addr add 169.254.169.254/16 dev in",
        "link set in up",
    ] {
        other.ip(words);
    }
    (host, other)
}

fn on_default_network(bench: &Bench, script: &str) -> Process {
    Process {
        network: Network::Default,
        ..bench.process(script)
    }
}

/// A script that says what comes from an address, or `nothing`.
fn asking(address: &str, port: u16) -> String {
    format!("nc -w 1 {address} {port} < /dev/null 2> /dev/null | grep . || echo nothing; ")
}

pub(crate) fn a_step_reaches_other_machines_and_nothing_near() {
    let needs = [Need::Sandbox, Need::Busybox, Need::Program(IP)];
    if lacks("a_step_reaches_other_machines_and_nothing_near", &needs) {
        return;
    }
    let (host, other) = host_and_other();
    let (there, here) = (other.serve(), host.serve());
    // The host itself reaches all that steps must not.
    for address in ["169.254.169.254", "192.0.2.2"] {
        host.run(|| TcpStream::connect((address, there)).unwrap());
    }
    host.run(|| TcpStream::connect(("192.0.2.1", here)).unwrap());
    host.run(|| {
        let bench = Bench::new();
        let gateway = "$(ip route | grep default | grep -o '10[^ ]*')";
        let script = [
            asking("192.0.2.2", there),
            asking("169.254.169.254", there),
            asking("192.0.2.1", here),
            asking(gateway, here),
        ]
        .concat();
        bench.check_process(
            &on_default_network(&bench, &script),
            "hello ::ffff:192.0.2.1\nnothing\nnothing\nnothing\n",
        );
    });
}

pub(crate) fn a_step_does_not_reach_the_host_over_ipv6() {
    let needs = [Need::Sandbox, Need::Busybox, Need::Program(IP), Need::Program(NFT)];
    if lacks("a_step_does_not_reach_the_host_over_ipv6", &needs) {
        return;
    }
    let host = Machine::new();
    let here = host.serve();
    host.run(|| {
        let bench = Bench::new();
        // The kernel tries a while whether an address is taken; only then it can be used.
        let settled = "until ip -6 addr show dev eth0 | grep -q fe80 && ! ip -6 addr show dev eth0 | grep -q tentative; \
                       do :; done; ";
        bench.check_process(&on_default_network(&bench, settled), "");
        let output = Command::new(IP).args(["-6", "-o", "addr", "show", "scope", "link"]).output().unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        let of_cable = listed.lines().find(|line| line.contains(" rbv"));
        let address = of_cable.and_then(|line| line.split_whitespace().find_map(|word| word.strip_suffix("/64")));
        let asked = asking(&format!("{}%eth0", address.unwrap()), here);
        bench.check_process(&on_default_network(&bench, &asked), "nothing\n");
        // It is the filter that is in the way.
        let removed = Command::new(NFT).args(["delete", "table", "ip6", "rbuild"]).status();
        assert!(removed.unwrap().success());
        let ran = bench.run(&on_default_network(&bench, &asked));
        assert!(ran.printed.starts_with("hello fe80:"), "{}", ran.printed);
    });
}

pub(crate) fn steps_do_not_reach_each_other() {
    let needs = [Need::Sandbox, Need::Busybox];
    if lacks("steps_do_not_reach_each_other", &needs) {
        return;
    }
    let host = Machine::new();
    host.run(|| {
        let bench = Bench::new();
        let server = "nc -ll -p 7000 -e echo hello & until nc 127.0.0.1 7000 < /dev/null > /dev/null 2>&1; do :; done; \
                      ip -4 addr show dev eth0 | grep -o '10[0-9.]*' | grep -m 1 .; wait";
        let server = on_default_network(&bench, server);
        let (sender, mut printed) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let served = bench.runtime.block_on(async {
            let serve = bench.executor.run(&server, sender, cancel.clone());
            let ask = async {
                let (_, address) = printed.recv().await.unwrap();
                let address = String::from_utf8(address.to_vec()).unwrap();
                let mut client = on_default_network(&bench, &asking(address.trim(), 7000));
                // Two steps never share a writable directory.
                let upper = Upper {
                    dir: bench.make_dir("other/upper"),
                    work: bench.make_dir("other/work"),
                };
                client.rootfs = Rootfs::Overlay {
                    lower: vec![bench.path("base")],
                    upper: Some(upper),
                };
                let (sender, mut printed) = mpsc::channel(16);
                bench
                    .executor
                    .run(&client, sender, CancellationToken::new())
                    .await
                    .unwrap();
                cancel.cancel();
                String::from_utf8(printed.recv().await.unwrap().1.to_vec()).unwrap()
            };
            tokio::join!(serve, ask)
        });
        assert!(served.0.is_err(), "it serves until it is cancelled: {:?}", served.0);
        assert_eq!(served.1, "nothing\n");
    });
}

pub(crate) fn a_step_without_network_has_loopback_only() {
    let bench = Bench::new();
    bench.check(
        "ls /sys/class/net; ip addr show lo | grep -c 'inet 127.0.0.1'; ip -o link | grep -c UP",
        "lo\n1\n1\n",
    );
    // Cables of other engines come and go.
    let stays = |name: &String| !name.starts_with("rbv");
    let entries = fs::read_dir("/sys/class/net").unwrap();
    let host: BTreeSet<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(stays)
        .collect();
    let ran = bench.run(&Process {
        network: Network::Host,
        ..bench.process("grep : /proc/net/dev | cut -d: -f1")
    });
    let seen = ran.printed.lines().map(|line| line.trim().to_owned()).filter(stays);
    assert_eq!(seen.collect::<BTreeSet<_>>(), host);
}

pub(crate) fn default_networks_do_not_reach_the_host() {
    let bench = Bench::new();
    let run = |script: &str, expected: &str| {
        bench.check_process(
            &Process {
                network: Network::Default,
                ..bench.process(script)
            },
            expected,
        );
    };
    run(
        "ip route | grep -c '^default via 10.213.'; echo $(ls /sys/class/net)",
        "1\neth0 lo\n",
    );
    // A listener on every address of the host: the step must not reach it through its gateway.
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let gateway = "$(ip route | grep default | grep -o '10[^ ]*')";
    run(
        &format!("nc -w 1 {gateway} {port} < /dev/null 2>/dev/null && echo reached; true"),
        "",
    );
}
