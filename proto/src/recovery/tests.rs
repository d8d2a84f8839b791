//! Scenarios of RFC 9002 by name, and the properties that hold for every history.

use super::*;
use crate::codec::{Reader, Wire, check_canonical};
use crate::congestion::Algorithm;
use crate::path::Ecn;
use crate::time::{Duration, Instant, Reason};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

fn ms(n: u64) -> Instant {
    Instant::from_nanos(n * 1_000_000)
}

fn path(id: u32) -> PathRecovery {
    PathRecovery::new(id, ms(0), 1200, Algorithm::Cubic)
}

fn packet(number: u64, at: Instant, ack_eliciting: bool) -> Sent<()> {
    let (path, bytes, in_flight) = (0, 1200, ack_eliciting);
    Sent { number, at, path, bytes, ack_eliciting, in_flight, ect0: false, probe_size: false, record: () }
}

/// A machine with one path and the fates that it told.
struct Rig {
    r: Recovery<()>,
    paths: Vec<PathRecovery>,
    fates: BTreeMap<u64, Fate>,
}

impl Rig {
    fn new() -> Self {
        Self { r: Recovery::new(), paths: [path(0)].into(), fates: BTreeMap::new() }
    }

    fn send(&mut self, at: u64) -> u64 {
        let n = self.r.next_number();
        assert!(self.r.on_sent(packet(n, ms(at), true), &mut self.paths[0]).is_none());
        n
    }

    fn ack_with(
        &mut self,
        at: u64,
        ranges: &[(u64, u64)],
        ecn: Option<EcnCounts>,
    ) -> Result<AckSummary, AckedUnsent> {
        let bytes = Ack { delay_us: 0, ranges: ranges.iter().map(|(a, b)| *a..=*b).collect(), ecn }.to_vec();
        let view = AckView::decode(&mut Reader::new(&bytes)).unwrap();
        let fates = &mut self.fates;
        self.r.on_ack(ms(at), &view, &mut self.paths, &mut |fate, sent| {
            assert!(fates.insert(sent.number, fate).is_none(), "two fates for {}", sent.number);
        })
    }

    fn ack(&mut self, at: u64, ranges: &[(u64, u64)]) -> AckSummary {
        self.ack_with(at, ranges, None).unwrap()
    }

    fn timeout(&mut self, at: Instant) -> Timeout {
        let fates = &mut self.fates;
        self.r.handle_timeout(at, &mut self.paths, &mut |fate, sent| {
            assert!(fates.insert(sent.number, fate).is_none());
        })
    }
}

#[test]
fn packet_threshold_three_packets_later_is_lost() {
    let mut rig = Rig::new();
    for _ in 0..5 {
        rig.send(0);
    }
    rig.ack(40, &[(2, 2)]);
    assert_eq!(rig.fates.get(&0), None);
    rig.ack(40, &[(2, 3)]);
    assert_eq!(rig.fates.get(&0), Some(&Fate::Lost(Loss::Packets)));
    assert_eq!(rig.fates.get(&1), None);
    assert_eq!(rig.paths[0].in_flight(), 2 * 1200);
}

#[test]
fn time_threshold_nine_eighths_of_a_round_trip() {
    let mut rig = Rig::new();
    rig.send(0);
    rig.send(0);
    rig.ack(40, &[(1, 1)]);
    assert_eq!(rig.r.poll_timeout(&rig.paths), Some((ms(45), Reason::Loss)));
    assert_eq!(rig.timeout(ms(44)), Timeout::Nothing);
    assert_eq!(rig.timeout(ms(45)), Timeout::Lost);
    assert_eq!(rig.fates[&0], Fate::Lost(Loss::Time));
    assert_eq!(rig.r.poll_timeout(&rig.paths), None);
}

#[test]
fn probe_timeout_doubles_and_an_acknowledgement_resets_it() {
    let mut rig = Rig::new();
    rig.send(0);
    // 333 + 4 * 166.5 + 5 ms.
    assert_eq!(rig.r.poll_timeout(&rig.paths), Some((ms(1004), Reason::Probe)));
    assert_eq!(rig.timeout(ms(1004)), Timeout::Probe { path: 0, count: 1 });
    assert_eq!(rig.r.poll_timeout(&rig.paths), Some((ms(1004 + 2008), Reason::Probe)));
    assert_eq!(rig.paths[0].may_send(ms(1004), 1200), Ok(()));
    let probe = rig.send(1004);
    assert!(rig.fates.is_empty(), "a probe timeout declares nothing lost");
    rig.ack(1044, &[(probe, probe)]);
    assert_eq!(rig.paths[0].pto_count(), 0);
}

