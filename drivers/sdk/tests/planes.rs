//! Planes in the real driver: beside the application's streams, over real sockets and files, on every
//! runtime. The same planes run in the simulator in `sim/tests/planes.rs`.

#[macro_use]
mod common;
#[path = "common/toys.rs"]
mod toys;

use std::path::PathBuf;
use std::sync::Arc;

use common::{fresh, soon};
use net_proto::storage::StoreError;
use net_sdk::{Error, Mesh, Peer, Reliable, Result, StreamError, rt};
use net_shell::trace::{self, Entry, TraceError};
use toys::{NotesCommand, NotesEvent, PingCommand, PingEvent, Ports, ToyCommand, ToyEvent, note, ping, toys};

on_every_runtime! {
    calls_and_subscriptions_run_beside_streams
    a_node_without_planes_refuses_lanes_and_shows_none
    storage_and_signatures_are_effects
    whoever_waits_is_told_when_the_driver_stops
    a_record_with_planes_replays_and_a_flipped_byte_is_found
}

struct Pair {
    a: Mesh,
    b: Mesh,
    peer: Peer,
    pa: Arc<Ports>,
    pb: Arc<Ports>,
}

async fn pair(record: Option<PathBuf>) -> Result<Pair> {
    let (b, pb) = Mesh::builder().bind("127.0.0.1:0").start_with(toys).await?;
    let mut a = Mesh::builder().bind("127.0.0.1:0").join(&b.invite());
    if let Some(path) = record {
        a = a.record(path);
    }
    let (a, pa) = a.start_with(toys).await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;
    Ok(Pair { a, b, peer, pa, pb })
}

/// `count` calls at once, far more than the plane takes at a time.
async fn calls(ports: &Arc<Ports>, to: net_sdk::EntityId, count: u64) {
    let tasks: Vec<_> = (0..count)
        .map(|n| {
            let ports = ports.clone();
            rt::spawn(async move { ping(&ports, to, n).await })
        })
        .collect();
    for (n, task) in tasks.into_iter().enumerate() {
        assert_eq!(soon("pong", task).await.unwrap(), Ok(Some(n as u64 + 1)));
    }
}

async fn calls_and_subscriptions_run_beside_streams(_: &str) -> Result<()> {
    let Pair { a, b, peer, pa, pb } = pair(None).await?;
    let feed = Ports::subscribe(&pb, 1000);
    pb.command(ToyCommand::Ping(PingCommand::Watch { feed: feed.number() })).await?;
    let tx = soon("open", peer.open_stream("logs", Reliable)).await?;
    tx.send(b"first").await?;
    let rx = soon("accept", b.accept_stream()).await?;
    let calls_done = {
        let (pa, to) = (pa.clone(), b.id());
        rt::spawn(async move { calls(&pa, to, 500).await })
    };
    for i in 0..500u32 {
        tx.send(&i.to_le_bytes()).await?;
    }
    tx.finish().await?;
    let mut got = 0;
    while soon("message", rx.recv()).await?.is_some() {
        got += 1;
    }
    assert_eq!((got, rx.label()), (501, "logs"));
    soon("calls", calls_done).await.unwrap();
    let mut served = Vec::new();
    for _ in 0..500 {
        let Some(ToyEvent::Ping(PingEvent::Served { n, .. })) = soon("served", feed.next()).await else {
            panic!("not what was subscribed to")
        };
        served.push(n);
    }
    served.sort_unstable();
    assert_eq!(served, (0..500).collect::<Vec<_>>());
    assert_eq!(feed.missed(), 0);
    // A peer that nobody knows is answered, not waited for.
    assert_eq!(soon("nobody", ping(&pa, net_sdk::EntityId([9; 32]), 1)).await, Ok(None));
    // The driver shows the application no lane: nothing is left to accept.
    drop((tx, rx));
    let more = rt::timeout(std::time::Duration::ZERO, b.accept_stream()).await;
    assert!(more.is_err(), "a lane was shown to the application");
    // The one that answered last goes first: its shutdown waits until its lanes are acknowledged.
    let right = soon("shutdown", b.shutdown()).await;
    let left = soon("shutdown", a.shutdown()).await;
    // Both streams and lanes are in the ledger, and nothing was lost.
    assert_eq!((left.lost.messages, right.lost.messages), (0, 0));
    assert_eq!((left.flushed, right.flushed), (1001, 500));
    assert_eq!(feed.next().await.map(|_| ()), None);
    Ok(())
}

async fn a_node_without_planes_refuses_lanes_and_shows_none(_: &str) -> Result<()> {
    let b = Mesh::builder().bind("127.0.0.1:0").start().await?;
    let (a, pa) = Mesh::builder().bind("127.0.0.1:0").join(&b.invite()).start_with(toys).await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;
    assert_eq!(soon("refusal", ping(&pa, b.id(), 1)).await, Ok(None));
    assert_eq!(b.stats().await?.lanes_refused, 1);
    // The application's own label cannot name a lane, on either side.
    for mesh in [&a, &b] {
        let peer = mesh.peers().pop().expect("connected");
        let refused = soon("open", peer.open_stream("\0\u{1}ping", Reliable)).await;
        assert!(matches!(refused, Err(Error::Stream(StreamError::Reserved))), "{refused:?}");
    }
    let tx = soon("open", peer.open_stream("mine", Reliable)).await?;
    tx.send(b"first").await?;
    assert_eq!(soon("accept", b.accept_stream()).await?.label(), "mine", "the lane was shown");
    Ok(())
}

