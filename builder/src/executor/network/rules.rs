//! The packet filter for the networks of steps, as attributes of nf_tables.
//!
//! In the words of `nft`:
//!
//! ```text
//! table ip rbuild {
//!     chain nat {
//!         type nat hook postrouting priority srcnat;
//!         ip saddr 10.213.0.0/16 oifname != "rbv*" masquerade
//!     }
//!     chain forward {
//!         type filter hook forward priority filter;
//!         iifname "rbv*" oifname "rbv*" drop
//!         iifname "rbv*" ip daddr 169.254.0.0/16 drop
//!     }
//!     chain input {
//!         type filter hook input priority filter;
//!         iifname "rbv*" ct state established,related accept
//!         iifname "rbv*" drop
//!     }
//! }
//! table ip6 rbuild {
//!     chain forward {
//!         type filter hook forward priority filter;
//!         iifname "rbv*" drop
//!     }
//!     chain input {
//!         type filter hook input priority filter;
//!         iifname "rbv*" drop
//!     }
//! }
//! ```
//!
//! The second table is there because the kernel gives both ends of a cable an address of IPv6 that nobody asked for, over which a
//! step would reach what listens on the host.
//!
//! Source: the kernel's `include/uapi/linux/netfilter/nf_tables.h`; the expressions are those that `nft --debug=netlink` shows.

use super::netlink::Attribute;

/// Cables of every engine on this host begin like this.
pub(super) const CABLE: &str = "rbv";
/// The first half of the addresses that steps have.
pub(super) const ADDRESSES: [u8; 2] = [10, 213];
/// Link-local addresses, where clouds serve credentials.
const LINK_LOCAL: [u8; 2] = [169, 254];

/// `NFPROTO_IPV4`.
pub(super) const IPV4: u8 = 2;
/// `NFPROTO_IPV6`.
pub(super) const IPV6: u8 = 10;

const ACCEPT: u32 = 1;
const DROP: u32 = 0;

const FIRST_REGISTER: u32 = 1;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

/// A table, whole.
#[derive(Debug)]
pub(super) struct Table {
    /// What packets go through it.
    pub(super) family: u8,
    pub(super) chains: Vec<Chain>,
}

/// A chain that packets go through at a hook; those that no rule decides about are accepted.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    /// Number of the hook.
    pub(super) hook: u32,
    pub(super) priority: u32,
    /// The expressions of each rule.
    pub(super) rules: Vec<Vec<Attribute>>,
}

/// All that is to be there, and nothing else under these names.
pub(super) fn wanted() -> [Table; 2] {
    let four = vec![nat(), forward(between_and_link_local()), input(answers_only())];
    let six = vec![forward(vec![from_cable_drop()]), input(vec![from_cable_drop()])];
    [
        Table {
            family: IPV4,
            chains: four,
        },
        Table {
            family: IPV6,
            chains: six,
        },
    ]
}

fn nat() -> Chain {
    let rule = [
        source_is(ADDRESSES),
        vec![outgoing(), differs(CABLE.as_bytes()), masquerade()],
    ];
    Chain {
        name: "nat",
        kind: "nat",
        hook: 4,
        priority: 100,
        rules: vec![rule.concat()],
    }
}

fn forward(rules: Vec<Vec<Attribute>>) -> Chain {
    Chain {
        name: "forward",
        kind: "filter",
        hook: 2,
        priority: 0,
        rules,
    }
}

fn input(rules: Vec<Vec<Attribute>>) -> Chain {
    Chain {
        name: "input",
        kind: "filter",
        hook: 1,
        priority: 0,
        rules,
    }
}

fn between_and_link_local() -> Vec<Vec<Attribute>> {
    let to_cable = vec![outgoing(), equals(CABLE.as_bytes())];
    vec![
        [from_cable(), to_cable, vec![verdict(DROP)]].concat(),
        [from_cable(), destination_is(LINK_LOCAL), vec![verdict(DROP)]].concat(),
    ]
}

fn answers_only() -> Vec<Vec<Attribute>> {
    vec![
        [from_cable(), established(), vec![verdict(ACCEPT)]].concat(),
        from_cable_drop(),
    ]
}

fn from_cable_drop() -> Vec<Attribute> {
    [from_cable(), vec![verdict(DROP)]].concat()
}

/// Names of interfaces are compared without their end, so this is a prefix.
fn from_cable() -> Vec<Attribute> {
    vec![interface(6), equals(CABLE.as_bytes())]
}

fn outgoing() -> Attribute {
    interface(7)
}

/// Loads the name of an interface: 6 is where the packet came from, 7 where it goes.
fn interface(key: u32) -> Attribute {
    let data = vec![Attribute::number(2, key), Attribute::number(1, FIRST_REGISTER)];
    expression("meta", data)
}

fn source_is(half: [u8; 2]) -> Vec<Attribute> {
    vec![address(12), equals(&half)]
}

fn destination_is(half: [u8; 2]) -> Vec<Attribute> {
    vec![address(16), equals(&half)]
}

/// Loads the first half of the address at this offset of the network header.
fn address(offset: u32) -> Attribute {
    let data = vec![
        Attribute::number(1, FIRST_REGISTER),
        Attribute::number(2, 1),
        Attribute::number(3, offset),
        Attribute::number(4, 2),
    ];
    expression("payload", data)
}

fn equals(value: &[u8]) -> Attribute {
    compare(0, value)
}

fn differs(value: &[u8]) -> Attribute {
    compare(1, value)
}

fn compare(operation: u32, value: &[u8]) -> Attribute {
    let data = vec![
        Attribute::number(1, FIRST_REGISTER),
        Attribute::number(2, operation),
        Attribute::nested(3, vec![Attribute::bytes(DATA_VALUE, value)]),
    ];
    expression("cmp", data)
}

/// Packets of connections that were not opened from the cable. The state is a set of bits in the order of bytes of this machine.
fn established() -> Vec<Attribute> {
    const ESTABLISHED_OR_RELATED: u32 = 0b110;
    let state = vec![Attribute::number(2, 0), Attribute::number(1, FIRST_REGISTER)];
    let bits = |number: u32| vec![Attribute::bytes(DATA_VALUE, number.to_ne_bytes())];
    let mask = vec![
        Attribute::number(1, FIRST_REGISTER),
        Attribute::number(2, FIRST_REGISTER),
        Attribute::number(3, 4),
        Attribute::nested(4, bits(ESTABLISHED_OR_RELATED)),
        Attribute::nested(5, bits(0)),
        // The operation: and, then exclusive or.
        Attribute::implied(6, 0),
    ];
    vec![
        expression("ct", state),
        expression("bitwise", mask),
        differs(&0_u32.to_ne_bytes()),
    ]
}

fn masquerade() -> Attribute {
    expression("masq", Vec::new())
}

fn verdict(code: u32) -> Attribute {
    let verdict = vec![Attribute::number(VERDICT_CODE, code)];
    let data = vec![
        // Register 0 holds verdicts.
        Attribute::number(1, 0),
        Attribute::nested(2, vec![Attribute::nested(DATA_VERDICT, verdict)]),
    ];
    expression("immediate", data)
}

fn expression(name: &str, data: Vec<Attribute>) -> Attribute {
    let both = vec![
        Attribute::text(EXPRESSION_NAME, name),
        Attribute::nested(EXPRESSION_DATA, data),
    ];
    Attribute::nested(LIST_ELEMENT, both)
}
