//! The suite for adapters, on every kind of setup.

use std::sync::Arc;

use net_redis::{RedisAdapter, RedisConfig};
use net_sdk::Runtime;
use net_shell::bus::conformance::{conformance, losses};
use net_tests::servers::Server;
use net_tests::servers::redis::{Redis, cluster};

use crate::{on_smol, on_tokio, single};

async fn conforms(runtime: Arc<dyn Runtime>, config: RedisConfig) {
    conformance(runtime, || Arc::new(RedisAdapter::new(config.clone()))).await;
}

#[test]
fn one_server_on_tokio() {
    let server = Server::start(Redis::volatile());
    on_tokio(|rt| conforms(rt, single(&server)));
}

#[test]
fn one_server_on_smol() {
    let server = Server::start(Redis::volatile());
    on_smol(|rt| conforms(rt, single(&server)));
}

/// Batches of one, of a few, and trimming that trims nothing.
#[test]
fn small_batches_with_trimming() {
    let server = Server::start(Redis::durable());
    let config = single(&server).pipeline(3).max_len(1_000_000).max_age(std::time::Duration::from_secs(3600));
    on_smol(|rt| conforms(rt, config));
}

#[test]
fn a_cluster_on_tokio() {
    let nodes = cluster();
    let seeds = nodes.iter().map(|node| node.addr().to_string());
    on_tokio(|rt| conforms(rt, RedisConfig::cluster(seeds)));
    let used = nodes.iter().filter(|node| node.info("db0").is_some()).count();
    assert!(used > 1, "the shards are on {used} servers");
}

#[test]
fn a_cluster_on_smol() {
    let nodes = cluster();
    on_smol(|rt| conforms(rt, RedisConfig::cluster([nodes[2].addr().to_string()])));
}

#[test]
fn what_the_engine_forgot_is_told() {
    let server = Server::start(Redis::volatile());
    on_tokio(|rt| async {
        let forget = async |last: net_sdk::net::Position| {
            let next = format!("{}-{}", last.major, last.minor + 1);
            server.call(&["XTRIM", "net:shard:0", "MINID", "=", &next]);
        };
        losses(rt, Arc::new(RedisAdapter::new(single(&server))), forget).await;
    });
}
