#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code, reason = "a target is one of the entries")]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::sound(bytes));
