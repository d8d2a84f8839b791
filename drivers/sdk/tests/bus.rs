//! The event bus in memory, through the SDK, on both runtimes.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::clock::Clock;
use common::{fresh, soon};
use net_sdk::net::{
    Backpressure, BatchConfig, Cursor, Filter, Item, ItemRef, Op, Operand, Ordering, PollRequest,
    ReadOptions, SubscribeOptions, Typed,
};
use net_sdk::{Net, Runtime, SdkError};
use net_shell::bus::engine::Engine;
use serde::{Deserialize, Serialize};

/// Runs a test on tokio and on smol.
fn both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test());
    let smol: Arc<dyn Runtime> = Arc::new(net_smol::Smol::new());
    smol::block_on(net_sdk::rt::enter(smol, test()));
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Reading {
    c: i32,
}

#[test]
fn the_quick_start_reads_back_what_it_wrote() {
    both(|| async {
        let bus = Net::builder().memory().build().await.unwrap();
        bus.emit(&Reading { c: 21 }).unwrap();
        let mut readings = bus.subscribe_typed::<Reading>().await.unwrap();
        let first = soon("reading", readings.next()).await.unwrap().unwrap();
        assert_eq!(first, Typed::Event(Reading { c: 21 }));
        bus.emit_str("not json").unwrap();
        assert!(matches!(soon("bad", readings.next()).await, Some(Err(SdkError::Serialization(_)))));
        bus.emit(&Reading { c: 22 }).unwrap();
        let next = soon("reading", readings.next()).await.unwrap().unwrap();
        assert_eq!(next.into_event(), Some(Reading { c: 22 }), "the stream goes on");
    });
}

#[test]
fn polls_page_through_everything_once_and_consume_nothing() {
    both(|| async {
        let bus = Net::builder().shards(3).build().await.unwrap();
        for n in 0..2000u32 {
            bus.emit_raw(n.to_le_bytes()).unwrap();
        }
        for ordering in [Ordering::None, Ordering::Insertion] {
            let mut cursor = Cursor::new();
            let mut seen = Vec::new();
            loop {
                // Over a restart a cursor is a token.
                let at = Cursor::from_token(&cursor.token()).unwrap();
                let page =
                    bus.poll(PollRequest::new().limit(77).cursor(at).ordering(ordering)).await.unwrap();
                seen.extend(page.events.iter().map(|e| u32::from_le_bytes(e.raw[..].try_into().unwrap())));
                assert!(page.lost.is_empty());
                cursor = page.cursor;
                if page.events.is_empty() {
                    assert!(!page.has_more);
                    break;
                }
                if !page.has_more {
                    assert!(page.events.len() < 77 || seen.len() == 2000);
                }
            }
            if ordering == Ordering::None {
                seen.sort_unstable();
            }
            assert_eq!(seen, (0..2000).collect::<Vec<_>>());
        }
        let first = bus.poll(PollRequest::new().limit(300)).await.unwrap();
        let mut by_shard = BTreeMap::new();
        first.events.iter().for_each(|e| *by_shard.entry(e.shard).or_insert(0) += 1);
        assert_eq!(by_shard.len(), 3, "no shard starves another: {by_shard:?}");
    });
}

#[test]
fn a_subscriber_that_falls_behind_is_told() {
    both(|| async {
        let mode = Backpressure::DropOldest;
        let bus = Net::builder().shards(1).buffer_capacity(10).backpressure(mode).build().await.unwrap();
        let mut sub = bus.subscribe().await.unwrap();
        for n in 0..25u8 {
            bus.emit_raw([n]).unwrap();
        }
        let Some(Ok(Item::Lost { from, to, .. })) = soon("lost", sub.next()).await else { panic!("no Lost") };
        assert_eq!((from.minor, to.minor), (0, 15));
        for n in 15..25u8 {
            let item = soon("event", sub.next()).await.unwrap().unwrap();
            assert_eq!(item.into_event().unwrap().raw[..], [n]);
        }
        let ledger = bus.stats().ledger;
        assert!(ledger.balances());
        assert_eq!((ledger.ingested, ledger.delivered, ledger.lost.evicted), (25, 10, 15));
    });
}

