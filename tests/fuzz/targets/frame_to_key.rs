//! libFuzzer's entry to [`tests::fuzzed::frame_to_key`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzzed::frame_to_key(data));
