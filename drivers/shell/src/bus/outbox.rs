//! The task of the outbox: from the logs to the disk, and what became durable back to the shards.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use net_proto::bus::{Outbox, OutboxError, ReaderId, Shard, Slice};
use net_proto::storage::{Storage, StoreError};

use super::Bus;
use crate::apart::apart;
use crate::bell::{Bell, lock};
use crate::runtime::BoxFuture;
use crate::wait::Waiters;

const NAME: &str = "net outbox";

/// Bytes taken from one shard's log at a time.
const FETCH: u64 = 1 << 20;
/// Looks in a row that find nothing new before the next commit is formed without producers of the last one.
const PATIENCE: u32 = 32;

/// What the rest of a bus sees of its outbox.
#[derive(Debug, Default)]
pub(super) struct OutboxShared {
    pub(super) bell: Arc<Bell>,
    state: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    error: Option<OutboxError>,
    finish: bool,
    over: bool,
    commits: u64,
    waiters: Waiters,
}

impl OutboxShared {
    pub(super) fn error(&self) -> Option<OutboxError> {
        lock(&self.state).error.clone()
    }

    pub(super) fn commits(&self) -> u64 {
        lock(&self.state).commits
    }

    /// Notes what is acknowledged, ends the task, and waits for that.
    pub(super) async fn finish(&self) {
        lock(&self.state).finish = true;
        self.bell.ring();
        let mut ticket = None;
        poll_fn(|cx| {
            let mut state = lock(&self.state);
            if state.over {
                if let Some(ticket) = ticket {
                    state.waiters.leave(ticket);
                }
                return Poll::Ready(());
            }
            state.waiters.enter(&mut ticket, cx);
            Poll::Pending
        })
        .await;
    }
}

/// Tells that the task is over, however it ends.
struct Over(Arc<OutboxShared>);

impl Drop for Over {
    fn drop(&mut self) {
        let wakers = {
            let mut state = lock(&self.0.state);
            state.over = true;
            state.waiters.all()
        };
        wakers.wake();
    }
}

struct Task {
    bus: Arc<Bus>,
    machine: Outbox,
    storage: Box<dyn Storage>,
    readers: Vec<Source>,
    shared: Arc<OutboxShared>,
    slices: VecDeque<Slice>,
    /// On a thread of its own, where the storage works and waiting does not keep others from running.
    apart: bool,
    /// Calls that the last commit released: their producers are about to emit again.
    released: u64,
}

/// A shard whose events are collected.
struct Source {
    shard: Shard,
    id: ReaderId,
    /// Number of the next event.
    next: u64,
}

/// Recovers the outbox and replays into the logs of a bus that does not run yet, then starts the
/// task.
pub(super) async fn start(
    bus: &Arc<Bus>,
    mut storage: Box<dyn Storage>,
    segment_bytes: u64,
    shared: Arc<OutboxShared>,
) -> Result<(), OutboxError> {
    let mut machine = Outbox::new(bus.producer(), segment_bytes);
    loop {
        while let Some((ticket, op)) = machine.poll_store() {
            storage.submit(ticket, op);
        }
        if machine.is_idle() {
            break;
        }
        let (ticket, result) = poll_fn(|cx| storage.poll_done(cx)).await;
        machine.handle_stored(ticket, result);
    }
    while let Some(record) = machine.poll_replay() {
        let cell = bus.cell(record.shard).ok_or(OutboxError::NoShard(record.shard))?;
        let at = cell.replay(record.incarnation, record.seq, record.stamp, &record.body);
        machine.handle_replayed(at);
    }
    if let Some(error) = machine.error() {
        return Err(error.clone());
    }
    let mut readers = Vec::new();
    for shard in bus.all_shards() {
        let Some(cell) = bus.cell(shard) else { continue };
        // What was replayed is on disk already; what comes from here on is this life's.
        cell.begin(bus.incarnation());
        let next = cell.range().1;
        cell.set_gate(next);
        cell.confirm(next - 1, 0, 0);
        if let Some((id, _)) = cell.attach(Some(next), true) {
            readers.push(Source { shard, id, next });
        }
    }
    let over = Over(shared.clone());
    let (apart_, slices) = (storage.inline(), VecDeque::new());
    let task =
        Task { bus: bus.clone(), machine, storage, readers, shared, slices, apart: apart_, released: 0 };
    let task: BoxFuture = Box::pin(async move {
        let _over = over;
        // Declared after it, so the storage and its lock are gone before anybody hears of the end.
        let mut task = task;
        poll_fn(|cx| task.poll(cx)).await;
    });
    let task = if apart_ { Box::pin(apart(NAME, task).map_err(|_| StoreError::Io)?) } else { task };
    bus.runtime().spawn(NAME, task);
    Ok(())
}