#[test]
fn fail_producer_loses_nothing_and_says_so() {
    both(|| async {
        let bus = Net::builder().shards(1).buffer_capacity(4).build().await.unwrap();
        let mut sub = bus.subscribe().await.unwrap();
        let results = bus.emit_raw_batch(&[[0u8], [1], [2], [3], [4]]);
        assert!(results[..4].iter().all(Result::is_ok));
        assert!(matches!(results[4], Err(SdkError::Backpressure)));
        soon("event", sub.next()).await.unwrap().unwrap();
        bus.emit_raw([5]).unwrap();
        drop(sub);
        (0..10).for_each(|_| _ = bus.emit_raw([6]).unwrap());
        let lossy = bus.subscribe_with(SubscribeOptions::new().lossy()).await.unwrap();
        (0..10).for_each(|_| _ = bus.emit_raw([7]).unwrap());
        drop(lossy);
        assert!(bus.stats().ledger.balances());
    });
}

#[test]
fn other_modes_do_what_they_say() {
    both(|| async {
        let build = |mode| Net::builder().shards(1).buffer_capacity(4).backpressure(mode).build();
        let bus = build(Backpressure::DropNewest).await.unwrap();
        let _sub = bus.subscribe().await.unwrap();
        let dropped = (0..10).filter(|_| matches!(bus.emit_raw(b"x"), Err(SdkError::Dropped))).count();
        assert_eq!((dropped, bus.stats().ledger.lost.newest), (6, 6));
        let bus = build(Backpressure::Sample(3)).await.unwrap();
        let kept = (0..9).filter(|_| bus.emit_raw(b"x").is_ok()).count();
        assert_eq!((kept, bus.stats().ledger.lost.sampled), (3, 6));
        assert!(bus.stats().ledger.balances());
    });
}

#[test]
fn keys_keep_their_order_and_insertion_merges_shards() {
    both(|| async {
        let bus = Net::builder().shards(4).build().await.unwrap();
        for n in 0..400u32 {
            bus.emit_keyed(format!("k{}", n % 7), n.to_le_bytes()).unwrap();
        }
        let value = |item: Item| u32::from_le_bytes(item.into_event().unwrap().raw[..].try_into().unwrap());
        let mut sub = bus.subscribe().await.unwrap();
        let mut last = BTreeMap::new();
        for _ in 0..400 {
            let n = value(soon("event", sub.next()).await.unwrap().unwrap());
            assert!(last.insert(n % 7, n).is_none_or(|before| before < n));
        }
        let mut sub = bus.subscribe_with(ReadOptions::new().ordering(Ordering::Insertion)).await.unwrap();
        for n in 0..400 {
            assert_eq!(value(soon("event", sub.next()).await.unwrap().unwrap()), n);
        }
    });
}

#[test]
fn threads_emit_and_everything_arrives_once() {
    both(|| async {
        let bus = Net::builder().shards(2).build().await.unwrap();
        // The merge has races to lose: it gets more attempts.
        let merged = std::iter::repeat_n(Ordering::Insertion, 20);
        for ordering in std::iter::once(Ordering::None).chain(merged) {
            let options = ReadOptions::new().ordering(ordering).latest();
            let mut sub = bus.subscribe_with(options).await.unwrap();
            let threads: Vec<_> = (0..2u32)
                .map(|t| {
                    let bus = bus.clone();
                    std::thread::spawn(move || {
                        (0..20_000u32).for_each(|n| _ = bus.emit_raw((t << 24 | n).to_le_bytes()).unwrap());
                    })
                })
                .collect();
            let (mut seen, mut stamp) = (vec![0u32; 2], 0);
            for _ in 0..40_000 {
                let event = soon("event", sub.next()).await.unwrap().unwrap().into_event().unwrap();
                let n = u32::from_le_bytes(event.raw[..].try_into().unwrap());
                let of = (n >> 24) as usize;
                if ordering == Ordering::Insertion {
                    assert_eq!(n & 0xff_ffff, seen[of], "a thread's events in their order");
                    assert!(event.stamp >= stamp);
                    stamp = event.stamp;
                }
                seen[of] += 1;
            }
            assert_eq!(seen, [20_000, 20_000]);
            threads.into_iter().for_each(|t| t.join().unwrap());
        }
    });
}

#[test]
fn a_shutdown_ends_subscriptions_after_their_events() {
    both(|| async {
        let bus = Net::builder().shards(2).build().await.unwrap();
        let mut sub = bus.subscribe().await.unwrap();
        bus.emit_raw("a").unwrap();
        let closed = bus.shutdown().await;
        assert_eq!((closed.lost, closed.ledger.queued), (0, 1));
        assert!(matches!(bus.emit_raw("b"), Err(SdkError::Shutdown)));
        assert!(soon("event", sub.next()).await.is_some());
        assert!(soon("end", sub.next()).await.is_none());
        assert_eq!(bus.stats().ledger.delivered, 1);
        assert_eq!(bus.shutdown().await.lost, 0);
        // Nobody read these: they go with the memory, and the shutdown says so.
        let bus = Net::builder().shards(2).build().await.unwrap();
        bus.emit_raw("a").unwrap();
        assert_eq!(bus.shutdown().await.lost, 1);
        assert!(bus.health().await.is_err());
    });
}

