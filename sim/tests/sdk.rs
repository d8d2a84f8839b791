//! The whole SDK on the simulated runtime: asynchronous applications, unchanged, in virtual time.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use common::{MS, secs};
use net_proto::identity::{Identity, Mesh as MeshSecret, MeshId, MeshKey, Ticket};
use net_proto::node::Event;
use net_sdk::{Invite, Mesh, Mode, rt};
use net_sim::artefact::{Item, Record};
use net_sim::check::recorded;
use net_sim::checkers::{Broken, Checker, Delivery, Seen};
use net_sim::nat::{Depends, NatConfig};
use net_sim::{Failure, LinkConfig, Sim, World, check, ensure};

type Board<T> = Arc<Mutex<T>>;

fn meshes(s: Sim, link: LinkConfig) -> World {
    World::new(s.config().link(link))
}

/// A server that counts lines, a client that sends `lines` of them; what the server got.
fn lines(s: Sim, link: LinkConfig, lines: u32) -> Result<(World, Vec<String>), Failure> {
    lines_in(meshes(s, link), lines, |_, _| {})
}

/// The same in a world that `arrange` changes before the client's machine starts.
fn lines_in(
    mut world: World,
    lines: u32,
    arrange: impl FnOnce(&mut World, u32),
) -> Result<(World, Vec<String>), Failure> {
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
    let client = world.host();
    arrange(&mut world, client);
    world.start_task(client, |runtime| {
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

/// Machines that talk over lossy links, called in turn or all at every instant: one machine begins late, one
/// crashes and starts again, one's clock jumps.
fn chatter(seed: u64, by_node: bool) -> (u64, u64, u32) {
    const MACHINES: u32 = 6;
    let link = LinkConfig {
        jitter: 5 * MS,
        duplicate: 10_000,
        corrupt: 1_000,
        ..LinkConfig::delay(20 * MS).with_loss(10_000)
    };
    let mut config = Sim::new(seed).config().link(link);
    config.by_node = by_node;
    let mut world = World::new(config);
    let secret = MeshSecret { id: MeshId([1; 32]), key: MeshKey([2; 32]) };
    let ticket = |i: u32| Ticket {
        entity: Identity::from_seed(&[i as u8; 32]).id(),
        addrs: vec![SocketAddr::from((Ipv4Addr::from(0x0a00_0001 + i), 7_000))],
    };
    let got = Arc::<AtomicU32>::default();
    let start = {
        let got = got.clone();
        move |world: &mut World, i: u32| {
            let builder = Mesh::builder().bind(ticket(i).addrs).seed([i as u8; 32]).mesh(secret.clone());
            let (others, got) = ([ticket((i + 1) % MACHINES), ticket((i + 3) % MACHINES)], got.clone());
            world.start_task(i, move |runtime| {
                rt::enter(runtime, async move {
                    rt::sleep(MS * (i * 37 + 1)).await;
                    let mesh = builder.start().await.unwrap();
                    for other in others {
                        rt::spawn(say(mesh.clone(), other));
                    }
                    while let Ok(stream) = mesh.accept_stream().await {
                        let got = got.clone();
                        rt::spawn(async move {
                            while let Ok(Some(_)) = stream.recv().await {
                                got.fetch_add(1, Ordering::Relaxed);
                            }
                        });
                    }
                })
            });
        }
    };
    for i in 0..MACHINES {
        world.host();
        start(&mut world, i);
    }
    world.at(secs(1), |w| w.crash_host(2));
    world.at(1_300 * MS, move |w| start(w, 2));
    world.at(2_100 * MS, |w| w.jump_clock(4, secs(1)));
    for slice in [1, 999, 500, 7, 2_493] {
        world.run_for(slice * MS).unwrap();
    }
    (world.trace(), world.stats().arrived, got.load(Ordering::Relaxed))
}

async fn say(mesh: Mesh, to: Ticket) {
    loop {
        let Ok(peer) = mesh.connect(&to).await else { continue };
        let Ok(stream) = peer.open_stream("chatter", Mode::Reliable).await else { continue };
        while stream.send(b"still here").await.is_ok() {
            rt::sleep(100 * MS).await;
        }
    }
}

#[test]
fn machines_called_one_after_the_other_are_the_same_run() {
    for seed in 0..3 {
        let run = chatter(seed, true);
        assert_eq!(run, chatter(seed, false), "seed {seed}");
        assert!(run.2 > 100, "{run:?}");
    }
}

/// Tasks of two machines that wake each other cannot be told apart in time: that is refused, not guessed.
#[test]
fn machines_that_wake_each_other_are_not_called_one_after_the_other() {
    let run = |by_node| {
        let mut config = Sim::new(1).config();
        config.by_node = by_node;
        let mut world = World::new(config);
        let waker = Board::<Option<std::task::Waker>>::default();
        let mine = waker.clone();
        world.spawn_task(|_| {
            std::future::poll_fn(move |cx| {
                *mine.lock().unwrap() = Some(cx.waker().clone());
                std::task::Poll::Pending
            })
        });
        world.spawn_task(|runtime| {
            rt::enter(runtime, async move {
                rt::sleep(5 * MS).await;
                waker.lock().unwrap().take().unwrap().wake();
            })
        });
        world.run_for(secs(1))
    };
    assert_eq!(run(false), Ok(()));
    let failure = run(true).unwrap_err();
    assert!(failure.node == Some(0) && failure.what.contains("by_node"), "{failure}");
}

/// Counts what a checker is shown, by kind.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<std::collections::BTreeMap<&'static str, u64>>>);

impl Shown {
    fn of(&self, kind: &str) -> u64 {
        self.0.lock().unwrap().get(kind).copied().unwrap_or(0)
    }
}

impl Checker for Shown {
    fn name(&self) -> &'static str {
        "what is shown"
    }

    fn see(&mut self, _: std::time::Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        let kind = match seen {
            Seen::Started { .. } => "started",
            Seen::Stopped { .. } => "stopped",
            Seen::Sent { .. } => "sent",
            Seen::Arrived { from: Some(_), .. } => "arrived",
            Seen::Command { .. } => "command",
            Seen::Event { event: Event::PathChanged { .. }, .. } => "path changed",
            Seen::Event { .. } => "event",
            Seen::Taken { .. } => "taken",
            Seen::Worked { .. } => "worked",
            _ => "other",
        };
        *self.0.lock().unwrap().entry(kind).or_default() += 1;
        Ok(())
    }
}

/// Checkers see what nodes on machines do, as they see bare nodes; the record keeps it.
#[test]
fn nodes_of_machines_are_shown_to_checkers_and_recorded() {
    let shown = Shown::default();
    let record = std::rc::Rc::new(std::cell::RefCell::new(Record::default()));
    let mut world = recorded(record.clone(), || {
        let mut world = meshes(Sim::new(1), LinkConfig::default().with_loss(20_000));
        world.check(shown.clone());
        world.check(Delivery::default());
        lines_in(world, 500, |_, _| {}).unwrap().0
    });
    let last = format!("{:016x}\n", world.trace());
    world.crash_host(1);
    for kind in ["started", "stopped", "sent", "arrived", "command", "event", "taken", "worked"] {
        assert!(shown.of(kind) > 0, "{kind}: {:?}", shown.0.lock().unwrap());
    }
    assert_eq!((shown.of("started"), shown.of("stopped")), (2, 1));
    let (sent, lost) = (world.stats().datagrams, world.link_stats().lost);
    assert_eq!(shown.of("sent"), sent);
    assert!(lost > 0 && shown.of("arrived") <= sent - lost);
    let record = record.borrow();
    let kept = |of: fn(&Item) -> bool| record.entries.iter().filter(|entry| of(&entry.what)).count() as u64;
    assert_eq!(kept(|what| matches!(what, Item::Sent { .. })), sent);
    assert!(kept(|what| matches!(what, Item::Said { .. })) > 10);
    assert!(record.points_text().ends_with(&last), "{last}{}", record.points_text());
}

/// Breaks its promise when the client took a message that nobody sent.
struct Nothing;

impl Checker for Nothing {
    fn name(&self) -> &'static str {
        "nothing is ever taken"
    }

    fn see(&mut self, _: std::time::Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Taken { node, .. } => Err(Broken::at(*node, "a message")),
            _ => Ok(()),
        }
    }
}

