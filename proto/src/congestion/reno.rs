//! NewReno after RFC 9002 section 7, with HyStart++ and PRR: the yardstick of the fairness tests.

use super::hystart::HyStart;
use super::prr::Prr;
use super::{Acked, Congestion, Controller, MAX_WINDOW, MINIMUM_PACKETS, Rtt, Signal, initial_window};
use crate::time::Instant;

/// NewReno.
#[derive(Debug)]
pub struct Reno {
    mtu: u64,
    window: u64,
    ssthresh: u64,
    /// Bytes acknowledged towards the next datagram of growth.
    credit: u64,
    recovery_from: Option<Instant>,
    prr: Option<Prr>,
    hystart: HyStart,
    highest: u64,
}

impl Reno {
    /// Starts in slow start.
    pub fn new(mtu: u16) -> Self {
        Self {
            mtu: u64::from(mtu),
            window: initial_window(mtu),
            ssthresh: u64::MAX,
            credit: 0,
            recovery_from: None,
            prr: None,
            hystart: HyStart::default(),
            highest: 0,
        }
    }
}

impl Controller for Reno {
    fn on_sent(&mut self, _now: Instant, sequence: u64, bytes: u64, _in_flight: u64) {
        self.hystart.on_sent(sequence);
        if let Some(prr) = &mut self.prr {
            prr.on_sent(bytes);
        }
    }

    fn on_ack(&mut self, _now: Instant, acked: &Acked, _rtt: &Rtt) {
        self.highest = self.highest.max(acked.sequence);
        if let Some(prr) = &mut self.prr {
            prr.on_delivered(acked.bytes);
        }
        if self.recovery_from.is_some_and(|from| acked.sent_at <= from) {
            return;
        }
        self.prr = None;
        if acked.app_limited {
            return;
        }
        if self.window < self.ssthresh {
            self.window = self.window.saturating_add(self.hystart.growth(acked.bytes));
        } else {
            self.credit = self.credit.saturating_add(acked.bytes);
            if self.credit >= self.window {
                self.credit -= self.window;
                self.window += self.mtu;
            }
        }
        self.window = self.window.min(MAX_WINDOW);
    }

    fn on_congestion(&mut self, now: Instant, event: &Congestion) {
        if let Some(prr) = &mut self.prr {
            prr.on_lost();
        }
        let floor = MINIMUM_PACKETS * self.mtu;
        if self.recovery_from.is_none_or(|from| event.sent_at > from) {
            self.window = (event.used(self.window, self.mtu) / 2).max(floor);
            self.ssthresh = self.window;
            self.recovery_from = Some(now);
            self.credit = 0;
            self.prr = Some(Prr::new(self.ssthresh, event.prior_in_flight, event.acked_bytes));
        }
        if event.signal == Signal::Persistent {
            self.window = floor;
            self.recovery_from = None;
            self.prr = None;
        }
    }

    fn on_ack_done(&mut self, _now: Instant, in_flight: u64, sampled: bool, rtt: &Rtt) {
        if let Some(prr) = &mut self.prr {
            prr.done(in_flight, self.mtu);
        }
        if self.in_slow_start() && self.hystart.on_ack(self.highest, HyStart::sample(sampled, rtt)) {
            self.ssthresh = self.window;
        }
    }

    fn window(&self) -> u64 {
        self.prr.map_or(self.window, |prr| prr.window()).max(MINIMUM_PACKETS * self.mtu)
    }

    fn ssthresh(&self) -> u64 {
        self.ssthresh
    }

    fn in_slow_start(&self) -> bool {
        self.window < self.ssthresh
    }

    fn set_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.window = self.window.max(MINIMUM_PACKETS * self.mtu);
    }

    fn reset(&mut self) {
        *self = Self::new(u16::try_from(self.mtu).unwrap_or(u16::MAX));
    }

    fn name(&self) -> &'static str {
        "reno"
    }
}
