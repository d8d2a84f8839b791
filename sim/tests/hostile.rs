//! Attackers, restarts, crossing dials, and peers that take without giving.

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::{MS, credit_is_back, finish, mixed_flows, real, secs, two};
use net_proto::node::{Command, DownReason, Event};
use net_proto::stream::Mode;
use net_sim::keyed::{Domain, Rng};
use net_sim::pair::{Pair, Side};
use net_sim::traffic::{Flow, Station};
use net_sim::{Failure, Fate, LinkConfig, Sim, World, WorldConfig, check, ensure};

const COPIER: &str = "10.66.6.6:666";

/// What a copier beside the path does, and what the nodes behind it are like.
#[derive(Clone, Copy, Default)]
struct Race {
    /// It passes on what is sent to it, from its own address; otherwise it swallows that.
    relay: bool,
    /// It takes part in handshakes only.
    handshakes_only: bool,
    /// It begins once the association stands, not with the first message.
    late: bool,
    /// A cookie is demanded of every first message.
    cookies: bool,
    /// The initiator is behind an address translation.
    nat: bool,
}

impl Race {
    fn world(self, s: Sim, flows: Vec<Flow>, link: &LinkConfig) -> Result<(World, usize), Failure> {
        let mut config = real(s);
        if self.cookies {
            config = config.tune(|_, node| node.cookie_after = 0);
        }
        let mut world = two(World::new(config), flows, link, link);
        if self.nat {
            world.rebind(0, "10.8.8.8:4001".parse().unwrap());
        }
        if self.late {
            let up = |w: &World| (0..2).all(|i| w.app::<Station>(i).is_some_and(|a| a.ups == 1));
            world.eventually(secs(30), "the association", up)?;
        }
        let copier = world.copier(0, 1, COPIER.parse().unwrap(), 2 * MS, self.relay);
        if self.handshakes_only {
            world.copy_handshakes_only(copier);
        }
        Ok((world, copier))
    }

    /// Never, not even at the very first, is anybody's path another than the true one. The world itself
    /// fails a run in which the copier got more bytes than it sent.
    fn run(self, s: Sim) -> Result<(), Failure> {
        let mut flows = mixed_flows(100);
        flows.push(Flow { every: Some(5 * MS), ..Flow::reliable(9, 1, 1_000, 100) });
        let (mut world, copier) = self.world(s, flows, &LinkConfig::delay(20 * MS).with_loss(10_000))?;
        let done = |w: &World| w.app::<Station>(0).is_some_and(Station::all_closed);
        world.eventually(secs(120), "the end of all streams", |w| {
            for i in 0..2 {
                for (peer, _) in w.node(i).unwrap().peers() {
                    let path = w.node(i).unwrap().peer_stats(peer).unwrap().path;
                    assert_eq!(path.udp_addr(), Some(w.addr(1 - i)), "seed {}, node {i}", s.seed());
                }
            }
            done(w)
        })?;
        finish(&mut world, secs(1))?;
        let ups = (0..2).map(|i| world.app::<Station>(i).unwrap().ups).max();
        ensure(&world, ups == Some(1), || format!("{ups:?} associations"))?;
        let (_, bytes) = world.copier_got(copier);
        let honest = world.stats().bytes - bytes;
        println!("seed {}: the copier got {bytes} bytes, the peers {honest}", s.seed());
        // While copies arrive first, path challenges go to the copier: a trickle, never the data.
        ensure(&world, bytes < honest / 4, || format!("{bytes} bytes to the copier, {honest} to the peers"))
    }

