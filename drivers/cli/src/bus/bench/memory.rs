//! In one process: how many events go through, how fast each, and what waiting costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use net_sdk::Net;
use serde_json::Value;

use super::{Count, emit as emit_one, on_tokio, per_second, row};
use crate::bench::system;
use crate::failure::{Failure, Result};

/// Between two events whose time is taken.
const PACE: Duration = Duration::from_micros(100);
/// Events before that: the first ones pay for memory.
const WARM: usize = 100;

/// Every event reaches a subscriber; a producer that is refused tries again.
pub fn emit(producers: u64, events: u64) -> Result<Value> {
    on_tokio(async move {
        let bus = Net::builder().memory().build().await?;
        let events = events / producers * producers;
        let reader = tokio::spawn(Count::default().until(bus.subscribe().await?, events));
        let begun = Instant::now();
        let threads: Vec<_> = (0..producers)
            .map(|_| {
                let bus = bus.clone();
                std::thread::spawn(move || {
                    (0..events / producers).map(|n| emit_one(&bus, n)).sum::<Result<u64>>()
                })
            })
            .collect();
        let joined = tokio::task::spawn_blocking(move || {
            threads
                .into_iter()
                .map(|t| t.join().map_err(|_| Failure::failed("a producer panicked"))?)
                .sum::<Result<u64>>()
        });
        let refused = joined.await.map_err(Failure::failed)??;
        let accepted = begun.elapsed();
        let count = reader.await.map_err(Failure::failed)??;
        let delivered = begun.elapsed();
        count.check(events)?;
        let ledger = bus.stats().ledger;
        bus.shutdown().await;
        let mut told = row(&format!("emit_raw, {producers} producers"), events);
        told["producers"] = producers.into();
        told["accepted_per_s"] = per_second(events, accepted).into();
        told["delivered_per_s"] = per_second(events, delivered).into();
        told["refused"] = refused.into();
        told["lost"] = ledger.lost.total().into();
        Ok(told)
    })
}

/// From `emit` on a thread to a task on another, all on one core.
pub fn latency(core: usize, events: u64) -> Result<Value> {
    system::pin(Some(core))?;
    on_tokio(async move {
        let bus = Net::builder().memory().build().await?;
        let mut sub = bus.subscribe().await?;
        let begun = Instant::now();
        let now = move || begun.elapsed().as_nanos() as u64;
        let reader = tokio::spawn(async move {
            let mut times = Vec::new();
            while let Some(item) = sub.next().await {
                let Some(event) = item?.into_event() else { continue };
                let sent = event.raw.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
                times.push(now().saturating_sub(sent));
            }
            Ok::<_, Failure>(times)
        });
        let over = Arc::new(AtomicBool::new(false));
        let (done, producer) = (over.clone(), bus.clone());
        let emitting = tokio::task::spawn_blocking(move || {
            for _ in 0..events + WARM as u64 {
                std::thread::sleep(PACE);
                emit_one(&producer, now())?;
            }
            done.store(true, Ordering::Release);
            Ok::<_, Failure>(())
        });
        emitting.await.map_err(Failure::failed)??;
        bus.shutdown().await;
        let mut times = reader.await.map_err(Failure::failed)??.split_off(WARM);
        times.sort_unstable();
        if times.len() as u64 != events || !over.load(Ordering::Acquire) {
            return Err(Failure::failed("not every event was delivered"));
        }
        let at = |percent: usize| times[(times.len() - 1) * percent / 100] as f64 / 1000.0;
        let mut told = row("latency, one core", events);
        told["p50_us"] = at(50).into();
        told["p99_us"] = at(99).into();
        told["max_us"] = at(100).into();
        Ok(told)
    })
}

/// A bus, a subscriber, and nothing that happens.
pub fn idle(watched: Duration) -> Result<Value> {
    on_tokio(async move {
        let bus = Net::builder().memory().build().await?;
        let mut sub = bus.subscribe().await?;
        let reader = tokio::spawn(async move { while sub.next().await.is_some() {} });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let (begun, before) = (Instant::now(), system::processor_time());
        tokio::time::sleep(watched).await;
        let (took, after) = (begun.elapsed().as_secs_f64(), system::processor_time());
        bus.shutdown().await;
        reader.await.map_err(Failure::failed)?;
        let used = after.zip(before).map(|(after, before)| (after - before).as_secs_f64());
        let mut told = row("idle", 0);
        told["seconds"] = took.into();
        told["processor_us"] = used.map(|used| (used * 1e6).round()).into();
        told["core_percent"] = used.map(|used| used / took * 100.0).into();
        Ok(told)
    })
}
