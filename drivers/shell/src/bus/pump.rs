//! The task of one shard with an adapter: from the log through the pipeline to a link.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use net_proto::bus::{EventId, Flight, LinkState, Pipeline, PipelineConfig, ReaderId, Shard};

use super::adapter::{Adapter, AdapterError, Batch, BoxFut, Link, Outgoing};
use super::{Bus, ShardCell};
use crate::bell::{Bell, lock};
use crate::runtime::Timer;
use crate::wait::Waiters;

/// What the handles of a bus see of a pump.
#[derive(Debug, Default)]
pub(super) struct PumpShared {
    pub(super) bell: Arc<Bell>,
    /// Send no more; end now.
    give_up: AtomicBool,
    /// Events that were sent again.
    resent: AtomicU64,
    over: Mutex<(bool, Waiters)>,
    /// Why the link failed last, until it works again.
    error: Mutex<Option<AdapterError>>,
}

impl PumpShared {
    /// Ends without waiting for the engine.
    pub(super) fn give_up(&self) {
        self.give_up.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.bell.ring();
    }

    pub(super) fn error(&self) -> Option<AdapterError> {
        lock(&self.error).clone()
    }

    pub(super) fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        lock(&self.over).0
    }

    /// Waits for the end of the task.
    pub(super) async fn over(&self) {
        let mut ticket = None;
        poll_fn(|cx| {
            let mut over = lock(&self.over);
            if over.0 {
                if let Some(ticket) = ticket {
                    over.1.leave(ticket);
                }
                return Poll::Ready(());
            }
            over.1.enter(&mut ticket, cx);
            Poll::Pending
        })
        .await;
    }
}

/// Tells that the task is over, however it ends.
struct Over(Arc<PumpShared>);

impl Drop for Over {
    fn drop(&mut self) {
        let wakers = {
            let mut over = lock(&self.0.over);
            over.0 = true;
            over.1.all()
        };
        wakers.wake();
    }
}

type Opening = BoxFut<'static, Result<Box<dyn Link>, AdapterError>>;

struct Pump {
    bus: Arc<Bus>,
    adapter: Arc<dyn Adapter>,
    shard: Shard,
    reader: ReaderId,
    pipeline: Pipeline,
    opening: Option<Opening>,
    link: Option<Box<dyn Link>>,
    timer: Box<dyn Timer>,
    shared: Arc<PumpShared>,
}

/// The task. It holds the bus, and ends after [`Bus::close`].
pub(super) fn pump(
    bus: Arc<Bus>,
    adapter: Arc<dyn Adapter>,
    shard: Shard,
    shared: Arc<PumpShared>,
) -> impl Future<Output = ()> + Send + 'static {
    let (config, caps) = (bus.config(), adapter.caps());
    let mut batch = config.batch;
    batch.max_events = batch.max_events.min(caps.batch_events.max(1));
    let settings = PipelineConfig {
        batch,
        batch_bytes: u64::from(caps.batch_bytes.max(1)),
        window: usize::from(caps.window.max(1)),
    };
    let runtime = bus.runtime().clone();
    let pipeline = Pipeline::new(settings, runtime.now(), &runtime.entropy());
    let over = Over(shared.clone());
    let reader = bus.cell(shard).and_then(ShardCell::sender);
    let mut pump = reader.map(|reader| Pump {
        timer: runtime.timer(),
        bus,
        adapter,
        shard,
        reader,
        pipeline,
        opening: None,
        link: None,
        shared,
    });
    async move {
        if let Some(pump) = &mut pump {
            poll_fn(|cx| pump.poll(cx)).await;
            drop(over);
            // The outbox ends after the last pump.
            pump.bus.acknowledged();
        }
    }
}