/// Sends packets until the window is full; which of them asked for an acknowledgement.
fn fill(rig: &mut Rig, at: u64) -> Vec<bool> {
    let mut asked = Vec::new();
    while rig.paths[0].in_flight() + 1200 <= rig.paths[0].window() {
        asked.push(rig.paths[0].asks(1200));
        rig.send(at);
    }
    asked
}

#[test]
fn a_small_window_asks_four_times_a_round_trip_and_at_its_end() {
    let mut rig = Rig::new();
    // Ten packets of 1,200 bytes; the first half empty window asks nothing.
    let asked = fill(&mut rig, 0);
    let places: Vec<usize> = (0..asked.len()).filter(|i| asked[*i]).collect();
    assert_eq!(places, [4, 7, 9], "of {}", asked.len());
    // A probe asks always.
    rig.paths[0].probes = 1;
    assert!(rig.paths[0].asks(1200));
}

#[test]
fn a_large_window_asks_nothing() {
    let mut rig = Rig::new();
    let mut at = 0;
    while rig.paths[0].window() < 40 * 1200 {
        fill(&mut rig, at);
        at += 40;
        rig.ack(at, &[(0, rig.r.peek_number() - 1)]);
    }
    assert!(!fill(&mut rig, at).contains(&true));
}

#[test]
fn who_was_asked_is_not_given_time_to_wait() {
    let mut rig = Rig::new();
    rig.send(0);
    rig.ack(40, &[(0, 0)]);
    rig.send(40);
    // 40 + 4 * 20 + 5 ms.
    assert_eq!(rig.r.poll_timeout(&rig.paths), Some((ms(40 + 125), Reason::Probe)));
    while !rig.paths[0].asks(1200) {
        rig.send(40);
    }
    rig.send(40);
    assert_eq!(rig.r.poll_timeout(&rig.paths), Some((ms(40 + 120), Reason::Probe)));
}

#[test]
fn persistent_congestion_falls_to_the_smallest_window() {
    let mut rig = Rig::new();
    rig.send(0);
    rig.ack(40, &[(0, 0)]);
    for at in [50, 200, 600, 1200, 1300, 1301, 1302] {
        rig.send(at);
    }
    rig.ack(1342, &[(5, 7), (0, 0)]);
    assert!(rig.fates[&1] == Fate::Lost(Loss::Packets));
    assert_eq!(rig.paths[0].window(), 2 * 1200);
}

#[test]
fn an_acknowledged_packet_between_breaks_persistent_congestion() {
    let mut rig = Rig::new();
    rig.send(0);
    rig.ack(40, &[(0, 0)]);
    for at in [50, 200, 600, 1200, 1300, 1301, 1302] {
        rig.send(at);
    }
    rig.ack(1342, &[(5, 7), (3, 3), (0, 0)]);
    assert!(rig.paths[0].window() > 2 * 1200);
}

#[test]
fn one_reduction_for_all_losses_of_one_flight() {
    let mut rig = Rig::new();
    for _ in 0..10 {
        rig.send(0);
    }
    rig.ack(40, &[(3, 3)]);
    let ssthresh = rig.paths[0].controller().ssthresh();
    assert_eq!(ssthresh, 13_200 * 7 / 10);
    rig.ack(41, &[(8, 8), (3, 3)]);
    assert_eq!(rig.paths[0].controller().ssthresh(), ssthresh);
}

#[test]
fn a_lost_size_probe_is_not_congestion() {
    let mut rig = Rig::new();
    let n = rig.r.next_number();
    let probe = Sent { probe_size: true, bytes: 1452, ..packet(n, ms(0), true) };
    assert!(rig.r.on_sent(probe, &mut rig.paths[0]).is_none());
    for _ in 0..4 {
        rig.send(0);
    }
    rig.ack(40, &[(1, 4)]);
    assert_eq!(rig.fates[&0], Fate::Lost(Loss::Packets));
    assert_eq!(rig.paths[0].controller().ssthresh(), u64::MAX);
    assert_eq!(rig.paths[0].in_flight(), 0);
}

