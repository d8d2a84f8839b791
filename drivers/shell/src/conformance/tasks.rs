//! Tasks and blocking work.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};

use net_proto::time::Duration;

use super::Env;
use super::help::{Flag, Socket, sleep, spawn, yield_now};
use crate::bell::lock;
use crate::runtime::UdpOptions;

pub(super) async fn tasks_run_to_their_end_once(env: Env) {
    let runs = Arc::new(AtomicU32::new(0));
    let tasks: Vec<_> = (0..100u32)
        .map(|i| {
            let runs = runs.clone();
            spawn(&*env.here, async move {
                yield_now().await;
                runs.fetch_add(1, Ordering::SeqCst);
                i
            })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        assert_eq!(task.recv().await, Ok(i as u32));
    }
    assert_eq!(runs.load(Ordering::SeqCst), 100);
}

pub(super) async fn tasks_start_tasks(env: Env) {
    let runtime = env.here.clone();
    let task = spawn(&*env.here, async move {
        let inner = spawn(&*runtime, async { 7 });
        inner.recv().await
    });
    assert_eq!(task.recv().await, Ok(Ok(7)));
}

/// Wakes its flag when it is dropped.
struct Guard(Arc<Flag>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.waker().wake();
    }
}

pub(super) async fn a_finished_task_is_dropped(env: Env) {
    let flag = Flag::new();
    let guard = Guard(flag.clone());
    let task = async move {
        yield_now().await;
        let _held = &guard;
    };
    env.here.spawn("guarded", Box::pin(task));
    flag.woken(1).await;
    assert_eq!(flag.count(), 1);
}

pub(super) async fn a_wake_during_the_poll_is_kept(env: Env) {
    let task = spawn(&*env.here, async {
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            // Twice: wakes may be counted or flagged, both are fine.
            cx.waker().wake_by_ref();
            let second = cx.waker().clone();
            second.wake();
            if polls == 1000 { Poll::Ready(polls) } else { Poll::Pending }
        })
        .await
    });
    assert_eq!(task.recv().await, Ok(1000));
}

pub(super) async fn who_yields_lets_others_run(env: Env) {
    let (stop, other) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let until = stop.clone();
    let busy = spawn(&*env.here, async move {
        while !until.load(Ordering::SeqCst) {
            yield_now().await;
        }
    });
    let set = other.clone();
    let ran = spawn(&*env.here, async move { set.store(true, Ordering::SeqCst) });
    ran.recv().await.expect("the second task ran beside the busy one");
    assert!(other.load(Ordering::SeqCst));
    stop.store(true, Ordering::SeqCst);
    busy.recv().await.expect("the busy one ends");
}

pub(super) async fn a_wake_after_the_end_is_harmless(env: Env) {
    let slot: Arc<Mutex<Option<Waker>>> = Arc::default();
    let put = slot.clone();
    let task = spawn(&*env.here, async move {
        poll_fn(|cx| {
            *lock(&put) = Some(cx.waker().clone());
            Poll::Ready(())
        })
        .await;
    });
    task.recv().await.expect("the task ends");
    let waker = lock(&slot).take().expect("it was polled");
    for _ in 0..3 {
        waker.wake_by_ref();
        yield_now().await;
    }
    waker.wake();
    assert_eq!(spawn(&*env.here, async { 1 }).recv().await, Ok(1));
}

pub(super) async fn wakes_between_tasks_are_not_lost(env: Env) {
    let (ping, pings) = async_channel::bounded::<u32>(1);
    let (pong, pongs) = async_channel::bounded::<u32>(1);
    let echo = spawn(&*env.here, async move {
        while let Ok(n) = pings.recv().await {
            if pong.send(n).await.is_err() {
                break;
            }
        }
    });
    for n in 0..2000 {
        ping.send(n).await.expect("the other task listens");
        assert_eq!(pongs.recv().await, Ok(n));
    }
    drop(ping);
    echo.recv().await.expect("the other task ends");
}

pub(super) async fn wakes_from_foreign_threads_are_not_lost(env: Env) {
    env.here.may_block("a foreign thread");
    let (to_thread, wakers) = mpsc::channel::<Arc<Flag>>();
    let thread = std::thread::spawn(move || wakers.into_iter().for_each(|flag| flag.waker().wake()));
    for _ in 0..500 {
        let flag = Flag::new();
        to_thread.send(flag.clone()).expect("the thread lives");
        flag.woken(1).await;
    }
    drop(to_thread);
    thread.join().expect("wakers do not panic");
}

