//! libFuzzer's way into [`fuzz::vhost_messages`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::vhost_messages::seeds), |data: &[u8]| {
    fuzz::vhost_messages::run(data);
});
