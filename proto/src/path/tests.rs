use super::paths::MAX_CANDIDATES;
use super::size::{BLACK_HOLE_REST, GRAIN, RAISE_AFTER, Search};
use super::*;
use crate::entropy::Entropy;
use crate::time::{Duration, Instant, Reason};
use core::net::SocketAddr;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

const PTO: Duration = Duration::from_millis(100);
const MS: u64 = 1_000_000;

fn at(ms: u64) -> Instant {
    Instant::from_nanos(ms * MS)
}

fn addr(host: u8, port: u16) -> Path {
    Path::udp(SocketAddr::from(([10, 0, 0, host], port)))
}

const fn via() -> Path {
    Path { socket: 0, local: None, remote: Remote::Via { session: 1, destination: [0; 16] } }
}

fn paths(validated: bool) -> Paths {
    let mut p = Paths::new(&Config::default(), at(0), addr(1, 1), validated, Entropy::new(&[1; 32], "paths"));
    p.handle_timeout(at(0), PTO);
    p
}

/// Takes the frames, accounting for full packets where the budget allows.
fn frames(p: &mut Paths) -> Vec<(PathId, PathFrame)> {
    let mut out = Vec::new();
    while let Some((id, frame)) = p.poll_frame() {
        let size = if p.may_send(id, 1200) { 1200 } else { 38 };
        assert!(p.may_send(id, size), "a frame was offered that may not leave");
        p.on_sent(id, size);
        out.push((id, frame));
    }
    out
}

fn events(p: &mut Paths) -> Vec<PathEvent> {
    core::iter::from_fn(|| p.poll_event()).collect()
}

fn challenge(frames: &[(PathId, PathFrame)], on: PathId) -> [u8; 8] {
    frames
        .iter()
        .find_map(|(id, f)| match f {
            PathFrame::Challenge(data) if *id == on => Some(*data),
            _ => None,
        })
        .expect("a challenge on that path")
}

#[test]
fn a_new_port_of_a_silent_old_one_takes_over_and_keeps_what_was_measured() {
    let mut p = paths(true);
    p.on_acked(PathId(0), 1200);
    let (_, size) = p.poll_probe(at(1)).unwrap();
    p.on_probe_acked(at(2), PathId(0), size);
    events(&mut p);
    let new = p.on_authenticated(at(10), addr(1, 2), 1200, true).unwrap();
    let asked = frames(&mut p);
    challenge(&asked, p.active());
    assert_eq!(p.active(), PathId(0), "data stays on the old path");
    p.on_response(at(40), new, challenge(&asked, new), PTO);
    assert_eq!(events(&mut p), [PathEvent::Validated(new)]);
    let again = frames(&mut p);
    assert_eq!(again.len(), 1, "the old one is asked once more: {again:?}");
    assert_eq!(p.poll_timeout(), Some((at(140), Reason::PathValidation)));
    p.handle_timeout(at(139), PTO);
    assert_eq!(p.active(), PathId(0));
    p.handle_timeout(at(140), PTO);
    assert_eq!(events(&mut p), [PathEvent::Switched { from: PathId(0), to: new, keep: true }]);
    assert_eq!(p.get(new).unwrap().size, 1452);
}

#[test]
fn another_host_takes_over_with_nothing_kept() {
    let mut p = paths(true);
    p.on_acked(PathId(0), 1200);
    let (_, size) = p.poll_probe(at(1)).unwrap();
    p.on_probe_acked(at(2), PathId(0), size);
    let new = p.on_authenticated(at(10), addr(2, 1), 1200, true).unwrap();
    let asked = frames(&mut p);
    p.on_response(at(40), new, challenge(&asked, new), PTO);
    events(&mut p);
    p.handle_timeout(at(140), PTO);
    assert_eq!(events(&mut p), [PathEvent::Switched { from: PathId(0), to: new, keep: false }]);
    assert_eq!(p.get(new).unwrap().size, 1200);
}

