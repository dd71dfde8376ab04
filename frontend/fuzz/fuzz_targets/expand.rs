//! `cargo fuzz run --features libfuzzer expand`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rbuild_frontend_fuzz::expand(input));
