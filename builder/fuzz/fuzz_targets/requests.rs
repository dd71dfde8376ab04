//! Under libFuzzer: `cargo xtask fuzz requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: rbuild_builder_fuzz::write_seeds("requests"),
    |input: &[u8]| rbuild_builder_fuzz::requests(input)
);
