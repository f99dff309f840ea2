//! Hands what the fuzzer makes up to `utf8` in `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hubbub_fuzz::utf8::run(data));
