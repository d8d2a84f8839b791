#![no_main]

use std::sync::{LazyLock, Mutex};

use net_proto::handshake::FuzzLab;

static LAB: LazyLock<Mutex<FuzzLab>> = LazyLock::new(|| Mutex::new(FuzzLab::new()));

// Datagrams of strangers and hostile members into a handshake machine that dials and answers.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| LAB.lock().expect("one thread").attack(bytes));
