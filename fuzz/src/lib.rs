//! One target per decoder of `net_tests::corpus::decoders`, all of this shape.

pub use libfuzzer_sys;

/// The body of a fuzz target: the registered decoder of this name.
#[macro_export]
macro_rules! decoder {
    ($name:literal) => {
        use $crate::libfuzzer_sys;
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::check($name, bytes));
    };
}

/// Runs one decoder. Panics if it breaks the canonical rule, or does not exist.
pub fn check(name: &str, bytes: &[u8]) {
    let decoder = net_tests::corpus::decoders().find(|d| d.name == name);
    (decoder.expect("a registered decoder").check)(bytes);
}
