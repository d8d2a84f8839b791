//! Ports, bell, mailboxes and hub under shuttle: the same sources with its locks and atomics, run under
//! many random and many adversarial schedules. A lost wake shows as a deadlock, which shuttle reports
//! with the schedule.
//!
//! Shuttle's atomics are sequentially consistent: orderings that are too weak do not show here.
#![allow(dead_code, unused_imports, unreachable_pub)] // the included modules offer more than these tests use

#[path = "../src/bell.rs"]
mod bell;
#[path = "../src/hub.rs"]
mod hub;
#[path = "../src/mailbox.rs"]
mod mailbox;
#[path = "../src/ports/mod.rs"]
mod ports;
#[path = "../src/short_lock.rs"]
mod short_lock;
mod sync {
    pub(crate) use shuttle::hint::spin_loop;
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard, Weak};
    pub(crate) use shuttle::thread::{sleep, yield_now};
    pub(crate) use std::sync::PoisonError;
}
#[path = "../src/prefetch.rs"]
mod prefetch;
#[path = "../src/wait.rs"]
mod wait;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use bell::Inbox;
use hub::{Hub, Notice, PeerShared};
use mailbox::Mailbox;
use net_proto::identity::EntityId;
use net_proto::lane::{Effects, In, Plane, Refusal};
use net_proto::node::{DownReason, Lost};
use net_proto::path::Path;
use net_proto::session::Peer;
use net_proto::session::aead::Cipher;
use net_proto::stream::{Messages, Mode, Taken, frame_message};
use net_proto::time::{Instant, Reason};
use ports::{End, PlanePort, RecvPort, SendError, SendPort, Stopped};
use short_lock::{Held, ShortLock};
use shuttle::future::block_on;
use shuttle::thread;
use sync::Arc;

/// Schedules tried of each kind.
const RANDOM: usize = 3_000;
const PCT: usize = 1_500;

fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), RANDOM);
    // Few preemptions at the worst places: finds what uniform chance seldom does.
    shuttle::check_pct(test, PCT, 3);
}

/// A driver: `turn` sees what rang and says when all is done; between turns it sleeps.
fn drive<C>(inbox: &Inbox<C>, mut turn: impl FnMut(&[u32]) -> bool) {
    let mut rung = Vec::new();
    block_on(poll_fn(|cx| {
        inbox.wake_up();
        loop {
            inbox.take_ports(&mut rung);
            if turn(&rung) {
                return Poll::Ready(());
            }
            rung.clear();
            if inbox.sleep(cx.waker()) {
                return Poll::Pending;
            }
        }
    }));
}

/// Polls a future once, then drops it.
fn give_up_at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    block_on(async {
        let mut future = pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    })
}

fn numbers(chunk: &[u8]) -> Vec<u8> {
    Messages::queued(chunk).map(|(_, message)| message[0]).collect()
}

fn taken(first: u64, messages: &[u8]) -> Taken {
    let mut chunk = Vec::new();
    messages.iter().for_each(|n| frame_message(&mut chunk, &[*n]));
    Taken { chunk, first, mode: Mode::Reliable }
}

#[test]
fn a_sleeping_driver_hears_every_ring() {
    explore(|| {
        let inbox = Arc::new(Inbox::<u8>::new(1));
        let ringers = (0..2u32).map(|id| {
            let inbox = inbox.clone();
            thread::spawn(move || {
                inbox.port(id);
                inbox.control(id as u8);
            })
        });
        let ringers: Vec<_> = ringers.collect();
        let (mut ports, mut calls) = (0, 0);
        drive(&inbox, |rung| {
            ports += rung.len();
            while inbox.take_control().is_some() {
                calls += 1;
            }
            (ports, calls) == (2, 2)
        });
        ringers.into_iter().for_each(|ringer| ringer.join().unwrap());
    });
}

