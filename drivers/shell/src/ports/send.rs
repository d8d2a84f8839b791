//! The sending side of a stream, as applications see it.

use std::future::poll_fn;
use std::task::{Context, Poll};

use net_proto::node::DownReason;
use net_proto::stream::{MAX_MESSAGE, charge, frame_message};

use crate::bell::{Inbox, lock};
use crate::prefetch;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::wait::Waiters;

/// Why nothing was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No credit now.
    #[error("no credit now")]
    Backpressure,
    /// A message is above the limit, or a batch is above what the window can ever take.
    #[error("{len} bytes are above the limit of {limit}")]
    TooLarge {
        /// Length of the message, or charge of the batch, in bytes.
        len: u64,
        /// The most that is possible, in bytes.
        limit: u64,
    },
    /// This side finished or reset the stream.
    #[error("this side of the stream is closed")]
    Closed,
    /// The peer reads no more.
    #[error("the peer stopped reading with code {0}")]
    Stopped(u16),
    /// The association is gone.
    #[error("disconnected: {0}")]
    Disconnected(DownReason),
}

/// What the driver took out of a port.
#[derive(Debug, Default)]
pub struct Collected {
    /// Framed messages. If there were none: empty, with the spare's memory unless the queue took it.
    pub chunk: Vec<u8>,
    /// How many.
    pub messages: u64,
    /// Their bytes, without framing.
    pub bytes: u64,
}

/// Bytes in a line of the cache.
const LINE: usize = 64;

/// Most memory that a queue asks for at once before it knows that it needs it.
const USUAL: usize = 64 << 10;

#[derive(Debug, Default)]
struct Queue {
    chunk: Vec<u8>,
    messages: u64,
    bytes: u64,
    /// Bytes of the last chunk that was collected, at most [`USUAL`]: a queue without memory asks for
    /// so much at once.
    usual: usize,
    /// Charge of everything ever admitted.
    admitted: u64,
    /// Charge of what is queued, as far as the inbox counts it.
    counted: u64,
    /// The driver was rung and did not collect since.
    rung: bool,
    /// The driver looked and left it here: nothing is counted until it collects.
    passed_over: bool,
    closed: Option<SendError>,
    waiters: Waiters,
}

/// A bounded byte queue from application threads to the driver.
///
/// Bounded by the cumulative limit that the node gives. A message or batch whose charge is above half
/// of the first limit (the window) is admitted once half of the window is free; for the largest ones
/// nothing else could ever let them pass.
#[derive(Debug)]
pub struct SendPort<C> {
    key: u32,
    inbox: Arc<Inbox<C>>,
    limit: AtomicU64,
    window: u64,
    max_message: u64,
    queue: Mutex<Queue>,
}

impl<C> SendPort<C> {
    /// A port that rings as `key`; `limit` is the first limit of the stream, in charged bytes;
    /// `max_message` the longest message, in bytes.
    pub fn new(key: u32, inbox: Arc<Inbox<C>>, limit: u64, max_message: u64) -> Self {
        Self {
            key,
            inbox,
            limit: AtomicU64::new(limit),
            window: limit,
            max_message: max_message.min(MAX_MESSAGE as u64),
            queue: Mutex::default(),
        }
    }

    fn fits(&self, admitted: u64, cost: u64) -> bool {
        let free = self.limit.load(Ordering::Acquire).saturating_sub(admitted);
        cost <= free || (cost > self.window / 2 && free >= self.window.div_ceil(2) && free > 0)
    }

    /// Queues all messages or none. `ticket` is the waiting caller's, if it waited.
    fn admit<M: AsRef<[u8]>>(&self, messages: &[M], ticket: Option<u64>) -> Result<(), SendError> {
        let mut cost = 0u64;
        for message in messages {
            let len = message.as_ref().len();
            if len as u64 > self.max_message {
                return Err(SendError::TooLarge { len: len as u64, limit: self.max_message });
            }
            cost = cost.saturating_add(charge(len));
        }
        let batch_limit = self.window.max(self.max_message);
        if messages.len() > 1 && cost > batch_limit {
            return Err(SendError::TooLarge { len: cost, limit: batch_limit });
        }
        let mut q = lock(&self.queue);
        if let Some(why) = q.closed {
            return Err(why);
        }
        // Nobody overtakes a caller that waits, or a large message would starve.
        let my_turn = q.waiters.is_empty() || ticket.is_some_and(|t| q.waiters.is_head(t));
        if !my_turn || !self.fits(q.admitted, cost) {
            return Err(SendError::Backpressure);
        }
        q.admitted += cost;
        if q.chunk.capacity() == 0 {
            let usual = q.usual;
            q.chunk.reserve(usual);
        }
        for message in messages {
            let message = message.as_ref();
            q.messages += 1;
            q.bytes += message.len() as u64;
            frame_message(&mut q.chunk, message);
        }
        // Where the next message goes: a line that the driver, on another core, had last.
        let end = q.chunk.as_ptr_range().end;
        prefetch::for_writing(end.wrapping_add(LINE));
        prefetch::for_writing(end);
        let rings = !messages.is_empty() && !std::mem::replace(&mut q.rung, true);
        if !q.passed_over {
            q.counted += cost;
            // Under the lock: what is collected was counted before.
            self.inbox.queued(cost);
        }
        drop(q);
        if rings {
            self.inbox.port(self.key);
        }
        Ok(())
    }

