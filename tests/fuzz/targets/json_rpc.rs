//! libFuzzer's entry to [`tests::fuzzed::json_rpc`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzzed::json_rpc(data));
