//! A task on a thread of its own.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};

use crate::bell::lock;
use crate::runtime::BoxFuture;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[derive(Default)]
struct Shared {
    /// The future was dropped: the task is to end.
    gone: AtomicBool,
    /// Whether the task is over, and who wants to know.
    over: Mutex<(bool, Option<Waker>)>,
}

/// Tells that the task is over, however it ends.
struct Over(Arc<Shared>);

impl Drop for Over {
    fn drop(&mut self) {
        let waker = {
            let mut over = lock(&self.0.over);
            over.0 = true;
            over.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Ends when its task does. Dropped before, it ends the task after the poll under way, and waits for that.
pub(crate) struct Apart {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Polls `task` on a thread of its own, where it may block. The task does not see the runtime's context.
pub(crate) fn apart(name: &str, mut task: BoxFuture) -> io::Result<Apart> {
    let shared = Arc::new(Shared::default());
    let (seen, over) = (shared.clone(), Over(shared.clone()));
    let work = move || {
        let _over = over;
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        while !seen.gone.load(Ordering::Acquire) {
            match task.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(()) => break,
                Poll::Pending => thread::park(),
            }
        }
        drop(task);
    };
    let thread = thread::Builder::new().name(name.into()).spawn(work)?;
    Ok(Apart { shared, thread: Some(thread) })
}

impl Future for Apart {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut over = lock(&self.shared.over);
        if over.0 {
            return Poll::Ready(());
        }
        over.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.shared.gone.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            thread.thread().unpark();
            // A task that panicked has told so already.
            _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::mpsc;

    use super::*;

    /// What it holds is gone once the receiver sees the other end closed.
    fn holder() -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
        mpsc::channel()
    }

    #[test]
    fn ends_with_its_task() {
        let mut left = 3;
        let task = poll_fn(move |cx| {
            left -= 1;
            cx.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        let apart = apart("test", Box::pin(task)).unwrap();
        pollster(apart);
    }

    #[test]
    fn dropped_it_has_dropped_its_task() {
        let (held, gone) = holder();
        let task = poll_fn(move |_| {
            let _ = &held;
            Poll::<()>::Pending
        });
        drop(apart("test", Box::pin(task)).unwrap());
        assert_eq!(gone.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[test]
    fn a_panic_ends_it() {
        let apart = apart("test", Box::pin(poll_fn(|_| panic!("as planned")))).unwrap();
        pollster(apart);
    }

    fn pollster(apart: Apart) {
        let mut apart = std::pin::pin!(apart);
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        while apart.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            thread::park();
        }
    }
}
