//! What a node holds, measured: the bytes that become free when it is dropped, against the ceiling
//! that it prints (`docs/MEMORY.md`).
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
        assert_eq!(node.ceiling(), node.ceilings().total());
        (node.stats().peers, node.ceilings())
    };
    assert_eq!(peers, u64::from(PEERS));
    let before = LIVE.load(Ordering::Relaxed);
    // The application's own table goes too; it is small beside the node.
    world.crash(hub);
    let held = (before - LIVE.load(Ordering::Relaxed)) as u64;
    println!("{PEERS} idle sessions: {held} bytes, {} each; {ceiling:?}", held / u64::from(PEERS));
    // What the node says of its peers is what they cost. Replay numbers and the application's own table
    // make the tenth that is missing.
    assert!(held <= ceiling.peers + ceiling.peers / 10, "{held} bytes held, {ceiling:?}");
    assert!(ceiling.peers <= held * 2, "{held} bytes held, {ceiling:?}");
    assert!(held <= 4 << 20, "{held} bytes held");
    // The rest is what the peers may send unasked, and limits that do not grow with them.
    let credit = (64 << 10) + (64 << 10);
    assert_eq!(ceiling.credit, u64::from(PEERS) * credit);
    assert!(ceiling.handshakes + ceiling.tables <= 16 << 20, "{ceiling:?}");
}
