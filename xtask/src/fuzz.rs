//! Starts the fuzz targets of the crates that read foreign bytes, on any toolchain. With a nightly one, `cargo fuzz` finds more.

use anyhow::{Result, bail};

use crate::run::{check, command, repository};

/// The crates, each with its targets.
const CRATES: &[(&str, &[&str])] = &[
    ("frontend", &["parse", "expand", "ignore"]),
    ("builder", &["layer", "records"]),
];

/// Builds the crate of `target` for release and lets it search. A find is written into the current directory.
pub(crate) fn run(target: &str, minutes: u64, seed: u64) -> Result<()> {
    let Some((name, _)) = CRATES.iter().find(|(_, targets)| targets.contains(&target)) else {
        let known: Vec<&str> = CRATES.iter().flat_map(|(_, targets)| *targets).copied().collect();
        bail!("no fuzz target is called `{target}`; there are {}", known.join(", "));
    };
    let manifest = repository().join(name).join("fuzz/Cargo.toml");
    let mut cargo = command(
        "cargo",
        &["run", "--quiet", "--release", "--bin", "search", "--manifest-path"],
    );
    cargo.arg(manifest).args(["--", target]);
    check(cargo.args(["--minutes", &minutes.to_string(), "--seed", &seed.to_string()]))
}
