//! Reliable streams over bad links: every message exactly once, in order, undamaged; every credit
//! back at the end. `NET_SIM_RUNS=1000` is the full measure.

mod common;

use common::{MS, finish, mixed_flows, real, secs, transfer, two};
use net_proto::node::Event;
use net_proto::stream::Mode;
use net_sim::pair::{Pair, Side};
use net_sim::traffic::{Flow, Station};
use net_sim::{Burst, LinkConfig, World, WorldConfig, check, ensure};

const RUNS: u64 = 3;

#[test]
fn a_pair_says_hello() {
    check("a_pair_says_hello", 20, |s| {
        let (mut pair, a, b) = Pair::connected(WorldConfig::new(s.seed()))?;
        let stream = pair.open(Side::A, a, "greeting", Mode::Reliable)?;
        pair.send(Side::A, a, stream, &[b"hello", b"mesh"]);
        pair.drive()?;
        let got = pair.read(Side::B, b, stream);
        let want = vec![(0, b"hello".to_vec()), (1, b"mesh".to_vec())];
        ensure(&pair.world, got == want, || format!("{got:?}"))?;
        let opened = pair
            .events(Side::B)
            .iter()
            .any(|e| matches!(e, Event::StreamOpened { label, .. } if label == "greeting"));
        ensure(&pair.world, opened, || "the label did not arrive".into())
    });
}

#[test]
fn lossless() {
    check("lossless", RUNS, |s| transfer(s, &LinkConfig::default(), 300, secs(60)).map(drop));
}

#[test]
fn loss_of_1_percent() {
    check("loss_of_1_percent", RUNS, |s| {
        transfer(s, &LinkConfig::default().with_loss(10_000), 300, secs(120)).map(drop)
    });
}

#[test]
fn loss_of_5_percent() {
    check("loss_of_5_percent", RUNS, |s| {
        transfer(s, &LinkConfig::default().with_loss(50_000), 200, secs(300)).map(drop)
    });
}

#[test]
fn loss_of_20_percent() {
    check("loss_of_20_percent", RUNS, |s| {
        transfer(s, &LinkConfig::default().with_loss(200_000), 100, secs(900)).map(drop)
    });
}

#[test]
fn losses_in_bursts() {
    check("losses_in_bursts", RUNS, |s| {
        let burst = Burst { enter: 5_000, leave: 50_000, loss: 900_000, longest: secs(2) };
        let link = LinkConfig { burst: Some(burst), ..LinkConfig::default() };
        transfer(s, &link, 200, secs(600)).map(drop)
    });
}

/// By then the window holds more packets than the hole swallows.
const HOLE: std::ops::Range<u64> = 15_000..20_000;

#[test]
fn five_thousand_in_a_row_are_lost() {
    check("five_thousand_in_a_row_are_lost", 1, |s| {
        // So many packets are in flight only on a long fat pipe, and with windows to match.
        let config = s.config().tune(|_, node| {
            node.session.streams.send_buffer = 16 << 20;
            node.session.streams.max_stream_window = 16 << 20;
            node.session.streams.max_session_window = 64 << 20;
            node.window_pool = 256 << 20;
        });
        let there = LinkConfig::delay(100 * MS).with_rate(1_000_000_000, 25 << 20).with_hole(HOLE);
        let flows = (0..4).map(|i| Flow::reliable(i, 1, 2_500, 10_000)).collect();
        let mut world = two(World::new(config), flows, &there, &LinkConfig::delay(100 * MS));
        finish(&mut world, secs(300))?;
        let lost = world.stats_between(0, 1).lost;
        ensure(&world, lost == HOLE.end - HOLE.start, || format!("{lost} datagrams were lost"))
    });
}

#[test]
fn an_outage_of_three_seconds() {
    check("an_outage_of_three_seconds", RUNS, |s| {
        let link = LinkConfig::default().with_rate(8_000_000, 40_000);
        let mut world = two(World::new(real(s)), mixed_flows(500), &link, &link);
        world.at(500 * MS, |w| w.partition(&[0], &[1], true));
        world.at(3_500 * MS, |w| w.partition(&[0], &[1], false));
        finish(&mut world, secs(60))
    });
}

