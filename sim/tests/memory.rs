//! What a node holds, measured: the bytes that become free when it is dropped, against the ceiling
//! that it prints.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::secs;
use net_sim::traffic::Station;
use net_sim::{LinkConfig, Sim, World};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator; only the sizes are added up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_thousand_idle_sessions_stay_within_the_ceiling() {
    const PEERS: u32 = 1_000;
    let mut config = Sim::new(1).config().link(LinkConfig::default());
    config.invariants_every = 1_000;
    let mut world = World::new(config);
    let hub = world.spawn(Station::listener());
    for _ in 0..PEERS {
        world.spawn(Station::friend([hub]));
    }
    world.run_for(secs(60)).unwrap();
    let (peers, ceiling) = {
        let node = world.node(hub).unwrap();
        (node.stats().peers, node.ceiling())
    };
    assert_eq!(peers, u64::from(PEERS));
    let before = LIVE.load(Ordering::Relaxed);
    // The application's own table goes too; it is small beside the node.
    world.crash(hub);
    let held = (before - LIVE.load(Ordering::Relaxed)) as u64;
    println!("{PEERS} idle sessions: {held} bytes, {} each; ceiling {ceiling}", held / u64::from(PEERS));
    assert!(held <= ceiling, "{held} bytes held, the ceiling is {ceiling}");
    // An idle session is meant to cost 2 KiB; this is the bar that keeps it from growing unseen.
    assert!(held / u64::from(PEERS) <= 16 << 10, "{} bytes each", held / u64::from(PEERS));
}
