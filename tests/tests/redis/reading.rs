//! Readers on streams that are trimmed: what is gone is told, and only that.

use std::time::Duration;

use net_proto::bus::{Position, Shard};
use net_redis::RedisAdapter;
use net_shell::bus::adapter::{Adapter, Incoming};
use net_tests::servers::Server;
use net_tests::servers::redis::{Answer, Redis};

use crate::{batch, on_smol, on_tokio, push, single, started};

/// Reads a shard to its end: what was lost at first, and the events.
async fn to_the_end(
    adapter: &RedisAdapter,
    shard: Shard,
    mut at: Option<Position>,
) -> (Option<(Position, Position)>, Vec<Incoming>) {
    let (mut lost, mut events) = (None, Vec::new());
    loop {
        let page = adapter.read(&[(shard, at)], 2000, Duration::ZERO).await.unwrap().pop();
        let Some(page) = page else { return (lost, events) };
        assert!(page.lost.is_none() || events.is_empty(), "told once, and first");
        lost = lost.or(page.lost);
        at = page.events.last().map(|e| e.position).or(page.lost.map(|lost| lost.1));
        events.extend(page.events);
        if !page.more {
            return (lost, events);
        }
    }
}

#[test]
fn what_was_trimmed_is_told() {
    let server = Server::start(Redis::volatile());
    on_tokio(|rt| async move {
        let adapter = started(&rt, single(&server).max_len(500)).await.unwrap();
        let mut link = adapter.open(0).await.unwrap();
        push(&mut link, batch(0, 1, 300)).await.unwrap();
        let pages = adapter.read(&[(0, None)], 10, Duration::ZERO).await.unwrap();
        let (at, more) = (pages[0].events[9].position, pages[0].more);
        assert!(more && pages[0].lost.is_none() && pages[0].events.len() == 10);
        for n in 0..10 {
            push(&mut link, batch(0, 301 + n * 500, 500)).await.unwrap();
        }
        let Answer::Number(kept) = server.call(&["XLEN", "net:shard:0"]) else { panic!() };
        assert!((500..800).contains(&kept), "{kept} are kept");
        let (lost, events) = to_the_end(&adapter, 0, Some(at)).await;
        let (from, to) = lost.expect("it lost something");
        let first = events[0].position;
        assert!(from == at && to < first, "{from} {to} {first}");
        assert_eq!(events.len() as i64, kept);
        assert_eq!(events.last().unwrap().raw, "5300".as_bytes());
        // Who comes now, and who stands at the end, lost nothing.
        let (lost, events) = to_the_end(&adapter, 0, None).await;
        assert!(lost.is_none());
        let end = events.last().unwrap().position;
        assert_eq!(adapter.read(&[(0, Some(end))], 9, Duration::ZERO).await, Ok(Vec::new()));
        server.call(&["XTRIM", "net:shard:0", "MAXLEN", "0"]);
        assert_eq!(
            adapter.read(&[(0, Some(end))], 9, Duration::ZERO).await,
            Ok(Vec::new()),
            "trimmed, but seen"
        );
        let pages = adapter.read(&[(0, Some(at))], 9, Duration::ZERO).await.unwrap();
        assert_eq!((pages[0].lost, pages[0].events.len()), (Some((at, end)), 0));
    });
}

#[test]
fn a_reader_that_saw_everything_is_not_told_of_a_loss_when_old_events_go() {
    let server = Server::start(Redis::volatile());
    on_smol(|rt| async move {
        let adapter = started(&rt, single(&server).max_age(Duration::from_millis(1))).await.unwrap();
        let mut link = adapter.open(0).await.unwrap();
        push(&mut link, batch(0, 1, 1000)).await.unwrap();
        for n in 0..5 {
            let at = adapter.tail(&[0]).await.unwrap()[0].1;
            net_sdk::rt::sleep(Duration::from_millis(5)).await;
            push(&mut link, batch(0, 1001 + n * 300, 300)).await.unwrap();
            let (lost, events) = to_the_end(&adapter, 0, Some(at)).await;
            assert_eq!((lost, events.len()), (None, 300));
        }
        let Answer::Number(kept) = server.call(&["XLEN", "net:shard:0"]) else { panic!() };
        assert!(kept < 1500, "old events go: {kept} are kept");
    });
}

#[test]
fn entries_of_others_are_read_too() {
    let server = Server::start(Redis::volatile());
    on_tokio(|rt| async move {
        let adapter = started(&rt, single(&server)).await.unwrap();
        server.call(&["XADD", "net:shard:0", "7-1", "temperature", "21", "unit", "C"]);
        server.call(&["XADD", "net:shard:0", "7-2", "dedup_id", "nonsense", "t", "x", "d", "body"]);
        let pages = adapter.read(&[(0, None), (1, None)], 10, Duration::ZERO).await.unwrap();
        assert_eq!(pages.len(), 1, "a shard that does not exist has nothing");
        let [a, b] = &pages[0].events[..] else { panic!() };
        assert_eq!((a.position, a.id, a.stamp, &a.raw[..]), (Position::new(7, 1), None, 0, &b"21"[..]));
        assert_eq!((b.position, b.id, b.stamp, &b.raw[..]), (Position::new(7, 2), None, 0, &b"body"[..]));
        // One is deleted by hand: its reader goes on.
        let at = Some(Position::new(7, 1));
        server.call(&["XADD", "net:shard:0", "6-0", "d", "too old"]);
        server.call(&["XDEL", "net:shard:0", "7-2"]);
        server.call(&["XADD", "net:shard:0", "7-3", "d", "next"]);
        let pages = adapter.read(&[(0, Some(Position::new(7, 2)))], 10, Duration::ZERO).await.unwrap();
        assert_eq!((pages[0].lost, &pages[0].events[0].raw[..]), (None, &b"next"[..]));
        let pages = adapter.read(&[(0, at)], 10, Duration::ZERO).await.unwrap();
        assert_eq!(pages[0].events.len(), 1);
    });
}

#[test]
fn a_wait_ends_with_the_first_event_of_any_shard() {
    let server = Server::start(Redis::volatile());
    on_smol(|rt| async move {
        let adapter = started(&rt, single(&server)).await.unwrap();
        let mut link = adapter.open(1).await.unwrap();
        let from = [(0, None), (1, None), (2, None)];
        let wait = adapter.read(&from, 10, Duration::from_secs(60));
        let (pages, pushed) = smol::future::zip(wait, push(&mut link, batch(1, 1, 2))).await;
        pushed.unwrap();
        let pages = pages.unwrap();
        assert_eq!((pages.len(), pages[0].shard), (1, 1));
        // Big and small events, all within one limit.
        for n in 0..200 {
            let mut big = batch(1, 3 + n, 1);
            big.events[0].raw = vec![7; 1 << 17].into();
            push(&mut link, big).await.unwrap();
        }
        let (mut at, mut got, mut pages_read) = (None, 0, 0);
        while got < 202 {
            let pages = adapter.read(&[(1, at)], 1000, Duration::ZERO).await.unwrap();
            got += pages[0].events.len();
            at = pages[0].events.last().map(|e| e.position);
            pages_read += 1;
            assert_eq!(pages[0].more, got < 202);
        }
        assert!(pages_read > 1 && got == 202);
        assert!(adapter.shutdown().await.is_ok());
        assert!(adapter.read(&from, 10, Duration::ZERO).await.is_err());
    });
}
