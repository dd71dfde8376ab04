//! `cargo fuzz run --features libfuzzer parse`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rbuild_frontend_fuzz::parse(input));
