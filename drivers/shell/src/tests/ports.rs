use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;

use net_proto::stream::{MAX_MESSAGE, Messages, Mode, Taken};

use crate::bell::Inbox;
use crate::ports::{End, RecvPort, SendError, SendPort};

type Send = SendPort<()>;

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn send_port(limit: u64) -> Send {
    SendPort::new(3, Arc::new(Inbox::new(1 << 20)), limit, MAX_MESSAGE as u64)
}

fn messages(port: &Send) -> Vec<Vec<u8>> {
    let chunk = port.collect(Vec::new()).chunk;
    Messages::queued(&chunk).map(|(_, message)| message.to_vec()).collect()
}

#[test]
fn a_batch_is_queued_whole_or_not_at_all() {
    let port = send_port(64 * 10);
    port.try_send(&[b"x"; 9]).unwrap();
    assert_eq!(port.try_send(&[b"y"; 2]), Err(SendError::Backpressure));
    port.try_send(&[b"z"]).unwrap();
    let mut want = vec![b"x".to_vec(); 9];
    want.push(b"z".to_vec());
    assert_eq!(messages(&port), want);
    assert_eq!(port.try_send(&[b"y"]), Err(SendError::Backpressure), "collecting gives no credit");
    port.raise(64 * 12);
    port.try_send(&[b"y"; 2]).unwrap();
}

#[test]
fn too_large_names_the_limit() {
    let big = vec![0; MAX_MESSAGE + 1];
    let error = SendError::TooLarge { len: big.len() as u64, limit: MAX_MESSAGE as u64 };
    assert_eq!(send_port(1 << 20).try_send(&[big]), Err(error));
}

#[test]
fn a_message_above_the_window_passes_once_the_window_is_free() {
    let port = send_port(1000);
    port.try_send(&[[1; 600]]).unwrap();
    assert_eq!(port.try_send(&[[2; 5000]]), Err(SendError::Backpressure));
    port.raise(1600);
    port.try_send(&[[2; 5000]]).unwrap();
    assert_eq!(port.try_send(&[[3; 1]]), Err(SendError::Backpressure));
}

#[test]
fn waiting_senders_go_in_order_and_may_give_up() {
    let port = send_port(64);
    port.try_send(&[b"0"]).unwrap();
    let mut first = Box::pin(port.send(&[b"1"]));
    let mut second = Box::pin(port.send(&[b"2"]));
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    port.raise(128);
    assert!(poll(second.as_mut()).is_pending(), "the first in line goes first");
    assert_eq!(port.try_send(&[b"3"]), Err(SendError::Backpressure), "and nobody overtakes");
    drop(first);
    assert_eq!(poll(second.as_mut()), Poll::Ready(Ok(())));
    drop(second);
    assert_eq!(messages(&port), [b"0", b"2"], "a dropped send queued nothing");
    port.close(SendError::Stopped(7));
    assert_eq!(poll(pin!(port.send(&[b"4"]))), Poll::Ready(Err(SendError::Stopped(7))));
}

#[test]
fn a_sender_lets_the_driver_run_once_a_turn() {
    let inbox = Arc::new(Inbox::<()>::new(1 << 20));
    let port = SendPort::new(0, inbox.clone(), 1 << 30, MAX_MESSAGE as u64);
    for _ in 0..2 {
        port.try_send(&[vec![0; 1 << 20]]).unwrap();
        let mut next = Box::pin(port.send(&[b"1"]));
        assert!(poll(next.as_mut()).is_pending());
        assert_eq!(poll(next.as_mut()), Poll::Ready(Ok(())), "once");
    }
    port.try_send(&[vec![0; 1 << 20]]).unwrap();
    inbox.wake_up();
    assert_eq!(poll(pin!(port.send(&[b"2"]))), Poll::Ready(Ok(())), "the driver ran");
}

