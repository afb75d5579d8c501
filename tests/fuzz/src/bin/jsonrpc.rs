//! libFuzzer's way into [`fuzz::jsonrpc`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzz::write_seeds(fuzz::jsonrpc::seeds), |data: &[u8]| {
    fuzz::jsonrpc::run(data);
});
