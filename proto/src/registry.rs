//! The one list of decoders: whatever reads bytes that somebody else wrote stands here.
//!
//! Tests and fuzzers walk this list. A test reads the sources and fails if a decoder is missing
//! from it, if an entry has no fuzz target, or if it has no seeds under `fuzz/corpus/`.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt::Display;
use core::str::FromStr;

use crate::bus::mesh::{Frame, Run};
use crate::bus::outbox::Record;
use crate::bus::{Cursor, Dedup, EventId, Filter, decode_producer, producer_record};
use crate::codec::{Reader, Wire, Writer, check_canonical};
use crate::handshake::{Hello, Welcome};
use crate::identity::{EntityId, Invite, Ticket};
use crate::node::boot;
use crate::recovery::Ack;
use crate::session::{Close, DATA, Extension, HEADER, parse_header};
use crate::stream::{self, Limits, Messages, Mode, Pool, Streams, frame_message};
use crate::time::Instant;

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
            Decoder::with("boot-record", check_boot_record),
            Decoder::wire::<Hello>(),
            Decoder::wire::<Welcome>(),
            Decoder::with("packet-header", check_packet_header),
            Decoder::wire::<Ack>(),
            Decoder::wire::<Close>(),
            Decoder::wire::<Extension>(),
            Decoder::wire::<Limits>(),
            Decoder::with("stream-frames", check_stream_frames),
            Decoder::with("chunk", check_chunk),
            Decoder::wire::<EventId>(),
            Decoder::with("event-id-text", check_text::<EventId>),
            Decoder::wire::<Cursor>(),
            Decoder::with("cursor-text", check_text::<Cursor>),
            Decoder::with("filter", check_filter),
            Decoder::wire::<Dedup>(),
            Decoder::with("producer-file", check_producer),
            Decoder::wire::<Record>(),
            Decoder::wire::<Run>(),
            Decoder::wire::<Frame>(),
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

/// What a node keeps of its last start: the only bytes that it believes from its own disk.
fn check_boot_record(bytes: &[u8]) {
    if let Ok(epoch) = boot::decode(bytes) {
        assert_eq!(boot::encode(epoch), bytes, "a boot record is not canonical");
    }
}

/// A filter prints to what parses to itself; and as an event, the same bytes are judged without harm.
fn check_filter(bytes: &[u8]) {
    let Ok(text) = core::str::from_utf8(bytes) else { return };
    if let Ok(filter) = text.parse::<Filter>() {
        assert_eq!(filter.to_string().parse(), Ok(filter.clone()), "a filter is not canonical");
        let _ = filter.matches(bytes);
    }
}

/// What a producer keeps of itself.
fn check_producer(bytes: &[u8]) {
    if let Ok((producer, incarnation)) = decode_producer(bytes) {
        assert_eq!(producer_record(producer, incarnation), bytes, "an identity file is not canonical");
    }
}

/// The clear bytes of a data packet.
fn check_packet_header(bytes: &[u8]) {
    if let Some((index, counter)) = parse_header(bytes) {
        let mut again = [DATA; HEADER];
        let mut w = Writer::new(&mut again[1..]);
        assert!(w.u32(index).and_then(|()| w.u64(counter)).is_ok());
        assert_eq!(again, bytes[..HEADER], "a packet header is not canonical");
    }
}

/// Frames of streams, decoded where they act: on the streams of an association that has one of each
/// mode open. Whatever comes, the ledger balances and every lease comes back.
fn check_stream_frames(bytes: &[u8]) {
    let now = Instant::ZERO;
    let mut pool = Pool::new(1 << 20);
    let mut streams = Streams::new(&stream::Config::default(), true);
    streams.set_peer_limits(Limits::default());
    for mode in [Mode::Reliable, Mode::Unordered, Mode::FireAndForget] {
        let Ok(id) = streams.open("fuzz", mode, 16) else { continue };
        let mut chunk = Vec::new();
        frame_message(&mut chunk, b"ours");
        assert!(streams.send(id, chunk).is_ok(), "a fresh stream takes a message");
    }
    let mut r = Reader::new(bytes);
    while let Ok(kind) = r.u8("frame type") {
        if streams.handle_frame(now, kind, &mut r, &mut pool).is_err() {
            break;
        }
    }
    assert_eq!(streams.invariants(), Ok(()));
    let mut packet = [0; 1200];
    streams.write(&mut Writer::new(&mut packet), &mut |_| true);
    assert_eq!(streams.invariants(), Ok(()));
    streams.close_all(&mut pool);
    assert!(streams.ledger().balances() && pool.leased() == 0, "something did not come back");
}
