//! Crashes of the server and of the producer. `jetstream-kills` makes more of them.

use super::*;

use std::path::PathBuf;

use net_sdk::net::PollRequest;
use net_tests::kills::{of_the_producer, of_the_server};

const KILLS: u64 = 10;

fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_jetstream-kills").into()
}

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("net-jetstream-{name}-{}", std::process::id()));
        _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn of_the_server_with_an_outbox() {
    let dir = Folder::new("server");
    on_tokio(async |_| {
        let found = of_the_server(KILLS, Some(&dir.0)).await;
        assert!(found.emitted > 0 && found.stored == found.emitted, "{found}");
    });
}

#[test]
fn of_the_server_without_an_outbox() {
    on_smol(async |_| {
        let found = of_the_server(KILLS, None).await;
        assert!(found.emitted > 0 && found.stored == found.emitted, "{found}");
    });
}

#[test]
fn of_the_producer_with_an_outbox() {
    let dir = Folder::new("producer");
    on_smol(async |_| {
        let found = of_the_producer(&program(), KILLS, &dir.0, true).await;
        assert!(found.promised > 0 && found.stored >= found.promised, "{found}");
    });
}

#[test]
fn of_the_producer_without_an_outbox() {
    let dir = Folder::new("plain");
    on_tokio(async |_| {
        let found = of_the_producer(&program(), KILLS, &dir.0, false).await;
        assert!(found.promised > 0 && found.stored <= found.emitted, "{found}");
    });
}

/// Without an outbox, a bus that ends while the server is down says how many events it gives up, and
/// these are the last ones.
#[test]
fn what_a_shutdown_gives_up_is_what_is_missing() {
    let mut server = Server::start(Nats::new());
    on_tokio(async |_| {
        let limit = Duration::from_millis(100);
        let options = JetStream::new(server.url());
        let bus = Net::builder().shards(1).adapter_timeout(limit).jetstream(options.clone()).build();
        let bus = bus.await.expect("a bus");
        (0..40u32).for_each(|n| _ = bus.emit_raw(n.to_le_bytes()).expect("room"));
        soon("flush", bus.flush()).await.expect("flushed");
        server.kill();
        (40..57u32).for_each(|n| _ = bus.emit_raw(n.to_le_bytes()).expect("room"));
        let closed = soon("shutdown", bus.shutdown()).await;
        assert_eq!(closed.lost, 17);
        assert!(closed.ledger.balances());
        server.restart();
        let bus = super::bus(options).await;
        let page = bus.poll(PollRequest::new()).await.expect("a page");
        assert!(page.events.iter().map(|e| e.raw[0]).eq(0..40), "exactly these");
        soon("shutdown", bus.shutdown()).await;
    });
}
