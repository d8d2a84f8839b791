//! The order in which an outbox ends.

use net_proto::storage::{StoreOp, StoreResult, Ticket};

use super::*;
use crate::bus::by_hand::{ByHand, block_on, bus};
use crate::storage::{Disk, Forgetting};

/// Notes whether the end had been told when this storage, and with it its lock, went.
struct Watched {
    inner: Forgetting,
    inline: bool,
    end: Arc<OutboxShared>,
    told: Arc<Mutex<Option<bool>>>,
}

impl Storage for Watched {
    fn submit(&mut self, ticket: Ticket, op: StoreOp) {
        self.inner.submit(ticket, op);
    }
    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<(Ticket, StoreResult)> {
        self.inner.poll_done(cx)
    }
    fn inline(&mut self) -> bool {
        self.inline
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        *lock(&self.told) = Some(lock(&self.end.state).over);
    }
}

/// Who is told that a bus ended may open the same outbox at once.
#[test]
fn the_lock_is_gone_before_anybody_hears_of_the_end() {
    for inline in [false, true] {
        let runtime = Arc::new(ByHand::default());
        let (bus, end, told) = (bus(&runtime, 1), Arc::<OutboxShared>::default(), Arc::default());
        let inner = Disk::new().open();
        let storage = Watched { inner, inline, end: end.clone(), told: Arc::clone(&told) };
        block_on(&runtime, start(&bus, Box::new(storage), 1 << 16, end.clone())).expect("an outbox");
        bus.emit(0, b"an event").expect("room");
        block_on(&runtime, end.finish());
        assert_eq!(*lock(&told), Some(false), "on a thread of its own: {inline}");
    }
}
