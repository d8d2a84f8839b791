//! Plans: what they do to a world, and those that once failed and must hold now (`plans/*.plan`).

use std::future::poll_fn;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use net_proto::storage::{StoreOp, Ticket};
use net_shell::runtime::Runtime;
use net_sim::checkers::{Broken, Checker, Delivery, Seen, Wants};
use net_sim::plan::{DiskFault, Kind, LinkFault, Nodes, What};
use net_sim::traffic::{Flow, Station};
use net_sim::{Core, Failure, Fault, Plan, Sim, Swarm, World, check, ensure, scenario};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Lives a plan by its scenario.
fn live(plan: &Plan) -> Result<World, Failure> {
    let run = scenario::named(&plan.scenario).expect("a scenario of this name");
    run(plan)
}

#[test]
fn every_committed_plan_holds() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/plans");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.retain(|f| f.extension().is_some_and(|e| e == "plan"));
    assert!(!files.is_empty(), "the fixtures are there");
    for file in files {
        let plan = Plan::load(&file).unwrap();
        println!("{}", file.display());
        net_sim::check::replay("every_committed_plan_holds", &plan, |s| {
            live(&s.plan_or(|| unreachable!("a replay gives its plan"))).map(drop)
        });
    }
}

#[test]
fn swarms_over_every_scenario() {
    for name in ["mesh", "pair", "ciphers"] {
        check(&format!("swarms_over_{name}"), 8, |s| {
            s.require(&["an association ended", "a stream was reset by the peer"]);
            let time = s.time(Duration::from_secs(12));
            live(&s.plan(&scenario::swarm(name, 6, time))).map(drop)
        });
    }
}

#[test]
fn the_same_plan_is_the_same_run_and_its_text_is_too() {
    let plan = Plan::random(5, &scenario::swarm("mesh", 6, Duration::from_secs(8)));
    let trace = |plan: &Plan| live(plan).unwrap().trace();
    let first = trace(&plan);
    assert_eq!(first, trace(&plan.to_string().parse().unwrap()));
    assert_ne!(first, trace(&plan.with_faults(Vec::new())));
}

/// Two stations under a plan; how many messages of 1,000 arrived by the end of it.
fn got(faults: Vec<Fault>) -> (u64, World) {
    let mut world = Sim::new(1).world();
    let flow = Flow { every: Some(ms(10)), ..Flow::reliable(1, 1, 1_000, 100) };
    world.spawn_each(1, move |_| Station::sender([flow]));
    world.spawn_each(1, |_| Station::listener());
    let plan = Plan::quiet("x", 1, 2, Duration::from_secs(5)).with_faults(faults);
    world.run_plan(&plan).unwrap();
    let got = world.app::<Station>(1).map_or(0, Station::received);
    (got, world)
}

#[test]
fn faults_begin_and_end_when_they_say() {
    let (all, _) = got(vec![]);
    assert!(all > 480, "{all}");
    // A cut in one direction, long over at the end: what was held back has arrived.
    let cut = Fault::new(ms(1_000), ms(500), What::link(0, 1, LinkFault::Cut));
    let (healed, world) = got(vec![cut.clone()]);
    assert!(healed > 470, "{healed}");
    assert!(world.link_stats().cut > 10);
    // One that still lasts.
    let (held, mut world) =
        got(vec![Fault { at: ms(4_000), ..cut.clone() }, Fault::once(ms(4_400), cut.what)]);
    assert!((390..410).contains(&held), "{held}");
    // Healing ends it, and the link is what it was.
    world.heal();
    world.run_for(Duration::from_secs(3)).unwrap();
    assert!(world.app::<Station>(1).unwrap().received() > 700);
    assert!(!world.link(0, 1).config.cut);
}

#[test]
fn faults_of_one_link_add_up_and_leave_in_any_order() {
    let lose = |at, lasting| Fault::new(ms(at), ms(lasting), What::link(0, 1, LinkFault::Lose(500_000)));
    let mut world = Sim::new(1).world();
    world.spawn_bare();
    world.spawn_bare();
    let plain = world.link(0, 1).config.clone();
    let plan = Plan::quiet("x", 1, 2, ms(0)).with(lose(1, 10)).with(lose(5, 20)).with(Fault::new(
        ms(7),
        ms(1),
        What::partition(Nodes::All, Nodes::one(1)),
    ));
    world.schedule(&plan);
    let mut at = |t, loss, cut| {
        world.run_for(ms(t) - world.now()).unwrap();
        let config = &world.link(0, 1).config;
        assert_eq!((config.loss, config.cut), (loss, cut), "at {t} ms");
        config.clone()
    };
    at(2, 500_000, false);
    at(6, 750_000, false);
    at(7, 750_000, true);
    at(9, 750_000, false);
    at(12, 500_000, false);
    assert_eq!(at(30, 0, false), plain);
}

