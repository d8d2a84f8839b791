//! What every adapter must keep, as a test to be called from anywhere.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use net_proto::bus::{Backpressure, BatchConfig, Cursor, LogLimits, MAX_EVENT, ProducerId, Shard};

use super::adapter::{Adapter, Setup};
use super::{Bus, BusConfig, Item, Ordering, Reader, StoredEvent};
use crate::runtime::Runtime;

/// Shards that the suite writes to.
pub const SHARDS: u16 = 3;
const SOON: Duration = Duration::from_secs(60);

/// A bus over one adapter, in its `incarnation`-th life.
async fn life(runtime: &Arc<dyn Runtime>, adapter: Arc<dyn Adapter>, incarnation: u64) -> Arc<Bus> {
    let producer = ProducerId(7);
    let setup = Setup::new(runtime.clone(), producer, incarnation, SHARDS);
    adapter.start(&setup).await.expect("the engine is there");
    let max_event = adapter.caps().max_event.min(MAX_EVENT);
    let bus = Bus::new(
        runtime.clone(),
        BusConfig {
            shards: SHARDS,
            max_shards: SHARDS,
            limits: LogLimits { events: 1 << 16, bytes: 1 << 26, keep: false },
            mode: Backpressure::FailProducer,
            max_event,
            batch: BatchConfig::default(),
            producer,
            incarnation,
            adapter: Some(adapter),
        },
    );
    bus.run();
    bus
}

async fn soon<T>(runtime: &Arc<dyn Runtime>, what: &str, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let (mut timer, at) = (runtime.timer(), runtime.now() + SOON);
    poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(value);
        }
        assert!(timer.poll(cx, Some(at)).is_pending(), "{what} took longer than {SOON:?}");
        Poll::Pending
    })
    .await
}

async fn confirmed(runtime: &Arc<dyn Runtime>, bus: &Bus) {
    for cell in bus.all_shards().filter_map(|shard| bus.cell(shard)) {
        let last = cell.range().1 - 1;
        assert!(soon(runtime, "confirmation", poll_fn(|cx| cell.poll_safe(last, cx))).await);
    }
}

/// Reads `n` events. Anything else is a failure.
async fn read(runtime: &Arc<dyn Runtime>, reader: &mut Reader, n: usize) -> Vec<StoredEvent> {
    let mut events = Vec::new();
    while events.len() < n {
        match soon(runtime, "event", poll_fn(|cx| reader.poll_next(cx))).await {
            Some(Ok(Item::Event(event))) => events.push(event),
            other => panic!("{other:?} after {} of {n} events", events.len()),
        }
    }
    events
}

fn reader(bus: &Arc<Bus>, cursor: Cursor) -> Reader {
    let shards: Vec<Shard> = (0..SHARDS).collect();
    Reader::new(bus.clone(), &shards, cursor, &[], Ordering::None, false).expect("room for a reader")
}

/// Checks an adapter. `make` gives a fresh adapter to the same engine each time; at first the engine
/// holds nothing under the names that the adapter uses.
///
/// # Panics
/// If the contract of [`super::adapter`] is not kept.
pub async fn conformance(runtime: Arc<dyn Runtime>, make: impl Fn() -> Arc<dyn Adapter>) {
    let rt = &runtime;
    let bus = life(rt, make(), 1).await;
    let adapter = bus.adapter().expect("an adapter").clone();
    assert_eq!(adapter.health().await, Ok(()));

    // Order, opaque bodies, names.
    let longest = vec![0xa5; adapter.caps().max_event.min(1 << 16) as usize];
    let body = |n: u32| match n % 50 {
        0 => Vec::new(),
        1 => b"\0\xff\r\n{\"s\":1,\"t\":2".to_vec(),
        2 => longest.clone(),
        _ => n.to_le_bytes().to_vec(),
    };
    let count = 600u32;
    for n in 0..count {
        bus.emit(n as u16 % SHARDS, &body(n)).expect("room");
    }
    confirmed(rt, &bus).await;
    let ledger = bus.ledger();
    assert!(ledger.balances() && ledger.delivered == u64::from(count), "{ledger:?}");
    let mut all = reader(&bus, Cursor::new());
    let events = read(rt, &mut all, count as usize).await;
    for shard in 0..SHARDS {
        let of: Vec<_> = events.iter().filter(|e| e.shard == shard).collect();
        let want: Vec<_> = (0..count).filter(|n| *n as u16 % SHARDS == shard).map(body).collect();
        assert!(
            of.iter().map(|e| &e.raw[..]).eq(want.iter().map(|b| &b[..])),
            "shard {shard}: order or bodies"
        );
        assert!(of.windows(2).all(|w| w[0].position < w[1].position && w[0].stamp < w[1].stamp));
        let seqs = of.iter().map(|e| e.id.expect("every event has its name").seq);
        assert!(seqs.eq(1..=of.len() as u64), "shard {shard}: names");
    }
    assert_eq!(events.iter().map(|e| e.id).collect::<BTreeSet<_>>().len(), count as usize);
    let mut held = adapter.shards().await.expect("shards");
    held.sort_unstable();
    assert_eq!(held, (0..SHARDS).collect::<Vec<_>>());

    // Reading consumes nothing; a cursor goes on where it stood, over a token.
    let mut again = reader(&bus, Cursor::new());
    let mut seen = read(rt, &mut again, 250).await;
    let cursor = Cursor::from_token(&again.cursor().token()).expect("a token");
    drop(again);
    let mut rest = reader(&bus, cursor);
    seen.extend(read(rt, &mut rest, count as usize - 250).await);
    let key = |e: &StoredEvent| (e.shard, e.position);
    let mut sorted = [events.clone(), seen];
    sorted.iter_mut().for_each(|list| list.sort_by_key(key));
    assert_eq!(sorted[0], sorted[1], "resumed by cursor");

    // The tail, and events that come while somebody waits.
    let shards: Vec<Shard> = (0..SHARDS).collect();
    let tail = adapter.tail(&shards).await.expect("tail");
    let mut latest =
        Reader::new(bus.clone(), &shards, Cursor::new(), &tail, Ordering::None, false).expect("room");
    let late = poll_fn(|cx| Poll::Ready(latest.poll_next(cx).is_pending())).await;
    assert!(late, "nothing lies behind the tail");
    bus.emit(1, b"late").expect("room");
    assert_eq!(&read(rt, &mut latest, 1).await[0].raw[..], b"late");
    assert_eq!(&read(rt, &mut rest, 1).await[0].raw[..], b"late");

    // A dropped wait loses nothing.
    let at = rest.cursor();
    let _ = poll_fn(|cx| Poll::Ready(rest.poll_next(cx).is_pending())).await;
    drop(rest);

    // The end, and another life: nothing new looks like something old.
    bus.close();
    confirmed(rt, &bus).await;
    soon(rt, "stop", bus.stop()).await;
    assert_eq!(bus.ledger().lost.total(), 0);
    assert_eq!(adapter.shutdown().await, Ok(()));
    let bus = life(rt, make(), 2).await;
    for n in 0..30u32 {
        bus.emit(n as u16 % SHARDS, &n.to_le_bytes()).expect("room");
    }
    confirmed(rt, &bus).await;
    let mut next = reader(&bus, at);
    let events = read(rt, &mut next, 30).await;
    assert!(events.iter().all(|e| e.id.is_some_and(|id| id.incarnation == 2)), "only new events");
    bus.close();
    soon(rt, "stop", bus.stop()).await;
    assert_eq!(bus.adapter().expect("an adapter").shutdown().await, Ok(()));
}
