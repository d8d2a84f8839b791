//! Each asynchronous method is cut off at each poll, and after each wake: what it says under cancel
//! safety holds.

use std::collections::BTreeSet;
use std::time::Duration;

use net_sdk::{DownReason, Error, MeshEvent, Reliable, rt};
use net_shell::conformance::Env;
use net_shell::conformance::help::{Cut, cut, cuts, spawn};

use super::sdk::{fill, here, next, opened, pair, quick, start as started, there};

pub(super) async fn start(env: Env) {
    // Each completion of the storage is one poll.
    for at in cuts(40).filter(|at| matches!(at, Cut::Polls(n) | Cut::Woken(n) if n % 4 == 1 || *n < 6)) {
        let dir = env.dir.join(format!("{at:?}").replace(['(', ')'], "-"));
        match cut(at, here(&env).dir(&dir).start()).await {
            Some(done) => drop(done.expect("the node starts").shutdown().await),
            None => {
                // The lock went with the future.
                let node = started(here(&env).dir(&dir)).await;
                node.shutdown().await;
            }
        }
    }
    let _ = std::fs::remove_dir_all(&env.dir);
}

pub(super) async fn connect(env: Env) {
    let b = started(there(&env)).await;
    for at in cuts(2) {
        let a = started(here(&env).mesh(b.secret())).await;
        if let Some(connected) = cut(at, a.connect(b.ticket())).await {
            connected.expect("connected");
        }
        let peer = a.connect(b.ticket()).await.expect("connected");
        let (tx, rx) = opened(&b, &peer, Reliable).await;
        assert_eq!(a.peers().len(), 1, "{at:?}");
        drop((tx, rx));
        a.shutdown().await;
    }
    // One of two callers gives up: the other gets its answer.
    let a = started(here(&env).mesh(b.secret())).await;
    let (other, ticket) = (a.clone(), b.ticket());
    let waits = spawn(&*env.here, async move { other.connect(ticket).await });
    cut(Cut::Polls(1), a.connect(b.ticket())).await;
    waits.recv().await.expect("the task ends").expect("connected");
    // Where nobody answers, giving up leaves nothing behind.
    let ticket = b.ticket();
    b.shutdown().await;
    let a = started(quick(here(&env)).mesh(b.secret())).await;
    for _ in 0..50 {
        assert!(cut(Cut::Polls(1), a.connect(&ticket)).await.is_none());
    }
    let error = a.connect(&ticket).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Dial(_)), "{error:?}");
}

