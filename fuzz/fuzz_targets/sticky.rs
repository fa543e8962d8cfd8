#![no_main]

/// The pure core itself: nothing outside of the engine may ask it.
#[path = "../../crates/engine/src"]
#[allow(dead_code, unused_imports)]
mod engine {
    pub(crate) mod sticky;
}
#[path = "../bodies/sticky.rs"]
mod body;

use engine::sticky;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
