//! Two nodes over loopback on tokio.
#![cfg(feature = "tokio")]

mod common;

use common::{opened, pair, soon};
use net_sdk::{Error, FireAndForget, Mesh, Reliable, Result, Unordered, rt};
use std::collections::BTreeSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_in_the_reliable_modes() -> Result<()> {
    let (a, b, peer) = pair().await?;
    for mode in [Reliable, Unordered] {
        let (tx, rx) = opened(&b, &peer, mode).await?;
        assert_eq!(rx.peer(), a.id());
        let sender = rt::spawn(async move {
            for i in 0..10_000u32 {
                tx.send(&i.to_le_bytes()).await?;
            }
            tx.finish().await
        });
        let mut got = Vec::new();
        while let Some(message) = soon("message", rx.recv()).await? {
            got.push(u32::from_le_bytes(message[..].try_into().unwrap()));
        }
        soon("finish", sender).await.unwrap()?;
        if mode == Reliable {
            assert!(got.iter().copied().eq(0..10_000));
        } else {
            assert_eq!(got.len(), 10_000);
            assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), 10_000);
        }
    }
    let drained = soon("shutdown", a.shutdown()).await;
    assert_eq!(
        (drained.flushed, drained.lost.messages),
        (20_002, 0),
        "every message admitted is accounted for"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_messages_fire_and_forget() -> Result<()> {
    let (a, b, peer) = pair().await?;
    let (tx, rx) = opened(&b, &peer, FireAndForget).await?;
    let sender = rt::spawn(async move {
        for i in 0..10_000u32 {
            tx.send(&i.to_le_bytes()).await?;
        }
        tx.finish().await
    });
    let mut seen = BTreeSet::new();
    while let Some(message) = soon("message", rx.recv()).await? {
        assert!(seen.insert(u32::from_le_bytes(message[..].try_into().unwrap())), "at most once");
    }
    soon("finish", sender).await.unwrap()?;
    assert!(!seen.is_empty());
    assert_eq!(soon("shutdown", a.shutdown()).await.lost.messages, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_echoes_cost_about_two_datagrams_each() -> Result<()> {
    let (a, b, peer) = pair().await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    let echo = rt::spawn(async move {
        while let Some(message) = rx.recv().await? {
            rx.send(&message).await?;
        }
        Ok::<_, Error>(())
    });
    let before = a.stats().await?.datagrams_sent + b.stats().await?.datagrams_sent;
    for i in 0..1000u32 {
        tx.send(&i.to_le_bytes()).await?;
        let back = soon("echo", tx.recv()).await?.expect("an echo");
        assert_eq!(back[..], i.to_le_bytes());
    }
    let sent = a.stats().await?.datagrams_sent + b.stats().await?.datagrams_sent - before;
    println!("1,000 echoes took {sent} datagrams");
    assert!(sent <= 2100, "1,000 echoes took {sent} datagrams");
    tx.finish().await?;
    soon("echo end", echo).await.unwrap()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_comes_back_with_its_identity_and_the_other_side_learns_that_it_was_gone() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("net-sdk-restart-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let b = Mesh::builder().bind("127.0.0.1:0").dir(&dir).start().await?;
    let a = Mesh::builder().bind("127.0.0.1:0").join(&b.invite()).start().await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;
    let (tx, _rx) = opened(&b, &peer, Reliable).await?;
    assert!(Mesh::builder().dir(&dir).start().await.is_err(), "one node at a time");

    let (id, mesh) = (b.id(), b.mesh_id());
    assert_eq!(soon("shutdown", b.shutdown()).await.lost.messages, 0);
    assert!(matches!(soon("end", tx.recv()).await, Err(Error::Disconnected(_))));
    assert!(!peer.is_connected());

    let b = Mesh::builder().bind("127.0.0.1:0").dir(&dir).start().await?;
    assert_eq!((b.id(), b.mesh_id()), (id, mesh));
    let peer = soon("connect again", a.connect(b.ticket())).await?;
    opened(&b, &peer, Reliable).await?;
    soon("shutdown", b.shutdown()).await;
    std::fs::remove_dir_all(&dir).unwrap();
    Ok(())
}

#[tokio::test]
async fn mistakes_are_told() {
    assert!(matches!(Mesh::builder().bind("nowhere").start().await, Err(Error::BadAddress(_))));
    let a = Mesh::builder().bind("127.0.0.1:0").start().await.unwrap();
    assert!(matches!(a.connect("nt1abc").await, Err(Error::Identity(_))));
    a.shutdown().await;
    assert!(matches!(a.accept_peer().await, Err(Error::Shutdown)));
    assert!(matches!(a.stats().await, Err(Error::Shutdown)));
}
