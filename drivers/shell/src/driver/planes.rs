//! The driver's side of planes: their commands, events, jobs and storage.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use net_proto::lane::Plane;
use net_proto::node::Input;
use net_proto::storage::{Storage, StoreError, StoreOp, StoreResult, Ticket};
use net_proto::time::Instant;

use super::{Core, Driver, INLINE_SHARE};
use crate::hub::{Control, Planes};
use crate::ports::KEYS;
use crate::storage::state;

/// Rounds of storage in one turn: what completes at once may ask for more.
const ROUNDS: usize = 4;

/// What the driver holds for planes. Empty, and without memory of its own, if there are none.
pub(super) struct Feeding<P: Plane> {
    port: std::sync::Arc<Planes<P>>,
    /// By port: commands that were taken out and that the plane did not get yet.
    held: Vec<VecDeque<P::Cmd>>,
    /// Ports whose plane takes nothing now, one bit each.
    blocked: u64,
    /// Storage operations under way.
    outstanding: usize,
}

impl<P: Plane> Feeding<P> {
    pub(super) fn new(port: std::sync::Arc<Planes<P>>) -> Self {
        let held = (0..P::PORTS.min(64)).map(|_| VecDeque::new()).collect();
        Self { port, held, blocked: 0, outstanding: 0 }
    }

    pub(super) fn port(&self) -> &Planes<P> {
        &self.port
    }

    /// Ports that rang, out of the keys that did; the others stay in `keys`.
    pub(super) fn rung(&self, keys: &mut Vec<u32>) -> u64 {
        let mut rung = self.blocked;
        if P::PORTS > 0 {
            keys.retain(|key| {
                let port = key.checked_sub(KEYS);
                rung |= port.map_or(0, |port| 1 << port);
                port.is_none()
            });
        }
        rung
    }

    /// Gives the planes the commands of these ports, as far as they take them.
    pub(super) fn feed(&mut self, core: &mut Core<P>, now: Instant, ports: u64) {
        let mut fed = false;
        let mut rest = ports;
        while rest != 0 {
            let port = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let Some(held) = self.held.get_mut(port) else { continue };
            // A port is collected only when nothing of it is held; so what waited there is next.
            for _ in 0..if held.is_empty() { 1 } else { 2 } {
                if held.is_empty() {
                    self.port.collect(port, held);
                }
                let mut bytes = 0;
                while core.host.takes(port)
                    && let Some(command) = held.pop_front()
                {
                    bytes += Planes::<P>::cost(&command);
                    core.plane(now, command);
                }
                if bytes > 0 {
                    fed = true;
                    self.port.release(port, bytes);
                }
                if !held.is_empty() {
                    break;
                }
            }
            let bit = 1 << port;
            self.blocked = if held.is_empty() { self.blocked & !bit } else { self.blocked | bit };
        }
        if fed {
            core.drain(now);
        }
    }

    /// Whether a plane takes again what it did not take before.
    pub(super) fn unblocked(&self, core: &Core<P>) -> bool {
        self.blocked != 0
            && (0..P::PORTS).any(|port| self.blocked & (1 << port) != 0 && core.host.takes(port))
    }

    /// Starts the storage operations that planes ask for, and takes what is done. True if more may be done
    /// at once.
    pub(super) fn storage(
        &mut self,
        core: &mut Core<P>,
        storage: &mut Option<Box<dyn Storage>>,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> bool {
        for _ in 0..ROUNDS {
            while let Some((ticket, op)) = core.poll_store() {
                match storage {
                    Some(storage) if !state::is_reserved(&op) => {
                        self.outstanding += 1;
                        storage.submit(ticket, op);
                    }
                    Some(_) => core.stored(now, ticket, Err(StoreError::BadName)),
                    None => core.stored(now, ticket, Err(StoreError::NoDirectory)),
                }
            }
            let Some(storage) = storage.as_mut().filter(|_| self.outstanding > 0) else { return false };
            match storage.poll_done(cx) {
                Poll::Pending => return false,
                Poll::Ready((ticket, result)) => {
                    self.outstanding -= 1;
                    core.stored(now, ticket, result);
                }
            }
        }
        true
    }
}

impl<P: Plane> Core<P> {
    fn plane(&mut self, now: Instant, command: P::Cmd) {
        if let Some(recorder) = &mut self.recorder {
            let step = net_proto::node::Step::plane::<P>(&command);
            self.host.command(now, command);
            recorder.input(now, step, &self.host);
        } else {
            self.host.command(now, command);
        }
    }

    fn drain(&mut self, now: Instant) {
        self.host.drain(now);
        self.note(now, net_proto::node::Step::Drain);
    }

    fn stored(&mut self, now: Instant, ticket: Ticket, result: StoreResult) {
        let step = self.recorder.is_some().then(|| net_proto::node::Step::Stored(ticket, result.clone()));
        self.host.handle_stored(now, ticket, result);
        if let Some(step) = step {
            self.note(now, step);
        }
    }

    fn poll_store(&mut self) -> Option<(Ticket, StoreOp)> {
        let out = self.host.poll_store();
        if let (Some(recorder), Some(store)) = (&mut self.recorder, &out) {
            recorder.value(net_proto::node::Step::Store, store, &self.host);
        }
        out
    }

    pub(super) fn poll_plane_event(&mut self) -> Option<P::Event> {
        let out = self.host.poll_plane_event();
        if let (Some(recorder), Some(event)) = (&mut self.recorder, &out) {
            recorder.value(net_proto::node::Step::Told, event, &self.host);
        }
        out
    }
}

impl<P: Plane> Driver<P> {
    /// What leaves the core for other threads: storage and jobs. True if more may be done at once.
    pub(super) fn effects(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let more = self.feeding.storage(&mut self.core, &mut self.storage, cx, now);
        self.jobs(now);
        more
    }

    /// Heavy work: here, if it takes at most a tenth of the time; else on the pool.
    fn jobs(&mut self, now: Instant) {
        let mut now = now;
        while let Some((ticket, job)) = self.core.poll_job() {
            if now >= self.inline_after {
                let done = job.run();
                let after = self.runtime.now();
                self.inline_after = after + after.since(now) * INLINE_SHARE;
                now = after;
                self.core.handle(now, Input::Job(ticket, done));
            } else {
                let inbox = self.hub.inbox.clone();
                self.runtime.blocking(Box::new(move || inbox.control(Control::Job(ticket, job.run()))));
            }
        }
    }
}
