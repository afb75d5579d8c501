//! libFuzzer's way into [`fuzz::shadow_device`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::shadow_device::seeds), |data: &[u8]| {
    fuzz::shadow_device::run(data);
});