    /// A node moves while everything it sends arrives first from somebody else.
    fn roam(self, s: Sim, mover: u32, told: bool) -> Result<(), Failure> {
        let flow = Flow { every: Some(10 * MS), ..Flow::reliable(1, 1, 1_000, 500) };
        let (mut world, _) = self.world(s, vec![flow], &LinkConfig::delay(30 * MS))?;
        world.at(secs(3), move |w| {
            let to = "10.9.9.9:4000".parse().unwrap();
            if told {
                w.roam(mover, to);
                w.command(mover, Command::NetworkChanged);
            } else {
                w.rebind(mover, to);
            }
        });
        finish(&mut world, secs(60))?;
        let gap = world.app::<Station>(1).unwrap().got[&1].longest_gap;
        println!("longest gap {gap:?}");
        // Three round trips and a second.
        ensure(&world, gap <= 1_180 * MS, || format!("a stall of {gap:?}"))?;
        let ups = world.app::<Station>(0).unwrap().ups;
        ensure(&world, ups == 1, || format!("{ups} associations"))
    }
}

/// In every combination of cookies and address translation.
fn race(name: &str, race: Race) {
    for (cookies, nat) in [(false, false), (false, true), (true, false), (true, true)] {
        check(name, 5, |s| Race { cookies, nat, ..race }.run(s));
    }
}

#[test]
fn a_copier_wins_no_path() {
    race("a_copier_wins_no_path", Race::default());
}

#[test]
fn a_copier_that_passes_answers_on_wins_no_path() {
    race("a_copier_that_passes_answers_on_wins_no_path", Race { relay: true, ..Race::default() });
}

#[test]
fn a_copier_of_handshakes_wins_no_path() {
    for relay in [false, true] {
        let handshakes = Race { relay, handshakes_only: true, ..Race::default() };
        race("a_copier_of_handshakes_wins_no_path", handshakes);
    }
}

#[test]
fn a_copier_that_comes_later_wins_no_path() {
    for relay in [false, true] {
        race("a_copier_that_comes_later_wins_no_path", Race { relay, late: true, ..Race::default() });
    }
}

#[test]
fn a_copier_does_not_hold_up_roaming() {
    for case in 0..8 {
        let (relay, told, mover) = (case & 1 != 0, case & 2 != 0, case >> 2);
        println!("relays {relay}, node {mover} moves, told {told}");
        let race = Race { relay, ..Race::default() };
        check("a_copier_does_not_hold_up_roaming", 5, |s| race.roam(s, mover, told));
    }
}

/// Node 1's view of a stranger who sends `data`: no bytes come back, no event, no association.
fn silence(pair: &mut Pair, stranger: usize, data: &[u8]) -> Result<(), Failure> {
    pair.world.inject(stranger, 1, data);
    pair.drive_for(10 * MS)?;
    let answers = pair.world.outsider_got(stranger);
    ensure(&pair.world, answers.is_empty(), || {
        format!("{} answers to {} bad bytes", answers.len(), data.len())
    })?;
    let peers = pair.node(Side::B).stats().peers;
    let quiet = pair.events(Side::B).is_empty();
    ensure(&pair.world, peers == 0 && quiet, || "a stranger had an effect".into())
}

