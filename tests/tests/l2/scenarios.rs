//! End to end: transfer, roaming, restart, partition, crossing dials, and whatever a swarm draws.
//!
//! A scenario is a function of a [`Sim`] that gives back its machines; [`scenarios`] makes a test of each, and
//! `determinism.rs` runs each in two processes.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex};

use net_sdk::{Mesh, Mode};
use net_sim::checkers::{CreditReturned, Delivery, Honest, LedgerBalances};
use net_sim::hosts::{Hosts, Machine, Outcome};
use net_sim::plan::{Core, Kind};
use net_sim::{Failure, LinkConfig, Sim, Swarm, check, sometimes};
use tokio::time::{sleep, timeout};

use crate::{ms, secs};

/// What has to hold end to end.
pub type Scenario = fn(Sim) -> Result<Hosts, Failure>;

/// Makes a test of each scenario, and a table of all.
macro_rules! scenarios {
    ($($name:ident: $runs:literal,)+) => {
        pub const ALL: &[(&str, Scenario)] = &[$((stringify!($name), $name),)+];
        mod runs {
            $(#[test]
            fn $name() {
                net_sim::check(concat!("l2_", stringify!($name)), $runs, |s| super::$name(s).map(drop));
            })+
        }
    };
}

scenarios! {
    transfer: 3,
    roaming: 3,
    restart: 3,
    partition: 3,
    crossing_dials: 3,
    swarm: 5,
}

/// Numbers that arrived, whichever life of the receiver took them.
type Board = Arc<Mutex<BTreeSet<u32>>>;

fn hosts(s: Sim, link: LinkConfig) -> Hosts {
    let mut hosts = s.hosts().link(link);
    hosts.check(Delivery::default());
    hosts.check(LedgerBalances::default());
    hosts.check(CreditReturned);
    hosts.check(Honest);
    hosts
}

fn lossy(ppm: u32) -> LinkConfig {
    LinkConfig { jitter: ms(3), duplicate: ppm / 2, ..LinkConfig::default().with_loss(ppm) }
}

/// Takes numbers from everybody, for ever.
async fn receive(machine: Machine, board: Board) -> Outcome {
    let mesh = machine.mesh_builder().start().await?;
    loop {
        let stream = mesh.accept_stream().await?;
        let board = board.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = stream.recv().await {
                if let Some(number) = message.first_chunk() {
                    board.lock().unwrap().insert(u32::from_le_bytes(*number));
                }
            }
        });
    }
}

/// Sends numbers to machine 0 until each batch was acknowledged, over as many associations as it takes.
async fn send(machine: Machine, numbers: std::ops::Range<u32>, size: usize) -> Outcome {
    let mesh = machine.mesh_builder().start().await?;
    let mut next = numbers.start;
    while next < numbers.end {
        // What goes wrong is retried with what was not acknowledged; reliable streams end by themselves
        // when their peer is gone.
        match attempt(&machine, &mesh, &mut next, numbers.end, size).await {
            Ok(()) => {}
            Err(_) => {
                sometimes!("a sender began again");
                sleep(ms(200)).await;
            }
        }
    }
    Ok(())
}

async fn attempt(
    m: &Machine,
    mesh: &Mesh,
    next: &mut u32,
    end: u32,
    size: usize,
) -> Result<(), Box<dyn Error>> {
    let peer = timeout(secs(10), mesh.connect(m.ticket(0))).await??;
    let stream = peer.open_stream("numbers", Mode::Reliable).await?;
    while *next < end {
        let batch = (*next + 50).min(end);
        for number in *next..batch {
            let mut message = number.to_le_bytes().to_vec();
            message.resize(size, number as u8);
            stream.send(&message).await?;
        }
        stream.flush().await?;
        *next = batch;
    }
    stream.finish().await?;
    Ok(())
}

