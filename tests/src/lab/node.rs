//! The program of a node process: it does what lines on its standard input say, and answers on its
//! standard output. When the input ends, so does the process; when anything panics, it aborts.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use net_sdk::{
    FireAndForget, Identity, Mesh, MeshEvent, MeshId, MeshKey, MeshSecret, Mode, Peer, Reliable, Runtime,
    Stream, Ticket, Unordered, rt,
};
use net_smol::Smol;
use net_tokio::Tokio;

use super::faulty::{Faulty, Knobs};
use super::line::Line;
use super::memory;
use super::mix::{self, Mixed, mix};

/// Messages between two pauses of a sender.
const BURST: u64 = 8;
/// The pause: a sender is meant to be in the middle of its work for as long as a test needs.
const PAUSE: Duration = Duration::from_millis(4);

/// What the process counts.
#[derive(Default)]
struct Counts {
    admitted: AtomicU64,
    received: AtomicU64,
    /// Messages twice, out of order, or with other bytes.
    wrong: AtomicU64,
    /// Streams that ended as they should.
    finished: AtomicU64,
    /// Streams that ended with an error.
    broken: AtomicU64,
    downs: AtomicU64,
    /// What ended associations took with them.
    lost: AtomicU64,
    moves: AtomicU64,
    /// Streams that are being read.
    readers: AtomicU64,
}

#[derive(Default)]
struct Shared {
    counts: Counts,
    stop: AtomicBool,
    paused: AtomicBool,
    peer: Mutex<Option<Peer>>,
    /// What each worker of a mixture does.
    steps: Mutex<BTreeMap<u64, String>>,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, SeqCst);
}

/// Who the node with this number is.
pub fn identity(number: u64) -> Identity {
    Identity::from_seed(&[number as u8; 32])
}

/// Runs the node. Words: `me` (its number), `bind`, `runtime`, `dir`, `give_up_ms`, `gso_after`,
/// `busy_every`, `recv_buffer`, `rekey_s`.
pub fn main(words: impl Iterator<Item = String>) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::abort();
    }));
    let words = Line::parse(&words.collect::<Vec<_>>().join(" "));
    let knobs = Arc::new(Knobs::default());
    for (name, knob) in [
        ("gso_after", &knobs.batches_left),
        ("busy_every", &knobs.busy_every),
        ("recv_buffer", &knobs.recv_buffer),
    ] {
        if let Some(value) = words.number(name) {
            knob.store(value, SeqCst);
        }
    }
    if words.text("runtime") == Some("smol") {
        let runtime: Arc<dyn Runtime> = Arc::new(Faulty::new(Arc::new(Smol::new()), knobs.clone()));
        smol::block_on(rt::enter(runtime.clone(), run(words, runtime, knobs)));
    } else {
        let tokio = crate::conformance::tokio(1);
        let inner = Arc::new(Tokio::new(tokio.handle().clone()));
        let runtime: Arc<dyn Runtime> = Arc::new(Faulty::new(inner, knobs.clone()));
        tokio.block_on(rt::enter(runtime.clone(), run(words, runtime, knobs)));
    }
}

async fn run(words: Line, runtime: Arc<dyn Runtime>, knobs: Arc<Knobs>) {
    let secret = MeshSecret { id: MeshId([1; 32]), key: MeshKey([2; 32]) };
    let bind = words.text("bind").expect("where to bind").parse::<SocketAddr>().expect("an address");
    let (give_up, rekey) = (words.number("give_up_ms"), words.number("rekey_s"));
    let mut builder =
        Mesh::builder().runtime(runtime).mesh(secret).bind(bind).identity(identity(words.get("me"))).config(
            // Little of it, so that the ceiling says something.
            move |config| {
                config.window_pool = 8 << 20;
                if let Some(ms) = give_up {
                    config.session.give_up_after = Duration::from_millis(ms);
                }
                if let Some(s) = rekey {
                    config.session.keys.rekey_after = Duration::from_secs(s);
                }
            },
        );
    if let Some(dir) = words.text("dir") {
        builder = builder.dir(dir);
    }
    let mesh = builder.start().await.expect("the node starts");
    let shared = Arc::new(Shared::default());
    drop(rt::spawn(watch(mesh.clone(), shared.clone())));
    drop(rt::spawn(accept(mesh.clone(), shared.clone())));
    let addr = mesh.local_addrs()[0];
    answer("0", Ok(Line::default().with("addr", addr)));

    let (give, lines) = async_lines();
    std::thread::spawn(move || std::io::stdin().lock().lines().map_while(Result::ok).for_each(give));
    while let Some(line) = lines.next().await {
        let (mesh, shared, knobs) = (mesh.clone(), shared.clone(), knobs.clone());
        drop(rt::spawn(async move {
            let (id, command) = line.split_once(' ').unwrap_or((&line, ""));
            answer(id, obey(command, &mesh, &shared, &knobs).await);
        }));
    }
    // Whoever started this is done, or gone.
    std::process::exit(0);
}

