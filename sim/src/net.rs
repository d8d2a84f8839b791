//! Links: what the network between two nodes does to a datagram.
//!
//! A [`Link`] is one direction. Its decisions about the n-th datagram offered to it are keyed by
//! (seed, kind of fault, link, n), so they depend on nothing that other links do.

use std::ops::{Deref, DerefMut, Range};
use std::rc::Rc;

use net_proto::path::Ecn;
use net_proto::time::{Duration, nanos};

use crate::keyed::{Domain, below, chance, draw};

/// Bytes that IPv4 and UDP put around a datagram; they count against a link's rate.
pub const OVERHEAD: u64 = 28;

/// Losses that come in bursts: a chain of a good and a bad state (Gilbert and Elliott).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Chance per datagram to go from good to bad, in parts per million.
    pub enter: u32,
    /// Chance per datagram to go from bad to good, in parts per million.
    pub leave: u32,
    /// Loss in the bad state, in parts per million.
    pub loss: u32,
    /// The bad state ends at the latest after this: a sender that backs off sends too little to get
    /// through it by number alone.
    pub longest: Duration,
}

/// What a link does. All chances are in parts per million, per datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// Time from the end of sending to arrival.
    pub delay: Duration,
    /// Up to this is added to the delay; order is kept.
    pub jitter: Duration,
    /// Independent loss.
    pub loss: u32,
    /// Loss in bursts.
    pub burst: Option<Burst>,
    /// Ranges of datagram numbers (from zero) that are lost for certain.
    pub holes: Vec<Range<u64>>,
    /// Chance to be overtaken.
    pub reorder: u32,
    /// An overtaken datagram arrives up to this much later.
    pub reorder_by: Duration,
    /// Chance to arrive twice.
    pub duplicate: u32,
    /// Chance to arrive with one bit flipped.
    pub corrupt: u32,
    /// Chance to arrive without its end.
    pub truncate: u32,
    /// Largest datagram that passes, in bytes of UDP payload.
    pub mtu: usize,
    /// Chance that an ECN-capable datagram is marked.
    pub mark: u32,
    /// Whether ECN bits are cleared on the way.
    pub bleach: bool,
    /// Bits per second, headers included; `None` is without limit.
    pub rate: Option<u64>,
    /// Bytes that may wait for the rate; what comes on top is dropped.
    pub queue: u64,
    /// ECN-capable datagrams are marked while more bytes than this wait.
    pub mark_above: Option<u64>,
    /// Nothing passes.
    pub cut: bool,
    /// Nothing comes out before this world time, in nanoseconds; then all that was held does.
    pub clogged_until: u64,
}

impl Default for LinkConfig {
    /// 10 ms, and nothing goes wrong.
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss: 0,
            burst: None,
            holes: Vec::new(),
            reorder: 0,
            reorder_by: Duration::ZERO,
            duplicate: 0,
            corrupt: 0,
            truncate: 0,
            mtu: 1472,
            mark: 0,
            bleach: false,
            rate: None,
            queue: u64::MAX,
            mark_above: None,
            cut: false,
            clogged_until: 0,
        }
    }
}

impl LinkConfig {
    /// A link with a delay and nothing else.
    pub fn delay(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// Sets the independent loss.
    pub fn with_loss(mut self, ppm: u32) -> Self {
        self.loss = ppm;
        self
    }

    /// Adds a run of datagram numbers that are lost for certain.
    pub fn with_hole(mut self, numbers: Range<u64>) -> Self {
        self.holes.push(numbers);
        self
    }

    /// Sets rate in bits per second and queue in bytes.
    pub const fn with_rate(mut self, rate: u64, queue: u64) -> Self {
        self.rate = Some(rate);
        self.queue = queue;
        self
    }
}

/// A configuration that many links share until one of them is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared(Rc<LinkConfig>);

impl From<LinkConfig> for Shared {
    fn from(config: LinkConfig) -> Self {
        Self(Rc::new(config))
    }
}

impl Deref for Shared {
    type Target = LinkConfig;

