//! libFuzzer's way into [`fuzz::frame_key`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::frame_key::seeds), |data: &[u8]| {
    fuzz::frame_key::run(data);
});
