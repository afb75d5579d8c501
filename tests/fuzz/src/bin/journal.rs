//! libFuzzer's way into [`fuzz::journal`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::journal::seeds), |data: &[u8]| {
    fuzz::journal::run(data);
});