#[test]
fn who_waits_for_the_driver_to_catch_up_is_called() {
    explore(|| {
        // One message may be unseen, over both ports.
        let inbox = Arc::new(Inbox::<()>::with_furthest(1, 64));
        let ports: Vec<_> =
            (0..2).map(|key| Arc::new(SendPort::new(key, inbox.clone(), 1 << 20, 100))).collect();
        let senders = ports
            .iter()
            .cloned()
            .map(|port| thread::spawn(move || (0..2u8).for_each(|n| block_on(port.send(&[[n]])).unwrap())));
        let senders: Vec<_> = senders.collect();
        let mut got = [Vec::new(), Vec::new()];
        let mut collect = |key: u32| {
            let collected = ports[key as usize].collect(Vec::new());
            got[key as usize].extend(numbers(&collected.chunk));
            got.iter().all(|got| got.len() == 2)
        };
        // What rings first has to wait for its stream, until the other rang.
        let (mut first, mut done) = (None, false);
        drive(&inbox, |rung| {
            for key in rung {
                if first.is_none() {
                    first = Some(*key);
                    ports[*key as usize].pass_over();
                } else {
                    collect(*key);
                    done = first.is_some_and(&mut collect);
                }
            }
            done
        });
        assert_eq!(got, [[0, 1], [0, 1]]);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    });
}

/// The driver's side of a port with credit for one message at a time, until `done`.
fn collect_until(inbox: &Inbox<()>, port: &SendPort<()>, done: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let (mut got, mut limit) = (Vec::new(), 64);
    drive(inbox, |rung| {
        for _ in rung {
            let collected = port.collect(Vec::new());
            got.extend(numbers(&collected.chunk));
            limit += 64 * collected.messages;
            port.raise(limit);
        }
        done(&got)
    });
    got
}

#[test]
fn senders_with_little_credit_lose_nothing_and_none_waits_for_ever() {
    explore(|| {
        let inbox = Arc::new(Inbox::<()>::new(1));
        let port = Arc::new(SendPort::new(0, inbox.clone(), 64, 100));
        let senders = [[1u8, 2], [11, 12]].map(|messages| {
            let port = port.clone();
            thread::spawn(move || {
                for n in messages {
                    block_on(port.send(&[[n]])).unwrap();
                }
            })
        });
        let got = collect_until(&inbox, &port, |got| got.len() == 4);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        for own in [[1, 2], [11, 12]] {
            assert!(got.iter().filter(|n| own.contains(n)).eq(&own), "in order for each sender: {got:?}");
        }
        assert_eq!(port.admitted(), 64 * 4);
    });
}

#[test]
fn a_sender_that_gives_up_queues_nothing_and_holds_nobody_up() {
    explore(|| {
        let inbox = Arc::new(Inbox::<()>::new(1));
        let port = Arc::new(SendPort::new(0, inbox.clone(), 64, 100));
        port.try_send(&[[0]]).unwrap();
        let quitter = {
            let port = port.clone();
            thread::spawn(move || give_up_at_once(port.send(&[[1u8]])).is_some())
        };
        let sender = {
            let port = port.clone();
            thread::spawn(move || block_on(port.send(&[[2u8]])).unwrap())
        };
        let mut got = collect_until(&inbox, &port, |got| got.contains(&2));
        let admitted = quitter.join().unwrap();
        sender.join().unwrap();
        got.extend(numbers(&port.collect(Vec::new()).chunk));
        assert_eq!(got.iter().filter(|n| **n == 1).count(), usize::from(admitted), "{got:?}");
        assert_eq!(got.len(), 2 + usize::from(admitted), "{got:?}");
    });
}

#[test]
fn closing_wakes_every_sender_and_keeps_what_was_admitted() {
    explore(|| {
        let inbox = Arc::new(Inbox::<()>::new(1));
        let port = Arc::new(SendPort::new(0, inbox, 64, 100));
        let senders = [1u8, 2, 3].map(|n| {
            let port = port.clone();
            thread::spawn(move || block_on(port.send(&[[n]])))
        });
        port.close(SendError::Closed);
        let sum = port.collect(Vec::new()).messages;
        let admitted = senders.into_iter().filter_map(|s| s.join().unwrap().ok()).count();
        assert_eq!(sum, admitted as u64, "what was admitted is there after the close");
    });
}

#[test]
fn readers_get_every_message_once_and_the_end() {
    explore(|| {
        let inbox = Arc::new(Inbox::<()>::new(1 << 20));
        let port = Arc::new(RecvPort::new(0, inbox, 1 << 20));
        let readers = [(); 2].map(|()| {
            let port = port.clone();
            thread::spawn(move || {
                let mut got = Vec::new();
                while let Some(message) = block_on(port.recv()).unwrap() {
                    got.push(message[0]);
                }
                got
            })
        });
        port.push(taken(0, &[0, 1]));
        port.wake();
        port.push(taken(2, &[2]));
        port.wake();
        port.end(End::Finished);
        let mut got: Vec<u8> = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, [0, 1, 2]);
        assert_eq!(port.consumed(), 3 * 64);
    });
}

