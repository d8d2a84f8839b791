//! Messages there and back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use net_sdk::{Error, Reliable, Runtime, Stream, rt};
use serde_json::{Value, json};

use super::{Far, Near, joined, runtime, show};
use crate::args::{BenchEcho, Receive};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::ping;

pub fn run(args: BenchEcho, output: Output) -> Result<()> {
    let far = Far::start(&args.common, Receive::Many, 1)?;
    let invite = far.invite.clone();
    let result = runtime::run(args.common.runtime, move |runtime| async move {
        let near = Near::start(&args.common, &runtime, &invite).await?;
        let result = measure(&near, &args, &runtime).await?;
        near.end().await;
        Ok(result)
    })?;
    drop(far);
    show(&result, "There and back", output);
    Ok(())
}

async fn measure(near: &Near, args: &BenchEcho, runtime: &Arc<dyn Runtime>) -> Result<Value> {
    let limit = Duration::from_secs(args.seconds);
    let mut streams = Vec::new();
    for _ in 0..args.concurrency {
        streams.push(near.peer.open_stream(ping::LABEL, Reliable).await?);
    }
    let before = near.peer.stats().await?;
    let begun = Instant::now();
    let mut callers = Vec::new();
    for stream in streams {
        callers.push(rt::spawn_on(runtime.clone(), call(stream, args.payload as usize, begun, limit)));
    }
    let mut times: Vec<Duration> = Vec::new();
    let mut seconds: f64 = 0.0;
    for caller in callers {
        let (mine, took) = caller.await.map_err(Failure::failed)??;
        times.extend(mine);
        seconds = seconds.max(took.as_secs_f64());
    }
    times.sort_unstable();
    let at = |p: usize| {
        let time = times.get(times.len() * p / 100).copied().unwrap_or_default();
        time.as_nanos() as f64 / 1000.0
    };
    let conditions = near.conditions(&args.common).await?;
    let sent = conditions["packets_sent"].as_u64().unwrap_or(0) - before.packets_sent;
    let got = conditions["packets_received"].as_u64().unwrap_or(0) - before.packets_received;
    let result = json!({
        "work": "echo",
        "payload": args.payload,
        "concurrency": args.concurrency,
        "calls": times.len(),
        "seconds": seconds,
        "calls_per_s": (times.len() as f64 / seconds).round(),
        "p50_us": at(50),
        "p99_us": at(99),
        "packets_per_call": (sent + got) as f64 / times.len().max(1) as f64,
    });
    Ok(joined(result, conditions))
}

/// Calls one after the other; how long each took, and all of them.
async fn call(
    stream: Stream,
    payload: usize,
    begun: Instant,
    limit: Duration,
) -> Result<(Vec<Duration>, Duration), Error> {
    let message = vec![0x5a; payload];
    let mut times = Vec::new();
    let mut now = begun;
    while now - begun < limit {
        let sent = now;
        stream.send(&message).await?;
        stream.recv().await?.ok_or(Error::Closed)?;
        now = Instant::now();
        times.push(now - sent);
    }
    let took = now - begun;
    stream.finish().await?;
    Ok((times, took))
}
