//! Networks in namespaces made for a test, read back with the programs that others would use.

use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::net::netlink::NETFILTER;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_capabilities};
use testdata::machine::{Need, lacks};

use super::*;

const NFT: &str = "/usr/sbin/nft";
const IP: &str = "/usr/sbin/ip";
const NEEDS: [Need; 3] = [Need::Sandbox, Need::Program(NFT), Need::Program(IP)];

/// As in the head of `rules.rs`, with what is implied there.
const RULES: &str = "\
table ip rbuild {
	chain nat {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.213.0.0/16 oifname != \"rbv*\" masquerade
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname \"rbv*\" oifname \"rbv*\" drop
		iifname \"rbv*\" ip daddr 169.254.0.0/16 drop
	}

	chain input {
		type filter hook input priority filter; policy accept;
		iifname \"rbv*\" ct state established,related accept
		iifname \"rbv*\" drop
	}
}
table ip6 rbuild {
	chain forward {
		type filter hook forward priority filter; policy accept;
		iifname \"rbv*\" drop
	}

	chain input {
		type filter hook input priority filter; policy accept;
		iifname \"rbv*\" drop
	}
}
";

/// Runs `work` in a network namespace of its own.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    on_another_thread(|| {
        sys::unshare(UnshareFlags::NEWNET).unwrap();
        work()
    })
}

fn inside<T: Send>(namespace: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    on_another_thread(|| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}

fn on_another_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(payload) => std::panic::resume_unwind(payload),
    })
}

