#![no_main]

#[path = "../src/nri.rs"]
mod target;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| target::nri(bytes));
