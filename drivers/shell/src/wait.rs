//! Waiting lists for futures: one entry per future that waits, gone when the future is.

use std::collections::VecDeque;
use std::task::{Context, Waker};

/// Tasks that wait for one thing, in order of arrival. Bounded by the futures that hold a ticket.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    next: u64,
    list: VecDeque<(u64, Waker)>,
}

impl Waiters {
    /// Enters the list under `ticket`, or renews the waker there.
    pub(crate) fn enter(&mut self, ticket: &mut Option<u64>, cx: &Context<'_>) {
        if let Some(id) = *ticket
            && let Some((_, waker)) = self.list.iter_mut().find(|(held, _)| *held == id)
        {
            waker.clone_from(cx.waker());
            return;
        }
        // A ticket that was called goes to the end only if it was given up, which callers avoid.
        let id = self.next;
        self.next += 1;
        *ticket = Some(id);
        self.list.push_back((id, cx.waker().clone()));
    }

    /// Leaves the list. True if it stood at the head.
    pub(crate) fn leave(&mut self, ticket: u64) -> bool {
        let head = self.is_head(ticket);
        self.list.retain(|(id, _)| *id != ticket);
        head
    }

    pub(crate) fn is_head(&self, ticket: u64) -> bool {
        self.list.front().is_some_and(|(id, _)| *id == ticket)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The head, to be woken outside the lock; it stays in the list.
    pub(crate) fn head(&self) -> Option<Waker> {
        self.list.front().map(|(_, waker)| waker.clone())
    }

    /// All, to be woken outside the lock; they stay in the list until they leave. One waiter, the
    /// usual case, costs no allocation.
    pub(crate) fn all(&self) -> Wakers {
        let mut rest = self.list.iter().map(|(_, waker)| waker.clone());
        Wakers { first: rest.next(), rest: rest.collect() }
    }
}

/// Wakers taken out of a list.
pub(crate) struct Wakers {
    first: Option<Waker>,
    rest: Vec<Waker>,
}

impl Wakers {
    /// Wakes them. A waker may run anything, so the caller holds no lock.
    pub(crate) fn wake(self) {
        self.first.into_iter().chain(self.rest).for_each(Waker::wake);
    }
}
