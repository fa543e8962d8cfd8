#![no_main]

#[path = "../bodies/outbox_pairing.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
