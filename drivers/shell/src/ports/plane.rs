//! How applications reach planes: typed commands in, typed events out.
//!
//! A command goes through the queue of its plane, which is bounded in bytes; the driver empties it while
//! the plane takes commands. An event goes to the call or subscription whose number it carries, or to
//! whoever reads the plane's events. When the driver stops, everybody who waits is told.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use net_proto::lane::Plane;

use crate::bell::{Inbox, lock};
use crate::mailbox::Mailbox;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::wait::Waiters;

/// What the commands in one port may hold, in bytes; one that is larger goes alone.
pub const PORT_BYTES: usize = 256 << 10;
/// Most events for nobody in particular that wait to be read; one more is counted as missed.
pub const MAX_EVENTS: usize = 1024;
/// Keys of the inbox from this on are ports of planes; below it are streams.
pub(crate) const KEYS: u32 = u32::MAX - 63;

/// Why a command was not taken. It comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError<C> {
    /// Its port is full: the plane is behind.
    #[error("the plane takes no more commands now")]
    Full(C),
    /// The driver stopped, or stops.
    #[error("the driver stopped")]
    Stopped(C),
}

/// The driver stopped before there was an answer. What the command did is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the driver stopped")]
pub struct Stopped;

#[derive(Debug)]
struct Queue<C> {
    dirty: AtomicBool,
    inner: Mutex<Waiting<C>>,
}

#[derive(Debug)]
struct Waiting<C> {
    commands: VecDeque<C>,
    /// Of all commands that the plane did not get yet, also those that the driver holds.
    bytes: usize,
    closed: bool,
    waiters: Waiters,
}

/// Somebody who has a number.
enum Seat<E> {
    Free,
    Call { answer: Option<E>, waker: Option<Waker> },
    Feed(Arc<Mailbox<E>>),
}

struct Desk<E> {
    seats: Vec<(u32, Seat<E>)>,
    free: Vec<u32>,
    closed: bool,
}

impl<E> Desk<E> {
    fn add(&mut self, seat: Seat<E>) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.seats.push((1, Seat::Free));
            (self.seats.len() - 1) as u32
        });
        let place = &mut self.seats[slot as usize];
        place.1 = seat;
        u64::from(place.0) << 32 | u64::from(slot)
    }

    fn get(&mut self, number: u64) -> Option<&mut Seat<E>> {
        let place = self.seats.get_mut(number as u32 as usize)?;
        (u64::from(place.0) == number >> 32).then_some(&mut place.1)
    }

    fn remove(&mut self, number: u64) -> Option<Seat<E>> {
        let seat = std::mem::replace(self.get(number)?, Seat::Free);
        let place = &mut self.seats[number as u32 as usize];
        place.0 = place.0.wrapping_add(1).max(1);
        self.free.push(number as u32);
        Some(seat)
    }
}

/// Commands from application threads to the planes of a driver, and what the planes tell.
pub struct PlanePort<P: Plane, I> {
    inbox: Arc<Inbox<I>>,
    queues: Box<[Queue<P::Cmd>]>,
    desk: Mutex<Desk<P::Event>>,
    events: Mailbox<P::Event>,
}

impl<P: Plane, I> fmt::Debug for PlanePort<P, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlanePort").field("ports", &self.queues.len()).finish_non_exhaustive()
    }
}

/// What a command counts in its port, in bytes.
fn cost<P: Plane>(command: &P::Cmd) -> usize {
    size_of::<P::Cmd>().saturating_add(P::weight(command))
}

impl<P: Plane, I> PlanePort<P, I> {
    /// The ports of a driver that `inbox` wakes.
    pub fn new(inbox: Arc<Inbox<I>>) -> Self {
        let waiting =
            || Waiting { commands: VecDeque::new(), bytes: 0, closed: false, waiters: Waiters::default() };
        let queue = |_| Queue { dirty: AtomicBool::new(false), inner: Mutex::new(waiting()) };
        Self {
            inbox,
            queues: (0..P::PORTS.min(64)).map(queue).collect(),
            desk: Mutex::new(Desk { seats: Vec::new(), free: Vec::new(), closed: false }),
            events: Mailbox::new(MAX_EVENTS),
        }
    }

    /// Queues a command. `over`: whatever the bound says. `ticket` is the waiting caller's, if it waited.
    fn admit(&self, command: P::Cmd, over: bool, ticket: Option<u64>) -> Result<(), CommandError<P::Cmd>> {
        let port = P::port(&command);
        let Some(queue) = self.queues.get(port) else { return Err(CommandError::Stopped(command)) };
        let cost = cost::<P>(&command);
        let mut q = lock(&queue.inner);
        if q.closed {
            return Err(CommandError::Stopped(command));
        }
        let my_turn = q.waiters.is_empty() || ticket.is_some_and(|t| q.waiters.is_head(t));
        let fits = q.bytes == 0 || q.bytes.saturating_add(cost) <= PORT_BYTES;
        if !(over || my_turn && fits) {
            return Err(CommandError::Full(command));
        }
        q.bytes = q.bytes.saturating_add(cost);
        q.commands.push_back(command);
        drop(q);
        if !queue.dirty.swap(true, Ordering::AcqRel) {
            self.inbox.port(KEYS + port as u32);
        }
        Ok(())
    }