    fn deref(&self) -> &LinkConfig {
        &self.0
    }
}

impl DerefMut for Shared {
    fn deref_mut(&mut self) -> &mut LinkConfig {
        Rc::make_mut(&mut self.0)
    }
}

/// What links did to datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Offered.
    pub offered: u64,
    /// Bytes of UDP payload offered.
    pub bytes: u64,
    /// Arrivals caused, copies included.
    pub delivered: u64,
    /// Lost by chance, burst or hole.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub overflow: u64,
    /// Dropped because they were too large.
    pub too_large: u64,
    /// Dropped because the link was cut.
    pub cut: u64,
    /// Arrived a second time.
    pub duplicated: u64,
    /// Arrived late on purpose.
    pub reordered: u64,
    /// Arrived damaged.
    pub corrupted: u64,
    /// Arrived without their end.
    pub truncated: u64,
    /// Marked with CE.
    pub marked: u64,
}

impl LinkStats {
    /// Adds another link's figures.
    pub fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.bytes += other.bytes;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.overflow += other.overflow;
        self.too_large += other.too_large;
        self.cut += other.cut;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.truncated += other.truncated;
        self.marked += other.marked;
    }
}

/// What a hook decides about a datagram, before the link's own faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The link decides.
    Pass,
    /// Lost.
    Drop,
    /// Arrives this much later, and may be overtaken.
    Late(Duration),
    /// Arrives twice.
    Twice,
}

/// Sees the number of a datagram on its link and its bytes, which it may change.
pub type Hook = Box<dyn FnMut(u64, &mut Vec<u8>) -> Fate>;

/// One arrival of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When, in nanoseconds of the world.
    pub at: u64,
    /// The ECN bits that are left.
    pub ecn: Ecn,
    /// A bit to flip.
    pub flip: Option<usize>,
    /// Bytes that are left, if not all.
    pub cut_to: Option<usize>,
}

/// One direction of a connection between two places. In this order: all that a usual datagram needs lies
/// in two lines of a cache.
#[repr(C, align(64))]
pub struct Link {
    /// What it does. May be changed at any time.
    pub config: Shared,
    /// Decides before the link does.
    pub hook: Option<Hook>,
    key: u64,
    /// Since when the bad state lasts.
    bad: Option<u64>,
    busy_until: u64,
    last_arrival: u64,
    /// What it did.
    pub stats: LinkStats,
}

impl Link {
    /// A link whose decisions are keyed by `key`.
    pub fn new(key: u64, config: impl Into<Shared>) -> Self {
        Self {
            config: config.into(),
            hook: None,
            key,
            bad: None,
            busy_until: 0,
            last_arrival: 0,
            stats: LinkStats::default(),
        }
    }

    /// Bytes that wait for the rate at `now`.
    pub fn backlog(&self, now: u64) -> u64 {
        let rate = self.config.rate.unwrap_or(u64::MAX);
        let wait = u128::from(self.busy_until.saturating_sub(now));
        (wait * u128::from(rate) / 8_000_000_000) as u64
    }