#[test]
fn a_late_packet_is_counted_and_widens_the_threshold() {
    let mut rig = Rig::new();
    for _ in 0..12 {
        rig.send(0);
    }
    rig.ack(40, &[(1, 5)]);
    assert_eq!(rig.fates[&0], Fate::Lost(Loss::Packets));
    let summary = rig.ack(41, &[(0, 5)]);
    assert_eq!((summary.spurious, rig.paths[0].losses()), (1, (1, 1)));
    // It was overtaken by 5: 6, 5 behind 11, is not lost now.
    rig.ack(42, &[(7, 11), (0, 5)]);
    assert_eq!(rig.fates.get(&6), None);
}

#[test]
fn what_was_never_sent_cannot_be_acknowledged() {
    let mut rig = Rig::new();
    rig.send(0);
    assert_eq!(rig.ack_with(1, &[(1, 1)], None), Err(AckedUnsent(1)));
    assert!(rig.fates.is_empty());
}

#[test]
fn ecn_marks_reduce_once_and_missing_counts_end_marking() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        let n = rig.r.next_number();
        let sent = Sent { ect0: true, ..packet(n, ms(0), true) };
        assert!(rig.r.on_sent(sent, &mut rig.paths[0]).is_none());
    }
    let counts = |ect0, ce| Some(EcnCounts { ect0, ect1: 0, ce });
    assert_eq!(rig.ack_with(40, &[(0, 1)], counts(1, 1)).unwrap().ce, 1);
    assert_eq!(rig.paths[0].ecn(), EcnState::Capable);
    let ssthresh = rig.paths[0].controller().ssthresh();
    assert!(ssthresh < u64::MAX);
    rig.ack_with(41, &[(0, 2)], counts(1, 2)).unwrap();
    assert_eq!(rig.paths[0].controller().ssthresh(), ssthresh, "same round trip");
    rig.ack_with(42, &[(0, 3)], None).unwrap();
    assert_eq!(rig.paths[0].ecn(), EcnState::Failed);
}

#[test]
fn packets_of_a_path_that_is_gone_are_settled() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.send(0);
    }
    rig.paths.clear();
    let summary = rig.ack(10, &[(1, 1)]);
    assert_eq!((summary.packets, summary.lost), (1, 1));
    rig.r.path_gone(0, &mut |fate, sent| assert_eq!((fate, sent.number), (Fate::Lost(Loss::PathGone), 2)));
    assert_eq!(rig.r.unacked(), 0);
}

#[test]
fn pure_acknowledgements_are_bounded_and_ask_for_a_ping() {
    let mut rig = Rig::new();
    let mut back = 0;
    for _ in 0..3_000 {
        let n = rig.r.next_number();
        back += usize::from(rig.r.on_sent(packet(n, ms(0), false), &mut rig.paths[0]).is_some());
    }
    assert_eq!((rig.r.unacked(), back), (1024, 3_000 - 1024));
    assert!(rig.r.wants_ping() && !rig.r.has_in_flight());
    rig.send(1);
    assert!(!rig.r.wants_ping());
}