async fn storage_and_signatures_are_effects(on: &str) -> Result<()> {
    let dir = fresh(&format!("planes-{on}"));
    let line = |n: u64| format!("line {n}\n").into_bytes();
    let start = async || Mesh::builder().bind("127.0.0.1:0").dir(&dir).start_with(toys).await;
    let (mesh, ports) = start().await?;
    for n in 0..20 {
        let add = |call| NotesCommand::Add { call, line: line(n), forged: n == 7 };
        let told = soon("note", note(&ports, add)).await?;
        assert_eq!(matches!(told, NotesEvent::Forged { .. }), n == 7, "{told:?}");
        assert_eq!(matches!(told, NotesEvent::Added { .. }), n != 7, "{told:?}");
    }
    // What is the node's stays the node's.
    for file in ["identity", "mesh", "lock", "boot", "boot.tmp"] {
        let told = soon("open", note(&ports, |call| NotesCommand::Open { call, file: file.into() })).await?;
        assert!(matches!(told, NotesEvent::Failed { why: StoreError::BadName, .. }), "{told:?}");
    }
    soon("shutdown", mesh.shutdown()).await;
    // Another life of the node reads what the first one kept.
    let (mesh, ports) = start().await?;
    let told = soon("read", note(&ports, |call| NotesCommand::Read { call })).await?;
    let want: Vec<u8> = (0..20).filter(|n| *n != 7).flat_map(line).collect();
    assert!(matches!(&told, NotesEvent::Text { text, .. } if *text == want), "{told:?}");
    soon("shutdown", mesh.shutdown()).await;
    std::fs::remove_dir_all(&dir).unwrap();
    // Without a directory there is an answer, too.
    let (_mesh, ports) = Mesh::builder().bind("127.0.0.1:0").start_with(toys).await?;
    let told = soon("read", note(&ports, |call| NotesCommand::Read { call })).await?;
    assert!(matches!(told, NotesEvent::Failed { why: StoreError::NoDirectory, .. }), "{told:?}");
    Ok(())
}

async fn whoever_waits_is_told_when_the_driver_stops(_: &str) -> Result<()> {
    for polite in [true, false] {
        let (mesh, ports) = Mesh::builder().bind("127.0.0.1:0").start_with(toys).await?;
        let feed = Ports::subscribe(&ports, 1);
        let waiting = {
            let ports = ports.clone();
            rt::spawn(async move {
                ports.call(|call| ToyCommand::Ping(PingCommand::Ignore { call })).await.map(|_| ())
            })
        };
        // An answer of the same port says that the command before it was taken.
        assert_eq!(soon("ping", ping(&ports, mesh.id(), 1)).await, Ok(None));
        if polite {
            soon("shutdown", mesh.shutdown()).await;
        } else {
            drop(mesh);
        }
        assert_eq!(soon("the call", waiting).await.unwrap(), Err(net_sdk::Stopped));
        assert!(soon("the feed", feed.next()).await.is_none());
        assert!(soon("the events", ports.next_event()).await.is_none());
        assert_eq!(
            soon("a late call", ping(&ports, net_sdk::EntityId([1; 32]), 1)).await,
            Err(net_sdk::Stopped)
        );
    }
    Ok(())
}

async fn a_record_with_planes_replays_and_a_flipped_byte_is_found(on: &str) -> Result<()> {
    let file = fresh(&format!("planes-trace-{on}"));
    let Pair { a, b, peer, pa, .. } = pair(Some(file.clone())).await?;
    calls(&pa, b.id(), 200).await;
    let told = soon("read", note(&pa, |call| NotesCommand::Read { call })).await?;
    assert!(matches!(told, NotesEvent::Failed { why: StoreError::NoDirectory, .. }), "{told:?}");
    let tx = soon("open", peer.open_stream("logs", Reliable)).await?;
    tx.send(b"hello").await?;
    soon("flush", tx.flush()).await?;
    soon("shutdown", a.shutdown()).await;
    soon("shutdown", b.shutdown()).await;
    let record = trace::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(!record.cut);
    let again = record.replay_with(record.config(), toys).unwrap();
    assert_eq!(again.hash, record.hash());
    assert_eq!(again.host.committed(), 200);
    // Other planes do something else, and it shows.
    assert!(matches!(record.replay(record.config()), Err(TraceError::Differs { .. })));
    // A byte of one datagram, and one of a plane's command.
    let mut flipped = record.clone();
    let mut steps = 0;
    let victim = flipped.entries.iter_mut().find_map(|entry| {
        let Entry::Step { step, .. } = entry else { return None };
        steps += 1;
        match step {
            net_proto::node::Step::Datagram { data, .. } if steps > 100 => Some(data),
            _ => None,
        }
    });
    let data = victim.expect("a datagram");
    let at = data.len() / 2;
    data[at] ^= 1;
    let found = flipped.replay_with(flipped.config(), toys);
    assert!(matches!(&found, Err(TraceError::Differs(d)) if d.step == steps), "{found:?}, not {steps}");
    Ok(())
}