#[test]
fn poison_configurations_are_refused_by_name() {
    both(|| async {
        let builder = Net::builder;
        let batch = BatchConfig::default();
        for (what, wrong) in [
            ("shards", builder().shards(0)),
            ("shards", builder().shards(1025)),
            ("buffer_capacity", builder().buffer_capacity(0)),
            ("buffer_capacity", builder().buffer_capacity(u64::MAX)),
            ("buffer_bytes", builder().buffer_bytes(0)),
            ("buffer_bytes", builder().buffer_bytes(u64::MAX)),
            ("max_event", builder().max_event(0)),
            ("max_event", builder().max_event(u32::MAX)),
            ("Sample", builder().backpressure(Backpressure::Sample(0))),
            ("most shards", builder().shards(4).max_shards(3)),
            ("most shards", builder().shards(4).max_shards(1025)),
            ("adapter_timeout (ms)", builder().adapter_timeout(Duration::ZERO)),
            ("max_event", builder().buffer_bytes(4096).max_event(1025)),
            ("batch.max_events", builder().batch(BatchConfig { max_events: 0, ..batch })),
            ("batch.max_events", builder().batch(BatchConfig { max_events: u32::MAX, ..batch })),
            ("batch.min_events", builder().batch(BatchConfig { min_events: 20_000, ..batch })),
            ("batch.max_delay (ms)", builder().batch(BatchConfig { max_delay: Duration::MAX, ..batch })),
        ] {
            match wrong.build().await {
                Err(SdkError::Limit { what: named, .. }) => assert_eq!(named, what),
                other => panic!("{what}: {other:?}"),
            }
        }
        let engine = || Engine::new().adapter();
        for conflict in [
            builder().memory().memory(),
            builder().memory().adapter(engine()),
            builder().adapter(engine()).adapter(engine()),
            builder().outbox("nowhere"),
            builder().memory().outbox("nowhere"),
            builder().adapter(engine()).outbox("nowhere").backpressure(Backpressure::DropOldest),
            builder().adapter(engine()).read_only().shards(1),
            builder().read_only(),
        ] {
            assert!(matches!(conflict.build().await, Err(SdkError::Config(_))));
        }
        assert!(!std::path::Path::new("nowhere").exists(), "and nothing was made");
    });
}

#[test]
fn any_bytes_pass_and_limits_come_first() {
    both(|| async {
        let bus = Net::builder().shards(1).max_event(100).build().await.unwrap();
        let bodies: [&[u8]; 4] = [b"", b"\0\xff\xfe", b"{\"s\":1,\"t\":2", &[7; 100]];
        bodies.iter().for_each(|b| _ = bus.emit_raw(b).unwrap());
        let too_long = bus.emit_raw([0; 101]);
        assert!(matches!(too_long, Err(SdkError::TooLarge { len: 101, limit: 100 })));
        assert!(matches!(bus.emit_to(1, b"x"), Err(SdkError::Unrouted(1))));
        let page = bus.poll(PollRequest::new()).await.unwrap();
        assert!(page.events.iter().map(|e| &e.raw[..]).eq(bodies));
        assert_eq!(bus.flush().await.unwrap().watermarks, [(0, 4)]);
    });
}

#[test]
fn filters_choose_and_cursors_move_on() {
    both(|| async {
        let bus = Net::builder().shards(2).build().await.unwrap();
        let filter = Filter::compare("c", Op::Ge, 90).unwrap();
        let mut sub = bus.subscribe_with(ReadOptions::new().filter(filter.clone())).await.unwrap();
        (0..100).for_each(|c| _ = bus.emit(&Reading { c }).unwrap());
        bus.emit_str("not json").unwrap();
        let page = bus.poll(PollRequest::new().filter(filter.clone())).await.unwrap();
        assert_eq!(page.events.len(), 10);
        let rest = bus.poll(PollRequest::new().cursor(page.cursor)).await.unwrap();
        assert!(rest.events.is_empty(), "what did not match is behind the cursor, too");
        for c in 90..100 {
            let event = soon("event", sub.next()).await.unwrap().unwrap().into_event().unwrap();
            assert_eq!(net_sdk::net::parse::<Reading>(&event.raw).unwrap(), Reading { c });
        }
        let text = filter.to_string();
        assert_eq!(text.parse::<Filter>().unwrap(), filter);
    });
}