impl Pump {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let bus = self.bus.clone();
        let Some(cell) = bus.cell(self.shard) else { return Poll::Ready(()) };
        loop {
            self.shared.bell.doze(cx.waker());
            if self.shared.give_up.load(Ordering::Acquire) {
                self.end(cell);
                return Poll::Ready(());
            }
            let now = bus.runtime().now();
            let mut moved = self.open(cx, now);
            moved |= self.acknowledged(cx, cell, now);
            moved |= self.send(cell, now);
            if self.pipeline.state() == LinkState::Over {
                self.end(cell);
                return Poll::Ready(());
            }
            if moved {
                continue;
            }
            let depth = self.depth(cell);
            let closed = cell.is_closed();
            if closed && (self.is_done(cell, depth) || bus.linger().is_some_and(|end| end <= now)) {
                self.end(cell);
                return Poll::Ready(());
            }
            if depth == 0 {
                let next = cell.reader_next(self.reader);
                // What the outbox does not have yet is still to come, also once nothing more is taken.
                if closed {
                    cell.listen(&self.shared.bell);
                    if self.depth(cell) > 0 {
                        continue;
                    }
                } else if !cell.may_sleep(next, true, &self.shared.bell) {
                    continue;
                }
            }
            let at = self.pipeline.poll_timeout(now, depth).map(|(at, _)| at);
            let end = bus.linger().filter(|_| closed);
            let at = at.into_iter().chain(end).min();
            match self.timer.poll(cx, at) {
                Poll::Ready(()) if at.is_some_and(|at| at <= bus.runtime().now()) => {}
                _ => return Poll::Pending,
            }
        }
    }

    /// Whether everything that a closed shard holds is in the engine, or can never come to be sent.
    fn is_done(&self, cell: &ShardCell, depth: u64) -> bool {
        let all = || cell.reader_next(self.reader) >= cell.range().1 || self.bus.outbox_error().is_some();
        depth == 0 && self.pipeline.under_way() == 0 && all()
    }

    fn depth(&self, cell: &ShardCell) -> u64 {
        cell.sendable().saturating_sub(cell.reader_next(self.reader))
    }

    fn open(&mut self, cx: &mut Context<'_>, now: net_proto::time::Instant) -> bool {
        if self.opening.is_none() && self.pipeline.poll_open(now) {
            let (adapter, shard) = (self.adapter.clone(), self.shard);
            self.opening = Some(Box::pin(async move { adapter.open(shard).await }));
        }
        let Some(opening) = &mut self.opening else { return false };
        let Poll::Ready(result) = opening.as_mut().poll(cx) else { return false };
        self.opening = None;
        match result {
            Ok(link) => {
                self.link = Some(link);
                self.pipeline.handle_opened();
                *lock(&self.shared.error) = None;
            }
            Err(error) => self.failed(error),
        }
        true
    }

    fn acknowledged(
        &mut self,
        cx: &mut Context<'_>,
        cell: &ShardCell,
        _now: net_proto::time::Instant,
    ) -> bool {
        let mut moved = false;
        while let Some(link) = &mut self.link {
            match link.poll_ack(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(ack)) => match self.pipeline.handle_ack(ack.upto) {
                    Ok(events) => {
                        cell.confirm(0, ack.upto, events);
                        self.bus.acknowledged();
                    }
                    Err(bad) => self.failed(AdapterError::Protocol(bad.to_string())),
                },
                Poll::Ready(Err(error)) => self.failed(error),
            }
            moved = true;
        }
        moved
    }

    fn send(&mut self, cell: &ShardCell, now: net_proto::time::Instant) -> bool {
        let mut moved = false;
        let mut taken = VecDeque::new();
        loop {
            let depth = self.depth(cell);
            let Some((events, bytes)) = self.pipeline.wants(now, depth) else { break };
            let upto = cell.sendable();
            cell.read(self.reader, (events, bytes, upto), 0, &mut taken);
            moved = true;
            if taken.is_empty() {
                break;
            }
            self.pipeline.handle_taken(now, taken.drain(..));
        }
        while let Some(link) = &mut self.link {
            let Some(flight) = self.pipeline.poll_send() else { break };
            let batch = batch(&self.bus, self.shard, flight);
            moved = true;
            if let Err(error) = link.send(batch) {
                self.failed(error);
            }
        }
        self.shared.resent.store(self.pipeline.resent(), Ordering::Relaxed);
        moved
    }

    fn failed(&mut self, error: AdapterError) {
        self.link = None;
        self.pipeline.handle_failed(self.bus.runtime().now(), !error.is_retryable());
        tracing::warn!(shard = self.shard, adapter = self.adapter.name(), %error, "link of the event bus failed");
        *lock(&self.shared.error) = Some(error);
    }

    fn end(&mut self, cell: &ShardCell) {
        self.link = None;
        self.opening = None;
        cell.close();
        self.pipeline.abandon();
        cell.stop(true);
        cell.detach(self.reader);
    }
}

fn batch(bus: &Bus, shard: Shard, flight: &Flight) -> Batch {
    let outgoing = |(slice, event): (&net_proto::bus::Slice, net_proto::bus::Event<'_>)| Outgoing {
        id: EventId { producer: bus.producer(), incarnation: event.incarnation, shard, seq: event.seq },
        stamp: event.stamp,
        raw: slice.share(event.body),
    };
    let mut events = Vec::with_capacity(usize::try_from(flight.len()).unwrap_or(0));
    events.extend(flight.events().map(outgoing));
    Batch { shard, first: flight.first(), events }
}
