#![no_main]

use std::sync::{LazyLock, Mutex};

use net_tests::live::Lab;

static LAB: LazyLock<Mutex<Lab>> = LazyLock::new(|| Mutex::new(Lab::new()));

// Frames of a hostile peer through a live association.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| LAB.lock().expect("one thread").attack(bytes));
