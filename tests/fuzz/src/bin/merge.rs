//! libFuzzer's way into [`fuzz::merge`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::merge::seeds), |data: &[u8]| {
    fuzz::merge::run(data);
});
