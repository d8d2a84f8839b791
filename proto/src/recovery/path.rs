//! What one path knows about itself: round-trip time, congestion, pacing, ECN, timers.

use alloc::boxed::Box;

use serde::{Deserialize, Serialize};

use super::sent::Sent;
use super::tracker::ACK_EVERY;
use crate::congestion::{Acked, Algorithm, Congestion, Controller, MAX_ACK_DELAY, Pacer, Rate, Rtt, Signal};
use crate::time::{Duration, Instant, nanos};

/// Packets that must be acknowledged after one before it counts as lost, at first (RFC 9002 section 6.1.1).
pub(super) const PACKET_THRESHOLD: u64 = 3;
/// Reordering moves the packet threshold up to this.
pub(super) const MAX_PACKET_THRESHOLD: u64 = 64;
/// The time threshold in eighths of a round trip, at first (RFC 9002 section 6.1.2).
pub(super) const TIME_EIGHTHS: u32 = 9;
/// Reordering moves the time threshold up to two round trips.
pub(super) const MAX_TIME_EIGHTHS: u32 = 16;
/// After this many reductions without a spurious loss the thresholds shrink again (as in RFC 8985).
const CALM: u32 = 16;
/// Probe timeouts never grow beyond this; liveness gives up long before.
const MAX_PTO: Duration = Duration::from_secs(60);
/// A window below this many packets asks for acknowledgements; a larger one gets several per round trip
/// anyway, one for every [`ACK_EVERY`] packets.
const ASK_BELOW: u64 = 4 * ACK_EVERY as u64;
/// Such a window asks for this many acknowledgements per round trip.
const ASKS: u64 = 4;
/// Marked packets sent and lost, with none acknowledged, before a path counts as eating them.
const ECN_TESTS: u64 = 10;

/// Why nothing may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The congestion window is full; an acknowledgement or a loss opens it.
    Window,
    /// The pacer: ask again then.
    Pacing(Instant),
}

/// Whether ECN works on a path (RFC 9000 section 13.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EcnState {
    /// Packets are marked ECT(0); nothing known yet.
    Testing,
    /// Marks arrive and are reported.
    Capable,
    /// Marks are lost, changed or not reported: packets leave unmarked.
    Failed,
}

/// Recovery state of one path.
#[derive(Debug)]
pub struct PathRecovery {
    /// The number that sent packets carry.
    pub id: u32,
    /// Round-trip time.
    pub rtt: Rtt,
    /// Probe packets that may leave although the window is full; one fewer with each eliciting packet.
    pub probes: u8,
    pub(super) congestion: Box<dyn Controller>,
    pub(super) pacer: Pacer,
    pub(super) mtu: u16,
    pub(super) in_flight: u64,
    pub(super) eliciting: u64,
    pub(super) next_sequence: u64,
    /// Sequence and packet number of the newest packet acknowledged.
    pub(super) largest_acked: Option<(u64, u64)>,
    pub(super) loss_at: Option<Instant>,
    /// When the probe timeout began to count.
    pub(super) probe_from: Instant,
    pub(super) pto_count: u32,
    pub(super) first_sample_at: Option<Instant>,
    pub(super) packet_threshold: u64,
    pub(super) time_eighths: u32,
    pub(super) calm: u32,
    pub(super) ecn: EcnState,
    pub(super) ecn_lost: u64,
    /// The window was used in this round, and in the one before.
    pub(super) used: (bool, bool),
    /// The most that was in flight in this round, and in the one before.
    pub(super) peak: (u64, u64),
    pub(super) round_end: u64,
    pub(super) lost: u64,
    pub(super) lost_total: u64,
    pub(super) spurious: u64,
    /// Bytes sent since the peer was asked for an acknowledgement.
    unasked: u64,
    /// The newest eliciting packet asked for one.
    asked: bool,
    /// Scratch of one acknowledgement or timeout; see `sent.rs`.
    pub(super) tally: Tally,
}

/// What one acknowledgement or timeout did to a path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub prior_in_flight: u64,
    pub acked: u64,
    pub acked_bytes: u64,
    pub acked_eliciting: bool,
    /// When the newest packet acknowledged was sent.
    pub newest: Option<Instant>,
    pub sampled: bool,
    pub ce: bool,
    pub lost_bytes: u64,
    pub lost_sent_at: Option<Instant>,
    pub persistent: bool,
    /// Run of lost packets without one acknowledged between: (next sequence, sent at).
    pub run: Option<(u64, Instant)>,
}

