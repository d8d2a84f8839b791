//! Many sessions on one socket: this node's. The other process has as many nodes, a socket each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use net_sdk::{Error, Peer, Reliable, Runtime, Stream, Ticket, rt};
use serde_json::{Value, json};

use super::{
    CLOCK_EVERY, CONTROL, DATA, Far, Near, counted, joined, options, rates, runtime, show, system, text,
};
use crate::args::{BenchSessions, Mode, Receive};
use crate::failure::{Code, Failure, Result};
use crate::output::Output;

/// After this, handshakes and what they took are over.
const SETTLE: Duration = Duration::from_secs(2);

pub fn run(args: BenchSessions, output: Output) -> Result<()> {
    let far = Far::start(&args.common, Receive::Many, args.count)?;
    let (invite, more) = (far.invite.clone(), far.more.clone());
    let (mode, idle) = (args.mode, args.idle);
    let result = runtime::run(args.common.runtime, move |runtime| async move {
        let before = system::resident();
        let near = Near::start(&args.common, &runtime, &invite).await?;
        let one = system::resident();
        let mut peers = vec![near.peer.clone()];
        for ticket in &more {
            peers.push(dial(&near, ticket).await?);
        }
        let result = if args.idle {
            rt::sleep(SETTLE).await;
            let all = system::resident();
            let more_than = |from: Option<u64>| all.zip(from).map(|(all, from)| all.saturating_sub(from));
            json!({
                "work": "sessions",
                "count": args.count,
                "idle": true,
                // The node, its buffers and all sessions.
                "memory_bytes": more_than(before),
                // All sessions but the first.
                "sessions_bytes": more_than(one),
                "ceiling_bytes": near.mesh.ceiling().await?,
            })
        } else {
            measure(&near, &args, peers.clone(), &runtime).await?
        };
        let result = joined(result, near.conditions(&args.common).await?);
        drop(peers);
        near.end().await;
        Ok(result)
    })?;
    drop(far);
    show(&result, "Many sessions", output);
    if !idle && mode == Mode::Reliable && result["delivered"] != result["sent"] {
        return Err(Failure::new(Code::NotVerified, "not every reliable message arrived"));
    }
    Ok(())
}

async fn dial(near: &Near, ticket: &Ticket) -> Result<Peer> {
    Ok(near.mesh.connect(ticket).await?)
}

async fn measure(
    near: &Near,
    args: &BenchSessions,
    peers: Vec<Peer>,
    runtime: &Arc<dyn Runtime>,
) -> Result<Value> {
    let control = near.peer.open_stream(CONTROL, Reliable).await?;
    let mut streams = Vec::new();
    for peer in &peers {
        streams.push(peer.open_stream(DATA, options(args.mode)).await?);
    }
    let limit = Duration::from_secs(args.seconds);
    let task = rt::spawn_on(runtime.clone(), pour(streams, args.payload as usize, limit));
    let (sent, streams) = task.await.map_err(Failure::failed)??;
    let finishing: Vec<_> = streams
        .into_iter()
        .map(|stream| rt::spawn_on(runtime.clone(), async move { stream.finish().await }))
        .collect();
    for finished in finishing {
        finished.await.map_err(Failure::failed)??;
    }
    let counted = counted(&control).await?;
    let result = json!({
        "work": "sessions",
        "count": args.count,
        "payload": args.payload,
        "mode": text(args.mode),
    });
    Ok(joined(result, rates(&counted, sent, args.payload)))
}

/// One message to each in turn.
async fn pour(streams: Vec<Stream>, payload: usize, limit: Duration) -> Result<(u64, Vec<Stream>), Error> {
    let message = vec![0x5a; payload];
    let begun = Instant::now();
    let mut sent = 0;
    for stream in streams.iter().cycle() {
        stream.send(&message).await?;
        sent += 1;
        if sent % CLOCK_EVERY == 0 && begun.elapsed() >= limit {
            break;
        }
    }
    Ok((sent, streams))
}
