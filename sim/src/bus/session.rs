//! The writing side of a connection as a machine: batches go out in order, again and again until the
//! engine has them; a connection that gets nowhere, or that the engine does not know, is over, and
//! what was under way has an unknown fate.

use std::collections::VecDeque;

use net_proto::bus::Shard;
use net_proto::time::{Duration, Instant};

use super::wire::{Entry, Message};

/// What is not answered is said again after this.
pub const AGAIN: Duration = Duration::from_millis(250);
/// A connection that gets no further is over after this.
pub const DEAD: Duration = Duration::from_secs(2);

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The engine says so.
    Reset,
    /// Nothing was answered in time.
    Silent,
}

#[derive(Debug)]
struct UnderWay {
    n: u64,
    /// Number of its last event, for the acknowledgement.
    last: u64,
    message: Vec<u8>,
}

/// The machine.
#[derive(Debug)]
pub struct Connection {
    conn: u64,
    shard: Shard,
    open: bool,
    next: u64,
    under_way: VecDeque<UnderWay>,
    out: VecDeque<Vec<u8>>,
    again: Instant,
    dead: Instant,
    over: Option<Over>,
}

impl Connection {
    /// A connection of this number that asks to be opened.
    pub fn new(now: Instant, conn: u64, shard: Shard) -> Self {
        let mut connection = Self {
            conn,
            shard,
            open: false,
            next: 0,
            under_way: VecDeque::new(),
            out: VecDeque::new(),
            again: now + AGAIN,
            dead: now + DEAD,
            over: None,
        };
        connection.say();
        connection
    }

    /// Whether batches may be sent.
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Whether and why it is over.
    pub const fn over(&self) -> Option<Over> {
        self.over
    }

    /// Batches that are not acknowledged.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    fn waits(&self) -> bool {
        self.over.is_none() && (!self.open || !self.under_way.is_empty())
    }

    /// Says what is not answered, from the first on.
    fn say(&mut self) {
        if self.open {
            self.out.extend(self.under_way.iter().map(|b| b.message.clone()));
        } else {
            self.out.push_back(Message::Open { conn: self.conn, shard: self.shard }.encode());
        }
    }

    /// Sends a batch whose last event has number `last`.
    pub fn send(&mut self, now: Instant, last: u64, events: Vec<Entry>) {
        if self.under_way.is_empty() {
            (self.again, self.dead) = (now + AGAIN, now + DEAD);
        }
        let message = Message::Batch { conn: self.conn, n: self.next, events }.encode();
        self.out.push_back(message.clone());
        self.under_way.push_back(UnderWay { n: self.next, last, message });
        self.next += 1;
    }

    /// The engine said something. Answers the number of the last event that it has, if that is news.
    pub fn handle(&mut self, now: Instant, message: &Message) -> Option<u64> {
        match message {
            Message::Opened { conn } if *conn == self.conn && !self.open => {
                self.open = true;
                None
            }
            Message::Taken { conn, below } if *conn == self.conn => {
                let mut upto = None;
                while let Some(last) = self.under_way.front().filter(|b| b.n < *below).map(|b| b.last) {
                    self.under_way.pop_front();
                    upto = Some(last);
                    (self.again, self.dead) = (now + AGAIN, now + DEAD);
                }
                upto
            }
            Message::Reset { conn } if *conn == self.conn => {
                self.over.get_or_insert(Over::Reset);
                None
            }
            _ => None,
        }
    }

    /// The time that [`Connection::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.waits() {
            return;
        }
        if now >= self.dead {
            self.over = Some(Over::Silent);
        } else if now >= self.again {
            self.again = now + AGAIN;
            self.say();
        }
    }

    /// When to call [`Connection::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.waits().then(|| self.again.min(self.dead))
    }

    /// The next datagram to the engine.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.out.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn out(c: &mut Connection) -> Vec<Message> {
        std::iter::from_fn(|| c.poll_transmit()).filter_map(|d| Message::decode(&d)).collect()
    }

    #[test]
    fn what_is_not_answered_is_said_again_until_it_is_over() {
        let mut c = Connection::new(at(0), 7, 1);
        assert_eq!(out(&mut c), [Message::Open { conn: 7, shard: 1 }]);
        c.handle_timeout(at(250));
        assert_eq!(out(&mut c).len(), 1);
        c.handle(at(260), &Message::Opened { conn: 8 });
        assert!(!c.is_open(), "another connection's");
        c.handle(at(260), &Message::Opened { conn: 7 });
        assert!(c.is_open() && c.poll_timeout().is_none());
        c.send(at(300), 4, Vec::new());
        c.send(at(300), 9, Vec::new());
        assert_eq!(out(&mut c).len(), 2);
        assert_eq!(c.handle(at(310), &Message::Taken { conn: 7, below: 1 }), Some(4));
        assert_eq!(c.handle(at(310), &Message::Taken { conn: 7, below: 1 }), None);
        c.handle_timeout(at(560));
        assert_eq!(out(&mut c), [Message::Batch { conn: 7, n: 1, events: Vec::new() }]);
        c.handle_timeout(at(2_310));
        assert_eq!((c.over(), c.poll_timeout()), (Some(Over::Silent), None));
    }

    #[test]
    fn damage_is_seen() {
        let good = Message::Taken { conn: 3, below: 9 }.encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Message::decode(&bad), None);
        }
        assert_eq!(Message::decode(&good[..3]), None);
    }
}
