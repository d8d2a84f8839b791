//! How many bogus first messages per second one core rejects, and what 100,000 a second cost.
//!
//! Run with `cargo run --release -p net-proto --example bogus_handshakes`.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a benchmark reads the clock; the machines do not"
)]

use std::time::Instant as Clock;

use net_proto::entropy::Entropy;
use net_proto::handshake::{Config, Handshakes};
use net_proto::identity::{Identity, Incarnation, Mesh, MeshId, MeshKey};
use net_proto::path::Path;
use net_proto::time::Instant;

const COUNT: u64 = 2_000_000;

fn main() {
    let path = Path::udp(([192, 0, 2, 1], 9000).into());
    let mut dice = Entropy::new(&[1; 32], "bogus");
    // The right type, version and length; everything else is noise, as from somebody without the key.
    let bogus: Vec<[u8; 512]> = (0..256)
        .map(|_| {
            let mut data: [u8; 512] = dice.array();
            (data[0], data[1]) = (1, 1);
            data
        })
        .collect();
    for meshes in [1u8, 4] {
        let keys = (0..meshes).map(|n| Mesh { id: MeshId([n; 32]), key: MeshKey([n; 32]) }).collect();
        let config = Config::new(Identity::from_seed(&[1; 32]), Incarnation { epoch: 1, random: 1 }, keys);
        let mut machine = Handshakes::new(config, Entropy::new(&[2; 32], "machine"), Instant::ZERO);
        let start = Clock::now();
        for n in 0..COUNT {
            machine.handle_datagram(Instant::from_nanos(n), &path, &bogus[(n % 256) as usize]);
        }
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(machine.drops().mac1, COUNT);
        assert!(machine.is_idle());
        println!(
            "{meshes} mesh(es): {:.0} bogus message 1 per second, {:.2} us each; 100,000/s take {:.1} % of a core",
            COUNT as f64 / seconds,
            seconds * 1e6 / COUNT as f64,
            100_000.0 * seconds / COUNT as f64 * 100.0
        );
    }
}
