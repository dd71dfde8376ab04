//! The same tests for every kind of sandbox that this machine can make: each but root's in a process of an ordinary user.

use std::io::Write;

use builder::executor::tier::{self, Tier};
use builder::ids::Ids;
use testdata::ordinary::{Further, Ordinary};

use crate::bench::required;

/// First argument of a process that runs the tests for the tier that the second one names.
pub(crate) const TIER_ARGUMENT: &str = "__tier";

/// The tiers of ordinary users.
const OTHERS: [(Tier, Further); 2] = [(Tier::Rootless, Further::Ids), (Tier::SingleId, Further::Nothing)];

/// Tests that say something about root alone, and why.
const ROOT_ONLY: [(&str, &str); 10] = [
    ("an_insecure_step_may_what_the_engine_may", "makes a device node"),
    ("an_insecure_step_has_devices_of_the_machine", "makes a device node"),
    ("a_device_appears_as_it_is_described", "makes a device node"),
    ("a_hardened_step_may_less", "compares with what root may make"),
    ("t06_device_nodes_of_a_step_open_nothing", "makes a device node"),
    ("t15_dangerous_calls_are_refused", "mounts the root of the machine"),
    ("default_networks_do_not_reach_the_host", "a network by netlink"),
    ("a_step_reaches_other_machines_and_nothing_near", "a network by netlink"),
    ("a_step_does_not_reach_the_host_over_ipv6", "a network by netlink"),
    ("steps_do_not_reach_each_other", "a network by netlink"),
];
/// Tests in which a step is somebody else than root.
const OF_SEVERAL_IDS: [&str; 4] = [
    "output_can_be_opened_again_by_every_user",
    "the_user_is_looked_up_in_the_image",
    "capabilities_are_the_fourteen_or_none",
    "t13_groups_of_the_engine_stay_outside",
];
/// Tests that say something about a tier below root.
const BELOW_ROOT: [(&str, &[Ids]); 4] = [
    ("devices_are_those_of_the_machine", &[Ids::Range, Ids::One]),
    ("a_program_carries_the_packets_of_a_step", &[Ids::Range, Ids::One]),
    ("without_further_ids_a_step_is_root", &[Ids::One]),
    ("files_belong_to_many_users", &[Ids::Range]),
];

/// Whether a test says something about the sandboxes of this process.
pub(crate) fn concerns(test: &str) -> bool {
    let ids = Ids::of_process();
    if let Some((_, tiers)) = BELOW_ROOT.iter().find(|(name, _)| *name == test) {
        return tiers.contains(&ids);
    }
    // A plain container has no user namespace.
    let for_root = test.starts_with("plain_") || ROOT_ONLY.iter().any(|(name, _)| *name == test);
    let for_several = OF_SEVERAL_IDS.contains(&test);
    match ids {
        Ids::All => true,
        Ids::Range => !for_root,
        Ids::One => !for_root && !for_several,
    }
}

/// Makes this process one of the tier.
pub(crate) fn become_one_of(name: &str) {
    let tier: Tier = name.parse().unwrap();
    tier::settle(Some(tier)).unwrap();
    assert_eq!(tier.check(), Ok(()));
}

/// Runs the tests for the other tiers, and returns the names of those that failed.
pub(crate) fn run_others(filter: &str) -> Vec<&'static str> {
    let failed = |(tier, further): &(Tier, Further)| {
        let user = Ordinary::new(*further);
        if let Some(lacking) = user.lacking() {
            assert!(!required(), "RBUILD_TEST_REQUIRE=all, but {lacking}");
            let line = format!("SKIPPED the tests of the sandbox for the tier {tier}: it needs {lacking}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        }
        let own = user.copy(&std::env::current_exe().unwrap());
        let mut command = user.command(own);
        command.args([TIER_ARGUMENT, tier.name(), filter]);
        if required() {
            command.env("RBUILD_TEST_REQUIRE", "all");
        }
        (!command.status().unwrap().success()).then_some(tier.name())
    };
    OTHERS.iter().filter_map(failed).collect()
}
