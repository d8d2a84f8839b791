//! What the feature `metrics` publishes.
#![cfg(all(feature = "metrics", feature = "tokio"))]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ::metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use common::{opened, pair, soon};
use net_sdk::{Reliable, Result};

/// Values by name and labels.
#[derive(Clone, Default)]
struct Values(Arc<Mutex<BTreeMap<String, f64>>>);

struct One(Values, String);

impl One {
    fn put(&self, value: f64) {
        self.0.0.lock().unwrap().insert(self.1.clone(), value);
    }
}

impl CounterFn for One {
    fn increment(&self, _: u64) {}

    fn absolute(&self, value: u64) {
        self.put(value as f64);
    }
}

impl GaugeFn for One {
    fn increment(&self, _: f64) {}

    fn decrement(&self, _: f64) {}

    fn set(&self, value: f64) {
        self.put(value);
    }
}

impl Values {
    fn one(&self, key: &Key) -> Arc<One> {
        let labels: Vec<_> = key.labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
        Arc::new(One(self.clone(), format!("{} {}", key.name(), labels.join(" "))))
    }
}

impl Recorder for Values {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.one(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.one(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_of_node_and_peer_reach_the_recorder() -> Result<()> {
    let values = Values::default();
    ::metrics::set_global_recorder(values.clone()).unwrap();
    let (a, b, peer) = pair().await?;
    let (tx, _rx) = opened(&b, &peer, Reliable).await?;
    soon("flush", tx.flush()).await?;
    a.publish_metrics().await?;
    let stats = peer.stats().await?;

    let value = |name: &str, labels: &str| {
        let seen = values.0.lock().unwrap();
        *seen.get(&format!("{name} {labels}")).unwrap_or_else(|| panic!("{name} {labels} in {seen:?}"))
    };
    let (node, of_peer) = (format!("node={}", a.id()), format!("node={} peer={}", a.id(), b.id()));
    assert_eq!(value("net_node_peers", &node), 1.0);
    assert_eq!(value("net_node_drops", &format!("{node} reason=forged")), 0.0);
    assert_eq!(value("net_peer_packets_sent", &of_peer), stats.packets_sent as f64);
    assert_eq!(value("net_peer_streams", &of_peer), 1.0);
    assert!(value("net_peer_rtt_seconds", &of_peer) > 0.0);

    // By itself, until the mesh ends.
    b.publish_metrics_every(std::time::Duration::from_millis(1));
    let theirs = format!("node={}", b.id());
    while !values.0.lock().unwrap().contains_key(&format!("net_node_peers {theirs}")) {
        net_sdk::rt::sleep(std::time::Duration::from_millis(1)).await;
    }
    soon("shutdown", a.shutdown()).await;
    soon("shutdown", b.shutdown()).await;
    Ok(())
}