pub(super) async fn open_stream(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    // Many more than may exist at once.
    for _ in 0..800 {
        for at in cuts(1) {
            match cut(at, peer.open_stream("ghost", Reliable)).await {
                None | Some(Ok(_)) | Some(Err(Error::Stream(_))) => {}
                Some(Err(error)) => panic!("{error}"),
            }
        }
    }
    let server = b.clone();
    let real = spawn(&*env.there, async move {
        loop {
            let stream = server.accept_stream().await.expect("accepted");
            if stream.label() == "real" {
                return stream;
            }
        }
    });
    let stream = loop {
        // The last ghosts go away on their own.
        match peer.open_stream("real", Reliable).await {
            Ok(stream) => break stream,
            Err(Error::Stream(_)) => rt::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    };
    stream.send(b"x").await.expect("sent");
    let real = real.recv().await.expect("the task ends");
    assert_eq!(next(&real).await.as_deref(), Some(&b"x"[..]));
}

pub(super) async fn accept_takes_nothing(env: Env) {
    let b = started(there(&env)).await;
    let mut peers = Vec::new();
    let mut seen = BTreeSet::new();
    for at in cuts(2) {
        let a = started(here(&env).mesh(b.secret())).await;
        let (dialler, ticket) = (a.clone(), b.ticket());
        let dial = spawn(&*env.here, async move { dialler.connect(ticket).await });
        let got = match cut(at, b.accept_peer()).await {
            Some(peer) => peer,
            None => b.accept_peer().await,
        };
        assert_eq!(got.expect("accepted").id(), a.id(), "{at:?}");
        peers.push((a, dial.recv().await.expect("the task ends").expect("connected")));
    }
    let at_b = b.connect(peers[0].0.ticket()).await.expect("connected");
    for (i, at) in cuts(2).enumerate() {
        for (way, accept_of_peer) in [("any", false), ("peer", true)] {
            let (peer, label) = (peers[0].1.clone(), format!("{way} {i}"));
            let opened = spawn(&*env.here, async move {
                let stream = peer.open_stream(&label, Reliable).await.expect("opened");
                stream.send(b"x").await.expect("sent");
                stream
            });
            let first = if accept_of_peer {
                cut(at, at_b.accept_stream()).await
            } else {
                cut(at, b.accept_stream()).await
            };
            let got = match first {
                Some(stream) => stream,
                None => b.accept_stream().await,
            };
            let got = got.expect("accepted");
            assert_eq!(next(&got).await.as_deref(), Some(&b"x"[..]));
            assert!(seen.insert(got.label().to_owned()), "{at:?}: given twice");
            opened.recv().await.expect("the task ends");
        }
    }
    assert_eq!(seen.len(), 2 * cuts(2).count());
}

pub(super) async fn send_queues_nothing(env: Env) {
    for at in cuts(1) {
        for batch in [false, true] {
            let (a, b, peer) = pair(&env).await;
            let (tx, rx) = opened(&b, &peer, Reliable).await;
            let filled = fill(&tx, 10_000);
            let reader = spawn(&*env.there, async move {
                let mut got = Vec::new();
                while let Some(message) = next(&rx).await {
                    got.push(message[0]);
                }
                got
            });
            // A wake needs a reader, so there is one; what is cut off may have been ready before.
            let cut_off = if batch {
                cut(at, tx.send_batch(&[[8u8; 10_000]; 30])).await
            } else {
                cut(at, tx.send(&[8; 10_000])).await
            };
            let extra = match (&cut_off, batch) {
                (None, _) => 0,
                (Some(_), true) => 30,
                (Some(_), false) => 1,
            };
            tx.send(b"\x09 end").await.expect("sent");
            tx.finish().await.expect("acknowledged");
            let got = reader.recv().await.expect("the reader ends");
            let count = |value| got.iter().filter(|v| **v == value).count();
            assert_eq!((count(7), count(8), count(9)), (filled as usize, extra, 1), "{at:?}");
            let drained = a.shutdown().await;
            assert_eq!((drained.flushed, drained.lost.messages), (filled + extra as u64 + 2, 0));
        }
    }
}

pub(super) async fn recv_loses_nothing(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    let sender = spawn(&*env.here, async move {
        for i in 0..300u32 {
            tx.send(&i.to_le_bytes()).await.expect("sent");
            if i % 3 == 0 {
                tx.flush().await.expect("flushed");
            }
        }
        tx
    });
    let number = |message: &[u8]| u32::from_le_bytes(message.try_into().expect("a number"));
    let mut got = Vec::new();
    for (i, at) in cuts(2).cycle().enumerate() {
        match i % 3 {
            0 => {
                if let Some(message) = cut(at, rx.recv()).await {
                    got.push(number(&message.expect("it lives").expect("a message")));
                }
            }
            1 => {
                if let Some(message) = cut(at, rx.recv_with(number)).await {
                    got.push(message.expect("it lives").expect("a message"));
                }
            }
            _ => {
                let mut some = Vec::new();
                let taken = cut(at, rx.recv_many(4, |m| some.push(number(m)))).await;
                assert_eq!(taken.is_some(), !some.is_empty(), "what was read is told");
                got.append(&mut some);
            }
        }
        if got.len() == 300 {
            break;
        }
        if got.len() > 290 {
            // A wait for a wake could wait for ever now.
            got.push(number(&next(&rx).await.expect("a message")));
            if got.len() == 300 {
                break;
            }
        }
    }
    assert!(got.into_iter().eq(0..300));
    sender.recv().await.expect("the sender ends");
}

pub(super) async fn flush_and_finish(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    for at in cuts(1) {
        let (tx, rx) = opened(&b, &peer, Reliable).await;
        tx.send(b"one").await.expect("sent");
        if let Some(flushed) = cut(at, tx.flush()).await {
            flushed.expect("flushed");
        }
        assert_eq!(next(&rx).await.as_deref(), Some(&b"one"[..]), "{at:?}");
        tx.send(b"two").await.expect("sent");
        let finished = cut(at, tx.finish()).await;
        assert_eq!(next(&rx).await.as_deref(), Some(&b"two"[..]), "{at:?}");
        if at == Cut::Polls(0) {
            assert!(finished.is_none());
            tx.send(b"three").await.expect("it was never asked");
            assert_eq!(next(&rx).await.as_deref(), Some(&b"three"[..]));
            tx.finish().await.expect("acknowledged");
        }
        assert_eq!(next(&rx).await, None, "{at:?}");
    }
}

pub(super) async fn questions(env: Env) {
    let (a, b, peer) = pair(&env).await;
    let (tx, _rx) = opened(&b, &peer, Reliable).await;
    let mut events = b.events();
    for at in cuts(1) {
        for _ in 0..20 {
            cut(at, a.stats()).await;
            cut(at, a.ceiling()).await;
            cut(at, peer.stats()).await;
            cut(at, tx.stats()).await;
        }
        if !matches!(at, Cut::Woken(_)) {
            assert!(cut(at, peer.closed()).await.is_none());
            let told = cut(at, events.next()).await;
            assert!(matches!(told, None | Some(Some(MeshEvent::PathChanged { .. }))), "{told:?}");
        }
    }
    a.stats().await.expect("it lives");
    assert!(peer.is_connected());
    // Woken, and dropped before it looked: the next wait gets it.
    let closes = spawn(&*env.here, async move { a.shutdown().await });
    let mut at = Cut::Woken(1);
    let told = loop {
        match cut(at, events.next()).await {
            None => at = Cut::Polls(usize::MAX),
            Some(Some(MeshEvent::PathChanged { .. })) => {}
            Some(other) => break other,
        }
    };
    assert!(matches!(told, Some(MeshEvent::Disconnected { .. })), "{told:?}");
    closes.recv().await.expect("the task ends");
    assert_eq!(peer.closed().await, DownReason::Shutdown);
}

pub(super) async fn disconnect_goes_on(env: Env) {
    for at in cuts(1) {
        let (_a, b, peer) = pair(&env).await;
        let back = b.accept_peer().await.expect("a came");
        let done = cut(at, peer.disconnect(5)).await;
        if at == Cut::Polls(0) {
            assert!(done.is_none() && peer.is_connected(), "it was never asked");
            continue;
        }
        assert_eq!(peer.closed().await, DownReason::ClosedHere(5), "{at:?}");
        assert_eq!(back.closed().await, DownReason::ClosedByPeer(5), "{at:?}");
    }
}

pub(super) async fn shutdown_goes_on(env: Env) {
    for at in cuts(1) {
        let (a, b, peer) = pair(&env).await;
        let back = b.accept_peer().await.expect("a came");
        let (tx, rx) = opened(&b, &peer, Reliable).await;
        tx.send(b"before").await.expect("sent");
        let done = cut(at, a.shutdown()).await;
        if at == Cut::Polls(0) {
            assert!(done.is_none() && a.stats().await.is_ok(), "it was never asked");
            continue;
        }
        assert_eq!(next(&rx).await.as_deref(), Some(&b"before"[..]), "{at:?}");
        back.closed().await;
        assert_eq!(peer.closed().await, DownReason::Shutdown, "{at:?}");
    }
}
