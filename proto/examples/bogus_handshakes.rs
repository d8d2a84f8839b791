//! What 100,000 bogus first messages a second cost a node that holds one to four mesh keys.
//!
//! Run with `cargo run --release -p net-proto --example bogus_handshakes`. The bar is a tenth of a
//! core for messages of somebody who does not hold a mesh key. One who reads a true message on its
//! way can copy its head with the two bytes of mac1 that cover it; the last rows show what that costs.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads the clock; the machines do not"
)]

use std::time::Instant as Clock;

use net_proto::entropy::Entropy;
use net_proto::handshake::{Config, DialRequest, Handshakes, MAX_MESHES};
use net_proto::identity::{Identity, Incarnation, Mesh, MeshId, MeshKey};
use net_proto::path::Path;
use net_proto::time::Instant;

const COUNT: u64 = 200_000;
const RUNS: usize = 5;
/// A tenth of a core at 100,000 messages a second.
const BAR_US: f64 = 1.0;
/// The shortest and the longest message 1.
const LENGTHS: [usize; 2] = [512, 1120];
/// How much of a message the first two bytes of mac1 cover.
const HEAD: usize = 48;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Stranger,
    Copier,
}

fn mesh(n: usize) -> Mesh {
    Mesh { id: MeshId([n as u8; 32]), key: MeshKey([n as u8; 32]) }
}

fn machine(seed: u8, meshes: Vec<Mesh>) -> Handshakes {
    let config = Config::new(Identity::from_seed(&[seed; 32]), Incarnation { epoch: 1, random: 1 }, meshes);
    Handshakes::new(config, Entropy::new(&[seed; 32], "machine"), Instant::ZERO)
}

fn main() {
    println!("The middle of {RUNS} runs of {COUNT} messages, taken in turns; the bar is {BAR_US} us each.");
    println!("  sender    bytes  meshes   us each   of a core at 100,000/s");
    let cases: Vec<_> = [Sender::Stranger, Sender::Copier]
        .into_iter()
        .flat_map(|sender| LENGTHS.map(|len| (sender, len)))
        .flat_map(|(sender, len)| (1..=MAX_MESHES).map(move |meshes| (sender, len, meshes)))
        .collect();
    let mut took: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for _ in 0..RUNS {
        for ((sender, len, meshes), took) in cases.iter().zip(&mut took) {
            took.push(run(*sender, *len, *meshes));
        }
    }
    let mut met = true;
    for ((sender, len, meshes), took) in cases.into_iter().zip(&mut took) {
        took.sort_by(f64::total_cmp);
        let us = took[RUNS / 2];
        let within = us <= BAR_US;
        met &= within || sender == Sender::Copier;
        println!(
            "  {:<9} {len:>5}  {meshes:>6}  {us:>8.2}   {:>5.1} %  {}",
            if sender == Sender::Stranger { "stranger" } else { "copier" },
            us * 10.0,
            if within { "within the bar" } else { "above the bar" },
        );
    }
    println!("bar for strangers: {}", if met { "met" } else { "missed" });
    std::process::exit(i32::from(!met));
}

/// Microseconds that a machine with so many mesh keys takes for one bogus message.
fn run(sender: Sender, len: usize, meshes: usize) -> f64 {
    let path = Path::udp(([192, 0, 2, 1], 9000).into());
    // Keys are tried in their order: the copied message is for the last.
    let template = (sender == Sender::Copier).then(|| true_message(mesh(meshes - 1), &path));
    let mut dice = Entropy::new(&[1; 32], "bogus");
    // The right type, version and length; everything else is noise.
    let bogus: Vec<Vec<u8>> = (0..128)
        .map(|_| {
            let mut data = vec![0; len];
            dice.fill(&mut data);
            (data[0], data[1]) = (1, 1);
            if let Some(message) = &template {
                let (from, to) = (message.len() - 32, len - 32);
                data[..HEAD].copy_from_slice(&message[..HEAD]);
                data[to..to + 2].copy_from_slice(&message[from..from + 2]);
            }
            data
        })
        .collect();
    let mut machine = machine(1, (0..meshes).map(mesh).collect());
    let start = Clock::now();
    for (n, data) in (0..COUNT).zip(bogus.iter().cycle()) {
        machine.handle_datagram(Instant::from_nanos(n), &path, data);
    }
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(machine.drops().mac1, COUNT);
    assert!(machine.is_idle());
    seconds * 1e6 / COUNT as f64
}

/// A message 1 of a member to the machine under test.
fn true_message(mesh: Mesh, path: &Path) -> Vec<u8> {
    let mut member = machine(2, vec![mesh]);
    let request = DialRequest {
        id: 1,
        peer: Identity::from_seed(&[1; 32]).id(),
        paths: vec![*path],
        local_index: 1,
        resume: None,
        limits: Vec::new(),
        mesh: None,
    };
    member.dial(Instant::ZERO, request).expect("a dial");
    let (ticket, job) = member.poll_job().expect("the job of the dial");
    member.handle_job(Instant::ZERO, ticket, job.run());
    let mut buf = vec![0; 1200];
    let (_, len) = member.poll_transmit(Instant::ZERO, &mut buf).expect("message 1");
    buf.truncate(len);
    buf
}
