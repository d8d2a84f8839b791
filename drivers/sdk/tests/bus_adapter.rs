//! The bus over an engine that fails on command, and the suite for adapters itself.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use common::clock::Clock;
use common::{fresh, soon};
use net_sdk::net::{Backpressure, BatchConfig, PollRequest, Position, ReadOptions, Safe, Shard};
use net_sdk::{Net, Runtime, SdkError};
use net_shell::bus::adapter::{Adapter, AdapterCaps, AdapterError, BoxFut, Link, Page, Setup};
use net_shell::bus::conformance::{conformance, losses};
use net_shell::bus::engine::{Engine, EngineAdapter, Faults};

fn both<F: Future<Output = ()>>(test: impl Fn(Arc<dyn Runtime>) -> F) {
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    rt.block_on(async { test(Arc::new(net_sdk::Tokio::current().unwrap())).await });
    let smol: Arc<dyn Runtime> = Arc::new(net_smol::Smol::new());
    smol::block_on(net_sdk::rt::enter(smol.clone(), test(smol)));
}

#[test]
fn the_engine_in_memory_conforms() {
    both(|rt| async {
        let engine = Engine::new();
        conformance(rt.clone(), || Arc::new(engine.adapter())).await;
        losses(rt, Arc::new(Engine::new().retaining(30).adapter()), async |_| {}).await;
    });
}

#[test]
fn links_break_and_nothing_is_lost() {
    both(|_| async {
        let engine = Engine::new();
        let batch =
            BatchConfig { min_events: 10, max_events: 20, max_delay: Duration::ZERO, adaptive: false };
        let bus = Net::builder().shards(1).batch(batch).adapter(engine.adapter()).build().await.unwrap();
        for round in 0..6u32 {
            engine.set(Faults {
                break_after: Some(round % 3),
                take_of_last: round as usize,
                refuse_links: round % 2,
                ..Faults::default()
            });
            for n in 0..100 {
                bus.emit_raw((round * 100 + n).to_le_bytes()).unwrap();
            }
            soon("flush", bus.flush()).await.unwrap();
        }
        let taken = engine.taken(0);
        let unique: BTreeSet<_> = taken.iter().map(|id| id.seq).collect();
        assert_eq!(unique, (1..=600).collect(), "nothing lost");
        assert!(taken.len() > 600, "and something was sent twice, under the same name");
        let mut high = 0;
        let mut first = 0;
        for id in &taken {
            if id.seq > high {
                (high, first) = (id.seq, first + 1);
            }
        }
        assert_eq!(first, 600, "first appearances are in order");
        let closed = soon("shutdown", bus.shutdown()).await;
        assert_eq!((closed.lost, closed.ledger.delivered), (0, 600));
    });
}

#[test]
fn an_engine_that_is_down_pushes_back_and_says_why() {
    both(|_| async {
        let engine = Engine::new();
        let bus = Net::builder()
            .shards(1)
            .buffer_capacity(50)
            .adapter_timeout(Duration::from_millis(50))
            .adapter(engine.adapter())
            .build()
            .await
            .unwrap();
        bus.emit_raw(b"first").unwrap();
        assert_eq!(soon("durable", bus.emit_durable(b"second")).await.unwrap().1, Safe::Engine);
        engine.set(Faults { down: true, ..Faults::default() });
        assert!(matches!(bus.health().await, Err(SdkError::Adapter(AdapterError::Connection(_)))));
        let refused = (0..2000).filter(|_| matches!(bus.emit_raw(b"x"), Err(SdkError::Backpressure))).count();
        assert!(refused > 0, "a full buffer fails the producer");
        let Err(SdkError::Unconfirmed { .. }) = soon("flush", bus.flush()).await else {
            panic!("flush says no")
        };
        engine.set(Faults::default());
        let ok = soon("flush", async { while bus.flush().await.is_err() {} });
        ok.await;
        let ledger = bus.stats().ledger;
        assert!(ledger.balances() && ledger.queued == 0, "{ledger:?}");
        assert_eq!(ledger.ingested + ledger.refused, 2002);
        assert_eq!(ledger.delivered as usize, engine.taken(0).iter().collect::<BTreeSet<_>>().len());
        engine.set(Faults { down: true, ..Faults::default() });
        (0..7).for_each(|_| _ = bus.emit_raw(b"never").unwrap());
        let closed = soon("shutdown", bus.shutdown()).await;
        assert_eq!(closed.lost, 7, "{closed:?}");
        assert!(closed.ledger.balances());
    });
}

