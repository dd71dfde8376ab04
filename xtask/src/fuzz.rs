//! Runs the fuzz targets of the crates that read foreign bytes.
//!
//! libFuzzer needs a C++ compiler, and no nightly toolchain as long as no sanitizer is wanted: the flags that let it see which
//! branches an input takes are stable. Without a compiler, or with `--blind`, inputs are tried that nothing guides.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::{check, command, is_installed, output, repository, say, target_dir};

/// The crates, each with its targets.
const CRATES: &[(&str, &[&str])] = &[
    ("frontend", &["parse", "expand", "ignore"]),
    ("builder", &["layer", "records", "unpack", "documents", "requests"]),
];

/// Counters for every edge, and what comparisons compare.
const COVERAGE: &str = "-Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What a run under libFuzzer may take. Five seconds for an input are a hang: targets take an input several times, counting is
/// slow, and so may the machine be.
const LIMITS: [&str; 5] = [
    "-timeout=5",
    "-rss_limit_mb=1024",
    "-malloc_limit_mb=256",
    "-max_len=8192",
    "-print_final_stats=1",
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which one.
    target: String,
    /// How long.
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// Other numbers try other inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Without libFuzzer.
    #[arg(long)]
    blind: bool,
}

/// Builds the crate of the target for release and lets it search. A find is written into the current directory.
pub(crate) fn run(options: &Options) -> Result<()> {
    let target = options.target.as_str();
    let Some((name, _)) = CRATES.iter().find(|(_, targets)| targets.contains(&target)) else {
        let known: Vec<&str> = CRATES.iter().flat_map(|(_, targets)| *targets).copied().collect();
        bail!("no fuzz target is called `{target}`; there are {}", known.join(", "));
    };
    let manifest = repository().join(name).join("fuzz/Cargo.toml");
    let guided = !options.blind && is_installed("c++");
    if !guided {
        say("inputs are tried without coverage");
        let arguments = ["run", "--quiet", "--release", "--bin", "search", "--manifest-path"];
        let mut cargo = command("cargo", &arguments);
        cargo.arg(manifest).args(["--", target]);
        cargo.args(["--minutes", &options.minutes.to_string()]);
        return check(cargo.args(["--seed", &options.seed.to_string()]));
    }
    let program = build(target, &manifest)?;
    let home = target_dir().join("fuzz").join(target);
    let (seeds, kept) = (home.join("seeds"), home.join("kept"));
    fs::create_dir_all(&kept).with_context(|| format!("cannot make {}", kept.display()))?;
    // Seeds first, in a run of their own: the dictionary has to be there when libFuzzer reads its flags.
    output(command(&program, &["-help=1"]).env("RBUILD_FUZZ_SEEDS", &seeds))?;
    let mut fuzzer = command(&program, &LIMITS);
    fuzzer.arg(format!("-dict={}", home.join("words.dict").display()));
    fuzzer.arg(format!("-max_total_time={}", 60 * options.minutes));
    check(fuzzer.arg(format!("-seed={}", options.seed)).args([kept, seeds]))
}

/// The target, linked with libFuzzer.
fn build(target: &str, manifest: &Path) -> Result<PathBuf> {
    let about = output(&mut command("rustc", &["--version", "--verbose"]))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say what it runs on")?;
    let arguments = ["build", "--release", "--features", "libfuzzer", "--bin", target];
    let mut cargo = command("cargo", &arguments);
    // Naming the host keeps the flags away from build scripts.
    cargo.args(["--target", host, "--manifest-path"]).arg(manifest);
    cargo.arg("--target-dir").arg(target_dir());
    check(cargo.env("RUSTFLAGS", COVERAGE))?;
    Ok(target_dir().join(host).join("release").join(target))
}