#[test]
fn a_reader_that_gives_up_takes_nothing_with_it() {
    explore(|| {
        let inbox = Arc::new(Inbox::<()>::new(1 << 20));
        let port = Arc::new(RecvPort::new(0, inbox, 1 << 20));
        let quitter = {
            let port = port.clone();
            thread::spawn(move || give_up_at_once(port.recv()).map(|got| got.unwrap().unwrap()[0]))
        };
        let reader = {
            let port = port.clone();
            thread::spawn(move || block_on(port.recv()).unwrap().unwrap()[0])
        };
        port.push(taken(0, &[7]));
        port.wake();
        // If the quitter got the first one, the reader waits for the second.
        port.push(taken(1, &[8]));
        port.wake();
        let mut got: Vec<u8> = quitter.join().unwrap().into_iter().chain([reader.join().unwrap()]).collect();
        got.extend(port.try_recv().map(|message| message[0]));
        got.sort_unstable();
        assert_eq!(got, [7, 8]);
    });
}

#[test]
fn drained_credit_reaches_a_sleeping_driver() {
    explore(|| {
        // A window of four messages: each one that is drained is a quarter, worth a ring.
        let inbox = Arc::new(Inbox::<()>::new(1 << 20));
        let port = Arc::new(RecvPort::new(0, inbox.clone(), 4 * 64));
        port.push(taken(0, &[0, 1, 2]));
        let reader = {
            let port = port.clone();
            thread::spawn(move || {
                for _ in 0..3 {
                    block_on(port.recv()).unwrap();
                }
            })
        };
        let mut credit = 0;
        drive(&inbox, |rung| {
            rung.iter().for_each(|_| credit += port.consumed());
            credit == 3 * 64
        });
        reader.join().unwrap();
    });
}

#[test]
fn a_mailbox_hands_each_item_to_one_taker() {
    explore(|| {
        let mailbox = Arc::new(Mailbox::new(4));
        let takers = [(); 2].map(|()| {
            let mailbox = mailbox.clone();
            thread::spawn(move || block_on(mailbox.take(|_| true, || false)))
        });
        let quitter = {
            let mailbox = mailbox.clone();
            thread::spawn(move || give_up_at_once(mailbox.take(|_| true, || false)).flatten())
        };
        for n in 0..3 {
            mailbox.push(n).unwrap();
        }
        let mut got: Vec<i32> = takers.into_iter().filter_map(|taker| taker.join().unwrap()).collect();
        got.extend(quitter.join().unwrap());
        mailbox.close();
        while let Some(n) = block_on(mailbox.take(|_| true, || false)) {
            got.push(n);
        }
        got.sort_unstable();
        assert_eq!(got, [0, 1, 2]);
    });
}

#[test]
fn the_waker_of_a_future_that_moves_to_another_task_is_renewed() {
    explore(|| {
        let inbox = Arc::new(Inbox::<()>::new(1 << 20));
        let port = Arc::new(RecvPort::new(0, inbox, 1 << 20));
        let reader = {
            let port = port.clone();
            thread::spawn(move || {
                let mut future = Box::pin(port.recv());
                let early = future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()));
                match early {
                    Poll::Ready(got) => got,
                    Poll::Pending => block_on(future),
                }
            })
        };
        port.push(taken(0, &[9]));
        port.wake();
        assert_eq!(reader.join().unwrap().unwrap().unwrap()[..], [9]);
    });
}

/// A plane as far as ports know one: commands and events are the number of the call.
struct Toy;

impl Plane for Toy {
    type Cmd = u64;
    type Event = u64;
    fn handle(&mut self, _: Instant, _: In<'_>) {}
    fn command(&mut self, _: Instant, _: u64) {}
    fn handle_timeout(&mut self, _: Instant) {}
    fn drain(&mut self, _: &mut dyn Effects) {}
    fn poll_event(&mut self) -> Option<u64> {
        None
    }
    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        None
    }
    fn ceiling(&self) -> u64 {
        0
    }
    fn admit(&self, kind: u8) -> Result<(), Refusal> {
        Err(Refusal::UnknownKind(kind))
    }
    fn weight(_: &u64) -> usize {
        // Two do not fit together.
        ports::PORT_BYTES / 2
    }
    fn addressee(event: &u64) -> Option<u64> {
        Some(*event)
    }
}

