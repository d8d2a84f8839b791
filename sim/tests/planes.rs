//! The planes of the SDK's tests in the simulated executor: the whole SDK, in virtual time, over lossy links
//! and disks that forget what was not synced.

mod common;
#[path = "../../drivers/sdk/tests/common/toys.rs"]
mod toys;

use std::sync::{Arc, Mutex};

use common::{MS, secs};
use net_sdk::{Invite, Mesh, rt};
use net_sim::{Failure, LinkConfig, Sim, World, check, ensure};
use toys::{NotesCommand, NotesEvent, note, ping, toys};

type Board<T> = Arc<Mutex<T>>;

/// A server with notes that survive a crash, and a client that pings it `count` times.
fn run(s: Sim, count: u64) -> Result<(World, u64, String), Failure> {
    let link = LinkConfig { jitter: 3 * MS, ..LinkConfig::default().with_loss(20_000) };
    let mut world = World::new(s.config().link(link));
    let invite: Board<Option<Invite>> = Board::default();
    let pongs: Board<u64> = Board::default();
    let text: Board<String> = Board::default();
    let put = invite.clone();
    let server = world.spawn_task(|runtime| {
        rt::enter(runtime, async move {
            let (mesh, ports) = Mesh::builder().dir("state").start_with(toys).await.unwrap();
            for n in 0..10u8 {
                let add = |call| NotesCommand::Add { call, line: vec![b'a' + n], forged: n == 3 };
                let told = note(&ports, add).await.unwrap();
                assert_eq!(matches!(told, NotesEvent::Added { .. }), n != 3, "{told:?}");
            }
            *put.lock().unwrap() = Some(mesh.invite());
            rt::sleep(secs(3_600)).await;
            drop(mesh);
        })
    });
    world.eventually(secs(10), "the server", |_| invite.lock().unwrap().is_some())?;
    let to = invite.lock().unwrap().take().expect("the server started");
    let got = pongs.clone();
    world.spawn_task(|runtime| {
        rt::enter(runtime, async move {
            let (mesh, ports) = Mesh::builder().join(&to).start_with(toys).await.unwrap();
            mesh.connect(&to).await.unwrap();
            let entity = to.ticket.entity;
            let calls: Vec<_> = (0..count)
                .map(|n| {
                    let ports = ports.clone();
                    rt::spawn(async move { ping(&ports, entity, n).await })
                })
                .collect();
            for (n, call) in calls.into_iter().enumerate() {
                assert_eq!(call.await.unwrap(), Ok(Some(n as u64 + 1)));
                *got.lock().unwrap() += 1;
            }
            rt::sleep(secs(3_600)).await;
            drop(mesh);
        })
    });
    world.eventually(secs(300), "the pongs", |_| *pongs.lock().unwrap() == count)?;
    // The power of the server fails; what was confirmed is still there.
    world.crash_host(server);
    let read = text.clone();
    world.start_task(server, |runtime| {
        rt::enter(runtime, async move {
            let (_mesh, ports) = Mesh::builder().dir("state").start_with(toys).await.unwrap();
            if let NotesEvent::Text { text, .. } =
                note(&ports, |call| NotesCommand::Read { call }).await.unwrap()
            {
                *read.lock().unwrap() = String::from_utf8(text).unwrap();
            }
        })
    });
    world.eventually(secs(10), "the notes", |_| !text.lock().unwrap().is_empty())?;
    let (pongs, text) = (*pongs.lock().unwrap(), text.lock().unwrap().clone());
    Ok((world, pongs, text))
}

#[test]
fn planes_run_in_the_whole_sdk_and_keep_what_they_confirmed() {
    check("planes_run_in_the_whole_sdk_and_keep_what_they_confirmed", 3, |s| {
        let (world, pongs, text) = run(s, 200)?;
        ensure(&world, pongs == 200 && text == "abcefghij", || format!("{pongs} pongs, notes `{text}`"))
    });
}

#[test]
fn planes_are_deterministic_here() {
    let trace = |seed| run(Sim::new(seed), 50).unwrap().0.trace();
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}