/// Two ports of one driver that lets applications queue the charge of two small messages unseen.
fn two_ports() -> (Arc<Inbox<()>>, [Send; 2]) {
    let inbox = Arc::new(Inbox::with_furthest(1 << 20, 128));
    let ports = [0, 1].map(|key| SendPort::new(key, inbox.clone(), 1 << 20, 100));
    (inbox, ports)
}

#[test]
fn who_runs_ahead_of_the_driver_waits_until_it_looked() {
    let (_, [a, b]) = two_ports();
    a.try_send(&[b"0"; 2]).unwrap();
    let mut waits = Box::pin(b.send(&[b"1"]));
    assert!(poll(waits.as_mut()).is_pending(), "whatever its own stream may still take");
    b.try_send(&[b"2"]).unwrap();
    a.collect(Vec::new());
    assert_eq!(poll(waits.as_mut()), Poll::Ready(Ok(())));
    assert_eq!(messages(&b), [b"2", b"1"]);
}

#[test]
fn a_stream_that_has_to_wait_holds_up_no_other() {
    let (_, [a, b]) = two_ports();
    a.try_send(&[b"0"; 2]).unwrap();
    a.pass_over();
    // What comes until it is collected does not count either.
    a.try_send(&[b"1"; 2]).unwrap();
    assert_eq!(poll(pin!(b.send(&[b"2"; 2]))), Poll::Ready(Ok(())));
    assert!(poll(pin!(b.send(&[b"3"]))).is_pending());
    drop(b);
    assert_eq!(poll(pin!(a.send(&[b"4"]))), Poll::Ready(Ok(())), "a port that is gone holds up nobody");
    a.collect(Vec::new());
    a.try_send(&[b"5"; 2]).unwrap();
    assert!(poll(pin!(a.send(&[b"6"]))).is_pending(), "once collected, it counts again");
}

#[test]
fn without_a_driver_nobody_waits_for_it() {
    let (inbox, [a, b]) = two_ports();
    a.try_send(&[b"0"; 2]).unwrap();
    let mut waits = Box::pin(b.send(&[b"1"]));
    assert!(poll(waits.as_mut()).is_pending());
    b.close(SendError::Closed);
    inbox.close();
    assert_eq!(poll(waits.as_mut()), Poll::Ready(Err(SendError::Closed)));
}