/// Two machines, one of which sends `count` numbers; `disturb` says what happens meanwhile.
fn numbers(s: Sim, link: LinkConfig, count: u32, disturb: impl FnOnce(&mut Hosts)) -> Result<Hosts, Failure> {
    let board = Board::default();
    let mut hosts = hosts(s, link);
    let seen = board.clone();
    hosts.spawn(move |machine| receive(machine, seen.clone()));
    hosts.spawn(move |machine| send(machine, 0..count, 1_000));
    disturb(&mut hosts);
    hosts.eventually(secs(120), "the sender's end", |h| h.is_done(1))?;
    let got = board.lock().unwrap().len();
    if got != count as usize {
        hosts.fail(Some(0), format!("{got} numbers of {count} arrived"));
    }
    hosts.at_end()?;
    Ok(hosts)
}

fn transfer(s: Sim) -> Result<Hosts, Failure> {
    numbers(s, lossy(20_000), 2_000, |_| {})
}

/// Both ends move while numbers are on the way; the receiver's old address leads nowhere.
fn roaming(s: Sim) -> Result<Hosts, Failure> {
    let link = lossy(5_000).with_rate(8_000_000, 64_000);
    let hosts = numbers(s, link, 3_000, |h| {
        h.at(ms(800), |h| h.roam(1));
        h.at(ms(1_500), |h| h.rebind(1));
    })?;
    Ok(hosts)
}

fn restart(s: Sim) -> Result<Hosts, Failure> {
    s.require(&["a sender began again"]);
    numbers(s, lossy(5_000).with_rate(8_000_000, 64_000), 3_000, |h| {
        h.at(ms(900), |h| h.crash(0));
        h.at(ms(1_900), |h| h.restart(0));
        h.at(ms(7_000), |h| h.crash(1));
        h.at(ms(7_200), |h| h.restart(1));
    })
}

fn partition(s: Sim) -> Result<Hosts, Failure> {
    numbers(s, lossy(5_000).with_rate(8_000_000, 64_000), 3_000, |h| {
        h.at(ms(700), |h| h.partition(&[0], &[1], true));
        h.at(ms(5_700), |h| h.partition(&[0], &[1], false));
    })
}

/// Everybody dials everybody at once: each pair ends with one association, which both know.
fn crossing_dials(s: Sim) -> Result<Hosts, Failure> {
    const NODES: u32 = 5;
    let known: Arc<Mutex<[BTreeSet<u32>; NODES as usize]>> = Arc::default();
    let mut hosts = hosts(s, lossy(50_000));
    let told = known.clone();
    hosts.spawn_each(NODES, move |machine| {
        let told = told.clone();
        async move {
            let mesh = Arc::new(machine.mesh_builder().start().await?);
            let me = machine.index();
            for other in (0..NODES).filter(|other| *other != me) {
                let (mesh, machine) = (mesh.clone(), machine.clone());
                tokio::spawn(async move {
                    while mesh.connect(machine.ticket(other)).await.is_err() {
                        sleep(ms(100)).await;
                    }
                });
            }
            loop {
                let peers = mesh.peers();
                let number = |peer: &net_sdk::Peer| (0..NODES).find(|n| machine.entity(*n) == peer.id());
                let now: BTreeSet<u32> = peers.iter().filter_map(number).collect();
                if now.len() != peers.len() {
                    machine.fail("two associations with one peer");
                }
                told.lock().unwrap()[me as usize] = now;
                sleep(ms(10)).await;
            }
        }
    });
    let all = |me: u32| (0..NODES).filter(|other| *other != me).collect::<BTreeSet<_>>();
    hosts.eventually(secs(30), "everybody knows everybody", |_| {
        let known = known.lock().unwrap();
        (0..NODES).all(|me| known[me as usize] == all(me))
    })?;
    // And so it stays.
    hosts.run_for(secs(5))?;
    let known = known.lock().unwrap().clone();
    if let Some(me) = (0..NODES).find(|me| known[*me as usize] != all(*me)) {
        hosts.fail(Some(me), format!("knows {:?} in the end", known[me as usize]));
    }
    hosts.at_end()?;
    Ok(hosts)
}

