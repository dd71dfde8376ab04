//! Under libFuzzer: `cargo xtask fuzz records`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: rbuild_builder_fuzz::write_seeds("records"),
    |input: &[u8]| rbuild_builder_fuzz::records(input)
);
