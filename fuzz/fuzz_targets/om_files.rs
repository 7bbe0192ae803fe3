#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| om_fuzz::checks::om_files(bytes));
