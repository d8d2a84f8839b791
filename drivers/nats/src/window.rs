//! The events of one link between the bus and the stream: which is sent next, and what is known to be
//! stored. No clock, no socket.
//!
//! Events go out in *runs*. The first event of a run is stored wherever the stream ends; each later
//! one only right behind the one before it, which the server checks (`Nats-Expected-Last-Msg-Id`). So
//! a message that is lost, refused or overtaken, or that of another producer in between, keeps all
//! later ones of the run out: there is never a hole. Then the run is *broken*; the next one begins
//! with the first event that is not stored, which the producer's last event in the stream tells.
//!
//! An expected sequence instead of an expected id would not do where producers share a stream: the
//! event behind the one that lost its place to a stranger would find the sequence that it expects.
//!
//! Since an event is stored only behind all earlier ones of its producer, one answer stands for all
//! events before it, and not every message asks for one.

use std::collections::VecDeque;

use net_proto::bus::EventId;
use net_shell::bus::adapter::{Batch, Outgoing};

/// Bytes of bodies under way, unless it is one event.
const BYTES: usize = 8 << 20;

/// What to send next.
#[derive(Debug)]
pub struct Next<'a> {
    /// The event.
    pub event: &'a Outgoing,
    /// The id that must be the last one in the stream; `None` for the first of a run.
    pub after: Option<EventId>,
    /// Ask for an answer, under this name.
    pub ask: Option<Ask>,
}

/// The name of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The run.
    pub run: u64,
    /// The number of the event that was sent with the question.
    pub number: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Window {
    /// Most events under way; and as many as are worth sending while runs break.
    limit: usize,
    room: usize,
    /// Not acknowledged, with their numbers, which rise. The first `sent` are under way.
    queue: VecDeque<(u64, Outgoing)>,
    sent: usize,
    bytes: usize,
    /// Everything up to this number is stored.
    upto: u64,
    run: u64,
    /// The id that was sent last in this run.
    last: Option<EventId>,
    /// Everything of this producer up to this id is stored.
    stored: Option<EventId>,
}

impl Window {
    /// A window of at most `limit` events. `stored`: the producer's last event in the stream.
    pub const fn new(limit: usize, stored: Option<EventId>) -> Self {
        let queue = VecDeque::new();
        Self { limit, room: limit, queue, sent: 0, bytes: 0, upto: 0, run: 0, last: None, stored }
    }

    /// A batch behind all earlier ones.
    pub fn push(&mut self, batch: Batch) {
        self.queue.extend((batch.first..).zip(batch.events));
        if self.sent == 0 {
            self.skip_stored();
        }
    }

    /// Everything up to this number is stored.
    pub const fn upto(&self) -> u64 {
        self.upto
    }

    /// Whether an answer is due.
    pub const fn is_waiting(&self) -> bool {
        self.sent > 0
    }

    /// The next event to send. It counts as sent.
    pub fn next(&mut self) -> Option<Next<'_>> {
        if !self.has_room() {
            return None;
        }
        let bytes = self.queue.get(self.sent)?.1.raw.len();
        self.sent += 1;
        self.bytes += bytes;
        let follows = self.sent < self.queue.len() && self.has_room();
        let (number, event) = self.queue.get(self.sent - 1)?;
        // A quarter of the window is worth an answer, and whatever nothing follows.
        let step = (self.room / 4).max(1) as u64;
        let ask = (number.is_multiple_of(step) || !follows).then_some(Ask { run: self.run, number: *number });
        let after = self.last.replace(event.id);
        Some(Next { event, after, ask })
    }

    fn has_room(&self) -> bool {
        let bytes = self.queue.get(self.sent).map_or(0, |(_, event)| event.raw.len());
        self.sent == 0 || self.sent < self.room && self.bytes + bytes <= BYTES
    }

    /// The event of this question is stored, and so are those before it.
    pub fn stored(&mut self, ask: Ask) {
        if ask.run != self.run {
            return;
        }
        let under_way = self.queue.iter().take(self.sent);
        let done = under_way.take_while(|(number, _)| *number <= ask.number).count();
        self.drop_front(done);
        self.room = (self.room + done).min(self.limit);
    }

    /// Whether the question is one of this run.
    pub const fn is_current(&self, ask: Ask) -> bool {
        ask.run == self.run
    }

    /// Begins another run behind `stored`, the producer's last event in the stream.
    pub fn resume(&mut self, stored: Option<EventId>) {
        self.run += 1;
        (self.sent, self.bytes, self.last) = (0, 0, None);
        self.room = (self.room / 2).max(1);
        self.stored = stored;
        self.skip_stored();
    }

    /// Drops what the stream has. Ids of one producer rise in the order of sending.
    fn skip_stored(&mut self) {
        let Some(stored) = self.stored else { return };
        let known = |id: &EventId| {
            id.producer == stored.producer
                && id.shard == stored.shard
                && (id.incarnation, id.seq) <= (stored.incarnation, stored.seq)
        };
        let known = self.queue.iter().take_while(|(_, event)| known(&event.id)).count();
        self.drop_front(known);
    }

    fn drop_front(&mut self, events: usize) {
        for (number, event) in self.queue.drain(..events) {
            if self.sent > 0 {
                self.sent -= 1;
                self.bytes -= event.raw.len();
            }
            self.upto = number;
        }
    }
}

#[cfg(test)]
mod tests;