#[test]
fn every_call_of_a_plane_is_answered_or_told_of_the_end() {
    for served in [1, 3] {
        explore(move || {
            let inbox = Arc::new(Inbox::new(1));
            let port = Arc::new(PlanePort::<Toy, ()>::new(inbox.clone()));
            let callers: Vec<_> = (0..3)
                .map(|_| {
                    let port = port.clone();
                    thread::spawn(move || block_on(port.call(|number| number)))
                })
                .collect();
            let (mut held, mut count) = (VecDeque::new(), 0);
            drive(&inbox, |keys| {
                if !keys.is_empty() {
                    port.collect(0, &mut held);
                }
                for command in held.drain(..) {
                    port.release(0, PlanePort::<Toy, ()>::cost(&command));
                    port.give(command);
                    count += 1;
                }
                count >= served
            });
            port.close();
            let answers: Vec<_> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
            let answered = answers.iter().filter(|answer| answer.is_ok()).count();
            assert_eq!(answered, count);
            assert!(answers.iter().all(|answer| answer.is_ok() || *answer == Err(Stopped)));
        });
    }
}

/// An association as the hub knows it.
fn associated(number: u8) -> Arc<PeerShared> {
    let peer: Peer = postcard::from_bytes(&[number, 0]).expect("a slot and a generation");
    let path = Path::udp(([192, 0, 2, number], 9000).into());
    Arc::new(PeerShared::new(peer, EntityId([number; 32]), Cipher::ChaCha20Poly1305, path))
}

#[test]
fn whoever_waits_when_a_peer_goes_away_is_told() {
    explore(|| {
        let hub = Arc::new(Hub::new(Arc::new(Inbox::new(1))));
        let peer = associated(1);
        hub.up(peer.clone());
        // One waits for a stream of this peer, one for its end.
        let accepting = {
            let (hub, peer) = (hub.clone(), peer.clone());
            thread::spawn(move || {
                block_on(hub.streams.take(|stream| stream.peer.peer == peer.peer, || peer.down().is_some()))
            })
        };
        let closing = {
            let peer = peer.clone();
            thread::spawn(move || block_on(peer.closed()))
        };
        // In the driver's order.
        peer.set_down(DownReason::Unreachable);
        peer.set_closed();
        hub.gone(peer.peer);
        assert!(accepting.join().unwrap().is_none());
        assert_eq!(closing.join().unwrap(), DownReason::Unreachable);
        assert!(hub.peers().is_empty());
    });
}

#[test]
fn readers_of_events_get_each_one_and_the_end_whenever_they_come() {
    explore(|| {
        let hub = Arc::new(Hub::new(Arc::new(Inbox::new(1))));
        let early = hub.notices();
        let readers = [Some(early), None].map(|mailbox| {
            let hub = hub.clone();
            thread::spawn(move || {
                let mailbox = mailbox.unwrap_or_else(|| hub.notices());
                let mut got = 0;
                while block_on(mailbox.take(|_| true, || false)).is_some() {
                    got += 1;
                }
                got
            })
        });
        let peer = associated(1);
        hub.tell(&Notice::Connected(peer.clone()));
        hub.tell(&Notice::Disconnected(peer, DownReason::Shutdown, Lost::default()));
        hub.close();
        let [early, late] = readers.map(|reader| reader.join().unwrap());
        assert_eq!(early, 2);
        assert!(late <= 2);
    });
}

/// The value is a cell of two halves: whoever is not alone with it sees them differ, or an addition lost.
#[test]
fn a_short_lock_lets_one_in_at_a_time() {
    explore(|| {
        let lock = Arc::new(ShortLock::new((0u32, 0u32)));
        let add = |mut held: Held<'_, (u32, u32)>| {
            assert_eq!(held.0, held.1);
            held.0 += 1;
            thread::yield_now();
            held.1 += 1;
        };
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let lock = lock.clone();
                thread::spawn(move || {
                    add(lock.lock());
                    match lock.try_lock() {
                        Some(held) => add(held),
                        None => add(lock.lock()),
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*lock.lock(), (6, 6));
    });
}
