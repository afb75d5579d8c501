//! libFuzzer's way into [`fuzz::transaction`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::transaction::seeds), |data: &[u8]| {
    fuzz::transaction::run(data);
});
