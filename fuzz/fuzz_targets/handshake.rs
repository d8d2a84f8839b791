#![no_main]

// A datagram into a fresh handshake machine that dials and answers.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| net_proto::handshake::fuzz(bytes));