/// Whatever faults the seed draws; then a healed core delivers everything.
fn swarm(s: Sim) -> Result<Hosts, Failure> {
    let kinds = [Kind::CRASH, Kind::CLOCK, Kind::MOVE].concat();
    let plan = s.plan(&Swarm::new("l2", 4, s.time(secs(8))).allow(&kinds).at_most(12));
    let board = Board::default();
    let mut hosts = hosts(s, LinkConfig::default());
    let seen = board.clone();
    hosts.spawn(move |machine| receive(machine, seen.clone()));
    for sender in 1..plan.nodes {
        // Spread over the time of the faults.
        hosts.spawn(move |machine| async move {
            for part in 0..8 {
                let from = sender * 1_000 + part * 20;
                send_once(&machine, from..from + 20).await?;
                sleep(ms(700)).await;
            }
            Ok(())
        });
    }
    hosts.run_plan(&plan)?;
    hosts.heal_core(&Core::All);
    let senders = plan.nodes - 1;
    hosts.eventually(secs(120), "everything arrived", |h| {
        (1..=senders).all(|n| h.is_done(n)) && board.lock().unwrap().len() as u32 == senders * 160
    })?;
    hosts.at_end()?;
    Ok(hosts)
}

/// A mesh for one part of the work only: so that meshes end and begin on one machine too.
async fn send_once(machine: &Machine, numbers: std::ops::Range<u32>) -> Outcome {
    send(machine.clone(), numbers, 300).await
}

#[test]
fn a_spawned_task_that_panics_fails_the_run() {
    let mut hosts = Sim::new(1).hosts();
    hosts.spawn(|_| async {
        tokio::spawn(async {
            sleep(ms(20)).await;
            panic!("nobody joins this task");
        });
        Ok(())
    });
    let failure = hosts.run_for(secs(1)).unwrap_err();
    assert!(failure.what.contains("nobody joins this task"), "{failure}");
    assert_eq!(failure.at, ms(21));
}

#[test]
fn an_application_that_ends_with_an_error_fails_the_run() {
    let mut hosts = Sim::new(1).hosts();
    hosts.spawn(|_| async { Ok(()) });
    hosts.spawn(|_| async { Err("out of paper".into()) });
    let failure = hosts.run_for(secs(1)).unwrap_err();
    assert!(failure.node == Some(1) && failure.what.contains("out of paper"), "{failure}");
}

/// The checkers look into the driver: what is delivered twice is told.
#[test]
fn checkers_see_the_messages_of_the_driver() {
    check("checkers_see_the_messages_of_the_driver", 1, |s| {
        let counted = std::rc::Rc::new(std::cell::Cell::new(0));
        let mut hosts = s.hosts();
        hosts.check(Counts(counted.clone()));
        let board = Board::default();
        let seen = board.clone();
        hosts.spawn(move |machine| receive(machine, seen.clone()));
        hosts.spawn(|machine| send(machine, 0..100, 20));
        hosts.eventually(secs(10), "the end", |h| h.is_done(1))?;
        assert_eq!((counted.get(), board.lock().unwrap().len()), (100, 100));
        Ok(())
    });
}

struct Counts(std::rc::Rc<std::cell::Cell<usize>>);

impl net_sim::Checker for Counts {
    fn name(&self) -> &'static str {
        "counts"
    }

    fn see(
        &mut self,
        _: std::time::Duration,
        seen: &net_sim::checkers::Seen<'_>,
    ) -> Result<(), net_sim::checkers::Broken> {
        if let net_sim::checkers::Seen::Taken { node: 0, taken, .. } = seen {
            let messages = net_proto::stream::Messages::received(&taken.chunk, taken.mode, taken.first);
            self.0.set(self.0.get() + messages.count());
        }
        Ok(())
    }
}
