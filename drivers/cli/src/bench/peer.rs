//! The process that counts.

use std::io::Write;
use std::time::{Duration, Instant};

use net_sdk::{Error, Mesh, Mode, Stream};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::{CONTROL, DATA};
use crate::args::BenchPeer;
use crate::failure::Result;
use crate::ping;

/// Silence after which nothing more is expected of fire-and-forget messages.
const QUIET: Duration = Duration::from_millis(500);

/// What arrived.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    messages: u64,
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    over: bool,
}

/// Serves until the standard input ends: then the process that started this one is gone.
pub async fn run(args: BenchPeer) -> Result<()> {
    let builder = Mesh::builder().bind("127.0.0.1:0");
    let mesh = match args.datagram {
        Some(bytes) => builder.max_datagram(bytes),
        None => builder,
    };
    let mesh = mesh.start().await?;
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", mesh.invite())?;
        out.flush()?;
    }
    let served = tokio::spawn(serve(mesh));
    let mut nothing = [0; 64];
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut nothing).await? > 0 {}
    served.abort();
    Ok(())
}

async fn serve(mesh: Mesh) -> Result<(), Error> {
    let (counted, counts) = watch::channel(Count::default());
    loop {
        let stream = mesh.accept_stream().await?;
        match stream.label() {
            ping::LABEL => _ = tokio::spawn(ping::echo(stream)),
            DATA => _ = tokio::spawn(count(stream, counted.clone())),
            CONTROL => _ = tokio::spawn(answer(stream, counts.clone())),
            _ => stream.stop(1),
        }
    }
}

async fn count(stream: Stream, counted: watch::Sender<Count>) {
    let mut count = Count::default();
    loop {
        let bytes = &mut count.bytes;
        let taken = stream.recv_many(4096, |message| *bytes += message.len() as u64).await;
        match taken {
            Ok(0) | Err(_) => break,
            Ok(taken) => {
                let now = Instant::now();
                count.messages += taken as u64;
                count.first.get_or_insert(now);
                count.last = Some(now);
                counted.send_replace(count);
            }
        }
    }
    count.over = true;
    counted.send_replace(count);
    // The stream lives until the counts are told.
    if stream.mode() == Mode::Reliable {
        _ = stream.finish().await;
    }
}

/// Says what was counted once the other side is done and nothing more comes.
async fn answer(control: Stream, mut counts: watch::Receiver<Count>) -> Result<(), Error> {
    while control.recv().await?.is_some() {
        while !counts.borrow_and_update().over {
            if !matches!(tokio::time::timeout(QUIET, counts.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        let count = *counts.borrow();
        let seconds = match (count.first, count.last) {
            (Some(first), Some(last)) => (last - first).as_secs_f64(),
            _ => 0.0,
        };
        let text = json!({"messages": count.messages, "bytes": count.bytes, "seconds": seconds}).to_string();
        control.send(text.as_bytes()).await?;
    }
    Ok(())
}
