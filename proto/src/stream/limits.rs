//! What each side allows, and the node's pool of window.

use serde::{Deserialize, Serialize};

use crate::codec::{BufferTooSmall, DecodeError, Reader, VARINT_MAX, Wire, Writer};
use crate::stream::MAX_MESSAGE;

/// One lease of a [`Pool`], in bytes.
pub const LEASE: u64 = 64 << 10;
/// Smallest window that a side may start with, in bytes.
pub const MIN_WINDOW: u64 = 4 << 10;

/// What one side allows the other at the start of an association; travels in the handshake payload.
/// At most 32 bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// First window of the session, in charged bytes.
    pub session_window: u64,
    /// First window of each stream, in charged bytes.
    pub stream_window: u64,
    /// How many streams the peer may have open at once.
    pub streams: u64,
    /// Largest message, in bytes. Never above [`MAX_MESSAGE`] or the largest window.
    pub max_message: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { session_window: LEASE, stream_window: LEASE / 2, streams: 1024, max_message: 4 << 20 }
    }
}

impl Limits {
    /// Nothing is allowed: what holds until the first handshake told more.
    pub const NONE: Self = Self { session_window: 0, stream_window: 0, streams: 0, max_message: 0 };
}

impl Wire for Limits {
    const NAME: &'static str = "stream-limits";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let limits = Self {
            session_window: r.varint("session window")?,
            stream_window: r.varint("stream window")?,
            streams: r.varint("stream count")?,
            max_message: r.varint("largest message")?,
        };
        if limits.max_message > MAX_MESSAGE as u64 {
            let (what, value) = ("largest message", limits.max_message);
            return Err(DecodeError::TooLarge { what, value, limit: MAX_MESSAGE as u64 });
        }
        Ok(limits)
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.varint(self.session_window)?;
        w.varint(self.stream_window)?;
        w.varint(self.streams)?;
        w.varint(self.max_message)
    }
}

/// How the streams of an association behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What the peer is told.
    pub local: Limits,
    /// How far auto-tuning may grow the window of a stream, in charged bytes.
    pub max_stream_window: u64,
    /// How far auto-tuning may grow the window of the session, in charged bytes.
    pub max_session_window: u64,
    /// What the port of a stream may have queued beyond what was delivered, in charged bytes.
    pub send_buffer: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            local: Limits::default(),
            max_stream_window: 4 << 20,
            max_session_window: 16 << 20,
            send_buffer: 1 << 20,
        }
    }
}

impl Config {
    /// The same with every value in its range: windows at least [`MIN_WINDOW`], largest windows at
    /// least the first ones, a stream's largest at most the session's, no message above the largest
    /// stream window. What [`Self::local`] says afterwards is what the handshake has to tell.
    pub fn checked(mut self) -> Self {
        let top = VARINT_MAX >> 8;
        let l = &mut self.local;
        l.session_window = l.session_window.clamp(MIN_WINDOW, top);
        l.stream_window = l.stream_window.clamp(MIN_WINDOW, l.session_window);
        l.streams = l.streams.min(1 << 20);
        self.max_session_window = self.max_session_window.clamp(l.session_window, top);
        self.max_stream_window = self.max_stream_window.clamp(l.stream_window, self.max_session_window);
        l.max_message = l.max_message.min(MAX_MESSAGE as u64).min(self.max_stream_window);
        self.send_buffer = self.send_buffer.clamp(MIN_WINDOW, top);
        self
    }
}

/// The node's budget for windows above the first one of each session, handed out in steps of
/// [`LEASE`] bytes.
#[derive(Clone, Debug)]
pub struct Pool {
    free: u64,
    leased: u64,
}

impl Pool {
    /// A budget of `bytes`.
    pub const fn new(bytes: u64) -> Self {
        Self { free: bytes, leased: 0 }
    }

    /// Takes `bytes` out; `false` and no change if there is not so much.
    #[must_use]
    pub fn lease(&mut self, bytes: u64) -> bool {
        let Some(free) = self.free.checked_sub(bytes) else { return false };
        self.free = free;
        self.leased += bytes;
        true
    }

    /// Puts leased bytes back.
    pub fn give_back(&mut self, bytes: u64) {
        let bytes = bytes.min(self.leased);
        self.leased -= bytes;
        self.free += bytes;
    }

    /// Bytes handed out now.
    pub const fn leased(&self) -> u64 {
        self.leased
    }
}
