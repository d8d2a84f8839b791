//! What a failing run leaves behind, so that it can be understood without running it again.
//!
//! A [`Record`] keeps what happened; from it come a packet capture ([`pcap`]), a timeline as text and
//! as a picture ([`timeline`]), and the points of the trace by which two runs are compared
//! ([`divergence`]). Recording costs time and memory, so [`check`](crate::check()) runs a failed seed
//! again with a record; a deterministic run fails in the same way.

pub mod divergence;
pub mod pcap;
pub mod timeline;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;

use net_proto::node::{Command, Event};
use net_proto::path::Ecn;
use net_proto::time::{Duration, nanos};

use crate::checkers::Seen;

/// The trace hash after an event of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The event's number, from 1.
    pub event: u64,
    /// World time in nanoseconds.
    pub at: u64,
    /// The hash over everything up to it.
    pub hash: u64,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// World time in nanoseconds.
    pub at: u64,
    /// The number of the world's event that it happened in, less one.
    pub event: u64,
    /// What.
    pub what: Item,
}

/// What a record keeps of a [`Seen`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Item {
    Sent {
        node: u32,
        id: u64,
        src: SocketAddr,
        dst: SocketAddr,
        ecn: Ecn,
        data: Vec<u8>,
    },
    Arrived {
        node: u32,
        id: u64,
        len: usize,
    },
    /// A node's event or an application's command or note, in words.
    Said {
        node: u32,
        text: String,
    },
    Life {
        node: u32,
        begins: bool,
    },
    Fault {
        number: usize,
        text: String,
        begins: bool,
    },
}

/// Keeps what happens in a world: the points of the trace, and the last so many entries.
#[derive(Debug)]
pub struct Record {
    /// The trace after each `every` events, and after every one within `window`.
    pub points: Vec<Point>,
    /// Distance of points.
    pub every: u64,
    /// Entries of events from here on are kept, up to the window's end.
    pub window: std::ops::Range<u64>,
    /// Most entries that are kept; older ones are dropped.
    pub most: usize,
    /// What happened, oldest first.
    pub entries: VecDeque<Entry>,
    /// Entries that were dropped.
    pub dropped: u64,
    pub(crate) event: u64,
    /// The trace after the last event.
    pub(crate) last: Option<Point>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            points: Vec::new(),
            every: 4_096,
            window: 0..u64::MAX,
            most: 200_000,
            entries: VecDeque::new(),
            dropped: 0,
            event: 0,
            last: None,
        }
    }
}

impl Record {
    /// Keeps points only.
    pub fn points_only() -> Self {
        Self { window: 0..0, ..Self::default() }
    }

    /// Keeps a point for every event in a range, and everything that happens in it.
    pub fn of_window(window: std::ops::Range<u64>) -> Self {
        Self { window, ..Self::default() }
    }

    /// An event of the world is over: one step, whatever it handed over.
    pub(crate) fn point(&mut self, at: u64, hash: u64) {
        self.event += 1;
        let event = self.event;
        let inside = self.window.contains(&event) && self.window.end != u64::MAX;
        let point = Point { event, at, hash };
        if event.is_multiple_of(self.every.max(1)) || inside {
            self.points.push(point);
        }
        self.last = Some(point);
    }

    pub(crate) fn see(&mut self, at: Duration, seen: &Seen<'_>) {
        if !self.window.contains(&(self.event + 1)) {
            return;
        }
        let what = match seen {
            Seen::Sent { node, id, src, dst, ecn, data } => {
                Item::Sent { node: *node, id: *id, src: *src, dst: *dst, ecn: *ecn, data: data.to_vec() }
            }
            Seen::Arrived { node, id, data, .. } => Item::Arrived { node: *node, id: *id, len: data.len() },
            Seen::Command { node, command } => Item::Said { node: *node, text: command_text(command) },
            Seen::Event { node, event } => Item::Said { node: *node, text: event_text(event) },
            Seen::Note { node, what, value } => Item::Said { node: *node, text: format!("{what} {value}") },
            Seen::Started { node, .. } => Item::Life { node: *node, begins: true },
            Seen::Stopped { node } => Item::Life { node: *node, begins: false },
            Seen::Fault { number, text, begins } => {
                Item::Fault { number: *number, text: (*text).to_owned(), begins: *begins }
            }
            _ => return,
        };
        if self.entries.len() >= self.most {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back(Entry { at: nanos(at), event: self.event, what });
    }

    /// The points as text, and where the run ended: a line for each, event, time and hash.
    pub fn points_text(&self) -> String {
        let mut out = String::from("# event, nanoseconds, trace hash\n");
        let last = self.last.filter(|last| self.points.last() != Some(last));
        for Point { event, at, hash } in self.points.iter().chain(&last) {
            let _ = writeln!(out, "{event} {at} {hash:016x}");
        }
        out
    }
}

fn event_text(event: &Event) -> String {
    // Long labels and bytes would drown the picture.
    cut(format!("{event:?}"))
}

fn command_text(command: &Command) -> String {
    match command {
        Command::Send { peer, stream, chunk } => {
            format!("-> Send {} bytes to {peer:?} on {stream:?}", chunk.len())
        }
        other => cut(format!("-> {other:?}")),
    }
}

fn cut(mut text: String) -> String {
    if let Some((at, _)) = text.char_indices().nth(160) {
        text.truncate(at);
        text.push_str("..");
    }
    text
}

/// What a datagram is, by its first byte (the first column of the wire's table).
pub fn datagram_kind(data: &[u8]) -> &'static str {
    match data.first() {
        Some(1) => "handshake 1",
        Some(2) => "handshake 2",
        Some(3) => "cookie",
        Some(4) => "versions",
        Some(5) => "data",
        _ => "unknown",
    }
}
