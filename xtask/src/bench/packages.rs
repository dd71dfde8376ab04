//! Builds in which a package manager does the work, from its registry on the network, on Debian.

use std::fs;

use anyhow::Context;

use super::workloads::{Before, Phase, Site, Step, Workload, copy_to_registry};
use crate::base;

/// One build with a package manager.
struct Install {
    id: &'static str,
    /// What the base image has beside Debian's minimal system.
    base: base::Tools,
    /// Copied before the installation.
    manifest: (&'static str, &'static str),
    /// The instruction's command.
    run: &'static str,
    /// For the table.
    what: &'static str,
    /// The largest ratio that we are content with.
    allowed: f64,
}

const INSTALLS: [Install; 3] = [
    Install {
        id: "w8py",
        base: base::Tools::Python,
        manifest: ("requirements.txt", "flask\nrequests\n"),
        run: "pip install --no-cache-dir --break-system-packages -r requirements.txt",
        what: "pip install flask requests",
        allowed: 0.9,
    },
    Install {
        id: "w8node",
        base: base::Tools::Node,
        manifest: (
            "package.json",
            "{\"name\":\"app\",\"version\":\"1.0.0\",\"dependencies\":{\"express\":\"4.21.2\"}}\n",
        ),
        run: "npm install --no-audit --no-fund",
        what: "npm install express",
        allowed: 0.95,
    },
    Install {
        id: "w8apt",
        base: base::Tools::None,
        manifest: ("packages.txt", "curl\nless\n"),
        run: "apt-get update && apt-get install -y --no-install-recommends $(cat packages.txt)",
        what: "apt-get install curl less",
        allowed: 0.95,
    },
];

/// All of them; only by name where registries may not be asked for long.
pub(super) fn all(only_by_name: bool) -> impl Iterator<Item = Workload> {
    INSTALLS.into_iter().map(move |install| Workload {
        only_by_name,
        ..workload(install)
    })
}

fn workload(install: Install) -> Workload {
    let Install { id, what, allowed, .. } = install;
    let make = move |site: &Site<'_>| {
        let layout = base::debian_with(install.base).context("Debian's packages are out of reach")?;
        let image = format!("{}/{id}:1", site.registry);
        copy_to_registry(&layout, &image)?;
        let (name, text) = install.manifest;
        fs::write(site.directory.join(name), text)?;
        fs::write(site.directory.join("app.py"), "print('hello')\n")?;
        let run = install.run;
        let text = format!("FROM {image}\nWORKDIR /app\nCOPY {name} .\nRUN {run}\nCOPY app.py .\n");
        Ok(fs::write(site.directory.join("Dockerfile"), text)?)
    };
    let phases = vec![
        Phase::new("no cache", Before::Nothing, Step::BuildAnew, allowed),
        Phase::new("one file touched", Before::Touched, Step::Build, 0.4),
    ];
    Workload {
        host_network: true,
        ..Workload::new(id, what, make, phases).touching("app.py")
    }
}
