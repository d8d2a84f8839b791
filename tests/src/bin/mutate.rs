//! Fuzzing without a fuzzer: random changes of the corpus against every decoder, on stable.
//!
//! `cargo run --release -p net-tests --bin mutate -- [INPUTS PER DECODER] [SEED] [DECODER]`
//!
//! `session` instead of a decoder: so many frames of a hostile peer, through live associations.
//! `handshake`: so many datagrams, each into a fresh handshake machine.

use std::time::Instant;

use net_proto::entropy::Entropy;
use net_proto::registry::decoders;
use net_tests::corpus::{handshakes, mutate, seeds};
use net_tests::live::Lab;

fn main() {
    let mut args = std::env::args().skip(1);
    let inputs: u64 = args.next().map_or(1_000_000, |n| n.parse().expect("how many inputs, a number"));
    let seed: u64 = args.next().map_or(1, |n| n.parse().expect("a seed, a number"));
    let only = args.next();
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    match only.as_deref() {
        Some("session") => return session(inputs, seed, &key),
        Some("handshake") => return handshake(inputs, seed, &key),
        _ => {}
    }
    for decoder in decoders().iter().filter(|d| only.as_deref().is_none_or(|name| name == d.name)) {
        let mut entropy = Entropy::new(&key, decoder.name);
        let seeds = seeds(decoder.name);
        let start = Instant::now();
        let mut input = Vec::new();
        for n in 0..inputs {
            // A walk of up to 16 changes away from a seed.
            if n % 16 == 0 {
                let pick = entropy.below(seeds.len() as u64) as usize;
                input.clone_from(&seeds[pick]);
            }
            mutate(&mut input, &mut entropy);
            (decoder.check)(&input);
        }
        let took = start.elapsed().as_secs_f64();
        println!("{}: {inputs} inputs, seed {seed}, {took:.1} s, 0 failures", decoder.name);
    }
}

fn session(frames: u64, seed: u64, key: &[u8; 32]) {
    let mut lab = Lab::new();
    let mut entropy = Entropy::new(key, "session");
    let mut input = vec![0; 4096];
    let start = Instant::now();
    while lab.tally.frames < frames {
        entropy.fill(&mut input);
        lab.attack(&input);
    }
    let took = start.elapsed().as_secs_f64();
    println!("session: {:?}, seed {seed}, {took:.1} s, 0 failures, {}", lab.tally, peak());
}

fn handshake(inputs: u64, seed: u64, key: &[u8; 32]) {
    let seeds = handshakes();
    let mut entropy = Entropy::new(key, "handshake");
    let start = Instant::now();
    let mut input = Vec::new();
    for n in 0..inputs {
        if n % 16 == 0 {
            input.clone_from(&seeds[entropy.below(seeds.len() as u64) as usize]);
        }
        mutate(&mut input, &mut entropy);
        net_proto::handshake::fuzz(&input);
    }
    let took = start.elapsed().as_secs_f64();
    println!("handshake: {inputs} inputs, seed {seed}, {took:.1} s, 0 failures, {}", peak());
}

/// The most memory that this process ever held, where the system tells.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "peak memory unknown".into(), |kib| format!("peak memory {}", kib.trim()))
}
