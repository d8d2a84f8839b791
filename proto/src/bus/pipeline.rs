//! The way of one shard's events to an engine: batches under way, acknowledged in order, resumed
//! from the first unacknowledged event.
//!
//! ```text
//!        open            opened                 ended with Shutdown or Config
//! Down ───────▶ Opening ────────▶ Up ─────────────────────────▶ Over
//!  ▲               │               │
//!  └── failed ─────┴─── failed ────┘   (pause: 100 ms doubling to 3.2 s, a quarter more or less)
//! ```
//!
//! Events leave the log only while the link is up and the window has room. What left it stays here
//! until it is acknowledged; when a link fails, all of it is sent again on the next one, under the
//! same names and in the same order, without what was acknowledged. Nothing is sent past a gap.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

use super::batch::{BatchConfig, Batcher, Due};
use super::log::{Event, Slice};
use crate::entropy::Entropy;
use crate::time::{Duration, Instant, Reason, earlier};

/// First pause after a failure, in milliseconds; it doubles five times.
const PAUSE_MS: u64 = 100;
const DOUBLINGS: u32 = 5;

/// Bounds of a pipeline.
#[derive(Clone, Copy, Debug)]
pub struct PipelineConfig {
    /// How batches form.
    pub batch: BatchConfig,
    /// Most bytes of bodies in a batch; one event may exceed it.
    pub batch_bytes: u64,
    /// Most batches under way.
    pub window: usize,
}

/// Events that are sent together: next to each other in the log, without gaps.
#[derive(Clone, Debug)]
pub struct Flight {
    slices: VecDeque<Slice>,
    first: u64,
    end: u64,
}

impl Flight {
    /// Number of the first event.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// One more than the number of the last event.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Events in it.
    pub const fn len(&self) -> u64 {
        self.end - self.first
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.end == self.first
    }

    /// The events, with the slice whose memory holds each.
    pub fn events(&self) -> impl Iterator<Item = (&Slice, Event<'_>)> + '_ {
        self.slices.iter().flat_map(|slice| slice.iter().map(move |event| (slice, event)))
    }

    fn skip_to(&mut self, at: u64) {
        self.first = self.first.max(at.min(self.end));
        while self.slices.front().is_some_and(|s| s.end() <= self.first) {
            self.slices.pop_front();
        }
        if let Some(slice) = self.slices.front_mut() {
            slice.skip_to(self.first);
        }
    }
}

/// An acknowledgement of what was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("event {0} was acknowledged but not sent")]
pub struct BadAck(pub u64);

/// Where the link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// None; the next attempt comes after a pause.
    Down,
    /// One is being opened.
    Opening,
    /// Events may be sent.
    Up,
    /// None will be opened again.
    Over,
}

/// The machine.
pub struct Pipeline {
    config: PipelineConfig,
    batcher: Batcher,
    state: LinkState,
    /// Under way, in order; the first `sent` of them were sent on this link.
    flights: VecDeque<Flight>,
    sent: usize,
    /// Everything up to this number is acknowledged.
    acked: u64,
    /// When the next link may be opened.
    retry: Instant,
    failures: u32,
    resent: u64,
    entropy: Entropy,
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("state", &self.state)
            .field("acked", &self.acked)
            .finish_non_exhaustive()
    }
}

impl Pipeline {
    /// A pipeline whose log starts at number 1. `seed` only spreads pauses.
    pub fn new(config: PipelineConfig, now: Instant, seed: &[u8; 32]) -> Self {
        Self {
            batcher: Batcher::new(config.batch),
            config,
            state: LinkState::Down,
            flights: VecDeque::new(),
            sent: 0,
            acked: 0,
            retry: now,
            failures: 0,
            resent: 0,
            entropy: Entropy::new(seed, "bus pipeline"),
        }
    }

    /// Whether to open a link now. After true the caller opens one and reports
    /// [`Pipeline::handle_opened`] or [`Pipeline::handle_failed`].
    #[must_use]
    pub fn poll_open(&mut self, now: Instant) -> bool {
        if self.state != LinkState::Down || now < self.retry {
            return false;
        }
        self.state = LinkState::Opening;
        true
    }

    /// The link is open: everything unacknowledged is sent on it, from the first such event on.
    pub fn handle_opened(&mut self) {
        if self.state != LinkState::Opening {
            return;
        }
        self.state = LinkState::Up;
        self.resent += self.flights.iter().take(self.sent).map(Flight::len).sum::<u64>();
        self.sent = usize::from(planted!(ResumeSkips) && self.flights.len() > 1);
    }

