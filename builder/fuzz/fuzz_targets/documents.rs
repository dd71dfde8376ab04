//! Under libFuzzer: `cargo xtask fuzz documents`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: rbuild_builder_fuzz::write_seeds("documents"),
    |input: &[u8]| rbuild_builder_fuzz::documents(input)
);
