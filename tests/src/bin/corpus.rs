//! Writes the seeds of every decoder to `fuzz/corpus/<name>/`. Files of the fuzzers stay.

use std::fs;

fn main() -> std::io::Result<()> {
    for decoder in net_tests::corpus::decoders() {
        let dir = net_tests::root().join("fuzz/corpus").join(decoder.name);
        fs::create_dir_all(&dir)?;
        let seeds = net_tests::corpus::seeds(decoder.name);
        for (n, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{n}")), seed)?;
        }
        println!("{}: {} seeds", decoder.name, seeds.len());
    }
    Ok(())
}
