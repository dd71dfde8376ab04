//! The kinds of sandbox, and which of them this process can make.
//!
//! The best one is taken unless the user asks for another; nothing ever falls back to a weaker one than was asked for.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use rustix::thread::CapabilitySet;

use super::enter::{self, Lack};
use crate::ids::Ids;

/// A kind of sandbox, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Root of the machine: overlayfs, all namespaces but that of users, control groups.
    Root,
    /// An ordinary user with a range of subordinate ids: the same inside a user namespace.
    Rootless,
    /// An ordinary user with nothing but the own id: the same, but files have one owner.
    SingleId,
    /// Root in a container that may neither mount nor make namespaces: a changed root directory in a copied snapshot.
    Plain,
}

/// Every tier, the best first.
pub const TIERS: [Tier; 4] = [Tier::Root, Tier::Rootless, Tier::SingleId, Tier::Plain];

/// Why a tier cannot be had here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the sandbox `{tier}` is not possible here: {reason}")]
pub struct Impossible {
    /// What was wanted.
    pub tier: Tier,
    /// What is missing.
    pub reason: String,
}

impl Tier {
    /// As on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Rootless => "rootless",
            Self::SingleId => "single-id",
            Self::Plain => "plain",
        }
    }

    /// Whether this process can make such sandboxes.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(self) -> Result<(), Impossible> {
        let found = match self {
            Self::Root => root(),
            Self::Rootless => inside(Ids::Range),
            Self::SingleId => inside(Ids::One),
            Self::Plain => plain(),
        };
        found.map_err(|reason| Impossible { tier: self, reason })
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Tier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = TIERS.into_iter().find(|tier| tier.name() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = TIERS.into_iter().map(Tier::name).collect();
            format!("`{text}` is no kind of sandbox; there are {}", names.join(", "))
        })
    }
}

/// Makes this process one that can make sandboxes of the tier that was `asked` for, or else of the best tier that is possible: who is
/// not root enters a user namespace. To be called by a process that will serve, before it has a second thread.
///
/// # Errors
/// Why the one that was asked for is not possible, or why none is.
pub fn settle(asked: Option<Tier>) -> Result<(), Impossible> {
    let candidates = asked.map_or_else(|| TIERS.to_vec(), |tier| vec![tier]);
    let mut last = None;
    for tier in candidates {
        match settle_as(tier) {
            Ok(()) => {
                // Nothing else settles this process, and nothing settles twice.
                SETTLED.get_or_init(|| tier);
                return Ok(());
            }
            // Of several reasons, the one that is nearest to what most machines can offer.
            Err(impossible) if asked.is_some() || tier <= Tier::SingleId => last = Some(impossible),
            Err(_) => {}
        }
    }
    last.map_or(Ok(()), Err)
}

/// What [`settle`] found.
static SETTLED: OnceLock<Tier> = OnceLock::new();

fn settle_as(tier: Tier) -> Result<(), Impossible> {
    let settled = match (tier, tier.check()) {
        (Tier::Rootless | Tier::SingleId, Ok(())) => enter::stay(),
        (Tier::Rootless | Tier::SingleId, Err(_)) => enter::enter(tier),
        (Tier::Root | Tier::Plain, checked) => return checked,
    };
    settled.map_err(|lack| {
        let reason = with_help(&lack);
        enter::remember(lack);
        Impossible { tier, reason }
    })
}

fn with_help(lack: &Lack) -> String {
    match lack.help.as_str() {
        "" => lack.reason.clone(),
        help => format!("{}; what would help: {help}", lack.reason),
    }
}

/// Root of a user namespace with these ids.
fn inside(wanted: Ids) -> Result<(), String> {
    if Ids::now() != wanted {
        return Err("the server is not in a user namespace for it".to_owned());
    }
    administrator()
}

/// The tier that was `asked` for, or else the best one that is possible.
///
/// # Errors
/// Why the one that was asked for is not possible, or why the best one is not if none is.
pub fn choose(asked: Option<Tier>) -> Result<Tier, Impossible> {
    if let Some(tier) = asked {
        return tier.check().map(|()| tier);
    }
    if let Some(tier) = SETTLED.get() {
        return tier.check().map(|()| *tier);
    }
    let best = TIERS.into_iter().find(|tier| tier.check().is_ok());
    best.map_or_else(|| Tier::Root.check().map(|()| Tier::Root), Ok)
}

fn root() -> Result<(), String> {
    if !Ids::now().is_outside() {
        return Err("inside a user namespace".to_owned());
    }
    administrator()
}

fn administrator() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    let held = rustix::thread::capabilities(None).map_err(|error| format!("capabilities cannot be read: {error}"))?;
    match held.effective.contains(CapabilitySet::SYS_ADMIN) {
        true => Ok(()),
        false => Err("root without SYS_ADMIN".to_owned()),
    }
}

/// What copying images, changing roots and users, and ending steps takes. Docker and Kubernetes give it to root by default.
const FOR_PLAIN: [(CapabilitySet, &str); 9] = [
    (CapabilitySet::CHOWN, "CHOWN"),
    (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE"),
    (CapabilitySet::FOWNER, "FOWNER"),
    (CapabilitySet::FSETID, "FSETID"),
    (CapabilitySet::KILL, "KILL"),
    (CapabilitySet::SETGID, "SETGID"),
    (CapabilitySet::SETUID, "SETUID"),
    (CapabilitySet::SETPCAP, "SETPCAP"),
    (CapabilitySet::SYS_CHROOT, "SYS_CHROOT"),
];

fn plain() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    let held = rustix::thread::capabilities(None).map_err(|error| format!("capabilities cannot be read: {error}"))?;
    let missing: Vec<&str> = FOR_PLAIN
        .into_iter()
        .filter(|(capability, _)| !held.effective.contains(*capability))
        .map(|(_, name)| name)
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(format!("root without {}", missing.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for tier in TIERS {
            assert_eq!(tier.to_string().parse(), Ok(tier));
        }
        let message = "chroot".parse::<Tier>().unwrap_err();
        assert_eq!(
            message,
            "`chroot` is no kind of sandbox; there are root, rootless, single-id, plain"
        );
    }
}
