//! Ports, bell and mailboxes, between tasks of the runtime. `docs/PORTS.md` is the contract.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use net_proto::node::DownReason;
use net_proto::stream::{MAX_MESSAGE, Messages, Mode, Taken, charge, frame_message};

use super::Env;
use super::help::{Cut, Flag, cut, cuts, poll_once, spawn, spawn_polled, yield_now};
use crate::bell::Inbox;
use crate::mailbox::Mailbox;
use crate::ports::{End, RecvPort, SendError, SendPort};

type Port = Arc<SendPort<()>>;

fn inbox() -> Arc<Inbox<()>> {
    Arc::new(Inbox::new(1 << 30))
}

/// A port with credit for `messages` of up to 64 bytes.
fn port(messages: u64) -> Port {
    Arc::new(SendPort::new(0, inbox(), 64 * messages, MAX_MESSAGE as u64))
}

fn collect(port: &Port) -> Vec<Vec<u8>> {
    let chunk = port.collect(Vec::new()).chunk;
    Messages::queued(&chunk).map(|(_, message)| message.to_vec()).collect()
}

fn arrived(first: u64, messages: &[&[u8]]) -> Taken {
    let mut chunk = Vec::new();
    messages.iter().for_each(|message| frame_message(&mut chunk, message));
    Taken { chunk, first, mode: Mode::Reliable }
}

pub(super) async fn a_batch_is_admitted_whole_or_not_at_all(env: Env) {
    let port = port(10);
    port.try_send(&[b"a"; 8]).expect("credit for ten");
    assert_eq!(port.try_send(&[b"b"; 3]), Err(SendError::Backpressure));
    assert_eq!(port.admitted(), 8 * 64);
    let sender = port.clone();
    let waits = spawn_polled(&*env.here, async move { sender.send(&[b"c"; 3]).await }).await;
    assert_eq!(port.try_send(&[b"d"]), Err(SendError::Backpressure), "nobody overtakes a batch that waits");
    assert_eq!(collect(&port).len(), 8);
    port.raise(64 * 11);
    assert_eq!(waits.recv().await, Ok(Ok(())));
    assert_eq!(collect(&port).len(), 3);
    let huge = vec![[0u8; 64]; 11];
    assert!(matches!(
        SendPort::<()>::new(0, inbox(), 640, 100).try_send(&huge),
        Err(SendError::TooLarge { limit: 640, .. })
    ));
}

pub(super) async fn try_send_fails_where_send_waits(env: Env) {
    let port = port(1);
    port.try_send(&[b"1"]).expect("credit for one");
    assert_eq!(port.try_send(&[b"2"]), Err(SendError::Backpressure));
    let sender = port.clone();
    let waits = spawn_polled(&*env.here, async move { sender.send(&[b"3"]).await }).await;
    assert!(waits.try_recv().is_err());
    assert_eq!(collect(&port), [b"1"]);
    assert_eq!(port.try_send(&[b"4"]), Err(SendError::Backpressure), "collecting gives no credit");
    port.raise(128);
    assert_eq!(waits.recv().await, Ok(Ok(())));
    assert_eq!(collect(&port), [b"3"]);
}

pub(super) async fn credit_wakes_who_waits_in_order(env: Env) {
    let port = port(1);
    port.try_send(&[b"0"]).expect("credit for one");
    let mut tasks = Vec::new();
    for i in 1..=5u8 {
        let sender = port.clone();
        tasks.push(spawn_polled(&*env.here, async move { sender.send(&[[i]]).await }).await);
    }
    for (i, task) in tasks.into_iter().enumerate() {
        port.raise(64 * (i as u64 + 2));
        assert_eq!(task.recv().await, Ok(Ok(())));
    }
    assert_eq!(collect(&port), [[b'0'], [1], [2], [3], [4], [5]], "in order of arrival");
}

pub(super) async fn a_dropped_send_queues_nothing(env: Env) {
    for at in cuts(1) {
        let port = port(1);
        port.try_send(&[b"0"]).expect("credit for one");
        // The one that is dropped stands before the one that must go on.
        let (dropper, waiter) = (port.clone(), port.clone());
        let dropped = async move { cut(at, dropper.send(&[b"dropped"])).await };
        let dropped = spawn_polled(&*env.here, dropped).await;
        let waits = spawn_polled(&*env.here, async move { waiter.send(&[b"kept"]).await }).await;
        port.raise(128);
        assert_eq!(dropped.recv().await, Ok(None), "{at:?}");
        assert_eq!(waits.recv().await, Ok(Ok(())), "{at:?}");
        assert_eq!(collect(&port), [&b"0"[..], b"kept"], "{at:?}");
    }
}

