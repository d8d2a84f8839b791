//! The receiving side of a stream, as applications see it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use net_proto::node::DownReason;
use net_proto::stream::{Messages, Mode, Taken, charge};

use crate::bell::{Inbox, lock};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use crate::wait::Waiters;

/// Why no more messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// The peer finished the stream: everything was delivered.
    #[error("the peer finished the stream")]
    Finished,
    /// The peer dropped what it had not sent.
    #[error("the peer reset the stream with code {0}")]
    Reset(u16),
    /// This side stopped reading.
    #[error("this side stopped reading")]
    Stopped,
    /// The association is gone.
    #[error("disconnected: {0}")]
    Disconnected(DownReason),
}

/// Most emptied chunks kept for the node to fill again.
const SPARES: usize = 4;

#[derive(Debug, Default)]
struct Arrived {
    chunks: VecDeque<Taken>,
    spares: Vec<Vec<u8>>,
    end: Option<End>,
    waiters: Waiters,
}

impl Arrived {
    fn keep(&mut self, mut spare: Vec<u8>) {
        if spare.capacity() > 0 && self.spares.len() < SPARES {
            spare.clear();
            self.spares.push(spare);
        }
    }
}

/// What readers hold: the driver never waits for this lock, so an application may compute under it.
#[derive(Debug, Default)]
struct Reader {
    chunks: VecDeque<Taken>,
    /// Memory of chunks that were read, for the driver.
    emptied: Vec<Vec<u8>>,
    /// Bytes of the first chunk that were read.
    at: usize,
    /// Number of the next message, in ordered modes.
    next: u64,
    end: Option<End>,
}

/// Messages on their way from the driver to application threads.
///
/// What lies here counts against the window that the peer was granted, so the window bounds it.
#[derive(Debug)]
pub struct RecvPort<C> {
    key: u32,
    inbox: Arc<Inbox<C>>,
    /// Drained charge at which the driver is told.
    quarter: u64,
    unreported: AtomicU64,
    dirty: AtomicBool,
    /// This side reads no more: what the reader still holds is dropped with its next call.
    stopped: AtomicBool,
    arrived: Mutex<Arrived>,
    reader: Mutex<Reader>,
}

impl<C> RecvPort<C> {
    /// A port that rings as `key`; `window` is the stream's, in charged bytes.
    pub fn new(key: u32, inbox: Arc<Inbox<C>>, window: u64) -> Self {
        Self {
            key,
            inbox,
            quarter: (window / 4).max(1),
            unreported: AtomicU64::new(0),
            dirty: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            arrived: Mutex::default(),
            reader: Mutex::default(),
        }
    }

    /// Driver: memory for the next chunk.
    pub fn spare(&self) -> Vec<u8> {
        lock(&self.arrived).spares.pop().unwrap_or_default()
    }

    /// Driver: what [`RecvPort::spare`] gave, if it was not needed.
    pub fn keep(&self, spare: Vec<u8>) {
        lock(&self.arrived).keep(spare);
    }

    /// Driver: appends a chunk. [`RecvPort::wake`] follows once per turn.
    ///
    /// Once this side reads no more it is dropped: the node does not know yet.
    pub fn push(&self, chunk: Taken) {
        let mut arrived = lock(&self.arrived);
        if arrived.end == Some(End::Stopped) {
            return;
        }
        match arrived.chunks.back_mut() {
            // What no reader holds yet grows within its memory: a slow reader finds few chunks.
            Some(last) if follows(last, &chunk) => {
                last.chunk.extend_from_slice(&chunk.chunk);
                arrived.keep(chunk.chunk);
            }
            _ => arrived.chunks.push_back(chunk),
        }
    }

    /// Driver: wakes whoever waits.
    pub fn wake(&self) {
        let wakers = lock(&self.arrived).waiters.all();
        wakers.wake();
    }

