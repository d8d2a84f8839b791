//! Timers.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use net_proto::time::{Duration, Instant};

use super::Env;
use super::help::{Flag, sleep, sleep_until, spawn};
use crate::runtime::Timer;

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Polls once with this waker.
fn poll(timer: &mut dyn Timer, waker: &Waker, at: Option<Instant>) -> Poll<()> {
    timer.poll(&mut Context::from_waker(waker), at)
}

pub(super) async fn a_timer_is_never_early(env: Env) {
    let mut timer = env.here.timer();
    for after in [0, 1, 1_000, 50_000, 999_999, 1_000_000, 1_000_001, 3_700_000] {
        let at = env.here.now() + Duration::from_nanos(after);
        sleep_until(&mut *timer, at).await;
        assert!(env.here.now() >= at, "{after} ns: early by {:?}", at.since(env.here.now()));
    }
}

pub(super) async fn a_time_that_passed_is_ready_at_once(env: Env) {
    sleep(&*env.here, 2 * MS).await;
    let mut timer = env.here.timer();
    let now = env.here.now();
    for at in [Instant::ZERO, Instant::from_nanos(now.as_nanos() - 1_000_000), now] {
        assert_eq!(poll(&mut *timer, Waker::noop(), Some(at)), Poll::Ready(()), "{at:?} at {now:?}");
    }
}

pub(super) async fn no_time_is_never(env: Env) {
    let mut timer = env.here.timer();
    let flag = Flag::new();
    assert!(poll(&mut *timer, &flag.waker(), None).is_pending());
    assert!(poll(&mut *timer, &flag.waker(), Some(env.here.now() + 2 * MS)).is_pending());
    assert!(poll(&mut *timer, &flag.waker(), None).is_pending());
    sleep(&*env.here, 8 * MS).await;
    assert!(poll(&mut *timer, &flag.waker(), None).is_pending(), "the time of before came back");
}

pub(super) async fn an_earlier_time_replaces_a_later_one(env: Env) {
    let mut timer = env.here.timer();
    assert!(poll(&mut *timer, Waker::noop(), Some(env.here.now() + HOUR)).is_pending());
    let at = env.here.now() + 2 * MS;
    // Without the new time this takes an hour, which the watch over the case notices.
    sleep_until(&mut *timer, at).await;
    assert!(env.here.now() >= at);
}

pub(super) async fn a_later_time_replaces_an_earlier_one(env: Env) {
    let mut timer = env.here.timer();
    let early = env.here.now() + 2 * MS;
    let late = early + 10 * MS;
    assert!(poll(&mut *timer, &Flag::new().waker(), Some(early)).is_pending());
    sleep_until(&mut *timer, late).await;
    assert!(env.here.now() >= late);
    // The same after the early one fired unseen.
    let early = env.here.now() + MS;
    let late = early + 20 * MS;
    let flag = Flag::new();
    assert!(poll(&mut *timer, &flag.waker(), Some(early)).is_pending());
    flag.woken(1).await;
    sleep_until(&mut *timer, late).await;
    assert!(env.here.now() >= late);
}

pub(super) async fn a_time_may_follow_none(env: Env) {
    let mut timer = env.here.timer();
    assert!(poll(&mut *timer, Waker::noop(), Some(env.here.now() + HOUR)).is_pending());
    assert!(poll(&mut *timer, Waker::noop(), None).is_pending());
    sleep_until(&mut *timer, env.here.now() + 2 * MS).await;
}

pub(super) async fn one_timer_serves_for_ever(env: Env) {
    let mut timer = env.here.timer();
    let start = env.here.now();
    for i in 0..10_000u32 {
        let at = start + HOUR + MS * (i * 7919 % 10_000);
        assert!(poll(&mut *timer, Waker::noop(), Some(at)).is_pending());
    }
    for i in 0..40 {
        let at = env.here.now() + Duration::from_micros(i * 37 % 400);
        sleep_until(&mut *timer, at).await;
        assert!(env.here.now() >= at);
    }
}

pub(super) async fn the_waker_of_the_last_poll_counts(env: Env) {
    let mut timer = env.here.timer();
    let (first, second) = (Flag::new(), Flag::new());
    let at = env.here.now() + 3 * MS;
    if poll(&mut *timer, &first.waker(), Some(at)).is_ready() {
        return; // The clock was faster than this task.
    }
    if poll(&mut *timer, &second.waker(), Some(at)).is_pending() {
        second.woken(1).await;
    }
    sleep_until(&mut *timer, at).await;
    assert!(env.here.now() >= at);
}

pub(super) async fn a_timer_may_move_between_tasks(env: Env) {
    let mut timer = env.here.timer();
    for _ in 0..5 {
        let at = env.here.now() + 2 * MS;
        // Armed here, waited for there.
        let _ = poll(&mut *timer, Waker::noop(), Some(at));
        let task = async move {
            sleep_until(&mut *timer, at).await;
            timer
        };
        timer = spawn(&*env.here, task).recv().await.expect("the task ends");
        assert!(env.here.now() >= at);
    }
}

pub(super) async fn many_timers_run_at_once(env: Env) {
    let start = env.here.now();
    let mut timers: Vec<_> = (0..1000u32)
        .map(|i| (env.here.timer(), start + Duration::from_micros(u64::from(i * 7919 % 1000) * 20)))
        .collect();
    poll_fn(|cx| {
        timers.retain_mut(|(timer, at)| match timer.poll(cx, Some(*at)) {
            Poll::Ready(()) => {
                assert!(env.here.now() >= *at);
                false
            }
            Poll::Pending => true,
        });
        if timers.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

pub(super) async fn the_end_of_time_is_far_away(env: Env) {
    let mut timer = env.here.timer();
    for at in [u64::MAX, u64::MAX - 1, u64::MAX / 2] {
        assert!(poll(&mut *timer, Waker::noop(), Some(Instant::from_nanos(at))).is_pending());
    }
    sleep(&*env.here, 2 * MS).await;
    assert!(poll(&mut *timer, Waker::noop(), Some(Instant::from_nanos(u64::MAX))).is_pending());
    sleep_until(&mut *timer, env.here.now() + MS).await;
}

pub(super) async fn a_dropped_timer_holds_nobody_up(env: Env) {
    for after in [MS, 2 * MS, HOUR] {
        let mut timer = env.here.timer();
        let _ = poll(&mut *timer, &Flag::new().waker(), Some(env.here.now() + after));
    }
    sleep(&*env.here, 5 * MS).await;
}
