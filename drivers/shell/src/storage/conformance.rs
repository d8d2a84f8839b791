//! What every storage must keep, as a test to be called from anywhere.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use net_proto::storage::{Storage, StoreError, StoreOp, StoreResult, Stored, Ticket};

/// Opens the storage under test again, on the same directory. Each call is a new holder.
pub type Reopen<'a> = &'a (dyn Fn() -> Box<dyn Storage> + Sync);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Submits all, then waits for all; the results in order of completion.
async fn run(storage: &mut dyn Storage, ops: Vec<StoreOp>) -> Vec<(u64, StoreResult)> {
    let count = ops.len();
    for (i, op) in ops.into_iter().enumerate() {
        storage.submit(Ticket(i as u64), op);
    }
    let mut results = Vec::new();
    while results.len() < count {
        let (ticket, result) = poll_fn(|cx| storage.poll_done(cx)).await;
        results.push((ticket.0, result));
    }
    results
}

async fn one(storage: &mut dyn Storage, op: StoreOp) -> StoreResult {
    run(storage, vec![op]).await.remove(0).1
}

/// Runs a future on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(out) => return out,
            Poll::Pending => thread::park(),
        }
    }
}

fn open(file: &str, exclusive: bool) -> StoreOp {
    StoreOp::Open { file: file.into(), exclusive }
}

fn write(file: &str, offset: u64, data: &[u8]) -> StoreOp {
    StoreOp::Write { file: file.into(), offset, data: data.to_vec() }
}

fn read(file: &str, offset: u64, len: u64) -> StoreOp {
    StoreOp::Read { file: file.into(), offset, len }
}

/// Checks an implementation on an empty directory. Waits with its thread; [`conforms`] is for tasks.
///
/// # Panics
/// If the contract of `docs/STORAGE.md` is not kept.
pub fn conformance(reopen: Reopen<'_>) {
    block_on(conforms(reopen));
}

/// Checks an implementation on an empty directory.
///
/// # Panics
/// If the contract of `docs/STORAGE.md` is not kept.
pub async fn conforms(reopen: Reopen<'_>) {
    let done = || Ok(Stored::Done);
    let data = |bytes: &[u8]| Ok(Stored::Data(bytes.to_vec()));
    let mut s = reopen();

    // Names.
    for bad in ["", ".", "..", "a/b", "a\\b", ".hidden", "a b", "ä", &"x".repeat(101)] {
        assert_eq!(one(&mut *s, open(bad, false)).await, Err(StoreError::BadName), "{bad:?}");
        assert_eq!(one(&mut *s, StoreOp::Remove { file: bad.into() }).await, Err(StoreError::BadName));
    }
    assert_eq!(one(&mut *s, StoreOp::List).await, Ok(Stored::Names(vec![])));
    assert_eq!(one(&mut *s, StoreOp::Remove { file: "none".into() }).await, Err(StoreError::NotFound));
    assert_eq!(one(&mut *s, write("none", 0, b"x")).await, Err(StoreError::NotFound), "not opened");

    // Operations on a file happen in order of submission; a gap reads as zeros.
    let results = run(
        &mut *s,
        vec![
            open("a", false),
            write("a", 0, b"hello"),
            write("a", 7, b"you"),
            write("a", 0, b"J"),
            StoreOp::Sync { file: "a".into() },
            read("a", 0, 100),
            read("a", 8, 1),
            read("a", 50, 10),
            StoreOp::Truncate { file: "a".into(), len: 4 },
            read("a", 0, u64::MAX),
        ],
    )
    .await;
    let of = |ticket: usize| &results.iter().find(|(t, _)| *t == ticket as u64).expect("every ticket").1;
    assert_eq!(of(0), &Ok(Stored::Opened { len: 0 }));
    assert_eq!(of(5), &data(b"Jello\0\0you"));
    assert_eq!(of(6), &data(b"o"));
    assert_eq!(of(7), &data(b""));
    assert_eq!(of(9), &data(b"Jell"));

    // Rename replaces; the open file goes by its new name.
    assert_eq!(one(&mut *s, open("b", false)).await, Ok(Stored::Opened { len: 0 }));
    assert_eq!(one(&mut *s, write("b", 0, b"old")).await, done());
    assert_eq!(one(&mut *s, StoreOp::Rename { from: "a".into(), to: "b".into() }).await, done());
    assert_eq!(one(&mut *s, read("b", 0, 10)).await, data(b"Jell"));
    assert_eq!(one(&mut *s, read("a", 0, 10)).await, Err(StoreError::NotFound));
    assert_eq!(one(&mut *s, StoreOp::List).await, Ok(Stored::Names(vec!["b".into()])));

    // Locks hold against others and end with their holder.
    assert_eq!(one(&mut *s, open("lock", true)).await, Ok(Stored::Opened { len: 0 }));
    let mut other = reopen();
    assert_eq!(one(&mut *other, open("lock", true)).await, Err(StoreError::Locked));
    assert_eq!(one(&mut *s, StoreOp::Sync { file: "b".into() }).await, done());
    drop(s);
    assert_eq!(one(&mut *other, open("lock", true)).await, Ok(Stored::Opened { len: 0 }));

    // What was synced is there for the next.
    assert_eq!(one(&mut *other, open("b", false)).await, Ok(Stored::Opened { len: 4 }));
    assert_eq!(one(&mut *other, read("b", 0, 10)).await, data(b"Jell"));
    assert_eq!(one(&mut *other, StoreOp::Remove { file: "b".into() }).await, done());
    assert_eq!(one(&mut *other, StoreOp::List).await, Ok(Stored::Names(vec!["lock".into()])));
}