#[test]
fn if_both_answer_the_incumbent_stays() {
    for incumbent_first in [true, false] {
        let mut p = paths(true);
        let new = p.on_authenticated(at(10), addr(2, 1), 1200, true).unwrap();
        let asked = frames(&mut p);
        let mut order = [PathId(0), new];
        if !incumbent_first {
            order.reverse();
        }
        for id in order {
            // Whichever path the answers come back on.
            p.on_response(at(50), new, challenge(&asked, id), PTO);
        }
        for ms in (60..30_000).step_by(50) {
            p.handle_timeout(at(ms), PTO);
            frames(&mut p);
            p.on_authenticated(at(ms), addr(1, 1), 100, true);
        }
        assert_eq!(p.active(), PathId(0));
        assert!(p.get(new).is_none(), "what is not used is forgotten");
    }
}

/// The copier sits at another address, sees every packet of the peer and delivers its copy first,
/// so that the original is a replay. It cannot answer challenges that went to it.
#[test]
fn a_copier_that_is_always_first_gains_no_path_and_no_amplification() {
    let mut p = paths(true);
    let copier = addr(66, 6);
    let (mut to_copier, mut from_copier) = (0u64, 0u64);
    let mut answers: Vec<(u64, [u8; 8])> = Vec::new();
    for ms in 0..20_000u64 {
        if ms % 7 == 0 {
            from_copier += 60;
            p.on_authenticated(at(ms), copier, 60, true);
        }
        answers.retain(|(due, data)| {
            if *due > ms {
                return true;
            }
            // The true peer answers; the copy of the answer is what arrives.
            from_copier += 60;
            if let Some(on) = p.on_authenticated(at(ms), copier, 60, true) {
                p.on_response(at(ms), on, *data, PTO);
            }
            false
        });
        p.handle_timeout(at(ms), PTO);
        while let Some((id, frame)) = p.poll_frame() {
            let size = if p.may_send(id, 1200) { 1200 } else { 38 };
            p.on_sent(id, size);
            match frame {
                PathFrame::Challenge(data) if id == p.active() => answers.push((ms + 40, data)),
                _ => to_copier += size as u64,
            }
        }
        for event in events(&mut p) {
            assert!(!matches!(event, PathEvent::Switched { .. } | PathEvent::Validated(_)), "{event:?}");
        }
        assert!(to_copier <= from_copier, "{to_copier} bytes for {from_copier}");
    }
    assert_eq!(p.active(), PathId(0));
}

#[test]
fn a_copier_that_relays_wins_nothing_even_if_every_second_answer_of_the_incumbent_is_lost() {
    let mut p = paths(true);
    let mut incumbent_asked = 0;
    let mut due: Vec<(u64, [u8; 8])> = Vec::new();
    for ms in 0..20_000u64 {
        let copier = if ms % 5 == 0 { p.on_authenticated(at(ms), addr(66, 6), 60, true) } else { None };
        due.retain(|(when, data)| {
            if *when == ms {
                p.on_response(at(ms), copier.unwrap_or(PathId(0)), *data, PTO);
            }
            *when > ms
        });
        p.handle_timeout(at(ms), PTO);
        for (id, frame) in frames(&mut p) {
            let PathFrame::Challenge(data) = frame else { continue };
            if id != p.active() {
                due.push((ms + 20, data));
            } else {
                incumbent_asked += 1;
                if incumbent_asked % 2 == 0 {
                    due.push((ms + 60, data));
                }
            }
        }
        assert_eq!(p.active(), PathId(0));
    }
    assert!(incumbent_asked > 20);
}

