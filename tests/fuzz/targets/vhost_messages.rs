//! libFuzzer's entry to [`tests::fuzzed::vhost_messages`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzzed::vhost_messages(data));