    /// No more chunks come, for this reason. What arrived can still be read. The first reason stays.
    pub fn end(&self, why: End) {
        let wakers = {
            let mut arrived = lock(&self.arrived);
            arrived.end.get_or_insert(why);
            arrived.waiters.all()
        };
        wakers.wake();
    }

    /// This side reads no more: drops what arrived.
    pub fn stop(&self) {
        // The reader's lock is not taken: who reads may be the caller, or take long.
        self.stopped.store(true, Ordering::Release);
        let (dropped, wakers) = {
            let mut arrived = lock(&self.arrived);
            arrived.end = Some(End::Stopped);
            (std::mem::take(&mut arrived.chunks), arrived.waiters.all())
        };
        wakers.wake();
        let sum = dropped.iter().map(|taken| sum_of(taken, 0)).sum();
        self.drained(sum, true);
    }

    /// Driver: the charge drained since the last call.
    pub fn consumed(&self) -> u64 {
        self.dirty.store(false, Ordering::Release);
        let charge = self.unreported.swap(0, Ordering::AcqRel);
        self.inbox.reported(charge);
        charge
    }

    /// Counts drained charge; wakes the driver if it is worth it, and leaves word for the next turn
    /// if this reader is about to wait.
    fn drained(&self, charge: u64, waits: bool) {
        // The sum over all streams first: it may never be less than what a port will take from it.
        let much = charge != 0 && self.inbox.drained(charge);
        let mine = if charge == 0 {
            self.unreported.load(Ordering::Acquire)
        } else {
            self.unreported.fetch_add(charge, Ordering::AcqRel) + charge
        };
        let worth = much || mine >= self.quarter;
        if mine == 0 || !(worth || waits) {
            return;
        }
        let first = !self.dirty.swap(true, Ordering::AcqRel);
        match (first, worth) {
            (true, true) => self.inbox.port(self.key),
            (true, false) => self.inbox.port_later(self.key),
            // Word was left for the next turn, but now it should come soon.
            (false, true) => self.inbox.nudge(),
            (false, false) => {}
        }
    }