pub(super) async fn it_can_be_used_from_foreign_threads(env: Env) {
    env.here.may_block("a foreign thread");
    let (give, got) = async_channel::bounded(1);
    let (runtime, addr) = (env.here.clone(), env.here_addr());
    let thread = std::thread::spawn(move || {
        let socket = Socket::bind(&runtime, addr, &UdpOptions::default());
        let (timer, at) = (runtime.timer(), runtime.now() + Duration::from_millis(1));
        let task = spawn(&*runtime, async { 5 });
        let (done, work) = async_channel::bounded(1);
        runtime.blocking(Box::new(move || _ = done.try_send(6)));
        assert!(give.try_send((socket, timer, at, task, work)).is_ok());
    });
    let (mut socket, mut timer, at, task, work) = got.recv().await.expect("the thread made them");
    thread.join().expect("no call panics outside of the runtime");
    super::help::sleep_until(&mut *timer, at).await;
    assert!(env.here.now() >= at);
    socket.send(socket.addr(), b"to myself").await;
    assert_eq!(socket.recv(1).await[0].data, b"to myself");
    assert_eq!((task.recv().await, work.recv().await), (Ok(5), Ok(6)));
}

pub(super) async fn a_panic_takes_no_other_task_along(env: Env) {
    let neighbour = spawn(&*env.here, {
        let runtime = env.here.clone();
        async move {
            sleep(&*runtime, Duration::from_millis(5)).await;
            1
        }
    });
    let falls = spawn(&*env.here, async {
        yield_now().await;
        panic!("on purpose")
    });
    let gone: Result<(), _> = falls.recv().await;
    assert!(gone.is_err(), "what the task held is dropped");
    assert_eq!(neighbour.recv().await, Ok(1));
    assert_eq!(spawn(&*env.here, async { 2 }).recv().await, Ok(2));
}

pub(super) async fn blocking_work_runs_and_answers(env: Env) {
    let (done, results) = async_channel::bounded(100);
    for i in 0..100u32 {
        let done = done.clone();
        env.here.blocking(Box::new(move || _ = done.try_send(i)));
    }
    let mut got = Vec::new();
    for _ in 0..100 {
        got.push(results.recv().await.expect("an answer"));
    }
    got.sort_unstable();
    assert!(got.into_iter().eq(0..100), "each once");
    drop(done);
    assert!(results.recv().await.is_err(), "finished work is dropped");
}

pub(super) async fn blocking_work_may_start_tasks(env: Env) {
    let (give, got) = async_channel::bounded(1);
    let runtime = env.here.clone();
    env.here.blocking(Box::new(move || {
        let (timer, at) = (runtime.timer(), runtime.now() + Duration::from_millis(1));
        let task = spawn(&*runtime, async { 3 });
        let _ = give.try_send((task, timer, at));
    }));
    let (task, mut timer, at) = got.recv().await.expect("the work ran");
    assert_eq!(task.recv().await, Ok(3));
    super::help::sleep_until(&mut *timer, at).await;
    assert!(env.here.now() >= at);
}

pub(super) async fn blocking_work_does_not_hold_up_tasks(env: Env) {
    env.here.may_block("work that waits for a task");
    let (done, results) = async_channel::bounded(4);
    let mut gates = Vec::new();
    for _ in 0..4 {
        let (open, gate) = mpsc::channel();
        gates.push(open);
        let done = done.clone();
        env.here.blocking(Box::new(move || _ = done.try_send(gate.recv())));
    }
    // Tasks and timers run although all four wait.
    assert_eq!(spawn(&*env.here, async { 9 }).recv().await, Ok(9));
    sleep(&*env.here, Duration::from_millis(1)).await;
    assert!(results.try_recv().is_err());
    for gate in gates {
        gate.send(()).expect("the work waits");
        assert_eq!(results.recv().await, Ok(Ok(())));
    }
}

pub(super) async fn a_panic_in_blocking_work_leaves_the_pool(env: Env) {
    for _ in 0..5 {
        let (done, result) = async_channel::bounded::<()>(1);
        env.here.blocking(Box::new(move || {
            let _held = done;
            panic!("on purpose")
        }));
        assert!(result.recv().await.is_err(), "what the work held is dropped");
    }
    let (done, result) = async_channel::bounded(1);
    env.here.blocking(Box::new(move || _ = done.try_send(1)));
    assert_eq!(result.recv().await, Ok(1));
}