#[test]
fn duplication() {
    check("duplication", RUNS, |s| {
        transfer(s, &LinkConfig { duplicate: 300_000, ..LinkConfig::default() }, 300, secs(60)).map(drop)
    });
}

#[test]
fn reordering() {
    check("reordering", RUNS, |s| {
        let link =
            LinkConfig { reorder: 200_000, reorder_by: 30 * MS, jitter: 5 * MS, ..LinkConfig::default() };
        transfer(s, &link, 300, secs(120)).map(drop)
    });
}

#[test]
fn corruption_and_truncation() {
    check("corruption_and_truncation", RUNS, |s| {
        let link = LinkConfig { corrupt: 50_000, truncate: 20_000, ..LinkConfig::default() };
        transfer(s, &link, 200, secs(300)).map(drop)
    });
}

#[test]
fn everything_at_once() {
    check("everything_at_once", RUNS, |s| {
        let link = LinkConfig {
            loss: 30_000,
            duplicate: 50_000,
            reorder: 50_000,
            reorder_by: 20 * MS,
            jitter: 10 * MS,
            corrupt: 10_000,
            truncate: 5_000,
            burst: Some(Burst { enter: 1_000, leave: 100_000, loss: 800_000, longest: secs(2) }),
            mark: 20_000,
            ..LinkConfig::default()
        }
        .with_rate(20_000_000, 60_000);
        transfer(s, &link, 150, secs(600)).map(drop)
    });
}

#[test]
fn a_path_of_300_ms() {
    check("a_path_of_300_ms", RUNS, |s| {
        transfer(s, &LinkConfig::delay(150 * MS).with_loss(10_000), 150, secs(300)).map(drop)
    });
}

#[test]
fn asymmetric_paths() {
    check("asymmetric_paths", RUNS, |s| {
        let there = LinkConfig::delay(5 * MS).with_rate(50_000_000, 100_000);
        let back = LinkConfig::delay(200 * MS).with_loss(100_000).with_rate(500_000, 20_000);
        let mut world = two(World::new(real(s)), mixed_flows(200), &there, &back);
        finish(&mut world, secs(300))
    });
}

#[test]
fn small_and_shrinking_datagrams() {
    check("small_and_shrinking_datagrams", RUNS, |s| {
        let link = LinkConfig::default().with_rate(10_000_000, 60_000);
        let mut world = two(World::new(real(s)), mixed_flows(400), &link, &link);
        // A black hole for what was probed and found good before.
        world.at(500 * MS, |w| {
            w.link(0, 1).config.mtu = 1_200;
            w.link(1, 0).config.mtu = 1_200;
        });
        finish(&mut world, secs(120))
    });
}

#[test]
fn marks_slow_down_but_lose_nothing() {
    check("marks_slow_down_but_lose_nothing", RUNS, |s| {
        let link =
            LinkConfig { mark_above: Some(10_000), ..LinkConfig::default().with_rate(10_000_000, 200_000) };
        let world = transfer(s, &link, 300, secs(60))?;
        let (lost, marked) = (world.link_stats().overflow, world.link_stats().marked);
        ensure(&world, marked > 0 && lost == 0, || format!("{marked} marked, {lost} lost in the queue"))
    });
}

#[test]
fn bleached_marks_do_not_stall() {
    check("bleached_marks_do_not_stall", RUNS, |s| {
        let link = LinkConfig { bleach: true, ..LinkConfig::default().with_rate(10_000_000, 60_000) };
        transfer(s, &link, 300, secs(60)).map(drop)
    });
}

#[test]
fn fire_and_forget_comes_at_most_once() {
    check("fire_and_forget_comes_at_most_once", RUNS, |s| {
        let flow = Flow { mode: Mode::FireAndForget, ..Flow::reliable(1, 1, 2_000, 500) };
        let link = LinkConfig { duplicate: 100_000, loss: 50_000, ..LinkConfig::default() };
        let mut world = two(World::new(real(s)), vec![flow], &link, &link);
        world.eventually(secs(120), "the end", |w| w.app::<Station>(0).is_some_and(Station::all_closed))?;
        let got = world.app::<Station>(1).unwrap().received();
        ensure(&world, (1_600..=2_000).contains(&got), || format!("{got} of 2,000 arrived"))?;
        common::credit_is_back(&mut world)
    });
}