    /// Reads up to `max` messages that are there. `Ready(Ok(0))`: the end (`max` above zero).
    fn poll_read(
        &self,
        cx: &Context<'_>,
        ticket: &mut Option<u64>,
        max: usize,
        read: &mut dyn FnMut(&[u8]),
    ) -> Poll<Result<usize, End>> {
        // Reports on drop: credit comes back even if `read` panics.
        let mut report = Report { port: self, sum: 0, waits: true };
        let mut reader = lock(&self.reader);
        if self.stopped.load(Ordering::Acquire) {
            // Their credit is not reported: the node counts all of it as drained when it stops.
            reader.chunks.clear();
        }
        let mut count = 0;
        loop {
            count += reader.read(max - count, &mut report.sum, read);
            if count == max {
                break;
            }
            // The lock of the arrivals is taken once per swap, not once per message.
            let mut arrived = lock(&self.arrived);
            reader.emptied.drain(..).for_each(|empty| arrived.keep(empty));
            while let Some(empty) = reader.chunks.pop_front() {
                arrived.keep(empty.chunk);
            }
            reader.at = 0;
            if !arrived.chunks.is_empty() {
                std::mem::swap(&mut reader.chunks, &mut arrived.chunks);
                reader.start_chunk();
                continue;
            }
            reader.end = arrived.end;
            if count == 0 && arrived.end.is_none() && max > 0 {
                arrived.waiters.enter(ticket, cx);
            }
            break;
        }
        let end = reader.end;
        drop(reader);
        report.waits = count == 0;
        drop(report);
        match (count, end) {
            (0, _) if max == 0 => Poll::Ready(Ok(0)),
            (0, None) => Poll::Pending,
            (0, Some(End::Finished)) => Poll::Ready(Ok(0)),
            (0, Some(end)) => Poll::Ready(Err(end)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    /// Waits for messages, hands up to `max` of those that are there to `read`, and returns how
    /// many; zero at the end of the stream. Dropping the future loses nothing: it takes messages
    /// only in the call that returns them.
    ///
    /// `read` must not read from the same stream.
    pub async fn recv_many(&self, max: usize, mut read: impl FnMut(&[u8])) -> Result<usize, End> {
        let mut place = Place { port: self, ticket: None };
        poll_fn(|cx| self.poll_read(cx, &mut place.ticket, max, &mut read)).await
    }

    /// Waits for one message and hands it to `read`; `None` at the end. Otherwise as
    /// [`RecvPort::recv_many`].
    pub async fn recv_with<R>(&self, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>, End> {
        let (mut read, mut out) = (Some(read), None);
        self.recv_many(1, |message| out = read.take().map(|read| read(message))).await?;
        Ok(out)
    }

    /// Waits for one message; `None` at the end. Otherwise as [`RecvPort::recv_many`].
    pub async fn recv(&self) -> Result<Option<Bytes>, End> {
        self.recv_with(Bytes::copy_from_slice).await
    }

    /// A message that is there already.
    pub fn try_recv(&self) -> Option<Bytes> {
        let mut out = None;
        let mut read = |message: &[u8]| out = Some(Bytes::copy_from_slice(message));
        let (mut ticket, waker) = (None, std::task::Waker::noop());
        let _ = self.poll_read(&Context::from_waker(waker), &mut ticket, 1, &mut read);
        if let Some(ticket) = ticket {
            lock(&self.arrived).waiters.leave(ticket);
        }
        out
    }
}

/// Whether a chunk can be appended to the one before it, without asking for memory: in order, messages
/// are numbered from the first.
fn follows(last: &Taken, next: &Taken) -> bool {
    let ordered = last.mode == Mode::Reliable && next.mode == Mode::Reliable;
    ordered && next.chunk.len() <= last.chunk.capacity() - last.chunk.len()
}

impl Reader {
    fn start_chunk(&mut self) {
        self.at = 0;
        self.next = self.chunks.front().map_or(0, |taken| taken.first);
    }

    /// Reads messages of the chunks held; adds their charges to `sum`.
    fn read(&mut self, max: usize, sum: &mut u64, read: &mut dyn FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < max {
            let Some(taken) = self.chunks.front() else { break };
            let mut messages = Messages::received(&taken.chunk[self.at..], taken.mode, self.next);
            let Some((number, message)) = messages.next() else {
                if self.chunks.len() == 1 {
                    // Kept: its memory goes back with the next swap.
                    self.at = taken.chunk.len();
                    break;
                }
                if let Some(taken) = self.chunks.pop_front()
                    && self.emptied.len() < SPARES
                {
                    self.emptied.push(taken.chunk);
                }
                self.start_chunk();
                continue;
            };
            // Counted before the application sees it: if it panics, the message is gone, not read twice.
            self.next = number + 1;
            self.at = taken.chunk.len() - messages.rest().len();
            *sum += charge(message.len());
            count += 1;
            read(message);
        }
        count
    }
}

/// The charge of a chunk's messages from byte `at` on.
fn sum_of(taken: &Taken, at: usize) -> u64 {
    Messages::received(&taken.chunk[at..], taken.mode, taken.first).map(|(_, m)| charge(m.len())).sum()
}

struct Report<'a, C> {
    port: &'a RecvPort<C>,
    sum: u64,
    waits: bool,
}

impl<C> Drop for Report<'_, C> {
    fn drop(&mut self) {
        self.port.drained(self.sum, self.waits);
    }
}

/// A place in the waiting list; leaves it when the future is done or dropped.
struct Place<'a, C> {
    port: &'a RecvPort<C>,
    ticket: Option<u64>,
}

impl<C> Drop for Place<'_, C> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let others = {
                let mut arrived = lock(&self.port.arrived);
                arrived.waiters.leave(ticket);
                if arrived.chunks.is_empty() { None } else { Some(arrived.waiters.all()) }
            };
            // The wake that this future got may have been meant for what another one waits for.
            if let Some(others) = others {
                others.wake();
            }
        }
    }
}
