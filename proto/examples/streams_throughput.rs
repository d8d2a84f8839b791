//! How fast the streams machine moves messages, without packets, encryption or recovery.
//!
//! `cargo run --release -p net-proto --example streams_throughput`
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads the clock; the machines do not"
)]

use net_proto::codec::{Reader, Writer};
use net_proto::stream::{Config, Mode, Pool, SentFrame, Streams, charge, frame_message};
use net_proto::time::{Duration, Instant};

struct Side {
    streams: Streams,
    pool: Pool,
}

fn carry(from: &mut Side, to: &mut Side, now: Instant, buf: &mut [u8], sent: &mut Vec<SentFrame>) -> usize {
    let mut packets = 0;
    while from.streams.has_output() {
        let mut w = Writer::new(buf);
        from.streams.write(&mut w, &mut |f| {
            sent.push(f);
            true
        });
        packets += 1;
        let mut r = Reader::new(w.written());
        while !r.is_empty() {
            let kind = r.u8("kind").expect("a frame");
            to.streams.handle_frame(now, kind, &mut r, &mut to.pool).expect("accepted");
        }
        for f in sent.drain(..) {
            from.streams.on_acked(f);
        }
    }
    packets
}

fn run(name: &str, mode: Mode, size: usize, messages: u64) {
    let config = Config::default();
    let mut sides = [false, true]
        .map(|greater| Side { streams: Streams::new(&config, greater), pool: Pool::new(256 << 20) });
    let limits = sides[1].streams.local_limits();
    for side in &mut sides {
        side.streams.set_peer_limits(limits);
    }
    let [a, b] = &mut sides;
    let id = a.streams.open("throughput", mode, 16).expect("open");
    let payload = vec![7; size];
    let mut buf = vec![0; 1_400];
    let mut sent = Vec::with_capacity(64);
    let (mut spare, mut queued, mut got, mut packets) = (Vec::new(), 0, 0, 0);
    let start = std::time::Instant::now();
    while got < messages {
        let now = Instant::ZERO + start.elapsed() + Duration::from_secs(1);
        let mut chunk = a.streams.spent().unwrap_or_default();
        while queued < messages && chunk.len() < 32 << 10 {
            frame_message(&mut chunk, &payload);
            queued += 1;
        }
        a.streams.send(id, chunk).expect("send");
        packets += carry(a, b, now, &mut buf, &mut sent);
        if let Some(taken) = b.streams.take(id, &mut spare) {
            // One subtraction where a port would walk the messages.
            let whole = net_proto::stream::Messages::received(&taken.chunk, mode, taken.first);
            let (mut n, mut cost) = (0, 0);
            for (_, m) in whole {
                n += 1;
                cost += charge(m.len());
            }
            got += n;
            spare = taken.chunk;
            b.streams.consumed(now, id, cost, Duration::from_millis(1), &mut b.pool);
        }
        packets += carry(b, a, now, &mut buf, &mut sent);
        while a.streams.poll_event().is_some() {}
        while b.streams.poll_event().is_some() {}
    }
    let took = start.elapsed().as_secs_f64();
    println!(
        "{name}: {:.2} M messages/s, {:.0} MiB/s, {packets} packets",
        messages as f64 / took / 1e6,
        (messages * size as u64) as f64 / took / f64::from(1 << 20)
    );
}

fn main() {
    run("64 B fire-and-forget", Mode::FireAndForget, 64, 10_000_000);
    run("64 B reliable", Mode::Reliable, 64, 10_000_000);
    run("64 B unordered", Mode::Unordered, 64, 10_000_000);
    run("1 KiB reliable", Mode::Reliable, 1024, 2_000_000);
    run("1 KiB unordered", Mode::Unordered, 1024, 2_000_000);
    run("100 KiB reliable", Mode::Reliable, 100 << 10, 10_000);
}
