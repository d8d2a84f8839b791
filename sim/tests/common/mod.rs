//! What several scenarios share.
#![allow(dead_code)]

use std::time::Duration;

use net_proto::node::Command;
use net_proto::stream::Mode;
use net_sim::traffic::{Flow, MARKER, Station};
use net_sim::{Failure, LinkConfig, Sim, World, ensure};

pub const MS: Duration = Duration::from_millis(1);

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A world with real ciphers that watches for plaintext on the wire.
pub fn real(s: Sim) -> net_sim::WorldConfig {
    let mut config = s.config();
    config.real_ciphers = true;
    config.marker = Some(MARKER.to_vec());
    config
}

/// Flows in both reliable modes and several sizes, from node 0 to node 1.
pub fn mixed_flows(messages: u64) -> Vec<Flow> {
    vec![
        Flow::reliable(1, 1, messages, 1_000),
        Flow::reliable(2, 1, messages * 2, 40),
        Flow { mode: Mode::Unordered, ..Flow::reliable(3, 1, messages, 3_000) },
        Flow::reliable(4, 1, messages / 10 + 1, 20_000),
    ]
}

/// Starts a listener at 1 and a sender at 0, the way there and the way back given apart.
pub fn two(mut world: World, flows: Vec<Flow>, there: &LinkConfig, back: &LinkConfig) -> World {
    let sender = world.spawn(Station::sender(flows));
    let listener = world.spawn(Station::listener());
    world.link(sender, listener).config = there.clone().into();
    world.link(listener, sender).config = back.clone().into();
    world
}

/// Runs until the streams of node 0 are over; then every message was received exactly once (the
/// stations check order and content), and after the goodbye every credit is back.
pub fn finish(world: &mut World, limit: Duration) -> Result<(), Failure> {
    world.eventually(limit, "the end of all streams", |w| {
        w.app::<Station>(0).is_some_and(Station::all_closed)
    })?;
    let flows: Vec<Flow> = world.app::<Station>(0).unwrap().flows.iter().map(|(f, _)| *f).collect();
    for flow in flows {
        let got = world.app::<Station>(flow.to).unwrap().got.get(&flow.id).map_or(0, |r| r.count);
        ensure(world, got == flow.messages, || format!("flow {}: {got} of {}", flow.id, flow.messages))?;
    }
    credit_is_back(world)
}

/// Says goodbye everywhere, then nothing is leased and nobody is connected.
pub fn credit_is_back(world: &mut World) -> Result<(), Failure> {
    for place in 0..world.len() as u32 {
        world.with_app(place, |station: &mut Station, cx| {
            station.redial = None;
            for peer in station.peers.keys() {
                cx.command(Command::Disconnect { peer: *peer, code: 0 });
            }
        });
    }
    let nobody = |w: &World| (0..w.len() as u32).filter_map(|p| w.node(p)).all(|n| n.stats().peers == 0);
    world.eventually(secs(60), "the end of all associations", nobody)?;
    for place in 0..world.len() as u32 {
        let leased = world.node(place).map_or(0, |n| n.leased());
        ensure(world, leased == 0, || format!("node {place} still has {leased} bytes leased"))?;
    }
    Ok(())
}

/// The whole thing over one kind of link in both directions.
pub fn transfer(s: Sim, link: &LinkConfig, messages: u64, limit: Duration) -> Result<World, Failure> {
    let mut world = two(World::new(real(s)), mixed_flows(messages), link, link);
    finish(&mut world, limit)?;
    Ok(world)
}
