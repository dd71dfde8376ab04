//! `docs/security.md` says what steps get. These tests compare it with the code.

use std::collections::BTreeSet;

use rustix::thread::CapabilitySet;

use super::{Security, device, mask, profile, ulimit};
use crate::limits::{DEFAULT_PROCESSES, Resource};

const PAGE: &str = include_str!("../../../docs/security.md");

/// The words of the item of the page that has these words in bold.
fn item(title: &str) -> BTreeSet<&'static str> {
    let start = PAGE.find(&format!("- **{title}")).expect("the page has the item");
    let item = PAGE[start..].split("\n- **").next().unwrap_or_default();
    let item = item.split("\n\n").next().unwrap_or_default();
    item.split([' ', '\n', ',', '.']).collect()
}

#[test]
fn t06_hidden_and_read_only_paths_are_those_of_the_page() {
    let paths = |title| -> BTreeSet<&str> { item(title).into_iter().filter(|word| word.starts_with('/')).collect() };
    assert_eq!(paths("Hidden"), BTreeSet::from(mask::MASKED));
    let readonly = BTreeSet::from(mask::READONLY);
    assert_eq!(paths("Read-only"), readonly.into_iter().chain(["/sys"]).collect());
    assert!(PAGE.contains(&format!("`{}` of every processor", mask::PROCESSORS.1)));
}

#[test]
fn t14_capabilities_are_those_of_the_page() {
    let said = item("Namespaces").into_iter().filter_map(CapabilitySet::from_name);
    let said = said.fold(CapabilitySet::empty(), CapabilitySet::union);
    assert_eq!(said, profile::of(Security::Sandbox).unwrap().capabilities);
    let fewer = item("Hardened").into_iter().filter_map(CapabilitySet::from_name);
    let fewer = fewer.fold(CapabilitySet::empty(), CapabilitySet::union);
    assert_eq!(fewer, profile::of(Security::Hardened).unwrap().capabilities);
}

#[test]
fn t06_devices_are_those_of_the_page() {
    let said = item("Devices");
    for (name, ..) in device::NODES {
        assert!(said.contains(name), "{name}");
    }
}

#[test]
fn s07_the_limits_of_steps_are_those_of_the_page() {
    let said = item("Limits:");
    let files = ulimit::USUAL.iter().find(|limit| limit.of == Resource::Nofile).unwrap();
    let hard = files.hard.map(|limit| format!("{limit})"));
    let soft = files.soft.map(|limit| limit.to_string());
    for number in [Some(DEFAULT_PROCESSES.to_string()), soft, hard] {
        assert!(
            number.as_deref().is_some_and(|number| said.contains(number)),
            "{number:?}"
        );
    }
}
