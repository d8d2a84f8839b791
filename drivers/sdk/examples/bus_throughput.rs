//! Figures of the event bus in memory, one JSON row each: throughput with one and two producers,
//! latency, cost of an idle bus. `cargo run --release -p net-sdk --example bus_throughput`
//!
//! Throughput: every event is a fresh buffer of 64 bytes, accepted under FailProducer (a producer
//! that is refused tries again) and counted at a subscriber. Latency is meant to be read pinned to
//! one core (`taskset -c 0`), with one thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use net_sdk::Net;

const SIZE: usize = 64;

fn main() {
    let events: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10_000_000);
    let many = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    for producers in [1, 2] {
        many.block_on(throughput(producers, events));
    }
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    one.block_on(latency());
    one.block_on(idle());
}

async fn throughput(producers: u64, events: u64) {
    let bus = Net::builder().build().await.expect("a bus");
    let mut sub = bus.subscribe().await.expect("a subscription");
    let begin = Instant::now();
    let reader = tokio::spawn(async move {
        let mut seen = 0;
        let mut bytes = 0;
        while seen < events {
            let n = sub.next_many(4096, |item| {
                bytes += item.into_event().map_or(0, |e| e.raw.len());
            });
            seen += n.await.expect("events") as u64;
        }
        (seen, bytes)
    });
    let threads: Vec<_> = (0..producers)
        .map(|p| {
            let bus = bus.clone();
            std::thread::spawn(move || {
                let mut refused = 0u64;
                for n in 0..events / producers {
                    let mut body = vec![p as u8; SIZE];
                    body[..8].copy_from_slice(&n.to_le_bytes());
                    while bus.emit_raw(&body).is_err() {
                        refused += 1;
                        std::thread::yield_now();
                    }
                }
                refused
            })
        })
        .collect();
    let refused: u64 = threads.into_iter().map(|t| t.join().expect("a producer")).sum();
    let accepted = begin.elapsed();
    let (seen, bytes) = reader.await.expect("the reader");
    let all = begin.elapsed();
    let ledger = bus.stats().ledger;
    assert!(ledger.balances() && ledger.lost.total() == 0 && bytes as u64 == seen * SIZE as u64);
    println!(
        "{{\"row\":\"emit_raw\",\"producers\":{producers},\"events\":{seen},\"size\":{SIZE},\"accepted_per_s\":{},\"delivered_per_s\":{},\"refused\":{refused},\"lost\":0}}",
        per_second(seen, accepted),
        per_second(seen, all),
    );
}

fn per_second(n: u64, d: Duration) -> u64 {
    (u128::from(n) * 1_000_000_000 / d.as_nanos().max(1)) as u64
}

async fn latency() {
    let bus = Net::builder().build().await.expect("a bus");
    let mut sub = bus.subscribe().await.expect("a subscription");
    let begin = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let done = stop.clone();
    let reader = tokio::spawn(async move {
        let mut times = Vec::with_capacity(100_000);
        while !done.load(Ordering::Relaxed) {
            let Some(Ok(item)) = sub.next().await else { break };
            let Some(event) = item.into_event() else { continue };
            let sent = event.raw.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
            times.push(begin.elapsed().as_nanos() as u64 - sent);
        }
        times
    });
    for _ in 0..20_000 {
        let now = begin.elapsed().as_nanos() as u64;
        bus.emit_raw(now.to_le_bytes()).expect("room");
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    bus.shutdown().await;
    let mut times = reader.await.expect("the reader");
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{{\"row\":\"latency\",\"events\":{},\"p50_ns\":{},\"p99_ns\":{},\"max_ns\":{}}}",
        times.len(),
        at(50),
        at(99),
        at(100)
    );
}

async fn idle() {
    let bus = Net::builder().build().await.expect("a bus");
    let mut sub = bus.subscribe().await.expect("a subscription");
    let reader = tokio::spawn(async move { while sub.next().await.is_some() {} });
    tokio::task::yield_now().await;
    let used = cpu();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let used = cpu() - used;
    println!("{{\"row\":\"idle\",\"seconds\":5,\"cpu_ticks\":{used}}}");
    bus.shutdown().await;
    reader.await.expect("the reader");
}

/// Ticks of processor time of this process (100 a second on Linux); 0 elsewhere.
fn cpu() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
    fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum()
}
