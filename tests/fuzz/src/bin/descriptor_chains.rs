//! libFuzzer's way into [`fuzz::descriptor_chains`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::descriptor_chains::seeds), |data: &[u8]| {
    fuzz::descriptor_chains::run(data);
});