/// The copier was first from the very beginning, nothing proved another path, and it passes everything on.
#[test]
fn a_path_that_only_answers_gives_way_to_the_one_that_the_peer_uses() {
    for confirmed_first in [true, false] {
        let (copier, truth) = (addr(66, 6), addr(2, 1));
        let entropy = Entropy::new(&[1; 32], "paths");
        let mut p = Paths::new(&Config::default(), at(0), copier, false, entropy);
        p.handle_timeout(at(0), PTO);
        p.on_authenticated(at(0), copier, 1200, true);
        assert!(p.wants_copy(at(2), &truth));
        let own = p.on_copy(at(2), truth, 1200).unwrap();
        let asked = frames(&mut p);
        let (to_copier, to_truth) = (challenge(&asked, PathId(0)), challenge(&asked, own));
        if confirmed_first {
            p.on_confirm(at(40), to_truth, PTO);
            p.on_response(at(41), PathId(0), to_copier, PTO);
        } else {
            p.on_response(at(40), PathId(0), to_copier, PTO);
            // The copy of the answer comes by the copier's way first, the better answer after it.
            p.on_response(at(41), PathId(0), to_truth, PTO);
            p.on_confirm(at(43), to_truth, PTO);
        }
        // It goes on sending first, and answers again; that is all it can do.
        for ms in (45..400).step_by(5) {
            p.handle_timeout(at(ms), PTO);
            p.on_authenticated(at(ms), copier, 60, true);
            for (id, frame) in frames(&mut p) {
                if let (PathId(0), PathFrame::Challenge(data)) = (id, frame) {
                    p.on_response(at(ms), id, data, PTO);
                }
            }
        }
        assert_eq!(p.active(), own, "confirmed first: {confirmed_first}");
        // Now it is the newcomer, and stays out.
        for ms in (400..20_000).step_by(5) {
            p.handle_timeout(at(ms), PTO);
            p.on_authenticated(at(ms), copier, 60, true);
            for (id, frame) in frames(&mut p) {
                match frame {
                    PathFrame::Challenge(data) if id == own => p.on_confirm(at(ms), data, PTO),
                    PathFrame::Challenge(data) => p.on_response(at(ms), id, data, PTO),
                    _ => {}
                }
            }
            assert_eq!(p.active(), own);
        }
    }
}

#[test]
fn of_two_confirmed_paths_the_incumbent_stays() {
    let mut p = paths(true);
    let new = p.on_authenticated(at(10), addr(2, 1), 1200, true).unwrap();
    let asked = frames(&mut p);
    p.on_confirm(at(40), challenge(&asked, new), PTO);
    p.on_response(at(60), PathId(0), challenge(&asked, PathId(0)), PTO);
    for ms in (60..1_000).step_by(10) {
        p.handle_timeout(at(ms), PTO);
        frames(&mut p);
    }
    assert_eq!(p.active(), PathId(0));
}

/// The peer moved behind a copier that passes everything on: two newcomers answer, the old path is silent.
#[test]
fn when_the_peer_moves_its_own_path_comes_before_the_copiers() {
    let mut p = paths(true);
    let copier = p.on_authenticated(at(10), addr(66, 6), 1200, true).unwrap();
    assert!(p.wants_copy(at(12), &addr(2, 1)));
    let own = p.on_copy(at(12), addr(2, 1), 1200).unwrap();
    let asked = frames(&mut p);
    p.on_response(at(50), copier, challenge(&asked, copier), PTO);
    p.on_authenticated(at(100), addr(66, 6), 60, true);
    // The answer of the true path comes after the copier would have taken over.
    p.handle_timeout(at(150), PTO);
    assert_eq!(p.active(), PathId(0));
    p.on_confirm(at(200), challenge(&asked, own), PTO);
    p.handle_timeout(at(250), PTO);
    assert_eq!(p.active(), own);
}

#[test]
fn replays_are_opened_only_while_they_may_say_something() {
    let mut p = paths(true);
    p.on_authenticated(at(1), addr(1, 1), 1200, true);
    assert!(!p.wants_copy(at(2), &addr(2, 1)), "first copies come over the path in use");
    p.on_authenticated(at(3), addr(66, 6), 1200, true);
    assert!(!p.wants_copy(at(4), &addr(1, 1)), "that path is in use already");
    assert!(!p.wants_copy(at(4), &addr(66, 6)), "on trial, with all the budget it needs");
    assert!(p.wants_copy(at(4), &addr(2, 1)));
    p.on_copy(at(4), addr(2, 1), 60);
    assert!(p.wants_copy(at(5), &addr(2, 1)), "its budget is too small for a whole packet");
    assert!(!p.wants_copy(at(5), &addr(3, 1)), "no room");
    p.on_authenticated(at(6), addr(1, 1), 60, true);
    assert!(!p.wants_copy(at(7), &addr(2, 1)));
}

