//! The event bus over the mesh: real nodes, on both runtimes.

#[macro_use]
mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::soon;
use net_proto::bus::mesh::Why;
use net_sdk::net::{
    Access, AdapterError, HostLimits, Hosting, Item, MeshAdapter, PollRequest, SubscribeOptions,
};
use net_sdk::{Mesh, Net, Result, SdkError, rt};
use net_shell::bus::conformance::{conformance, losses};

on_every_runtime! {
    conforms_far_here_and_spread
    many_producers_and_readers_while_connections_break
    what_gave_way_is_told_and_what_is_not_allowed_refused
    a_name_that_is_kept_again_begins_anew
    while_one_keeper_is_away_the_shards_of_the_other_go_on
}

async fn node() -> Result<Mesh> {
    Mesh::builder().bind("127.0.0.1:0").event_bus().start().await
}

async fn member(of: &Mesh) -> Result<Mesh> {
    Mesh::builder().bind("127.0.0.1:0").mesh(of.secret()).event_bus().start().await
}

async fn conforms_far_here_and_spread(_: &str) -> Result<()> {
    let b = node().await?;
    let (a, c) = (member(&b).await?, member(&b).await?);
    let runtime = rt::current().expect("a runtime");
    let tickets: [&[net_sdk::Ticket]; 3] =
        [&[b.ticket()], &[a.ticket()], &[b.ticket(), a.ticket(), c.ticket()]];
    for (n, hosts) in tickets.into_iter().enumerate() {
        let name = format!("suite {n}");
        let mut held = Vec::new();
        for mesh in [&a, &b, &c] {
            if hosts.iter().any(|ticket| ticket.entity == mesh.id()) {
                held.push(mesh.host_events(&name, Hosting::default()).await.expect("a free name"));
            }
        }
        conformance(runtime.clone(), || Arc::new(MeshAdapter::new(&a, &name, hosts.to_vec()))).await;
    }
    let limits = HostLimits { events: 30, ..HostLimits::default() };
    let _small = b.host_events("few", Hosting { limits, ..Hosting::default() }).await.expect("a free name");
    losses(runtime, Arc::new(MeshAdapter::new(&a, "few", [b.ticket()])), async |_| {}).await;
    Ok(())
}

async fn many_producers_and_readers_while_connections_break(_: &str) -> Result<()> {
    const PRODUCERS: u32 = 3;
    const EVENTS: u32 = 3_000;
    let b = node().await?;
    let host = b.host_events("plant", Hosting::default()).await.expect("a free name");
    let mut tasks = Vec::new();
    let mut members = Vec::new();
    for producer in 0..PRODUCERS {
        let mesh = member(&b).await?;
        members.push(mesh.clone());
        let to = b.ticket();
        tasks.push(rt::spawn(async move {
            let bus = Net::builder().shards(2).mesh(&mesh, "plant", [to]).build().await.expect("a bus");
            for n in 0..EVENTS {
                let body = [producer.to_le_bytes(), n.to_le_bytes()].concat();
                bus.emit_keyed(producer.to_le_bytes(), &body).expect("room");
                if n % 500 == 499 {
                    soon("flush", bus.flush()).await.expect("kept");
                }
            }
            let closed = soon("shutdown", bus.shutdown()).await;
            assert_eq!((closed.lost, closed.ledger.delivered), (0, u64::from(EVENTS)));
        }));
    }
    // Readers far and near; each sees every event once, those of a producer in order.
    for mesh in [members[0].clone(), member(&b).await?, b.clone()] {
        let to = b.ticket();
        tasks.push(rt::spawn(async move {
            let bus = Net::builder().shards(2).mesh(&mesh, "plant", [to]).build().await.expect("a bus");
            let mut events = loop {
                match bus.subscribe().await {
                    Ok(events) => break events,
                    Err(SdkError::Adapter(AdapterError::Connection(_) | AdapterError::Timeout(_))) => {}
                    Err(other) => panic!("{other:?}"),
                }
            };
            let mut next = [0; PRODUCERS as usize];
            while next.iter().sum::<u32>() < PRODUCERS * EVENTS {
                match soon("event", events.next()).await {
                    Some(Ok(Item::Event(event))) => {
                        let number = |at: usize| {
                            u32::from_le_bytes(event.raw[at..at + 4].try_into().expect("4 bytes"))
                        };
                        let (producer, n) = (number(0) as usize, number(4));
                        assert_eq!(n, next[producer], "of producer {producer}");
                        next[producer] += 1;
                    }
                    // The connection broke; the next call asks again.
                    Some(Err(SdkError::Adapter(AdapterError::Connection(_) | AdapterError::Timeout(_)))) => {}
                    other => panic!("{other:?}"),
                }
            }
        }));
    }
    // Connections break while all of that goes on: as many times as there is something left to do.
    let breaker = {
        let b = b.clone();
        rt::spawn(async move {
            for round in 0..20usize {
                rt::sleep(std::time::Duration::from_millis(20)).await;
                let peers = b.peers();
                if let Some(peer) = peers.get(round % peers.len().max(1)) {
                    peer.disconnect(7).await;
                }
            }
        })
    };
    for task in tasks {
        task.await.expect("no panic");
    }
    breaker.await.expect("no panic");
    let stats = host.stats().await.expect("a host");
    assert_eq!(stats.events, u64::from(PRODUCERS * EVENTS), "each was kept once");
    Ok(())
}

