//! The sending half of a stream: queued chunks, what of them is sent, acknowledged and lost.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::api::Tally;
use super::message::charge;
use crate::bounded::{Inserted, RangeSet};
use crate::codec::{Reader, varint_len};

/// Separate ranges that a send half remembers; beyond it sends again more than it needs.
const RANGES: usize = 1 << 16;
/// Bytes that fill a batch of datagrams. Of a stream that has so much to send, nothing more need be
/// collected: it gathers better where it is.
pub const PLENTY: u64 = 64 << 10;

#[derive(Debug)]
struct Chunk {
    start: u64,
    data: Vec<u8>,
    /// Number of its first message.
    first: u64,
    tally: Tally,
    charge: u64,
}

impl Chunk {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

/// Credit that the peer gave for the session.
#[derive(Debug, Default)]
pub(super) struct Credit {
    pub limit: u64,
    pub used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// `finish` was called.
    Finishing,
    /// Reset, by us or because the peer stopped reading.
    Reset(u16),
    /// The peer acknowledged the end.
    Done,
}

/// What keeps the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commit {
    Done,
    Nothing,
    Stream { need: u64, size: u64 },
    Session { need: u64, size: u64 },
}

/// A message in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    /// Offset of its length prefix.
    pub start: u64,
    pub header: u64,
    pub len: u64,
    pub number: u64,
}

impl At {
    pub const fn end(&self) -> u64 {
        self.start + self.header + self.len
    }
}

/// Whole messages that fit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Run {
    pub messages: u64,
    pub bytes: u64,
    pub charge: u64,
}

#[derive(Debug)]
pub(super) struct SendHalf {
    chunks: VecDeque<Chunk>,
    pub state: State,
    /// End of everything queued.
    pub end: u64,
    /// Messages queued since the start.
    pub end_number: u64,
    /// [`PLENTY`] was unsent after a chunk was queued, and has been since.
    pub plenty: bool,
    /// First byte that never left.
    pub sent: u64,
    /// Number of the message at `sent` or around it, and the charge of all before it.
    pub sent_number: u64,
    pub sent_charge: u64,
    /// The message that `sent` is inside of.
    pub inside: Option<At>,
    /// End of what has credit; a message boundary.
    pub committed: u64,
    /// Charge of everything below `committed`.
    pub charged: u64,
    /// Credit that the peer gave for the stream.
    pub limit: u64,
    pub acked_to: u64,
    acked: RangeSet,
    pub lost: RangeSet,
    /// Last message looked up: a later one in the same chunk is found from here.
    hint: (u64, u64),
    released: u64,
    pub reported: u64,
    pub queued: Tally,
    pub delivered: Tally,
    pub dropped: Tally,
    pub flushes: VecDeque<(u64, u64)>,
    /// Fire-and-forget: what SYNC tells.
    pub sync: (u64, u64),
    pub fin_acked: bool,
    pub retransmitted: u64,
    pub blocked: u64,
    pub grants: u64,
}

/// Header length and payload length of the message at the start of `bytes`.
pub(super) fn header(bytes: &[u8]) -> Option<(u64, u64)> {
    let len = Reader::new(bytes).varint("message length").ok()?;
    Some((varint_len(len) as u64, len))
}

