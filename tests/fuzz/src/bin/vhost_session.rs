//! libFuzzer's way into [`fuzz::vhost_session`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::vhost_session::seeds), |data: &[u8]| {
    fuzz::vhost_session::run(data);
});