fn answer(id: &str, result: Result<Line, String>) {
    let mut out = std::io::stdout().lock();
    let told = match result {
        Ok(line) => writeln!(out, "{id} ok {line}"),
        Err(error) => writeln!(out, "{id} no {error}"),
    };
    if told.and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

async fn obey(command: &str, mesh: &Mesh, shared: &Arc<Shared>, knobs: &Knobs) -> Result<Line, String> {
    let words = Line::parse(command);
    let none = Line::default;
    match command.split(' ').next().unwrap_or_default() {
        "connect" => {
            let addr = words.text("to").expect("an address").parse().expect("an address");
            let ticket = Ticket { entity: identity(words.get("who")).id(), addrs: vec![addr] };
            let peer = mesh.connect(ticket).await.map_err(|e| format!("connect: {e}"))?;
            *shared.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
            Ok(none())
        }
        "disconnect" => {
            for peer in mesh.peers() {
                peer.disconnect(7).await;
            }
            Ok(none())
        }
        "pour" => {
            let (size, burst) = (words.get("size") as usize, words.number("burst").unwrap_or(BURST));
            let mode = match words.text("mode") {
                Some("unordered") => Unordered,
                Some("once") => FireAndForget,
                _ => Reliable,
            };
            let peer = somebody(mesh, shared)?;
            shared.stop.store(false, SeqCst);
            let mut admitted = 0;
            let done = pour(&peer, mode, size, burst, shared, &mut admitted).await;
            match done {
                Ok(()) => Ok(none().with("admitted", admitted)),
                Err(error) => Err(format!("admitted={admitted} {error}")),
            }
        }
        "mix" => {
            let peer = somebody(mesh, shared)?;
            let [workers, rounds, pause, seed] =
                ["workers", "rounds", "pause_ms", "seed"].map(|name| words.get(name));
            let pause = Duration::from_millis(pause);
            let workers: Vec<_> = (0..workers)
                .map(|n| {
                    let shared = shared.clone();
                    let step = move |step| {
                        shared.steps.lock().unwrap_or_else(PoisonError::into_inner).insert(n, step);
                    };
                    rt::spawn(mix(peer.clone(), seed * workers + n, rounds, pause, step))
                })
                .collect();
            let mut sum = Mixed::default();
            for worker in workers {
                let mixed = worker.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
                add(&shared.counts.admitted, mixed.messages);
                sum.messages += mixed.messages;
                sum.bytes += mixed.bytes;
            }
            Ok(none().with("messages", sum.messages).with("bytes", sum.bytes))
        }
        // For people, when something stands still.
        "tell" => {
            let steps = shared.steps.lock().unwrap_or_else(PoisonError::into_inner).clone();
            eprintln!("workers: {steps:#?}");
            for peer in mesh.peers() {
                eprintln!("{:#?}", (peer.stats().await, peer.streams().await));
            }
            Ok(none())
        }
        "stop" => {
            shared.stop.store(true, SeqCst);
            Ok(none())
        }
        "read" => {
            shared.paused.store(words.get("on") == 0, SeqCst);
            Ok(none())
        }
        "jump" => {
            add(&knobs.jumped, words.get("seconds") * 1_000_000_000);
            Ok(none())
        }
        "busy" => {
            knobs.busy.store(words.get("sends"), SeqCst);
            Ok(none())
        }
        "report" => report(mesh, shared, knobs).await.map_err(|e| e.to_string()),
        "shutdown" => {
            let drained = mesh.shutdown().await;
            Ok(none().with("flushed", drained.flushed).with("lost", drained.lost.messages))
        }
        other => Err(format!("what is `{other}`?")),
    }
}

/// The peer that was connected to, else whoever connected.
fn somebody(mesh: &Mesh, shared: &Shared) -> Result<Peer, String> {
    let known = shared.peer.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let known = known.filter(Peer::is_connected).or_else(|| mesh.peers().into_iter().next());
    known.ok_or_else(|| "nobody is connected".into())
}

async fn report(mesh: &Mesh, shared: &Shared, knobs: &Knobs) -> net_sdk::Result<Line> {
    let counts = &shared.counts;
    let mut line = Line::default();
    for (name, value) in [
        ("admitted", &counts.admitted),
        ("received", &counts.received),
        ("wrong", &counts.wrong),
        ("finished", &counts.finished),
        ("broken", &counts.broken),
        ("downs", &counts.downs),
        ("lost", &counts.lost),
        ("moves", &counts.moves),
        ("readers", &counts.readers),
        ("sends", &knobs.sends),
        ("batches", &knobs.batches),
        ("refused", &knobs.refused),
    ] {
        line = line.with(name, value.load(SeqCst));
    }
    let peers = mesh.peers();
    line = line
        .with("peers", peers.len())
        .with("ceiling", mesh.ceiling().await?)
        .with("live", memory::live())
        .with("peak", memory::peak())
        .with("resident", memory::resident())
        .with("cpu_ms", memory::processor().as_millis());
    if let Some(Ok(stats)) = match peers.first() {
        Some(peer) => Some(peer.stats().await),
        None => None,
    } {
        line = line
            .with("datagram", stats.datagram_size)
            .with("packets_lost", stats.packets_lost)
            .with("spurious", stats.spurious_losses)
            .with("marks", stats.ecn_marks)
            .with("rtt_us", stats.rtt.as_micros())
            .with("epochs", stats.epochs)
            .with("streams", stats.streams);
    }
    Ok(line)
}

/// Sends numbered messages until it is told to stop; then waits until the peer has them all.
async fn pour(
    peer: &Peer,
    mode: Mode,
    size: usize,
    burst: u64,
    shared: &Shared,
    admitted: &mut u64,
) -> net_sdk::Result<()> {
    let stream = peer.open_stream("pour", mode).await?;
    let mut message = vec![0; size.max(8)];
    while !shared.stop.load(SeqCst) {
        for _ in 0..burst {
            fill(&mut message, *admitted);
            stream.send(&message).await?;
            *admitted += 1;
            add(&shared.counts.admitted, 1);
        }
        rt::sleep(PAUSE).await;
    }
    stream.finish().await
}

/// A message that says its number, in all of its bytes.
pub(super) fn fill(message: &mut [u8], number: u64) {
    let (head, rest) = message.split_at_mut(8);
    head.copy_from_slice(&number.to_le_bytes());
    rest.fill(number as u8);
}

async fn accept(mesh: Mesh, shared: Arc<Shared>) {
    while let Ok(stream) = mesh.accept_stream().await {
        add(&shared.counts.readers, 1);
        let shared = shared.clone();
        drop(rt::spawn(async move {
            read(stream, &shared).await;
            shared.counts.readers.fetch_sub(1, SeqCst);
        }));
    }
}

async fn read(stream: Stream, shared: &Shared) {
    let counts = &shared.counts;
    let in_order = stream.mode() == Reliable;
    let mut next = 0;
    let mut seen = HashSet::new();
    loop {
        while shared.paused.load(SeqCst) {
            rt::sleep(PAUSE).await;
        }
        let message = match stream.recv().await {
            Ok(Some(message)) => message,
            Ok(None) => return add(&counts.finished, 1),
            Err(_) => return add(&counts.broken, 1),
        };
        let number = message.first_chunk().map_or(u64::MAX, |head| u64::from_le_bytes(*head));
        let right = if in_order { number == next } else { seen.insert(number) };
        let whole = message.iter().skip(8).all(|byte| *byte == number as u8);
        next = number.wrapping_add(1);
        add(&counts.wrong, u64::from(!right || !whole));
        add(&counts.received, 1);
        if stream.label().starts_with(mix::STOPPED) {
            return stream.stop(4);
        }
    }
}

async fn watch(mesh: Mesh, shared: Arc<Shared>) {
    let mut events = mesh.events();
    drop(mesh);
    while let Some(event) = events.next().await {
        match event {
            MeshEvent::Disconnected { lost, .. } => {
                add(&shared.counts.lost, lost.messages);
                add(&shared.counts.downs, 1);
            }
            MeshEvent::PathChanged { .. } => add(&shared.counts.moves, 1),
            _ => {}
        }
    }
}

/// Lines from a thread to a task.
fn async_lines() -> (impl FnMut(String) + Send, Lines) {
    let (give, take) = smol::channel::unbounded();
    (move |line| _ = give.try_send(line), Lines { take })
}

struct Lines {
    take: smol::channel::Receiver<String>,
}

impl Lines {
    async fn next(&self) -> Option<String> {
        self.take.recv().await.ok()
    }
}
