//! The event bus in virtual time: the number of shards follows the load; the bus over the mesh on bad links.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use common::{MS, secs};
use net_sdk::net::{AdapterError, Hosting, Item};
use net_sdk::{Invite, Mesh, Net, SdkError, rt};
use net_sim::{Failure, LinkConfig, Sim, World, bus, check, ensure, scenario};

type Board<T> = Arc<Mutex<T>>;

/// Producers with and without outbox in every mode of back-pressure, consumers that keep cursor and
/// deduplication, an engine that is trimmed, over bad links, with machines that end and disks that fail.
#[test]
fn the_bus_keeps_its_promises() {
    check("the_bus_keeps_its_promises", 30, |s: Sim| {
        s.require(scenario::REQUIRED_OF_BUS);
        bus::live(&s.plan(&scenario::swarm("bus", 5, s.time(secs(20))))).map(drop)
    });
}

/// A burst that nobody reads makes shards; once it is read they go again, and every event was there once.
#[test]
fn shards_follow_the_load_and_retired_ones_are_read_to_their_end() {
    check("shards_follow_the_load", 3, |s: Sim| {
        let mut world = World::new(s.config());
        let seen: Board<Option<(Vec<u16>, u32)>> = Board::default();
        let board = seen.clone();
        world.spawn_task(|runtime| {
            rt::enter(runtime, async move {
                let bus =
                    Net::builder().shards(1).max_shards(8).buffer_capacity(1_000).build().await.unwrap();
                let mut events = bus.subscribe().await.unwrap();
                let mut counts = vec![bus.shards()];
                let mut sent = 0u32;
                // More than one shard can hold; the scaler runs in between.
                while sent < 5_000 {
                    match bus.emit_raw(sent.to_le_bytes()) {
                        Ok(_) => sent += 1,
                        Err(SdkError::Backpressure) => rt::sleep(100 * MS).await,
                        Err(other) => panic!("{other}"),
                    }
                    if sent.is_multiple_of(100) {
                        rt::sleep(MS).await;
                    }
                }
                counts.push(bus.shards());
                let mut got = BTreeMap::new();
                for _ in 0..sent {
                    match events.next().await {
                        Some(Ok(Item::Event(event))) => *got.entry(event.raw.to_vec()).or_insert(0) += 1,
                        other => panic!("{other:?}"),
                    }
                }
                assert!(got.len() as u32 == sent && got.values().all(|n| *n == 1));
                for _ in 0..4 {
                    rt::sleep(secs(11)).await;
                    counts.push(bus.shards());
                }
                bus.emit_raw(b"again").unwrap();
                assert!(matches!(events.next().await, Some(Ok(Item::Event(_)))));
                *board.lock().unwrap() = Some((counts, sent));
            })
        });
        world.eventually(secs(200), "the end", |_| seen.lock().unwrap().is_some())?;
        let (counts, _) = seen.lock().unwrap().take().expect("just seen");
        ensure(&world, counts == [1, 8, 4, 2, 1, 1], || format!("shards: {counts:?}"))?;
        Ok(())
    });
}

/// A keeper, two writers, two readers, over links that lose and are cut: every event once, in its writer's order.
#[test]
fn events_over_the_mesh_survive_bad_links() {
    const EVENTS: u32 = 400;
    check("events_over_the_mesh", 5, |s: Sim| {
        let link = LinkConfig { jitter: 3 * MS, ..LinkConfig::default().with_loss(30_000) };
        let mut world = World::new(s.config().link(link));
        let invite: Board<Option<Invite>> = Board::default();
        let put = invite.clone();
        world.spawn_task(|runtime| {
            rt::enter(runtime, async move {
                let mesh = Mesh::builder().event_bus().start().await.unwrap();
                let _host = mesh.host_events("plant", Hosting::default()).await.unwrap();
                *put.lock().unwrap() = Some(mesh.invite());
                rt::sleep(secs(3_600)).await;
            })
        });
        world.eventually(secs(10), "the keeper", |_| invite.lock().unwrap().is_some())?;
        let to = invite.lock().unwrap().take().expect("just seen");
        let done: Board<u32> = Board::default();
        for writer in 0..2u32 {
            let (to, done) = (to.clone(), done.clone());
            world.spawn_task(|runtime| {
                rt::enter(runtime, async move {
                    let bus = user(&to).await;
                    for n in 0..EVENTS {
                        bus.emit_keyed(
                            writer.to_le_bytes(),
                            [writer.to_le_bytes(), n.to_le_bytes()].concat(),
                        )
                        .unwrap();
                        rt::sleep(20 * MS).await;
                    }
                    while bus.flush().await.is_err() {}
                    *done.lock().unwrap() += 1;
                    rt::sleep(secs(3_600)).await;
                })
            });
        }
        for _ in 0..2 {
            let (to, done) = (to.clone(), done.clone());
            world.spawn_task(|runtime| {
                rt::enter(runtime, async move {
                    let bus = user(&to).await;
                    let mut events = bus.subscribe().await.unwrap();
                    let mut next = [0u32; 2];
                    while next != [EVENTS; 2] {
                        match events.next().await {
                            Some(Ok(Item::Event(event))) => {
                                let number =
                                    |at: usize| u32::from_le_bytes(event.raw[at..at + 4].try_into().unwrap());
                                let writer = number(0) as usize;
                                assert_eq!(number(4), next[writer]);
                                next[writer] += 1;
                            }
                            Some(Err(SdkError::Adapter(
                                AdapterError::Connection(_) | AdapterError::Timeout(_),
                            ))) => {}
                            other => panic!("{other:?}"),
                        }
                    }
                    *done.lock().unwrap() += 1;
                    rt::sleep(secs(3_600)).await;
                })
            });
        }
        // Long enough that associations end, and short enough that some survive.
        for (at, node, long) in [(3, 1, 2), (4, 3, 50), (60, 2, 45)] {
            world.at(secs(at), move |w| w.partition(&[0], &[node], true));
            world.at(secs(at + long), move |w| w.partition(&[0], &[node], false));
        }
        world.eventually(secs(400), "everybody is done", |_| *done.lock().unwrap() == 4)?;
        Ok::<(), Failure>(())
    });
}

async fn user(to: &Invite) -> Net {
    let mesh = Mesh::builder().join(to).event_bus().start().await.unwrap();
    loop {
        // The keeper may be cut off just now.
        match Net::builder().shards(2).mesh(&mesh, "plant", [to.ticket.clone()]).build().await {
            Ok(bus) => return bus,
            Err(SdkError::Adapter(error)) if error.is_retryable() => {}
            Err(other) => panic!("{other}"),
        }
    }
}
