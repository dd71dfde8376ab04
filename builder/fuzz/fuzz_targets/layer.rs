//! Under libFuzzer: `cargo xtask fuzz layer`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: rbuild_builder_fuzz::write_seeds("layer"),
    |input: &[u8]| rbuild_builder_fuzz::layer(input)
);
