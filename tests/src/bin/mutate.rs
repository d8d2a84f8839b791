//! Fuzzing without a fuzzer: random changes of the corpus against every decoder, on stable.
//!
//! `cargo run --release -p net-tests --bin mutate -- [INPUTS PER DECODER] [SEED] [DECODER]`
//!
//! `session` instead of a decoder: so many frames of a hostile peer, through live associations.
//! `handshake`: so many datagrams, some 250 of them into each handshake machine. A further number is
//! the case to begin with; a failure names its case.

use std::time::Instant;

use net_proto::entropy::Entropy;
use net_proto::handshake::FuzzLab;
use net_tests::corpus::{decoders, mutate, seeds};
use net_tests::live::Lab;

fn main() {
    let mut args = std::env::args().skip(1);
    let inputs: u64 = args.next().map_or(1_000_000, |n| n.parse().expect("how many inputs, a number"));
    let seed: u64 = args.next().map_or(1, |n| n.parse().expect("a seed, a number"));
    let only = args.next();
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let first: u64 = args.next().map_or(0, |n| n.parse().expect("the first case, a number"));
    match only.as_deref() {
        Some("session") => return session(inputs, seed, &key),
        Some("handshake") => return handshake(inputs, seed, &key, first),
        _ => {}
    }
    for decoder in decoders().filter(|d| only.as_deref().is_none_or(|name| name == d.name)) {
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

fn handshake(datagrams: u64, seed: u64, key: &[u8; 32], first: u64) {
    let mut lab = FuzzLab::new();
    let mut input = vec![0; 4096];
    let start = Instant::now();
    for case in first.. {
        if lab.tally.datagrams >= datagrams {
            break;
        }
        // Each case draws its own bytes, so that it can be run alone.
        Entropy::new(key, &format!("handshake {case}")).fill(&mut input);
        let before = lab.tally.datagrams;
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lab.attack(&input)));
        if run.is_err() {
            let last = lab.tally.datagrams;
            eprintln!("handshake: seed {seed}, case {case}, datagrams {before} to {last}: failed. Again:");
            eprintln!("cargo run --release -p net-tests --bin mutate -- 1 {seed} handshake {case}");
            std::process::exit(1);
        }
    }
    let took = start.elapsed().as_secs_f64();
    println!("handshake: {:#?}", lab.tally);
    println!("seed {seed}, {took:.1} s, 0 failures, {}", peak());
}

/// The most memory that this process ever held, where the system tells.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "peak memory unknown".into(), |kib| format!("peak memory {}", kib.trim()))
}