async fn what_gave_way_is_told_and_what_is_not_allowed_refused(_: &str) -> Result<()> {
    let b = node().await?;
    let (a, c) = (member(&b).await?, member(&b).await?);
    let limits = HostLimits { shards: 1, events: 100, ..HostLimits::default() };
    let hosting = Hosting { limits, writers: Access::Only(vec![a.id()]), ..Hosting::default() };
    let host = b.host_events("small", hosting.clone()).await.expect("a free name");
    assert!(matches!(b.host_events("small", hosting).await, Err(SdkError::Host(Why::Exists))));

    let writer = Net::builder().shards(1).mesh(&a, "small", [b.ticket()]).build().await.expect("a bus");
    // What it may not write is not confirmed in time.
    let patience = std::time::Duration::from_millis(300);
    let reader = Net::builder().shards(1).adapter_timeout(patience);
    let reader = reader.mesh(&c, "small", [b.ticket()]).build().await.expect("a bus");
    writer.emit_raw(b"first").expect("room");
    soon("flush", writer.flush()).await.expect("kept");
    let page = reader.poll(PollRequest::new().limit(10)).await.expect("a page");
    assert_eq!(page.events.len(), 1);
    let longest = vec![7; net_sdk::net::MAX_EVENT as usize];
    for n in 0..500u32 {
        writer.emit_raw(n.to_le_bytes()).expect("room");
        if n % 50 == 0 {
            soon("flush", writer.flush()).await.expect("kept");
        }
    }
    writer.emit_raw(&longest).expect("room");
    soon("flush", writer.flush()).await.expect("kept");

    // A reader with a cursor that is too old gets `Lost` first, then all that is there.
    let mut events =
        reader.subscribe_with(SubscribeOptions::new().cursor(page.cursor.clone())).await.expect("a reader");
    let Some(Ok(Item::Lost { from, to, .. })) = soon("lost", events.next()).await else {
        panic!("the loss is told")
    };
    let mut seen = BTreeSet::new();
    loop {
        let Some(Ok(Item::Event(event))) = soon("event", events.next()).await else { panic!("an event") };
        assert!(seen.insert(event.position) && event.position > to);
        if event.raw.len() == longest.len() {
            assert!(event.raw == longest);
            break;
        }
    }
    // All that was written: the first, what is gone, what came.
    assert_eq!((from.minor, to.minor + seen.len() as u64), (1, 502));

    // Who may only read is told so when it writes, and keeps its events.
    reader.emit_raw(b"no").expect("room");
    let refused = soon("flush", reader.flush()).await;
    assert!(
        matches!(refused, Err(SdkError::Unconfirmed { why: Some(AdapterError::Denied(_)) })),
        "{refused:?}"
    );

    // The end of the host is told.
    drop(host);
    let told = soon("end", events.next()).await;
    assert!(matches!(told, Some(Err(SdkError::Adapter(AdapterError::Gone(_))))), "{told:?}");
    let unknown = Net::builder().mesh(&a, "small", [b.ticket()]).build().await;
    assert!(matches!(unknown, Err(SdkError::Adapter(AdapterError::Gone(_)))), "{unknown:?}");

    // Nodes without the plane.
    let plain = Mesh::builder().bind("127.0.0.1:0").mesh(b.secret()).start().await?;
    assert!(matches!(plain.host_events("x", Hosting::default()).await, Err(SdkError::NoMesh)));
    for (mesh, to) in [(&plain, b.ticket()), (&a, plain.ticket())] {
        let bus = Net::builder().mesh(mesh, "x", [to]).build().await;
        assert!(matches!(bus, Err(SdkError::Adapter(AdapterError::Config(_)))), "{bus:?}");
    }
    let nobody = Net::builder().mesh(&a, "x", []).build().await;
    assert!(matches!(nobody, Err(SdkError::Adapter(AdapterError::Config(_)))), "{nobody:?}");
    Ok(())
}

