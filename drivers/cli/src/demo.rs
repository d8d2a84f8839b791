//! `net demo`: three real nodes, a link that loses datagrams, and a file that arrives whole.
//!
//! `a` sends a file to `b` and its lines to the third node `c`, with readings beside them that
//! nobody sends twice; `b` tells `c` what it got. Then one program of the event bus runs twice: in memory, and
//! with `a` emitting what `b` keeps and `c` reads. All of it passes relays that lose and listen.

mod bus;
mod input;
mod report;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use blake3::Hasher;
use net_sdk::net::Hosting;
use net_sdk::{
    Error, FireAndForget, Mesh, Net, Peer, PeerStats, Reliable, SdkError, Stream, StreamStats, Ticket,
};
use tokio::task::{JoinError, JoinHandle};

use crate::eavesdrop;
use crate::failure::{Code, Failure, Result};
use crate::output::{Bar, Output};
use crate::relay::Relay;
use crate::{args, output};
use input::Input;

/// The demo is over by then, whole or not. Start and end of the process fit in what is left of 15 s.
const LIMIT: Duration = Duration::from_secs(14);
/// Bytes of the file in one message.
const BLOCK: usize = 64 << 10;
/// Lines that are queued at once.
const LINES: usize = 128;
/// After so many bytes `b` tells `c` what it has.
const RECEIPT: u64 = 1 << 20;
const READING: Duration = Duration::from_millis(2);

const FILE: &str = "demo/file";
const LINE: &str = "demo/lines";
const READINGS: &str = "demo/readings";
const RECEIPTS: &str = "demo/receipts";
/// The name of the events that `b` keeps.
const EVENTS: &str = "demo";

/// What arrived of a stream.
struct Arrived {
    messages: u64,
    bytes: u64,
    hash: blake3::Hash,
}

/// Everything that the closing table tells.
struct Told {
    input: Input,
    loss: f64,
    file: Arrived,
    lines: Arrived,
    receipts: u64,
    receipt: Option<blake3::Hash>,
    readings_sent: u64,
    readings: u64,
    in_memory: bus::Got,
    on_mesh: bus::Got,
    took: Duration,
    to_b: PeerStats,
    to_c: PeerStats,
    file_stats: StreamStats,
    line_stats: StreamStats,
    relay: report::Relayed,
    whole: Duration,
}

/// The command.
pub async fn run(args: args::Demo, watch: &args::Watch, output: Output) -> Result<()> {
    let late = || {
        Failure::new(Code::NotVerified, format_args!("not everything arrived in {} s", LIMIT.as_secs()))
            .remedy("try a smaller --input or a smaller --loss, and the release build")
    };
    let told = tokio::time::timeout(LIMIT, show(args, watch, output)).await.map_err(|_| late())??;
    report::tell(&told, output)
}

