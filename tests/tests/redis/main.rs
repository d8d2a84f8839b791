//! The event bus on real servers of Redis: the adapter's contract, faults, kills, Sentinel, Cluster.

mod conform;
mod faults;
mod groups;
mod kills;
mod reading;
mod topologies;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use net_proto::bus::{EventId, ProducerId, Shard};
use net_redis::{RedisAdapter, RedisConfig, RedisStreamDedup};
use net_sdk::Runtime;
use net_shell::bus::adapter::{Adapter, AdapterError, Batch, Link, Outgoing, Setup};
use net_tests::servers::Server;
use net_tests::servers::redis::{Answer, Redis};

pub(crate) fn on_tokio<F: Future<Output = ()>>(test: impl FnOnce(Arc<dyn Runtime>) -> F) {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let runtime: Arc<dyn Runtime> = Arc::new(net_tokio::Tokio::current().unwrap());
        net_sdk::rt::enter(runtime.clone(), test(runtime)).await;
    });
}

pub(crate) fn on_smol<F: Future<Output = ()>>(test: impl FnOnce(Arc<dyn Runtime>) -> F) {
    let runtime: Arc<dyn Runtime> = Arc::new(net_smol::Smol::new());
    smol::block_on(net_sdk::rt::enter(runtime.clone(), test(runtime)));
}

/// A hang becomes a failure that says where.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match net_sdk::rt::timeout(Duration::from_secs(60), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} takes more than a minute"),
    }
}

pub(crate) fn single(server: &Server<Redis>) -> RedisConfig {
    RedisConfig::single(server.addr().to_string())
}

/// An adapter without a bus.
pub(crate) async fn started(
    runtime: &Arc<dyn Runtime>,
    config: RedisConfig,
) -> Result<RedisAdapter, AdapterError> {
    let adapter = RedisAdapter::new(config);
    let setup = Setup::new(runtime.clone(), ProducerId(1), 1, 4);
    soon("start", adapter.start(&setup)).await.map(|()| adapter)
}

/// Events `first..` of a shard, with their numbers as bodies.
pub(crate) fn batch(shard: Shard, first: u64, events: u64) -> Batch {
    let outgoing = |seq: u64| Outgoing {
        id: EventId { producer: ProducerId(1), incarnation: 1, shard, seq },
        stamp: seq,
        raw: Bytes::from(seq.to_string()),
    };
    Batch { shard, first, events: (first..first + events).map(outgoing).collect() }
}

/// Sends a batch and waits until it is acknowledged.
pub(crate) async fn push(link: &mut Box<dyn Link>, batch: Batch) -> Result<(), AdapterError> {
    let last = batch.first + batch.events.len() as u64 - 1;
    link.send(batch)?;
    soon("acknowledgement", async {
        while poll_fn(|cx| link.poll_ack(cx)).await?.upto < last {}
        Ok(())
    })
    .await
}

/// What lies in the stream of a shard: `dedup_id` and body, as another client sees it.
pub(crate) fn stored(server: &Server<Redis>, shard: Shard) -> Vec<(String, String)> {
    let key = format!("net:shard:{shard}");
    let mut all = Vec::new();
    let mut from = "-".to_owned();
    loop {
        let Answer::List(entries) = server.call(&["XRANGE", &key, &from, "+", "COUNT", "5000"]) else {
            panic!("not a list")
        };
        let Some(Answer::List(last)) = entries.last().cloned() else { return all };
        let Answer::Text(id) = &last[0] else { panic!("no id") };
        from = format!("({id}");
        for entry in entries {
            let Answer::List(entry) = entry else { panic!("not an entry") };
            let Answer::List(fields) = &entry[1] else { panic!("no fields") };
            let text = |n: usize| match &fields[n] {
                Answer::Text(text) => text.clone(),
                other => panic!("{other:?}"),
            };
            assert_eq!((text(0).as_str(), text(4).as_str()), ("dedup_id", "d"));
            all.push((text(1), text(5)));
        }
    }
}

/// The same after deduplication, and how many were there twice.
pub(crate) fn unique(server: &Server<Redis>, shard: Shard) -> (Vec<String>, usize) {
    let mut seen = RedisStreamDedup::new();
    let all = stored(server, shard);
    let n = all.len();
    let once: Vec<_> =
        all.into_iter().filter(|(id, _)| !seen.is_duplicate(id).unwrap()).map(|(_, body)| body).collect();
    let twice = n - once.len();
    (once, twice)
}
