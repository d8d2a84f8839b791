//! Kill -9 of the server and of the producer at random moments. `NET_KILLS=200` kills more often.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net_sdk::{Net, SdkError};
use net_tests::servers::Server;
use net_tests::servers::redis::Redis;

use crate::{on_smol, on_tokio, single, soon, unique};

fn kills() -> u64 {
    std::env::var("NET_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(10)
}

/// A moment that nobody chose.
fn a_moment(most: u64) {
    let micros = RandomState::new().hash_one(0) % (most * 1000);
    std::thread::sleep(Duration::from_micros(micros));
}

/// A bus emits while its server is killed and comes back. The bus keeps what is not acknowledged, so
/// with and without an outbox everything arrives, in order.
async fn server_dies(outbox: bool) {
    let mut server = Server::start(Redis::durable());
    let dir = server.place().dir.join("outbox");
    let runtime = net_sdk::rt::current().expect("entered");
    let mut builder = Net::builder().shards(2).runtime(runtime).redis(single(&server).pipeline(50));
    if outbox {
        builder = builder.outbox(&dir);
    }
    let bus = builder.build().await.unwrap();
    let (end, emitted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let producer = {
        let (bus, end, emitted) = (bus.clone(), end.clone(), emitted.clone());
        std::thread::spawn(move || {
            let mut n = 0u64;
            while !end.load(Ordering::Acquire) {
                for _ in 0..20 {
                    match bus.emit_to((n % 2) as u16, n.to_string()) {
                        Ok(_) => n += 1,
                        Err(SdkError::Backpressure) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                emitted.store(n, Ordering::Release);
                std::thread::sleep(Duration::from_millis(2));
            }
        })
    };
    for _ in 0..kills() {
        a_moment(60);
        server.restart();
    }
    end.store(true, Ordering::Release);
    producer.join().expect("the producer");
    soon("everything arrives", async {
        while bus.stats().ledger.queued > 0 {
            net_sdk::rt::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    let n = emitted.load(Ordering::Acquire);
    let ledger = bus.stats().ledger;
    assert!(ledger.balances() && ledger.lost.total() == 0 && ledger.delivered == n, "{ledger:?} of {n}");
    assert_eq!(soon("shutdown", bus.shutdown()).await.lost, 0);
    let mut twice = 0;
    for shard in 0..2u64 {
        let (once, more) = unique(&server, shard as u16);
        let want: Vec<_> = (0..n).filter(|n| n % 2 == shard).map(|n| n.to_string()).collect();
        assert_eq!(once.len(), want.len(), "shard {shard}");
        assert!(once == want, "shard {shard}: each once and in order");
        twice += more;
    }
    net_tests::lab::say(&format!(
        "{} kills of the server: {n} events, {twice} sent twice and recognised",
        kills()
    ));
}

#[test]
fn of_the_server() {
    on_tokio(|_| server_dies(false));
}

#[test]
fn of_the_server_with_an_outbox() {
    on_smol(|_| server_dies(true));
}

/// A producer process, and what it said was safe.
struct Producer {
    process: Child,
    safe: Arc<AtomicU64>,
    lost: Arc<Mutex<Option<u64>>>,
    reader: std::thread::JoinHandle<()>,
}

impl Producer {
    fn start(server: &Server<Redis>, life: u64, outbox: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bus-producer"))
            .args([&server.addr().to_string(), &life.to_string(), outbox])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the producer starts");
        let out = BufReader::new(process.stdout.take().expect("its output"));
        let (safe, lost) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let (note, end) = (safe.clone(), lost.clone());
        let reader = std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                match line.split_once(' ') {
                    // A line that the kill cut says too little, never too much.
                    Some(("safe", n)) => _ = n.parse().map(|n| note.fetch_max(n, Ordering::AcqRel)),
                    Some(("done", n)) => *end.lock().unwrap() = n.parse().ok(),
                    _ => {}
                }
            }
        });
        Self { process, safe, lost, reader }
    }

    fn works(&mut self) {
        net_tests::lab::until("the producer works", || {
            assert!(self.process.try_wait().expect("a child").is_none(), "the producer ended");
            (self.safe.load(Ordering::Acquire) > 0).then_some(())
        });
    }

    fn kill(mut self) -> u64 {
        self.process.kill().expect("it lives");
        self.process.wait().expect("a child");
        self.reader.join().expect("its output");
        self.safe.load(Ordering::Acquire)
    }

    /// Lets it finish; what was safe, and what it says was lost.
    fn end(mut self) -> (u64, u64) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().expect("a child").success());
        self.reader.join().expect("its output");
        let lost = self.lost.lock().unwrap().expect("it said goodbye");
        (self.safe.load(Ordering::Acquire), lost)
    }
}

fn producer_dies(outbox: bool) {
    let server = Server::start(Redis::durable());
    let outbox = if outbox { server.place().path("outbox") } else { "-".to_owned() };
    let mut safe = BTreeMap::new();
    for life in 0..kills() {
        let mut producer = Producer::start(&server, life, &outbox);
        producer.works();
        a_moment(40);
        safe.insert(life, producer.kill());
    }
    let mut last = Producer::start(&server, kills(), &outbox);
    last.works();
    let (at, lost) = last.end();
    assert_eq!(lost, 0);
    safe.insert(kills(), at);
    let mut total = 0;
    for shard in 0..2u64 {
        let (once, _) = unique(&server, shard as u16);
        let mut lives: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for body in &once {
            let (life, n) = body.split_once(':').expect("life:n");
            lives.entry(life.parse().unwrap()).or_default().push(n.parse().unwrap());
        }
        total += once.len();
        for (life, safe) in &safe {
            let got = lives.remove(life).unwrap_or_default();
            // Nothing in between is missing, each is there once, in order, and all that it had called safe.
            let want: Vec<_> = (0..got.len() as u64).map(|k| 2 * k + shard).collect();
            assert!(got == want, "life {life}, shard {shard}: a gap, a duplicate or another order");
            let promised = (0..*safe).filter(|n| n % 2 == shard).count();
            assert!(got.len() >= promised, "life {life}, shard {shard}: {} of {promised}", got.len());
        }
        assert!(lives.is_empty());
    }
    net_tests::lab::say(&format!("{} kills of the producer: {total} events", kills()));
}

#[test]
fn of_the_producer() {
    producer_dies(false);
}

#[test]
fn of_the_producer_with_an_outbox() {
    producer_dies(true);
}

#[test]
fn what_a_shutdown_gives_up_is_exactly_what_is_missing() {
    on_tokio(|rt| async move {
        let mut server = Server::start(Redis::durable());
        let bus = Net::builder()
            .shards(1)
            .runtime(rt)
            .adapter_timeout(Duration::from_millis(200))
            .redis(single(&server))
            .build()
            .await
            .unwrap();
        (0..100).for_each(|n| _ = bus.emit_raw(n.to_string()).unwrap());
        soon("flush", bus.flush()).await.unwrap();
        server.kill();
        (100..137).for_each(|n| _ = bus.emit_raw(n.to_string()).unwrap());
        let closed = soon("shutdown", bus.shutdown()).await;
        assert_eq!((closed.lost, closed.ledger.delivered), (37, 100));
        server.restart();
        assert_eq!(unique(&server, 0), ((0..100).map(|n| n.to_string()).collect(), 0));
    });
}
