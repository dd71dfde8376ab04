//! Under libFuzzer: `cargo xtask fuzz unpack`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: rbuild_builder_fuzz::write_seeds("unpack"),
    |input: &[u8]| rbuild_builder_fuzz::unpack(input)
);
