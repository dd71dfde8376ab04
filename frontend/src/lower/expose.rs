//! `EXPOSE`: words → ports, one `number/protocol` each.

/// Why a word exposes nothing. The texts are those that other builders print.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PortError {
    /// Nothing before the `/`.
    #[error("no port specified: {0}<empty>")]
    Missing(String),
    /// The part that names the container's port is no number or range from 0 to 65535.
    #[error("invalid containerPort: {0}")]
    Container(String),
    /// The part that names the host's port.
    #[error("invalid hostPort: {0}")]
    Host(String),
    /// Protocols are tcp, udp and sctp.
    #[error("invalid port: \"{word}\": invalid proto: {protocol}")]
    Protocol {
        /// The whole word.
        word: String,
        /// Its part after the `/`.
        protocol: String,
    },
}

/// One word of `EXPOSE`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    /// First and last port.
    range: (u16, u16),
    /// In lower case.
    protocol: String,
    /// Whether the protocol was written otherwise.
    pub(crate) odd_case: bool,
    /// Whether the word has an address or a host port, which an image cannot hold.
    pub(crate) mapping: bool,
}

impl Ports {
    /// `port[-port][/proto]`, with an ignored `[ip:]host:` before it.
    pub(crate) fn parse(word: &str) -> Result<Self, PortError> {
        let (ports, protocol) = match word.split_once('/') {
            Some((ports, protocol)) if !protocol.is_empty() => (ports, protocol),
            Some((ports, _)) => (ports, "tcp"),
            None => (word, "tcp"),
        };
        let (before, container) = match ports.rsplit_once(':') {
            Some((before, container)) => (Some(before), container),
            None => (None, ports),
        };
        if container.is_empty() {
            return Err(PortError::Missing(word.to_owned()));
        }
        let range = parse_range(container).ok_or_else(|| PortError::Container(container.to_owned()))?;
        let host = before.map(|before| before.rsplit_once(':').map_or(before, |(_, host)| host));
        if let Some(host) = host.filter(|host| !host.is_empty() && parse_range(host).is_none()) {
            return Err(PortError::Host(host.to_owned()));
        }
        let protocol = if protocol.is_empty() { "tcp" } else { protocol };
        let lower = protocol.to_ascii_lowercase();
        if !matches!(lower.as_str(), "tcp" | "udp" | "sctp") {
            return Err(PortError::Protocol {
                word: word.to_owned(),
                protocol: protocol.to_owned(),
            });
        }
        Ok(Self {
            range,
            odd_case: lower != protocol,
            protocol: lower,
            mapping: before.is_some_and(|before| before.chars().any(|ch| ch != ':')),
        })
    }

    /// The single ports.
    pub(crate) fn single(&self) -> impl Iterator<Item = String> + '_ {
        (self.range.0..=self.range.1).map(|port| format!("{port}/{}", self.protocol))
    }
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if digits { text.parse::<u16>().ok() } else { None }
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(word: &str, expected: Result<&[&str], &str>) {
        let found = Ports::parse(word).map(|ports| ports.single().collect::<Vec<_>>());
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{word}"),
            (Err(found), Err(expected)) => assert_eq!(found.to_string(), expected, "{word}"),
            (found, _) => panic!("{word}: {found:?}"),
        }
    }

    #[test]
    fn words_become_single_ports() {
        check("80", Ok(&["80/tcp"]));
        check("80/", Ok(&["80/tcp"]));
        check("53/UDP", Ok(&["53/udp"]));
        check("9000-9002", Ok(&["9000/tcp", "9001/tcp", "9002/tcp"]));
        check("127.0.0.1:80:8080/sctp", Ok(&["8080/sctp"]));
        check("80:8080", Ok(&["8080/tcp"]));
        check("80/", Ok(&["80/tcp"]));
        check("99999", Err("invalid containerPort: 99999"));
        check("2-1", Err("invalid containerPort: 2-1"));
        check("+1", Err("invalid containerPort: +1"));
        check("80/foo", Err("invalid port: \"80/foo\": invalid proto: foo"));
        check("/tcp", Err("no port specified: /tcp<empty>"));
    }
}
