//! `net bench`: speed between two processes on this machine, over loopback.
//!
//! This process sends; a second one, started from the same executable, counts. What it counted is
//! the result.

pub mod peer;

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use net_sdk::{Error, FireAndForget, Invite, Mesh, Peer, Reliable, Stream, StreamOptions, Ticket};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::args::{Bench, BenchCommon, BenchEcho, BenchStream, Mode};
use crate::failure::{Failure, Result};
use crate::output::{Output, millis};
use crate::ping;
use crate::relay::Relay;

/// What the far end counts.
const DATA: &str = "bench/data";
/// Where it says what it counted.
const CONTROL: &str = "bench/control";
/// Bytes that are handed over in one call.
const BATCH_BYTES: usize = 32 << 10;
/// The same in messages.
const BATCH: usize = 512;

/// The command.
pub async fn run(args: Bench, output: Output) -> Result<()> {
    match args {
        Bench::Stream(args) => stream(args, output).await,
        Bench::Echo(args) => echo(args, output).await,
    }
}

/// Both processes, connected.
struct Pair {
    mesh: Mesh,
    peer: Peer,
    relay: Option<Relay>,
    _child: Child,
}

impl Pair {
    async fn start(args: &BenchCommon) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("bench-peer");
        if let Some(bytes) = args.datagram {
            command.arg("--datagram").arg(bytes.to_string());
        }
        // It ends when its standard input does, whatever becomes of this process.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let silent = || Failure::failed("the second process did not start");
        let mut lines = BufReader::new(child.stdout.take().ok_or_else(silent)?).lines();
        let invite: Invite = lines.next_line().await?.ok_or_else(silent)?.parse().map_err(Failure::failed)?;

        let mut ticket: Ticket = invite.ticket;
        let mut relay = None;
        if args.loss > 0.0 {
            let here = SocketAddr::from(([127, 0, 0, 1], 0));
            let bad = Relay::start(here, *ticket.addrs.first().ok_or_else(silent)?, args.loss, Vec::new())?;
            ticket.addrs = vec![bad.addr()];
            relay = Some(bad);
        }
        let builder = Mesh::builder().mesh(invite.mesh).bind("127.0.0.1:0").accept(false);
        let mesh = match args.datagram {
            Some(bytes) => builder.max_datagram(bytes),
            None => builder,
        };
        let mesh = mesh.start().await?;
        let peer = mesh.connect(&ticket).await?;
        Ok(Self { mesh, peer, relay, _child: child })
    }

    /// What stands beside every figure.
    async fn conditions(&self, args: &BenchCommon) -> Result<Value> {
        let stats = self.peer.stats().await?;
        Ok(json!({
            "cipher": stats.cipher.name(),
            "datagram_size": stats.datagram_size,
            "congestion": "cubic",
            "runtime": "tokio",
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "loss_percent": args.loss,
            "rtt_us": stats.rtt.as_micros() as u64,
            "window": stats.window,
            "packets_sent": stats.packets_sent,
            "packets_lost": stats.packets_lost,
            "debug_build": cfg!(debug_assertions),
        }))
    }

    async fn end(self) {
        self.mesh.shutdown_within(Duration::from_secs(1)).await;
        drop(self.relay);
    }
}

/// Joins two objects.
fn joined(mut a: Value, b: Value) -> Value {
    if let (Value::Object(a), Value::Object(b)) = (&mut a, b) {
        a.extend(b);
    }
    a
}

fn show(result: &Value, title: &str, output: Output) {
    output.emit(result);
    if let Value::Object(fields) = result {
        let rows: Vec<(&str, String)> = fields
            .iter()
            .map(|(name, value)| {
                (name.as_str(), value.as_str().map_or_else(|| value.to_string(), Into::into))
            })
            .collect();
        output.table(title, &rows);
    }
}

