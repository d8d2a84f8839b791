//! Whatever a server does, it comes as an error that says what it is; and once it is over, everything
//! arrives.

use std::time::Duration;

use net_redis::RedisConfig;
use net_sdk::net::PollRequest;
use net_sdk::{Net, SdkError};
use net_shell::bus::adapter::{Adapter, AdapterError};
use net_tests::servers::Server;
use net_tests::servers::redis::{Answer, Redis};

use crate::{batch, on_smol, on_tokio, push, single, soon, started, unique};

async fn bus(config: RedisConfig) -> Result<Net, SdkError> {
    let builder = Net::builder().shards(1).runtime(net_sdk::rt::current().expect("entered"));
    soon("build", builder.adapter_timeout(Duration::from_millis(300)).redis(config).build()).await
}

/// Flushes until the engine has everything.
async fn flushed(bus: &Net) {
    soon("flush", async { while bus.flush().await.is_err() {} }).await;
}

fn numbers(n: u64) -> Vec<String> {
    (0..n).map(|n| n.to_string()).collect()
}

#[test]
fn wrong_credentials() {
    let server = Server::start(Redis::volatile().password("right"));
    server.call(&["ACL", "SETUSER", "reader", "on", ">r", "~*", "+@all", "-xadd"]);
    on_tokio(|_| async {
        for config in
            [single(&server), single(&server).password("wrong"), single(&server).username("no").password("r")]
        {
            let denied = bus(config).await.expect_err("not let in");
            assert!(matches!(denied, SdkError::Adapter(AdapterError::Denied(_))), "{denied}");
        }
        // Let in, but not to write.
        let bus = bus(single(&server).username("reader").password("r")).await.expect("let in");
        for n in 0..5 {
            bus.emit_raw(n.to_string()).unwrap();
        }
        let error = soon("flush", bus.flush()).await.expect_err("not written");
        assert!(matches!(&error, SdkError::Unconfirmed { why: Some(AdapterError::Denied(_)) }), "{error}");
        // Rights can be given while the bus holds the events.
        server.call(&["ACL", "SETUSER", "reader", "+xadd"]);
        flushed(&bus).await;
        assert_eq!(unique(&server, 0), (numbers(5), 0));
        // Another password, for the next connection.
        server.call(&["ACL", "SETUSER", "reader", "resetpass", ">other"]);
        server.call(&["CLIENT", "KILL", "USER", "reader"]);
        bus.emit_raw("5").unwrap();
        let denied = soon("denial", async {
            loop {
                match bus.flush().await {
                    // The connection broke first.
                    Err(SdkError::Unconfirmed { why: None | Some(AdapterError::Connection(_)) }) => {}
                    other => return other,
                }
            }
        })
        .await;
        assert!(
            matches!(&denied, Err(SdkError::Unconfirmed { why: Some(AdapterError::Denied(_)) })),
            "{denied:?}"
        );
        let health = bus.health().await.expect_err("not let in");
        assert!(matches!(health, SdkError::Adapter(AdapterError::Denied(_))), "{health}");
        server.call(&["ACL", "SETUSER", "reader", ">r"]);
        flushed(&bus).await;
        assert_eq!(unique(&server, 0), (numbers(6), 0));
        assert_eq!(soon("shutdown", bus.shutdown()).await.lost, 0);
    });
}

#[test]
fn something_else_is_at_the_key() {
    let server = Server::start(Redis::volatile());
    on_smol(|_| async {
        server.call(&["SET", "net:shard:0", "mine"]);
        let bus = bus(single(&server)).await.unwrap();
        bus.emit_raw("0").unwrap();
        let error = soon("flush", bus.flush()).await.expect_err("not written");
        assert!(matches!(&error, SdkError::Unconfirmed { why: Some(AdapterError::Conflict(_)) }), "{error}");
        let error = bus.poll(Default::default()).await.expect_err("not readable");
        assert!(matches!(error, SdkError::Adapter(AdapterError::Conflict(_))), "{error}");
        assert_eq!(server.call(&["GET", "net:shard:0"]), Answer::Text("mine".into()), "left as it was");
        server.call(&["DEL", "net:shard:0"]);
        flushed(&bus).await;
        // While a link is open.
        server.call(&["DEL", "net:shard:0"]);
        server.call(&["SET", "net:shard:0", "mine again"]);
        bus.emit_raw("1").unwrap();
        let error = soon("flush", bus.flush()).await.expect_err("not written");
        assert!(matches!(&error, SdkError::Unconfirmed { why: Some(AdapterError::Conflict(_)) }), "{error}");
        assert_eq!(soon("shutdown", bus.shutdown()).await.lost, 1, "what it could not write is told");
    });
}

