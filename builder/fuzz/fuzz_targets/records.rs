//! `cargo fuzz run --features libfuzzer records`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rbuild_builder_fuzz::records(input));
