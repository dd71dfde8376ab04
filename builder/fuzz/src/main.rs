//! Tries inputs without `cargo fuzz`: see `cargo xtask fuzz`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    testdata::fuzz::main(rbuild_builder_fuzz::TARGETS, &arguments)
}
