//! `cargo fuzz run --features libfuzzer ignore`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rbuild_frontend_fuzz::ignore(input));