    /// Queues all messages or none, without waiting. `Ok`: admitted; the driver will send them.
    pub fn try_send<M: AsRef<[u8]>>(&self, messages: &[M]) -> Result<(), SendError> {
        self.admit(messages, None)
    }

    /// Queues all messages or none; waits for credit, callers in order of arrival. Dropping the
    /// future before it is ready queues nothing.
    pub async fn send<M: AsRef<[u8]>>(&self, messages: &[M]) -> Result<(), SendError> {
        let mut place = Place { port: self, ticket: None };
        let mut yielded = false;
        poll_fn(|cx| {
            // Before anything is queued: dropping the future here must queue nothing.
            if !std::mem::replace(&mut yielded, true) && self.inbox.turn_is_over() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Who stands in the line of this stream is woken by its credit alone.
            if place.ticket.is_none() && !self.inbox.may_queue(cx.waker()) {
                return Poll::Pending;
            }
            self.poll_send(cx, messages, &mut place.ticket)
        })
        .await
    }

    fn poll_send<M: AsRef<[u8]>>(
        &self,
        cx: &Context<'_>,
        messages: &[M],
        ticket: &mut Option<u64>,
    ) -> Poll<Result<(), SendError>> {
        match self.admit(messages, *ticket) {
            Err(SendError::Backpressure) => {}
            other => return Poll::Ready(other),
        }
        lock(&self.queue).waiters.enter(ticket, cx);
        // The limit may have risen before the waker was in the list.
        match self.admit(messages, *ticket) {
            Err(SendError::Backpressure) => Poll::Pending,
            other => Poll::Ready(other),
        }
    }

    /// The charge admitted so far.
    pub fn admitted(&self) -> u64 {
        lock(&self.queue).admitted
    }

    /// No message is admitted from now on, for this reason. What was admitted stays. The first
    /// reason stays.
    pub fn close(&self, why: SendError) {
        let wakers = {
            let mut q = lock(&self.queue);
            q.closed.get_or_insert(why);
            q.waiters.all()
        };
        wakers.wake();
    }

    /// Driver: a new cumulative limit. It only rises.
    pub fn raise(&self, limit: u64) {
        if self.limit.fetch_max(limit, Ordering::AcqRel) < limit {
            let waker = lock(&self.queue).waiters.head();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Driver: whether something may wait to be collected.
    pub fn has_rung(&self) -> bool {
        lock(&self.queue).rung
    }

    /// Driver: what is queued has to wait for its stream, so nobody else need wait for that.
    pub fn pass_over(&self) {
        let counted = {
            let mut q = lock(&self.queue);
            q.passed_over = true;
            std::mem::take(&mut q.counted)
        };
        self.inbox.seen(counted);
    }

    /// Driver: takes what is queued; `spare` becomes the next queue.
    pub fn collect(&self, spare: Vec<u8>) -> Collected {
        let (collected, counted) = self.take(spare);
        self.inbox.seen(counted);
        collected
    }

    /// What is queued, and how much of it the inbox counts.
    fn take(&self, mut spare: Vec<u8>) -> (Collected, u64) {
        spare.clear();
        let mut q = lock(&self.queue);
        q.rung = false;
        q.passed_over = false;
        let counted = std::mem::take(&mut q.counted);
        if q.chunk.is_empty() {
            if q.chunk.capacity() == 0 {
                std::mem::swap(&mut q.chunk, &mut spare);
            }
            // Memory that is not needed here goes back.
            return (Collected { chunk: spare, ..Collected::default() }, counted);
        }
        q.usual = q.chunk.len().min(USUAL);
        let collected = Collected {
            chunk: std::mem::replace(&mut q.chunk, spare),
            messages: std::mem::take(&mut q.messages),
            bytes: std::mem::take(&mut q.bytes),
        };
        (collected, counted)
    }
}

impl<C> Drop for SendPort<C> {
    fn drop(&mut self) {
        self.pass_over();
    }
}

/// A place in the waiting list; leaves it when the future is done or dropped.
struct Place<'a, C> {
    port: &'a SendPort<C>,
    ticket: Option<u64>,
}

impl<C> Drop for Place<'_, C> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let next = {
            let mut q = lock(&self.port.queue);
            let was_head = q.waiters.leave(ticket);
            if was_head { q.waiters.head() } else { None }
        };
        // The next caller may fit into what is left, or into what this one did not take.
        if let Some(waker) = next {
            waker.wake();
        }
    }
}
