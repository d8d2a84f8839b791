//! Redis Streams: events a second through the bus, against the `redis` crate with the same entries, and
//! against bytes that were made before over a plain socket, which is what the server can do.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use net_redis::RedisConfig;
use net_sdk::net::{Item, ReadOptions};
use net_sdk::{Net, SdkError};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamReadOptions, StreamReadReply};
use redis::{AsyncCommands, Client};

use crate::servers::Server;
use crate::servers::redis::{Answer, Redis};

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Events in a run.
    pub events: usize,
    /// Bytes of each.
    pub bytes: usize,
    /// Most of them in a pipeline.
    pub batch: usize,
}

/// Events a second.
type Rate = f64;

fn rate(work: Work, begun: Instant) -> Rate {
    work.events as f64 / begun.elapsed().as_secs_f64()
}

/// The same three fields as the bus writes, made before the clock runs.
fn entries(work: Work) -> Vec<(String, String, Vec<u8>)> {
    let entry =
        |n| (format!("0123456789abcdef:1:0:{n}"), format!("17958900000{n:08}"), vec![b'x'; work.bytes]);
    (0..work.events).map(entry).collect()
}

async fn bus(server: &Server<Redis>, work: Work) -> Net {
    let config = RedisConfig::single(server.addr().to_string()).pipeline(work.batch as u32);
    let runtime = Arc::new(net_tokio::Tokio::current().expect("inside of tokio"));
    Net::builder().shards(1).runtime(runtime).redis(config).build().await.expect("a bus")
}

/// Through the bus, until everything is acknowledged.
pub async fn produce(server: &Server<Redis>, work: Work) -> Rate {
    server.call(&["FLUSHALL"]);
    let bus = bus(server, work).await;
    let body = vec![b'x'; work.bytes];
    let begun = Instant::now();
    for _ in 0..work.events {
        while let Err(SdkError::Backpressure) = bus.emit_raw(&body) {
            tokio::task::yield_now().await;
        }
    }
    while bus.flush().await.is_err() {}
    let rate = rate(work, begun);
    assert_eq!(bus.shutdown().await.lost, 0);
    assert_eq!(server.call(&["XLEN", "net:shard:0"]), Answer::Number(work.events as i64));
    rate
}