#[test]
fn a_challenge_over_the_path_in_use_is_confirmed_any_other_only_answered() {
    let mut p = paths(true);
    let other = p.on_authenticated(at(1), addr(66, 6), 2400, true).unwrap();
    frames(&mut p);
    p.on_challenge(at(2), other, [1; 8]);
    p.on_challenge(at(2), PathId(0), [1; 8]);
    let all = frames(&mut p);
    assert_eq!(all, [(PathId(0), PathFrame::Confirm([1; 8])), (other, PathFrame::Response([1; 8]))]);
}

#[test]
fn a_wish_is_followed_to_the_path_that_the_peer_confirms() {
    let mut p = paths(true);
    let new = p.on_authenticated(at(10), addr(2, 1), 1200, true).unwrap();
    let asked = frames(&mut p);
    p.on_migrate(at(11), new, 1);
    assert_eq!(p.active(), PathId(0));
    p.on_response(at(39), new, challenge(&asked, new), PTO);
    assert_eq!(p.active(), PathId(0), "somebody answers there; not yet that the peer uses it");
    p.on_confirm(at(40), challenge(&asked, new), PTO);
    assert_eq!(p.active(), new);
    // Back again, to a path that was left: it is asked anew.
    p.on_authenticated(at(50), addr(1, 1), 1200, true);
    frames(&mut p);
    p.on_migrate(at(50), PathId(0), 3);
    let asked = frames(&mut p);
    assert_eq!(p.active(), new);
    p.on_confirm(at(60), challenge(&asked, PathId(0)), PTO);
    assert_eq!(p.active(), PathId(0));
    // A late wish changes nothing.
    p.on_migrate(at(61), new, 2);
    assert_eq!(p.active(), PathId(0));
}

#[test]
fn a_wish_that_a_copy_carries_does_not_lead_to_the_copier() {
    let mut p = paths(true);
    // The copy of the packet with the wish is first; then the packet itself, over the new path.
    let copier = p.on_authenticated(at(10), addr(66, 6), 1200, true).unwrap();
    p.on_migrate(at(10), copier, 1);
    assert!(p.wants_copy(at(11), &addr(2, 1)));
    let new = p.on_copy(at(11), addr(2, 1), 1200).unwrap();
    let asked = frames(&mut p);
    // The copier passes its challenge on: answered, but not over the path that the peer uses.
    p.on_response(at(20), copier, challenge(&asked, copier), PTO);
    assert_eq!(p.active(), PathId(0));
    p.on_confirm(at(40), challenge(&asked, new), PTO);
    assert_eq!(p.active(), new);
}

#[test]
fn our_own_move_asks_first_then_tells_the_peer_until_it_knows() {
    let mut p = paths(true);
    let new = p.migrate_to(at(10), addr(2, 1));
    let asked = frames(&mut p);
    assert_eq!(asked.len(), 1);
    p.on_response(at(30), new, challenge(&asked, new), PTO);
    assert_eq!(p.active(), new);
    assert_eq!(frames(&mut p), [(new, PathFrame::Migrate(1))]);
    p.on_migrate_lost(at(200), 1);
    assert_eq!(frames(&mut p), [(new, PathFrame::Migrate(1))]);
    let back = p.migrate_to(at(300), addr(1, 1));
    assert_eq!(back, PathId(0));
    let asked = frames(&mut p);
    p.on_response(at(330), back, challenge(&asked, back), PTO);
    assert_eq!(frames(&mut p), [(back, PathFrame::Migrate(2))]);
    p.on_migrate_lost(at(400), 1);
    assert_eq!(frames(&mut p), []);
}

#[test]
fn an_unanswered_move_fails_after_three_pto_and_never_below_a_second() {
    for (pto, end) in [(PTO, 1_000), (Duration::from_millis(700), 2_100)] {
        let mut p = paths(true);
        p.handle_timeout(at(0), pto);
        let new = p.migrate_to(at(0), addr(2, 1));
        let mut asked = 0;
        let mut now = at(0);
        while p.get(new).is_some() {
            asked += frames(&mut p).len();
            let (next, _) = p.poll_timeout().unwrap();
            assert!(next > now);
            now = next;
            p.handle_timeout(now, pto);
        }
        assert_eq!(now, at(end));
        assert!((2..=5).contains(&asked), "{asked} challenges");
        assert_eq!(events(&mut p), [PathEvent::Abandoned(new)]);
        assert_eq!(p.active(), PathId(0));
    }
}