#[test]
fn drop_oldest_tells_what_the_engine_never_got() {
    both(|_| async {
        let engine = Engine::new();
        engine.set(Faults { hold_acks: true, ..Faults::default() });
        let bus = Net::builder()
            .shards(1)
            .buffer_capacity(10)
            .backpressure(Backpressure::DropOldest)
            .adapter(engine.adapter())
            .build()
            .await
            .unwrap();
        (0..30_000).for_each(|_| _ = bus.emit_raw(b"x").unwrap());
        engine.set(Faults::default());
        soon("flush", bus.flush()).await.unwrap();
        let ledger = bus.stats().ledger;
        assert!(ledger.balances() && ledger.lost.evicted > 0, "{ledger:?}");
        assert_eq!(ledger.delivered + ledger.lost.evicted, 30_000);
        assert_eq!(engine.taken(0).len() as u64, ledger.delivered);
    });
}

#[test]
fn polls_page_through_an_engine_and_losses_are_told() {
    both(|_| async {
        let engine = Engine::new().retaining(40);
        let bus = Net::builder().shards(2).adapter(engine.adapter()).build().await.unwrap();
        let emit = |n: u32| (0..n).for_each(|n| _ = bus.emit_to(n as u16 % 2, n.to_le_bytes()).unwrap());
        emit(20);
        soon("flush", bus.flush()).await.unwrap();
        let page = bus.poll(PollRequest::new().limit(15)).await.unwrap();
        assert_eq!((page.events.len(), page.lost.len()), (15, 0));
        let rest = bus.poll(PollRequest::new().cursor(page.cursor.clone())).await.unwrap();
        assert_eq!(rest.events.len(), 5);
        emit(200);
        soon("flush", bus.flush()).await.unwrap();
        let page = bus.poll(PollRequest::new().cursor(rest.cursor.clone()).limit(1000)).await.unwrap();
        assert_eq!((page.events.len(), page.lost.len()), (80, 2), "what the engine forgot is told");
        let mut sub = bus.subscribe_with(ReadOptions::new().latest()).await.unwrap();
        bus.emit_raw(b"new").unwrap();
        let event = soon("event", sub.next()).await.unwrap().unwrap().into_event().unwrap();
        assert_eq!(&event.raw[..], b"new");
    });
}

#[test]
fn a_long_poll_asks_for_long_pages() {
    both(|_| async {
        for (shards, questions) in [(1, 4), (4, 4)] {
            let engine = Engine::new();
            let bus = Net::builder().shards(shards).adapter(engine.adapter()).build().await.unwrap();
            (0..10_000u16).for_each(|n| _ = bus.emit_to(n % shards, n.to_le_bytes()).unwrap());
            soon("flush", bus.flush()).await.unwrap();
            let page = bus.poll(PollRequest::new().limit(10_000)).await.unwrap();
            assert_eq!(page.events.len(), 10_000);
            assert!(engine.reads() <= questions, "{} questions, {shards} shards", engine.reads());
            let first = bus.poll(PollRequest::new().limit(3)).await.unwrap();
            assert_eq!((first.events.len(), first.has_more), (3, true));
        }
    });
}

#[test]
fn a_poll_that_its_limit_ended_says_whether_there_is_more() {
    both(|_| async {
        for memory in [true, false] {
            let net = Net::builder().shards(1);
            let net = if memory { net.memory() } else { net.adapter(Engine::new().adapter()) };
            let bus = net.build().await.unwrap();
            (0..128u8).for_each(|n| _ = bus.emit_raw([n]).unwrap());
            soon("flush", bus.flush()).await.unwrap();
            for limit in [1, 64, 127, 128, 129] {
                let page = bus.poll(PollRequest::new().limit(limit)).await.unwrap();
                assert_eq!(page.events.len(), limit.min(128));
                assert_eq!(page.has_more, limit < 128, "memory {memory}, limit {limit}");
            }
        }
    });
}