    /// Opening failed, or the link did. `last`: it makes no sense to try again.
    pub fn handle_failed(&mut self, now: Instant, last: bool) {
        if self.state == LinkState::Over {
            return;
        }
        self.state = if last { LinkState::Over } else { LinkState::Down };
        let pause = PAUSE_MS << self.failures.min(DOUBLINGS);
        self.failures = self.failures.saturating_add(1);
        let spread = self.entropy.below(pause / 2 + 1);
        self.retry = now + Duration::from_millis(pause * 3 / 4 + spread);
    }

    /// How many events to take from the log, where `depth` wait. The caller hands them to
    /// [`Pipeline::handle_taken`].
    #[must_use]
    pub fn wants(&mut self, now: Instant, depth: u64) -> Option<(usize, u64)> {
        match self.due(now, depth) {
            Due::Now(events) => Some((events, self.config.batch_bytes)),
            _ => None,
        }
    }

    fn due(&mut self, now: Instant, depth: u64) -> Due {
        if self.state != LinkState::Up || self.flights.len() >= self.config.window.max(1) {
            return Due::Idle;
        }
        self.batcher.due(now, depth, self.flights.is_empty())
    }

    /// Events that were taken from the log, in order. A gap starts another batch.
    pub fn handle_taken(&mut self, now: Instant, slices: impl IntoIterator<Item = Slice>) {
        let mut events = 0;
        let mut flight: Option<Flight> = None;
        for slice in slices {
            if slice.is_empty() {
                continue;
            }
            events += slice.len() as u64;
            match &mut flight {
                Some(f) if f.end == slice.first() => {
                    f.end = slice.end();
                    f.slices.push_back(slice);
                }
                _ => {
                    let (first, end) = (slice.first(), slice.end());
                    let next = Flight { slices: VecDeque::from([slice]), first, end };
                    self.flights.extend(flight.replace(next));
                }
            }
        }
        self.flights.extend(flight);
        if events > 0 {
            self.batcher.formed(now, events);
        }
    }

    /// The next batch to send, in order. It counts as sent.
    #[must_use]
    pub fn poll_send(&mut self) -> Option<&Flight> {
        if self.state != LinkState::Up {
            return None;
        }
        let flight = self.flights.get(self.sent)?;
        self.sent += 1;
        Some(flight)
    }

    /// The engine has everything up to number `upto`. Answers how many events that are.
    pub fn handle_ack(&mut self, upto: u64) -> Result<u64, BadAck> {
        if upto <= self.acked {
            return Ok(0);
        }
        let sent = self
            .sent
            .checked_sub(1)
            .and_then(|last| self.flights.get(last))
            .map_or(self.acked + 1, |f| f.end);
        if upto >= sent {
            return Err(BadAck(upto));
        }
        self.acked = upto;
        self.failures = 0;
        let mut events = 0;
        while let Some(flight) = self.flights.front_mut() {
            let before = flight.len();
            flight.skip_to(upto + 1);
            events += before - flight.len();
            if !flight.is_empty() {
                break;
            }
            self.flights.pop_front();
            self.sent -= 1;
        }
        Ok(events)
    }

    /// When to call again: for the next link, or because events waited long enough.
    #[must_use]
    pub fn poll_timeout(&mut self, now: Instant, depth: u64) -> Option<(Instant, Reason)> {
        let retry = (self.state == LinkState::Down).then_some((self.retry, Reason::Redial));
        let batch = match self.due(now, depth) {
            Due::At(at) => Some((at, Reason::Plane)),
            Due::Now(_) => Some((now, Reason::Output)),
            Due::Idle => None,
        };
        earlier(retry, batch)
    }

    /// Where the link is.
    pub const fn state(&self) -> LinkState {
        self.state
    }

    /// Events that left the log and are not acknowledged.
    pub fn under_way(&self) -> u64 {
        self.flights.iter().map(Flight::len).sum()
    }

    /// Everything up to this number is acknowledged.
    pub const fn acked(&self) -> u64 {
        self.acked
    }

    /// Events that were sent again.
    pub const fn resent(&self) -> u64 {
        self.resent
    }

    /// Gives up what is under way; how many events that are.
    pub fn abandon(&mut self) -> u64 {
        let lost = self.under_way();
        self.state = LinkState::Over;
        self.sent = 0;
        self.flights = VecDeque::new();
        lost
    }

    /// Numbers of the events under way, for tests.
    pub fn numbers(&self) -> Vec<(u64, u64)> {
        self.flights.iter().map(|f| (f.first, f.end)).collect()
    }
}

#[cfg(test)]
mod tests;