#[test]
fn newcomers_are_refused_while_both_places_are_on_trial() {
    let mut p = paths(true);
    let first = p.on_authenticated(at(1), addr(2, 1), 50, true).unwrap();
    let second = p.on_authenticated(at(1), addr(3, 1), 50, true).unwrap();
    assert_eq!(p.on_authenticated(at(1), addr(4, 1), 50, true), None);
    assert_eq!(p.iter().count(), 1 + MAX_CANDIDATES);
    assert_eq!(p.on_authenticated(at(1), addr(5, 1), 50, false), None, "late and from nowhere");
    p.handle_timeout(at(1_001), PTO);
    assert!(p.get(first).is_none() && p.get(second).is_none());
    let third = p.on_authenticated(at(1_002), addr(4, 1), 50, true).unwrap();
    assert!(third > second, "ids are never used again");
}

#[test]
fn a_silent_active_path_gives_way_to_a_resting_one_that_answers() {
    let mut p = paths(true);
    let new = p.migrate_to(at(10), addr(2, 1));
    let asked = frames(&mut p);
    p.on_response(at(30), new, challenge(&asked, new), PTO);
    frames(&mut p);
    p.revalidate(at(100));
    for ms in (100..4_000).step_by(10) {
        p.handle_timeout(at(ms), PTO);
        for (id, frame) in frames(&mut p) {
            if let (PathId(0), PathFrame::Challenge(data)) = (id, frame) {
                p.on_response(at(ms), id, data, PTO);
            }
        }
    }
    assert_eq!(p.active(), PathId(0));
    p.revalidate(at(20_000));
    frames(&mut p);
    p.handle_timeout(at(30_000), PTO);
    p.fail(at(30_000), PathId(0));
    assert!(events(&mut p).contains(&PathEvent::Silent(PathId(0))));
}

#[test]
fn local_addresses_matter_only_when_both_are_known() {
    let mut p = paths(true);
    let here = |last: u8| Some(core::net::IpAddr::from([192, 168, 0, last]));
    let from = Path { local: here(1), ..addr(1, 1) };
    assert_eq!(p.on_authenticated(at(1), from, 50, true), Some(PathId(0)));
    assert_eq!(p.get(PathId(0)).unwrap().path.local, None, "the system goes on choosing");
    let other = Path { local: here(2), ..addr(1, 1) };
    assert_eq!(p.on_authenticated(at(2), other, 50, true), Some(PathId(1)));
    assert_eq!(p.find(&addr(1, 1)), Some(PathId(0)));
}

#[test]
fn an_unvalidated_first_path_is_challenged_and_gets_no_more_than_it_sent() {
    let mut p = paths(false);
    assert!(frames(&mut p).is_empty(), "nothing came yet, so nothing may go");
    p.on_authenticated(at(1), addr(1, 1), 100, true);
    assert!(p.may_send(PathId(0), 100) && !p.may_send(PathId(0), 101));
    let asked = frames(&mut p);
    p.on_response(at(20), PathId(0), challenge(&asked, PathId(0)), PTO);
    assert!(p.may_send(PathId(0), 1_000_000));
}

// --- size

/// Runs a search against a path that carries `limit` bytes; answers how many probes it took.
fn run_search(s: &mut Search, now: Instant, limit: u16) -> usize {
    s.packet_acked(s.size());
    let mut probes = 0;
    while let Some(size) = s.poll(now) {
        probes += 1;
        assert!(probes < 100);
        if size <= limit { s.acked(now, size) } else { s.lost(now, size) }
    }
    probes
}

#[test]
fn a_search_finds_every_limit_in_few_probes() {
    let mut most = 0;
    for limit in 1200..=1452 {
        let mut s = Search::new(1200, 1452);
        most = most.max(run_search(&mut s, at(0), limit));
        assert!(s.size() <= limit && limit - s.size() < GRAIN, "{} of {limit}", s.size());
    }
    assert!(most <= 20, "{most} probes");
    let mut s = Search::new(1200, 1452);
    assert_eq!(run_search(&mut s, at(0), 1500), 1, "the usual case takes one");
}

