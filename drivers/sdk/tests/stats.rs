//! What a node counts of its peers, paths and streams.

#[macro_use]
mod common;

use common::{opened, pair, soon};
use net_sdk::{FireAndForget, Reliable, Result};

on_every_runtime! {
    figures_of_peers_paths_and_streams_agree
    a_stream_that_nobody_reads_shows_what_waits
}

async fn figures_of_peers_paths_and_streams_agree(_: &str) -> Result<()> {
    let (a, b, peer) = pair().await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    for i in 0..100usize {
        tx.send(&vec![7; 10 * i]).await?;
        assert_eq!(soon("message", rx.recv()).await?.expect("a message").len(), 10 * i);
    }
    soon("flush", tx.flush()).await?;

    let (sent, got) = (tx.stats().await?, rx.stats().await?);
    let bytes = 5 + 10 * 99 * 100 / 2;
    assert_eq!((sent.mode, got.mode), (Reliable, Reliable));
    assert_eq!((sent.delivered.messages, sent.delivered.bytes), (101, bytes));
    assert_eq!((got.received.messages, got.received.bytes), (101, bytes));
    assert_eq!((sent.queued.messages, sent.lost.messages), (0, 0));
    // The port tells what was drained at a quarter of the window.
    assert!(got.inbound_pending <= got.rx_window / 4, "{got:?}");
    // Each message has its length in front, in one or two bytes.
    assert!((bytes + 101..=bytes + 202).contains(&sent.sent_bytes), "{sent:?}");
    assert!(sent.tx_credit_remaining > 0);

    // The list has the stream with the same figures; both ends know the same name.
    let listed = peer.streams().await?;
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].label.as_deref(), &listed[0].stats), (Some("logs"), &sent));

    let (stats, paths) = (peer.stats().await?, peer.paths().await?);
    assert_eq!(paths.len(), 1);
    let path = &paths[0];
    assert!(path.active && path.validated);
    assert_eq!((path.path, path.rtt_min), (stats.path, stats.rtt_min));
    assert!(path.rtt_min > std::time::Duration::ZERO && path.rtt_min <= path.rtt);
    assert!(path.datagram_size >= 1200 && path.window >= 2 * u64::from(path.datagram_size));
    assert!(path.bytes_sent > bytes && path.bytes_sent == stats.bytes_sent, "{path:?} {stats:?}");
    assert!(path.packets_sent >= 100 && path.packets_lost >= path.spurious_losses);
    assert!(path.pacing_rate > 0);
    assert_eq!(stats.retransmitted, sent.retransmitted);

    // What ended is counted still.
    soon("finish", tx.finish()).await?;
    soon("finish", rx.finish()).await?;
    assert_eq!(peer.stats().await?.retransmitted, stats.retransmitted);
    soon("disconnect", peer.disconnect(0)).await;
    assert!(peer.paths().await.is_err(), "a peer that is gone has no paths");
    soon("shutdown", a.shutdown()).await;
    soon("shutdown", b.shutdown()).await;
    assert!(peer.streams().await.is_err());
    Ok(())
}

async fn a_stream_that_nobody_reads_shows_what_waits(_: &str) -> Result<()> {
    let (a, b, peer) = pair().await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    let mut queued = 0u64;
    // Nobody reads: credit runs out, then the port.
    while tx.try_send(&[1; 4096]).is_ok() {
        queued += 1;
    }
    let held = loop {
        let (sent, got) = (tx.stats().await?, rx.stats().await?);
        if sent.queued.messages > 0 && got.inbound_pending > 0 && sent.backpressure_events > 0 {
            assert!(sent.delivered.messages < queued);
            break got.inbound_pending;
        }
        net_sdk::rt::sleep(std::time::Duration::from_millis(5)).await;
    };
    assert!(held <= rx.stats().await?.rx_window, "{held} bytes within the window");

    let readings = peer.open_stream("readings", FireAndForget).await?;
    readings.send(b"one").await?;
    soon("flush", readings.flush()).await?;
    let stats = readings.stats().await?;
    assert_eq!((stats.mode, stats.tx_seq, stats.retransmitted), (FireAndForget, 1, 0));
    assert_eq!(peer.streams().await?.len(), 2);
    a.shutdown_within(std::time::Duration::ZERO).await;
    b.shutdown_within(std::time::Duration::ZERO).await;
    Ok(())
}
