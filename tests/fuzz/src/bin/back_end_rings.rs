//! libFuzzer's way into [`fuzz::back_end_rings`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::back_end_rings::seeds), |data: &[u8]| {
    fuzz::back_end_rings::run(data);
});