/// Somebody else begins to write, or goes on with more shards.
#[test]
fn a_subscription_finds_shards_that_appear_later() {
    both(|_| async {
        let engine = Engine::new();
        let reader = Net::builder().adapter(engine.adapter()).read_only().build().await.unwrap();
        let mut all = reader.subscribe().await.unwrap();
        let mut latest = reader.subscribe_with(ReadOptions::new().latest()).await.unwrap();
        for shards in [1, 3] {
            let writer = Net::builder().shards(shards).adapter(engine.adapter()).build().await.unwrap();
            let names: BTreeSet<_> =
                (0..30u16).map(|n| writer.emit_to(n % shards, [1]).unwrap().id).collect();
            soon("flush", writer.flush()).await.unwrap();
            for sub in [&mut all, &mut latest] {
                let mut seen = BTreeSet::new();
                while seen.len() < names.len() {
                    let item = soon("event", sub.next()).await.unwrap().unwrap();
                    assert!(seen.insert(item.into_event().unwrap().id.unwrap()), "each once");
                }
                assert_eq!(seen, names, "from the first on");
            }
            writer.shutdown().await;
        }
        let cursor = all.cursor();
        assert_eq!(cursor, latest.cursor());
        assert!(reader.poll(PollRequest::new().cursor(cursor)).await.unwrap().events.is_empty());
    });
}

