//! Under libFuzzer: `cargo xtask fuzz parse`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: rbuild_frontend_fuzz::write_seeds("parse"),
    |input: &[u8]| rbuild_frontend_fuzz::parse(input)
);
