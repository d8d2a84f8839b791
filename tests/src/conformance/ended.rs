//! What becomes of a mesh whose runtime ends under it.

use std::sync::Arc;

use net_sdk::{DownReason, Drained, Error, Reliable, Runtime};
use net_shell::conformance::Env;
use net_shell::conformance::help::{spawn, spawn_polled};

use super::sdk::{WAITS, fill, opened, pair_that_fills};
use crate::blocking_runtime::Threads;

/// Starts a node on `runtime`, lets another runtime wait in every call, and ends the first one: every
/// call is answered, later ones fail at once, and the node at the other side lives.
///
/// # Panics
/// If one of that does not hold.
pub fn runtime_ends(runtime: Arc<dyn Runtime>, end: impl FnOnce()) {
    let observer = Threads::new();
    let watching: Arc<dyn Runtime> = Arc::new(observer.clone());
    observer.block_on(async {
        let env = Env::pair(runtime, watching, "ended");
        let (a, b, peer) = pair_that_fills(&env).await;
        let (tx, _rx) = opened(&b, &peer, Reliable).await;
        fill(&tx, 10_000);
        let mut waits = Vec::new();
        macro_rules! wait {
            ($name:literal, $held:ident => $call:expr) => {{
                let $held = $held.clone();
                waits.push(($name, spawn_polled(&*env.there, async move { $call }).await));
            }};
        }
        wait!("accept_peer", a => matches!(a.accept_peer().await, Err(Error::Shutdown)));
        wait!("accept_stream", a => matches!(a.accept_stream().await, Err(Error::Shutdown)));
        wait!("accept_stream of a peer", peer => peer.accept_stream().await.is_err());
        wait!("closed", peer => peer.closed().await == DownReason::Shutdown);
        wait!("send", tx => matches!(tx.send(&WAITS).await, Err(Error::Shutdown)));
        wait!("recv", tx => matches!(tx.recv().await, Err(Error::Shutdown)));
        wait!("flush", tx => tx.flush().await.is_err());
        let mut events = a.events();
        let events_end =
            spawn_polled(&*env.there, async move { while events.next().await.is_some() {} }).await;

        end();
        for (call, wait) in waits {
            assert_eq!(wait.recv().await, Ok(true), "`{call}` is answered");
        }
        events_end.recv().await.expect("events end");
        assert!(matches!(a.stats().await, Err(Error::Shutdown)));
        assert!(matches!(a.connect(b.ticket()).await, Err(Error::Shutdown)));
        assert!(matches!(tx.try_send(b"x"), Err(Error::Shutdown)));
        assert!(peer.open_stream("x", Reliable).await.is_err());
        assert_eq!(a.shutdown().await, Drained::default());
        assert!(a.peers().is_empty());
        // The other node was told nothing; it goes on.
        assert!(b.stats().await.is_ok());
        assert_eq!(spawn(&*env.there, async { 1 }).recv().await, Ok(1));
        b.shutdown_within(std::time::Duration::ZERO).await;
    });
    observer.end();
}
