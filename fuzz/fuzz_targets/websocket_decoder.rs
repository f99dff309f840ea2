//! Hands what the fuzzer makes up to `websocket_decoder` in `fuzz/src`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hubbub_fuzz::websocket_decoder::run(data));