    /// A datagram enters at `now`. Zero, one or two arrivals come out.
    pub fn offer(&mut self, seed: u64, now: u64, data: &mut Vec<u8>, ecn: Ecn) -> [Option<Arrival>; 2] {
        let n = self.stats.offered;
        self.stats.offered += 1;
        self.stats.bytes += data.len() as u64;
        let key = self.key;
        let roll = |domain| draw(seed, domain, key, n);
        // Most chances of most links are none, and need no draw.
        let happens = |domain, ppm| ppm > 0 && chance(roll(domain), ppm);
        let fate = self.hook.as_mut().map_or(Fate::Pass, |hook| hook(n, data));
        let c = &self.config;
        if c.cut {
            self.stats.cut += 1;
            return [None; 2];
        }
        if data.len() > c.mtu {
            self.stats.too_large += 1;
            return [None; 2];
        }
        if let Some(burst) = c.burst {
            if self.bad.is_some_and(|since| now - since > nanos(burst.longest)) {
                self.bad = None;
            }
            let turn = if self.bad.is_some() { burst.leave } else { burst.enter };
            if happens(Domain::Burst, turn) {
                self.bad = if self.bad.is_some() { None } else { Some(now) };
            }
        }
        let bad = self.bad.is_some();
        let burst_loss = bad && c.burst.is_some_and(|b| happens(Domain::BurstLoss, b.loss));
        if fate == Fate::Drop
            || burst_loss
            || c.holes.iter().any(|hole| hole.contains(&n))
            || happens(Domain::Loss, c.loss)
        {
            self.stats.lost += 1;
            return [None; 2];
        }
        let mut ecn = ecn;
        let mut leaves = now;
        if let Some(rate) = c.rate {
            let size = data.len() as u64 + OVERHEAD;
            let backlog = self.backlog(now);
            if backlog + size > c.queue {
                self.stats.overflow += 1;
                return [None; 2];
            }
            if ecn != Ecn::NotEct && c.mark_above.is_some_and(|above| backlog > above) {
                ecn = Ecn::Ce;
                self.stats.marked += 1;
            }
            leaves = self.busy_until.max(now) + (size * 8_000_000_000).div_ceil(rate.max(1));
            self.busy_until = leaves;
        }
        if ecn != Ecn::NotEct && ecn != Ecn::Ce && happens(Domain::Mark, c.mark) {
            ecn = Ecn::Ce;
            self.stats.marked += 1;
        }
        if c.bleach {
            ecn = Ecn::NotEct;
        }
        let jitter = nanos(c.jitter);
        let mut at = leaves + nanos(c.delay);
        if jitter > 0 {
            at += below(roll(Domain::Jitter), jitter + 1);
        }
        let late = match fate {
            Fate::Late(by) => Some(nanos(by)),
            _ if happens(Domain::Reorder, c.reorder) => {
                Some(1 + below(mixed(roll(Domain::Reorder)), nanos(c.reorder_by)))
            }
            _ => None,
        };
        // Jitter alone keeps order, as a queue does; only a datagram chosen to be late is overtaken.
        at = at.max(self.last_arrival).max(c.clogged_until);
        match late {
            Some(by) => {
                at += by;
                self.stats.reordered += 1;
            }
            None => self.last_arrival = at,
        }
        let mut arrival = Arrival { at, ecn, flip: None, cut_to: None };
        if !data.is_empty() && happens(Domain::Corrupt, c.corrupt) {
            arrival.flip = Some(below(roll(Domain::CorruptBit), data.len() as u64 * 8) as usize);
            self.stats.corrupted += 1;
        }
        if happens(Domain::Truncate, c.truncate) {
            arrival.cut_to = Some(below(roll(Domain::TruncateLength), data.len() as u64) as usize);
            self.stats.truncated += 1;
        }
        self.stats.delivered += 1;
        let copy = fate == Fate::Twice || happens(Domain::Duplicate, c.duplicate);
        if !copy {
            return [Some(arrival), None];
        }
        self.stats.delivered += 1;
        self.stats.duplicated += 1;
        let later = at + below(mixed(roll(Domain::Duplicate)), nanos(c.delay) + 1);
        // The copy is whole: damage happens to one of the two.
        [Some(arrival), Some(Arrival { at: later, ecn, flip: None, cut_to: None })]
    }
}

