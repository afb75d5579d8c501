//! libFuzzer's way into [`fuzz::management_session`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::management_session::seeds), |data: &[u8]| {
    fuzz::management_session::run(data);
});
