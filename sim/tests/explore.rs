#![allow(missing_docs)]
mod common;
use common::{MS, secs, two};
use net_sim::traffic::{Flow, Station};
use net_sim::{LinkConfig, Sim, World};
#[test]
fn explore() {
    let link = LinkConfig::delay(20 * MS).with_rate(100_000_000, 500_000);
    let flow = Flow::reliable(1, 1, u64::MAX, 8_000);
    let mut world = two(World::new(Sim::new(0).config()), vec![flow], &link, &link);
    let step: u32 = std::env::var("STEP").map_or(50, |s| s.parse().unwrap());
    let n: u32 = std::env::var("N").map_or(160, |s| s.parse().unwrap());
    let mut before = 0;
    for i in 0..n {
        world.run_for(step * MS).unwrap();
        let got = world.app::<Station>(1).unwrap().got.get(&1).map_or(0, |g| g.bytes);
        let peer = *world.app::<Station>(0).unwrap().peers.keys().next().unwrap();
        let s = world.node(0).unwrap().peer_stats(peer).unwrap();
        let l = world.stats_between(0, 1);
        println!("{} ms: {:.1} Mbit/s cwnd {} flight {} rtt {:?} min {:?} lost {} of {}  size {} overflow {}", (i + 1) * step,
            (got - before) as f64 * 8.0 / (f64::from(step) * 1e3), s.window, s.in_flight, s.rtt, s.rtt_min, s.packets_lost, s.packets_sent, s.datagram_size, l.overflow);
        before = got;
    }
}
