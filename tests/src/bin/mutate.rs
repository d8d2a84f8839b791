//! Fuzzing without a fuzzer: random changes of the corpus against every decoder, on stable.
//!
//! `cargo run --release -p net-tests --bin mutate -- [INPUTS PER DECODER] [SEED] [DECODER]`

use std::time::Instant;

use net_proto::entropy::Entropy;
use net_proto::registry::decoders;
use net_tests::corpus::{mutate, seeds};

fn main() {
    let mut args = std::env::args().skip(1);
    let inputs: u64 = args.next().map_or(1_000_000, |n| n.parse().expect("how many inputs, a number"));
    let seed: u64 = args.next().map_or(1, |n| n.parse().expect("a seed, a number"));
    let only = args.next();
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
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
