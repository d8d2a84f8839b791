//! TLS, access control lists, a replicated pair under Sentinel, a Cluster that changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use net_proto::bus::Cursor;
use net_redis::{GroupOptions, RedisAdapter, RedisConfig, RedisGroup, RedisStreamDedup};
use net_sdk::net::PollRequest;
use net_sdk::{Net, SdkError};
use net_shell::bus::adapter::{Adapter, AdapterError};
use net_shell::bus::conformance::conformance;
use net_tests::lab::until;
use net_tests::servers::Server;
use net_tests::servers::redis::{Answer, Redis, cluster};

use crate::{batch, on_smol, on_tokio, push, single, soon, started, stored, unique};

const CA: &str = include_str!("../../src/servers/tls/ca.pem");
const ANOTHER: &str = include_str!("../../src/servers/tls/another-ca.pem");
const CERTIFICATE: &str = include_str!("../../src/servers/tls/server.pem");
const KEY: &str = include_str!("../../src/servers/tls/server.key");

fn with_tls() -> Redis {
    Redis::volatile().file("server.pem", CERTIFICATE).file("server.key", KEY).file("ca.pem", CA).tls(
        "server.pem",
        "server.key",
        "ca.pem",
    )
}

#[test]
fn tls_and_a_user_with_few_rights() {
    // Those that the guide names, and no others.
    let page = include_str!("../../../docs/REDIS.md");
    let rights = page.split('`').find(|part| part.starts_with("+type ")).expect("the rights");
    let server = Server::start(with_tls());
    let mut rule = vec!["ACL", "SETUSER", "bus", "on", ">secret", "~net:*"];
    rule.extend(rights.split_whitespace());
    assert_eq!(server.call(&rule), Answer::Text("OK".into()));
    let url = format!("rediss://bus:secret@127.0.0.1:{}", server.place().ports[1]);
    let config = RedisConfig::single(url.clone()).tls_roots(CA);
    on_tokio(|rt| conformance(rt, || Arc::new(RedisAdapter::new(config.clone()))));
    server.call(&["FLUSHALL"]);
    on_smol(|rt| conformance(rt, || Arc::new(RedisAdapter::new(config.clone().max_len(1 << 20)))));
    on_smol(|rt| async move {
        let extents = started(&rt, config).await.unwrap().extents(&[0]).await.unwrap();
        assert!(extents[0].events > Some(0), "{extents:?}");
        let stranger = RedisConfig::single(url).tls_roots(ANOTHER);
        let denied = started(&rt, stranger).await.unwrap_err();
        assert!(matches!(denied, AdapterError::Denied(_)), "{denied}");
        // A server that speaks no TLS.
        let plain = single(&server).tls_roots(CA).connect_timeout(Duration::from_millis(300));
        let error = started(&rt, plain).await.unwrap_err();
        assert!(matches!(error, AdapterError::Timeout(_)), "it waits for the end of a command: {error}");
    });
}

#[test]
fn a_server_that_wants_to_see_a_certificate() {
    let server = Server::start(with_tls().option("tls-auth-clients", "yes"));
    let address = format!("127.0.0.1:{}", server.place().ports[1]);
    on_smol(|rt| async move {
        let config = RedisConfig::single(address).tls_roots(CA);
        assert!(started(&rt, config.clone()).await.is_err());
        let adapter = started(&rt, config.tls_identity(CERTIFICATE, KEY)).await.unwrap();
        push(&mut adapter.open(0).await.unwrap(), batch(0, 1, 2000)).await.unwrap();
        assert_eq!(stored(&server, 0).len(), 2000);
    });
}

#[test]
fn whether_acknowledged_is_durable_is_asked() {
    let (durable, volatile) = (Server::start(Redis::durable()), Server::start(Redis::volatile()));
    on_tokio(|rt| async move {
        assert!(started(&rt, single(&durable)).await.unwrap().caps().durable);
        assert!(!started(&rt, single(&volatile)).await.unwrap().caps().durable);
    });
}

/// A master, a replica that has everything, and a Sentinel that knows both.
fn pair() -> (Server<Redis>, Server<Redis>, Server<Redis>) {
    let master = Server::start(Redis::volatile().option("repl-diskless-sync-delay", "0"));
    let replica = Server::start(Redis::volatile().replica_of(master.addr()));
    until("the replica follows", || {
        (replica.info("master_link_status").as_deref() == Some("up")).then_some(())
    });
    let sentinel = Server::start(Redis::sentinel(master.addr(), 1));
    until("the Sentinel knows the replica", || match sentinel.call(&["SENTINEL", "REPLICAS", "net"]) {
        Answer::List(all) if !all.is_empty() => Some(()),
        _ => None,
    });
    (master, replica, sentinel)
}

