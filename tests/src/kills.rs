//! Kills, at random moments, of a JetStream server and of a producer. Ten of each are a test; the
//! program `jetstream-kills` makes as many as one likes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use net_sdk::nats::JetStream;
use net_sdk::net::{Dedup, EventId, Item};
use net_sdk::{Net, Runtime};

use crate::servers::Server;
use crate::servers::nats::Nats;

/// Events of a burst; after each the producer asks whether they are safe.
const BURST: u32 = 25;
/// A hang becomes a failure.
const LIMIT: Duration = Duration::from_secs(120);

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    /// Kills.
    pub kills: u64,
    /// Events that were emitted, as far as anybody lives to tell.
    pub emitted: u64,
    /// Events that the producer was told are safe.
    pub promised: u64,
    /// Events in the stream after deduplication.
    pub stored: u64,
    /// Events that were in the stream a second time.
    pub duplicates: u64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, emitted, promised, stored, duplicates } = self;
        write!(
            f,
            "{{\"kills\":{kills},\"emitted\":{emitted},\"promised\":{promised},\"stored\":{stored},\"duplicates\":{duplicates}}}"
        )
    }
}

/// Random moments. The seed is printed, though moments of a real machine do not repeat.
pub struct Moments(u64);

impl Moments {
    /// Fresh ones.
    pub fn new() -> Self {
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0);
        println!("moments by seed {seed}");
        Self(seed)
    }

    /// A time below so many milliseconds.
    pub fn below(&mut self, ms: u64) -> Duration {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((self.0 >> 33) % (ms * 1000))
    }
}

impl Default for Moments {
    fn default() -> Self {
        Self::new()
    }
}

fn options(url: &str) -> JetStream {
    JetStream::new(url).request_timeout(Duration::from_secs(2))
}

/// Everything in the stream: the highest sequence of each life of each producer, after it was checked
/// that none is missing below and none comes twice after deduplication. `firsts` are the sequences that
/// lives began with, as far as they are known: a life that replays an outbox counts on from there.
async fn stored(
    bus: &Net,
    found: &mut Found,
    firsts: &BTreeMap<(u64, u64), u64>,
) -> BTreeMap<(u64, u64), u64> {
    let mut all = bus.subscribe().await.expect("a subscription");
    let last = bus.bus().adapter().expect("an adapter").tail(&[0]).await.expect("the tail");
    let last = last.first().map(|(_, at)| at.minor).expect("something is stored");
    let (mut dedup, mut highest) = (Dedup::default(), BTreeMap::new());
    loop {
        let item = all.next().await.expect("no end").expect("no error");
        let Item::Event(event) = item else { panic!("nothing is lost, but {item:?}") };
        let id = event.id.expect("every event has its name");
        if dedup.is_duplicate(&id) {
            found.duplicates += 1;
        } else {
            found.stored += 1;
            let life = (id.producer.0, id.incarnation);
            let high = highest.entry(life).or_insert(firsts.get(&life).unwrap_or(&id.seq) - 1);
            assert_eq!(id.seq, *high + 1, "the next event of its producer: order, without a hole");
            *high = id.seq;
        }
        if event.position.minor == last {
            return highest;
        }
    }
}

/// Kills the server `kills` times while a bus emits. The producer lives, with an outbox (in `outbox`)
/// or without: nothing may be lost.
///
/// # Panics
/// If an event is lost, twice after deduplication, or out of order.
pub async fn of_the_server(kills: u64, outbox: Option<&Path>) -> Found {
    let mut server = Server::start(Nats::new());
    let mut builder = Net::builder().shards(1).jetstream(options(&server.url()));
    if let Some(dir) = outbox {
        builder = builder.outbox(dir);
    }
    let bus = builder.build().await.expect("a bus");
    let mut found = Found { kills, ..Found::default() };
    let mut moments = Moments::new();
    for _ in 0..kills {
        let kill = net_sdk::rt::now() + moments.below(150);
        while net_sdk::rt::now() < kill {
            for _ in 0..BURST {
                bus.emit_raw(found.emitted.to_le_bytes()).expect("room");
                found.emitted += 1;
            }
            net_sdk::rt::sleep(Duration::from_millis(2)).await;
        }
        server.kill();
        net_sdk::rt::sleep(moments.below(50)).await;
        server.restart();
    }
    drained(&bus).await;
    found.promised = found.emitted;
    let began = (bus.bus().producer().0, bus.bus().incarnation());
    let stored = stored(&bus, &mut found, &BTreeMap::from([(began, 1)])).await;
    assert_eq!(stored.values().sum::<u64>(), found.emitted, "{stored:?}");
    bus.shutdown().await;
    found
}

