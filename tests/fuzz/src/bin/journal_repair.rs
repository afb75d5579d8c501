//! libFuzzer's way into [`fuzz::journal_repair`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::journal_repair::seeds), |data: &[u8]| {
    fuzz::journal_repair::run(data);
});