fn promoted(replica: &Server<Redis>) {
    until("the replica is promoted", || (replica.info("role").as_deref() == Some("master")).then_some(()));
}

async fn bus(config: RedisConfig) -> Net {
    let runtime = net_sdk::rt::current().expect("entered");
    let builder = Net::builder().shards(1).runtime(runtime).adapter_timeout(Duration::from_millis(500));
    soon("build", builder.redis(config.command_timeout(Duration::from_secs(1))).build()).await.unwrap()
}

async fn flushed(bus: &Net) {
    soon("flush", async { while bus.flush().await.is_err() {} }).await;
}

/// Replication is asynchronous: what only the dead master had is gone although it was acknowledged.
/// The consumer sees that: its reader stands behind the end, and sequences are missing.
#[test]
fn what_a_failover_loses_is_reported() {
    let (mut master, replica, sentinel) = pair();
    on_tokio(|_| async {
        let bus = bus(RedisConfig::sentinel("net", [sentinel.addr().to_string()])).await;
        (0..50).for_each(|n| _ = bus.emit_raw(n.to_string()).unwrap());
        flushed(&bus).await;
        until("the replica has it", || (unique(&replica, 0).0.len() == 50).then_some(()));
        // From here on the replica hears nothing any more, and nobody notices.
        replica.pause();
        master.call(&["CLIENT", "KILL", "TYPE", "replica"]);
        (50..60).for_each(|n| _ = bus.emit_raw(n.to_string()).unwrap());
        soon("flush", bus.flush()).await.expect("acknowledged by the master alone");
        let page = bus.poll(PollRequest::new()).await.unwrap();
        assert_eq!(page.events.len(), 60);
        master.kill();
        replica.resume();
        promoted(&replica);
        let at = page.cursor;
        let error = soon("poll", async {
            loop {
                match bus.poll(PollRequest::new().cursor(at.clone())).await.expect_err("set back") {
                    // The Sentinel needs a moment to name the new master.
                    SdkError::Adapter(AdapterError::Connection(_)) => {}
                    other => return other,
                }
            }
        })
        .await;
        assert!(matches!(error, SdkError::Adapter(AdapterError::Gone(_))), "{error}");
        (60..70).for_each(|n| _ = bus.emit_raw(n.to_string()).unwrap());
        flushed(&bus).await;
        let page = bus.poll(PollRequest::new().cursor(at)).await.unwrap();
        assert_eq!(page.events.len(), 10, "who saw them goes on");
        let mut seen = RedisStreamDedup::new();
        let page = bus.poll(PollRequest::new().cursor(Cursor::new())).await.unwrap();
        let n = page.events.iter().filter(|e| !seen.is_duplicate_id(&e.id.unwrap())).count();
        assert_eq!((n, seen.missing()), (60, 10), "who did not see them can count what is missing");
    });
}

/// With `WAIT` an event is acknowledged when the replica has it; a failover then loses nothing.
#[test]
fn with_replicas_a_failover_loses_nothing_that_was_acknowledged() {
    let (mut master, replica, sentinel) = pair();
    on_smol(|_| async {
        let bus = bus(RedisConfig::sentinel("net", [sentinel.addr().to_string()]).replicas(1)).await;
        (0..50).for_each(|n| _ = bus.emit_raw(n.to_string()).unwrap());
        flushed(&bus).await;
        assert_eq!(unique(&replica, 0).0.len(), 50);
        replica.pause();
        master.call(&["CLIENT", "KILL", "TYPE", "replica"]);
        (50..60).for_each(|n| _ = bus.emit_raw(n.to_string()).unwrap());
        let error = soon("flush", async {
            loop {
                // The limit of this flush is shorter than the server's wait for replicas.
                match bus.flush().await.expect_err("no replica has it") {
                    SdkError::Unconfirmed { why: None } => {}
                    other => return other,
                }
            }
        })
        .await;
        assert!(matches!(&error, SdkError::Unconfirmed { why: Some(AdapterError::Timeout(_)) }), "{error}");
        master.kill();
        replica.resume();
        promoted(&replica);
        // The new master has no replica of its own, so nothing can be acknowledged until one comes.
        let third = Server::start(Redis::volatile().replica_of(replica.addr()));
        flushed(&bus).await;
        let (once, _) = unique(&replica, 0);
        assert_eq!(once, (0..60).map(|n| n.to_string()).collect::<Vec<_>>());
        drop(third);
    });
}

