//! libFuzzer's way into [`fuzz::flow_text`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::flow_text::seeds), |data: &[u8]| {
    fuzz::flow_text::run(data);
});