/// What is lent is what would be given, in memory and from an engine, and what is kept outlives the reader.
#[test]
fn visitors_see_what_others_are_given() {
    both(|| async {
        let engine = Engine::new();
        let small = || Net::builder().shards(2).buffer_capacity(50).backpressure(Backpressure::DropOldest);
        for (builder, gaps) in [(small(), true), (Net::builder().shards(2).adapter(engine.adapter()), false)]
        {
            let bus = builder.build().await.unwrap();
            let filter = Filter::compare("c", Op::Ge, 40).unwrap();
            let options = ReadOptions::new().filter(filter);
            let mut given = bus.subscribe_with(options.clone()).await.unwrap();
            let mut lent = bus.subscribe_with(options).await.unwrap();
            let shard = |c: i32| u16::from(c % 3 == 0);
            (0..120).for_each(|c| {
                _ = bus.emit_to(shard(c), serde_json::to_vec(&Reading { c }).unwrap()).unwrap()
            });
            bus.flush().await.unwrap();
            // In memory each shard holds the last 50: those of 45 to 119 but every third, and all 40 of the other.
            let (gaps, events) = if gaps { (1, 50 + 26) } else { (0, 80) };
            let (mut want, mut seen, mut kept) = (Vec::new(), Vec::new(), Vec::new());
            while want.len() < gaps + events {
                want.push(soon("item", given.next()).await.unwrap().unwrap());
            }
            let lost = want.iter().filter(|item| matches!(item, Item::Lost { .. })).count();
            assert_eq!(lost, gaps);
            while seen.len() < want.len() {
                let mut n = 0;
                let visit = lent.visit_many(7, |item| {
                    n += 1;
                    seen.push(item.to_item());
                    if let ItemRef::Event(event) = item {
                        assert!(event.raw.starts_with(b"{"));
                        kept.push(event.to_event());
                    }
                });
                assert_eq!(soon("items", visit).await.unwrap(), n);
                assert!((1..=7).contains(&n));
            }
            assert_eq!(seen, want);
            assert_eq!(lent.cursor(), given.cursor());
            assert_eq!(lent.visit_many(0, |_| panic!("nothing was asked for")).await.unwrap(), 0);
            bus.shutdown().await;
            assert_eq!(soon("the end", lent.visit_many(1, |_| panic!("all was seen"))).await.unwrap(), 0);
            drop((lent, given, bus));
            let events = want.into_iter().filter_map(Item::into_event);
            assert!(events.eq(kept), "and they outlive the reader");
        }
    });
}

/// Where binary fractions and integers of 53 bits would be wrong.
#[test]
fn filters_compare_decimals() {
    both(|| async {
        let bus = Net::builder().shards(1).build().await.unwrap();
        bus.emit(&BTreeMap::from([("x", 0.1 + 0.2)])).unwrap();
        bus.emit(&BTreeMap::from([("x", u64::MAX)])).unwrap();
        for x in ["9007199254740993", "0.30", "3e-1", "-1e400", "1e99999999999999999999", "\"0.3\""] {
            bus.emit_str(&format!("{{\"x\":{x}}}")).unwrap();
        }
        let number = |text| Operand::number(text).unwrap();
        for (op, operand, want) in [
            (Op::Eq, number("0.3"), &[4, 5][..]),
            (Op::Gt, number("0.3"), &[1, 2, 3, 7]),
            (Op::Eq, number("0.30000000000000004"), &[1]),
            (Op::Gt, number("9007199254740992"), &[2, 3, 7]),
            (Op::Le, number("9007199254740992.9"), &[1, 4, 5, 6]),
            (Op::Eq, u64::MAX.into(), &[2]),
            (Op::Eq, number("1.8446744073709551615E+19"), &[2]),
            (Op::Lt, number("-9.99e399"), &[6]),
            (Op::Ge, number("1e401"), &[7]),
            (Op::Eq, "0.3".into(), &[8]),
        ] {
            let filter = Filter::compare("x", op, operand).unwrap();
            // The printed form is the same filter.
            for filter in [filter.to_string().parse().unwrap(), filter] {
                let text = filter.to_string();
                let page = bus.poll(PollRequest::new().filter(filter)).await.unwrap();
                let found: Vec<_> = page.events.iter().map(|event| event.position.minor).collect();
                assert_eq!(found, want, "{text}");
            }
        }
    });
}

