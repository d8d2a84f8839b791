//! Cursors, and what a reader is told when something is gone.

use super::*;

use net_sdk::net::{AdapterError, Cursor, PollRequest, Position, ReadOptions};

async fn emit(bus: &Net, numbers: std::ops::Range<u32>) {
    numbers.for_each(|n| _ = bus.emit_raw(n.to_le_bytes()).expect("room"));
    soon("flush", bus.flush()).await.expect("flushed");
}

fn number(event: &StoredEvent) -> u32 {
    u32::from_le_bytes(event.raw[..].try_into().expect("a number"))
}

#[test]
fn a_cursor_goes_on_after_a_restart_of_both_sides() {
    let mut server = Server::start(Nats::new());
    on_smol(async |_| {
        let first = bus(JetStream::new(server.url())).await;
        emit(&first, 0..500).await;
        let page = first.poll(PollRequest::new().limit(200)).await.expect("a page");
        assert!(page.events.iter().map(number).eq(0..200) && page.has_more);
        let token = page.cursor.token();
        soon("shutdown", first.shutdown()).await;
        server.kill();
        server.restart();
        let second = bus(JetStream::new(server.url())).await;
        emit(&second, 500..510).await;
        let cursor = Cursor::from_token(&token).expect("a token");
        let page = second.poll(PollRequest::new().cursor(cursor.clone()).limit(1000)).await.expect("a page");
        assert!(page.events.iter().map(number).eq(200..510), "{}", page.events.len());
        assert!(page.lost.is_empty() && !page.has_more);
        let again = second.poll(PollRequest::new().cursor(page.cursor).limit(10)).await.expect("a page");
        assert!(again.events.is_empty(), "nothing is behind the end");
        let mut all = second.subscribe_with(ReadOptions::new().cursor(cursor)).await.expect("room");
        for n in 200..510 {
            assert_eq!(number(&event(&mut all).await), n);
        }
        emit(&second, 510..520).await;
        for n in 510..520 {
            assert_eq!(number(&event(&mut all).await), n);
        }
        soon("shutdown", second.shutdown()).await;
    });
}

