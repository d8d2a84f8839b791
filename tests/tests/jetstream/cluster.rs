//! Three servers, three replicas: any one may be lost.

use super::*;

use net_sdk::net::{Dedup, ReadOptions};
use net_tests::servers::nats::Cluster;

#[test]
fn every_acknowledged_event_survives_one_server_and_later_another() {
    let mut cluster = Cluster::start();
    on_smol(async |_| {
        let urls = cluster.urls();
        let options = JetStream::new(&urls[0]).server(&urls[1]).server(&urls[2]).replicas(3);
        let bus = soon("a bus", Net::builder().shards(2).jetstream(options).build()).await.expect("a bus");
        let mut emitted = 0u64;
        let mut more = async |what: &str, events: u64| {
            let least = bus.stats().ledger.delivered + events;
            until(what, async || {
                for _ in 0..20 {
                    bus.emit_raw(emitted.to_le_bytes()).expect("room");
                    emitted += 1;
                }
                (bus.stats().ledger.delivered >= least).then_some(())
            })
            .await;
        };
        more("events on three", 1000).await;
        for lost in [0, 1] {
            cluster.servers[lost].kill();
            more("events on two", 1000).await;
            cluster.servers[lost].restart();
            cluster.wait();
        }
        more("events on three again", 1000).await;
        let ledger = bus.stats().ledger;
        until("everything", async || (bus.stats().ledger.queued == 0).then_some(())).await;
        assert!(ledger.balances() && ledger.lost.total() == 0, "{ledger:?}");
        let mut all = bus.subscribe_with(ReadOptions::new()).await.expect("room");
        let (mut dedup, mut seen) = (Dedup::default(), std::collections::BTreeMap::new());
        let mut read = 0;
        while read < emitted {
            match soon("an item", all.next()).await.expect("no end") {
                Ok(Item::Event(event)) => {
                    let id = event.id.expect("a name");
                    if !dedup.is_duplicate(&id) {
                        let high = seen.entry(event.shard).or_insert(0);
                        assert_eq!(id.seq, *high + 1, "in order, without holes");
                        *high = id.seq;
                        read += 1;
                    }
                }
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn a_durable_consumer_survives_one_server_and_later_another() {
    let mut cluster = Cluster::start();
    on_tokio(async |_| {
        let urls = cluster.urls();
        let options = JetStream::new(&urls[0]).server(&urls[1]).server(&urls[2]).replicas(3);
        let options = options.request_timeout(Duration::from_secs(1));
        let bus =
            soon("a bus", Net::builder().shards(1).jetstream(options.clone()).build()).await.expect("a bus");
        (0..200u32).for_each(|n| _ = bus.emit_raw(n.to_le_bytes()).expect("room"));
        soon("flush", async { while bus.flush().await.is_err() {} }).await;
        let mut work = Durable::open(options, "workers", Duration::from_secs(2)).await.expect("a consumer");
        let (mut done, mut lost) = (std::collections::BTreeSet::new(), 0);
        while done.len() < 200 {
            done.extend(noted(&mut work).await);
            if lost < 2 && done.len() > 60 * (lost + 1) {
                if lost > 0 {
                    cluster.servers[lost - 1].restart();
                    cluster.wait();
                }
                cluster.servers[lost].kill();
                lost += 1;
            }
        }
        assert_eq!((lost, done), (2, (1..=200).collect()));
        soon("shutdown", bus.shutdown()).await;
    });
}