#[test]
fn an_idle_path_is_not_probed() {
    let mut s = Search::new(1200, 1452);
    assert_eq!(s.poll(at(0)), None);
    s.packet_acked(100);
    assert_eq!(s.poll(at(0)), None);
    s.packet_acked(1200);
    assert_eq!(s.poll(at(0)), Some(1452));
    assert_eq!(s.poll(at(1)), None, "one at a time");
}

#[test]
fn a_shrunk_path_is_noticed_and_measured_again() {
    let mut s = Search::new(1200, 1452);
    run_search(&mut s, at(0), 1452);
    assert_eq!(s.size(), 1452);
    for _ in 0..3 {
        for _ in 0..10 {
            s.packet_lost(at(100), 1452);
        }
        s.packet_acked(60);
    }
    assert_eq!(s.size(), 1200);
    assert_eq!(run_search(&mut s, at(101), 1300), 0, "not at once");
    let later = at(101) + BLACK_HOLE_REST;
    run_search(&mut s, later, 1300);
    assert!((1293..=1300).contains(&s.size()));
    assert_eq!(run_search(&mut s, later, 1452), 0);
    run_search(&mut s, later + RAISE_AFTER, 1452);
    assert_eq!(s.size(), 1452, "a path that grew is found too");
}

#[test]
fn congestion_is_no_black_hole() {
    let mut s = Search::new(1200, 1452);
    run_search(&mut s, at(0), 1452);
    for _ in 0..100 {
        for _ in 0..50 {
            s.packet_lost(at(1), 1452);
        }
        s.packet_acked(60);
        s.packet_acked(1400);
    }
    assert_eq!(s.size(), 1452);
}

#[test]
fn a_relayed_path_has_its_own_sizes_and_a_carrier_none() {
    let mut p = Paths::new(&Config::default(), at(0), via(), true, Entropy::new(&[1; 32], "paths"));
    assert_eq!(p.get(PathId(0)).unwrap().size, 1120);
    p.on_acked(PathId(0), 1120);
    assert_eq!(p.poll_probe(at(0)), Some((PathId(0), 1387)));
    let carrier = Path { remote: Remote::Carrier(1), ..via() };
    let mut p = Paths::new(&Config::default(), at(0), carrier, true, Entropy::new(&[1; 32], "paths"));
    p.on_acked(PathId(0), 1452);
    assert_eq!(p.poll_probe(at(0)), None);
}

// --- properties

#[derive(Clone, Debug)]
enum Op {
    Packet { host: u8, port: u16, bytes: usize, highest: bool },
    Challenge(u32),
    Answer(usize),
    Confirm(usize),
    Copy { host: u8, bytes: usize },
    Proven(u8),
    Migrate(u32, u64),
    MigrateTo(u8),
    Revalidate,
    Fail(u32),
    Lost(u32, u16),
    Acked(u32, u16),
    Probe,
    Frames,
    Events,
    Wait(u64),
    Timeout,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1u8..5, 1u16..3, 30usize..1400, any::<bool>())
            .prop_map(|(host, port, bytes, highest)| Op::Packet { host, port, bytes, highest }),
        1 => (0u32..8).prop_map(Op::Challenge),
        3 => any::<usize>().prop_map(Op::Answer),
        1 => any::<usize>().prop_map(Op::Confirm),
        2 => (1u8..5, 30usize..1400).prop_map(|(host, bytes)| Op::Copy { host, bytes }),
        1 => (1u8..5).prop_map(Op::Proven),
        1 => (0u32..8, 0u64..20).prop_map(|(id, n)| Op::Migrate(id, n)),
        1 => (1u8..5).prop_map(Op::MigrateTo),
        1 => Just(Op::Revalidate),
        1 => (0u32..8).prop_map(Op::Fail),
        1 => (0u32..8, 1000u16..1500).prop_map(|(id, s)| Op::Lost(id, s)),
        1 => (0u32..8, 1000u16..1500).prop_map(|(id, s)| Op::Acked(id, s)),
        1 => Just(Op::Probe),
        3 => Just(Op::Frames),
        2 => Just(Op::Events),
        3 => (0u64..800).prop_map(Op::Wait),
        4 => Just(Op::Timeout),
    ]
}

