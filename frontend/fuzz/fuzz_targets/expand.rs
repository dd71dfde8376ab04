//! Under libFuzzer: `cargo xtask fuzz expand`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: rbuild_frontend_fuzz::write_seeds("expand"),
    |input: &[u8]| rbuild_frontend_fuzz::expand(input)
);
