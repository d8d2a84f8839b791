//! The same seed is the same run: within a process, across processes, whatever else runs.

mod common;

use std::process::Command;

use common::{MS, mixed_flows, secs, two};
use net_sim::topology::regular;
use net_sim::traffic::{Flow, Station};
use net_sim::{LinkConfig, Sim, World, check, ensure};

fn small(seed: u64) -> (u64, u64) {
    let link = LinkConfig { jitter: 3 * MS, duplicate: 20_000, ..LinkConfig::default().with_loss(20_000) };
    let mut world = two(World::new(Sim::new(seed).config()), mixed_flows(50), &link, &link);
    world.run_for(secs(5)).unwrap();
    (world.trace(), world.stats().events)
}

#[test]
fn one_seed_is_one_trace() {
    for seed in 0..5 {
        assert_eq!(small(seed), small(seed));
        assert_ne!(small(seed).0, small(seed + 1).0);
    }
}

#[test]
fn two_processes_agree() {
    let run = |seed: &str| {
        let out = Command::new(env!("CARGO_BIN_EXE_world"))
            .args(["--seed", seed, "--nodes", "12", "--seconds", "5"])
            .output()
            .expect("the program runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().find_map(|l| l.strip_prefix("trace ")).expect("a trace line").to_owned()
    };
    let first = run("7");
    assert_eq!(first, run("7"));
    assert_ne!(first, run("8"));
}

/// A few of the seeds that `.ci/determinism` compares between debug and release builds.
#[test]
fn many_seeds_agree_in_two_processes() {
    let run = || {
        let world = Command::new(env!("CARGO_BIN_EXE_world")).args(["traces", "--seeds", "12"]).output();
        let out = world.expect("the program runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let first = run();
    assert_eq!(first.lines().count(), 14, "{first}");
    assert_eq!(first, run());
}

#[test]
fn a_mesh_of_twenty_gets_everything_through() {
    check("a_mesh_of_twenty_gets_everything_through", 2, |s| {
        let link = LinkConfig {
            jitter: 5 * MS,
            duplicate: 10_000,
            corrupt: 1_000,
            ..LinkConfig::delay(20 * MS).with_loss(10_000)
        };
        let mut world = World::new(s.config().link(link));
        let graph = regular(s.seed(), 20, 6);
        for (i, neighbours) in graph.iter().enumerate() {
            let flows = neighbours.iter().map(|to| Flow {
                every: Some(200 * MS),
                ..Flow::reliable((i as u64) << 32 | u64::from(*to), *to, 20, 128)
            });
            world.spawn(Station::sender(flows.collect::<Vec<_>>()));
            world.drift(i as u32, i as i32 * 10 - 100);
        }
        let done = |w: &World| (0..20).all(|i| w.app::<Station>(i).is_some_and(Station::all_closed));
        world.eventually(secs(60), "the end of all flows", done)?;
        for (i, neighbours) in graph.iter().enumerate() {
            let station = world.app::<Station>(i as u32).unwrap();
            let (got, downs) = (station.received(), station.downs);
            let want = neighbours.len() as u64 * 20;
            ensure(&world, got == want && downs == 0, || {
                format!("node {i}: {got} of {want}, {downs} downs")
            })?;
        }
        common::credit_is_back(&mut world)
    });
}

/// Which of two nodes is called first, when neither can know yet what the other does, changes nothing.
#[test]
fn node_by_node_is_the_same_run() {
    let run = |seed: u64, by_node: bool| {
        let link = LinkConfig {
            jitter: 5 * MS,
            duplicate: 10_000,
            corrupt: 1_000,
            ..LinkConfig::delay(20 * MS).with_loss(10_000)
        };
        let mut config = Sim::new(seed).config().link(link);
        config.by_node = by_node;
        let mut world = World::new(config);
        for (i, neighbours) in regular(seed, 12, 4).into_iter().enumerate() {
            let flows = neighbours.into_iter().map(|to| Flow {
                every: (to % 2 == 0).then_some(100 * MS),
                ..Flow::reliable((i as u64) << 32 | u64::from(to), to, 200, 300)
            });
            world.spawn(Station::sender(flows.collect::<Vec<_>>()));
        }
        world.at(secs(1), |w| w.partition(&[0, 1, 2], &[3, 4, 5, 6], true));
        world.at(secs(2), |w| w.partition(&[0, 1, 2], &[3, 4, 5, 6], false));
        world.at(2_500 * MS, |w| w.restart(7, Station::listener()));
        world.at(3 * secs(1), |w| w.jump_clock(2, secs(1)));
        // How the time is sliced changes nothing either.
        for slice in [1, 7, 1_000, 2, 990, 2_000] {
            world.run_for(slice * MS).unwrap();
        }
        (world.trace(), world.stats().arrived, world.stats().events)
    };
    for seed in 0..3 {
        assert_eq!(run(seed, false), run(seed, true), "seed {seed}");
    }
}

#[test]
fn the_program_says_what_it_can_do() {
    let out = Command::new(env!("CARGO_BIN_EXE_world")).arg("--help").output().expect("the program runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && text.starts_with("usage: world [--seed N]"), "{text}");
    for command in ["bench", "campaign", "traces", "swarm", "replay", "shrink", "planted", "exhaust"] {
        assert!(text.contains(&format!("\n       world {command} ")), "{command}: {text}");
    }
}