async fn connection(server: &Server<Redis>) -> MultiplexedConnection {
    let client = Client::open(format!("redis://{}/", server.addr())).expect("an address");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

/// Pipelines of the `redis` crate.
pub async fn produce_bare(server: &Server<Redis>, work: Work) -> Rate {
    server.call(&["FLUSHALL"]);
    let entries = entries(work);
    let mut connection = connection(server).await;
    let begun = Instant::now();
    for some in entries.chunks(work.batch) {
        let mut pipe = redis::pipe();
        for (id, stamp, body) in some {
            pipe.cmd("XADD").arg("net:shard:0").arg("*");
            pipe.arg("dedup_id").arg(id).arg("t").arg(stamp).arg("d").arg(&body[..]);
        }
        let ids: Vec<String> = pipe.query_async(&mut connection).await.expect("entries");
        assert_eq!(ids.len(), some.len());
    }
    rate(work, begun)
}

/// Bytes that were made before, over a plain socket; answers are only counted.
pub fn produce_raw(server: &Server<Redis>, work: Work) -> Rate {
    server.call(&["FLUSHALL"]);
    let mut pipelines = Vec::new();
    for some in entries(work).chunks(work.batch) {
        let mut bytes = String::new();
        for (id, stamp, body) in some {
            let body = std::str::from_utf8(body).expect("x");
            let words = ["XADD", "net:shard:0", "*", "dedup_id", id, "t", stamp, "d", body];
            _ = write!(bytes, "*{}\r\n", words.len());
            words.iter().for_each(|word| _ = write!(bytes, "${}\r\n{word}\r\n", word.len()));
        }
        pipelines.push((bytes, some.len() * 2));
    }
    let mut stream = TcpStream::connect(server.addr()).expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let mut buffer = vec![0; 1 << 16];
    let begun = Instant::now();
    for (bytes, lines) in &pipelines {
        stream.write_all(bytes.as_bytes()).expect("sent");
        let mut left = *lines;
        while left > 0 {
            let n = stream.read(&mut buffer).expect("answers");
            assert_ne!(n, 0, "the server is gone");
            left -= buffer[..n].iter().filter(|b| **b == b'\n').count();
        }
    }
    rate(work, begun)
}

/// A subscription of the bus, from the oldest to the newest.
pub async fn consume(server: &Server<Redis>, work: Work) -> Rate {
    let bus = bus(server, work).await;
    let begun = Instant::now();
    let mut events = bus.subscribe_with(ReadOptions::new()).await.expect("a subscription");
    let (mut n, mut bytes) = (0, 0);
    while n < work.events {
        n += events
            .next_many(4096, |item| match item {
                Item::Event(event) => bytes += event.raw.len(),
                other => panic!("{other:?}"),
            })
            .await
            .expect("events");
    }
    let rate = rate(work, begun);
    assert_eq!(bytes, work.events * work.bytes);
    bus.shutdown().await;
    rate
}

/// XREAD of the `redis` crate, as its own types.
pub async fn consume_bare(server: &Server<Redis>, work: Work) -> Rate {
    let mut connection = connection(server).await;
    let options = StreamReadOptions::default().count(work.batch);
    let begun = Instant::now();
    let (mut n, mut bytes, mut at) = (0, 0, "0-0".to_owned());
    while n < work.events {
        let reply: Option<StreamReadReply> =
            connection.xread_options(&["net:shard:0"], &[&at], &options).await.expect("entries");
        for id in reply.expect("there are more").keys.remove(0).ids {
            let body: Vec<u8> = id.get("d").expect("a body");
            bytes += body.len();
            n += 1;
            at = id.id;
        }
    }
    assert_eq!(bytes, work.events * work.bytes);
    rate(work, begun)
}

/// The medians over some runs, in turn, and of the ratios of neighbours.
fn row(name: &str, ours: &[Rate], theirs: &[(&str, &[Rate])]) -> String {
    let middle = |all: &[f64]| {
        let mut all = all.to_vec();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let mut out = format!("{{\"work\": \"{name}\", \"bus\": {:.0}", middle(ours));
    for (who, rates) in theirs {
        let ratios: Vec<_> = ours.iter().zip(*rates).map(|(a, b)| a / b).collect();
        let (least, most) =
            ratios.iter().fold((f64::MAX, 0.0f64), |(least, most), r| (least.min(*r), most.max(*r)));
        _ = write!(
            out,
            ", \"{who}\": {:.0}, \"ratio to {who}\": {:.2}, \"spread\": [{least:.2}, {most:.2}]",
            middle(rates),
            middle(&ratios)
        );
    }
    out + "}"
}

/// All rows, as JSON.
pub async fn compare(server: &Server<Redis>, work: Work, pairs: usize) -> String {
    let mut rates: [Vec<Rate>; 5] = Default::default();
    for _ in 0..pairs.max(1) {
        rates[0].push(produce(server, work).await);
        rates[1].push(produce_bare(server, work).await);
        rates[2].push(produce_raw(server, work));
        rates[3].push(consume(server, work).await);
        rates[4].push(consume_bare(server, work).await);
    }
    let Work { events, bytes, batch } = work;
    let head = format!("\"events\": {events}, \"bytes\": {bytes}, \"batch\": {batch}, \"pairs\": {pairs}");
    let produced =
        row("produce", &rates[0], &[("redis crate, pipelined XADD", &rates[1]), ("plain socket", &rates[2])]);
    let consumed = row("consume", &rates[3], &[("redis crate, XREAD", &rates[4])]);
    format!("{{{head}, \"rows\": [\n  {produced},\n  {consumed}\n]}}")
}