proptest! {
    /// Whatever happens: an address that never answered gets no more than it sent (or than this side
    /// granted to an address of its own choice); the table is bounded; ids rise; and the rule of
    /// timeouts holds: after `handle_timeout` at the asked time something can be taken, or the next
    /// time is strictly later.
    #[test]
    fn any_order_of_calls_is_safe(validated in any::<bool>(), ops in proptest::collection::vec(op(), 0..150)) {
        let mut p = paths(validated);
        let mut now = at(0);
        let mut asked: Vec<[u8; 8]> = Vec::new();
        let mut budget: BTreeMap<PathId, i64> = BTreeMap::new();
        let mut newest = PathId(0);
        let mut live = vec![newest];
        for op in ops {
            match op {
                Op::Packet { host, port, bytes, highest } => {
                    if let Some(id) = p.on_authenticated(now, addr(host, port), bytes, highest) {
                        *budget.entry(id).or_default() += bytes as i64;
                    }
                }
                Op::Challenge(id) => p.on_challenge(now, PathId(id), [9; 8]),
                Op::Answer(n) => if !asked.is_empty() {
                    let data = asked[n % asked.len()];
                    p.on_response(now, PathId(0), data, PTO);
                },
                Op::Confirm(n) => if !asked.is_empty() {
                    let data = asked[n % asked.len()];
                    p.on_confirm(now, data, PTO);
                },
                Op::Copy { host, bytes } => if p.wants_copy(now, &addr(host, 1))
                    && let Some(id) = p.on_copy(now, addr(host, 1), bytes)
                {
                    *budget.entry(id).or_default() += bytes as i64;
                },
                Op::Proven(host) => p.on_proven(now, addr(host, 1)),
                Op::Migrate(id, n) => p.on_migrate(now, PathId(id), n),
                Op::MigrateTo(host) => {
                    let id = p.migrate_to(now, addr(host, 1));
                    *budget.entry(id).or_default() += 3_600;
                }
                Op::Revalidate => p.revalidate(now),
                Op::Fail(id) => p.fail(now, PathId(id)),
                Op::Lost(id, size) => p.on_lost(now, PathId(id), size),
                Op::Acked(id, size) => p.on_acked(PathId(id), size),
                Op::Probe => if let Some((id, size)) = p.poll_probe(now) {
                    prop_assert!(size > p.get(id).unwrap().size && size <= 1452);
                    p.on_probe_acked(now, id, size);
                },
                Op::Frames => while let Some((id, frame)) = p.poll_frame() {
                    let size = if p.may_send(id, 1200) { 1200 } else { 38 };
                    p.on_sent(id, size);
                    if !p.get(id).unwrap().validated {
                        let left = budget.entry(id).or_default();
                        *left -= size as i64;
                        prop_assert!(*left >= 0, "{id:?} got more than it sent");
                    }
                    if let PathFrame::Challenge(data) = frame { asked.push(data) }
                },
                Op::Events => { events(&mut p); }
                Op::Wait(ms) => now += Duration::from_millis(ms),
                Op::Timeout => if let Some((due, _)) = p.poll_timeout() {
                    now = now.max(due);
                    p.handle_timeout(now, PTO);
                    let emits = p.poll_event().is_some() | p.poll_frame().is_some();
                    if !emits {
                        prop_assert!(p.poll_timeout().is_none_or(|(next, _)| next > now));
                    }
                },
            }
            prop_assert!(p.iter().count() <= 1 + MAX_CANDIDATES);
            prop_assert!(p.get(p.active()).is_some());
            // An id that is gone never comes back.
            for id in p.iter().map(|x| x.id) {
                prop_assert!(id > newest || live.contains(&id), "{id:?} came back");
            }
            live = p.iter().map(|x| x.id).collect();
            newest = live.iter().copied().fold(newest, PathId::max);
            for x in p.iter() { prop_assert!((1200..=1452).contains(&x.size)); }
        }
        // Left alone, it falls asleep.
        for _ in 0..200 {
            frames(&mut p);
            events(&mut p);
            let Some((due, _)) = p.poll_timeout() else { return Ok(()) };
            now = now.max(due);
            p.handle_timeout(now, PTO);
        }
        prop_assert!(false, "it never rests: {:?}", p.poll_timeout());
    }
}
