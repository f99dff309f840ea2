//! Hands what the fuzzer makes up to `proxy_header` in `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hubbub_fuzz::proxy_header::run(data));
