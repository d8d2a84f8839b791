//! What a user's tokio application and its test look like: a work queue with a lease, written with
//! tokio's own tasks, timers, channels and `select!`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use net_sdk::{MeshBuilder, Mode, Stream};
use net_sim::hosts::Outcome;
use net_sim::plan::Kind;
use net_sim::{Failure, Swarm, check};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};

use crate::{ms, secs};

// --- the application -----------------------------------------------------------------------------

/// What the server knows of its jobs; it writes it down, so it outlives a crash.
#[derive(Default)]
pub struct Queue {
    open: VecDeque<u32>,
    lent: BTreeSet<u32>,
    done: BTreeMap<u32, u32>,
}

type Shared = Arc<Mutex<Queue>>;

enum Told {
    Wants(Arc<Stream>),
    Did(u32),
    Lost(u32),
}

/// Hands each job to one worker; a job whose worker is gone is handed out again. One that `remembers`
/// does so after a crash of its own too.
pub async fn server(mesh: MeshBuilder, queue: Shared, remembers: bool) -> Outcome {
    if remembers {
        let mut queue = queue.lock().unwrap();
        let lent = std::mem::take(&mut queue.lent);
        queue.open.extend(lent);
    }
    let mesh = mesh.start().await?;
    let (tell, mut told) = mpsc::channel(16);
    let mut idle = VecDeque::new();
    let mut look = interval(ms(100));
    loop {
        tokio::select! {
            biased;
            Some(told) = told.recv() => match told {
                Told::Wants(stream) => idle.push_back(stream),
                Told::Did(job) => {
                    let mut queue = queue.lock().unwrap();
                    queue.lent.remove(&job);
                    *queue.done.entry(job).or_default() += 1;
                }
                Told::Lost(job) => {
                    let mut queue = queue.lock().unwrap();
                    queue.lent.remove(&job);
                    queue.open.push_front(job);
                }
            },
            stream = mesh.accept_stream() => idle.push_back(Arc::new(stream?)),
            _ = look.tick() => {}
        }
        while !idle.is_empty() {
            let Some(job) = queue.lock().unwrap().open.pop_front() else { break };
            queue.lock().unwrap().lent.insert(job);
            let Some(worker) = idle.pop_front() else { break };
            tokio::spawn(lend(worker, job, tell.clone()));
        }
    }
}

/// Gives one job to a worker and waits for its answer, for as long as a lease lasts.
async fn lend(worker: Arc<Stream>, job: u32, tell: mpsc::Sender<Told>) {
    let answer = async {
        worker.send(&job.to_le_bytes()).await.ok()?;
        worker.recv().await.ok()?
    };
    if timeout(secs(5), answer).await.is_ok_and(|answer| answer.is_some()) {
        let _ = tell.send(Told::Did(job)).await;
        let _ = tell.send(Told::Wants(worker)).await;
    } else {
        worker.reset(1);
        let _ = tell.send(Told::Lost(job)).await;
    }
}

/// Asks for jobs and does them; connects again when the server is gone.
pub async fn worker(mesh: MeshBuilder, server: impl Fn() -> net_sdk::Ticket) -> Outcome {
    let mesh = mesh.start().await?;
    loop {
        let work = async {
            let stream = mesh.connect(server()).await?.open_stream("work", Mode::Reliable).await?;
            while let Some(job) = stream.recv().await? {
                sleep(ms(50)).await;
                stream.send(&job).await?;
            }
            Ok(())
        };
        let _: net_sdk::Result<()> = work.await;
        sleep(ms(300)).await;
    }
}

// --- its test ------------------------------------------------------------------------------------

#[test]
fn every_job_is_done_whatever_happens() {
    check("every_job_is_done_whatever_happens", 3, |s| {
        let plan = s.plan(&Swarm::new("queue", 4, s.time(secs(10))).allow(Kind::CRASH).at_most(8));
        let queue: Shared = Arc::default();
        queue.lock().unwrap().open.extend(0..100);
        let mut hosts = s.hosts();
        let held = queue.clone();
        hosts.spawn(move |machine| server(machine.mesh_builder(), held.clone(), true));
        for _ in 1..plan.nodes {
            hosts.spawn(|machine| worker(machine.mesh_builder(), move || machine.ticket(0)));
        }
        hosts.run_plan(&plan)?;
        hosts.heal();
        hosts.eventually(secs(60), "all jobs done", |_| queue.lock().unwrap().done.len() == 100)?;
        hosts.at_end()
    });
}

/// Proves that the test above can fail: a server that forgets what it lent.
#[test]
fn a_server_that_forgets_what_it_lent_is_found() {
    let forgets = |seed: u64| -> Result<(), Failure> {
        let mut hosts = net_sim::Sim::new(seed).hosts();
        let queue: Shared = Arc::default();
        queue.lock().unwrap().open.extend(0..100);
        let held = queue.clone();
        hosts.spawn(move |machine| server(machine.mesh_builder(), held.clone(), false));
        hosts.spawn(|machine| worker(machine.mesh_builder(), move || machine.ticket(0)));
        hosts.at(ms(1_000), |h| h.crash(0));
        hosts.at(ms(1_500), |h| h.restart(0));
        hosts.eventually(secs(60), "all jobs done", |_| queue.lock().unwrap().done.len() == 100)
    };
    let failure = (0..5).find_map(|seed| forgets(seed).err()).expect("a seed that finds it");
    assert!(failure.what.contains("all jobs done"), "{failure}");
}