    /// Gives a command without waiting. `Ok`: admitted; the plane gets it unless the driver stops.
    pub fn try_command(&self, command: P::Cmd) -> Result<(), CommandError<P::Cmd>> {
        self.admit(command, false, None)
    }

    /// Gives a command; waits while its port is full, callers in order of arrival. `Ok` as in
    /// [`Self::try_command`]. Dropping the future before it is ready gives nothing.
    pub async fn command(&self, command: P::Cmd) -> Result<(), Stopped> {
        let port = P::port(&command);
        let mut place = Place { port: self, index: port, ticket: None };
        let mut command = Some(command);
        poll_fn(|cx| self.poll_command(cx, &mut command, &mut place)).await
    }

    fn poll_command(
        &self,
        cx: &Context<'_>,
        command: &mut Option<P::Cmd>,
        place: &mut Place<'_, P, I>,
    ) -> Poll<Result<(), Stopped>> {
        // Twice: room may have come before the waker was in the list.
        for last in [false, true] {
            let Some(given) = command.take() else { return Poll::Ready(Err(Stopped)) };
            match self.admit(given, false, place.ticket) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(CommandError::Stopped(_)) => return Poll::Ready(Err(Stopped)),
                Err(CommandError::Full(back)) => *command = Some(back),
            }
            if let (false, Some(queue)) = (last, self.queues.get(place.index)) {
                lock(&queue.inner).waiters.enter(&mut place.ticket, cx);
            }
        }
        Poll::Pending
    }

    /// Gives a command that may not wait and may not fail: that a call was given up, or that a reader made
    /// room. Not bounded by [`PORT_BYTES`]; whoever uses it gives at most one for each command before.
    pub fn tell(&self, command: P::Cmd) {
        let _ = self.admit(command, true, None);
    }

    /// Gives the command that `make` forms with a number, and waits for the event that carries it.
    ///
    /// Dropping the future forgets the number: an answer that comes later is dropped. A plane that wants to
    /// know gets a command for it, by [`Self::tell`].
    pub async fn call(&self, make: impl FnOnce(u64) -> P::Cmd) -> Result<P::Event, Stopped> {
        let number = {
            let mut desk = lock(&self.desk);
            if desk.closed {
                return Err(Stopped);
            }
            desk.add(Seat::Call { answer: None, waker: None })
        };
        let _seat = Seated { port: self, number };
        self.command(make(number)).await?;
        poll_fn(|cx| {
            let mut desk = lock(&self.desk);
            let closed = desk.closed;
            match desk.get(number) {
                Some(Seat::Call { answer, waker }) => match answer.take() {
                    Some(answer) => Poll::Ready(Ok(answer)),
                    None if closed => Poll::Ready(Err(Stopped)),
                    None => {
                        match waker {
                            Some(old) => old.clone_from(cx.waker()),
                            None => *waker = Some(cx.waker().clone()),
                        }
                        Poll::Pending
                    }
                },
                _ => Poll::Ready(Err(Stopped)),
            }
        })
        .await
    }

    /// A number for many events, and the queue of at most `capacity` that they come to. What does not fit is
    /// counted as missed, so a plane whose events may not be lost sends no more than commands granted.
    pub fn subscribe(port: &Arc<Self>, capacity: usize) -> Feed<P, I> {
        let mailbox = Arc::new(Mailbox::new(capacity));
        let number = {
            let mut desk = lock(&port.desk);
            if desk.closed {
                mailbox.close();
            }
            desk.add(Seat::Feed(mailbox.clone()))
        };
        Feed { port: port.clone(), mailbox, number }
    }

    /// The next event for nobody in particular; `None` once the driver is gone. Dropping the future takes
    /// nothing.
    pub async fn next_event(&self) -> Option<P::Event> {
        self.events.take(|_| true, || false).await
    }

    /// How many events for nobody in particular did not fit since the last call.
    pub fn missed(&self) -> u64 {
        self.events.missed()
    }

    /// Driver: moves the commands of a port to `into`, if that is empty; the memory is swapped.
    pub fn collect(&self, port: usize, into: &mut VecDeque<P::Cmd>) {
        let Some(queue) = self.queues.get(port) else { return };
        // Before the queue is locked: a command that comes later rings again.
        queue.dirty.store(false, Ordering::Release);
        if into.is_empty() {
            std::mem::swap(&mut lock(&queue.inner).commands, into);
        }
    }

    /// Driver: the plane got commands that cost so many bytes.
    pub fn release(&self, port: usize, bytes: usize) {
        let Some(queue) = self.queues.get(port) else { return };
        let waker = {
            let mut q = lock(&queue.inner);
            q.bytes = q.bytes.saturating_sub(bytes);
            q.waiters.head()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Driver: what a command cost.
    pub fn cost(command: &P::Cmd) -> usize {
        cost::<P>(command)
    }

    /// Driver: what a plane tells, to whom it is for. One for a call or subscription that was given up is
    /// dropped.
    pub fn give(&self, event: P::Event) {
        let Some(number) = P::addressee(&event) else {
            let _ = self.events.push(event);
            return;
        };
        let mut desk = lock(&self.desk);
        match desk.get(number) {
            Some(Seat::Call { answer, waker }) => {
                let waker = waker.take();
                answer.get_or_insert(event);
                drop(desk);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Some(Seat::Feed(mailbox)) => {
                let mailbox = mailbox.clone();
                drop(desk);
                let _ = mailbox.push(event);
            }
            Some(Seat::Free) | None => {}
        }
    }

    /// Driver: no command is admitted from now on; what was admitted and who waits for an answer stays.
    pub fn refuse(&self) {
        for queue in &self.queues {
            let wakers = {
                let mut q = lock(&queue.inner);
                q.closed = true;
                q.waiters.all()
            };
            wakers.wake();
        }
    }

    /// Driver: it is gone. Whoever waits is told; commands that the plane did not get are dropped.
    pub fn close(&self) {
        self.refuse();
        for queue in &self.queues {
            let dropped = std::mem::take(&mut lock(&queue.inner).commands);
            drop(dropped);
        }
        let (mut wakers, mut feeds) = (Vec::new(), Vec::new());
        {
            let mut desk = lock(&self.desk);
            desk.closed = true;
            for (_, seat) in &mut desk.seats {
                match seat {
                    Seat::Call { waker, .. } => wakers.extend(waker.take()),
                    Seat::Feed(mailbox) => feeds.push(mailbox.clone()),
                    Seat::Free => {}
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
        feeds.iter().for_each(|feed| feed.close());
        self.events.close();
    }

    /// Most bytes that the ports may come to hold, without what [`Self::tell`] gave.
    pub fn ceiling(&self) -> usize {
        self.queues.len() * (PORT_BYTES + size_of::<Queue<P::Cmd>>())
            + MAX_EVENTS * size_of::<P::Event>()
            + lock(&self.desk).seats.len() * size_of::<(u32, Seat<P::Event>)>()
    }
}

/// The events of one subscription. Dropping it gives the number up; the plane is not told.
pub struct Feed<P: Plane, I> {
    port: Arc<PlanePort<P, I>>,
    mailbox: Arc<Mailbox<P::Event>>,
    number: u64,
}

impl<P: Plane, I> fmt::Debug for Feed<P, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<P: Plane, I> Feed<P, I> {
    /// The number that events for this subscription carry; goes into the command that starts it.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The next event; `None` once the driver is gone. Dropping the future takes nothing.
    pub async fn next(&self) -> Option<P::Event> {
        self.mailbox.take(|_| true, || false).await
    }

    /// How many events did not fit since the last call.
    pub fn missed(&self) -> u64 {
        self.mailbox.missed()
    }
}

impl<P: Plane, I> Drop for Feed<P, I> {
    fn drop(&mut self) {
        drop(lock(&self.port.desk).remove(self.number));
    }
}

/// The number of a call; given up when the future is done or dropped.
struct Seated<'a, P: Plane, I> {
    port: &'a PlanePort<P, I>,
    number: u64,
}

impl<P: Plane, I> Drop for Seated<'_, P, I> {
    fn drop(&mut self) {
        // Dropped without the lock: an event may hold anything.
        let seat = lock(&self.port.desk).remove(self.number);
        drop(seat);
    }
}

/// A place in the waiting list of a port; leaves it when the future is done or dropped.
struct Place<'a, P: Plane, I> {
    port: &'a PlanePort<P, I>,
    index: usize,
    ticket: Option<u64>,
}

impl<P: Plane, I> Drop for Place<'_, P, I> {
    fn drop(&mut self) {
        let (Some(ticket), Some(queue)) = (self.ticket, self.port.queues.get(self.index)) else { return };
        let next = {
            let mut q = lock(&queue.inner);
            if q.waiters.leave(ticket) { q.waiters.head() } else { None }
        };
        // The next caller may fit into what is left, or into what this one did not take.
        if let Some(waker) = next {
            waker.wake();
        }
    }
}
