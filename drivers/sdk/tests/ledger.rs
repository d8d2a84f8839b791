//! Every message that a port admitted is either delivered or lost, and counted once.
#![cfg(feature = "tokio")]

mod common;

use common::{opened, pair, soon};
use net_sdk::{Drained, Error, Mesh, MeshEvent, Reliable, Result, Stream};
use std::time::Duration;

const SIZE: usize = 10_000;

/// Sends until there is no credit: more than the peer's window of a stream that nobody reads.
fn fill(tx: &Stream) -> u64 {
    let mut count = 0;
    loop {
        match tx.try_send(&[7; SIZE]) {
            Ok(()) => count += 1,
            Err(Error::Backpressure) => return count,
            Err(e) => panic!("{e}"),
        }
    }
}

/// `first` was delivered before; `count` messages of `SIZE` bytes were admitted after it.
fn check(drained: Drained, count: u64) {
    assert_eq!(drained.flushed + drained.lost.messages, count + 1, "{drained:?}");
    assert_eq!(drained.lost.bytes, drained.lost.messages * SIZE as u64, "{drained:?}");
    assert!(drained.lost.messages > 0, "the test wants something to be lost");
    assert!(drained.flushed > 0);
}

async fn read_all(rx: &Stream) -> u64 {
    let mut got = 0;
    while let Ok(Some(_)) = soon("message", rx.recv()).await {
        got += 1;
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_that_its_deadline_cuts_off_counts_what_was_queued() -> Result<()> {
    let (a, b, peer) = pair().await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    let count = fill(&tx);
    let drained = soon("shutdown", a.shutdown_within(Duration::from_millis(30))).await;
    check(drained, count);
    assert!(read_all(&rx).await + 1 >= drained.flushed, "what counts as flushed did arrive");
    assert!(matches!(tx.try_send(b"x"), Err(Error::Shutdown)));
    soon("shutdown", b.shutdown()).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_counts_what_was_queued_once_whatever_follows() -> Result<()> {
    for then_disconnect in [false, true] {
        let (a, b, peer) = pair().await?;
        let (tx, rx) = opened(&b, &peer, Reliable).await?;
        let count = fill(&tx);
        tx.reset(9);
        assert!(matches!(soon("flush", tx.flush()).await, Err(Error::Closed)), "a flush is answered");
        if then_disconnect {
            soon("disconnect", peer.disconnect(1)).await;
        } else {
            // The peer sees the reset; our side reads no more either, so the stream closes.
            let end = soon("reset", async {
                loop {
                    if let Err(e) = rx.recv().await {
                        break e;
                    }
                }
            });
            let end = end.await;
            assert!(matches!(end, Error::Reset(9)), "{end:?}");
            drop(rx);
        }
        drop(tx);
        check(soon("shutdown", a.shutdown()).await, count);
        soon("shutdown", b.shutdown()).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnect_reports_what_was_queued_and_the_shutdown_does_not_count_it_again() -> Result<()> {
    // How much of it the driver has taken by the time of the reset differs.
    for _ in 0..20 {
        disconnected_with_messages_queued().await?;
    }
    Ok(())
}

async fn disconnected_with_messages_queued() -> Result<()> {
    let (a, b, peer) = pair().await?;
    let (tx, _rx) = opened(&b, &peer, Reliable).await?;
    let mut events = a.events();
    let count = fill(&tx);
    let other = soon("open", peer.open_stream("other", Reliable)).await?;
    let more = fill(&other);
    other.reset(3);
    soon("disconnect", peer.disconnect(1)).await;
    assert!(matches!(tx.try_send(b"x"), Err(Error::Disconnected(_))));
    let lost = loop {
        match soon("event", events.next()).await {
            Some(MeshEvent::Disconnected { lost, peer, .. }) if peer == b.id() => break lost,
            Some(_) => {}
            None => panic!("the mesh lives"),
        }
    };
    let drained = soon("shutdown", a.shutdown()).await;
    check(drained, count + more);
    assert_eq!(drained.lost, lost, "the event told all of it");
    soon("shutdown", b.shutdown()).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_peer_stopped_reading_counts() -> Result<()> {
    let (a, b, peer) = pair().await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    let count = fill(&tx);
    rx.stop(5);
    assert!(matches!(
        soon("stop", async {
            loop {
                tx.send(&[1; 0]).await?
            }
        })
        .await,
        Err::<(), _>(Error::Stopped(5))
    ));
    let drained = soon("shutdown", a.shutdown()).await;
    assert!(drained.flushed + drained.lost.messages > count, "{drained:?}");
    assert!(drained.lost.messages > 0);
    soon("shutdown", b.shutdown()).await;
    let zero: Drained = soon("again", Mesh::shutdown(&a)).await;
    assert_eq!(zero, Drained::default());
    Ok(())
}
