//! Messages one way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use net_sdk::{Error, Reliable, Runtime, Stream, rt};
use serde_json::{Value, json};

use super::{CLOCK_EVERY, CONTROL, DATA, Far, Near, counted, joined, options, rates, runtime, show, text};
use crate::args::{BenchStream, Mode};
use crate::failure::{Code, Failure, Result};
use crate::output::Output;

pub fn run(args: BenchStream, output: Output) -> Result<()> {
    let far = Far::start(&args.common, args.receive, 1)?;
    let invite = far.invite.clone();
    let mode = args.mode;
    let result = runtime::run(args.common.runtime, move |runtime| async move {
        let near = Near::start(&args.common, &runtime, &invite).await?;
        let result = measure(&near, &args, &runtime).await?;
        near.end().await;
        Ok(result)
    })?;
    drop(far);
    show(&result, "One way", output);
    if mode == Mode::Reliable && result["delivered"] != result["sent"] {
        return Err(Failure::new(Code::NotVerified, "not every reliable message arrived"));
    }
    Ok(())
}

async fn measure(near: &Near, args: &BenchStream, runtime: &Arc<dyn Runtime>) -> Result<Value> {
    let control = near.peer.open_stream(CONTROL, Reliable).await?;
    let data = near.peer.open_stream(DATA, options(args.mode)).await?;
    let limit = Duration::from_secs(args.seconds);
    let task = rt::spawn_on(runtime.clone(), pour(data, args.payload as usize, limit));
    let sent = task.await.map_err(Failure::failed)??;
    let counted = counted(&control).await?;
    let result = json!({
        "work": "stream",
        "payload": args.payload,
        "mode": text(args.mode),
        "receive": text(args.receive),
    });
    let result = joined(result, rates(&counted, sent, args.payload));
    Ok(joined(result, near.conditions(&args.common).await?))
}

/// Sends for as long as `limit`, one message in a call, as fast as credit allows.
async fn pour(stream: Stream, payload: usize, limit: Duration) -> Result<u64, Error> {
    let message = vec![0x5a; payload];
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < limit {
        for _ in 0..CLOCK_EVERY {
            stream.send(&message).await?;
        }
        sent += CLOCK_EVERY;
    }
    stream.finish().await?;
    Ok(sent)
}