/// Waits until the engine has everything.
async fn drained(bus: &Net) {
    let all = async {
        while bus.stats().ledger.queued > 0 {
            net_sdk::rt::sleep(Duration::from_millis(5)).await;
        }
    };
    let why = || format!("events wait for the engine: {:?}", bus.bus().link_error());
    net_sdk::rt::timeout(LIMIT, all).await.unwrap_or_else(|_| panic!("{}", why()));
}

/// Kills a producer `kills` times while it emits; `program` is `jetstream-kills`. With an outbox every
/// event that the producer was told is safe is stored once after deduplication. Without, safe means
/// that the engine has it, and what is missing was never called safe.
///
/// # Panics
/// If an event is lost that was called safe, or comes twice after deduplication, or out of order.
pub async fn of_the_producer(program: &Path, kills: u64, dir: &Path, outbox: bool) -> Found {
    let server = Server::start(Nats::new());
    let mut found = Found { kills, ..Found::default() };
    let mut moments = Moments::new();
    let (mut firsts, mut safe) = (BTreeMap::new(), BTreeMap::<(u64, u64), u64>::new());
    let kind = if outbox { "outbox" } else { "plain" };
    for _ in 0..kills {
        let mut child = Command::new(program)
            .args(["producer", &server.url(), kind])
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the producer starts");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let lines = std::thread::spawn(move || output.lines().map_while(Result::ok).collect::<Vec<_>>());
        net_sdk::rt::sleep(Duration::from_millis(20) + moments.below(150)).await;
        child.kill().expect("it lived");
        child.wait().expect("a child");
        for line in lines.join().expect("no panic") {
            let (what, id) = line.split_once(' ').expect("two words");
            let id: EventId = id.parse().expect("an id");
            let life = (id.producer.0, id.incarnation);
            match what {
                "took" => {
                    found.emitted += 1;
                    firsts.entry(life).or_insert(id.seq);
                }
                _ => _ = safe.insert(life, id.seq),
            }
        }
    }
    // One more life sends what is left.
    let mut builder = Net::builder().shards(1).jetstream(options(&server.url()));
    builder = if outbox { builder.outbox(dir) } else { builder };
    let bus = builder.build().await.expect("a bus");
    drained(&bus).await;
    let stored = stored(&bus, &mut found, &firsts).await;
    for (life, promised) in &safe {
        let high = stored.get(life).copied().unwrap_or(0);
        assert!(high >= *promised, "life {life:?}: {promised} events were safe, {high} are stored");
        found.promised += promised + 1 - firsts.get(life).unwrap_or(promised);
    }
    bus.shutdown().await;
    found
}

/// The producer that is killed: emits until then, and says what it took and what is safe.
pub async fn producer(url: &str, dir: &Path, outbox: bool) {
    let builder = Net::builder().shards(1).jetstream(options(url));
    let builder =
        if outbox { builder.outbox(dir) } else { builder.producer_nonce_path(dir.join("producer")) };
    let bus = builder.build().await.expect("a bus");
    let mut out = std::io::stdout().lock();
    let mut n = 0u64;
    loop {
        let mut last = None;
        for _ in 0..BURST {
            let receipt = bus.emit_raw(n.to_le_bytes()).expect("room");
            n += 1;
            writeln!(out, "took {}", receipt.id).expect("somebody reads");
            last = Some(receipt.id);
        }
        bus.flush().await.expect("safe");
        let last = last.expect("a burst");
        writeln!(out, "safe {last}").and_then(|()| out.flush()).expect("somebody reads");
    }
}

/// Runs on tokio.
pub fn on_tokio<T>(future: impl Future<Output = T>) -> T {
    let rt =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    rt.block_on(async {
        let runtime: Arc<dyn Runtime> = Arc::new(net_tokio::Tokio::current().expect("tokio"));
        net_sdk::rt::enter(runtime, future).await
    })
}
