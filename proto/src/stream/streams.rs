//! All streams of one association.

use alloc::vec::Vec;

use super::api::{Event, FrameError, Ledger, OpenError, SendError, SentFrame, StreamStats, Taken, Tally};
use super::limits::{Config, Limits, Pool};
use super::message::{Mode, StreamId};
use crate::codec::{Reader, Writer};
use crate::time::{Duration, Instant};

/// Longest label, in bytes.
pub const MAX_LABEL: usize = 256;
/// Least room that [`Streams::write`] needs to make progress, in bytes.
pub const MIN_ROOM: usize = 512;

/// All streams of one association.
#[derive(Debug)]
pub struct Streams {}

#[allow(unused_variables, missing_docs, clippy::unused_self, clippy::needless_pass_by_value)]
impl Streams {
    pub fn new(config: &Config, greater: bool) -> Self {
        Self {}
    }
    pub fn set_peer_limits(&mut self, limits: Limits) {}
    /// Whether `kind` is a frame for [`Self::handle_frame`].
    pub const fn handles(kind: u8) -> bool {
        matches!(kind, 0x08 | 0x09 | 0x10..=0x1f)
    }
    pub fn max_message(&self) -> u64 {
        0
    }
    pub fn open(&mut self, label: &str, mode: Mode, priority: u8) -> Result<StreamId, OpenError> {
        Err(OpenError::TooMany(0))
    }
    pub fn send(&mut self, id: StreamId, chunk: Vec<u8>) -> Result<(), SendError> {
        Err(SendError::Gone(chunk))
    }
    /// Streams that are open.
    pub fn open_count(&self) -> u64 {
        0
    }
    /// Panics if the books do not balance.
    pub fn invariants(&self) {}
    /// `false`: no such stream.
    pub fn finish(&mut self, id: StreamId) -> bool {
        false
    }
    pub fn reset(&mut self, id: StreamId, code: u16) -> bool {
        false
    }
    pub fn stop(&mut self, id: StreamId, code: u16) -> bool {
        false
    }
    pub fn flush(&mut self, id: StreamId, token: u64) -> bool {
        false
    }
    pub fn consumed(&mut self, now: Instant, id: StreamId, charge: u64, rtt: Duration, pool: &mut Pool) {}
    pub fn take(&mut self, id: StreamId, spare: Vec<u8>) -> Option<Taken> {
        None
    }
    pub fn spent(&mut self) -> Option<Vec<u8>> {
        None
    }
    pub fn handle_frame(
        &mut self,
        now: Instant,
        kind: u8,
        r: &mut Reader<'_>,
        pool: &mut Pool,
    ) -> Result<(), FrameError> {
        Err(FrameError::Drop)
    }
    #[must_use]
    pub fn has_output(&self) -> bool {
        false
    }
    pub fn write(&mut self, w: &mut Writer<'_>, record: &mut dyn FnMut(SentFrame) -> bool) {}
    pub fn on_acked(&mut self, frame: SentFrame) {}
    pub fn on_lost(&mut self, frame: SentFrame) {}
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }
    pub fn write_limit(&self, id: StreamId) -> u64 {
        0
    }
    pub fn close_all(&mut self, pool: &mut Pool) -> Tally {
        Tally::default()
    }
    pub fn stats(&self, id: StreamId) -> Option<StreamStats> {
        None
    }
    pub fn ceiling(&self) -> u64 {
        0
    }
    pub fn ledger(&self) -> Ledger {
        Ledger::default()
    }
}
