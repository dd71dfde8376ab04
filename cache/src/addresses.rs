//! Which addresses builds may ask: not those where a cloud keeps passwords, and this machine only for its own user.
//!
//! A name is looked up once, and what was checked is what is connected to: the answer to a second question could be another one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::header::HeaderMap;

/// Most bytes of headers of an answer.
pub(crate) const HEADER_LIMIT_BYTES: usize = 64 * 1024;

/// Metadata services of clouds outside of the link-local ranges.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x254)),
];

/// What may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reach {
    /// Other machines. What listens on loopback trusts its own machine, and a stranger is no part of it.
    #[default]
    Others,
    /// This machine, too: who asks could do so without us.
    ThisMachine,
}

impl Reach {
    fn allows(self, address: IpAddr) -> bool {
        let own = address.to_canonical().is_loopback();
        !is_forbidden(address) && (self == Self::ThisMachine || !own)
    }
}

/// Addresses that nobody may ask: link-local ones hold the metadata services of clouds, which know passwords; the others are no
/// machine at all.
pub(crate) fn is_forbidden(address: IpAddr) -> bool {
    let address = address.to_canonical();
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0,
        IpAddr::V6(v6) => {
            let translated = translated(v6).is_some_and(|v4| is_forbidden(IpAddr::V4(v4)));
            v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified() || translated
        }
    }
}

/// The IPv4 address that a translator reaches for this one (RFC 6052).
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

/// The address in `url`, if it has one and no name.
pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    // No address is the answer for a name.
    host.trim_matches(['[', ']']).parse().ok()
}

/// Whether `url` says that it is on this machine.
pub(crate) fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().map(|host| host.trim_end_matches('.'));
    let named = host.is_some_and(|host| host == "localhost" || host.ends_with(".localhost"));
    named || literal(url).is_some_and(|address| address.to_canonical().is_loopback())
}

/// Whether the address in `url`, if there is one, may be asked. Names are looked at by [`CheckedNames`].
pub(crate) fn literal_is_allowed(url: &Url, reach: Reach) -> bool {
    literal(url).is_none_or(|address| reach.allows(address))
}

/// Whether builds may ask `host`, a name or an address, without or with a port: for those who connect by other means.
///
/// # Errors
/// Names that nobody knows.
pub async fn is_allowed(host: &str, reach: Reach) -> std::io::Result<bool> {
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(name, _)| !name.contains(':') || name.ends_with(']'));
    let with_port = match has_port {
        true => host.to_owned(),
        false => format!("{host}:0"),
    };
    let mut found = tokio::net::lookup_host(with_port).await?;
    Ok(found.all(|address| reach.allows(address.ip())))
}

/// Looks names up, and connects to nothing else than what was checked.
#[derive(Debug)]
pub(crate) struct CheckedNames(pub(crate) Reach);

impl reqwest::dns::Resolve for CheckedNames {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> = found.filter(|address| reach.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(format!("`{}` has no address that builds may ask", name.as_str()).into());
            }
            Ok(Box::new(allowed.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Whether an answer has more headers than anybody needs.
pub(crate) fn headers_are_too_large(headers: &HeaderMap) -> bool {
    let sizes = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    sizes.sum::<usize>() > HEADER_LIMIT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r03_metadata_services_are_never_asked_and_loopback_only_by_its_own_user() {
        for (text, others, own) in [
            ("169.254.169.254", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("64:ff9b::a9fe:a9fe", false, false),
            ("fd00:ec2::254", false, false),
            ("fe80::1", false, false),
            ("100.100.100.200", false, false),
            ("0.0.0.0", false, false),
            ("0.1.2.3", false, false),
            ("::", false, false),
            ("224.0.0.1", false, false),
            ("ff02::1", false, false),
            ("255.255.255.255", false, false),
            ("127.0.0.1", false, true),
            ("127.8.9.1", false, true),
            ("::1", false, true),
            ("::ffff:127.0.0.1", false, true),
            ("10.0.0.1", true, true),
            ("fd00::1", true, true),
            ("192.0.2.1", true, true),
        ] {
            let address = text.parse().unwrap();
            let allowed = (Reach::Others.allows(address), Reach::ThisMachine.allows(address));
            assert_eq!(allowed, (others, own), "{text}");
        }
    }

    #[test]
    fn this_machine_has_many_names() {
        for (text, own) in [
            ("http://localhost/", true),
            ("http://localhost./", true),
            ("http://a.localhost/", true),
            ("http://127.1/", true),
            ("http://0x7f000001/", true),
            ("http://[::1]/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://localhost.example/", false),
        ] {
            assert_eq!(is_this_machine(&Url::parse(text).unwrap()), own, "{text}");
        }
    }

    #[test]
    fn every_address_of_a_name_must_be_allowed() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        for (host, reach, allowed) in [
            ("127.0.0.1", Reach::ThisMachine, true),
            ("127.0.0.1:80", Reach::Others, false),
            ("localhost", Reach::Others, false),
            ("[::1]:443", Reach::Others, false),
            ("169.254.1.1", Reach::ThisMachine, false),
            ("192.0.2.1:80", Reach::Others, true),
        ] {
            assert_eq!(runtime.block_on(is_allowed(host, reach)).unwrap(), allowed, "{host}");
        }
    }
}