#[test]
fn damaged_first_messages_meet_silence() {
    check("damaged_first_messages_meet_silence", 3, |s| {
        let mut pair = Pair::with(real(s));
        let captured = Rc::new(RefCell::new(Vec::new()));
        let open = Rc::new(Cell::new(false));
        let (keep, gate) = (captured.clone(), open.clone());
        pair.hook(Side::A, move |n, data| {
            if n == 0 {
                keep.borrow_mut().clone_from(data);
            }
            if gate.get() { Fate::Pass } else { Fate::Drop }
        });
        pair.dial(Side::A);
        pair.drive_for(1 * MS)?;
        let first = captured.borrow().clone();
        ensure(&pair.world, first.len() > 100, || "no first message was caught".into())?;
        let stranger = pair.world.outsider("10.66.6.7:1".parse().unwrap());
        let mut rng = Rng::new(s.seed(), Domain::Plan, 0);
        for _ in 0..200 {
            let mut bad = first.clone();
            // Not the second MAC: nobody looks at it while no cookie is demanded, so that is a replay.
            let bit = rng.below((bad.len() as u64 - 16) * 8) as usize;
            bad[bit / 8] ^= 1 << (bit % 8);
            // Another wire major under a valid MAC would be answered; with a flipped bit the MAC is not valid.
            silence(&mut pair, stranger, &bad)?;
            let len = rng.below(first.len() as u64) as usize;
            silence(&mut pair, stranger, &first[..len])?;
            let mut noise = vec![0; rng.range(1, 1_400) as usize];
            rng.fill(&mut noise);
            silence(&mut pair, stranger, &noise)?;
        }
        // A copy of the good one gets one answer, no longer than itself, and has no other effect.
        pair.world.inject(stranger, 1, &first);
        pair.drive_for(10 * MS)?;
        let answers = pair.world.outsider_got(stranger);
        let bytes: usize = answers.iter().map(Vec::len).sum();
        ensure(&pair.world, answers.len() == 1 && bytes <= first.len(), || {
            format!("{bytes} bytes for {}", first.len())
        })?;
        ensure(&pair.world, pair.node(Side::B).stats().peers == 0, || "a replay made an association".into())?;
        let quiet = pair.events(Side::B).is_empty();
        ensure(&pair.world, quiet, || "a replay made an event".into())?;
        open.set(true);
        // The honest dial is not disturbed, and replays leave the association alone.
        pair.drive_for(secs(10))?;
        let (a, b) = (pair.peer(Side::A)?, pair.peer(Side::B)?);
        let before = pair.events(Side::B).len();
        for _ in 0..20 {
            pair.world.inject(stranger, 1, &first);
            pair.drive_for(secs(1))?;
        }
        let bytes: usize = pair.world.outsider_got(stranger).iter().map(Vec::len).sum();
        ensure(&pair.world, bytes <= 20 * first.len(), || format!("{bytes} bytes for 20 replays"))?;
        let after = pair.events(Side::B).len();
        ensure(&pair.world, after == before, || "a replay made an event".into())?;
        let stream = pair.open(Side::A, a, "still", Mode::Reliable)?;
        pair.send(Side::A, a, stream, &[b"here"]);
        pair.drive()?;
        let got = pair.read(Side::B, b, stream);
        ensure(&pair.world, got == [(0, b"here".to_vec())], || format!("{got:?}"))
    });
}

#[test]
fn a_flood_of_noise_costs_nobody_anything() {
    check("a_flood_of_noise_costs_nobody_anything", 2, |s| {
        let link = LinkConfig::default().with_rate(20_000_000, 60_000);
        let mut world = two(World::new(real(s)), mixed_flows(100), &link, &link);
        let stranger = world.outsider("10.66.6.7:1".parse().unwrap());
        let mut rng = Rng::new(s.seed(), Domain::Plan, 1);
        for i in 0..3_000 {
            let mut noise = vec![0; rng.range(1, 1_400) as usize];
            rng.fill(&mut noise);
            // Half of it looks like data packets, a quarter like first messages.
            match i % 4 {
                0 | 1 => noise[0] = 5,
                2 => noise[0] = 1,
                _ => {}
            }
            world.at(i * MS / 2, move |w| w.inject(stranger, 1, &noise));
        }
        finish(&mut world, secs(60))?;
        let answers = world.outsider_got(stranger).len();
        ensure(&world, answers == 0, || format!("{answers} answers to noise"))
    });
}

#[test]
fn dials_that_cross_make_one_association() {
    check("dials_that_cross_make_one_association", 20, |s| {
        let link =
            LinkConfig { jitter: 10 * MS, duplicate: 50_000, ..LinkConfig::default().with_loss(100_000) };
        let mut world = World::new(real(s).link(link));
        world.spawn(Station::sender([Flow::reliable(1, 1, 50, 500)]));
        world.spawn(Station::sender([Flow::reliable(2, 0, 50, 500)]));
        let both = |w: &World| (0..2).all(|i| w.app::<Station>(i).is_some_and(Station::all_closed));
        world.eventually(secs(120), "the end of both flows", both)?;
        for i in 0..2 {
            let station = world.app::<Station>(i).unwrap();
            let (ups, downs, got) = (station.ups, station.downs, station.received());
            let held = station.peers.len();
            ensure(&world, (ups, downs, got, held) == (1, 0, 50, 1), || {
                format!("node {i}: {ups} times up, {downs} down, {got} messages, {held} associations")
            })?;
        }
        credit_is_back(&mut world)
    });
}