/// Also where the numbers of all shards are kept.
#[test]
fn something_else_is_at_the_directory() {
    let server = Server::start(Redis::volatile());
    on_tokio(|_| async {
        server.call(&["SET", "net:shards", "mine"]);
        let bus = bus(single(&server)).await.unwrap();
        bus.emit_raw("0").unwrap();
        let error = soon("flush", bus.flush()).await.expect_err("not written");
        assert!(matches!(&error, SdkError::Unconfirmed { why: Some(AdapterError::Conflict(_)) }), "{error}");
        assert_eq!(server.call(&["GET", "net:shards"]), Answer::Text("mine".into()), "left as it was");
        server.call(&["DEL", "net:shards"]);
        flushed(&bus).await;
        assert_eq!(unique(&server, 0), (numbers(1), 0));
    });
}

/// Entries are named by the server's clock. One that was ahead and is set right, and one that is set back, change
/// nothing for a reader: what comes later lies behind.
#[test]
fn the_clock_of_the_server_jumps() {
    let server = Server::start(Redis::volatile());
    on_smol(|_| async {
        let bus = bus(single(&server)).await.unwrap();
        let mut sub = bus.subscribe().await.unwrap();
        let mut cursor = bus.poll(PollRequest::new()).await.unwrap().cursor;
        for (n, ahead) in [(0, 0), (1, 3_600_000), (2, 0), (3, 10 * 3_600_000)] {
            if ahead > 0 {
                // What the server itself would write with a clock that is ahead.
                let at = format!("{}-*", millis(&server) + ahead);
                let made = server.call(&["XADD", "net:shard:0", &at, "d", "of another"]);
                assert!(matches!(made, Answer::Text(_)), "{made:?}");
            }
            (0..20).for_each(|m| _ = bus.emit_raw((n * 20 + m).to_string()).unwrap());
            flushed(&bus).await;
            let want: Vec<_> = (n * 20..n * 20 + 20).map(|n| n.to_string()).collect();
            let mut read = Vec::new();
            while read.len() < want.len() {
                let event = soon("event", sub.next()).await.unwrap().unwrap().into_event();
                read.extend(event.filter(|e| e.id.is_some()).map(|e| e.raw));
            }
            assert_eq!(read, want, "nothing is lost, and nothing comes twice");
            let page = bus.poll(PollRequest::new().cursor(cursor)).await.unwrap();
            let polled = page.events.into_iter().filter(|e| e.id.is_some()).map(|e| e.raw);
            assert!(polled.eq(want) && page.lost.is_empty());
            cursor = page.cursor;
        }
    });
}

/// Behind the last name that there is nothing can be written: that is somebody else's doing, and is said.
#[test]
fn a_stream_that_has_no_names_left() {
    let server = Server::start(Redis::volatile());
    on_tokio(|_| async {
        let bus = bus(single(&server)).await.unwrap();
        bus.emit_raw("0").unwrap();
        flushed(&bus).await;
        server.call(&["XADD", "net:shard:0", &format!("{0}-{0}", u64::MAX), "d", "the last"]);
        for events in [1, 30] {
            (0..events).for_each(|n| _ = bus.emit_raw(n.to_string()).unwrap());
            let error = soon("flush", bus.flush()).await.expect_err("not written");
            assert!(
                matches!(&error, SdkError::Unconfirmed { why: Some(AdapterError::Conflict(_)) }),
                "{error}"
            );
        }
        server.call(&["DEL", "net:shard:0"]);
        flushed(&bus).await;
        assert_eq!(server.call(&["XLEN", "net:shard:0"]), Answer::Number(31));
    });
}

fn millis(server: &Server<Redis>) -> u64 {
    let Answer::List(time) = server.call(&["TIME"]) else { panic!("no time") };
    let part = |n: usize| match &time[n] {
        Answer::Text(text) => text.parse::<u64>().unwrap(),
        other => panic!("{other:?}"),
    };
    part(0) * 1000 + part(1) / 1000
}

