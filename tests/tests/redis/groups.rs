//! Consumer groups: what one consumer leaves, another takes over.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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

async fn takes_over(rt: Arc<dyn net_sdk::Runtime>, config: RedisConfig) {
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

/// What an answer that got lost had given to this consumer, it finds among its unfinished.
#[test]
fn a_group_goes_on_after_kills() {
    let mut server = Server::start(Redis::durable());
    on_smol(|rt| async move {
        let config = single(&server);
        let adapter = started(&rt, config.clone()).await.unwrap();
        push(&mut adapter.open(0).await.unwrap(), batch(0, 1, 200)).await.unwrap();
        let options = GroupOptions::new("workers", "a", [0]);
        let group = soon("join", RedisGroup::join(&config, rt, options)).await.unwrap();
        let (mut seen, mut kills, mut again) = (BTreeSet::new(), 0, false);
        while seen.len() < 200 {
            let work = if again { group.unfinished(10).await } else { group.next(10, WAIT).await };
            match work {
                Ok(some) => {
                    // Everything that it left is done.
                    again &= !some.is_empty();
                    if kills < 3 && seen.len() > 40 * (kills + 1) {
                        server.restart();
                        kills += 1;
                    }
                    match soon("ack", group.ack(done(&some))).await {
                        Ok(_) => seen.extend(some.iter().map(|e| e.id.unwrap().seq)),
                        Err(error) => {
                            assert!(error.is_retryable(), "{error}");
                            again = true;
                        }
                    }
                }
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    again = true;
                }
            }
        }
        assert_eq!((kills, seen), (3, (1..=200).collect()));
        assert_eq!(soon("unfinished", group.unfinished(10)).await, Ok(Vec::new()));
    });
}

/// Passes bytes between clients and a server, and breaks a connection instead of passing the next answer after
/// `swallow` was set.
fn between(server: std::net::SocketAddr, swallow: Arc<AtomicBool>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(server).unwrap();
            let (mut asks, mut asked) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut asks, &mut asked));
            let (swallow, mut server, mut client) = (swallow.clone(), server, client);
            std::thread::spawn(move || {
                let mut bytes = [0; 1 << 16];
                while let Ok(n @ 1..) = server.read(&mut bytes) {
                    if swallow.swap(false, Ordering::AcqRel) || client.write_all(&bytes[..n]).is_err() {
                        break;
                    }
                }
                _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            });
        }
    });
    here
}

/// The server gave events away and the answer never came: that is an error and no silence, as nobody else would
/// get them.
#[test]
fn events_whose_answer_got_lost_are_not_passed_over() {
    let server = Server::start(Redis::volatile());
    on_tokio(|rt| async move {
        let adapter = started(&rt, single(&server)).await.unwrap();
        push(&mut adapter.open(0).await.unwrap(), batch(0, 1, 20)).await.unwrap();
        let swallow = Arc::new(AtomicBool::new(false));
        let config = RedisConfig::single(between(server.addr(), swallow.clone()).to_string());
        let mut group = RedisGroup::join(&config, rt, GroupOptions::new("g", "c", [0])).await.unwrap();
        let seqs = |some: &[Delivery]| some.iter().map(|e| e.id.unwrap().seq).collect::<Vec<_>>();
        let first = soon("next", group.next(5, WAIT)).await.unwrap();
        group.ack(done(&first)).await.unwrap();
        swallow.store(true, Ordering::Release);
        let lost = soon("next", group.next(5, WAIT)).await.expect_err("no answer");
        assert!(matches!(lost, AdapterError::Connection(_)), "{lost}");
        let left = soon("unfinished", group.unfinished(10)).await.unwrap();
        assert_eq!(seqs(&left), [6, 7, 8, 9, 10]);
        swallow.store(true, Ordering::Release);
        assert!(soon("claim", group.claim(Duration::ZERO, 5)).await.is_err());
        assert_eq!(seqs(&soon("next", group.next(5, WAIT)).await.unwrap()), [11, 12, 13, 14, 15]);
    });
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
