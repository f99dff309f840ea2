//! Hands what the fuzzer makes up to `json_command` in `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hubbub_fuzz::json_command::run(data));
