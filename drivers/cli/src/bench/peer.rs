//! The process that counts.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use net_sdk::{Error, Mesh, Mode, Runtime, Stream, rt};
use serde_json::{Value, json};

use super::{CLOCK_EVERY, CONTROL, DATA, builder, joined, runtime};
use crate::args::{BenchPeer, Receive};
use crate::failure::Result;
use crate::ping;

/// Silence after which nothing more is expected of fire-and-forget messages.
const QUIET: Duration = Duration::from_millis(500);
/// How often it is looked whether a stream ended.
const LOOK: Duration = Duration::from_millis(5);

/// What arrived, over all streams.
struct Count {
    since: Instant,
    messages: AtomicU64,
    bytes: AtomicU64,
    /// Nanoseconds from `since` on.
    first: AtomicU64,
    last: AtomicU64,
    /// Data streams that are open.
    open: AtomicU64,
    seen: AtomicBool,
}

impl Count {
    fn add(&self, messages: u64, bytes: u64) {
        let now = self.since.elapsed().as_nanos() as u64;
        self.messages.fetch_add(messages, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        self.first.fetch_min(now, Relaxed);
        self.last.fetch_max(now, Relaxed);
    }

    fn over(&self) -> bool {
        self.seen.load(Relaxed) && self.open.load(Relaxed) == 0
    }

    fn told(&self) -> Value {
        let seconds = self.last.load(Relaxed).saturating_sub(self.first.load(Relaxed)) as f64 / 1e9;
        let [messages, bytes] = [&self.messages, &self.bytes].map(|counter| counter.load(Relaxed));
        json!({"messages": messages, "bytes": bytes, "seconds": seconds})
    }
}

/// Serves until the standard input ends: then the process that started this one is gone.
pub fn run(args: BenchPeer) -> Result<()> {
    // The thread waits for the end; the runtime's tasks serve.
    let (tell, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let mut nothing = [0; 64];
        while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
        _ = tell.send(());
    });
    let name = args.common.runtime;
    std::thread::spawn(move || {
        if let Err(failure) = runtime::run(name, move |runtime| start(args, runtime)) {
            _ = writeln!(std::io::stderr(), "net bench-peer: {}", failure.what);
        }
    });
    _ = ended.recv();
    Ok(())
}

async fn start(args: BenchPeer, runtime: Arc<dyn Runtime>) -> Result<()> {
    let count = Arc::new(Count {
        since: Instant::now(),
        messages: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        first: AtomicU64::new(u64::MAX),
        last: AtomicU64::new(0),
        open: AtomicU64::new(0),
        seen: AtomicBool::new(false),
    });
    let first = builder(&args.common, &runtime).bind(args.common.bind).start().await?;
    let secret = first.secret();
    let mut lines = format!("{}\n", first.invite());
    let mut nodes = vec![first];
    for _ in 1..args.nodes {
        let anywhere = SocketAddr::new(args.common.bind.ip(), 0);
        let mesh = builder(&args.common, &runtime).mesh(secret.clone()).bind(anywhere).start().await?;
        lines += &format!("{}\n", mesh.ticket());
        nodes.push(mesh);
    }
    {
        let mut out = std::io::stdout().lock();
        out.write_all(lines.as_bytes())?;
        out.flush()?;
    }
    let serving: Vec<_> = nodes
        .into_iter()
        .map(|mesh| rt::spawn_on(runtime.clone(), serve(mesh, count.clone(), args.receive)))
        .collect();
    for served in serving {
        _ = served.await;
    }
    Ok(())
}

async fn serve(mesh: Mesh, count: Arc<Count>, receive: Receive) -> Result<(), Error> {
    loop {
        let stream = mesh.accept_stream().await?;
        match stream.label() {
            ping::LABEL => _ = rt::spawn(ping::echo(stream)),
            DATA => _ = rt::spawn(tally(stream, count.clone(), receive)),
            CONTROL => _ = rt::spawn(answer(stream, count.clone(), mesh.clone())),
            _ => stream.stop(1),
        }
    }
}

async fn tally(stream: Stream, count: Arc<Count>, receive: Receive) {
    count.open.fetch_add(1, Relaxed);
    count.seen.store(true, Relaxed);
    match receive {
        Receive::Many => loop {
            let mut bytes = 0;
            match stream.recv_many(4096, |message| bytes += message.len() as u64).await {
                Ok(0) | Err(_) => break,
                Ok(taken) => count.add(taken as u64, bytes),
            }
        },
        Receive::One => {
            let (mut messages, mut bytes) = (0, 0);
            while let Ok(Some(len)) = stream.recv_with(<[u8]>::len).await {
                messages += 1;
                bytes += len as u64;
                if messages == CLOCK_EVERY {
                    count.add(messages, bytes);
                    (messages, bytes) = (0, 0);
                }
            }
            if messages > 0 {
                count.add(messages, bytes);
            }
        }
    }
    count.open.fetch_sub(1, Relaxed);
    // The stream lives until the counts are told.
    if stream.mode() == Mode::Reliable {
        _ = stream.finish().await;
    }
}

/// Says what was counted once the other side is done and nothing more comes.
async fn answer(control: Stream, count: Arc<Count>, mesh: Mesh) -> Result<(), Error> {
    while control.recv().await?.is_some() {
        let mut quiet = Duration::ZERO;
        let mut before = count.messages.load(Relaxed);
        while !count.over() && quiet < QUIET {
            rt::sleep(LOOK).await;
            let now = count.messages.load(Relaxed);
            quiet = if now == before { quiet + LOOK } else { Duration::ZERO };
            before = now;
        }
        // First messages of strangers: those of a flood.
        let bogus = json!({"bogus": mesh.stats().await?.handshake.mac1});
        control.send(joined(count.told(), bogus).to_string().as_bytes()).await?;
    }
    Ok(())
}