/// What a program prints in the namespace of this thread.
fn printed(program: &str, words: &str) -> String {
    let output = Command::new(program).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn transactions() -> Vec<u8> {
    tables::generation(&mut Socket::open(Some(NETFILTER)).unwrap()).unwrap()
}

#[test]
fn the_kernel_holds_the_rules_as_nft_prints_them() {
    if lacks("the_kernel_holds_the_rules_as_nft_prints_them", &NEEDS) {
        return;
    }
    apart(|| {
        filter().unwrap();
        assert_eq!(printed(NFT, "list ruleset"), RULES);
    });
}

#[test]
fn rules_as_wanted_are_left_alone() {
    if lacks("rules_as_wanted_are_left_alone", &NEEDS) {
        return;
    }
    apart(|| {
        filter().unwrap();
        let (handles, before) = (printed(NFT, "-a list ruleset"), transactions());
        filter().unwrap();
        assert_eq!((printed(NFT, "-a list ruleset"), transactions()), (handles, before));
    });
    // Also those that another program made of the same words.
    apart(|| {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("rules");
        fs::write(&file, RULES).unwrap();
        printed(NFT, &format!("-f {}", file.display()));
        let before = transactions();
        filter().unwrap();
        assert_eq!(transactions(), before);
    });
}

#[test]
fn rules_that_differ_in_anything_are_replaced() {
    if lacks("rules_that_differ_in_anything_are_replaced", &NEEDS) {
        return;
    }
    let changes = [
        "delete table ip rbuild",
        "delete table ip6 rbuild",
        "flush chain ip rbuild input",
        "add rule ip rbuild forward accept",
        "insert rule ip rbuild input tcp dport 22 accept",
        "add rule ip6 rbuild input accept",
        "add chain ip rbuild extra",
        "add set ip rbuild extra { type ipv4_addr; }",
        "add chain ip rbuild forward { type filter hook forward priority filter; policy drop; }",
        "add table ip rbuild { flags dormant; }",
        "replace rule ip rbuild nat handle 2 ip saddr 10.213.0.0/16 oifname != \"rbx*\" masquerade",
        "replace rule ip rbuild nat handle 2 ip saddr 10.213.0.0/16 oifname != \"rbv*\" masquerade random",
        "replace rule ip rbuild nat handle 2 ip saddr 10.213.0.0/24 oifname != \"rbv*\" masquerade",
        "replace rule ip rbuild nat handle 2 ip saddr 10.213.0.0/16 oifname != \"rbv*\" counter masquerade",
        "replace rule ip rbuild nat handle 2 ip saddr 10.213.0.0/16 oifname != \"rbv*\" return",
    ];
    for change in changes {
        apart(|| {
            printed(NFT, "add table ip other");
            filter().unwrap();
            let handles = printed(NFT, "-a list chain ip rbuild nat");
            let handle = handles
                .lines()
                .find_map(|line| line.split_once("masquerade # handle "))
                .unwrap()
                .1;
            printed(NFT, &change.replace("handle 2", &format!("handle {handle}")));
            let expected = format!("table ip other {{\n}}\n{RULES}");
            assert_ne!(printed(NFT, "list ruleset"), expected, "{change}");
            filter().unwrap();
            assert_eq!(printed(NFT, "list ruleset"), expected, "{change}");
        });
    }
}

#[test]
fn chains_of_another_hook_are_replaced() {
    if lacks("chains_of_another_hook_are_replaced", &NEEDS) {
        return;
    }
    for (right, wrong) in [
        ("hook input priority filter", "hook output priority filter"),
        ("hook forward priority filter", "hook forward priority 7"),
        ("chain forward", "chain onward"),
    ] {
        apart(|| {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("rules");
            fs::write(&file, RULES.replacen(right, wrong, 1)).unwrap();
            printed(NFT, &format!("-f {}", file.display()));
            filter().unwrap();
            assert_eq!(printed(NFT, "list ruleset"), RULES, "{wrong}");
        });
    }
}

#[test]
fn engines_that_start_at_the_same_time_make_the_rules_once() {
    if lacks("engines_that_start_at_the_same_time_make_the_rules_once", &NEEDS) {
        return;
    }
    let alone = apart(|| {
        filter().unwrap();
        transactions()
    });
    for _ in 0..10 {
        let together = apart(|| {
            let start = Barrier::new(8);
            std::thread::scope(|scope| {
                let engine = || {
                    start.wait();
                    filter().unwrap();
                };
                (0..8).for_each(|_| drop(scope.spawn(engine)));
            });
            assert_eq!(printed(NFT, "list ruleset"), RULES);
            transactions()
        });
        assert_eq!(together, alone);
    }
}

#[test]
fn programs_that_change_other_rules_all_the_time_are_outlasted() {
    if lacks("programs_that_change_other_rules_all_the_time_are_outlasted", &NEEDS) {
        return;
    }
    apart(|| {
        std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                for number in 0..20 {
                    printed(NFT, &format!("add table ip other{number}"));
                }
            });
            while !others.is_finished() {
                filter().unwrap();
                printed(NFT, "delete table ip rbuild");
            }
        });
        filter().unwrap();
        let now = format!(
            "{}{}",
            printed(NFT, "list table ip rbuild"),
            printed(NFT, "list table ip6 rbuild")
        );
        assert_eq!(now, RULES);
    });
}

#[test]
fn a_network_is_what_ip_prints() {
    if lacks("a_network_is_what_ip_prints", &NEEDS) {
        return;
    }
    apart(|| {
        let namespace = make(&mut Socket::open(None).unwrap(), 65).unwrap();
        let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let outside = words(printed(IP, "-4 -o addr show dev rbv65"));
        assert!(
            outside.contains("rbv65 inet 10.213.1.5/30 scope global rbv65"),
            "{outside}"
        );
        assert!(printed(IP, "link show dev rbv65").contains("state UP"));
        inside(&namespace, || {
            assert_eq!(printed(IP, "-br link").lines().count(), 2);
            assert!(words(printed(IP, "-4 -o addr show dev lo")).contains("inet 127.0.0.1/8"));
            let inside = words(printed(IP, "-4 -o addr show dev eth0"));
            assert!(inside.contains("eth0 inet 10.213.1.6/30 scope global eth0"), "{inside}");
            assert_eq!(
                words(printed(IP, "-4 route")),
                "default via 10.213.1.5 dev eth0 10.213.1.4/30 dev eth0 proto kernel scope link src 10.213.1.6"
            );
            assert!(printed(IP, "link show dev eth0").contains("state UP"));
        });
    });
}