async fn show(args: args::Demo, watch: &args::Watch, output: Output) -> Result<Told> {
    let begun = Instant::now();
    let input = tokio::task::spawn_blocking(move || Input::load(args.input)).await.map_err(bug)??;
    output.say(format!(
        "Three nodes on this machine; each datagram between them passes a relay that loses {} % each way.\n\
         a sends b {} ({}) and c its {} {}.",
        args.loss,
        input.name,
        output::size(input.bytes.len() as u64),
        input.lines.len(),
        input.kind,
    ));
    let b = watch.apply(Mesh::builder().bind("127.0.0.1:0").event_bus(), "-b").start().await?;
    let [a, c] = [start(&b, watch, "-a").await?, start(&b, watch, "-c").await?];

    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let relay = |to: &Mesh| Relay::start(here, to.local_addrs()[0], args.loss, input.markers());
    let (relay_b, relay_c) = (relay(&b)?, relay(&c)?);
    let ticket = |to: &Mesh, relay: &Relay| Ticket { entity: to.id(), addrs: vec![relay.addr()] };
    let (to_b, to_c) = (ticket(&b, &relay_b), ticket(&c, &relay_c));
    let (ab, ac, bc) = tokio::try_join!(a.connect(&to_b), a.connect(&to_c), b.connect(&to_c))?;

    let progress = output.progress();
    let file_bar = progress.bytes("file", input.bytes.len() as u64);
    let line_bar = progress.count(input.kind, input.lines.len() as u64);
    let at_b = tokio::spawn(far_file(b.clone(), bc, file_bar));
    let at_c = tokio::spawn(far_rest(c.clone(), line_bar));

    let sending = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let file = tokio::spawn(send_file(ab.clone(), input.bytes.clone()));
    let lines = tokio::spawn(send_lines(ac.clone(), input.clone()));
    let readings = tokio::spawn(send_readings(ac.clone(), over.clone()));
    let file_stats = file.await.map_err(bug)??;
    let took = sending.elapsed();
    let line_stats = lines.await.map_err(bug)??;
    over.store(true, Relaxed);
    let readings_sent = readings.await.map_err(bug)??;
    let file = at_b.await.map_err(bug)??;
    let at_c = at_c.await.map_err(bug)??;
    let in_memory = Net::builder().memory().build().await?;
    let in_memory = bus::program(in_memory.clone(), in_memory).await?;
    let on_mesh = on_mesh([&a, &b, &c], to_b).await?;
    let (to_b, to_c) = (ab.stats().await?, ac.stats().await?);
    progress.clear();

    let quick = Duration::from_millis(500);
    _ = tokio::join!(a.shutdown_within(quick), b.shutdown_within(quick), c.shutdown_within(quick));
    let relay =
        tokio::task::spawn_blocking(move || report::Relayed::new([relay_b, relay_c])).await.map_err(bug)?;
    Ok(Told {
        input,
        loss: args.loss,
        file,
        lines: at_c.lines,
        receipts: at_c.receipts,
        receipt: at_c.receipt,
        readings_sent,
        readings: at_c.readings,
        in_memory,
        on_mesh,
        took,
        to_b,
        to_c,
        file_stats,
        line_stats,
        relay,
        whole: begun.elapsed(),
    })
}

/// The program of the event bus, from `a` over `b` to `c`.
async fn on_mesh([a, b, c]: [&Mesh; 3], to_b: Ticket) -> Result<bus::Got, SdkError> {
    let _kept = b.host_events(EVENTS, Hosting::default()).await?;
    let at = |mesh: &Mesh| Net::builder().mesh(mesh, EVENTS, [to_b.clone()]).build();
    let (writer, reader) = (at(a).await?, at(c).await?);
    let got = bus::program(writer.clone(), reader.clone()).await?;
    writer.shutdown().await;
    reader.shutdown().await;
    Ok(got)
}

fn bug(error: JoinError) -> Failure {
    Failure::failed(format_args!("this is a bug: {error}"))
}

/// A further node of the mesh of `first`.
async fn start(first: &Mesh, watch: &args::Watch, suffix: &str) -> Result<Mesh> {
    let builder = Mesh::builder().mesh(first.secret()).bind("127.0.0.1:0").event_bus();
    Ok(watch.apply(builder, suffix).start().await?)
}

async fn send_file(to: Peer, bytes: Arc<[u8]>) -> Result<StreamStats, Error> {
    let stream = to.open_stream(FILE, Reliable).await?;
    for block in bytes.chunks(BLOCK) {
        stream.send(block).await?;
    }
    stream.flush().await?;
    let stats = stream.stats().await?;
    stream.finish().await?;
    Ok(stats)
}

async fn send_lines(to: Peer, input: Input) -> Result<StreamStats, Error> {
    let stream = to.open_stream(LINE, Reliable).await?;
    for some in input.lines.chunks(LINES) {
        let some: Vec<&[u8]> = some.iter().map(|range| &input.bytes[range.clone()]).collect();
        stream.send_batch(&some).await?;
    }
    stream.flush().await?;
    let stats = stream.stats().await?;
    stream.finish().await?;
    Ok(stats)
}

async fn send_readings(to: Peer, over: Arc<AtomicBool>) -> Result<u64, Error> {
    let stream = to.open_stream(READINGS, FireAndForget).await?;
    let mut tick = tokio::time::interval(READING);
    let mut sent = 0u64;
    while !over.load(Relaxed) {
        tick.tick().await;
        stream.send(format!("reading {sent}").as_bytes()).await?;
        sent += 1;
    }
    stream.finish().await?;
    Ok(sent)
}