impl SendHalf {
    pub const fn new(limit: u64, send_buffer: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            state: State::Open,
            end: 0,
            end_number: 0,
            plenty: false,
            sent: 0,
            sent_number: 0,
            sent_charge: 0,
            inside: None,
            committed: 0,
            charged: 0,
            limit,
            acked_to: 0,
            acked: RangeSet::new(RANGES),
            lost: RangeSet::new(RANGES),
            hint: (0, 0),
            released: 0,
            reported: send_buffer,
            queued: Tally { messages: 0, bytes: 0 },
            delivered: Tally { messages: 0, bytes: 0 },
            dropped: Tally { messages: 0, bytes: 0 },
            flushes: VecDeque::new(),
            sync: (0, 0),
            fin_acked: false,
            retransmitted: 0,
            blocked: 0,
            grants: 0,
        }
    }

    /// Takes a chunk whose messages are known to be whole.
    pub fn push(&mut self, data: Vec<u8>, tally: Tally, charge: u64) {
        let start = self.end;
        self.end += data.len() as u64;
        self.chunks.push_back(Chunk { start, data, first: self.end_number, tally, charge });
        self.end_number += tally.messages;
        self.queued.add(tally);
        self.plenty = self.end - self.sent >= PLENTY;
    }

    /// Whether what is unsent fell below [`PLENTY`]; true once.
    pub fn grew_short(&mut self) -> bool {
        let short = self.plenty && self.end - self.sent < PLENTY;
        self.plenty &= !short;
        short
    }

    fn index(&self, offset: u64) -> usize {
        if self.chunks.front().is_some_and(|c| c.end() > offset) {
            return 0;
        }
        self.chunks.partition_point(|c| c.end() <= offset)
    }

    fn message_at(&self, offset: u64, number: u64) -> Option<At> {
        let chunk = self.chunks.get(self.index(offset))?;
        let (header, len) = header(chunk.data.get((offset.checked_sub(chunk.start)?) as usize..)?)?;
        Some(At { start: offset, header, len, number })
    }

    /// Whether something can be written without further credit.
    pub fn sendable(&self) -> bool {
        !self.lost.is_empty() || self.sent < self.committed
    }

    /// Charges the next message to both windows, all of it or nothing: a message that was begun can
    /// always be completed, so half-sent messages never hold credit that nobody can give back.
    pub fn commit(&mut self, credit: &mut Credit, first_in_line: bool) -> Commit {
        let Some(at) = self.message_at(self.committed, 0) else { return Commit::Nothing };
        let size = charge(at.len as usize);
        if self.charged + size > self.limit {
            return Commit::Stream { need: self.charged + size, size };
        }
        if !first_in_line || credit.used + size > credit.limit {
            return Commit::Session { need: credit.limit + size, size };
        }
        self.charged += size;
        credit.used += size;
        self.committed = at.end();
        Commit::Done
    }

    /// Copies queued bytes; `false` if they are not all there.
    pub fn copy(&self, start: u64, mut out: &mut [u8]) -> bool {
        let mut index = self.index(start);
        let mut at = start;
        while !out.is_empty() {
            let Some(chunk) = self.chunks.get(index) else { return false };
            let Some(bytes) = at.checked_sub(chunk.start).and_then(|o| chunk.data.get(o as usize..)) else {
                return false;
            };
            let n = bytes.len().min(out.len());
            let (head, tail) = out.split_at_mut(n);
            head.copy_from_slice(&bytes[..n]);
            out = tail;
            at += n as u64;
            index += 1;
        }
        true
    }

    /// The message at `sent`.
    pub fn next_message(&self) -> Option<At> {
        self.inside.or_else(|| self.message_at(self.sent, self.sent_number))
    }

    /// Whole messages from the boundary `start` on, below `end`, of at most `room` bytes.
    pub fn run(&self, start: u64, end: u64, room: u64) -> Run {
        let mut run = Run::default();
        let mut index = self.index(start);
        let mut at = start;
        while let Some(chunk) = self.chunks.get(index) {
            let mut rest = at.checked_sub(chunk.start).and_then(|o| chunk.data.get(o as usize..));
            while let Some((h, len)) = rest.and_then(header) {
                let size = h + len;
                if at + size > end || run.bytes + size > room {
                    return run;
                }
                run.messages += 1;
                run.bytes += size;
                run.charge += charge(len as usize);
                at += size;
                rest = rest.and_then(|r| r.get(size as usize..));
            }
            index += 1;
        }
        run
    }

    /// The message around `offset`, for sending again.
    pub fn find(&mut self, offset: u64) -> Option<At> {
        let chunk = self.chunks.get(self.index(offset))?;
        let (mut at, mut number) = (chunk.start, chunk.first);
        if self.hint.0 > at && self.hint.0 <= offset {
            (at, number) = self.hint;
        }
        loop {
            let (h, len) = header(chunk.data.get((at - chunk.start) as usize..)?)?;
            if at + h + len > offset {
                self.hint = (at, number);
                return Some(At { start: at, header: h, len, number });
            }
            at += h + len;
            number += 1;
        }
    }

    pub fn acked(&mut self, start: u64, len: u64, spare: &mut dyn FnMut(Vec<u8>)) {
        let end = start + len;
        if end > self.sent || end <= self.acked_to {
            return;
        }
        self.lost.remove(start..end);
        if start <= self.acked_to {
            self.acked_to = end;
            while let Some(first) = self.acked.first().filter(|r| r.start <= self.acked_to) {
                self.acked_to = self.acked_to.max(first.end);
                self.acked.pop_first();
            }
            self.release(spare);
        } else if self.acked.insert(start..end) == Inserted::Full {
            self.lose(start, len);
        }
    }

    /// Forgets chunks that nobody needs any more.
    pub fn release(&mut self, spare: &mut dyn FnMut(Vec<u8>)) {
        while self.chunks.front().is_some_and(|c| c.end() <= self.acked_to) {
            let Some(chunk) = self.chunks.pop_front() else { return };
            self.released += chunk.charge;
            self.queued.sub(chunk.tally);
            self.delivered.add(chunk.tally);
            spare(chunk.data);
        }
    }

    pub fn lose(&mut self, start: u64, len: u64) {
        let end = (start + len).min(self.sent);
        let start = start.max(self.acked_to);
        if start >= end {
            return;
        }
        if self.lost.insert(start..end) == Inserted::Full {
            self.lost.insert(self.acked_to..end);
        }
        for r in self.acked.iter() {
            if r.start < end && r.end > self.acked_to {
                self.lost.remove(r);
            }
        }
    }

    /// Charge of what left the queue; inside a chunk by proportion of its bytes.
    pub fn released(&self) -> u64 {
        let part = self.chunks.front().map_or(0, |c| {
            let done = self.acked_to.saturating_sub(c.start);
            c.charge.saturating_mul(done) / (c.data.len() as u64).max(1)
        });
        self.released + part
    }

    /// Drops everything; returns what the peer may not have got. Where there is an order, that is
    /// everything behind the first gap: the peer's application cannot have read it.
    pub fn drop_all(&mut self, ordered: bool, spare: &mut dyn FnMut(Vec<u8>)) -> Tally {
        let mut lost = Tally::default();
        while let Some(chunk) = self.chunks.pop_front() {
            let mut at = chunk.start;
            let mut rest = &chunk.data[..];
            while let Some((h, len)) = header(rest) {
                let size = h + len;
                let one = Tally { messages: 1, bytes: len };
                let out_of_order = !ordered && self.acked.covers(&(at..at + size));
                if at + size <= self.acked_to || out_of_order {
                    self.delivered.add(one);
                } else {
                    lost.add(one);
                }
                at += size;
                rest = rest.get(size as usize..).unwrap_or_default();
            }
            self.released += chunk.charge;
            spare(chunk.data);
        }
        self.queued = Tally::default();
        self.dropped.add(lost);
        self.lost.clear();
        self.acked.clear();
        self.flushes.clear();
        self.inside = None;
        (self.sent, self.committed, self.acked_to) = (self.end, self.end, self.end);
        lost
    }
}