#[test]
fn a_checker_that_objects_to_a_machine_ends_the_run_there() {
    let mut world = meshes(Sim::new(1), LinkConfig::default());
    world.check(Nothing);
    let failure = lines_in(world, 10, |_, _| {}).err().expect("it objects");
    assert_eq!((failure.node, failure.what.as_str()), (Some(0), "nothing is ever taken: a message"));
}

/// What can happen to a bare node can happen to a machine: other addresses, translations, clocks.
#[test]
fn machines_move_and_their_clocks_drift() {
    check("machines_move_and_their_clocks_drift", 3, |s| {
        let shown = Shown::default();
        let mut world = meshes(s, LinkConfig::default());
        world.check(shown.clone());
        world.check(Delivery::default());
        let (mut world, got) = lines_in(world, 100_000, |world, client| {
            world.at(2 * secs(1), move |w| w.roam(client, "10.128.0.9:7000".parse().unwrap()));
            world.at(3 * secs(1), move |w| w.rebind(client, "100.64.0.9:12345".parse().unwrap()));
            world.at(4 * secs(1), |w| w.roam(0, "10.128.0.8:9000".parse().unwrap()));
            world.at(5 * secs(1), move |w| w.drift(client, 200));
            world.at(6 * secs(1), move |w| w.jump_clock(client, secs(1)));
        })?;
        let before = world.local_now(1);
        world.run_for(secs(10))?;
        let ran = world.local_now(1).as_nanos() - before.as_nanos();
        ensure(&world, ran == 10_002_000_000, || format!("its clock ran {ran} ns in 10 s"))?;
        ensure(&world, got.len() == 100_000, || format!("{} lines of 100,000 arrived", got.len()))?;
        let paths = shown.of("path changed");
        ensure(&world, paths >= 3, || format!("{paths} changes of paths for three moves"))
    });
}

#[test]
fn machines_work_behind_address_translations() {
    for mapping in Depends::ALL {
        for filtering in Depends::ALL {
            let mut world = meshes(Sim::new(1), LinkConfig::default());
            world.check(Delivery::default());
            let nat = world.nat(NatConfig::new(mapping, filtering));
            let (world, got) = lines_in(world, 20_000, |world, client| {
                world.behind(client, nat);
                world.at(2 * secs(1), move |w| w.rebind(client, "100.64.0.9:1".parse().unwrap()));
            })
            .unwrap_or_else(|failure| panic!("{mapping:?}, {filtering:?}: {failure}"));
            assert_eq!(got.len(), 20_000);
            let seen = world.mapped(1);
            assert!(seen.is_none_or(|seen| seen.ip() != world.addr(1).ip()), "{seen:?}");
        }
    }
}
