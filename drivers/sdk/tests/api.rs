//! What the handles promise beyond the main path.
#![cfg(feature = "tokio")]

mod common;

use common::{fresh, opened, pair, soon};
use net_sdk::{DialError, Error, Mesh, MeshEvent, Reliable, Result, rt};
use std::collections::BTreeSet;
use std::time::Duration;

/// Polls a future once or so, then drops it.
async fn give_up<T>(future: impl Future<Output = T>) -> Option<T> {
    rt::timeout(Duration::ZERO, future).await.ok()
}

fn quick(b: net_sdk::MeshBuilder) -> net_sdk::MeshBuilder {
    b.bind("127.0.0.1:0").config(|c| c.dial_timeout = Duration::from_millis(600))
}

#[tokio::test]
async fn the_policy_decides_by_proven_identity() -> Result<()> {
    let friend = quick(Mesh::builder()).seed([1; 32]).start().await?;
    let id = friend.id();
    let b = Mesh::builder()
        .bind("127.0.0.1:0")
        .mesh(friend.secret())
        .accept_if(move |who| who == id)
        .start()
        .await?;
    let stranger = quick(Mesh::builder()).mesh(friend.secret()).start().await?;
    soon("friend", friend.connect(b.ticket())).await?;
    let refused = soon("stranger", stranger.connect(b.ticket())).await;
    assert!(matches!(refused, Err(Error::Dial(_))), "{refused:?}");
    assert_eq!(b.peers().iter().map(net_sdk::Peer::id).collect::<Vec<_>>(), [id]);
    assert_eq!(soon("accept", b.accept_peer()).await?.id(), id);
    Ok(())
}

