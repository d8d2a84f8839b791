//! Fetches memory that will be needed soon.
//!
//! A node that comes to work after a thousand others finds nothing of its own in any cache, and would wait
//! for one line after the other. What is read here does not depend on each other, so the waits overlap.
//! State lies some pointers deep: who has work for several nodes goes through all of them at depth 0, then
//! through all at depth 1, and so on, so that the waits of the nodes overlap, too. Nothing changes, and the
//! numbers returned mean nothing; whoever adds them up keeps the reads from being left out.

use super::{Node, Target, parse_header};
use crate::time::Instant;

/// How many pointers deep everything lies: call [`Node::warm`] with each depth below this.
pub const DEPTHS: u32 = 4;

impl Node {
    /// Has the memory fetched that handling a datagram will need, one pointer deeper than the last time.
    pub fn warm(&self, depth: u32, datagram: &[u8]) -> u64 {
        if depth == 0 {
            return self.warm_own();
        }
        let target = parse_header(datagram).and_then(|(index, _)| self.indices.get(index));
        match target {
            Some(Target::Session(slot)) => self.warm_slot(depth, slot),
            _ => 0,
        }
    }

    /// The same for the associations whose timers may be due by `end`.
    pub fn warm_due(&self, depth: u32, end: Instant) -> u64 {
        if depth == 0 {
            return self.warm_own();
        }
        let due = self.timers.due_by(end);
        due.map(|slot| self.warm_slot(depth, slot)).fold(0, u64::wrapping_add)
    }

    fn warm_own(&self) -> u64 {
        let parts = [
            self.now.as_nanos(),
            self.slots.len() as u64,
            self.ready.len() as u64,
            self.events.len() as u64,
            self.dials.len() as u64,
            self.half_open.len() as u64,
            self.recent.len() as u64,
            self.spent.len() as u64,
            self.pool.leased(),
            self.stats.peers,
            self.stats.datagrams_received,
            self.stats.bytes_sent,
            self.stats.drops.unknown_index,
            u64::from(self.stopping),
            self.timers.warm(),
            self.handshakes.warm(),
        ];
        parts.into_iter().fold(0, u64::wrapping_add)
    }

    fn warm_slot(&self, depth: u32, slot: u32) -> u64 {
        let Some(entry) = self.slots.get(slot as usize) else { return 0 };
        match &entry.session {
            Some(session) if depth > 1 => session.warm(depth - 2),
            Some(session) => u64::from(session.handle.slot()),
            None => 0,
        }
    }
}
