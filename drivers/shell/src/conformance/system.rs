//! Clocks, entropy and storage.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;

use net_proto::storage::{Storage, StoreOp, StoreResult, Stored, Ticket};
use net_proto::time::{Duration, Instant};

use super::Env;
use super::help::{sleep, spawn, yield_now};
use crate::runtime::Runtime;

pub(super) async fn now_never_goes_back(env: Env) {
    let mut last = env.here.now();
    for _ in 0..10_000 {
        let now = env.here.now();
        assert!(now >= last, "{now:?} after {last:?}");
        last = now;
    }
    let (give, take) = async_channel::bounded::<Instant>(1);
    let check = |runtime: Arc<dyn Runtime>| async move {
        while let Ok(then) = take.recv().await {
            let now = runtime.now();
            assert!(now >= then, "{now:?} after {then:?} in another task");
            yield_now().await;
        }
        true
    };
    let task = spawn(&*env.here, check(env.here.clone()));
    for _ in 0..200 {
        give.send(env.here.now()).await.expect("the task listens");
    }
    drop(give);
    assert_eq!(task.recv().await, Ok(true));
}

pub(super) async fn timers_follow_now(env: Env) {
    let (wait, start) = (Duration::from_millis(5), env.here.now());
    sleep(&*env.here, wait).await;
    assert!(env.here.now().since(start) >= wait);
}

pub(super) async fn the_wall_clock_names_its_error(env: Env) {
    let wall = env.here.wall();
    assert!(wall.unix > Duration::from_secs(1_735_689_600), "it is after 2025: {:?}", wall.unix);
    assert!(wall.max_error <= Duration::from_secs(30), "{:?}", wall.max_error);
    sleep(&*env.here, Duration::from_millis(5)).await;
    let later = env.here.wall();
    // It may be set back, but not by more than it said.
    assert!(later.unix + later.max_error + wall.max_error >= wall.unix);
}

pub(super) async fn entropy_is_fresh(env: Env) {
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let runtime = env.here.clone();
        tasks.push(spawn(&*env.here, async move { (0..250).map(|_| runtime.entropy()).collect::<Vec<_>>() }));
    }
    let (mut seen, mut ones) = (BTreeSet::new(), 0);
    for task in tasks {
        for draw in task.recv().await.expect("the task ends") {
            ones += draw.iter().map(|byte| byte.count_ones()).sum::<u32>();
            assert!(seen.insert(draw), "a draw repeats");
        }
    }
    // 3,000 of 256,000 bits are twelve times the deviation of fair ones.
    assert!((125_000..131_000).contains(&ones), "{ones} of 256,000 bits are set");
}

pub(super) async fn storage_keeps_its_contract(env: Env) {
    let open = || env.here.storage(&env.dir).expect("the directory opens");
    crate::storage::conforms(&open).await;
    #[cfg(unix)]
    if let Ok(meta) = env.dir.metadata() {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(meta.permissions().mode() & 0o777, 0o700, "nobody else reads the directory");
    }
    let _ = std::fs::remove_dir_all(&env.dir);
}

async fn run(storage: &mut dyn Storage, op: StoreOp) -> StoreResult {
    storage.submit(Ticket(1), op);
    let (ticket, result) = poll_fn(|cx| storage.poll_done(cx)).await;
    assert_eq!(ticket, Ticket(1));
    result
}

fn open(file: &str) -> StoreOp {
    StoreOp::Open { file: file.into(), exclusive: false }
}

pub(super) async fn storage_wakes_the_task_that_waits(env: Env) {
    let mut storage = env.here.storage(&env.dir).expect("the directory opens");
    assert_eq!(run(&mut *storage, open("f")).await, Ok(Stored::Opened { len: 0 }));
    for i in 0..20u8 {
        let write = StoreOp::Write { file: "f".into(), offset: u64::from(i), data: vec![i] };
        assert_eq!(run(&mut *storage, write).await, Ok(Stored::Done));
        assert_eq!(run(&mut *storage, StoreOp::Sync { file: "f".into() }).await, Ok(Stored::Done));
    }
    let read = StoreOp::Read { file: "f".into(), offset: 0, len: 100 };
    assert_eq!(run(&mut *storage, read).await, Ok(Stored::Data((0..20).collect())));
    // Moved to another task: its waker is the one that counts then.
    let task = spawn(&*env.here, async move { run(&mut *storage, StoreOp::List).await });
    assert_eq!(task.recv().await, Ok(Ok(Stored::Names(vec!["f".into()]))));
    let _ = std::fs::remove_dir_all(&env.dir);
}

pub(super) async fn two_directories_are_two_storages(env: Env) {
    let mut one = env.here.storage(&env.dir.join("one")).expect("the directory opens");
    let mut two = env.here.storage(&env.dir.join("two")).expect("the directory opens");
    assert_eq!(run(&mut *one, open("only-one")).await, Ok(Stored::Opened { len: 0 }));
    assert_eq!(run(&mut *two, StoreOp::List).await, Ok(Stored::Names(vec![])));
    drop((one, two));
    let _ = std::fs::remove_dir_all(&env.dir);
}
