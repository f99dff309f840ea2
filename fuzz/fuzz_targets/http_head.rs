//! Hands what the fuzzer makes up to `http_head` in `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hubbub_fuzz::http_head::run(data));
