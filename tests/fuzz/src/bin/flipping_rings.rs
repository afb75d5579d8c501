//! libFuzzer's way into [`fuzz::flipping_rings`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::flipping_rings::seeds), |data: &[u8]| {
    fuzz::flipping_rings::run(data);
});
