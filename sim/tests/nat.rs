//! Nodes behind address translations, and nodes with several addresses.

use std::time::Duration;

use net_sim::nat::{Depends, NatConfig};
use net_sim::traffic::{Flow, Station};
use net_sim::{Failure, Sim, Topology, World, check, ensure};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn flow(to: u32) -> Flow {
    Flow { every: Some(Duration::from_millis(100)), ..Flow::reliable(u64::from(to) + 1, to, 100, 200) }
}

#[test]
fn a_leaf_behind_any_nat_reaches_a_public_node() {
    for mapping in Depends::ALL {
        for filtering in Depends::ALL {
            check(&format!("nat_{mapping:?}_{filtering:?}"), 1, |s| {
                let shape = Topology::NatedLeaves(4, NatConfig::new(mapping, filtering));
                let mut world = s.world();
                world.spawn(Station::listener());
                for id in 1..4 {
                    world.spawn(Station::sender([Flow { id, ..flow(0) }]));
                }
                shape.lay(&mut world);
                world.eventually(secs(60), "the flows", |w| {
                    (1..4).all(|i| w.app::<Station>(i).is_some_and(Station::all_closed))
                })?;
                let seen = world.mapped(1).expect("it sent something");
                ensure(&world, seen.ip() != world.addr(1).ip(), || "no translation".into())
            });
        }
    }
}

#[test]
fn nobody_reaches_a_leaf_that_sent_nothing() {
    let mut world = Sim::new(1).world();
    let leaf = world.spawn(Station::listener());
    let nat = world.nat(NatConfig::default());
    world.behind(leaf, nat);
    world.spawn(Station::sender([flow(leaf)]));
    world.run_for(secs(40)).unwrap();
    assert_eq!(world.app::<Station>(1).unwrap().failed_dials, 1);
    assert_eq!(world.stats().arrived, 0);
}

/// A leaf and a server; the translation forgets in the middle of the flow.
fn rebound(s: Sim, config: NatConfig, then: impl Fn(&mut World)) -> Result<World, Failure> {
    let mut world = s.world();
    world.spawn(Station::listener());
    let leaf = world.spawn(Station::sender([flow(0)]));
    let nat = world.nat(config);
    world.behind(leaf, nat);
    world.run_for(secs(3))?;
    then(&mut world);
    world.eventually(secs(60), "the flow", |w| w.app::<Station>(1).is_some_and(Station::all_closed))?;
    Ok(world)
}

#[test]
fn a_rebinding_is_survived() {
    check("a_rebinding_is_survived", 3, |s| {
        let world = rebound(s, NatConfig::default(), |w| {
            let before = w.mapped(1);
            w.schedule_fault("at 0s rebind 1".parse().unwrap());
            w.run_for(secs(2)).unwrap();
            assert_ne!(before, w.mapped(1));
        })?;
        ensure(&world, world.app::<Station>(1).unwrap().downs == 0, || "the association ended".into())
    });
}

#[test]
fn neighbours_behind_one_nat_meet_inside_and_by_hairpin_only_where_it_is_allowed() {
    for (hairpin, by_public) in [(false, false), (false, true), (true, true)] {
        let mut world = Sim::new(1).world();
        world.spawn(Station::listener());
        let a = world.spawn(Station::sender([flow(0)]));
        let b = world.spawn(Station::listener());
        let nat = world.nat(NatConfig { hairpin, filtering: Depends::Endpoint, ..NatConfig::default() });
        world.behind(a, nat);
        world.behind(b, nat);
        world.run_for(secs(2)).unwrap();
        let at = if by_public { world.mapped(a).unwrap() } else { world.addr(a) };
        let (entity, paths) = (world.entity(a), vec![net_proto::path::Path::udp(at)]);
        world.with_app(b, |_: &mut Station, cx| {
            cx.command(net_proto::node::Command::Dial { id: 0, entity, paths });
        });
        world.run_for(secs(3)).unwrap();
        let ups = world.app::<Station>(b).unwrap().ups;
        assert_eq!(ups, u64::from(hairpin || !by_public), "hairpin {hairpin}, by public {by_public}");
    }
}

#[test]
fn a_node_with_two_addresses_answers_from_the_one_that_was_asked() {
    let mut world = Sim::new(1).world();
    world.spawn(Station::listener());
    world.spawn(Station::listener());
    let second = "192.0.2.7:7000".parse().unwrap();
    world.also_at(0, second);
    let (entity, paths) = (world.entity(0), vec![net_proto::path::Path::udp(second)]);
    world.with_app(1, |_: &mut Station, cx| {
        cx.command(net_proto::node::Command::Dial { id: 0, entity, paths });
    });
    world.run_for(secs(5)).unwrap();
    assert_eq!(world.app::<Station>(1).unwrap().ups, 1);
    let peer = world.node(1).unwrap().peers().next().unwrap().0;
    let path = world.node(1).unwrap().peer_stats(peer).unwrap().path;
    assert_eq!(path.udp_addr(), Some(second));
}