async fn stream(args: BenchStream, output: Output) -> Result<()> {
    let pair = Pair::start(&args.common).await?;
    let options: StreamOptions = match args.mode {
        Mode::Unreliable => FireAndForget.into(),
        Mode::Reliable => Reliable.into(),
    };
    let control = pair.peer.open_stream(CONTROL, Reliable).await?;
    let data = pair.peer.open_stream(DATA, options).await?;
    let limit = Duration::from_secs(args.common.seconds);
    let sent = tokio::spawn(pour(data, args.payload as usize, limit)).await.map_err(Failure::failed)??;
    control.send(b"done").await?;
    let silent = || Failure::failed("the second process did not say what it counted");
    let counted =
        tokio::time::timeout(Duration::from_secs(30), control.recv()).await.map_err(|_| silent())??;
    let counted: Value = serde_json::from_slice(&counted.ok_or_else(silent)?).map_err(Failure::failed)?;

    let delivered = counted["messages"].as_u64().unwrap_or(0);
    let seconds = counted["seconds"].as_f64().unwrap_or(0.0);
    let per_second = |n: f64| if seconds > 0.0 { n / seconds } else { 0.0 };
    let mode = match args.mode {
        Mode::Unreliable => "unreliable",
        Mode::Reliable => "reliable",
    };
    let result = json!({
        "work": "stream",
        "payload": args.payload,
        "mode": mode,
        "sent": sent,
        "delivered": delivered,
        "seconds": seconds,
        "msgs_per_s": per_second(delivered as f64).round(),
        "mib_per_s": (per_second(delivered as f64 * f64::from(args.payload)) / 1_048_576.0 * 10.0).round() / 10.0,
    });
    show(&joined(result, pair.conditions(&args.common).await?), "One way", output);
    pair.end().await;
    if args.mode == Mode::Reliable && delivered != sent {
        return Err(Failure::new(crate::failure::Code::NotVerified, "not every reliable message arrived"));
    }
    Ok(())
}

/// Sends for as long as `limit`, as fast as credit allows.
async fn pour(stream: Stream, payload: usize, limit: Duration) -> Result<u64, Error> {
    let message = vec![0x5a; payload];
    let batch = vec![message.as_slice(); (BATCH_BYTES / payload).clamp(1, BATCH)];
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < limit {
        stream.send_batch(&batch).await?;
        sent += batch.len() as u64;
    }
    stream.finish().await?;
    Ok(sent)
}

async fn echo(args: BenchEcho, output: Output) -> Result<()> {
    let pair = Pair::start(&args.common).await?;
    let limit = Duration::from_secs(args.common.seconds);
    let begun = Instant::now();
    let mut callers = Vec::new();
    for _ in 0..args.concurrency {
        let stream = pair.peer.open_stream(ping::LABEL, Reliable).await?;
        callers.push(tokio::spawn(call(stream, args.payload as usize, begun, limit)));
    }
    let mut times: Vec<Duration> = Vec::new();
    for caller in callers {
        times.extend(caller.await.map_err(Failure::failed)??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |p: usize| times.get(times.len() * p / 100).copied().unwrap_or_default();
    let result = json!({
        "work": "echo",
        "payload": args.payload,
        "concurrency": args.concurrency,
        "calls": times.len(),
        "seconds": seconds,
        "calls_per_s": (times.len() as f64 / seconds).round(),
        "p50_us": at(50).as_micros() as u64,
        "p99_us": at(99).as_micros() as u64,
    });
    let conditions = pair.conditions(&args.common).await?;
    let packets = conditions["packets_sent"].as_f64().unwrap_or(0.0);
    let result = joined(result, json!({"packets_sent_per_call": packets / (times.len().max(1)) as f64}));
    show(&joined(result, conditions), &format!("There and back, half within {}", millis(at(50))), output);
    pair.end().await;
    Ok(())
}

async fn call(
    stream: Stream,
    payload: usize,
    begun: Instant,
    limit: Duration,
) -> Result<Vec<Duration>, Error> {
    let message = vec![0x5a; payload];
    let mut times = Vec::new();
    while begun.elapsed() < limit {
        let sent = Instant::now();
        stream.send(&message).await?;
        stream.recv().await?.ok_or(Error::Closed)?;
        times.push(sent.elapsed());
    }
    stream.finish().await?;
    Ok(times)
}
