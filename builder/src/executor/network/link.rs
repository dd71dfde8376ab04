//! Links, addresses and routes of a step's network, over netlink.
//!
//! Source: the kernel's `include/uapi/linux/rtnetlink.h`, `if_link.h`, `if_addr.h`, `veth.h`; rtnetlink(7), veth(4).

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use super::netlink::{Attribute, CREATE, EXCLUSIVE, Message, NetlinkError, Socket, encode};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;

const AF_INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
const RTN_UNREACHABLE: u8 = 7;

/// The loopback interface has this index in every namespace.
const LOOPBACK: u32 = 1;
/// What a step calls its end of the cable.
const INSIDE: &str = "eth0";

/// A cable between the host and a step, with a network of its own.
#[derive(Debug, Clone)]
pub(super) struct Cable {
    /// What the host calls its end.
    pub(super) name: String,
    /// Address of the host's end.
    pub(super) host: Ipv4Addr,
    /// Address of the step's end.
    pub(super) step: Ipv4Addr,
    /// Bits that both addresses share.
    pub(super) prefix: u8,
}

impl Cable {
    /// Lays the cable. `host` and `step` are open in the two namespaces, `namespace` is the step's.
    ///
    /// After an error the cable may be there: it vanishes with the step's namespace.
    pub(super) fn lay(&self, host: &mut Socket, step: &mut Socket, namespace: impl AsFd) -> Result<(), NetlinkError> {
        host.ask(&[self.pair(namespace)])?;
        let outside = host.index(&self.name)?;
        host.ask(&[self.address(outside, &self.name, self.host), up(outside, &self.name)])?;
        let inside = step.index(INSIDE)?;
        step.ask(&[
            up(LOOPBACK, "lo"),
            self.address(inside, INSIDE, self.step),
            up(inside, INSIDE),
            self.default_route(inside),
        ])?;
        Ok(())
    }

    /// Both ends at once, the step's in its namespace from the beginning: no moment in which the host has an `eth0` too many.
    fn pair(&self, namespace: impl AsFd) -> Message {
        let mut peer = link_head(0, 0).to_vec();
        let fd = namespace.as_fd().as_raw_fd();
        let there = [
            Attribute::text(IFLA_IFNAME, INSIDE),
            Attribute::bytes(IFLA_NET_NS_FD, fd.to_ne_bytes()),
        ];
        encode(&there, &mut peer);
        let veth = vec![Attribute::bytes(VETH_INFO_PEER, peer)];
        let kind = vec![
            Attribute::text(IFLA_INFO_KIND, "veth"),
            Attribute::nested(IFLA_INFO_DATA, veth),
        ];
        let attributes = [
            Attribute::text(IFLA_IFNAME, &self.name),
            Attribute::nested(IFLA_LINKINFO, kind),
        ];
        let action = format!("make the virtual cable `{}`", self.name);
        Message::new(action, RTM_NEWLINK, &link_head(0, 0), &attributes).with(CREATE | EXCLUSIVE)
    }

    fn address(&self, index: u32, name: &str, address: Ipv4Addr) -> Message {
        let [a, b, c, d] = index.to_ne_bytes();
        let head = [AF_INET, self.prefix, 0, RT_SCOPE_UNIVERSE, a, b, c, d];
        let attributes = [
            Attribute::bytes(IFA_LOCAL, address.octets()),
            Attribute::bytes(IFA_ADDRESS, address.octets()),
        ];
        let action = format!("give `{name}` the address {address}");
        Message::new(action, RTM_NEWADDR, &head, &attributes).with(CREATE | EXCLUSIVE)
    }

    fn default_route(&self, index: u32) -> Message {
        let mut head = [0; 12];
        head[0] = AF_INET;
        head[4..8].copy_from_slice(&[RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST]);
        let attributes = [
            Attribute::bytes(RTA_GATEWAY, self.host.octets()),
            Attribute::bytes(RTA_OIF, index.to_ne_bytes()),
        ];
        let action = format!("route packets of a step to {}", self.host);
        Message::new(action, RTM_NEWROUTE, &head, &attributes).with(CREATE | EXCLUSIVE)
    }
}

/// Brings the loopback interface of the current network namespace up.
pub(super) fn loopback_up() -> Result<(), NetlinkError> {
    Socket::open(None)?.ask(&[up(LOOPBACK, "lo")]).map(drop)
}

/// Brings loopback up in the namespace of `socket`, and makes `networks` of addresses unreachable from there.
pub(super) fn close_off(socket: &mut Socket, networks: &[(Ipv4Addr, u8)]) -> Result<(), NetlinkError> {
    let closed = networks.iter().map(|(address, prefix)| unreachable(*address, *prefix));
    let messages: Vec<Message> = [up(LOOPBACK, "lo")].into_iter().chain(closed).collect();
    socket.ask(&messages).map(drop)
}

fn unreachable(address: Ipv4Addr, prefix: u8) -> Message {
    let mut head = [0; 12];
    head[..2].copy_from_slice(&[AF_INET, prefix]);
    head[4..8].copy_from_slice(&[RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNREACHABLE]);
    let attributes = [Attribute::bytes(RTA_DST, address.octets())];
    let action = format!("close off {address}/{prefix}");
    Message::new(action, RTM_NEWROUTE, &head, &attributes).with(CREATE)
}

fn up(index: u32, name: &str) -> Message {
    let action = format!("bring `{name}` up");
    Message::new(action, RTM_NEWLINK, &link_head(index, IFF_UP), &[])
}

/// `ifinfomsg` that changes `flags` to what they say.
fn link_head(index: u32, flags: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    head[8..12].copy_from_slice(&flags.to_ne_bytes());
    head[12..16].copy_from_slice(&flags.to_ne_bytes());
    head
}