#[tokio::test]
async fn a_wrong_key_or_identity_fails_with_what_to_check() -> Result<()> {
    let b = Mesh::builder().bind("127.0.0.1:0").start().await?;
    // Another mesh key; then the right key and another identity at b's address.
    let other = quick(Mesh::builder()).start().await?;
    let same = quick(Mesh::builder()).mesh(b.secret()).start().await?;
    let mut ticket = b.ticket();
    ticket.entity = other.id();
    for failed in [soon("key", other.connect(b.ticket())).await, soon("id", same.connect(ticket)).await] {
        let Err(error) = failed else { panic!("connected") };
        assert!(matches!(error, Error::Dial(DialError::TimedOut(_))), "{error:?}");
        assert!(error.is_retryable());
        for word in ["address", "mesh key", "ticket"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    assert!(b.peers().is_empty());
    Ok(())
}

#[tokio::test]
async fn events_tell_who_came_and_went() -> Result<()> {
    let b = Mesh::builder().bind("127.0.0.1:0").start().await?;
    let mut events = b.events();
    let a = Mesh::builder().bind("127.0.0.1:0").mesh(b.secret()).start().await?;
    soon("connect", a.connect(b.ticket())).await?;
    let Some(MeshEvent::Connected(peer)) = soon("event", events.next()).await else {
        panic!("not connected")
    };
    assert_eq!(peer.id(), a.id());
    soon("shutdown", a.shutdown()).await;
    loop {
        match soon("event", events.next()).await {
            Some(MeshEvent::Disconnected { peer, lost, .. }) => {
                assert_eq!((peer, lost.messages), (a.id(), 0));
                break;
            }
            Some(MeshEvent::PathChanged { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(!peer.is_connected());
    soon("shutdown", b.shutdown()).await;
    assert!(soon("end", events.next()).await.is_none());
    Ok(())
}

#[tokio::test]
async fn a_node_binds_several_addresses_and_advertises_others() -> Result<()> {
    let b = Mesh::builder().bind("127.0.0.1:0").bind("127.0.0.2:0").start().await?;
    assert_eq!(b.local_addrs().len(), 2);
    assert_eq!(b.ticket().addrs, b.local_addrs());
    for addr in b.local_addrs() {
        let a = Mesh::builder().bind("127.0.0.1:0").mesh(b.secret()).start().await?;
        let mut ticket = b.ticket();
        ticket.addrs = vec![addr];
        let peer = soon("connect", a.connect(ticket)).await?;
        opened(&b, &peer, Reliable).await?;
        soon("shutdown", a.shutdown()).await;
    }
    let public = "203.0.113.7:4433".parse().unwrap();
    let c = Mesh::builder().bind("127.0.0.1:0").advertise(public).start().await?;
    assert_eq!(c.ticket().addrs, [public]);
    assert_eq!(c.invite().ticket.addrs, [public]);
    Ok(())
}

#[tokio::test]
async fn traffic_goes_on_after_a_change_of_network() -> Result<()> {
    let (a, b, peer) = pair().await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    for i in 0..20u8 {
        a.network_changed();
        b.network_changed();
        tx.send(&[i]).await?;
        assert_eq!(soon("message", rx.recv()).await?.as_deref(), Some(&[i][..]));
    }
    assert!(peer.is_connected());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn futures_that_are_dropped_lose_and_leak_nothing() -> Result<()> {
    let (_a, b, peer) = pair().await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    let mut sent = 0u32;
    loop {
        let mut message = [0; 20_000];
        message[..4].copy_from_slice(&sent.to_le_bytes());
        match give_up(tx.send(&message)).await {
            Some(result) => result?,
            None => break,
        }
        sent += 1;
    }
    let last = sent;
    let mut next = 0;
    while next < last {
        if let Some(message) = give_up(rx.recv()).await {
            assert_eq!(message?.unwrap()[..4], next.to_le_bytes(), "a dropped recv took nothing");
            next += 1;
        }
    }
    tx.send(b"end").await?;
    assert_eq!(
        soon("end", rx.recv()).await?.as_deref(),
        Some(&b"end"[..]),
        "the dropped send queued nothing"
    );

    // Streams whose opening was given up are closed again: many more than may exist at once.
    let mut given_up = 0;
    for i in 0..3000 {
        let opening = async {
            if i % 2 == 0 {
                give_up(peer.open_stream("ghost", Reliable)).await
            } else {
                Some(peer.open_stream("ghost", Reliable).await)
            }
        };
        match opening.await {
            None => given_up += 1,
            Some(Ok(stream)) => drop(stream),
            Some(Err(Error::Stream(_))) => {}
            Some(Err(e)) => return Err(e),
        }
        while let Some(ghost) = give_up(b.accept_stream()).await {
            drop(ghost?);
        }
    }
    assert!(given_up > 0, "the test wants some to be given up");
    let (last, _) = loop {
        // The last ghosts go away on their own.
        match peer.open_stream("real", Reliable).await {
            Ok(stream) => break (stream, ()),
            Err(Error::Stream(_)) => drop(give_up(b.accept_stream()).await),
            Err(e) => return Err(e),
        }
    };
    last.send(b"x").await?;
    let real = loop {
        let stream = soon("real", b.accept_stream()).await?;
        if stream.label() == "real" {
            break stream;
        }
    };
    assert_eq!(soon("x", real.recv()).await?.as_deref(), Some(&b"x"[..]));
    Ok(())
}

#[tokio::test]
async fn the_last_handle_ends_the_stream() -> Result<()> {
    let (_a, b, peer) = pair().await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    let clone = tx.clone();
    drop(tx);
    clone.send(b"still there").await?;
    drop(clone);
    assert_eq!(soon("message", rx.recv()).await?.as_deref(), Some(&b"still there"[..]));
    assert!(soon("end", rx.recv()).await?.is_none());
    let end = soon("stop", async {
        loop {
            if let Err(e) = rx.send(b"anybody?").await {
                break e;
            }
        }
    });
    let end = end.await;
    assert!(matches!(end, Error::Stopped(0) | Error::Closed), "{end:?}");
    Ok(())
}

#[tokio::test]
async fn a_message_above_the_peers_limit_is_refused_here() -> Result<()> {
    let b = Mesh::builder()
        .bind("127.0.0.1:0")
        .config(|c| c.session.streams.local.max_message = 1000)
        .start()
        .await?;
    let a = Mesh::builder().bind("127.0.0.1:0").mesh(b.secret()).start().await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    let refused = tx.send(&[0; 1001]).await;
    assert!(matches!(refused, Err(Error::TooLarge { len: 1001, limit: 1000 })), "{refused:?}");
    assert_eq!(refused.unwrap_err().to_string(), "1001 bytes are above the limit of 1000");
    tx.send(&[0; 1000]).await?;
    assert_eq!(soon("message", rx.recv()).await?.map(|m| m.len()), Some(1000));
    rx.send(&[0; 1001]).await?;
    assert_eq!(soon("message", tx.recv()).await?.map(|m| m.len()), Some(1001), "the limit is the receiver's");
    Ok(())
}

#[tokio::test]
async fn a_directory_keeps_who_a_node_is_through_many_lives() -> Result<()> {
    let dir = fresh("lives");
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let node = Mesh::builder().bind("127.0.0.1:0").dir(&dir).start().await?;
        seen.insert((node.id(), node.mesh_id().0));
        soon("shutdown", node.shutdown()).await;
    }
    assert_eq!(seen.len(), 1);
    let other = Mesh::builder().dir(&dir).seed([9; 32]).start().await;
    assert!(matches!(other, Err(Error::State(_))));
    std::fs::remove_dir_all(&dir).unwrap();
    Ok(())
}