pub(super) async fn closing_answers_everybody_who_waits(env: Env) {
    let tx = port(1);
    tx.try_send(&[b"0"]).expect("credit for one");
    let rx = Arc::new(RecvPort::<()>::new(0, inbox(), 1000));
    let mut senders = Vec::new();
    let mut readers = Vec::new();
    for i in 0..4 {
        let (tx, rx) = (tx.clone(), rx.clone());
        senders.push(spawn(&*env.here, async move { tx.send(&[b"1"]).await }));
        readers.push(spawn(&*env.here, async move { rx.recv().await }));
        if i % 2 == 0 {
            yield_now().await;
        }
    }
    let why = DownReason::Unreachable;
    tx.close(SendError::Disconnected(why));
    tx.close(SendError::Closed);
    rx.end(End::Disconnected(why));
    rx.end(End::Finished);
    for task in senders {
        assert_eq!(task.recv().await, Ok(Err(SendError::Disconnected(why))), "the first reason stays");
    }
    for task in readers {
        assert_eq!(task.recv().await, Ok(Err(End::Disconnected(why))), "the first reason stays");
    }
    assert_eq!(collect(&tx), [b"0"], "what was admitted stays");
}

pub(super) async fn the_bell_wakes_a_sleeper_once(env: Env) {
    let inbox = inbox();
    let port = Arc::new(SendPort::new(3, inbox.clone(), u64::MAX, 100));
    let flag = Flag::new();
    let mut ports = Vec::new();
    for round in 0..50 {
        assert!(inbox.sleep(&flag.waker()), "nothing waits");
        let sender = port.clone();
        let task = spawn(&*env.here, async move {
            (0..20).for_each(|_| sender.try_send(&[b"x"]).expect("credit without end"));
        });
        task.recv().await.expect("the sender ends");
        flag.woken(round + 1).await;
        assert_eq!(flag.count(), round + 1, "one wake for twenty messages");
        inbox.wake_up();
        inbox.take_ports(&mut ports);
        assert_eq!(ports, [3], "one ring for twenty messages");
        ports.clear();
        // Awake: a ring is noted, nobody is woken, and sleep refuses.
        assert_eq!(port.collect(Vec::new()).messages, 20);
        port.try_send(&[b"y"]).expect("credit without end");
        assert_eq!(flag.count(), round + 1);
        assert!(!inbox.sleep(&flag.waker()), "work waits");
        inbox.take_ports(&mut ports);
        ports.clear();
        assert_eq!(port.collect(Vec::new()).messages, 1);
    }
}

pub(super) async fn credit_returns_at_a_quarter(env: Env) {
    let inbox = inbox();
    let port = Arc::new(RecvPort::new(7, inbox.clone(), 64 * 16));
    let flag = Flag::new();
    assert!(inbox.sleep(&flag.waker()));
    port.push(arrived(0, &[&b"m"[..]; 8]));
    let reader = port.clone();
    let task = spawn(&*env.here, async move {
        for _ in 0..3 {
            reader.recv().await.expect("it lives").expect("a message");
        }
    });
    task.recv().await.expect("the reader ends");
    assert_eq!(flag.count(), 0, "less than a quarter wakes nobody");
    let reader = port.clone();
    let task = spawn(&*env.here, async move { reader.recv_many(4, |_| ()).await });
    assert_eq!(task.recv().await, Ok(Ok(4)));
    flag.woken(1).await;
    let mut ports = Vec::new();
    inbox.take_ports(&mut ports);
    assert_eq!(ports, [7]);
    assert_eq!(port.consumed(), 64 * 7);
    assert_eq!(port.consumed(), 0, "told once");
    assert!(port.try_recv().is_some());
}

pub(super) async fn a_dropped_recv_loses_nothing(env: Env) {
    for at in cuts(1) {
        let port = Arc::new(RecvPort::<()>::new(0, inbox(), 1000));
        let (dropper, reader) = (port.clone(), port.clone());
        let dropped = spawn_polled(&*env.here, async move { cut(at, dropper.recv()).await }).await;
        let reads = spawn_polled(&*env.here, async move { reader.recv().await }).await;
        port.push(arrived(0, &[b"only one"]));
        port.wake();
        assert_eq!(dropped.recv().await, Ok(None), "{at:?}");
        let got = reads.recv().await.expect("the reader ends");
        assert_eq!(got.expect("it lives").as_deref(), Some(&b"only one"[..]), "{at:?}");
        assert!(poll_once(port.recv()).is_none(), "and once only");
    }
}

