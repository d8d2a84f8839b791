//! What every adapter must keep, as a test to be called from anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use net_proto::bus::{
    Backpressure, BatchConfig, Cursor, Dedup, EventId, LogLimits, MAX_EVENT, Position, ProducerId, Shard,
};

use super::adapter::{Adapter, Batch, Outgoing, Setup};
use super::{Bus, BusConfig, Item, Ordering, Reader, StoredEvent};
use crate::runtime::Runtime;

/// Shards that the suite writes to.
pub const SHARDS: u16 = 3;
const SOON: Duration = Duration::from_secs(60);

/// A bus over one adapter, in its `incarnation`-th life.
async fn life(runtime: &Arc<dyn Runtime>, adapter: Arc<dyn Adapter>, incarnation: u64) -> Arc<Bus> {
    bus(runtime, adapter, (ProducerId(7), incarnation), SHARDS).await
}

async fn bus(
    runtime: &Arc<dyn Runtime>,
    adapter: Arc<dyn Adapter>,
    (producer, incarnation): (ProducerId, u64),
    shards: u16,
) -> Arc<Bus> {
    let setup = Setup::new(runtime.clone(), producer, incarnation, shards);
    adapter.start(&setup).await.expect("the engine is there");
    let max_event = adapter.caps().max_event.min(MAX_EVENT);
    let bus = Bus::new(
        runtime.clone(),
        BusConfig {
            shards,
            max_shards: shards,
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

async fn end(runtime: &Arc<dyn Runtime>, bus: &Bus) {
    bus.close();
    confirmed(runtime, bus).await;
    soon(runtime, "stop", bus.stop()).await;
    assert_eq!(bus.ledger().lost.total(), 0);
    assert_eq!(bus.adapter().expect("an adapter").shutdown().await, Ok(()));
}

/// Looks for at most `limit` events, as a poll does; and whether there is more.
async fn poll(runtime: &Arc<dyn Runtime>, mut reader: Reader, limit: usize) -> (Vec<StoredEvent>, bool) {
    let mut events = Vec::new();
    while events.len() < limit {
        match reader.pop() {
            Some(Item::Event(event)) => events.push(event),
            Some(other) => panic!("{other:?} after {} of {limit} events", events.len()),
            None => match soon(runtime, "page", poll_fn(|cx| reader.poll_once(cx))).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => panic!("{error} after {} of {limit} events", events.len()),
            },
        }
    }
    (events, reader.has_more())
}

/// However many events are asked for at a time, all of them come, and it is told whether more is there.
async fn pages(runtime: &Arc<dyn Runtime>, bus: &Arc<Bus>, want: &[StoredEvent]) {
    let adapter = bus.adapter().expect("an adapter");
    for limit in [1, 64, 4096, 16_384] {
        let mut seen: BTreeMap<Shard, Vec<(Position, Bytes)>> = BTreeMap::new();
        let mut over = BTreeSet::new();
        loop {
            let at = |s: Shard| (s, seen.get(&s).and_then(|seen| seen.last()).map(|(at, _)| *at));
            let from: Vec<_> = (0..SHARDS).map(at).collect();
            let pages = soon(runtime, "pages", adapter.read(&from, limit, Duration::ZERO)).await;
            let pages = pages.expect("the engine is there");
            if pages.is_empty() {
                break;
            }
            for page in pages {
                let shard = page.shard;
                assert!(page.events.len() <= limit && page.lost.is_none(), "shard {shard}: {:?}", page.lost);
                assert!(!over.contains(&shard), "shard {shard} had no more, and then this: {page:?}");
                if !page.more {
                    over.insert(shard);
                }
                let events = page.events.into_iter().map(|event| (event.position, event.raw));
                seen.entry(shard).or_default().extend(events);
            }
        }
        assert_eq!(
            over,
            (0..SHARDS).collect(),
            "each shard said once that it had no more: {limit} at a time"
        );
        for (shard, seen) in seen {
            let of = want.iter().filter(|e| e.shard == shard).map(|e| (e.position, e.raw.clone()));
            assert!(of.eq(seen), "shard {shard}: {limit} at a time");
        }
    }
    for limit in [1, want.len() / 2, want.len() - 1, want.len(), want.len() + 1] {
        let reader = reader(bus, Cursor::new()).turn_of(64).page_of(limit.min(4096));
        let (events, more) = poll(runtime, reader, limit).await;
        assert_eq!((events.len(), more), (limit.min(want.len()), limit < want.len()), "{limit} events");
    }
}

/// What somebody else writes to shards that were not there before is found by who reads all.
async fn later_shards(runtime: &Arc<dyn Runtime>, bus_: &Arc<Bus>, make: impl Fn() -> Arc<dyn Adapter>) {
    const LATER: u16 = SHARDS + 2;
    const EACH: u16 = 40;
    let adapter = bus_.adapter().expect("an adapter");
    let unknown = adapter.read(&[(SHARDS, None)], 10, Duration::ZERO).await;
    assert_eq!(unknown, Ok(Vec::new()), "nobody wrote there");
    let shards: Vec<Shard> = (0..SHARDS).collect();
    let tail = adapter.tail(&shards).await.expect("tail");
    let all = Reader::new(bus_.clone(), &shards, Cursor::new(), &tail, Ordering::None, false);
    let mut all = all.expect("room for a reader").finding_shards();
    let other = bus(runtime, make(), (ProducerId(8), 1), LATER).await;
    (0..EACH * 2).for_each(|n| _ = other.emit(SHARDS + n % 2, &n.to_le_bytes()).expect("room"));
    confirmed(runtime, &other).await;
    let events = read(runtime, &mut all, usize::from(EACH * 2)).await;
    for shard in SHARDS..LATER {
        let of = events.iter().filter(|e| e.shard == shard).map(|e| e.id.expect("a name"));
        let names = of.map(|id| (id.producer, id.shard, id.seq));
        assert!(
            names.eq((1..=EACH.into()).map(|seq| (ProducerId(8), shard, seq))),
            "shard {shard}: from its first"
        );
    }
    let mut held = adapter.shards().await.expect("shards");
    held.sort_unstable();
    assert_eq!(held, (0..LATER).collect::<Vec<_>>());
    end(runtime, &other).await;
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

    // Long pages and short ones, also of more bytes than any engine answers at once.
    for n in 0..120u32 {
        bus.emit(n as u16 % SHARDS, if n % 4 == 0 { b"short" } else { &longest }).expect("room");
    }
    confirmed(rt, &bus).await;
    read(rt, &mut rest, 120).await;
    let everything = read(rt, &mut reader(&bus, Cursor::new()), count as usize + 121).await;
    pages(rt, &bus, &everything).await;
    // One event of each shard that fills what some engines answer at once.
    let at = rest.cursor();
    let largest = vec![0x5a; adapter.caps().max_event.min(MAX_EVENT) as usize];
    (0..SHARDS).for_each(|shard| _ = bus.emit(shard, &largest).expect("room"));
    confirmed(rt, &bus).await;
    read(rt, &mut rest, SHARDS.into()).await;
    for limit in 1..=usize::from(SHARDS) + 1 {
        let reader = reader(&bus, at.clone()).turn_of(limit).page_of(limit);
        let (events, more) = poll(rt, reader, limit).await;
        assert_eq!(
            (events.len(), more),
            (limit.min(SHARDS.into()), limit < SHARDS.into()),
            "{limit} large events"
        );
    }
    later_shards(rt, &bus, &make).await;

    // A dropped wait loses nothing.
    let at = rest.cursor();
    let _ = poll_fn(|cx| Poll::Ready(rest.poll_next(cx).is_pending())).await;
    drop(rest);

    // The end, and another life: nothing new looks like something old.
    end(rt, &bus).await;
    let bus = life(rt, make(), 2).await;
    for n in 0..30u32 {
        bus.emit(n as u16 % SHARDS, &n.to_le_bytes()).expect("room");
    }
    confirmed(rt, &bus).await;
    let mut next = reader(&bus, at);
    let events = read(rt, &mut next, 30).await;
    assert!(events.iter().all(|e| e.id.is_some_and(|id| id.incarnation == 2)), "only new events");
    end(rt, &bus).await;
    sent_again(rt, make()).await;
}

/// What is sent again over a new link is recognised by its names, and is not there twice where the adapter says so.
async fn sent_again(rt: &Arc<dyn Runtime>, adapter: Arc<dyn Adapter>) {
    let producer = ProducerId(8);
    adapter.start(&Setup::new(rt.clone(), producer, 1, SHARDS)).await.expect("the engine is there");
    let mut at = adapter.tail(&[0]).await.expect("tail").first().map(|(_, at)| *at);
    let event = |seq: u64| Outgoing {
        id: EventId { producer, incarnation: 1, shard: 0, seq },
        stamp: seq,
        raw: Bytes::from(seq.to_string()),
    };
    let most = u64::from(adapter.caps().batch_events.max(1));
    for upto in [10, 20u64] {
        let mut link = adapter.open(0).await.expect("a link");
        for first in (1..=upto).step_by(most as usize) {
            let last = upto.min(first + most - 1);
            let batch = Batch { shard: 0, first, events: (first..=last).map(event).collect() };
            link.send(batch).expect("room");
            let acked =
                async { while poll_fn(|cx| link.poll_ack(cx)).await.expect("acknowledged").upto < last {} };
            soon(rt, "acknowledgement", acked).await;
        }
    }
    let (mut dedup, mut once, mut twice) = (Dedup::default(), Vec::new(), 0);
    while once.len() < 20 {
        let pages = soon(rt, "events", adapter.read(&[(0, at)], 100, SOON)).await.expect("pages");
        for event in pages.into_iter().flat_map(|page| page.events) {
            at = Some(event.position);
            let id = event.id.expect("every event has its name");
            if dedup.is_duplicate(&id) { twice += 1 } else { once.push(id.seq) }
        }
    }
    assert_eq!(once, (1..=20).collect::<Vec<_>>(), "each once and in order after deduplication");
    assert!(twice == 0 || !adapter.caps().dedup, "{twice} were stored twice");
    assert_eq!(adapter.shutdown().await, Ok(()));
}

/// Checks that an adapter tells what its engine has forgotten. The engine holds nothing at first; after 60 events of
/// shard 0 it has to forget about the first 30, by itself or when `forget` is called with the position of the
/// last of them.
///
/// # Panics
/// If a loss is not told, or one that did not happen.
pub async fn losses(
    runtime: Arc<dyn Runtime>,
    adapter: Arc<dyn Adapter>,
    forget: impl AsyncFnOnce(Position),
) {
    let rt = &runtime;
    let bus = life(rt, adapter, 1).await;
    let emit = |numbers: std::ops::Range<u8>| numbers.for_each(|n| _ = bus.emit(0, &[n]).expect("room"));
    emit(0..30);
    confirmed(rt, &bus).await;
    let mut early = reader(&bus, Cursor::new());
    let seen = read(rt, &mut early, 10).await;
    let (cursor, at) = (early.cursor(), seen[9].position);
    let last = read(rt, &mut early, 20).await[19].position;
    emit(30..60);
    confirmed(rt, &bus).await;
    // An engine may not know whether something lay behind an event that is gone.
    assert_eq!(read(rt, &mut early, 1).await[0].raw[..], [30]);
    forget(last).await;
    // Who had seen everything that is gone, and who had seen nothing, miss nothing of what they asked for.
    for (reader, what) in [(&mut early, "behind it"), (&mut reader(&bus, Cursor::new()), "from the oldest")] {
        let mut numbers = Vec::new();
        while numbers.last() != Some(&59) {
            numbers.push(read(rt, reader, 1).await[0].raw[0]);
        }
        assert!(numbers[0] >= 30 && numbers.windows(2).all(|w| w[0] + 1 == w[1]), "{what}: {numbers:?}");
    }
    let mut late = reader(&bus, cursor);
    let first = soon(rt, "loss", poll_fn(|cx| late.poll_next(cx))).await;
    let Some(Ok(Item::Lost { shard: 0, from, to })) = first else { panic!("the loss is told: {first:?}") };
    let next = &read(rt, &mut late, 1).await[0];
    assert!(from == at && to >= last && to < next.position && next.raw[0] >= 30, "{from} to {to}, {next:?}");
    end(rt, &bus).await;
}
