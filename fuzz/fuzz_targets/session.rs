//! Hands what the fuzzer makes up to `session` in `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hubbub_fuzz::session::run(data));
