#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| autoport_fuzz::request(bytes));