#[test]
fn a_receiver_restarts() {
    check("a_receiver_restarts", 10, |s| {
        let link = LinkConfig::default().with_rate(4_000_000, 60_000).with_loss(10_000);
        let mut sender = Station::sender([Flow::reliable(1, 1, 5_000, 1_000)]);
        sender.redial = Some(500 * MS);
        let mut world = World::new(real(s).link(link));
        world.spawn(sender);
        world.spawn(Station::listener());
        let delivered = Rc::new(Cell::new(0));
        let noted = delivered.clone();
        world.at(secs(2), move |w| {
            noted.set(w.app::<Station>(1).unwrap().received());
            w.restart(1, Station::listener());
        });
        let back = |w: &World| w.app::<Station>(0).is_some_and(|a| a.ups == 2 && a.downs == 1);
        world.eventually(secs(60), "the new association", back)?;
        let (queued, lost) = {
            let (_, sending) = &world.app::<Station>(0).unwrap().flows[0];
            (sending.queued, sending.lost.unwrap_or_default().messages)
        };
        // The ledger: what was accepted was delivered or is reported lost.
        let delivered = delivered.get();
        ensure(&world, delivered > 0 && delivered + lost >= queued && lost <= queued, || {
            format!("{queued} queued, {delivered} delivered, {lost} reported lost")
        })?;
        world.run_for(secs(5))?;
        credit_is_back(&mut world)
    });
}

#[test]
fn a_sender_restarts_with_the_same_seed() {
    check("a_sender_restarts_with_the_same_seed", 10, |s| {
        let link = LinkConfig::default().with_rate(4_000_000, 60_000).with_loss(10_000);
        let mut world = two(World::new(real(s)), vec![Flow::reliable(1, 1, 5_000, 1_000)], &link, &link);
        let pause = s.seed() % 3 * 3_000;
        world.at(secs(2), |w| w.crash(0));
        world.at(secs(2) + Duration::from_millis(pause), |w| {
            w.restart(0, Station::sender([Flow::reliable(2, 1, 200, 1_000)]));
        });
        world.run_for(secs(2) + Duration::from_millis(pause + 1))?;
        world.eventually(secs(60), "the second life", |w| {
            w.app::<Station>(0).is_some_and(Station::all_closed)
        })?;
        let listener = world.app::<Station>(1).unwrap();
        let (ups, downs, got) = (listener.ups, listener.downs, listener.got[&2].count);
        ensure(&world, (ups, downs, got) == (2, 1, 200), || {
            format!("{ups} up, {downs} down, {got} messages")
        })?;
        credit_is_back(&mut world)
    });
}

#[test]
fn a_long_partition_keeps_the_association() {
    check("a_long_partition_keeps_the_association", 5, |s| {
        let link = LinkConfig::default().with_rate(8_000_000, 60_000);
        let mut world = two(World::new(real(s)), mixed_flows(500), &link, &link);
        world.at(500 * MS, |w| w.partition(&[0], &[1], true));
        world.at(secs(15), |w| w.partition(&[0], &[1], false));
        finish(&mut world, secs(60))?;
        let ups = world.app::<Station>(0).unwrap().ups;
        ensure(&world, ups == 1, || format!("{ups} associations"))
    });
}

