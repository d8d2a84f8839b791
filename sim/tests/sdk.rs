//! The whole SDK on the simulated runtime: asynchronous applications, unchanged, in virtual time.

mod common;

use std::sync::{Arc, Mutex};

use common::{MS, secs};
use net_sdk::{Invite, Mesh, Mode, rt};
use net_sim::{Failure, LinkConfig, Sim, World, check, ensure};

type Board<T> = Arc<Mutex<T>>;

fn meshes(s: Sim, link: LinkConfig) -> World {
    World::new(s.config().link(link))
}

/// A server that counts lines, a client that sends `lines` of them; what the server got.
fn lines(s: Sim, link: LinkConfig, lines: u32) -> Result<(World, Vec<String>), Failure> {
    let mut world = meshes(s, link);
    let invite: Board<Option<Invite>> = Board::default();
    let got: Board<Vec<String>> = Board::default();
    let flushed: Board<bool> = Board::default();
    let (put, seen) = (invite.clone(), got.clone());
    world.spawn_task(|runtime| {
        rt::enter(runtime, async move {
            let mesh = Mesh::builder().start().await.unwrap();
            *put.lock().unwrap() = Some(mesh.invite());
            let stream = mesh.accept_stream().await.unwrap();
            while let Ok(Some(message)) = stream.recv().await {
                seen.lock().unwrap().push(String::from_utf8(message.to_vec()).unwrap());
            }
            // The mesh lives as long as somebody holds it.
            rt::sleep(secs(3_600)).await;
            drop(mesh);
        })
    });
    world.run_for(secs(1))?;
    let invite = invite.lock().unwrap().take().expect("the server started");
    let done = flushed.clone();
    world.spawn_task(|runtime| {
        rt::enter(runtime, async move {
            let mesh = Mesh::builder().join(&invite).start().await.unwrap();
            let peer = mesh.connect(&invite).await.unwrap();
            let stream = peer.open_stream("lines", Mode::Reliable).await.unwrap();
            for i in 0..lines {
                stream.send(format!("line {i}").as_bytes()).await.unwrap();
                if i % 100 == 0 {
                    rt::sleep(10 * MS).await;
                }
            }
            stream.flush().await.unwrap();
            *done.lock().unwrap() = true;
            rt::sleep(secs(3_600)).await;
            drop(mesh);
        })
    });
    world.eventually(secs(120), "the flush", |_| *flushed.lock().unwrap())?;
    let got = got.lock().unwrap().clone();
    Ok((world, got))
}

#[test]
fn lines_arrive_through_the_whole_sdk() {
    check("lines_arrive_through_the_whole_sdk", 3, |s| {
        let link =
            LinkConfig { jitter: 3 * MS, duplicate: 10_000, ..LinkConfig::default().with_loss(20_000) };
        let (world, got) = lines(s, link, 2_000)?;
        let want: Vec<String> = (0..2_000).map(|i| format!("line {i}")).collect();
        ensure(&world, got == want, || format!("{} lines of 2,000 arrived", got.len()))
    });
}

#[test]
fn the_sdk_is_deterministic_here() {
    let link = LinkConfig::default().with_loss(20_000);
    let trace = |seed| lines(Sim::new(seed), link.clone(), 500).unwrap().0.trace();
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn a_wake_from_a_foreign_thread_fails_the_run_and_names_the_task() {
    let mut world = meshes(Sim::new(1), LinkConfig::default());
    let (send, recv) = std::sync::mpsc::channel::<std::task::Waker>();
    world.spawn_task(|_| {
        std::future::poll_fn(move |cx| {
            send.send(cx.waker().clone()).unwrap();
            std::task::Poll::Pending
        })
    });
    world.run_for(MS).unwrap();
    let waker = recv.recv().unwrap();
    std::thread::spawn(move || waker.wake()).join().expect_err("the wake is refused");
    let failure = world.run_for(MS).unwrap_err();
    assert!(failure.what.contains("`application`"), "{failure}");
}