impl PathRecovery {
    /// A path without history. `mtu` is its largest datagram in bytes.
    pub fn new(id: u32, now: Instant, mtu: u16, algorithm: Algorithm) -> Self {
        Self {
            id,
            rtt: Rtt::new(),
            probes: 0,
            congestion: algorithm.build(mtu),
            pacer: Pacer::new(now),
            mtu,
            in_flight: 0,
            eliciting: 0,
            next_sequence: 0,
            largest_acked: None,
            loss_at: None,
            probe_from: now,
            pto_count: 0,
            first_sample_at: None,
            packet_threshold: PACKET_THRESHOLD,
            time_eighths: TIME_EIGHTHS,
            calm: 0,
            ecn: EcnState::Testing,
            ecn_lost: 0,
            used: (false, false),
            peak: (0, 0),
            round_end: 0,
            lost: 0,
            lost_total: 0,
            spurious: 0,
            unasked: 0,
            asked: false,
            tally: Tally::default(),
        }
    }

    /// Reads a word of every part, to have it fetched.
    pub(crate) fn warm(&self) -> u64 {
        let parts = [
            nanos(self.rtt.smoothed()),
            self.in_flight,
            self.next_sequence,
            self.probe_from.as_nanos(),
            self.packet_threshold,
            self.peak.0,
            self.round_end,
            self.lost_total,
            self.unasked,
            self.tally.acked,
            self.tally.lost_bytes,
            u64::from(self.mtu),
            self.congestion.window(),
            u64::from(self.congestion.in_slow_start()),
        ];
        parts.into_iter().fold(0, u64::wrapping_add)
    }

    /// Bytes that it holds now.
    pub fn footprint(&self) -> u64 {
        (size_of::<Self>() + size_of_val(&*self.congestion)) as u64
    }

    /// Whether a datagram of `bytes` that counts as in flight may leave now. Probes always may.
    pub fn may_send(&mut self, now: Instant, bytes: u64) -> Result<(), Blocked> {
        if self.probes > 0 {
            return Ok(());
        }
        if self.in_flight.saturating_add(bytes) > self.congestion.window() {
            self.used.0 = true;
            return Err(Blocked::Window);
        }
        self.budget(now).map(|_| ())
    }

    /// Bytes that may leave in one burst now, at least one datagram: bounded by window and pacer.
    pub fn budget(&mut self, now: Instant) -> Result<u64, Blocked> {
        let mtu = u64::from(self.mtu);
        let room = self.congestion.window().saturating_sub(self.in_flight);
        if room < mtu && self.probes == 0 {
            self.used.0 = true;
            return Err(Blocked::Window);
        }
        let paced = match self.pacer.release(now, self.rate(), self.mtu) {
            Ok(bytes) => bytes,
            Err(_) if self.probes > 0 => mtu,
            Err(at) => return Err(Blocked::Pacing(at)),
        };
        Ok(paced.min(room.max(u64::from(self.probes) * mtu)))
    }

    /// Whether the ack-eliciting packet of `bytes` that leaves next should ask for an acknowledgement at
    /// once. Call once for each. `docs/protocol/recovery.md` says why and when.
    pub fn asks(&mut self, bytes: u64) -> bool {
        let (mtu, window) = (u64::from(self.mtu), self.congestion.window());
        let in_flight = self.in_flight.saturating_add(bytes);
        self.unasked = self.unasked.saturating_add(bytes);
        let scarce = window < ASK_BELOW * mtu && in_flight.saturating_mul(2) >= window;
        let last = in_flight.saturating_add(mtu) > window;
        let share = if last { 0 } else { window / ASKS }.max(2 * mtu);
        self.asked = self.probes > 0 || scarce && self.unasked >= share;
        if self.asked {
            self.unasked = 0;
        }
        self.asked
    }

    /// The pacing rate.
    pub fn rate(&self) -> Rate {
        Rate::new(self.congestion.window(), &self.rtt, self.congestion.in_slow_start())
    }

    /// Bytes in flight.
    pub const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Ack-eliciting packets in flight.
    pub const fn eliciting_in_flight(&self) -> u64 {
        self.eliciting
    }

    /// The congestion window in bytes.
    pub fn window(&self) -> u64 {
        self.congestion.window()
    }

