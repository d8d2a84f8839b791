//! A bounded queue with many takers, for things that happen rarely: new streams, peers, notices.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use crate::bell::lock;
use crate::sync::Mutex;
use crate::wait::Waiters;

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    missed: u64,
    closed: bool,
    waiters: Waiters,
}

/// A bounded queue with many takers.
#[derive(Debug)]
pub struct Mailbox<T> {
    capacity: usize,
    inner: Mutex<Inner<T>>,
}

impl<T> Mailbox<T> {
    /// Holds at most `capacity` items.
    pub fn new(capacity: usize) -> Self {
        let inner = Inner { items: VecDeque::new(), missed: 0, closed: false, waiters: Waiters::default() };
        Self { capacity, inner: Mutex::new(inner) }
    }

    /// Puts an item in; gives it back if the box is full or closed, and counts that.
    pub fn push(&self, item: T) -> Result<(), T> {
        let wakers = {
            let mut inner = lock(&self.inner);
            if inner.closed || inner.items.len() >= self.capacity {
                inner.missed += 1;
                return Err(item);
            }
            inner.items.push_back(item);
            inner.waiters.all()
        };
        wakers.wake();
        Ok(())
    }

    /// Takes the first item that `wanted` accepts, waiting for one. `None`: the box is closed, or
    /// `give_up` says that none will come. Dropping the future takes nothing.
    pub async fn take(
        &self,
        mut wanted: impl FnMut(&T) -> bool,
        mut give_up: impl FnMut() -> bool,
    ) -> Option<T> {
        let mut place = Place { mailbox: self, ticket: None };
        poll_fn(|cx| {
            let mut inner = lock(&self.inner);
            if let Some(at) = inner.items.iter().position(&mut wanted) {
                return Poll::Ready(inner.items.remove(at));
            }
            if inner.closed || give_up() {
                return Poll::Ready(None);
            }
            inner.waiters.enter(&mut place.ticket, cx);
            Poll::Pending
        })
        .await
    }

    /// How many items did not fit since the last call.
    pub fn missed(&self) -> u64 {
        std::mem::take(&mut lock(&self.inner).missed)
    }

    /// Lets everybody who waits look again.
    pub fn nudge(&self) {
        let wakers = lock(&self.inner).waiters.all();
        wakers.wake();
    }

    /// Nothing comes any more; what is in the box can still be taken.
    pub fn close(&self) {
        lock(&self.inner).closed = true;
        self.nudge();
    }
}

struct Place<'a, T> {
    mailbox: &'a Mailbox<T>,
    ticket: Option<u64>,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            lock(&self.mailbox.inner).waiters.leave(ticket);
        }
    }
}