#[test]
fn an_endless_partition_is_reported_with_what_it_cost() {
    check("an_endless_partition_is_reported_with_what_it_cost", 3, |s| {
        let mut pair = {
            let mut config = real(s);
            config.link = LinkConfig::delay(20 * MS);
            Pair::connected(config)?
        };
        let (pair, a) = (&mut pair.0, pair.1);
        let stream = pair.open(Side::A, a, "doomed", Mode::Reliable)?;
        pair.world.partition(&[0], &[1], true);
        pair.send(Side::A, a, stream, &[b"one", b"two", b"three"]);
        pair.drive_for(secs(60))?;
        let report = pair.events(Side::A).iter().find_map(|e| match e {
            Event::Disconnected { reason, lost, .. } => Some((*reason, lost.messages)),
            _ => None,
        });
        ensure(&pair.world, report == Some((DownReason::Unreachable, 3)), || format!("{report:?}"))?;
        let leased = pair.node(Side::A).leased() + pair.node(Side::B).leased();
        ensure(&pair.world, leased == 0, || format!("{leased} bytes are still leased"))
    });
}

#[test]
fn a_cut_in_one_direction_heals() {
    check("a_cut_in_one_direction_heals", 3, |s| {
        let link = LinkConfig::default().with_rate(8_000_000, 60_000);
        let mut world = two(World::new(real(s)), mixed_flows(500), &link, &link);
        let (from, to) = if s.seed() % 2 == 0 { (0, 1) } else { (1, 0) };
        world.at(500 * MS, move |w| w.link(from, to).config.cut = true);
        world.at(secs(12), move |w| w.link(from, to).config.cut = false);
        finish(&mut world, secs(60))
    });
}

#[test]
fn a_peer_that_never_reads_costs_its_quota() {
    check("a_peer_that_never_reads_costs_its_quota", 3, |s| {
        let mut world = World::new(WorldConfig::new(s.seed()));
        let flows = [Flow::reliable(1, 1, u64::MAX, 1_000), Flow::reliable(2, 2, 2_000, 1_000)];
        world.spawn(Station::sender(flows));
        world.spawn(Station::deaf());
        world.spawn(Station::listener());
        world.run_for(secs(60))?;
        let got = world.app::<Station>(2).unwrap().received();
        ensure(&world, got == 2_000, || format!("the reader got {got}"))?;
        let queued = world.app::<Station>(0).unwrap().flows[0].1.queued * 1_000;
        ensure(&world, queued <= 2 << 20, || {
            format!("{queued} bytes were accepted for a peer that reads nothing")
        })?;
        let leased = world.node(1).unwrap().leased();
        ensure(&world, leased <= 256 << 10, || format!("the deaf side leases {leased} bytes"))?;
        ensure(&world, world.app::<Station>(0).unwrap().downs == 0, || "an association ended".into())
    });
}

#[test]
fn streams_without_end_are_refused() {
    check("streams_without_end_are_refused", 1, |s| {
        let (mut pair, a, _) = Pair::connected(WorldConfig::new(s.seed()))?;
        for id in 0..5_000 {
            let label = format!("stream {id}");
            pair.command(Side::A, Command::Open { id, peer: a, label, mode: Mode::Reliable, priority: 16 });
            if id % 50 == 0 {
                pair.drive()?;
            }
        }
        pair.drive()?;
        let count =
            |pair: &mut Pair, side, f: fn(&Event) -> bool| pair.events(side).iter().filter(|e| f(e)).count();
        let ready = count(&mut pair, Side::A, |e| matches!(e, Event::StreamReady { .. }));
        let refused = count(&mut pair, Side::A, |e| matches!(e, Event::StreamRefused { .. }));
        let opened = count(&mut pair, Side::B, |e| matches!(e, Event::StreamOpened { .. }));
        println!("{ready} ready, {refused} refused, {opened} seen by the peer");
        ensure(&pair.world, ready + refused == 5_000 && refused > 0, || {
            format!("{ready} ready, {refused} refused")
        })?;
        ensure(&pair.world, opened <= ready, || format!("{opened} opened, {ready} ready"))?;
        let ceiling = pair.node(Side::B).ceiling();
        println!("ceiling of the peer {ceiling}");
        ensure(&pair.world, ceiling < 128 << 20, || format!("a ceiling of {ceiling} bytes"))?;
        let downs = count(&mut pair, Side::A, |e| matches!(e, Event::Disconnected { .. }));
        ensure(&pair.world, downs == 0, || "the association ended".into())
    });
}
