//! The one list of decoders: whatever reads bytes that somebody else wrote stands here.
//!
//! Tests and fuzzers walk this list. A test reads the sources and fails if a decoder is missing
//! from it, if an entry has no fuzz target, or if it has no seeds under `fuzz/corpus/`.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt::Display;
use core::str::FromStr;

use crate::codec::{Wire, check_canonical};
use crate::identity::{EntityId, Invite, Ticket};
use crate::stream::{Messages, frame_message};

/// A decoder, reduced to what a fuzzer needs.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Names the format, the fuzz target and the folder of seeds.
    pub name: &'static str,
    /// Decodes any bytes; panics only if the decoder breaks the canonical rule of [`crate::codec`].
    pub check: fn(&[u8]),
}

impl Decoder {
    const fn wire<T: Wire>() -> Self {
        Self { name: T::NAME, check: check_canonical::<T> }
    }

    const fn with(name: &'static str, check: fn(&[u8])) -> Self {
        Self { name, check }
    }
}

/// Every decoder of this crate.
pub const fn decoders() -> &'static [Decoder] {
    const {
        &[
            Decoder::wire::<Ticket>(),
            Decoder::wire::<Invite>(),
            Decoder::with("entity-text", check_text::<EntityId>),
            Decoder::with("ticket-text", check_text::<Ticket>),
            Decoder::with("invite-text", check_text::<Invite>),
            Decoder::with("chunk", check_chunk),
        ]
    }
}

/// A printable form: what parses prints back as it was written, white space around it excepted.
fn check_text<T: FromStr + Display>(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text.trim(), "a printable form is not canonical");
    }
}

/// A run of messages: what was read frames to the same bytes.
fn check_chunk(bytes: &[u8]) {
    let mut messages = Messages::queued(bytes);
    let mut again = Vec::new();
    for (_, message) in messages.by_ref() {
        frame_message(&mut again, message);
    }
    assert_eq!(again, &bytes[..bytes.len() - messages.rest().len()], "a chunk is not canonical");
}
