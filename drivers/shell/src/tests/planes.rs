use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use net_proto::lane::{Effects, In, Plane, Refusal};
use net_proto::time::{Instant, Reason};

use crate::bell::Inbox;
use crate::ports::{CommandError, PORT_BYTES, PlanePort, Stopped};

/// A plane as far as ports know one: a command is a number and a length, an event says whom it is for.
struct Toy;

type Command = (u64, usize);
type Event = (Option<u64>, u64);

impl Plane for Toy {
    type Cmd = Command;
    type Event = Event;
    fn handle(&mut self, _: Instant, _: In<'_>) {}
    fn command(&mut self, _: Instant, _: Command) {}
    fn handle_timeout(&mut self, _: Instant) {}
    fn drain(&mut self, _: &mut dyn Effects) {}
    fn poll_event(&mut self) -> Option<Event> {
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
    fn weight(command: &Command) -> usize {
        command.1
    }
    fn addressee(event: &Event) -> Option<u64> {
        event.0
    }
}

type Port = PlanePort<Toy, ()>;

fn port() -> Arc<Port> {
    Arc::new(Port::new(Arc::new(Inbox::new(1))))
}

fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// What the driver does with a plane that takes everything.
fn collect(port: &Port) -> Vec<u64> {
    let mut held = VecDeque::new();
    port.collect(0, &mut held);
    port.release(0, held.iter().map(Port::cost).sum());
    held.into_iter().map(|(n, _)| n).collect()
}

#[test]
fn a_port_is_bounded_and_callers_wait_in_order() {
    let port = port();
    let half = PORT_BYTES / 2;
    assert_eq!(port.try_command((0, 10 * PORT_BYTES)), Ok(()), "a large one goes alone");
    assert_eq!(port.try_command((1, 0)), Err(CommandError::Full((1, 0))));
    let (mut second, mut third) = (pin!(port.command((2, half))), pin!(port.command((3, half))));
    assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
    // Not bounded, and before those that wait: it may not fail.
    port.tell((4, 0));
    assert_eq!(collect(&port), [0, 4]);
    assert!(poll(third.as_mut()).is_pending(), "nobody overtakes");
    assert_eq!(poll(second.as_mut()), Poll::Ready(Ok(())));
    assert!(poll(third.as_mut()).is_pending(), "there is no room for both");
    assert_eq!(collect(&port), [2]);
    assert_eq!(poll(third.as_mut()), Poll::Ready(Ok(())));
    // What the plane does not take is not collected over, and still counts.
    let mut held = VecDeque::new();
    port.collect(0, &mut held);
    port.try_command((5, 0)).unwrap();
    port.collect(0, &mut held);
    assert_eq!(held, [(3, half)]);
    assert!(matches!(port.try_command((6, half)), Err(CommandError::Full(_))));
}

#[test]
fn an_answer_finds_its_call_and_a_late_one_nobody() {
    let port = port();
    let number = std::cell::Cell::new(0);
    let mut call = Box::pin(port.call(|n| {
        number.set(n);
        (n, 0)
    }));
    assert!(poll(call.as_mut()).is_pending());
    let old = number.get();
    port.give((Some(old + 1), 1));
    assert!(poll(call.as_mut()).is_pending(), "an answer to somebody else");
    port.give((Some(old), 7));
    port.give((Some(old), 8));
    assert_eq!(poll(call.as_mut()), Poll::Ready(Ok((Some(old), 7))), "the first answer counts");
    drop(call);
    let mut call = Box::pin(port.call(|n| {
        number.set(n);
        (n, 0)
    }));
    assert!(poll(call.as_mut()).is_pending());
    assert_ne!(number.get(), old);
    port.give((Some(old), 9));
    assert!(poll(call.as_mut()).is_pending(), "a late answer to the call before");
    let feed = Port::subscribe(&port, 2);
    (0..5).for_each(|n| port.give((Some(feed.number()), n)));
    assert_eq!(poll(pin!(feed.next())), Poll::Ready(Some((Some(feed.number()), 0))));
    assert_eq!(feed.missed(), 3);
    port.give((None, 3));
    assert_eq!(poll(pin!(port.next_event())), Poll::Ready(Some((None, 3))));
}

#[test]
fn everybody_who_waits_is_told_of_the_end() {
    let port = port();
    let mut called = Box::pin(port.call(|n| (n, 0)));
    let mut answered = Box::pin(port.call(|n| (n, PORT_BYTES)));
    assert!(poll(called.as_mut()).is_pending() && poll(answered.as_mut()).is_pending());
    let mut waiting = Box::pin(port.command((1, PORT_BYTES)));
    assert!(poll(waiting.as_mut()).is_pending());
    let feed = Port::subscribe(&port, 2);
    port.give((Some(feed.number()), 1));
    port.refuse();
    assert_eq!(poll(waiting.as_mut()), Poll::Ready(Err(Stopped)));
    assert!(poll(called.as_mut()).is_pending(), "it may still be answered");
    assert!(matches!(port.try_command((2, 0)), Err(CommandError::Stopped(_))));
    port.close();
    assert_eq!(poll(called.as_mut()), Poll::Ready(Err(Stopped)));
    assert_eq!(poll(answered.as_mut()), Poll::Ready(Err(Stopped)));
    assert!(poll(pin!(feed.next())).is_ready(), "what came before the end");
    assert_eq!(poll(pin!(feed.next())), Poll::Ready(None));
    assert_eq!(poll(pin!(port.next_event())), Poll::Ready(None));
    assert_eq!(poll(pin!(port.call(|n| (n, 0)))), Poll::Ready(Err(Stopped)));
    assert_eq!(poll(pin!(Port::subscribe(&port, 1).next())), Poll::Ready(None));
}
