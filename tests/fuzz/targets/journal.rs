//! libFuzzer's entry to [`tests::fuzzed::journal`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzzed::journal(data));
