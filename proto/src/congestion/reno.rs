//! To be filled.

use super::{Acked, Congestion, Controller, MAX_WINDOW, Rtt, initial_window};
use crate::time::Instant;

/// Reno.
#[derive(Debug)]
pub struct Reno {
    mtu: u16,
    window: u64,
}

impl Reno {
    /// Starts in slow start.
    pub const fn new(mtu: u16) -> Self {
        Self { mtu, window: initial_window(mtu) }
    }
}

impl Controller for Reno {
    fn on_sent(&mut self, _now: Instant, _sequence: u64, _bytes: u64, _in_flight: u64) {}
    fn on_ack(&mut self, _now: Instant, acked: &Acked, _rtt: &Rtt) {
        self.window = MAX_WINDOW.min(self.window + acked.bytes);
    }
    fn on_congestion(&mut self, _now: Instant, _event: &Congestion) {
        self.window = (self.window / 2).max(u64::from(self.mtu) * 2);
    }
    fn on_ack_done(&mut self, _now: Instant, _in_flight: u64, _sampled: bool, _rtt: &Rtt) {}
    fn window(&self) -> u64 {
        self.window
    }
    fn ssthresh(&self) -> u64 {
        u64::MAX
    }
    fn in_slow_start(&self) -> bool {
        true
    }
    fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }
    fn reset(&mut self) {
        *self = Self::new(self.mtu);
    }
    fn name(&self) -> &'static str {
        "reno"
    }
}