/// What was given to a consumer, and what was done, the new master may not know: then it comes again.
#[test]
fn a_group_goes_on_after_a_failover() {
    let (mut master, replica, sentinel) = pair();
    on_tokio(|rt| async {
        let config = RedisConfig::sentinel("net", [sentinel.addr().to_string()]);
        let config = config.command_timeout(Duration::from_secs(1));
        let adapter = started(&rt, config.clone()).await.unwrap();
        push(&mut adapter.open(0).await.unwrap(), batch(0, 1, 100)).await.unwrap();
        let options = GroupOptions::new("workers", "a", [0]);
        let group = RedisGroup::join(&config, rt, options).await.unwrap();
        until("the replica has the group", || {
            let known = replica.call(&["XINFO", "GROUPS", "net:shard:0"]);
            matches!(known, Answer::List(groups) if !groups.is_empty()).then_some(())
        });
        let (mut seen, mut again) = (BTreeSet::new(), false);
        soon("all events", async {
            while seen.len() < 100 {
                let wait = Duration::from_millis(200);
                let work = if again { group.unfinished(10).await } else { group.next(10, wait).await };
                let done = match work {
                    Ok(some) => {
                        again &= !some.is_empty();
                        let at = some.iter().map(|event| (event.shard, event.position));
                        group.ack(at).await.map(|_| some)
                    }
                    Err(error) => Err(error),
                };
                match done {
                    Ok(some) => seen.extend(some.iter().map(|event| event.id.unwrap().seq)),
                    Err(error) => {
                        assert!(error.is_retryable(), "{error}");
                        again = true;
                        net_sdk::rt::sleep(Duration::from_millis(5)).await;
                    }
                }
                if seen.len() >= 40 && master.is_running() {
                    master.kill();
                }
            }
        })
        .await;
        assert_eq!(seen, (1..=100).collect());
        assert!(!master.is_running() && replica.info("role").as_deref() == Some("master"));
    });
}

#[test]
fn a_slot_moves_to_another_member_of_the_cluster() {
    let nodes = cluster();
    on_tokio(|_| async {
        let config = RedisConfig::cluster([nodes[0].addr().to_string()]);
        let runtime = net_sdk::rt::current().expect("entered");
        let bus = Net::builder().shards(3).runtime(runtime).redis(config).build().await.unwrap();
        let emit = |range: std::ops::Range<u64>| {
            range.for_each(|n| _ = bus.emit_to((n % 3) as u16, n.to_string()).unwrap())
        };
        emit(0..300);
        flushed(&bus).await;
        // The slot of one shard, with its stream, goes to the next member.
        let Answer::Number(slot) = nodes[0].call(&["CLUSTER", "KEYSLOT", "net:shard:0"]) else { panic!() };
        let owner =
            (0..3).find(|n| matches!(nodes[*n].call(&["XLEN", "net:shard:0"]), Answer::Number(_))).unwrap();
        let (from, to) = (&nodes[owner], &nodes[(owner + 1) % 3]);
        let id = |node: &Server<Redis>| match node.call(&["CLUSTER", "MYID"]) {
            Answer::Text(id) => id,
            other => panic!("{other:?}"),
        };
        let (slot, from_id, to_id) = (slot.to_string(), id(from), id(to));
        to.call(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        from.call(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
        emit(300..600);
        let port = to.port().to_string();
        let moved = from.call(&["MIGRATE", "127.0.0.1", &port, "net:shard:0", "0", "5000"]);
        assert_eq!(moved, Answer::Text("OK".into()));
        emit(600..900);
        for node in &nodes {
            node.call(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
        flushed(&bus).await;
        let (once, _) = unique(to, 0);
        assert_eq!(once, (0..900).filter(|n| n % 3 == 0).map(|n| n.to_string()).collect::<Vec<_>>());
        let page = bus.poll(PollRequest::new().limit(2000).cursor(Cursor::new())).await.unwrap();
        assert!(page.events.len() >= 900, "{}", page.events.len());
    });
}