#[cfg(test)]
mod tests {
    use super::super::{Disk, FileStorage, state};
    use super::*;
    use net_proto::node::boot::{Boot, BootError};

    #[test]
    fn forgetting_conforms() {
        let disk = Disk::new();
        conformance(&|| Box::new(disk.open()));
    }

    #[test]
    fn files_conform_and_are_private() {
        let dir = std::env::temp_dir().join(format!("net-shell-files-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        conformance(&|| Box::new(FileStorage::open(&dir).unwrap()));
        // Where whoever polls works, the same holds.
        std::fs::remove_dir_all(&dir).unwrap();
        conformance(&|| {
            let mut storage = FileStorage::open(&dir).unwrap();
            assert!(storage.inline());
            Box::new(storage)
        });
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&dir), mode(&dir.join("lock"))), (0o700, 0o600));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_failed_sync_poisons_for_good() {
        let disk = Disk::new();
        let mut s = disk.open();
        block_on(one(&mut s, open("f", false))).unwrap();
        disk.fail_sync(true);
        assert_eq!(block_on(one(&mut s, StoreOp::Sync { file: "f".into() })), Err(StoreError::Io));
        disk.fail_sync(false);
        for op in [StoreOp::Sync { file: "f".into() }, write("f", 0, b"x"), open("f", false)] {
            assert_eq!(block_on(one(&mut s, op)), Err(StoreError::Poisoned));
        }
    }

    /// Boots with power for `ops` operations; whether the last one's completion is seen is `told`.
    fn boot(disk: &Disk, ops: usize, told: bool) -> Option<Result<u64, BootError>> {
        let (mut s, mut boot) = (disk.open(), Boot::new(0, 0));
        for i in 0..ops {
            let Some((ticket, op)) = boot.poll_store() else { break };
            s.submit(ticket, op);
            let waker = Waker::noop();
            let Poll::Ready((ticket, result)) = s.poll_done(&mut Context::from_waker(waker)) else {
                panic!()
            };
            if i + 1 < ops || told {
                boot.handle_stored(ticket, result);
            }
        }
        boot.poll_event().map(|answer| answer.map(|i| i.epoch))
    }

    #[test]
    fn an_epoch_never_comes_back_wherever_the_power_fails() {
        for crash in 0..=10 {
            for pattern in 0..16u32 {
                let disk = Disk::new();
                let mut highest = boot(&disk, 99, true).unwrap().unwrap();
                for round in 0..4 {
                    let seen = boot(&disk, crash, pattern & 1 == 0);
                    let mut draws = pattern.rotate_right(round);
                    disk.crash(|| {
                        draws = draws.rotate_right(1);
                        draws & 1 == 0
                    });
                    if let Some(epoch) = seen {
                        let epoch = epoch.unwrap();
                        assert!(epoch > highest, "crash after {crash}: {epoch} after {highest}");
                        highest = epoch;
                    }
                    let next = boot(&disk, 99, true).unwrap().unwrap();
                    assert!(next > highest, "crash after {crash}: {next} after {highest}");
                    highest = next;
                    disk.crash(|| true);
                }
            }
        }
    }

    #[test]
    fn a_second_node_in_the_directory_is_refused() {
        let disk = Disk::new();
        let mut first = disk.open();
        block_on(one(&mut first, open("lock", true))).unwrap();
        assert_eq!(boot(&disk, 99, true), Some(Err(BootError::InUse)));
        drop(first);
        assert_eq!(boot(&disk, 99, true), Some(Ok(1)));
    }

    #[test]
    fn records_survive_and_damage_is_refused() {
        let disk = Disk::new();
        let mut s = disk.open();
        let mut files = state::Files::new(&mut s);
        let waker = Waker::noop();
        let mut cx = Context::from_waker(waker);
        let mut now =
            |f: std::pin::Pin<&mut dyn Future<Output = Result<Option<Vec<u8>>, state::StateError>>>| {
                let Poll::Ready(r) = f.poll(&mut cx) else { panic!("the disk in memory never waits") };
                r
            };
        assert_eq!(now(pin!(files.load("mesh"))), Ok(None));
        now(pin!(async { files.save("mesh", b"secret").await.map(|()| None) })).unwrap();
        assert_eq!(now(pin!(files.load("mesh"))), Ok(Some(b"secret".to_vec())));
        let mut bytes = disk.content("mesh").unwrap();
        assert_eq!(&bytes[..13], b"net mesh\x01\x06\0\0\0", "golden");
        bytes[14] ^= 1;
        disk.put("mesh", &bytes);
        assert_eq!(now(pin!(files.load("mesh"))), Err(state::StateError::Damaged("mesh".into())));
    }
}