/// A second draw from a draw that already decided whether.
const fn mixed(draw: u64) -> u64 {
    crate::keyed::mix(draw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(config: LinkConfig, count: u64, gap: u64, size: usize) -> (Vec<Vec<u64>>, LinkStats) {
        let mut link = Link::new(9, config);
        let arrivals = (0..count)
            .map(|i| {
                let out = link.offer(1, i * gap, &mut vec![0; size], Ecn::Ect0);
                out.iter().flatten().map(|a| a.at).collect()
            })
            .collect();
        (arrivals, link.stats)
    }

    #[test]
    fn a_plain_link_only_delays() {
        let (arrivals, stats) = run(LinkConfig::default(), 100, 5, 100);
        assert!(arrivals.iter().enumerate().all(|(i, a)| *a == [i as u64 * 5 + 10_000_000]));
        assert_eq!((stats.delivered, stats.lost), (100, 0));
    }

    #[test]
    fn loss_and_duplication_happen_as_often_as_configured() {
        let config = LinkConfig { loss: 50_000, duplicate: 100_000, ..LinkConfig::default() };
        let (_, stats) = run(config, 100_000, 5, 100);
        assert!((4_700..5_300).contains(&stats.lost), "{stats:?}");
        assert!((9_100..9_900).contains(&stats.duplicated), "{stats:?}");
    }

    #[test]
    fn bursts_are_bursts() {
        let burst = Burst { enter: 1_000, leave: 20_000, loss: 1_000_000, longest: Duration::from_secs(1) };
        let (arrivals, stats) =
            run(LinkConfig { burst: Some(burst), ..LinkConfig::default() }, 100_000, 5, 100);
        let runs = arrivals.windows(2).filter(|w| !w[0].is_empty() && w[1].is_empty()).count() as u64;
        let mean = stats.lost / runs;
        assert!((40..60).contains(&mean), "mean burst of {mean} datagrams");
    }

    #[test]
    fn jitter_keeps_order_and_reordering_breaks_it() {
        let jitter = LinkConfig { jitter: Duration::from_millis(5), ..LinkConfig::default() };
        let (arrivals, _) = run(jitter, 1_000, 1_000, 100);
        assert!(arrivals.concat().is_sorted());
        let config =
            LinkConfig { reorder: 100_000, reorder_by: Duration::from_millis(5), ..LinkConfig::default() };
        let (arrivals, stats) = run(config, 1_000, 1_000, 100);
        assert!(!arrivals.concat().is_sorted());
        assert!((70..130).contains(&stats.reordered));
    }

    #[test]
    fn a_rate_spaces_and_a_full_queue_drops() {
        // 1,000 bytes with overhead at 8 Mbit/s take one millisecond each.
        let config = LinkConfig::default().with_rate(8_000_000, 5_000);
        let (arrivals, stats) = run(config, 10, 0, 972);
        let at: Vec<u64> = arrivals.concat();
        assert_eq!(at, (1..=5).map(|i| 10_000_000 + i * 1_000_000).collect::<Vec<_>>());
        assert_eq!(stats.overflow, 5);
    }

    #[test]
    fn a_full_queue_marks_first_if_told() {
        let config =
            LinkConfig { mark_above: Some(1_500), ..LinkConfig::default().with_rate(8_000_000, 5_000) };
        let (_, stats) = run(config, 5, 0, 972);
        assert_eq!(stats.marked, 3);
    }

    #[test]
    fn damage_size_cuts_and_holes_do_what_they_say() {
        let one = |config, ecn| {
            let [first, second] = Link::new(9, config).offer(1, 0, &mut vec![0; 1_200], ecn);
            assert!(second.is_none());
            first
        };
        let plain = LinkConfig::default;
        let bit = one(LinkConfig { corrupt: 1_000_000, ..plain() }, Ecn::NotEct).unwrap().flip.unwrap();
        assert!(bit < 1_200 * 8);
        let left = one(LinkConfig { truncate: 1_000_000, ..plain() }, Ecn::NotEct).unwrap().cut_to.unwrap();
        assert!(left < 1_200);
        assert!(one(LinkConfig { mtu: 1_199, ..plain() }, Ecn::NotEct).is_none());
        assert!(one(LinkConfig { mtu: 1_200, ..plain() }, Ecn::NotEct).is_some());
        assert!(one(LinkConfig { cut: true, ..plain() }, Ecn::NotEct).is_none());
        assert!(one(plain().with_hole(0..1), Ecn::NotEct).is_none());
        assert!(one(plain().with_hole(1..9), Ecn::NotEct).is_some());
        let held = one(LinkConfig { clogged_until: 70_000_000, ..plain() }, Ecn::NotEct).unwrap();
        assert_eq!(held.at, 70_000_000);
    }

    #[test]
    fn marks_are_set_where_ecn_is_spoken_and_bleached_everywhere() {
        let through = |mark, bleach, ecn| {
            let config = LinkConfig { mark, bleach, ..LinkConfig::default() };
            Link::new(9, config).offer(1, 0, &mut vec![0; 100], ecn)[0].unwrap().ecn
        };
        assert_eq!(through(1_000_000, false, Ecn::Ect0), Ecn::Ce);
        assert_eq!(through(1_000_000, false, Ecn::NotEct), Ecn::NotEct);
        assert_eq!(through(0, false, Ecn::Ect0), Ecn::Ect0);
        assert_eq!(through(0, true, Ecn::Ce), Ecn::NotEct);
        assert_eq!(through(1_000_000, true, Ecn::Ect0), Ecn::NotEct);
    }

    #[test]
    fn other_faults_do_not_move_the_decisions() {
        let lost = |duplicate| {
            let config = LinkConfig { loss: 100_000, duplicate, ..LinkConfig::default() };
            run(config, 1_000, 5, 100).0.iter().map(|a| a.is_empty()).collect::<Vec<_>>()
        };
        assert_eq!(lost(0), lost(300_000));
    }
}
