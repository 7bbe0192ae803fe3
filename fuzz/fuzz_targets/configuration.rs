#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| om_fuzz_checks::configuration(bytes));
