//! Writes a generated build context: `context files DIR COUNT BYTES SEED` or `context mixed DIR BYTES SEED`.
#![expect(clippy::print_stderr, reason = "how it is used is said on stderr")]

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match make(&words) {
        Some(()) => ExitCode::SUCCESS,
        None => {
            eprintln!("usage: context files DIR COUNT BYTES SEED | context mixed DIR BYTES SEED");
            ExitCode::FAILURE
        }
    }
}

fn make(words: &[&str]) -> Option<()> {
    match words {
        ["files", directory, count, bytes, seed] => {
            let (count, bytes, seed) = (count.parse().ok()?, bytes.parse().ok()?, seed.parse().ok()?);
            testdata::contexts::files(Path::new(directory), count, bytes, seed);
        }
        ["mixed", directory, bytes, seed] => {
            testdata::contexts::mixed(Path::new(directory), bytes.parse().ok()?, seed.parse().ok()?);
        }
        _ => return None,
    }
    Some(())
}