#[test]
fn what_is_clogged_comes_out_at_the_end() {
    let clog = Fault::new(ms(1_000), ms(100), What::link(0, 1, LinkFault::Clog));
    let (got, world) = got(vec![clog]);
    assert!(got > 480, "{got}");
    assert_eq!(world.link_stats().cut + world.link_stats().lost, 0);
}

#[test]
fn a_crashed_node_comes_back_and_the_spared_stay_down() {
    let crash = |at, lasting| Fault { at: ms(at), lasting, what: What::Crash(1) };
    let (_, world) = got(vec![crash(1_000, Some(ms(500)))]);
    assert!(world.node(1).is_some());
    let (_, mut world) = got(vec![crash(1_000, None)]);
    assert!(world.node(1).is_none());
    assert_eq!(world.heal_core(&Core::Of(vec![0])), [0]);
    assert!(world.node(1).is_none(), "what is not of the core stays broken");
    world.heal();
    assert!(world.node(1).is_some());
}

#[test]
fn a_core_is_healed_and_the_rest_stays_apart() {
    let mut world = Sim::new(3).world();
    world.spawn_each(6, |i| Station::friend((0..i).collect::<Vec<_>>()));
    let cut = What::partition(Nodes::All, Nodes::All);
    world.run_plan(&Plan::quiet("x", 3, 6, ms(100)).with(Fault::once(ms(0), cut))).unwrap();
    let core = world.heal_core(&Core::Majority);
    assert_eq!(core.len(), 4);
    world.run_for(ms(1)).unwrap();
    for a in 0..6 {
        for b in (0..6).filter(|b| *b != a) {
            let both = core.contains(&a) && core.contains(&b);
            assert_eq!(world.link(a, b).config.cut, !both, "{a} -> {b}, core {core:?}");
        }
    }
}

#[test]
fn clocks_jump_and_drift() {
    let (got, world) = got(vec![
        Fault::once(ms(1_000), What::Jump(1, Duration::from_secs(2))),
        Fault::new(ms(1_500), ms(1_000), What::Drift(0, 500)),
    ]);
    assert!(got > 450, "{got}");
    let start = Sim::new(1).world();
    drop(start);
    assert!(world.local_now(1).as_nanos() > 7_000_000_000);
}

#[test]
fn moves_are_survived() {
    let (got, world) = got(vec![
        Fault::once(ms(1_000), What::Rebind(0)),
        Fault::once(ms(2_000), What::Roam(0)),
        Fault::once(ms(3_000), What::Rebind(1)),
    ]);
    assert!(got > 300, "{got}");
    assert!(world.stats().nowhere > 0);
}

#[test]
fn disks_of_machines_get_worse_by_plan() {
    let mut world = Sim::new(1).world();
    let host = world.host();
    let disk = world.disk(host, "data");
    let plan = Plan::quiet("x", 1, 1, ms(50)).with(Fault::new(
        ms(10),
        ms(20),
        What::Disk(host, DiskFault::Slow(Duration::from_secs(1))),
    ));
    world.schedule(&plan);
    world.run_for(ms(20)).unwrap();
    assert!(disk.latency() > Duration::from_secs(1));
    world.run_for(ms(20)).unwrap();
    assert!(disk.latency() < Duration::from_secs(1));
}

/// Writes and syncs five bytes; the time that it took goes to `took`.
async fn store(runtime: Arc<dyn Runtime>, took: Arc<Mutex<Vec<Duration>>>) {
    let begin = runtime.now();
    let mut storage = runtime.storage(Path::new("data")).unwrap();
    let file = || "file".to_owned();
    for (i, op) in [
        StoreOp::Open { file: file(), exclusive: true },
        StoreOp::Write { file: file(), offset: 0, data: b"bytes".to_vec() },
        StoreOp::Sync { file: file() },
    ]
    .into_iter()
    .enumerate()
    {
        storage.submit(Ticket(i as u64), op);
    }
    for want in 0..3 {
        let (ticket, result) = poll_fn(|cx| storage.poll_done(cx)).await;
        assert!(ticket == Ticket(want) && result.is_ok(), "{ticket:?}: {result:?}");
    }
    took.lock().unwrap().push(runtime.now().since(begin));
    std::future::pending::<()>().await;
}

