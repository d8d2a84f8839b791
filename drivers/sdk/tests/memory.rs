//! What two nodes hold and how often they ask for memory, counted by the allocator of this process.
#![cfg(feature = "tokio")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use common::soon;
use net_sdk::{Mesh, Reliable, Result, rt};

struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

fn count(bytes: i64) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        count(layout.size() as i64);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        CALLS.fetch_add(1, Relaxed);
        count(new as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, new) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test, so that nothing else allocates beside it.
#[tokio::test]
async fn memory_stays_below_the_printed_ceiling_and_steady_traffic_asks_for_none() -> Result<()> {
    // No pool: then the ceiling is what streams, windows and sockets need, and says something.
    let small = || Mesh::builder().bind("127.0.0.1:0").config(|c| c.window_pool = 0);
    let before = LIVE.load(Relaxed);
    let b = small().start().await?;
    let a = small().mesh(b.secret()).start().await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;

    // A flood on eight streams that nobody reads, in messages of one byte and of many.
    let mut streams = Vec::new();
    for i in 0..8usize {
        let tx = soon("open", peer.open_stream("flood", Reliable)).await?;
        let message = vec![7; if i % 2 == 0 { 1 } else { 3000 }];
        for _ in 0..3 {
            while tx.try_send(&message).is_ok() {}
            rt::sleep(Duration::from_millis(5)).await;
        }
        streams.push((tx, soon("accept", b.accept_stream()).await?));
    }
    let ceiling = a.ceiling().await? + b.ceiling().await?;
    let held = PEAK.load(Relaxed) - before;
    println!("at most {held} bytes live, ceiling {ceiling}");
    assert!(held as u64 <= ceiling, "{held} bytes live, ceiling {ceiling}");
    for (tx, rx) in streams {
        tx.reset(0);
        drop((tx, rx));
    }

    // Steady traffic both ways on one stream.
    let tx = soon("open", peer.open_stream("steady", Reliable)).await?;
    tx.send(&[0; 1000]).await?;
    let rx = loop {
        let stream = soon("accept", b.accept_stream()).await?;
        if stream.label() == "steady" {
            break stream;
        }
    };
    rx.recv().await?;
    let message = [3; 1000];
    let round = async |count: usize| -> Result<()> {
        for _ in 0..count {
            for _ in 0..20 {
                tx.send(&message).await?;
                rx.send(&message).await?;
            }
            for (end, mut rest) in [(&rx, 20), (&tx, 20)] {
                while rest > 0 {
                    rest -= end.recv_many(rest, |m| assert_eq!(m.len(), 1000)).await?;
                }
            }
        }
        Ok(())
    };
    soon("warm-up", round(300)).await?;
    // A queue that reaches a new high asks for memory once more; then no part asks for any.
    for stretch in 1.. {
        let packets = a.stats().await?.datagrams_sent + b.stats().await?.datagrams_sent;
        // Without a time limit: that would be an allocation.
        let calls = CALLS.load(Relaxed);
        round(400).await?;
        let calls = CALLS.load(Relaxed) - calls;
        let packets = a.stats().await?.datagrams_sent + b.stats().await?.datagrams_sent - packets;
        println!("{calls} allocations over {packets} packets");
        assert!(packets >= 10_000, "{packets}");
        if calls == 0 {
            break;
        }
        assert!(stretch < 5, "still {calls} allocations over {packets} packets");
    }
    Ok(())
}