    /// The controller, for reports.
    pub fn controller(&self) -> &dyn Controller {
        &*self.congestion
    }

    /// Probe timeouts since the last acknowledgement.
    pub const fn pto_count(&self) -> u32 {
        self.pto_count
    }

    /// The probe timeout without backoff: smoothed RTT, four variations, the peer's delay.
    pub fn pto(&self) -> Duration {
        self.rtt.pto_base(MAX_ACK_DELAY)
    }

    /// Packets declared lost, and how many of those were acknowledged later.
    pub const fn losses(&self) -> (u64, u64) {
        (self.lost, self.spurious)
    }

    /// Bytes of the packets declared lost.
    pub const fn lost_bytes(&self) -> u64 {
        self.lost_total
    }

    /// Packets sent here.
    pub const fn packets_sent(&self) -> u64 {
        self.next_sequence
    }

    /// Whether packets should leave with ECT(0).
    pub fn mark_ect0(&self) -> bool {
        self.ecn != EcnState::Failed
    }

    /// What is known about ECN here.
    pub const fn ecn(&self) -> EcnState {
        self.ecn
    }

    /// Stops marking, for example because the socket cannot.
    pub fn disable_ecn(&mut self) {
        self.ecn = EcnState::Failed;
    }

    /// The largest datagram changed (a size probe was answered, or a black hole was found).
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.congestion.set_mtu(mtu);
    }

    /// The path leads elsewhere now: RTT, congestion, pacing and ECN start over. What is in flight
    /// stays counted until it is acknowledged or lost.
    pub fn reset(&mut self, now: Instant) {
        self.rtt = Rtt::new();
        self.congestion.reset();
        self.pacer = Pacer::new(now);
        self.first_sample_at = None;
        self.pto_count = 0;
        self.ecn = EcnState::Testing;
        self.ecn_lost = 0;
        self.packet_threshold = PACKET_THRESHOLD;
        self.time_eighths = TIME_EIGHTHS;
        self.used = (false, false);
        self.peak = (self.in_flight, 0);
        if self.eliciting > 0 {
            self.probe_from = self.probe_from.max(now);
        }
    }

    /// When the probe timeout fires, if anything waits for an acknowledgement.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        (self.eliciting > 0).then(|| {
            // Who was asked does not wait.
            let delay = if self.asked { Duration::ZERO } else { MAX_ACK_DELAY };
            let pto = self
                .rtt
                .pto_base(delay)
                .min(MAX_PTO)
                .saturating_mul(1 << self.pto_count.min(16))
                .min(MAX_PTO);
            self.probe_from + pto
        })
    }

    /// How long after sending a packet counts as lost once a later one is acknowledged.
    pub(super) fn loss_delay(&self) -> Duration {
        let rtt = self.rtt.smoothed().max(self.rtt.latest());
        (rtt.saturating_mul(self.time_eighths) / 8).max(crate::congestion::GRANULARITY)
    }

    /// RFC 9002 section 7.6.1.
    pub(super) fn persistent_after(&self) -> Duration {
        self.pto().saturating_mul(3)
    }

    /// The window counts as used if it was nearly full in this round or the last. In slow start it never
    /// runs ahead of twice what is in flight, whatever was used a round ago.
    fn app_limited(&self) -> bool {
        let ahead = self.congestion.in_slow_start()
            && self.tally.prior_in_flight.saturating_mul(2) < self.congestion.window();
        ahead || !(self.used.0 || self.used.1)
    }

    pub(super) fn note_sent(&mut self) {
        self.peak.0 = self.peak.0.max(self.in_flight);
        let window = self.congestion.window();
        let mtu = u64::from(self.mtu);
        let enough =
            if self.congestion.in_slow_start() { window / 2 } else { window - (window / 8).max(mtu) };
        if self.in_flight >= enough {
            self.used.0 = true;
        }
    }

    fn ecn_marked_lost(&mut self) {
        if self.ecn == EcnState::Testing {
            self.ecn_lost += 1;
            if self.ecn_lost >= ECN_TESTS {
                self.ecn = EcnState::Failed;
            }
        }
    }

    /// A packet declared lost was acknowledged: it had been overtaken by `distance` packets, and took
    /// `took` from sending to acknowledgement.
    pub(super) fn note_spurious(&mut self, distance: u64, took: Duration) {
        self.spurious += 1;
        self.calm = 0;
        let wanted = distance.saturating_add(1).min(MAX_PACKET_THRESHOLD);
        self.packet_threshold = self.packet_threshold.max(wanted);
        if nanos(took) > nanos(self.loss_delay()) {
            self.time_eighths = (self.time_eighths + 1).min(MAX_TIME_EIGHTHS);
        }
    }

    fn note_reduction(&mut self) {
        self.calm += 1;
        if self.calm >= CALM {
            self.calm = 0;
            self.packet_threshold = (self.packet_threshold / 2).max(PACKET_THRESHOLD);
            self.time_eighths = (self.time_eighths - 1).max(TIME_EIGHTHS);
        }
    }

    /// The packet is no longer in flight.
    pub(super) fn take_off(&mut self, sent: &Sent<impl Sized>) {
        if sent.in_flight {
            self.in_flight = self.in_flight.saturating_sub(u64::from(sent.bytes));
        }
        if sent.ack_eliciting {
            self.eliciting = self.eliciting.saturating_sub(1);
        }
    }

    pub(super) fn on_acked(&mut self, now: Instant, sequence: u64, sent: &Sent<impl Sized>) {
        self.tally.newest = self.tally.newest.max(Some(sent.at));
        let bytes = u64::from(sent.bytes);
        self.tally.acked_bytes += bytes;
        let acked = Acked { sequence, sent_at: sent.at, bytes, app_limited: self.app_limited() };
        self.congestion.on_ack(now, &acked, &self.rtt);
    }

    pub(super) fn on_lost(&mut self, sequence: u64, sent: &Sent<impl Sized>) {
        let persistent_after = self.persistent_after();
        let first_sample_at = self.first_sample_at;
        self.lost += 1;
        self.lost_total += u64::from(sent.bytes);
        if !sent.in_flight {
            // Says nothing, but does not break a run of losses.
            if let Some((next, _)) = &mut self.tally.run {
                *next += u64::from(*next == sequence);
            }
            return;
        }
        if sent.probe_size {
            return;
        }
        if sent.ect0 {
            self.ecn_marked_lost();
        }
        let t = &mut self.tally;
        t.lost_bytes += u64::from(sent.bytes);
        t.lost_sent_at = t.lost_sent_at.max(Some(sent.at));
        // Persistent congestion: an unbroken run of losses, all sent after the first RTT sample.
        if sent.ack_eliciting && first_sample_at.is_some_and(|at| sent.at > at) {
            let start = match t.run {
                Some((next, start)) if next == sequence => start,
                _ => sent.at,
            };
            t.run = Some((sequence + 1, start));
            t.persistent |= sent.at.since(start) > persistent_after;
        }
    }

    /// The acknowledgement or timeout is processed: tells the controller.
    pub(super) fn finish(&mut self, now: Instant) {
        let t = core::mem::take(&mut self.tally);
        if t.acked_eliciting {
            self.pto_count = 0;
            self.probes = 0;
        }
        if let Some(sent_at) = t.lost_sent_at {
            let signal = if t.persistent { Signal::Persistent } else { Signal::Loss };
            self.reduce(
                now,
                Congestion {
                    signal,
                    sent_at,
                    lost_bytes: t.lost_bytes,
                    peak_in_flight: self.peak.0.max(self.peak.1),
                    prior_in_flight: t.prior_in_flight,
                    acked_bytes: t.acked_bytes,
                },
            );
        }
        if let Some(sent_at) = t.newest.filter(|_| t.ce) {
            let signal = Signal::Ecn;
            self.reduce(
                now,
                Congestion {
                    signal,
                    sent_at,
                    lost_bytes: 0,
                    peak_in_flight: self.peak.0.max(self.peak.1),
                    prior_in_flight: t.prior_in_flight,
                    acked_bytes: t.acked_bytes,
                },
            );
        }
        if t.acked == 0 && t.lost_sent_at.is_none() {
            return;
        }
        self.congestion.on_ack_done(now, self.in_flight, t.sampled, &self.rtt);
        if self.largest_acked.is_some_and(|(sequence, _)| sequence >= self.round_end) {
            self.round_end = self.next_sequence;
            self.used = (false, self.used.0);
            self.peak = (self.in_flight, self.peak.0);
        }
    }

    fn reduce(&mut self, now: Instant, event: Congestion) {
        let before = self.congestion.window();
        self.congestion.on_congestion(now, &event);
        if self.congestion.window() < before {
            self.note_reduction();
        }
    }
}