proptest! {
    /// Every tracked packet gets one fate, in flight balances, the deadline moves on, against a
    /// plain map of what is open.
    #[test]
    fn every_packet_is_acknowledged_or_lost_exactly_once(
        ops in proptest::collection::vec((0u8..8, 0u64..60, 0u64..12, 0u64..2), 1..200)
    ) {
        let mut rig = Rig::new();
        rig.paths.push(path(1));
        let mut open: BTreeMap<u64, (usize, bool)> = BTreeMap::new();
        let mut acked: BTreeSet<u64> = BTreeSet::new();
        let mut now = 0;
        for (op, a, len, p) in ops {
            now += a % 7;
            match op {
                0..=3 => for _ in 0..=len {
                    let n = rig.r.next_number();
                    let eliciting = !(n + a).is_multiple_of(5);
                    let p = p as usize;
                    let given = rig.r.on_sent(packet(n, ms(now), eliciting), &mut rig.paths[p]);
                    prop_assert!(given.is_none());
                    open.insert(n, (p, eliciting));
                },
                4..=6 => {
                    let next = rig.r.peek_number();
                    if next == 0 { continue }
                    let high = (next - 1).saturating_sub(a % 20);
                    let low = high.saturating_sub(len);
                    acked.extend(low..=high);
                    let mut ranges: Vec<(u64, u64)> = Vec::new();
                    if low > 30 { acked.insert(low - 10); ranges.push((low - 10, low - 10)); }
                    ranges.insert(0, (low, high));
                    rig.ack(now, &ranges);
                }
                _ => if let Some((at, _)) = rig.r.poll_timeout(&rig.paths) {
                    now = now.max(at.as_nanos().div_ceil(1_000_000));
                    let before = rig.r.poll_timeout(&rig.paths);
                    let did = rig.timeout(ms(now));
                    prop_assert!(did != Timeout::Nothing || rig.r.poll_timeout(&rig.paths) > before);
                },
            }
            open.retain(|n, _| !rig.fates.contains_key(n));
            for (n, fate) in &rig.fates {
                prop_assert!(*fate != Fate::Acked || acked.contains(n));
            }
            prop_assert!(open.keys().all(|n| !acked.contains(n)));
            prop_assert_eq!(rig.r.unacked(), open.len());
            for p in 0..2 {
                let count = open.values().filter(|(q, e)| *q == p && *e).count() as u64;
                prop_assert_eq!(rig.paths[p].in_flight(), count * 1200);
                prop_assert_eq!(rig.paths[p].eliciting_in_flight(), count);
            }
        }
        let fates = &mut rig.fates;
        rig.r.drain_all(&mut rig.paths, &mut |fate, sent| { fates.insert(sent.number, fate); });
        prop_assert_eq!(rig.fates.len() as u64, rig.r.peek_number());
        prop_assert!(rig.paths.iter().all(|p| p.in_flight() == 0 && p.eliciting_in_flight() == 0));
        prop_assert_eq!(rig.r.poll_timeout(&rig.paths), None);
    }

    #[test]
    fn after_its_timeout_a_machine_acts_or_asks_for_later(sent in 1u64..20, acks in 0u64..20, late in 0u64..5_000) {
        let mut rig = Rig::new();
        for n in 0..sent { rig.send(n); }
        if acks < sent { rig.ack(sent + 10, &[(acks, acks)]); }
        for _ in 0..40 {
            let Some((at, _)) = rig.r.poll_timeout(&rig.paths) else { break };
            let now = at + Duration::from_millis(late);
            let did = rig.timeout(now);
            let next = rig.r.poll_timeout(&rig.paths);
            prop_assert!(did != Timeout::Nothing || next.is_none_or(|(t, _)| t > now));
        }
    }

    #[test]
    fn acknowledgement_frames_are_canonical(bytes in proptest::collection::vec(0u8..70, 0..60), ecn in 2u8..4) {
        let mut frame = Vec::from([ecn]);
        frame.extend(bytes);
        check_canonical::<Ack>(&frame);
    }

    #[test]
    fn the_tracker_equals_a_plain_set(steps in proptest::collection::vec((0u64..150, 0u8..12, any::<bool>()), 1..300)) {
        let mut tracker = AckTracker::new();
        let mut model: BTreeSet<u64> = BTreeSet::new();
        let mut now = 0;
        let mut waiting: Option<u64> = None;
        for (number, step, eliciting) in steps {
            now += u64::from(step % 3);
            // At most 75 ranges can arise, so the limit of 64 plays a part now and then.
            match tracker.insert(number, ms(now), eliciting, Ecn::NotEct) {
                Noted::New => {
                    prop_assert!(model.insert(number));
                    if eliciting { waiting.get_or_insert(now); }
                }
                Noted::Duplicate => prop_assert!(model.contains(&number)),
                Noted::TooOld => prop_assert!(number < *model.last().unwrap()),
            }
            prop_assert_eq!(tracker.has_news(), waiting.is_some());
            if waiting.is_some_and(|since| now >= since + 5) { prop_assert!(tracker.ack_due(ms(now))); }
            if step == 0 {
                let mut buf = [0; 600];
                let mut w = crate::codec::Writer::new(&mut buf);
                let wrote = tracker.write(ms(now), &mut w);
                prop_assert_eq!(wrote.is_some(), waiting.take().is_some());
                prop_assert!(!tracker.ack_due(ms(now + 100)));
                if let Some(largest) = wrote {
                    let ack = Ack::decode_exact(w.written()).unwrap();
                    prop_assert!(ack.ranges.len() <= 64);
                    let said: BTreeSet<u64> = ack.ranges.iter().cloned().flatten().collect();
                    let low = *said.first().unwrap();
                    prop_assert_eq!(Some(&largest), model.last());
                    prop_assert_eq!(said, model.range(low..).copied().collect::<BTreeSet<u64>>());
                }
            }
        }
    }
}

