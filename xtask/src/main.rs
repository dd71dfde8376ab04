//! The chores of this repository. `cargo xtask ci` is what has to pass before a change lands.

use clap::Parser;

mod apps;
mod base;
mod bench;
mod ci;
mod fuzz;
mod old_store;
mod parity;
mod readme;
mod registry;
mod run;
mod tidy;

#[derive(Parser)]
#[command(about = "The chores of this repository")]
enum Chore {
    /// Formatting, lints, house rules and all tests: what has to pass before a change lands.
    Ci,
    /// The house rules that no lint knows: direction of crates, length and heads of files, paths named in the README.
    Tidy,
    /// Makes the base images that apps and benchmarks build on, as OCI layouts below `target/base`.
    Base {
        /// Also make the Debian image: needs debootstrap and a Debian mirror.
        #[arg(long)]
        debian: bool,
    },
    /// Builds, pushes, reads back and runs the applications of `testdata/apps` through a registry on loopback.
    Apps {
        /// Only these.
        names: Vec<String>,
        /// Kind of sandbox for steps.
        #[arg(long, value_name = "KIND")]
        sandbox: Option<String>,
    },
    /// Runs the first command of the README twice in an empty store.
    Readme,
    /// Times builds against Debian's docker (BuildKit) and buildah, in turn, and prints ratios of medians.
    Bench(bench::Options),
    /// Runs a reader of foreign bytes on damaged inputs until time is up: parse, expand, ignore, layer, records.
    Fuzz(fuzz::Options),
    /// Makes a store as it is written now, for later versions to open: `testdata/stores/NAME.tar.gz`.
    OldStore {
        /// Of the version.
        name: String,
    },
    /// Builds the cases of `testdata/parity` here and with BuildKit, and compares configs and trees.
    Parity(parity::Options),
}

fn main() -> anyhow::Result<()> {
    match Chore::parse() {
        Chore::Ci => ci::run(),
        Chore::Tidy => tidy::run(),
        Chore::Base { debian } => base::run(debian),
        Chore::Apps { names, sandbox } => apps::run(&names, sandbox.as_deref()),
        Chore::Readme => readme::run(),
        Chore::Bench(options) => bench::run(&options),
        Chore::Fuzz(options) => fuzz::run(&options),
        Chore::OldStore { name } => old_store::run(&name),
        Chore::Parity(options) => parity::run(&options),
    }
}