/// They change when events leave, and neither which nor in what order.
#[test]
fn presets_deliver_everything_in_order() {
    both(|| async {
        let presets = [Net::builder(), Net::builder().high_throughput(), Net::builder().low_latency()];
        for (preset, capacity) in presets.into_iter().flat_map(|p| [(p.clone(), 7), (p, 1 << 16)]) {
            let builder = preset.shards(1).buffer_capacity(capacity);
            for memory in [true, false] {
                let builder = builder.clone();
                let engine = Engine::new();
                let builder = if memory { builder.memory() } else { builder.adapter(engine.adapter()) };
                let bus = builder.build().await.unwrap();
                let mut sub = bus.subscribe().await.unwrap();
                for n in 0..500u32 {
                    while let Err(full) = bus.emit_raw(n.to_le_bytes()) {
                        assert!(!memory && matches!(full, SdkError::Backpressure), "{full}");
                        // The buffer is smaller than any batch: what is there goes all the same.
                        soon("flush", bus.flush()).await.unwrap();
                    }
                    if memory {
                        let event = soon("event", sub.next()).await.unwrap().unwrap().into_event().unwrap();
                        assert_eq!(event.raw[..], n.to_le_bytes());
                    }
                }
                if !memory {
                    for n in 0..500u32 {
                        let event = soon("event", sub.next()).await.unwrap().unwrap().into_event().unwrap();
                        assert_eq!(event.raw[..], n.to_le_bytes());
                    }
                }
                let closed = soon("shutdown", bus.shutdown()).await;
                assert_eq!((closed.lost, closed.ledger.delivered), (0, 500));
            }
        }
    });
}

#[test]
fn an_identity_file_is_kept_locked_and_never_repaired() {
    both(|| async {
        let path = fresh("bus-identity").join("producer");
        let build = || Net::builder().producer_nonce_path(&path).build();
        let bus = build().await.unwrap();
        let first = bus.emit_raw("a").unwrap().id;
        assert!(matches!(build().await, Err(SdkError::Identity { .. })), "one bus at a time");
        drop(bus);
        let bus = build().await.unwrap();
        let second = bus.emit_raw("a").unwrap().id;
        assert_eq!(first.producer, second.producer);
        assert!(second.incarnation > first.incarnation && second != first);
        drop(bus);
        for wrong in [&b"something else, longer than a record"[..], b"", b"net prod\x01"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(matches!(build().await, Err(SdkError::Identity { .. })));
            assert_eq!(std::fs::read(&path).unwrap(), wrong, "left untouched");
        }
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    });
}

/// Shards that come to take events while somebody reads, and retire again, are read from their first to their last.
#[test]
fn shards_that_come_and_go_are_read() {
    both(|| async {
        let bus = Net::builder().shards(1).max_shards(4).build().await.unwrap();
        let mut sub = bus.subscribe().await.unwrap();
        let mut cursor = bus.poll(PollRequest::new()).await.unwrap().cursor;
        let (mut emitted, mut read, mut polled) = (Vec::new(), Vec::new(), Vec::new());
        for active in [1, 4, 2, 3, 1] {
            bus.bus().set_active(active);
            for n in 0..active * 3 {
                emitted.push(bus.emit_to(n % active, [0]).unwrap().id);
            }
            // Those of a shard that has retired by now come, too.
            bus.bus().set_active(1);
            for _ in 0..active * 3 {
                read.push(
                    soon("event", sub.next()).await.unwrap().unwrap().into_event().unwrap().id.unwrap(),
                );
            }
            let page = bus.poll(PollRequest::new().cursor(cursor)).await.unwrap();
            polled.extend(page.events.iter().map(|event| event.id.unwrap()));
            cursor = page.cursor;
        }
        emitted.sort_unstable();
        read.sort_unstable();
        polled.sort_unstable();
        assert_eq!((&read, &polled), (&emitted, &emitted));
        assert!(emitted.iter().any(|id| id.shard == 3));
    });
}

