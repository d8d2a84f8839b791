//! `net ping`: round trips to a node.

use std::time::{Duration, Instant};

use net_sdk::{Error, Invite, Mesh, Mode, Peer, Reliable, Stream, Ticket};
use serde_json::json;

use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::output::{Output, millis};
use crate::{args, state, transfer};

/// The label of a stream whose messages come back.
pub const LABEL: &str = "net/echo/1";
/// How long to wait for an echo. Several losses in a row are recovered in less.
const WAIT: Duration = Duration::from_secs(5);

/// Sends every message back, until the stream ends.
pub async fn echo(stream: Stream) {
    if stream.mode() != Mode::Reliable {
        return;
    }
    while let Ok(Some(message)) = stream.recv().await {
        if stream.send(&message).await.is_err() {
            return;
        }
    }
    _ = stream.finish().await;
}

/// The command.
pub async fn run(args: args::Ping, config: &Config, output: Output) -> Result<()> {
    let (mesh, ticket) = if args.to.starts_with("nt1") {
        let ticket: Ticket = args.to.parse().map_err(Failure::usage)?;
        let dir = state::dir(args.state.dir.clone().or_else(|| config.dir.clone()))?;
        (config.apply(Mesh::builder().dir(dir).accept(false)).start().await?, ticket)
    } else {
        let invite: Invite = transfer::read_invite(&args.to)?;
        let builder = config.apply(Mesh::builder().mesh(invite.mesh.clone()).accept(false));
        (builder.start().await?, invite.ticket)
    };
    let ended = tokio::select! {
        ended = measure(&mesh, ticket, &args, output) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    mesh.shutdown_within(Duration::from_secs(1)).await;
    ended
}

async fn measure(mesh: &Mesh, ticket: Ticket, args: &args::Ping, output: Output) -> Result<()> {
    let begun = Instant::now();
    let peer = mesh.connect(&ticket).await?;
    let connect = begun.elapsed();
    let addr = peer.addr().map_or("?".to_string(), |addr| addr.to_string());
    output.say(format!(
        "connected to {:?} at {addr} in {}, {}",
        peer.id(),
        millis(connect),
        peer.cipher().name()
    ));
    output.emit(&json!({
        "event": "connected", "id": peer.id().to_string(), "addr": addr,
        "micros": connect.as_micros() as u64, "cipher": peer.cipher().name(),
    }));
    let stream = peer.open_stream(LABEL, Reliable).await?;
    let mut times = Vec::new();
    for seq in 0..args.count {
        if seq > 0 {
            tokio::time::sleep(Duration::from_millis(args.interval)).await;
        }
        let begun = Instant::now();
        stream.send(&seq.to_le_bytes()).await?;
        match tokio::time::timeout(WAIT, stream.recv()).await {
            Ok(Ok(Some(_))) => times.push(begun.elapsed()),
            Ok(Ok(None) | Err(Error::Stopped(_) | Error::Reset(_))) => return no_echo(&peer, output).await,
            Ok(Err(error)) => return Err(error.into()),
            Err(_) if times.is_empty() => return no_echo(&peer, output).await,
            Err(_) => {
                return Err(Failure::new(Code::Unreachable, format_args!("no echo in {} s", WAIT.as_secs())));
            }
        }
        let time = times[times.len() - 1];
        output.say(format!("{seq:3}  {}", millis(time)));
        output.emit(&json!({"event": "echo", "seq": seq, "micros": time.as_micros() as u64}));
    }
    _ = stream.finish().await;
    let stats = peer.stats().await?;
    times.sort();
    let (least, most) = (times[0], times[times.len() - 1]);
    let mean = times.iter().sum::<Duration>() / times.len() as u32;
    output.say(format!(
        "{} echoes, least {}, mean {}, most {}; {} of {} packets lost, datagrams up to {} B",
        times.len(),
        millis(least),
        millis(mean),
        millis(most),
        stats.packets_lost,
        stats.packets_sent,
        stats.datagram_size
    ));
    output.emit(&json!({
        "event": "done", "echoes": times.len(), "min_us": least.as_micros() as u64,
        "mean_us": mean.as_micros() as u64, "max_us": most.as_micros() as u64,
        "transport_rtt_us": stats.rtt.as_micros() as u64, "packets_sent": stats.packets_sent,
        "packets_lost": stats.packets_lost, "datagram_size": stats.datagram_size,
    }));
    Ok(())
}

/// The node is there, but its program has no echo: what the transport measured must do.
async fn no_echo(peer: &Peer, output: Output) -> Result<()> {
    let stats = peer.stats().await?;
    output.say(format!("its program answers no echo; the transport's round trip is {}", millis(stats.rtt)));
    output.emit(&json!({"event": "done", "echoes": 0, "transport_rtt_us": stats.rtt.as_micros() as u64}));
    Ok(())
}
