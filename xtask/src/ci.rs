//! What has to pass before a change lands, cheapest first.

use anyhow::Result;

use crate::run::{check, command, repository};
use crate::{apps, readme, tidy};

pub(crate) fn run() -> Result<()> {
    let cargo = |arguments: &[&str]| check(command("cargo", arguments).current_dir(repository()));
    cargo(&["fmt", "--all", "--check"])?;
    tidy::run()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?;
    cargo(&["test", "--workspace"])?;
    readme::run()?;
    apps::run_if_reachable()
}
