//! Consumer groups: what one consumer leaves, another takes over.

use std::collections::BTreeSet;
use std::time::Duration;

use net_redis::{Delivery, GroupOptions, RedisConfig, RedisGroup, RedisStreamDedup};
use net_shell::bus::adapter::{Adapter, AdapterError};
use net_tests::servers::Server;
use net_tests::servers::redis::{Redis, cluster};

use crate::{batch, on_smol, on_tokio, push, single, soon, started};

const WAIT: Duration = Duration::from_secs(30);

fn done(events: &[Delivery]) -> Vec<(u16, net_proto::bus::Position)> {
    events.iter().map(|e| (e.shard, e.position)).collect()
}

async fn takes_over(rt: std::sync::Arc<dyn net_sdk::Runtime>, config: RedisConfig) {
    let adapter = started(&rt, config.clone()).await.unwrap();
    for shard in 0..3 {
        let mut link = adapter.open(shard).await.unwrap();
        push(&mut link, batch(shard, 1, 20)).await.unwrap();
    }
    let join = async |name: &str| {
        let options = GroupOptions::new("workers", name, 0..3);
        soon("join", RedisGroup::join(&config, rt.clone(), options)).await.unwrap()
    };
    let (a, mut b) = (join("a").await, join("b").await);
    let mine = soon("next", a.next(10, WAIT)).await.unwrap();
    assert_eq!(mine.len(), 30, "ten of each shard");
    assert!(mine.iter().all(|e| !e.again && e.id.is_some()));
    assert_eq!(soon("ack", a.ack(done(&mine[..5]))).await, Ok(5));
    assert_eq!(soon("ack", a.ack(done(&mine[..5]))).await, Ok(0), "done once");
    // It restarts under its name, and finds what it left.
    drop(a);
    let a = join("a").await;
    let left = soon("unfinished", a.unfinished(100)).await.unwrap();
    assert_eq!(done(&left).iter().collect::<BTreeSet<_>>(), done(&mine[5..]).iter().collect());
    assert!(left.iter().all(|e| e.again));
    // It dies; the other gets the rest, and then what the dead one had.
    drop(a);
    let mut all = mine[..5].to_vec();
    all.extend(soon("next", b.next(100, WAIT)).await.unwrap());
    assert_eq!(all.len(), 35);
    let mut claimed = Vec::new();
    soon("claim", async {
        while claimed.len() < 25 {
            claimed.extend(b.claim(Duration::ZERO, 4).await.unwrap());
        }
    })
    .await;
    assert!(claimed.iter().all(|e| e.again));
    all.extend(claimed);
    let mut seen = RedisStreamDedup::new();
    all.retain(|e| !seen.is_duplicate_id(&e.id.unwrap()));
    assert_eq!((all.len(), seen.missing()), (60, 0));
    soon("ack", b.ack(done(&all))).await.unwrap();
    assert_eq!(soon("unfinished", b.unfinished(10)).await, Ok(Vec::new()));
    assert_eq!(soon("claim", b.claim(Duration::ZERO, 10)).await, Ok(Vec::new()));
    assert_eq!(soon("next", b.next(10, Duration::from_millis(20))).await, Ok(Vec::new()));
}

#[test]
fn of_one_server() {
    let server = Server::start(Redis::volatile());
    on_tokio(|rt| takes_over(rt, single(&server)));
}

#[test]
fn of_a_cluster() {
    let nodes = cluster();
    on_smol(|rt| takes_over(rt, RedisConfig::cluster([nodes[0].addr().to_string()])));
}

#[test]
fn a_group_that_is_removed_is_missed() {
    let server = Server::start(Redis::volatile());
    on_smol(|rt| async move {
        let options = GroupOptions::new("g", "c", [0]).latest();
        let mut group = RedisGroup::join(&single(&server), rt.clone(), options).await.unwrap();
        // Limits beyond what the server can count are no harm.
        server.call(&["XADD", "net:shard:0", "*", "d", "x"]);
        let events = soon("next", group.next(usize::MAX, Duration::MAX)).await.unwrap();
        assert_eq!((events.len(), group.next(0, Duration::ZERO).await), (1, Ok(Vec::new())));
        assert_eq!(group.claim(Duration::MAX, usize::MAX).await, Ok(Vec::new()));
        server.call(&["XGROUP", "DESTROY", "net:shard:0", "g"]);
        let gone = soon("next", group.next(1, WAIT)).await.unwrap_err();
        assert!(matches!(gone, AdapterError::Gone(_)), "{gone}");
        assert!(matches!(group.claim(WAIT, 1).await, Err(AdapterError::Gone(_))));
        let nobody = GroupOptions::new("", "c", [0]);
        let error = RedisGroup::join(&single(&server), rt, nobody).await.unwrap_err();
        assert!(matches!(error, AdapterError::Config(_)), "{error}");
    });
}