#[test]
fn what_was_trimmed_is_told_as_lost() {
    let server = Server::start(Nats::new());
    on_tokio(async |_| {
        let bus = bus(JetStream::new(server.url()).max_messages(100)).await;
        emit(&bus, 0..50).await;
        let page = bus.poll(PollRequest::new().limit(10)).await.expect("a page");
        let at = page.events[9].position;
        emit(&bus, 50..300).await;
        let page = bus.poll(PollRequest::new().cursor(page.cursor).limit(1000)).await.expect("a page");
        assert_eq!(page.lost, [(0, at, Position::new(at.major, 200))]);
        assert!(page.events.iter().map(number).eq(200..300));
        // From the oldest there is nothing to miss.
        let page = bus.poll(PollRequest::new().limit(1000)).await.expect("a page");
        assert!(page.lost.is_empty() && page.events.len() == 100);
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn what_was_deleted_in_the_middle_is_told_where_it_was() {
    let server = Server::start(Nats::new());
    on_smol(async |_| {
        let bus = bus(JetStream::new(server.url())).await;
        emit(&bus, 0..10).await;
        admin(&server.url(), |js| async move {
            let stream = js.get_stream("net_shard_0").await.expect("the stream");
            for sequence in [4, 5, 9, 10] {
                stream.delete_message(sequence).await.expect("deleted");
            }
        });
        let page = bus.poll(PollRequest::new().limit(100)).await.expect("a page");
        assert!(page.events.iter().map(number).eq([0, 1, 2, 5, 6, 7]), "{:?}", page.events);
        let lost: Vec<_> = page.lost.iter().map(|(_, from, to)| (from.minor, to.minor)).collect();
        assert_eq!(lost, [(3, 5)], "the end is told when something follows");
        let mut all = bus.subscribe().await.expect("room");
        emit(&bus, 10..11).await;
        let mut seen = Vec::new();
        while seen.last() != Some(&(11, false)) {
            seen.push(match next(&mut all).await {
                Item::Event(event) => (event.position.minor, false),
                Item::Lost { to, .. } => (to.minor, true),
                other => panic!("{other:?}"),
            });
        }
        let events = [1, 2, 3, 6, 7, 8, 11].map(|n| (n, false));
        let mut want = events.to_vec();
        want.insert(3, (5, true));
        want.insert(7, (10, true));
        assert_eq!(seen, want);
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn a_stream_that_took_the_place_of_another_is_not_taken_for_it() {
    let server = Server::start(Nats::new());
    on_tokio(async |_| {
        let bus = bus(impatient(&server)).await;
        emit(&bus, 0..20).await;
        let mut all = bus.subscribe().await.expect("room");
        for n in 0..20 {
            assert_eq!(number(&event(&mut all).await), n);
        }
        let cursor = all.cursor();
        admin(&server.url(), |js| async move {
            js.delete_stream("net_shard_0").await.expect("deleted");
        });
        // The link finds it gone and makes another.
        emit(&bus, 20..25).await;
        let Item::Lost { from, to, .. } = next(&mut all).await else { panic!("told as lost") };
        assert_eq!(Some(from), cursor.get(0));
        assert!(to.major > from.major && to.minor == 0);
        for n in 20..25 {
            assert_eq!(number(&event(&mut all).await), n);
        }
        let page = bus.poll(PollRequest::new().cursor(cursor)).await.expect("a page");
        assert_eq!((page.lost.len(), page.events.len()), (1, 5));
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn a_stream_that_ends_before_its_reader_is_an_error() {
    let server = Server::start(Nats::new());
    on_smol(async |_| {
        let bus = bus(JetStream::new(server.url())).await;
        emit(&bus, 0..5).await;
        let page = bus.poll(PollRequest::new()).await.expect("a page");
        let beyond = Position { minor: 50, ..page.events[4].position };
        // As after a loss of power: the server gives the same sequences again.
        let cursor = Cursor::from_iter([(0, beyond)]);
        let why = bus.poll(PollRequest::new().cursor(cursor)).await.expect_err("not silence");
        assert!(why.to_string().contains("lost what it had acknowledged"), "{why}");
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn a_subscription_survives_the_server() {
    let mut server = Server::start(Nats::new());
    on_tokio(async |_| {
        let bus = bus(impatient(&server)).await;
        let mut all = bus.subscribe().await.expect("room");
        let mut expected = 0;
        for round in 1..=3u32 {
            emit(&bus, expected..round * 200).await;
            while expected < round * 200 {
                match soon("an item", all.next()).await.expect("no end") {
                    Ok(Item::Event(event)) => {
                        assert_eq!(number(&event), expected);
                        expected += 1;
                    }
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            server.kill();
            server.restart();
        }
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn what_others_wrote_is_read_without_a_name() {
    let server = Server::start(Nats::new());
    on_smol(async |_| {
        let bus = bus(JetStream::new(server.url())).await;
        admin(&server.url(), |js| async move {
            js.publish("net.shard.0.stranger", "hello".into()).await.expect("sent").await.expect("stored");
        });
        let mut all = bus.subscribe().await.expect("room");
        let found = event(&mut all).await;
        assert!(found.id.is_none() && found.stamp > 0 && &found.raw[..] == b"hello");
        soon("shutdown", bus.shutdown()).await;
    });
}

#[test]
fn a_durable_consumer_shares_events_and_brings_back_what_nobody_acknowledged() {
    let mut server = Server::start(Nats::new());
    on_smol(async |_| {
        let options = JetStream::new(server.url());
        let bus = bus(options.clone()).await;
        emit(&bus, 0..60).await;
        let wait = Duration::from_millis(500);
        let open = async || Durable::open(options.clone(), "workers", wait).await.expect("a consumer");
        let mut first = open().await;
        let mut done = std::collections::BTreeSet::new();
        for n in 0..20 {
            let delivery = soon("a delivery", first.next()).await.expect("a shard").expect("an event");
            assert_eq!((delivery.times, delivery.position.minor), (1, n + 1));
            // Every other one is forgotten.
            if n % 2 == 0 {
                done.insert(delivery.position.minor);
                delivery.ack().await.expect("noted");
            }
        }
        drop(first);
        server.stop();
        server.restart();
        let mut second = open().await;
        while done.len() < 60 {
            match soon("a delivery", second.next()).await.expect("a shard") {
                Ok(delivery) => {
                    assert!(
                        delivery.id.is_some() && !done.contains(&delivery.position.minor),
                        "{delivery:?}"
                    );
                    done.insert(delivery.position.minor);
                    delivery.ack().await.expect("noted");
                }
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
        assert!(matches!(Durable::open(options.clone(), "a b", wait).await, Err(AdapterError::Config(_))));
        soon("shutdown", bus.shutdown()).await;
    });
}

/// Kills take at most what was not noted: that comes again.
#[test]
fn a_durable_consumer_goes_on_after_kills() {
    let mut server = Server::start(Nats::new());
    on_tokio(async |_| {
        let bus = bus(impatient(&server)).await;
        emit(&bus, 0..200).await;
        let wait = Duration::from_secs(2);
        let mut work = Durable::open(impatient(&server), "workers", wait).await.expect("a consumer");
        let (mut done, mut kills) = (std::collections::BTreeSet::new(), 0);
        while done.len() < 200 {
            done.extend(noted(&mut work).await);
            if kills < 3 && done.len() > 40 * (kills + 1) {
                server.restart();
                kills += 1;
            }
        }
        assert_eq!((kills, done), (3, (1..=200).collect()));
        soon("shutdown", bus.shutdown()).await;
    });
}
