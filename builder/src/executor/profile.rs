//! What a step may do: its capabilities, and what the system call filter refuses beyond its table.

use rustix::thread::CapabilitySet;

use super::Security;

/// What root in a step may do: the fourteen capabilities that container engines have always given.
const USUAL: CapabilitySet = HARDENED
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE);

/// What package managers cannot do without: files of others, ports below 1024, and to become somebody else.
const HARDENED: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::KILL);

/// Calls that hardened steps are refused: to look into other processes, to leave the root, to open what has no name.
const REFUSED_WHEN_HARDENED: [&str; 5] = [
    "chroot",
    "name_to_handle_at",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
];

/// Everything that depends on how far a step is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Profile {
    /// What root of the step holds, and nobody gets more of.
    pub(super) capabilities: CapabilitySet,
    /// Whether programs with set-id bits or file capabilities give nothing.
    pub(super) no_new_privileges: bool,
    /// Calls of the table that are refused, whatever it says.
    pub(super) refused_calls: &'static [&'static str],
}

/// The profile of steps that are kept in their sandbox; nothing for those that are not.
pub(super) fn of(security: Security) -> Option<Profile> {
    match security {
        Security::Sandbox => Some(Profile {
            capabilities: USUAL,
            no_new_privileges: false,
            refused_calls: &[],
        }),
        Security::Hardened => Some(Profile {
            capabilities: HARDENED,
            no_new_privileges: true,
            refused_calls: &REFUSED_WHEN_HARDENED,
        }),
        Security::Insecure => None,
    }
}