#[test]
fn machines_store_in_drawn_time_and_start_again_by_plan() {
    let took: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let mut world = Sim::new(1).world();
    let first = took.clone();
    let host = world.spawn_task(|runtime| store(runtime, first));
    let again = took.clone();
    world.on_restart(host, move |w, host| {
        let took = again.clone();
        w.start_task(host, |runtime| store(runtime, took));
    });
    let plan: Plan =
        "net-sim plan 1\nscenario x\nseed 1\nnodes 1\ntime 2s\nat 9ms disk 0 slow 100ms for 1s\n\
                      at 10ms crash 0 for 5ms\n"
            .parse()
            .unwrap();
    world.run_plan(&plan).unwrap();
    let took = took.lock().unwrap().clone();
    assert_eq!(took.len(), 2, "it ran, and ran again after the crash");
    assert!(took[0] > Duration::ZERO && took[0] < ms(3), "{took:?}");
    assert!(took[1] > ms(300), "the disk was slow: {took:?}");
    assert_eq!(world.disk(host, "data").content("file").unwrap(), b"bytes");
}

/// Fails on the first fault of a kind.
struct Hates(Kind);

impl Checker for Hates {
    fn name(&self) -> &'static str {
        "hates"
    }
    fn wants(&self) -> Wants {
        Wants::FAULTS
    }
    fn see(&mut self, _: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Fault { text, begins: true, .. } if text.starts_with(self.0.name()) => {
                Err(Broken::somewhere(format!("it does not like {text}")))
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn a_checker_of_a_user_ends_the_run_and_is_named() {
    let mut world = Sim::new(1).world();
    world.check(Hates(Kind::Roam));
    world.check(Delivery::default());
    world.spawn_each(2, |_| Station::listener());
    let plan = Plan::quiet("x", 1, 2, ms(100)).with(Fault::once(ms(40), What::Roam(1)));
    let failure = world.run_plan(&plan).unwrap_err();
    assert_eq!(failure.what, "hates: it does not like roam 1");
    assert_eq!(failure.at, ms(40));
}

#[test]
fn the_whole_sdk_under_a_plan() {
    check("the_whole_sdk_under_a_plan", 3, |s| {
        let plan = s.plan(&Swarm::new("sdk", 2, Duration::from_secs(5)).allow(Kind::CLOCK).at_most(12));
        let mut world = s.world();
        let (seen, done) = sdk::start(&mut world)?;
        world.run_plan(&plan)?;
        world.heal();
        world.eventually(Duration::from_secs(120), "the flush", |_| done())?;
        let got = seen();
        ensure(&world, got == sdk::LINES, || format!("{got} lines"))
    });
}

mod sdk {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use net_sdk::{Invite, Mesh, Mode, rt};
    use net_sim::{Failure, World};

    use super::ms;

    pub const LINES: usize = 300;

    /// A server that counts and a client that sends; how many came, and whether the client is done.
    #[allow(clippy::type_complexity)]
    pub fn start(
        world: &mut World,
    ) -> Result<(impl Fn() -> usize + use<>, impl Fn() -> bool + use<>), Failure> {
        let invite: Arc<Mutex<Option<Invite>>> = Arc::default();
        let (count, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (put, seen) = (invite.clone(), count.clone());
        world.spawn_task(|runtime| {
            rt::enter(runtime, async move {
                let mesh = Mesh::builder().start().await.unwrap();
                *put.lock().unwrap() = Some(mesh.invite());
                let stream = mesh.accept_stream().await.unwrap();
                while let Ok(Some(_)) = stream.recv().await {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                rt::sleep(ms(3_600_000)).await;
                drop(mesh);
            })
        });
        world.run_for(ms(500))?;
        let invite = invite.lock().unwrap().take().expect("the server started");
        let flag = done.clone();
        world.spawn_task(|runtime| {
            rt::enter(runtime, async move {
                let mesh = Mesh::builder().join(&invite).start().await.unwrap();
                let peer = mesh.connect(&invite).await.unwrap();
                let stream = peer.open_stream("lines", Mode::Reliable).await.unwrap();
                for i in 0..LINES {
                    stream.send(format!("line {i}").as_bytes()).await.unwrap();
                    rt::sleep(ms(10)).await;
                }
                stream.flush().await.unwrap();
                flag.store(true, Ordering::Relaxed);
                rt::sleep(ms(3_600_000)).await;
                drop(mesh);
            })
        });
        world.run_for(ms(500))?;
        Ok((move || count.load(Ordering::Relaxed), move || done.load(Ordering::Relaxed)))
    }
}