/// Takes in the file at `b`, and tells `c` how it goes.
async fn far_file(b: Mesh, to_c: Peer, bar: Bar) -> Result<Arrived, Error> {
    let stream = b.accept_stream().await?;
    let receipts = to_c.open_stream(RECEIPTS, Reliable).await?;
    let (mut hasher, mut messages, mut bytes, mut told) = (Hasher::new(), 0, 0, 0);
    while let Some(block) = stream.recv().await? {
        hasher.update(&block);
        messages += 1;
        bytes += block.len() as u64;
        bar.set(bytes);
        if bytes - told >= RECEIPT {
            told = bytes;
            receipts.send(hasher.finalize().as_bytes()).await?;
        }
    }
    let hash = hasher.finalize();
    receipts.send(hash.as_bytes()).await?;
    receipts.finish().await?;
    Ok(Arrived { messages, bytes, hash })
}

/// What arrived at `c`.
struct AtC {
    lines: Arrived,
    readings: u64,
    receipts: u64,
    receipt: Option<blake3::Hash>,
}

async fn far_rest(c: Mesh, bar: Bar) -> Result<AtC> {
    let (mut lines, mut readings, mut receipts) = (None, None, None);
    let mut bar = Some(bar);
    while lines.is_none() || readings.is_none() || receipts.is_none() {
        let stream = c.accept_stream().await?;
        match (stream.label(), bar.take()) {
            (LINE, Some(bar)) => lines = Some(tokio::spawn(take_lines(stream, bar))),
            (READINGS, held) => (readings, bar) = (Some(tokio::spawn(count(stream))), held),
            (RECEIPTS, held) => (receipts, bar) = (Some(tokio::spawn(last(stream))), held),
            (_, held) => bar = held,
        }
    }
    let (receipts, receipt) = join(receipts).await?;
    Ok(AtC { lines: join(lines).await?, readings: join(readings).await?, receipts, receipt })
}

async fn join<T>(task: Option<JoinHandle<Result<T, Error>>>) -> Result<T> {
    match task {
        Some(task) => Ok(task.await.map_err(bug)??),
        None => Err(Failure::failed("this is a bug: a stream is missing")),
    }
}

async fn take_lines(stream: Stream, bar: Bar) -> Result<Arrived, Error> {
    let (mut hasher, mut messages, mut bytes) = (Hasher::new(), 0, 0);
    loop {
        let taken = stream
            .recv_many(LINES, |line| {
                input::hash_line(&mut hasher, line);
                bytes += line.len() as u64;
            })
            .await?;
        if taken == 0 {
            break;
        }
        messages += taken as u64;
        bar.set(messages);
    }
    Ok(Arrived { messages, bytes, hash: hasher.finalize() })
}

async fn count(stream: Stream) -> Result<u64, Error> {
    let mut count = 0;
    loop {
        match stream.recv_many(usize::MAX, |_| {}).await? {
            0 => return Ok(count),
            n => count += n as u64,
        }
    }
}

async fn last(stream: Stream) -> Result<(u64, Option<blake3::Hash>), Error> {
    let (mut count, mut last) = (0, None);
    while let Some(message) = stream.recv().await? {
        count += 1;
        last = blake3::Hash::from_slice(&message).ok();
    }
    Ok((count, last))
}

impl Told {
    /// What is not as it was sent; empty if the demo succeeded.
    fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.file.hash != self.input.hash || self.file.bytes != self.input.bytes.len() as u64 {
            wrong.push(format!("{} bytes of the file arrived, not as they were sent", self.file.bytes));
        }
        if self.lines.hash != self.input.lines_hash || self.lines.messages != self.input.lines.len() as u64 {
            wrong.push(format!("{} {} arrived, not as they were sent", self.lines.messages, self.input.kind));
        }
        if self.receipt != Some(self.input.hash) {
            wrong.push("the third node heard of another file".into());
        }
        for (got, place) in [(&self.in_memory, "in memory"), (&self.on_mesh, "on the mesh")] {
            if !got.is_whole() {
                wrong.push(format!("{} of {} events {place} arrived in order", got.in_order, bus::Got::ALL));
            }
        }
        if self.relay.overheard.matches > 0 {
            wrong.push(format!("an eavesdropper found {} pieces of plaintext", self.relay.overheard.matches));
        }
        wrong
    }

    /// How many of the markers the search finds where they are.
    fn control(&self) -> (usize, usize) {
        let markers = self.input.text_markers();
        (eavesdrop::found_in(&self.input.bytes, markers), markers.len())
    }
}
