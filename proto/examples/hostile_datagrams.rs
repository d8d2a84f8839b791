//! Feeds hostile datagrams to a node and counts what comes back to each address.
//!
//! `cargo run --release -p net-proto --example hostile_datagrams -- [COUNT]` (10,000,000 unless said
//! otherwise). Fails if any address got more bytes than it sent, at any moment.
#![expect(clippy::disallowed_methods, reason = "a program may read its arguments")]

use std::net::SocketAddr;

use net_proto::entropy::Entropy;
use net_proto::identity::{Identity, Incarnation, Mesh, MeshId, MeshKey};
use net_proto::node::{Command, Config, Input, Node};
use net_proto::path::{Ecn, Path};
use net_proto::time::{Duration, Instant};

/// Attackers' addresses.
const ADDRESSES: u64 = 1_000;

fn node(seed: u8, key: u8, now: Instant) -> Node {
    let mesh = Mesh { id: MeshId([1; 32]), key: MeshKey([key; 32]) };
    let identity = Identity::from_seed(&[seed; 32]);
    let config = Config::new(identity, mesh, Incarnation { epoch: 1, random: 1 });
    Node::new(config, [seed; 32], now).expect("the usual settings")
}

/// A genuine first message to the victim under the mesh key `key`.
fn first_message(seed: u8, key: u8, now: Instant) -> Vec<u8> {
    let mut node = node(seed, key, now);
    let entity = Identity::from_seed(&[9; 32]).id();
    let paths = vec![Path::udp(SocketAddr::from(([10, 0, 0, 9], 1)))];
    node.handle(now, Input::Command(Command::Dial { id: 1, entity, paths }));
    while let Some((ticket, job)) = node.poll_job() {
        node.handle(now, Input::Job(ticket, job.run()));
    }
    let mut buf = vec![0; 2_000];
    let sent = node.poll_transmit(now, &mut buf).expect("message 1");
    buf.truncate(sent.len);
    buf
}

fn main() {
    let count: u64 = std::env::args().nth(1).map_or(10_000_000, |n| n.parse().expect("a number"));
    let mut now = Instant::from_nanos(1);
    let genuine: Vec<_> = (1..5).map(|seed| first_message(seed, 2, now)).collect();
    let stranger = first_message(5, 3, now);
    let mut victim = node(9, 2, now);
    let mut draws = Entropy::new(&[7; 32], "hostile");
    let mut ledger = vec![(0u64, 0u64); ADDRESSES as usize];
    let mut buf = vec![0; 64 * 1500];
    for n in 0..count {
        now += Duration::from_micros(10);
        let from = draws.below(ADDRESSES);
        let mut data = genuine[draws.below(4) as usize].clone();
        match draws.below(8) {
            // Replays, from anywhere.
            0 => {}
            1 => data.truncate(draws.below(data.len() as u64) as usize),
            2 => data = stranger.clone(),
            // Garbage of every type and size.
            3 => {
                data.truncate(1 + draws.below(data.len() as u64 - 1) as usize);
                draws.fill(&mut data);
                data[0] = draws.below(7) as u8;
            }
            // Data packets that name an index.
            4 => {
                data.truncate(40 + draws.below(400) as usize);
                data[0] = 5;
                let index = draws.u32();
                data[1..5].copy_from_slice(&index.to_le_bytes());
            }
            // An unknown version, authentic or not.
            5 => data[1] = draws.below(256) as u8,
            _ => {
                let at = draws.below(data.len() as u64) as usize;
                data[at] ^= 1 << draws.below(8);
            }
        }
        ledger[from as usize].0 += data.len() as u64;
        let path = Path::udp(SocketAddr::from(([10, 1, (from >> 8) as u8, from as u8], 7)));
        victim.handle(now, Input::Datagram { path, ecn: Ecn::NotEct, data: &mut data });
        while let Some((ticket, job)) = victim.poll_job() {
            victim.handle(now, Input::Job(ticket, job.run()));
        }
        victim.handle(now, Input::Timeout);
        while let Some(sent) = victim.poll_transmit(now, &mut buf) {
            let Some(SocketAddr::V4(to)) = sent.path.udp_addr() else { panic!("sent to {:?}", sent.path) };
            let [.., high, low] = to.ip().octets();
            let (inward, outward) = &mut ledger[usize::from(high) << 8 | usize::from(low)];
            *outward += sent.len as u64;
            assert!(*outward <= *inward, "datagram {n}: {outward} bytes to {to}, which sent {inward}");
        }
        assert_eq!(victim.poll_event(), None, "datagram {n} had an effect");
    }
    let total = ledger.iter().fold((0, 0), |sum, (i, o)| (sum.0 + i, sum.1 + o));
    let worst = ledger.iter().map(|(i, o)| *o as f64 / (*i).max(1) as f64).fold(0.0, f64::max);
    println!("{count} datagrams, {} bytes in, {} bytes out, worst address {worst:.3}", total.0, total.1);
    println!("{:#?}", victim.stats().handshake);
}