#[test]
fn the_outbox_replays_what_the_engine_does_not_have_under_its_old_names() {
    both(|_| async {
        let dir = fresh("bus-outbox");
        let engine = Engine::new();
        let build = || Net::builder().shards(2).outbox(&dir).adapter(engine.adapter()).build();
        let bus = build().await.unwrap();
        let (a, safe) = soon("durable", bus.emit_durable(b"a")).await.unwrap();
        assert_ne!(safe, Safe::Memory);
        // The engine takes nothing more; the events are on disk all the same.
        engine.set(Faults { down: true, ..Faults::default() });
        let mut names = vec![a.id];
        for n in 0..50u32 {
            let (receipt, safe) = soon("durable", bus.emit_durable(n.to_le_bytes())).await.unwrap();
            assert_eq!(safe, Safe::Outbox);
            names.push(receipt.id);
        }
        assert!(matches!(
            build().await,
            Err(SdkError::Identity { .. } | SdkError::Outbox(_) | SdkError::Adapter(_))
        ));
        // Ends without having delivered: as a crash would, but for the lock.
        bus.bus().close();
        soon("stop", bus.bus().stop()).await;
        drop(bus);
        engine.set(Faults::default());
        let bus = build().await.unwrap();
        let new = bus.emit_to(0, b"new").unwrap();
        assert!(new.id.incarnation > a.id.incarnation);
        soon("flush", async { while bus.flush().await.is_err() {} }).await;
        soon("engine", async {
            while bus.stats().ledger.queued > 0 {
                net_sdk::rt::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        names.push(new.id);
        let taken: Vec<_> = [engine.taken(0), engine.taken(1)].concat();
        assert_eq!(taken.iter().collect::<BTreeSet<_>>(), names.iter().collect(), "every name, no other");
        assert_eq!(engine.taken(0).last(), Some(&new.id), "old ones first");
        let closed = soon("shutdown", bus.shutdown()).await;
        assert_eq!(closed.lost, 0);
        drop(bus);
        let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(
            left.iter().all(|n| !n.to_string_lossy().starts_with("outbox-")),
            "a clean end leaves nothing: {left:?}"
        );
        let bus = build().await.unwrap();
        assert_eq!(bus.stats().ledger.ingested, 0);
        drop(bus);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(
            matches!(Net::builder().outbox(&dir).build().await, Err(SdkError::Config(_))),
            "not for memory"
        );
        let dropping = Net::builder().outbox(&dir).backpressure(Backpressure::DropOldest);
        let refused = dropping.adapter(engine.adapter()).build().await;
        assert!(matches!(refused, Err(SdkError::Config(_))), "not with what would drop from it: {refused:?}");
    });
}

/// Neither the mode nor the room nor the number of shards of the next life keeps an event from it.
#[test]
fn what_an_outbox_holds_is_sent_by_whatever_life_comes_next() {
    for mode in [Backpressure::FailProducer, Backpressure::DropNewest, Backpressure::Sample(3)] {
        both(|_| async move {
            let dir = fresh("bus-next-life");
            let engine = Engine::new();
            let build = |shards: u16, capacity: u64| {
                let builder = Net::builder().shards(shards).max_shards(4).buffer_capacity(capacity);
                builder.backpressure(mode).outbox(&dir).adapter(engine.adapter()).build()
            };
            let bus = build(4, 100).await.unwrap();
            engine.set(Faults { down: true, ..Faults::default() });
            let emitted = (0..80u8).map(|n| bus.emit_to(u16::from(n) % 4, [n]));
            let names: BTreeSet<_> = emitted.flatten().map(|r| r.id).collect();
            soon("flush", bus.flush()).await.unwrap();
            // Ends without having delivered, and says so.
            bus.bus().close();
            soon("stop", bus.bus().stop()).await;
            let closed = soon("shutdown", bus.shutdown()).await;
            assert_eq!((closed.lost, closed.kept), (0, names.len() as u64));
            assert!(closed.ledger.balances() && closed.ledger.queued == closed.kept, "{closed:?}");
            drop(bus);
            engine.set(Faults::default());
            let bus = build(1, 5).await.unwrap();
            soon("engine", async {
                while bus.stats().ledger.queued > 0 {
                    net_sdk::rt::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
            let taken: BTreeSet<_> = (0..4).flat_map(|shard| engine.taken(shard)).collect();
            assert_eq!(taken, names, "{mode:?}");
            assert_eq!(soon("shutdown", bus.shutdown()).await.lost, 0);
            drop(bus);
            std::fs::remove_dir_all(&dir).unwrap();
        });
    }
}

/// The engine takes a while to come; whoever shuts down does not have to wait for it first.
#[test]
fn a_shutdown_waits_for_the_engine_also_behind_an_outbox() {
    both(|_| async {
        for durable in [true, false] {
            let dir = fresh("bus-depth");
            let engine = Engine::new();
            engine.set(Faults { refuse_links: 2, ..Faults::default() });
            let bus = Net::builder().shards(2).outbox(&dir).adapter(engine.adapter()).build().await.unwrap();
            for n in 0..100u8 {
                bus.emit_to(u16::from(n) % 2, [n]).unwrap();
            }
            if durable {
                soon("durable", bus.emit_durable(b"last")).await.unwrap();
            }
            let closed = soon("shutdown", bus.shutdown()).await;
            let all = 100 + u64::from(durable);
            assert_eq!((closed.lost, closed.kept, closed.ledger.delivered), (0, 0, all), "{closed:?}");
            assert_eq!((engine.taken(0).len() + engine.taken(1).len()) as u64, all);
            drop(bus);
            std::fs::remove_dir_all(&dir).unwrap();
        }
    });
}

#[test]
fn what_a_dead_engine_did_not_get_is_kept_and_not_lost() {
    both(|_| async {
        let dir = fresh("bus-kept");
        let engine = Engine::new();
        let build = |limit| {
            let builder = Net::builder().shards(2).outbox(&dir).adapter_timeout(limit);
            builder.adapter(engine.adapter()).build()
        };
        let bus = build(Duration::from_millis(100)).await.unwrap();
        bus.emit_to(0, b"there").unwrap();
        soon("engine", async {
            while engine.taken(0).is_empty() || bus.stats().ledger.queued > 0 {
                net_sdk::rt::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        engine.set(Faults { down: true, ..Faults::default() });
        let names: BTreeSet<_> = (0..7u8).map(|n| bus.emit_to(u16::from(n) % 2, [n]).unwrap().id).collect();
        let closed = soon("shutdown", bus.shutdown()).await;
        assert_eq!((closed.lost, closed.kept, closed.ledger.queued), (0, 7, 7), "{closed:?}");
        assert_eq!((closed.ledger.delivered, closed.ledger.balances()), (1, true));
        let again = soon("shutdown", bus.shutdown()).await;
        assert_eq!((again.lost, again.kept), (0, 7), "the same balance");
        drop(bus);
        engine.set(Faults::default());
        let bus = build(Duration::from_secs(30)).await.unwrap();
        let closed = soon("shutdown", bus.shutdown()).await;
        assert_eq!((closed.lost, closed.kept, closed.ledger.delivered), (0, 0, 7), "{closed:?}");
        let taken: BTreeSet<_> = [engine.taken(0), engine.taken(1)].concat().into_iter().collect();
        assert!(taken.is_superset(&names) && taken.len() == 8);
        drop(bus);
        std::fs::remove_dir_all(&dir).unwrap();
    });
}

/// What never reached the disk is lost and told; what did is kept. Nobody waits for the engine in vain.
#[test]
fn a_shutdown_after_the_outbox_failed_tells_what_is_lost_and_what_is_kept() {
    both(|_| async {
        let dir = fresh("bus-broken-outbox");
        let engine = Engine::new();
        let hour = Duration::from_secs(3600);
        let builder = Net::builder().shards(1).outbox(&dir).outbox_segment(64).adapter_timeout(hour);
        let bus = builder.adapter(engine.adapter()).build().await.unwrap();
        bus.emit_durable(b"there").await.unwrap();
        // No file can be made any more.
        std::fs::remove_dir_all(&dir).unwrap();
        let why = soon("failure", async {
            loop {
                if let Err(why) = bus.emit_durable([0; 100]).await {
                    break why;
                }
            }
        })
        .await;
        assert!(matches!(why, SdkError::Outbox(_)), "{why:?}");
        let closed = soon("shutdown", bus.shutdown()).await;
        assert!(closed.lost > 0 && closed.ledger.balances(), "{closed:?}");
        assert_eq!(closed.ledger.delivered, engine.taken(0).len() as u64);
        assert_eq!(closed.ledger.queued, closed.kept);
    });
}

#[test]
fn a_bus_that_is_dropped_ends_by_itself() {
    both(|_| async {
        for down in [false, true] {
            let dir = fresh("bus-dropped");
            let engine = Engine::new();
            engine.set(Faults { refuse_links: 1, ..Faults::default() });
            let limit = Duration::from_millis(if down { 50 } else { 3_600_000 });
            let builder = Net::builder().shards(2).outbox(&dir).adapter_timeout(limit);
            let bus = builder.adapter(engine.adapter()).build().await.unwrap();
            engine.set(Faults { refuse_links: 1, down, ..Faults::default() });
            (0..50u8).for_each(|n| _ = bus.emit_to(u16::from(n) % 2, [n]).unwrap());
            let tasks = Arc::downgrade(bus.bus());
            drop(bus);
            soon("the end of its tasks", async {
                while tasks.upgrade().is_some() {
                    net_sdk::rt::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
            let taken = engine.taken(0).len() + engine.taken(1).len();
            assert_eq!(taken, if down { 0 } else { 50 }, "an engine that is there gets everything");
            std::fs::remove_dir_all(&dir).unwrap();
        }
    });
}

/// An engine whose place for events can never work.
struct Refusing(EngineAdapter);

impl Adapter for Refusing {
    fn name(&self) -> &'static str {
        "refusing"
    }
    fn caps(&self) -> AdapterCaps {
        self.0.caps()
    }
    fn start<'a>(&'a self, setup: &'a Setup) -> BoxFut<'a, Result<(), AdapterError>> {
        self.0.start(setup)
    }
    fn open(&self, _: Shard) -> BoxFut<'_, Result<Box<dyn Link>, AdapterError>> {
        Box::pin(async { Err(AdapterError::Config("it cannot work".into())) })
    }
    fn read<'a>(
        &'a self,
        from: &'a [(Shard, Option<Position>)],
        limit: usize,
        wait: Duration,
    ) -> BoxFut<'a, Result<Vec<Page>, AdapterError>> {
        self.0.read(from, limit, wait)
    }
    fn tail<'a>(&'a self, shards: &'a [Shard]) -> BoxFut<'a, Result<Vec<(Shard, Position)>, AdapterError>> {
        self.0.tail(shards)
    }
    fn shards(&self) -> BoxFut<'_, Result<Vec<Shard>, AdapterError>> {
        self.0.shards()
    }
    fn health(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        self.0.health()
    }
    fn shutdown(&self) -> BoxFut<'_, Result<(), AdapterError>> {
        self.0.shutdown()
    }
}

/// Nothing is tried again, everybody hears why, and nothing is lost without a word.
#[test]
fn an_engine_that_refuses_for_good_is_named() {
    both(|_| async {
        // With a range of shards there is a task that watches them.
        let builder = Net::builder().shards(1).max_shards(4).adapter(Refusing(Engine::new().adapter()));
        let bus = builder.build().await.unwrap();
        let config = |why: &SdkError| matches!(why, SdkError::Adapter(AdapterError::Config(_)));
        let mut taken = 0;
        let why = soon("refusal", async {
            loop {
                match bus.emit_raw("x") {
                    Ok(_) => taken += 1,
                    Err(why) => break why,
                }
                net_sdk::rt::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        assert!(config(&why), "{why}");
        assert!(bus.emit_raw_batch(&["x", "y"]).iter().all(|told| told.as_ref().is_err_and(config)));
        assert!(soon("durable", bus.emit_durable("x")).await.is_err_and(|why| config(&why)));
        assert_eq!(soon("flush", bus.flush()).await.is_err_and(|why| config(&why)), taken > 0);
        let closed = soon("shutdown", bus.shutdown()).await;
        assert_eq!((closed.lost, closed.ledger.balances()), (taken, true), "{closed:?}");
        assert!(matches!(bus.emit_raw("x"), Err(SdkError::Shutdown)));
    });
}

/// Names are never given twice, and what an outbox held goes first, wherever the clock of its machine goes.
#[test]
fn a_clock_that_jumps_does_not_confuse_an_outbox() {
    both(|_| async {
        let dir = fresh("bus-outbox-clock");
        let (engine, clock) = (Engine::new(), Clock::at(0));
        let mut names = Vec::new();
        for hours in [500_000, 400_000, 600_000, 1, 0] {
            engine.set(Faults::default());
            clock.hours.store(hours, SeqCst);
            let builder = Net::builder().shards(1).outbox(&dir).runtime(clock.clone());
            let bus = builder.adapter(engine.adapter()).build().await.unwrap();
            soon("replay", async {
                while bus.stats().ledger.queued > 0 {
                    net_sdk::rt::sleep(Duration::from_millis(1)).await;
                }
            })
            .await;
            engine.set(Faults { down: true, ..Faults::default() });
            for n in [0, 1, 2] {
                clock.hours.store(hours / 2 * n, SeqCst);
                names.push(soon("durable", bus.emit_durable([n as u8])).await.unwrap().0.id);
            }
            // Ends without having delivered.
            bus.bus().close();
            soon("stop", bus.bus().stop()).await;
        }
        engine.set(Faults::default());
        let bus = Net::builder().shards(1).outbox(&dir).adapter(engine.adapter()).build().await.unwrap();
        let closed = soon("shutdown", bus.shutdown()).await;
        assert_eq!((closed.lost, closed.kept), (0, 0));
        assert!(names.windows(2).all(|two| two[0] < two[1]), "{names:?}");
        assert_eq!(engine.taken(0), names);
        drop(bus);
        std::fs::remove_dir_all(&dir).unwrap();
    });
}

#[test]
fn waiting_producers_share_a_commit() {
    both(|_| async {
        let dir = fresh("bus-commit");
        let engine = Engine::new();
        let bus = Net::builder().shards(1).outbox(&dir).adapter(engine.adapter()).build().await.unwrap();
        let tasks: Vec<_> = (0..64)
            .map(|_| {
                let bus = bus.clone();
                net_sdk::rt::spawn(async move {
                    for _ in 0..10 {
                        bus.emit_durable(b"x").await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            soon("producer", task).await.unwrap();
        }
        assert!(bus.bus().commits() < 640, "{} commits for 640 events", bus.bus().commits());
        soon("shutdown", bus.shutdown()).await;
        assert_eq!(engine.taken(0).len(), 640);
        drop(bus);
        std::fs::remove_dir_all(&dir).unwrap();
    });
}

#[test]
fn who_only_reads_creates_nothing() {
    both(|_| async {
        let engine = Engine::new();
        let reader = Net::builder().adapter(engine.adapter()).read_only().build().await.unwrap();
        assert_eq!(reader.extents().await.unwrap(), []);
        assert!(matches!(reader.emit_raw("no"), Err(SdkError::Unrouted(0))));
        assert!(matches!(&reader.emit_raw_batch(&["no"])[..], [Err(SdkError::Unrouted(0))]));
        assert!(reader.flush().await.unwrap().watermarks.is_empty());
        let writer = Net::builder().shards(2).adapter(engine.adapter()).build().await.unwrap();
        for n in 0..10u8 {
            writer.emit_to(1, [n]).unwrap();
        }
        soon("flush", writer.flush()).await.unwrap();
        let extents = reader.extents().await.unwrap();
        assert_eq!(extents, writer.extents().await.unwrap());
        assert_eq!((extents.len(), extents[0].shard), (1, 1));
        let page = reader.poll(PollRequest::new()).await.unwrap();
        let ends = [&page.events[0], &page.events[9]].map(|event| event.position);
        assert_eq!(ends, [extents[0].oldest, extents[0].newest]);
        assert_eq!(reader.shutdown().await.lost, 0);
        let wrong = [
            Net::builder().memory(),
            Net::builder().adapter(engine.adapter()).shards(1),
            Net::builder().adapter(engine.adapter()).outbox("x"),
        ];
        for builder in wrong {
            assert!(matches!(builder.read_only().build().await, Err(SdkError::Config(_))));
        }
        let memory = Net::builder().shards(1).build().await.unwrap();
        memory.emit_raw("a").unwrap();
        let extents = memory.extents().await.unwrap();
        assert_eq!((extents[0].events, extents[0].oldest), (Some(1), extents[0].newest));
    });
}
