//! The workload of the figures: nodes begin within a second, know 8 neighbours each, keep their sessions alive every 100 ms
//! and send each neighbour's application a message of 128 bytes a second, over links that lose and
//! duplicate 1 % and damage 0.1 %.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use net_proto::identity::{Identity, Mesh as MeshSecret, MeshId, MeshKey, Ticket};
use net_proto::node::Config;
use net_proto::session::aead::{CipherSuite, Portable};
use net_sdk::{Mesh, Mode, Stream, rt};
use net_shell::aead::Native;
use net_sim::keyed::{Domain, bytes32, draw};
use net_sim::null::Null;
use net_sim::topology::regular;
use net_sim::traffic::{Flow, Station};
use net_sim::{LinkConfig, World, WorldConfig};

const NEIGHBOURS: u32 = 8;
const EVERY: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_millis(100);
const SIZE: usize = 128;
const PORT: u16 = 7_000;

/// What protects the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ciphers {
    /// Keyed checksums.
    Null,
    /// RustCrypto's ChaCha20-Poly1305.
    Portable,
    /// ring's, AES where the processor has it.
    Ring,
}

impl Ciphers {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Portable => "portable",
            Self::Ring => "ring",
        }
    }

    fn suite(self) -> Arc<dyn CipherSuite> {
        match self {
            Self::Null => Arc::new(Null),
            Self::Portable => Arc::new(Portable),
            Self::Ring => Arc::new(Native::new()),
        }
    }
}

fn settings(ciphers: Ciphers) -> impl Fn(&mut Config) + Clone {
    let suite = ciphers.suite();
    move |node| {
        node.session.keep_alive = KEEP_ALIVE;
        node.ciphers = suite.clone();
    }
}

fn world(seed: u64, nodes: u32, ciphers: Ciphers) -> World {
    let link = LinkConfig {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(5),
        loss: 10_000,
        duplicate: 10_000,
        corrupt: 1_000,
        ..LinkConfig::default()
    };
    let set = settings(ciphers);
    let mut config = WorldConfig::new(seed).link(link).tune(move |_, node| set(node));
    config.real_ciphers = ciphers != Ciphers::Null;
    // Of a large world as many checks a second as of one of 256 nodes.
    config.invariants_every = if nodes > 20 { (nodes / 4).max(64) } else { 1 };
    config.by_node = true;
    World::new(config)
}

/// When a node begins: machines do not start in the same nanosecond, but within a second.
fn begin(node: u32, nodes: u32) -> Duration {
    EVERY * node / nodes
}

/// Bare nodes: machines that the world drives, with a [`Station`] on each.
pub fn bare(seed: u64, nodes: u32, ciphers: Ciphers) -> World {
    let mut world = world(seed, nodes, ciphers);
    for (i, neighbours) in regular(seed, nodes, NEIGHBOURS).into_iter().enumerate() {
        let flows = neighbours.into_iter().map(|to| Flow {
            every: Some(EVERY),
            ..Flow::reliable(draw(seed, Domain::Plan, i as u64, u64::from(to)), to, u64::MAX, SIZE)
        });
        let flows = flows.collect::<Vec<_>>();
        world.spawn(Station::sender(flows).beginning_after(begin(i as u32, nodes)));
    }
    world
}

/// Messages that applications sent and got.
#[derive(Debug, Default)]
pub struct Counts {
    pub sent: AtomicU64,
    pub got: AtomicU64,
}

/// The whole SDK: an asynchronous application on every node.
pub fn sdk(seed: u64, nodes: u32, ciphers: Ciphers) -> (World, Arc<Counts>) {
    let mut world = world(seed, nodes, ciphers);
    let counts = Arc::<Counts>::default();
    let secret = MeshSecret { id: MeshId([1; 32]), key: MeshKey([2; 32]) };
    let key = |i: u32| bytes32(seed, Domain::Identity, u64::from(i), 1);
    let tickets: Vec<Ticket> = (0..nodes)
        .map(|i| Ticket {
            entity: Identity::from_seed(&key(i)).id(),
            addrs: vec![SocketAddr::from((Ipv4Addr::from(0x0a00_0001 + i), PORT))],
        })
        .collect();
    for (i, neighbours) in regular(seed, nodes, NEIGHBOURS).into_iter().enumerate() {
        let others = neighbours.into_iter().map(|n| tickets[n as usize].clone()).collect::<Vec<_>>();
        let builder = Mesh::builder()
            .bind(tickets[i].addrs.clone())
            .seed(key(i as u32))
            .mesh(secret.clone())
            .config(settings(ciphers));
        let counts = counts.clone();
        world.spawn_task(move |runtime| {
            rt::enter(runtime, async move {
                rt::sleep(begin(i as u32, nodes)).await;
                let mesh = builder.start().await.expect("the node starts");
                application(&mesh, others, &counts).await;
            })
        });
    }
    (world, counts)
}

async fn application(mesh: &Mesh, neighbours: Vec<Ticket>, counts: &Arc<Counts>) {
    let mut opening = Vec::new();
    for ticket in neighbours {
        let mesh = mesh.clone();
        opening.push(rt::spawn(async move {
            loop {
                let Ok(peer) = mesh.connect(&ticket).await else { continue };
                if let Ok(stream) = peer.open_stream("bench", Mode::Reliable).await {
                    return stream;
                }
            }
        }));
    }
    let (acceptor, count) = (mesh.clone(), counts.clone());
    rt::spawn(async move {
        while let Ok(stream) = acceptor.accept_stream().await {
            rt::spawn(read(stream, count.clone()));
        }
    });
    let mut streams = Vec::new();
    for task in opening {
        streams.extend(task.await);
    }
    let message = [7; SIZE];
    loop {
        for stream in &streams {
            if stream.send(&message).await.is_ok() {
                counts.sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        rt::sleep(EVERY).await;
    }
}

async fn read(stream: Stream, counts: Arc<Counts>) {
    while let Ok(Some(_)) = stream.recv_with(|message| assert_eq!(message.len(), SIZE)).await {
        counts.got.fetch_add(1, Ordering::Relaxed);
    }
}