/// Its events went with its memory, also if there are as many again by now.
#[test]
fn a_cursor_of_an_earlier_life_is_told_what_went_with_it() {
    both(|| async {
        let life = async |events: u8| {
            let bus = Net::builder().shards(1).build().await.unwrap();
            (0..events).for_each(|n| _ = bus.emit_raw([n]).unwrap());
            bus
        };
        let cursor = life(10).await.poll(PollRequest::new()).await.unwrap().cursor;
        let bus = life(20).await;
        let page = bus.poll(PollRequest::new().cursor(cursor.clone())).await.unwrap();
        assert_eq!((page.lost.len(), page.events.len()), (1, 20));
        assert_eq!(page.lost[0].1, cursor.get(0).unwrap(), "behind what was seen");
        let again = bus.poll(PollRequest::new().cursor(page.cursor)).await.unwrap();
        assert!(again.lost.is_empty() && again.events.is_empty(), "once");
        let mut sub = bus.subscribe_with(ReadOptions::new().cursor(cursor)).await.unwrap();
        assert!(matches!(soon("item", sub.next()).await, Some(Ok(Item::Lost { .. }))));
        assert_eq!(soon("item", sub.next()).await.unwrap().unwrap().into_event().unwrap().raw[..], [0]);
    });
}

/// The clock may have been set back in between: what is gone is told once, and the reader goes on.
#[test]
fn a_cursor_of_an_earlier_life_with_a_later_clock_is_told_once() {
    both(|| async {
        let clock = Clock::at(500_000);
        let life = async |events: u8| {
            let bus = Net::builder().shards(1).runtime(clock.clone()).build().await.unwrap();
            (0..events).for_each(|n| _ = bus.emit_raw([n]).unwrap());
            bus
        };
        let cursor = life(10).await.poll(PollRequest::new()).await.unwrap().cursor;
        clock.hours.store(400_000, SeqCst);
        let bus = life(3).await;
        let page = bus.poll(PollRequest::new().cursor(cursor.clone())).await.unwrap();
        assert_eq!((page.lost.len(), page.events.len()), (1, 3));
        let again = bus.poll(PollRequest::new().cursor(page.cursor)).await.unwrap();
        assert!(again.lost.is_empty() && again.events.is_empty(), "once");
        let empty = life(0).await;
        let page = empty.poll(PollRequest::new().cursor(cursor)).await.unwrap();
        assert_eq!((page.lost.len(), page.events.len()), (1, 0));
        let again = empty.poll(PollRequest::new().cursor(page.cursor)).await.unwrap();
        assert!(again.lost.is_empty(), "once, also with nothing behind it");
    });
}

/// Names rise whatever the clock says, and within a life times do.
#[test]
fn a_clock_that_jumps_makes_no_name_twice() {
    both(|| async {
        let path = fresh("bus-clock").join("producer");
        let clock = Clock::at(500_000);
        let mut last = None;
        for hours in [500_000, 400_000, 600_000, 1, 0] {
            clock.hours.store(hours, SeqCst);
            let bus = Net::builder().shards(1).producer_nonce_path(&path).runtime(clock.clone());
            let bus = bus.build().await.unwrap();
            let a = bus.emit_raw("a").unwrap();
            clock.hours.store(hours / 2, SeqCst);
            let b = bus.emit_raw("b").unwrap();
            assert!(a.timestamp < b.timestamp && a.id < b.id);
            assert!(last.replace(b.id).is_none_or(|last| last < a.id), "{last:?} {a:?}");
        }
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    });
}

/// One event that cannot be taken keeps none of the others out, and each has its own answer.
#[test]
fn a_batch_says_what_came_of_each_event() {
    both(|| async {
        let bus = Net::builder().shards(1).max_event(10).buffer_capacity(3).build().await.unwrap();
        let sub = bus.subscribe().await.unwrap();
        let told = bus.emit_raw_batch(&[&b"a"[..], &[0; 11], b"", b"b", b"c"]);
        let ok: Vec<_> = told.iter().map(Result::is_ok).collect();
        assert_eq!(ok, [true, false, true, true, false], "{told:?}");
        assert!(matches!(told[1], Err(SdkError::TooLarge { len: 11, limit: 10 })));
        assert!(matches!(told[4], Err(SdkError::Backpressure)));
        drop(sub);
        let told = bus.emit_batch(&[1.5, f64::from(u8::MAX)]);
        assert!(told.iter().all(Result::is_ok), "{told:?}");
        let told = bus.emit_batch(&[BTreeMap::from([((1, 2), 3)]), BTreeMap::new()]);
        assert!(matches!(&told[..], [Err(SdkError::Serialization(_)), Ok(_)]), "{told:?}");
        bus.shutdown().await;
        assert!(bus.emit_raw_batch(&["x"]).iter().all(|told| matches!(told, Err(SdkError::Shutdown))));
    });
}