#[test]
fn nothing_is_lost_between_threads() {
    const EACH: u32 = 20_000;
    let inbox = Arc::new(Inbox::<()>::new(1));
    let port = Arc::new(SendPort::new(0, inbox.clone(), u64::MAX, 100));
    let senders: Vec<_> = (0..2u32)
        .map(|id| {
            let port = port.clone();
            thread::spawn(move || {
                (0..EACH).for_each(|i| port.try_send(&[(id << 24 | i).to_le_bytes()]).unwrap())
            })
        })
        .collect();
    let (mut next, mut rings, mut spare) = ([0; 2], Vec::new(), Vec::new());
    let start = std::time::Instant::now();
    while next != [EACH; 2] {
        // Only a ring leads here: one that is missing shows as a hang.
        inbox.take_ports(&mut rings);
        if rings.is_empty() {
            assert!(start.elapsed().as_secs() < 30, "a ring is missing after {next:?}");
            thread::yield_now();
            continue;
        }
        rings.clear();
        let chunk = port.collect(spare).chunk;
        for (_, message) in Messages::queued(&chunk) {
            let value = u32::from_le_bytes(message.try_into().unwrap());
            let (id, i) = ((value >> 24) as usize, value & 0xff_ffff);
            assert_eq!(i, next[id], "in order for each sender");
            next[id] += 1;
        }
        spare = chunk;
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

fn arrived(first: u64, messages: &[&[u8]]) -> Taken {
    let mut chunk = Vec::new();
    messages.iter().for_each(|message| net_proto::stream::frame_message(&mut chunk, message));
    Taken { chunk, first, mode: Mode::Reliable }
}

#[test]
fn memory_of_what_was_read_goes_back_to_the_driver() {
    let port = RecvPort::new(5, Arc::new(Inbox::<()>::new(1 << 20)), 64 << 10);
    let filled = |first: u64, room: usize| {
        let mut taken = arrived(first, &[&[first as u8; 100]]);
        taken.chunk.reserve_exact(room);
        taken
    };
    // The second grows within the first, the third does not fit.
    port.push(filled(0, 150));
    port.push(filled(1, 0));
    assert!(port.spare().capacity() > 0, "its bytes were moved");
    port.push(filled(2, 0));
    assert_eq!(port.spare().capacity(), 0);
    let mut got = Vec::new();
    assert_eq!(poll(pin!(port.recv_many(9, |m| got.push(m[0])))), Poll::Ready(Ok(3)));
    assert_eq!(got, [0, 1, 2]);
    assert!(poll(pin!(port.recv())).is_pending());
    let spares = [port.spare(), port.spare(), port.spare()].map(|spare| spare.capacity() > 0);
    assert_eq!(spares, [true, true, false], "both chunks that were read");
}

#[test]
fn what_arrived_is_read_before_the_end_and_credit_comes_back() {
    let inbox = Arc::new(Inbox::<()>::new(1 << 20));
    let port = RecvPort::new(5, inbox.clone(), 64 * 8);
    assert!(poll(pin!(port.recv())).is_pending());
    port.push(arrived(0, &[b"a", b"b"]));
    port.push(arrived(2, &[b"c"]));
    port.end(End::Reset(9));
    let mut got = Vec::new();
    let count = poll(pin!(port.recv_many(2, |m| got.push(m.to_vec()))));
    assert_eq!((count, &got[..]), (Poll::Ready(Ok(2)), &[b"a".to_vec(), b"b".to_vec()][..]));
    let mut rings = Vec::new();
    inbox.take_ports(&mut rings);
    assert_eq!(rings, [5], "a quarter of the window was drained");
    assert_eq!(port.consumed(), 128);
    assert_eq!(port.try_recv().as_deref(), Some(&b"c"[..]));
    assert_eq!(poll(pin!(port.recv())), Poll::Ready(Err(End::Reset(9))));
    assert_eq!(port.consumed(), 64);
}

#[test]
fn a_reader_that_panics_neither_keeps_credit_nor_reads_twice() {
    let port = RecvPort::new(5, Arc::new(Inbox::<()>::new(1 << 20)), 64);
    port.push(arrived(0, &[b"a", b"b"]));
    let call = std::panic::AssertUnwindSafe(|| {
        let _ = poll(pin!(port.recv_with(|_| panic!("the application's fault"))));
    });
    assert!(std::panic::catch_unwind(call).is_err());
    assert_eq!(port.consumed(), 64);
    assert_eq!(port.try_recv().as_deref(), Some(&b"b"[..]));
}

#[test]
fn stopping_drops_what_a_reader_holds_too() {
    let port = RecvPort::new(5, Arc::new(Inbox::<()>::new(1 << 20)), 1000);
    port.push(arrived(0, &[b"a", b"b"]));
    assert_eq!(port.try_recv().as_deref(), Some(&b"a"[..]));
    port.stop();
    // The driver had it in hand.
    port.push(arrived(2, &[b"c"]));
    assert_eq!(port.try_recv(), None);
    assert_eq!(poll(pin!(port.recv())), Poll::Ready(Err(End::Stopped)));
}

#[test]
fn stopping_drops_what_came_and_gives_its_credit_back() {
    let port = RecvPort::new(5, Arc::new(Inbox::<()>::new(1 << 20)), 1000);
    port.push(arrived(0, &[b"a", &[0; 100]]));
    port.stop();
    assert_eq!(port.consumed(), 164);
    assert_eq!(poll(pin!(port.recv())), Poll::Ready(Err(End::Stopped)));
}