#[test]
fn a_stream_is_removed() {
    let server = Server::start(Redis::volatile());
    on_tokio(|rt| async move {
        let adapter = started(&rt, single(&server)).await.unwrap();
        for events in [1, 3] {
            let mut link = adapter.open(0).await.unwrap();
            push(&mut link, batch(0, 1, events)).await.unwrap();
            let at = adapter.tail(&[0]).await.unwrap()[0].1;
            server.call(&["DEL", "net:shard:0"]);
            let gone = push(&mut link, batch(0, 1 + events, events)).await.unwrap_err();
            assert!(matches!(gone, AdapterError::Gone(_)), "{gone}");
            let gone = adapter.read(&[(0, Some(at))], 10, Duration::ZERO).await.unwrap_err();
            assert!(matches!(gone, AdapterError::Gone(_)), "{gone}");
            // Made anew: the reader is told of what lies between.
            let mut link = adapter.open(0).await.unwrap();
            let gone = adapter.read(&[(0, Some(at))], 10, Duration::ZERO).await.unwrap_err();
            assert!(matches!(gone, AdapterError::Gone(_)), "{gone}");
            // Entries are named by the millisecond: a stream made anew in the same one repeats names.
            net_tests::lab::until("the next millisecond", || (millis(&server) > at.major).then_some(()));
            push(&mut link, batch(0, 1 + events, events)).await.unwrap();
            let pages = adapter.read(&[(0, Some(at))], 10, Duration::from_secs(1)).await.unwrap();
            assert_eq!((pages[0].events.len() as u64, pages[0].lost.map(|l| l.0)), (events, Some(at)));
            server.call(&["DEL", "net:shard:0"]);
        }
    });
}

#[test]
fn out_of_memory() {
    let server = Server::start(Redis::volatile());
    on_smol(|_| async {
        let bus = bus(single(&server).pipeline(10)).await.unwrap();
        bus.emit_raw("0").unwrap();
        flushed(&bus).await;
        server.call(&["CONFIG", "SET", "maxmemory", "100kb"]);
        for n in 1..500u64 {
            bus.emit_raw(n.to_string()).unwrap();
        }
        let error = soon("flush", bus.flush()).await.expect_err("not written");
        assert!(matches!(&error, SdkError::Unconfirmed { why: Some(AdapterError::Full(_)) }), "{error}");
        server.call(&["CONFIG", "SET", "maxmemory", "0"]);
        flushed(&bus).await;
        assert_eq!(unique(&server, 0), (numbers(500), 0), "refused as a whole: no duplicates either");
    });
}

/// A server whose last snapshot failed takes no writes (`stop-writes-on-bgsave-error`). What it has can be read.
#[test]
fn a_snapshot_that_failed() {
    let server = Server::start(Redis::volatile());
    server.call(&["CONFIG", "SET", "save", "3600 1"]);
    // A file cannot take the place of a folder.
    let at = server.place().dir.join("dump.rdb");
    let snapshot = |want: &str| {
        net_tests::lab::until("a snapshot", || {
            // Refused while another is made.
            server.call(&["BGSAVE"]);
            (server.info("rdb_last_bgsave_status").as_deref() == Some(want)).then_some(())
        });
    };
    on_tokio(|_| async {
        let bus = bus(single(&server).pipeline(10)).await.unwrap();
        let mut sub = bus.subscribe().await.unwrap();
        bus.emit_raw("0").unwrap();
        flushed(&bus).await;
        std::fs::create_dir(&at).unwrap();
        snapshot("err");
        (1..100).for_each(|n| _ = bus.emit_raw(n.to_string()).unwrap());
        let error = soon("flush", bus.flush()).await.expect_err("not written");
        let SdkError::Unconfirmed { why: Some(AdapterError::Full(why)) } = &error else { panic!("{error}") };
        assert!(why.starts_with("MISCONF") && error.is_retryable(), "{error}");
        let error = bus.health().await.expect_err("it takes no writes");
        assert!(matches!(&error, SdkError::Adapter(AdapterError::Full(why)) if why.starts_with("MISCONF")));
        let page = bus.poll(PollRequest::new()).await.unwrap();
        assert_eq!(page.events.len(), 1);
        let ledger = bus.stats().ledger;
        assert_eq!((ledger.delivered, ledger.queued, ledger.lost.total()), (1, 99, 0));
        std::fs::remove_dir(&at).unwrap();
        snapshot("ok");
        flushed(&bus).await;
        assert_eq!(unique(&server, 0), (numbers(100), 0), "refused as a whole: no duplicates either");
        for n in numbers(100) {
            let event = soon("event", sub.next()).await.unwrap().unwrap().into_event().unwrap();
            assert_eq!(event.raw, n);
        }
        assert_eq!(soon("shutdown", bus.shutdown()).await.lost, 0);
    });
}

