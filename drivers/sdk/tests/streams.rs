//! Two nodes over loopback. Every case runs on every runtime.

#[macro_use]
mod common;

#[cfg(feature = "tokio")]
use common::smol_runtime;
use common::{fresh, opened, pair, soon};
use net_sdk::{Error, FireAndForget, Mesh, Reliable, Result, Unordered, rt};
use std::collections::BTreeSet;

on_every_runtime! {
    ten_thousand_messages_in_the_reliable_modes
    ten_thousand_messages_fire_and_forget
    a_thousand_echoes_cost_about_two_datagrams_each
    a_node_comes_back_with_its_identity_and_the_other_side_learns_that_it_was_gone
    mistakes_are_told
    tasks_run_on_the_runtime_that_was_asked_for
}

async fn ten_thousand_messages_in_the_reliable_modes(_on: &str) -> Result<()> {
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

async fn ten_thousand_messages_fire_and_forget(_on: &str) -> Result<()> {
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

async fn a_thousand_echoes_cost_about_two_datagrams_each(_on: &str) -> Result<()> {
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

async fn a_node_comes_back_with_its_identity_and_the_other_side_learns_that_it_was_gone(
    on: &str,
) -> Result<()> {
    let dir = fresh(&format!("restart-{on}"));
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

async fn mistakes_are_told(_on: &str) -> Result<()> {
    assert!(matches!(Mesh::builder().bind("nowhere").start().await, Err(Error::BadAddress(_))));
    let a = Mesh::builder().bind("127.0.0.1:0").start().await?;
    assert!(matches!(a.connect("nt1abc").await, Err(Error::Identity(_))));
    a.shutdown().await;
    assert!(matches!(a.accept_peer().await, Err(Error::Shutdown)));
    assert!(matches!(a.stats().await, Err(Error::Shutdown)));
    Ok(())
}

async fn tasks_run_on_the_runtime_that_was_asked_for(on: &str) -> Result<()> {
    let name = || std::thread::current().name().unwrap_or_default().to_owned();
    let name = soon("task", rt::spawn(async move { name() })).await.unwrap();
    assert!(name.starts_with(on), "a task on {on} ran on the thread {name}");
    Ok(())
}

/// The builder's choice goes before the runtime that is running.
#[cfg(feature = "tokio")]
#[tokio::test]
async fn a_node_on_smol_and_a_node_on_tokio_talk() -> Result<()> {
    let b = Mesh::builder().bind("127.0.0.1:0").runtime(smol_runtime()).start().await?;
    let a = Mesh::builder().bind("127.0.0.1:0").join(&b.invite()).start().await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    rx.send(b"back").await?;
    assert_eq!(soon("back", tx.recv()).await?.as_deref(), Some(&b"back"[..]));
    soon("flush", rx.flush()).await?;
    assert_eq!(soon("shutdown", a.shutdown()).await.lost.messages, 0);
    assert_eq!(soon("shutdown", b.shutdown()).await.lost.messages, 0);
    Ok(())
}

/// Where no tokio runs, smol needs neither naming nor entering.
#[cfg(feature = "smol")]
#[test]
fn smol_is_what_runs_when_nothing_else_does() -> Result<()> {
    smol::block_on(tasks_run_on_the_runtime_that_was_asked_for("smol"))?;
    smol::block_on(mistakes_are_told("smol"))
}
