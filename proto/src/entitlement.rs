//! What a step gets only if the user allows it: the words of `--allow`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// One thing that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// `network.host`: steps on the network of the build server.
    NetworkHost,
    /// `security.insecure`: steps without a sandbox around their privileges.
    SecurityInsecure,
    /// `device`: every device of the build server; `device=NAME`: those of that name or kind.
    Device(Option<String>),
}

/// A word that names no entitlement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no entitlement `{0}`")]
pub struct UnknownEntitlement(pub String);

impl FromStr for Entitlement {
    type Err = UnknownEntitlement;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("device=")) {
            ("network.host", _) => Ok(Self::NetworkHost),
            ("security.insecure", _) => Ok(Self::SecurityInsecure),
            ("device", _) => Ok(Self::Device(None)),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Device(Some(name.to_owned()))),
            _ => Err(UnknownEntitlement(text.to_owned())),
        }
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkHost => f.write_str("network.host"),
            Self::SecurityInsecure => f.write_str("security.insecure"),
            Self::Device(None) => f.write_str("device"),
            Self::Device(Some(name)) => write!(f, "device={name}"),
        }
    }
}

impl Entitlement {
    /// Whether who is granted this may use `asked`. A device is covered by its own name, by its kind (`vendor/class` of
    /// `vendor/class=name`), and by the grant of all devices.
    #[must_use]
    pub fn covers(&self, asked: &Self) -> bool {
        match (self, asked) {
            (Self::Device(None), Self::Device(_)) => true,
            (Self::Device(Some(granted)), Self::Device(Some(asked))) => {
                let kind = asked.split_once('=').map(|(kind, _)| kind);
                granted == asked || kind == Some(granted)
            }
            _ => self == asked,
        }
    }
}

/// All that is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entitlements(BTreeSet<Entitlement>);

impl Entitlements {
    /// Everything: for questions about a Dockerfile that run no step.
    #[must_use]
    pub fn all() -> Self {
        [
            Entitlement::NetworkHost,
            Entitlement::SecurityInsecure,
            Entitlement::Device(None),
        ]
        .into_iter()
        .collect()
    }

    /// Whether `asked` is among them.
    #[must_use]
    pub fn allow(&self, asked: &Entitlement) -> bool {
        self.0.iter().any(|granted| granted.covers(asked))
    }

    /// Each of them once, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = &Entitlement> {
        self.0.iter()
    }
}

impl FromIterator<Entitlement> for Entitlements {
    fn from_iter<I: IntoIterator<Item = Entitlement>>(granted: I) -> Self {
        Self(granted.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Entitlement {
        text.parse().unwrap()
    }

    #[test]
    fn words_come_back_as_they_were() {
        for text in ["network.host", "security.insecure", "device", "device=v.com/c=x"] {
            assert_eq!(parse(text).to_string(), text);
        }
        for text in ["", "host", "device=", "NETWORK.HOST"] {
            let refused = text.parse::<Entitlement>().unwrap_err();
            assert_eq!(refused.to_string(), format!("there is no entitlement `{text}`"));
        }
    }

    #[test]
    fn a_grant_covers_itself_and_devices_below_it() {
        for (granted, asked, expected) in [
            ("network.host", "network.host", true),
            ("network.host", "security.insecure", false),
            ("device", "device=v.com/c=x", true),
            ("device", "security.insecure", false),
            ("device=v.com/c=x", "device=v.com/c=x", true),
            ("device=v.com/c", "device=v.com/c=x", true),
            ("device=v.com/c=x", "device=v.com/c=y", false),
            ("device=v.com/c=x", "device", false),
        ] {
            let granted_set: Entitlements = [parse(granted)].into_iter().collect();
            assert_eq!(granted_set.allow(&parse(asked)), expected, "{granted} for {asked}");
        }
        assert!(!Entitlements::default().allow(&Entitlement::NetworkHost));
    }
}
