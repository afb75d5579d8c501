//! libFuzzer's way into [`fuzz::offload`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::offload::seeds), |data: &[u8]| {
    fuzz::offload::run(data);
});