#[test]
fn a_slot_that_is_taken_is_passed_over() {
    if lacks("a_slot_that_is_taken_is_passed_over", &NEEDS) {
        return;
    }
    apart(|| {
        let (mut one, mut other) = (State::default(), State::default());
        let namespaces = [one.make().unwrap(), other.make().unwrap()];
        assert_eq!((one.next, other.next), (1, 2));
        let addresses = namespaces.map(|namespace| inside(&namespace, || printed(IP, "-4 -o addr show dev eth0")));
        assert_ne!(addresses[0], addresses[1]);
    });
}

#[test]
fn cables_vanish_with_their_namespace() {
    if lacks("cables_vanish_with_their_namespace", &NEEDS) {
        return;
    }
    apart(|| {
        let mut host = Socket::open(None).unwrap();
        let namespace = make(&mut host, 3).unwrap();
        host.index("rbv3").unwrap();
        drop(namespace);
        // The kernel takes them down a little later.
        let began = Instant::now();
        while host.index("rbv3").is_ok() {
            assert!(began.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_rehearsal_changes_nothing() {
    if lacks("a_rehearsal_changes_nothing", &NEEDS) {
        return;
    }
    apart(|| {
        // A new namespace starts with the setting of the machine.
        fs::write(FORWARDING, "0").unwrap();
        let state = || (printed(NFT, "list ruleset"), printed(IP, "addr"), forwards().unwrap());
        let before = state();
        assert_eq!(
            rehearse().unwrap(),
            "IPv4 forwarding is off, the first step switches it on"
        );
        assert_eq!(state(), before);
        prepare_host().unwrap();
        assert_eq!(rehearse().unwrap(), "IPv4 forwarding is on");
    });
}

#[test]
fn without_the_capability_it_is_named() {
    if lacks("without_the_capability_it_is_named", &NEEDS) {
        return;
    }
    apart(|| {
        let mut held = rustix::thread::capabilities(None).unwrap();
        held.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, held).unwrap();
        let error = Arc::new(Networks::default()).lease().unwrap_err();
        assert_eq!(error.to_string(), "the engine lacks the capability `NET_ADMIN`");
        assert!(!error.leaves_loopback());
        assert!(matches!(loopback_up(), Err(NetworkError::NoPrivilege)));
        assert!(matches!(rehearse(), Err(NetworkError::NoPrivilege)));
        // What the kernel itself says then.
        assert_eq!(tables::establish().unwrap_err().errno(), Some(Errno::PERM));
    });
}

#[test]
fn what_a_kernel_lacks_is_named() {
    let refused = |errno, said: Option<&str>| NetlinkError::Refused {
        action: "try it".to_owned(),
        errno,
        said: said.map(str::to_owned),
    };
    assert_eq!(
        without_cables(refused(Errno::OPNOTSUPP, Some("Unknown device type"))).to_string(),
        "this kernel has no virtual cables (`veth`): cannot try it: Unknown device type (Operation not supported (os error 95))"
    );
    let unknown = NetlinkError::Socket(io::Error::from(Errno::PROTONOSUPPORT));
    assert_eq!(
        without_nf_tables(unknown).to_string(),
        "this kernel has no packet filter `nf_tables` with address translation: cannot talk to the kernel about networks: \
         Protocol not supported (os error 93)"
    );
    assert!(matches!(
        without_nf_tables(refused(Errno::NOENT, None)),
        NetworkError::Missing { .. }
    ));
    assert!(matches!(
        without_nf_tables(refused(Errno::PERM, None)),
        NetworkError::Kernel(_)
    ));
    assert!(matches!(
        without_cables(refused(Errno::EXIST, None)),
        NetworkError::Kernel(_)
    ));
}