impl Task {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.shared.bell.doze(cx.waker());
            self.gather();
            let finish = lock(&self.shared.state).finish || self.bus.is_drained();
            let mut moved = self.collect();
            if finish {
                self.machine.finish();
            }
            while let Some((ticket, op)) = self.machine.poll_store() {
                self.storage.submit(ticket, op);
                moved = true;
            }
            while let Poll::Ready((ticket, result)) = self.storage.poll_done(cx) {
                self.machine.handle_stored(ticket, result);
                moved = true;
            }
            while let Some((shard, upto)) = self.machine.poll_durable() {
                if let Some(cell) = self.bus.cell(shard) {
                    cell.set_gate(upto + 1);
                    self.released += cell.confirm(upto, 0, 0) as u64;
                }
            }
            if let Some(error) = self.machine.error() {
                tracing::error!(%error, "the outbox of the event bus failed; it promises nothing any more");
                self.fail(error.clone());
                return Poll::Ready(());
            }
            lock(&self.shared.state).commits = self.machine.commits();
            if moved {
                continue;
            }
            if finish && self.machine.is_idle() {
                return Poll::Ready(());
            }
            let bell = &self.shared.bell;
            let quiet = self.readers.iter().all(|Source { shard, next, .. }| {
                let Some(cell) = self.bus.cell(*shard) else { return true };
                // Full: the commit under way wakes this task. Closed: what was emitted was collected.
                !self.machine.has_room()
                    || cell.may_sleep(*next, false, bell)
                    || cell.is_closed() && *next >= cell.range().1
            });
            if quiet {
                return Poll::Pending;
            }
        }
    }

    /// Events that wait to be collected. Takes no lock.
    fn waiting(&self) -> u64 {
        let of = |s: &Source| Some(self.bus.cell(s.shard)?.published().saturating_sub(s.next));
        self.readers.iter().filter_map(of).sum()
    }

    /// After a commit: lets its producers emit again, so that they share the next one. A commit that began with the
    /// first of them would leave the others to the one after, and each would be half as full.
    fn gather(&mut self) {
        let expected = std::mem::take(&mut self.released);
        if !self.apart {
            return;
        }
        let (mut came, mut idle) = (self.waiting(), 0);
        while came < expected && idle < PATIENCE {
            std::thread::yield_now();
            let now = self.waiting();
            idle = if now > came { 0 } else { idle + 1 };
            came = now;
        }
    }

    fn collect(&mut self) -> bool {
        let mut moved = false;
        for Source { shard, id, next } in &mut self.readers {
            let Some(cell) = self.bus.cell(*shard) else { continue };
            self.machine.handle_acked(*shard, cell.confirmed().1);
            if !self.machine.has_room() {
                continue;
            }
            cell.read(*id, (usize::MAX, FETCH, u64::MAX), 0, &mut self.slices);
            for slice in self.slices.drain(..) {
                moved = true;
                *next = slice.end();
                for event in slice.iter() {
                    let name = (event.incarnation, event.seq);
                    self.machine.append(*shard, event.at, name, event.stamp, event.body);
                }
            }
        }
        moved
    }

    fn fail(&self, error: OutboxError) {
        lock(&self.shared.state).error = Some(error);
        self.bus.close();
        for cell in self.bus.all_shards().filter_map(|shard| self.bus.cell(shard)) {
            cell.stop(false);
        }
    }
}

#[cfg(test)]
mod tests;
