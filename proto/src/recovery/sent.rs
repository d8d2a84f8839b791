//! The sender's side: what was sent, what became of it, and when to act.

use alloc::collections::VecDeque;
use thiserror::Error;

use super::ack::{AckView, EcnCounts};
use super::path::PathRecovery;
use crate::time::{Instant, Reason, earlier};

/// Packets remembered at most; [`Recovery::is_full`] says when to stop sending data.
pub const MAX_TRACKED: usize = 1 << 17;
/// Packets that elicit no acknowledgement and are remembered at most. More are not tracked.
pub const MAX_ACK_ONLY: usize = 1024;
/// After this many packets in a row that elicit nothing, one should carry a ping, so that the peer
/// tells which of them arrived.
pub const PING_AFTER: u32 = 64;

/// A sent packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent<T> {
    /// Its number, from [`Recovery::next_number`].
    pub number: u64,
    /// When it left.
    pub at: Instant,
    /// The path that it left on.
    pub path: u32,
    /// Its size in bytes.
    pub bytes: u16,
    /// The peer must acknowledge it.
    pub ack_eliciting: bool,
    /// It counts against the congestion window. Every ack-eliciting packet does.
    pub in_flight: bool,
    /// It left with ECT(0).
    pub ect0: bool,
    /// It probes a size: its loss says nothing about congestion.
    pub probe_size: bool,
    /// What it carried.
    pub record: T,
}

/// Why a packet counts as lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Enough later packets of its path were acknowledged.
    Packets,
    /// A later packet was acknowledged and it is too old.
    Time,
    /// Its path is gone.
    PathGone,
    /// The association starts afresh.
    Drained,
}

/// What became of a packet. Each tracked packet gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrived.
    Acked,
    /// It counts as lost.
    Lost(Loss),
}

/// The peer acknowledged a packet that was never sent: a breach of protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("packet {0} was acknowledged but never sent")]
pub struct AckedUnsent(pub u64);

/// What an acknowledgement brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AckSummary {
    /// Packets acknowledged for the first time.
    pub packets: u64,
    /// Bytes of those that were in flight.
    pub bytes: u64,
    /// Whether one of them was ack-eliciting.
    pub eliciting: bool,
    /// Packets declared lost.
    pub lost: u64,
    /// Packets that had been declared lost and arrived after all.
    pub spurious: u64,
    /// New CE marks reported.
    pub ce: u64,
    /// The path that gave an RTT sample.
    pub sampled: Option<u32>,
}

/// What a timeout asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Timeout {
    /// Nothing was due.
    Nothing,
    /// Packets were declared lost; the sink has them.
    Lost,
    /// Send one or two ack-eliciting packets on `path`, new or old data or a ping; the window does not
    /// hold them back.
    Probe {
        /// The path.
        path: u32,
        /// Probe timeouts in a row, this one included.
        count: u32,
    },
}

#[derive(Debug)]
struct Entry<T> {
    number: u64,
    sequence: u64,
    /// `None` once its fate is known.
    sent: Option<Sent<T>>,
}

/// The packets of one association that are neither acknowledged nor lost.
#[derive(Debug)]
pub struct Recovery<T> {
    next: u64,
    /// In order of number. Settled ones stay as holes until they are at the front or too many.
    entries: VecDeque<Entry<T>>,
    live: usize,
    ecn: EcnCounts,
}

impl<T> Default for Recovery<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Recovery<T> {
    /// Nothing sent; the first number is 0.
    pub const fn new() -> Self {
        Self { next: 0, entries: VecDeque::new(), live: 0, ecn: EcnCounts { ect0: 0, ect1: 0, ce: 0 } }
    }

    /// Takes the next packet number. A number that is taken but not sent is never used again.
    pub fn next_number(&mut self) -> u64 {
        let n = self.next;
        self.next = self.next.saturating_add(1);
        n
    }

    /// Numbers taken so far.
    pub const fn peek_number(&self) -> u64 {
        self.next
    }

    /// A packet left. Gives it back if it is not tracked: it elicits nothing and too many such wait.
    pub fn on_sent(&mut self, sent: Sent<T>, path: &mut PathRecovery) -> Option<Sent<T>> {
        let _ = (path, &self.entries, &self.ecn);
        Some(sent)
    }

    /// Processes an acknowledgement.
    pub fn on_ack(
        &mut self,
        _now: Instant,
        ack: &AckView<'_>,
        _paths: &mut [PathRecovery],
        _sink: &mut dyn FnMut(Fate, Sent<T>),
    ) -> Result<AckSummary, AckedUnsent> {
        Err(AckedUnsent(ack.largest()))
    }

    /// Acts on what is due. Call again while `poll_timeout` names a time that has come.
    pub fn handle_timeout(
        &mut self,
        _now: Instant,
        _paths: &mut [PathRecovery],
        _sink: &mut dyn FnMut(Fate, Sent<T>),
    ) -> Timeout {
        Timeout::Nothing
    }

    /// When [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self, paths: &[PathRecovery]) -> Option<(Instant, Reason)> {
        paths.iter().fold(None, |first, p| {
            let loss = p.loss_at.map(|at| (at, Reason::Loss));
            // A loss timer takes the place of the probe timer (RFC 9002 section 6.2.1).
            earlier(first, loss.or_else(|| p.probe_at().map(|at| (at, Reason::Probe))))
        })
    }

    /// The path `id` is no more: everything on it is lost. Does not touch any [`PathRecovery`].
    pub fn path_gone(&mut self, _id: u32, _sink: &mut dyn FnMut(Fate, Sent<T>)) {}

    /// Packets of path `from` count as of path `to`: only its port changed.
    pub fn rename_path(&mut self, from: u32, to: u32) {
        for sent in self.entries.iter_mut().filter_map(|e| e.sent.as_mut()) {
            if sent.path == from {
                sent.path = to;
            }
        }
    }

    /// Everything is lost: the association starts afresh. Numbers go on.
    pub fn drain_all(&mut self, _paths: &mut [PathRecovery], _sink: &mut dyn FnMut(Fate, Sent<T>)) {}

    /// Packets whose fate is open.
    pub const fn unacked(&self) -> usize {
        self.live
    }

    /// Whether only acknowledgements and probes should still be sent.
    pub const fn is_full(&self) -> bool {
        self.live >= MAX_TRACKED
    }

    /// Whether the next packet should carry a ping, since many in a row elicited nothing.
    pub const fn wants_ping(&self) -> bool {
        false
    }
}
