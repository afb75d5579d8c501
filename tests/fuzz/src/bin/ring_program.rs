//! libFuzzer's way into [`fuzz::ring_program`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::ring_program::seeds), |data: &[u8]| {
    fuzz::ring_program::run(data);
});