#[test]
fn acknowledgements_leave_after_ten_packets_five_ms_or_at_once_on_a_gap_or_ce() {
    let mut t = AckTracker::new();
    for n in 0..9 {
        assert_eq!(t.insert(n, ms(0), true, Ecn::Ect0), Noted::New);
        assert!(!t.ack_due(ms(4)));
    }
    assert_eq!(t.poll_timeout(ms(0)), Some((ms(5), Reason::Ack)));
    assert!(t.ack_due(ms(5)));
    let _ = t.insert(9, ms(1), true, Ecn::Ect0);
    assert!(t.ack_due(ms(1)));
    let mut buf = [0; 100];
    assert_eq!(t.write(ms(1), &mut crate::codec::Writer::new(&mut buf)), Some(9));
    let _ = t.insert(11, ms(2), true, Ecn::Ect0);
    assert!(t.ack_due(ms(2)), "gap");
    assert_eq!(t.write(ms(2), &mut crate::codec::Writer::new(&mut buf)), Some(11));
    let _ = t.insert(12, ms(2), true, Ecn::Ce);
    assert!(t.ack_due(ms(2)), "CE");
    assert_eq!(t.ecn(), EcnCounts { ect0: 11, ect1: 0, ce: 1 });
    assert_eq!(t.write(ms(2), &mut crate::codec::Writer::new(&mut buf)), Some(12));
    let _ = t.insert(13, ms(3), false, Ecn::NotEct);
    assert!(t.poll_timeout(ms(3)).is_none() && !t.has_news(), "nothing elicits an answer");
    t.on_ack_of_ack(11);
    let _ = t.insert(14, ms(3), true, Ecn::NotEct);
    let mut w = crate::codec::Writer::new(&mut buf);
    assert_eq!(t.write(ms(3), &mut w), Some(14));
    assert_eq!(Ack::decode_exact(w.written()).unwrap().ranges, [12..=14]);
}

#[test]
fn acknowledgements_that_nothing_carries_do_not_wait_for_more() {
    let mut t = AckTracker::new();
    let mut buf = [0; 100];
    let mut answer = |t: &mut AckTracker, at, data| {
        assert!(t.write(ms(at), &mut crate::codec::Writer::new(&mut buf)).is_some());
        t.on_sent(ms(at), true, data);
    };
    for n in 0..2 {
        let _ = t.insert(n, ms(n * 100), true, Ecn::NotEct);
        assert!(!t.ack_due(ms(n * 100 + 4)) && t.ack_due(ms(n * 100 + 5)));
        answer(&mut t, n * 100 + 5, false);
    }
    let _ = t.insert(2, ms(200), true, Ecn::NotEct);
    assert!(t.ack_due(ms(200)), "nothing to wait for");
    answer(&mut t, 200, false);
    let half = ms(200) + Duration::from_micros(500);
    let _ = t.insert(3, half, true, Ecn::NotEct);
    assert!(!t.ack_due(half), "more may follow closely");
    assert_eq!(t.poll_timeout(half), Some((half + Duration::from_millis(1), Reason::Ack)));
    answer(&mut t, 202, false);
    // The application answered, a little after the acknowledgement left.
    t.on_sent(ms(206), false, true);
    let _ = t.insert(4, ms(300), true, Ecn::NotEct);
    assert!(!t.ack_due(ms(304)), "a reply will carry it");
    answer(&mut t, 304, true);
    // Data long after a lone acknowledgement could not have carried it.
    for n in 5..8 {
        let _ = t.insert(n, ms(n * 100), true, Ecn::NotEct);
        assert_eq!(t.ack_due(ms(n * 100)), n == 7);
        answer(&mut t, n * 100 + 5, false);
        t.on_sent(ms(n * 100 + 50), false, true);
    }
}
