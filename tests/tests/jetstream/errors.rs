//! What goes wrong has a name, and nothing is swallowed.

use super::*;

use async_nats::jetstream::stream;
use net_sdk::SdkError;
use net_sdk::net::{AdapterError, Cursor, PollRequest, Result};

async fn refused(options: JetStream) -> AdapterError {
    match soon("build", Net::builder().shards(1).jetstream(options).build()).await {
        Err(SdkError::Adapter(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Waits until the link fails with this kind of error.
async fn fails(bus: &Net, what: &str, kind: impl Fn(&AdapterError) -> bool) {
    until(what, async || bus.bus().link_error().filter(&kind)).await;
}

async fn flushed(bus: &Net) -> Result<()> {
    soon("flush", bus.flush()).await.map(|_| ())
}

#[test]
fn wrong_credentials_are_denied() {
    let server = Server::start(Nats::new().line("authorization { user: me, password: right }"));
    on_smol(async |_| {
        let here = || impatient(&server);
        assert!(matches!(refused(here()).await, AdapterError::Denied(_)));
        assert!(matches!(refused(here().user("me", "wrong")).await, AdapterError::Denied(_)));
        assert!(matches!(refused(here().token("right")).await, AdapterError::Denied(_)));
        let bus = bus(here().user("me", "right")).await;
        bus.health().await.expect("healthy");
        soon("shutdown", bus.shutdown()).await;
        let addressed = format!("nats://me:right@{}", server.addr());
        soon("shutdown", super::bus(JetStream::new(addressed)).await.shutdown()).await;
    });
}

#[test]
fn rights_that_are_missing_are_named() {
    let server = Server::start(Nats::new().line(
        "authorization { users: [ { user: reader, password: x, permissions: { publish: { deny: \"net.shard.>\" } } },
           { user: nobody, password: x, permissions: { publish: { deny: \"$JS.API.STREAM.CREATE.>\" } } },
           { user: admin, password: x } ] }",
    ));
    on_tokio(async |_| {
        let denied = refused(impatient(&server).user("nobody", "x")).await;
        assert!(matches!(&denied, AdapterError::Denied(text) if text.contains("STREAM.CREATE")), "{denied}");
        let bus = bus(impatient(&server).user("reader", "x")).await;
        bus.emit_raw(b"kept").expect("room");
        fails(&bus, "a denial", |e| matches!(e, AdapterError::Denied(text) if text.contains("net.shard.0")))
            .await;
        assert_eq!(bus.stats().ledger.queued, 1, "it is kept");
        drop(bus);
    });
}

#[test]
fn tls_is_checked_on_both_sides() {
    let server = Server::start(Nats::new().tls(true));
    let file = |name: &str| net_tests::root().join("tests/data/tls").join(name);
    on_smol(async |_| {
        let here =
            || JetStream::new(format!("tls://{}", server.addr())).connect_timeout(Duration::from_secs(2));
        let stranger = refused(here()).await;
        assert!(matches!(&stranger, AdapterError::Denied(text) if text.contains("TLS")), "{stranger}");
        let without = refused(here().root_certificates(file("ca.pem"))).await;
        assert!(!matches!(without, AdapterError::Config(_)), "{without}");
        let options = here()
            .root_certificates(file("ca.pem"))
            .client_certificate(file("client.pem"), file("client.key"))
            .require_tls();
        let bus = bus(options).await;
        bus.emit_raw(b"secret").expect("room");
        flushed(&bus).await.expect("flushed");
        assert_eq!(bus.poll(PollRequest::new()).await.expect("a page").events.len(), 1);
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn what_the_server_cannot_do_fails_the_build() {
    let (server, plain) = (Server::start(Nats::new()), Server::start(Nats::new().plain()));
    on_tokio(async |_| {
        let three = refused(impatient(&server).replicas(3)).await;
        assert!(matches!(three, AdapterError::Config(_)), "{three}");
        let missing = refused(impatient(&server).existing_streams()).await;
        assert!(matches!(missing, AdapterError::Gone(_)), "{missing}");
        let none = refused(impatient(&plain)).await;
        assert!(matches!(&none, AdapterError::Connection(text) if text.contains("not enabled")), "{none}");
        let nobody = refused(JetStream::new("nats://127.0.0.1:1")).await;
        assert!(matches!(nobody, AdapterError::Connection(_)), "{nobody}");
        let nonsense = refused(JetStream::new("not an address")).await;
        assert!(matches!(nonsense, AdapterError::Config(_)), "{nonsense}");
    });
}

#[test]
fn poison_configuration_is_refused_before_anybody_is_asked() {
    let one = || JetStream::new("nats://127.0.0.1:1");
    let poison = [
        ("prefix", one().prefix("")),
        ("prefix", one().prefix("a.b")),
        ("replicas", one().replicas(0)),
        ("in_flight", one().in_flight(0)),
        ("max_messages", one().max_messages(0)),
        ("max_bytes", one().max_bytes(u64::MAX)),
        ("max_age", one().max_age(Duration::MAX)),
        ("max_age", one().max_age(Duration::ZERO)),
        ("duplicate_window", one().duplicate_window(Duration::MAX)),
        ("request_timeout", one().request_timeout(Duration::ZERO)),
        ("connect_timeout", one().connect_timeout(Duration::MAX)),
        ("discard_new", one().discard_new()),
        ("address", one().server("")),
    ];
    on_tokio(async |_| {
        for (named, options) in poison {
            let why = refused(options).await;
            assert!(matches!(&why, AdapterError::Config(text) if text.contains(named)), "{named}: {why}");
        }
        for (name, ack_wait) in [("w", Duration::ZERO), ("w", Duration::MAX), ("a b", Duration::from_secs(1))]
        {
            let opened = net_sdk::nats::Durable::open(one(), name, ack_wait).await;
            assert!(matches!(&opened, Err(AdapterError::Config(_))), "{name}: {opened:?}");
        }
    });
}

#[test]
fn streams_of_somebody_else_are_left_alone() {
    let server = Server::start(Nats::new());
    admin(&server.url(), |js| async move {
        let create = async |name: &str, subjects: &str, config: stream::Config| {
            let subjects = vec![subjects.to_owned()];
            js.create_stream(stream::Config { name: name.into(), subjects, ..config })
                .await
                .expect("created");
        };
        let config = stream::Config::default;
        create("a_shard_0", "other.>", config()).await;
        create("theirs", "b.>", config()).await;
        let queue = stream::RetentionPolicy::WorkQueue;
        create("c_shard_0", "c.shard.0.*", stream::Config { retention: queue, ..config() }).await;
        create("d_shard_0", "d.shard.0.*", stream::Config { max_message_size: 1000, ..config() }).await;
    });
    on_smol(async |_| {
        for (prefix, named) in [("a", "subjects"), ("b", "overlap"), ("c", "retention"), ("d", "1000")] {
            let why = refused(impatient(&server).prefix(prefix)).await;
            assert!(matches!(&why, AdapterError::Conflict(text) if text.contains(named)), "{prefix}: {why}");
        }
        let built = Net::builder().shards(1).max_event(400).jetstream(impatient(&server).prefix("d")).build();
        soon("shutdown", built.await.expect("it fits").shutdown()).await;
    });
}

#[test]
fn a_full_stream_says_so_and_takes_the_rest_later() {
    let server = Server::start(Nats::new());
    on_tokio(async |_| {
        let bus = bus(impatient(&server).max_messages(100).discard_new()).await;
        (0..150u32).for_each(|n| _ = bus.emit_raw(n.to_le_bytes()).expect("room"));
        fails(&bus, "full", |e| matches!(e, AdapterError::Full(_))).await;
        until("the first hundred", async || (bus.stats().ledger.delivered == 100).then_some(())).await;
        assert_eq!(bus.stats().ledger.queued, 50);
        let page = bus.poll(PollRequest::new().limit(1000)).await.expect("a page");
        assert_eq!(page.events.len(), 100);
        admin(&server.url(), |js| async move {
            js.get_stream("net_shard_0").await.expect("the stream").purge().await.expect("purged");
        });
        flushed(&bus).await.expect("flushed");
        let page = bus.poll(PollRequest::new().cursor(page.cursor).limit(1000)).await.expect("a page");
        let numbers = page.events.iter().map(|e| u32::from_le_bytes(e.raw[..].try_into().expect("a number")));
        assert!(numbers.eq(100..150) && page.lost.is_empty());
        soon("shutdown", bus.shutdown()).await;
    });
}

/// By bytes of the stream, and by what the whole server may keep, on its disk and in its memory.
#[test]
fn a_server_without_room_says_so_and_takes_the_rest_later() {
    let room = "max_file_store: 200000, max_memory_store: 200000";
    let small =
        Nats::new().plain().line(&format!("jetstream {{ store_dir: \"{{dir}}/jetstream\", {room} }}"));
    let servers = [Nats::new(), small.clone(), small].map(Server::start);
    on_smol(async |_| {
        let options = [
            impatient(&servers[0]).max_bytes(100_000).discard_new(),
            impatient(&servers[1]),
            impatient(&servers[2]).memory(),
        ];
        for (server, options) in servers.iter().zip(options) {
            let bus = bus(options).await;
            (0..300u32).for_each(|n| _ = bus.emit_raw([n.to_le_bytes(); 250].concat()).expect("room"));
            fails(&bus, "full", |e| matches!(e, AdapterError::Full(_))).await;
            let (mut seen, mut cursor) = (Vec::new(), Cursor::new());
            until("the rest", async || {
                let page =
                    bus.poll(PollRequest::new().cursor(cursor.clone()).limit(1000)).await.expect("a page");
                assert!(page.events.len() < 300, "it was full");
                seen.extend(page.events.iter().map(|e| e.raw[..4].to_vec()));
                cursor = page.cursor;
                // Each time that there is room again, more comes.
                if let Some(last) = page.events.last().map(|e| e.position.minor) {
                    admin(&server.url(), move |js| async move {
                        let stream = js.get_stream("net_shard_0").await.expect("the stream");
                        stream.purge().sequence(last + 1).await.expect("purged");
                    });
                }
                (bus.stats().ledger.queued == 0 && page.events.is_empty()).then_some(())
            })
            .await;
            assert_eq!(seen, (0..300u32).map(|n| n.to_le_bytes().to_vec()).collect::<Vec<_>>());
            soon("shutdown", bus.shutdown()).await;
        }
    });
}

/// Within its time an answer may take as long as it likes.
#[test]
fn a_slow_server_is_waited_for() {
    let server = Server::start(Nats::new());
    on_tokio(async |_| {
        let bus = bus(JetStream::new(server.url()).request_timeout(Duration::from_secs(50))).await;
        server.pause();
        (0..200u32).for_each(|n| _ = bus.emit_raw(n.to_le_bytes()).expect("room"));
        let flush = bus.flush();
        let late = async {
            net_sdk::rt::sleep(Duration::from_millis(300)).await;
            assert_eq!(bus.stats().ledger.delivered, 0, "it answers nothing yet");
            server.resume();
        };
        let (flushed, ()) = tokio::join!(flush, late);
        assert!(flushed.is_ok() && bus.bus().link_error().is_none() && bus.bus().resent() == 0);
        let page = bus.poll(PollRequest::new().limit(1000)).await.expect("a page");
        assert_eq!(page.events.len(), 200, "each once");
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn a_paused_server_is_a_timeout_and_loses_nothing() {
    let server = Server::start(Nats::new());
    on_smol(async |_| {
        let options = JetStream::new(server.url()).request_timeout(Duration::from_millis(200));
        let bus = bus(options).await;
        bus.emit_raw(b"before").expect("room");
        flushed(&bus).await.expect("flushed");
        server.pause();
        (0..200u32).for_each(|n| _ = bus.emit_raw(n.to_le_bytes()).expect("room"));
        fails(&bus, "a timeout", |e| matches!(e, AdapterError::Timeout(_))).await;
        assert!(bus.health().await.is_err());
        assert!(matches!(
            bus.poll(PollRequest::new()).await,
            Err(SdkError::Adapter(AdapterError::Timeout(_)))
        ));
        server.resume();
        flushed(&bus).await.expect("flushed");
        let page = bus.poll(PollRequest::new().limit(1000)).await.expect("a page");
        assert_eq!(page.events.len(), 201, "each once");
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn a_stream_that_is_gone_is_told_and_events_wait_for_it() {
    let server = Server::start(Nats::new());
    let create = |js: async_nats::jetstream::Context| async move {
        let config = stream::Config {
            name: "net_shard_0".into(),
            subjects: vec!["net.shard.0.*".into()],
            num_replicas: 1,
            ..Default::default()
        };
        js.create_stream(config).await.expect("created");
    };
    admin(&server.url(), create);
    on_tokio(async |_| {
        let bus = bus(impatient(&server).existing_streams()).await;
        bus.emit_raw(b"first").expect("room");
        flushed(&bus).await.expect("flushed");
        admin(&server.url(), |js| async move {
            js.delete_stream("net_shard_0").await.expect("deleted");
        });
        bus.emit_raw(b"second").expect("room");
        fails(&bus, "gone", |e| matches!(e, AdapterError::Gone(_))).await;
        assert_eq!(bus.stats().ledger.queued, 1);
        admin(&server.url(), create);
        flushed(&bus).await.expect("flushed");
        let page = bus.poll(PollRequest::new()).await.expect("a page");
        assert_eq!(page.events.iter().map(|e| &e.raw[..]).collect::<Vec<_>>(), [b"second"]);
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn an_event_that_is_too_long_is_refused_before_anything_is_sent() {
    let server = Server::start(Nats::new().line("max_payload: 10000"));
    on_smol(async |_| {
        let bus = bus(JetStream::new(server.url())).await;
        let limit = bus.bus().config().max_event;
        assert!((9000..10_000).contains(&limit), "{limit}");
        let refused = bus.emit_raw(vec![0; limit as usize + 1]).expect_err("too long");
        assert!(matches!(refused, SdkError::TooLarge { .. }), "{refused}");
        bus.emit_raw(vec![1; limit as usize]).expect("room");
        bus.emit_raw(b"").expect("room");
        flushed(&bus).await.expect("flushed");
        let page = bus.poll(PollRequest::new()).await.expect("a page");
        assert_eq!(page.events.iter().map(|e| e.raw.len()).collect::<Vec<_>>(), [limit as usize, 0]);
        let above = Net::builder().shards(1).max_event(20_000).jetstream(JetStream::new(server.url()));
        assert!(matches!(above.build().await, Err(SdkError::Limit { what: "max_event", .. })));
        soon("shutdown", bus.shutdown()).await;
    });
}