#[test]
fn too_few_replicas() {
    let server = Server::start(Redis::volatile().option("min-replicas-to-write", "1"));
    on_tokio(|_| async {
        let bus = bus(single(&server)).await.unwrap();
        bus.emit_raw("0").unwrap();
        let error = soon("flush", bus.flush()).await.expect_err("not written");
        assert!(matches!(&error, SdkError::Unconfirmed { why: Some(AdapterError::Full(_)) }), "{error}");
        server.call(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        flushed(&bus).await;
    });
}

#[test]
fn a_server_that_stands_still() {
    let server = Server::start(Redis::volatile());
    on_smol(|_| async {
        let bus = bus(single(&server)
            .command_timeout(Duration::from_millis(150))
            .connect_timeout(Duration::from_millis(150)))
        .await
        .unwrap();
        bus.emit_raw("0").unwrap();
        flushed(&bus).await;
        server.pause();
        for n in 1..30u64 {
            bus.emit_raw(n.to_string()).unwrap();
        }
        let error = soon("flush", bus.flush()).await.expect_err("not written");
        assert!(matches!(&error, SdkError::Unconfirmed { why: Some(AdapterError::Timeout(_)) }), "{error}");
        let error = soon("health", bus.health()).await.expect_err("no answer");
        assert!(matches!(error, SdkError::Adapter(AdapterError::Timeout(_))), "{error}");
        server.resume();
        flushed(&bus).await;
        let (once, _twice) = unique(&server, 0);
        assert_eq!(once, numbers(30));
        assert!(soon("health", bus.health()).await.is_ok());
    });
}

#[test]
fn a_slow_server_is_waited_for() {
    let server = Server::start(Redis::volatile());
    on_tokio(|rt| async move {
        let adapter = started(&rt, single(&server)).await.unwrap();
        let mut link = adapter.open(0).await.unwrap();
        // Answers come after that time, within the limit.
        server.call(&["CLIENT", "PAUSE", "300", "ALL"]);
        push(&mut link, batch(0, 1, 5)).await.unwrap();
        let short = started(&rt, single(&server).command_timeout(Duration::from_millis(100))).await.unwrap();
        drop(link);
        let mut link = short.open(0).await.unwrap();
        server.call(&["CLIENT", "PAUSE", "1000", "WRITE"]);
        let late = push(&mut link, batch(0, 6, 5)).await.unwrap_err();
        assert!(matches!(late, AdapterError::Timeout(_)), "{late}");
    });
}

#[test]
fn nobody_is_there_or_somebody_else() {
    on_smol(|rt| async move {
        let claim = net_tests::servers::ports::Claim::any();
        let config = RedisConfig::single(format!("127.0.0.1:{}", claim.port()));
        let error = bus(config).await.expect_err("nobody listens");
        assert!(matches!(error, SdkError::Adapter(AdapterError::Connection(_))), "{error}");
        let error = bus(RedisConfig::single("no-such-host.invalid")).await.expect_err("no such host");
        assert!(matches!(error, SdkError::Adapter(AdapterError::Connection(_))), "{error}");
        // A server of something else.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::Write::write_all(&mut stream, b"220 mail.example ESMTP\r\n").unwrap();
            stream
        });
        let error = started(&rt, RedisConfig::single(format!("127.0.0.1:{port}"))).await.unwrap_err();
        assert!(matches!(error, AdapterError::Protocol(_)), "{error}");
        drop(other.join().unwrap());
    });
}

#[test]
fn poison_configuration_is_refused_by_build() {
    on_tokio(|_| async {
        let one = || RedisConfig::single("127.0.0.1:1");
        for config in
            [one().pipeline(0), one().prefix("a\nb"), RedisConfig::cluster([""; 0]), RedisConfig::single("")]
        {
            let error = bus(config).await.expect_err("cannot work");
            assert!(matches!(error, SdkError::Adapter(AdapterError::Config(_))), "{error}");
        }
    });
}

#[test]
fn an_oversized_event_is_refused_before_anything_is_sent() {
    let server = Server::start(Redis::volatile());
    on_tokio(|_| async {
        let bus = bus(single(&server).max_event(100)).await.unwrap();
        let error = bus.emit_raw([0; 101]).expect_err("too long");
        assert!(matches!(error, SdkError::TooLarge { len: 101, limit: 100 }), "{error}");
        bus.emit_raw([0; 100]).unwrap();
        flushed(&bus).await;
        assert_eq!(server.call(&["XLEN", "net:shard:0"]), Answer::Number(1));
    });
}
