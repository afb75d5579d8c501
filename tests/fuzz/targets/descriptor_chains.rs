//! libFuzzer's entry to [`tests::fuzzed::descriptor_chains`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzzed::descriptor_chains(data));
