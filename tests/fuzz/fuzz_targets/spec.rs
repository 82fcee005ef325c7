//! See the function that it calls.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wharf_fuzz::documents::runtime_spec(data));