/// Also if there are as many events again by now.
async fn a_name_that_is_kept_again_begins_anew(_: &str) -> Result<()> {
    let b = node().await?;
    let mut cursor = None;
    for events in [10, 20u8] {
        let _host = b.host_events("plant", Hosting::default()).await.expect("a free name");
        let bus = Net::builder().shards(1).mesh(&b, "plant", [b.ticket()]).build().await.expect("a bus");
        (0..events).for_each(|n| _ = bus.emit_raw([n]).expect("room"));
        soon("flush", bus.flush()).await.expect("kept");
        let request = PollRequest::new().cursor(cursor.take().unwrap_or_default());
        let page = bus.poll(request).await.expect("a page");
        assert_eq!((page.lost.len(), page.events.len()), (usize::from(events > 10), usize::from(events)));
        cursor = Some(page.cursor);
        assert_eq!(soon("shutdown", bus.shutdown()).await.lost, 0);
    }
    Ok(())
}

async fn while_one_keeper_is_away_the_shards_of_the_other_go_on(_: &str) -> Result<()> {
    let a = node().await?;
    let b = member(&a).await?;
    let _kept = [
        a.host_events("plant", Hosting::default()).await.expect("a free name"),
        b.host_events("plant", Hosting::default()).await.expect("a free name"),
    ];
    let user = member(&a).await?;
    let limit = std::time::Duration::from_millis(300);
    let bus = Net::builder().shards(2).adapter_timeout(limit);
    let bus = bus.mesh(&user, "plant", [a.ticket(), b.ticket()]).build().await.expect("a bus");
    let mut near = bus.subscribe_with(SubscribeOptions::new().shards([0])).await.expect("a reader");
    for n in 0..20u8 {
        bus.emit_to(u16::from(n) % 2, [n]).expect("room");
        if n == 9 {
            soon("flush", bus.flush()).await.expect("kept");
            soon("shutdown", b.shutdown()).await;
        }
    }
    for n in (0..20u8).step_by(2) {
        let item = soon("event", near.next()).await.expect("no end").expect("no error");
        assert_eq!(item.into_event().expect("an event").raw[..], [n]);
    }
    assert!(matches!(soon("flush", bus.flush()).await, Err(SdkError::Unconfirmed { .. })));
    let closed = soon("shutdown", bus.shutdown()).await;
    assert_eq!(
        (closed.lost, closed.ledger.balances()),
        (5, true),
        "those of the shard that is away: {closed:?}"
    );
    Ok(())
}
