//! What a step has that was allowed everything: the engine's own privileges and the devices that such steps ask for.
//!
//! Only [`super::Security::Insecure`] leads here. The step keeps its own namespaces, but may leave them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
    set_keep_capabilities,
};

use super::StepDevice;
use super::init::become_user;
use super::spec::{Attempt, Failure};
use super::user::Identity;

/// Devices beside those of every step: kernel log, file systems and devices in user space, virtual machines, tunnels, loops.
const DEVICES: [&str; 6] = [
    "/dev/kmsg",
    "/dev/cuse",
    "/dev/fuse",
    "/dev/kvm",
    "/dev/net/tun",
    "/dev/loop-control",
];
/// Loop devices beyond those that the machine has: who takes a free one finds its node.
const SPARE_LOOPS: u32 = 8;
const LOOP_MAJOR: u32 = 7;

/// Becomes the user and keeps every capability that the engine has, over the change of the user and over `execve` too.
pub(super) fn keep_privileges(identity: &Identity) -> Result<(), Failure> {
    let held = capabilities(None).attempt("read capabilities")?.permitted;
    set_keep_capabilities(true).attempt("keep capabilities")?;
    become_user(identity)?;
    let sets = CapabilitySets {
        effective: held,
        permitted: held,
        inheritable: held,
    };
    set_capabilities(None, sets).attempt("set capabilities")?;
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if held.contains(one) {
            configure_capability_in_ambient_set(one, true).attempt("set ambient capabilities")?;
        }
    }
    Ok(())
}

/// The devices of this machine for such a step; what the machine lacks is missing.
pub(super) fn devices() -> Vec<StepDevice> {
    let fixed = DEVICES.iter().filter_map(|path| device_at(path));
    fixed.chain(loops()).collect()
}

/// The device behind a path of the machine.
fn device_at(path: &str) -> Option<StepDevice> {
    // Most machines lack some of them.
    let found = fs::metadata(path).ok()?;
    let kind = found.file_type();
    if !kind.is_char_device() && !kind.is_block_device() {
        return None;
    }
    Some(StepDevice {
        path: path.to_owned(),
        block: kind.is_block_device(),
        major: rustix::fs::major(found.rdev()),
        minor: rustix::fs::minor(found.rdev()),
        mode: found.mode() & 0o777,
        uid: 0,
        gid: 0,
    })
}

fn loops() -> Vec<StepDevice> {
    // No directory, no loop devices in this kernel yet: the spare ones stay.
    let names = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let numbers = names.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("loop")?.parse().ok());
    let first_spare = numbers.max().map_or(0, |last: u32| last + 1);
    let device = |minor| StepDevice {
        path: format!("/dev/loop{minor}"),
        block: true,
        major: LOOP_MAJOR,
        minor,
        mode: 0o660,
        uid: 0,
        gid: 0,
    };
    (0..first_spare + SPARE_LOOPS).map(device).collect()
}
