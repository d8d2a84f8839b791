//! What ports, machines and wires share: how messages lie in a chunk of bytes.
//!
//! A **chunk** is a run of messages, each as `varint length ‖ payload`. The port that an application
//! writes to builds it, the send half keeps it as its retransmission buffer, the wire carries ranges
//! of it, and the receive half hands the same form to the reading port. For the two modes without
//! order a received chunk has `varint number` in front of every length.

use crate::codec::{DecodeError, Reader, varint_bytes, varint_len};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Largest message, in bytes. A larger one is refused before anything is sent.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Names a stream within its association. The lowest bit says which side opened it: 0 for the
/// side with the smaller entity id. Never reused within an association, so it is the generation too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId(pub u64);

/// What a stream promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// At most once, no order, never retransmitted.
    FireAndForget,
    /// Exactly once within the stream, in order.
    Reliable,
    /// Exactly once within the stream, as they arrive.
    Unordered,
}

/// What a message costs of a window, in bytes: `max(length, 64)`, at both ends.
pub const fn charge(len: usize) -> u64 {
    if len < 64 { 64 } else { len as u64 }
}

/// Appends one message to a chunk.
pub fn frame_message(chunk: &mut Vec<u8>, message: &[u8]) {
    let (bytes, len) = varint_bytes(message.len() as u64);
    chunk.reserve(len + message.len());
    chunk.extend_from_slice(&bytes[..len]);
    chunk.extend_from_slice(message);
}

/// Reads the messages of a chunk in turn.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    reader: Reader<'a>,
    numbered: bool,
    next: u64,
}

impl<'a> Messages<'a> {
    /// The messages of a received chunk; `next` is the number of its first message where the mode is
    /// ordered, and ignored otherwise.
    pub const fn received(chunk: &'a [u8], mode: Mode, next: u64) -> Self {
        Self { reader: Reader::new(chunk), numbered: !matches!(mode, Mode::Reliable), next }
    }

    /// The messages of a chunk as a port builds it.
    pub const fn queued(chunk: &'a [u8]) -> Self {
        Self { reader: Reader::new(chunk), numbered: false, next: 0 }
    }

    /// Bytes not read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.reader.rest()
    }

    fn read(&mut self) -> Result<(u64, &'a [u8]), DecodeError> {
        let number = if self.numbered { self.reader.varint("message number")? } else { self.next };
        let message = self.reader.bytes(MAX_MESSAGE, "message length")?;
        self.next = number + 1;
        Ok((number, message))
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = (u64, &'a [u8]);

    /// The next whole message and its number; `None` at the end or where the rest is not whole
    /// ([`Messages::rest`] tells them apart).
    fn next(&mut self) -> Option<Self::Item> {
        let before = self.reader.clone();
        let item = self.read().ok();
        if item.is_none() {
            self.reader = before;
        }
        item
    }
}

/// Bytes that a message takes in a chunk.
pub const fn framed_len(len: usize) -> usize {
    varint_len(len as u64) + len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_gives_back_its_messages() {
        let mut chunk = Vec::new();
        frame_message(&mut chunk, b"one");
        frame_message(&mut chunk, b"");
        frame_message(&mut chunk, &[7; 100]);
        assert_eq!(chunk.len(), framed_len(3) + framed_len(0) + framed_len(100));
        let got: Vec<_> = Messages::received(&chunk, Mode::Reliable, 5).collect();
        assert_eq!(got, [(5, &b"one"[..]), (6, b""), (7, &[7; 100])]);
        let mut cut = Messages::queued(&chunk[..chunk.len() - 1]);
        assert_eq!(cut.by_ref().count(), 2);
        assert_eq!(cut.rest().len(), framed_len(100) - 1);
    }
}
