//! Under libFuzzer: `cargo xtask fuzz ignore`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: rbuild_frontend_fuzz::write_seeds("ignore"),
    |input: &[u8]| rbuild_frontend_fuzz::ignore(input)
);