pub(super) async fn what_arrived_comes_before_the_end(env: Env) {
    for end in [End::Finished, End::Reset(9), End::Disconnected(DownReason::Shutdown)] {
        let port = Arc::new(RecvPort::<()>::new(0, inbox(), 1000));
        let reader = port.clone();
        let task = spawn(&*env.here, async move {
            let mut got = Vec::new();
            loop {
                match reader.recv().await {
                    Ok(Some(message)) => got.push(message),
                    Ok(None) => return (got, End::Finished),
                    Err(end) => return (got, end),
                }
            }
        });
        port.push(arrived(0, &[b"a", b"b"]));
        port.wake();
        yield_now().await;
        port.push(arrived(2, &[b"c"]));
        port.end(end);
        let (got, why) = task.recv().await.expect("the reader ends");
        assert_eq!(why, end);
        assert_eq!(got, [&b"a"[..], b"b", b"c"]);
    }
}

pub(super) async fn a_mailbox_gives_each_item_to_one_taker(env: Env) {
    let mailbox = Arc::new(Mailbox::new(1000));
    let mut takers = Vec::new();
    for _ in 0..4 {
        let mailbox = mailbox.clone();
        takers.push(spawn(&*env.here, async move {
            let mut got = Vec::new();
            for polls in [0, 1, 2, 3, usize::MAX].into_iter().cycle() {
                // Some waits are given up; they take nothing.
                match cut(Cut::Polls(polls), mailbox.take(|_: &u32| true, || false)).await {
                    Some(Some(item)) => got.push(item),
                    Some(None) => break,
                    None => yield_now().await,
                }
            }
            got
        }));
    }
    for i in 0..200 {
        assert_eq!(mailbox.push(i), Ok(()));
        yield_now().await;
    }
    mailbox.close();
    assert_eq!(mailbox.push(1000), Err(1000), "closed");
    let mut all = Vec::new();
    for taker in takers {
        all.extend(taker.recv().await.expect("the taker ends"));
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..200), "each item once");
}

pub(super) async fn nothing_is_lost_through_a_port(env: Env) {
    const EACH: u32 = 1000;
    let inbox = inbox();
    let window = 64 * 50;
    let port = Arc::new(SendPort::new(0, inbox.clone(), window, 100));
    let mut senders = Vec::new();
    for id in 0..3u32 {
        let port = port.clone();
        senders.push(spawn(&*env.here, async move {
            for i in 0..EACH {
                port.send(&[(id << 24 | i).to_le_bytes()]).await.expect("the port lives");
            }
        }));
    }
    let collector = port.clone();
    let driver = spawn(&*env.there, async move {
        let (mut next, mut spent, mut rings) = ([0; 3], 0, Vec::new());
        poll_fn(|cx| {
            inbox.wake_up();
            loop {
                inbox.take_ports(&mut rings);
                rings.clear();
                let chunk = collector.collect(Vec::new()).chunk;
                for (_, message) in Messages::queued(&chunk) {
                    let value = u32::from_le_bytes(message.try_into().expect("four bytes"));
                    let (id, i) = ((value >> 24) as usize, value & 0xff_ffff);
                    assert_eq!(i, next[id], "in order for each sender");
                    next[id] += 1;
                    spent += charge(message.len());
                }
                if next == [EACH; 3] {
                    return Poll::Ready(());
                }
                collector.raise(spent + window);
                if inbox.sleep(cx.waker()) {
                    return Poll::Pending;
                }
            }
        })
        .await;
    });
    for task in senders {
        task.recv().await.expect("the sender ends");
    }
    driver.recv().await.expect("every message came");
}

pub(super) async fn calls_after_the_driver_is_gone_fail_at_once(env: Env) {
    let inbox = Arc::new(Inbox::<async_channel::Sender<u32>>::new(1));
    let (early, waits) = async_channel::bounded(1);
    inbox.control(early);
    let waiter = spawn(&*env.here, async move { waits.recv().await });
    yield_now().await;
    inbox.close();
    assert!(waiter.recv().await.expect("the task ends").is_err());
    let (late, waits) = async_channel::bounded(1);
    inbox.control(late);
    assert!(waits.recv().await.is_err());
    assert!(inbox.take_control().is_none());
}
