//! Every decoder has a fuzz target and seeds; every seed and its neighbourhood is decoded.

use std::collections::BTreeSet;
use std::fs;

use net_proto::entropy::Entropy;
use net_proto::handshake::FuzzLab;
use net_tests::corpus::{decoders, mutate, neighbourhood, seeds};
use net_tests::live::Lab;

/// Above this size a file of the corpus is decoded as it is, without its neighbourhood.
const SMALL: usize = 512;

fn files(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = net_tests::root().join("fuzz/corpus").join(name);
    let Ok(entries) = fs::read_dir(&dir) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("a readable folder");
            (
                entry.file_name().to_string_lossy().into_owned(),
                fs::read(entry.path()).expect("a readable seed"),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn names_are_unique_and_every_decoder_is_fuzzed() {
    let manifest = fs::read_to_string(net_tests::root().join("fuzz/Cargo.toml")).expect("fuzz/Cargo.toml");
    let mut names = BTreeSet::new();
    for decoder in decoders() {
        let name = decoder.name;
        assert!(names.insert(name), "two decoders are called {name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "fuzz/Cargo.toml has no target {name}");
        let target = net_tests::root().join(format!("fuzz/fuzz_targets/{name}.rs"));
        let text = fs::read_to_string(&target).unwrap_or_else(|_| panic!("{} is missing", target.display()));
        assert!(text.contains(&format!("\"{name}\"")), "{} fuzzes something else", target.display());
    }
}

#[test]
fn the_corpus_has_the_seeds_that_the_code_makes() {
    for decoder in decoders() {
        let files = files(decoder.name);
        let seeds = seeds(decoder.name);
        assert!(seeds.len() >= 3, "{} has too few seeds in net_tests::corpus", decoder.name);
        for (n, seed) in seeds.iter().enumerate() {
            let file = files.iter().find(|(name, _)| *name == format!("seed-{n}"));
            assert!(
                file.is_some_and(|(_, bytes)| bytes == seed),
                "fuzz/corpus/{}/seed-{n} is missing or old: a format changed? `cargo run -p net-tests --bin corpus`",
                decoder.name
            );
        }
    }
}

#[test]
fn the_corpus_and_its_neighbourhood_are_decoded() {
    let mut inputs = 0;
    for decoder in decoders() {
        for (_, bytes) in files(decoder.name) {
            (decoder.check)(&bytes);
            if bytes.len() <= SMALL {
                inputs += neighbourhood(&bytes, decoder.check);
            }
        }
    }
    println!("{inputs} inputs");
    assert!(inputs > 10_000);
}

#[test]
fn random_walks_from_the_seeds_are_decoded() {
    for decoder in decoders() {
        let mut entropy = Entropy::new(&[1; 32], decoder.name);
        for seed in seeds(decoder.name) {
            for _ in 0..200 {
                let mut input = seed.clone();
                for _ in 0..16 {
                    mutate(&mut input, &mut entropy);
                    (decoder.check)(&input);
                }
            }
        }
    }
}

#[test]
fn a_decoder_that_is_not_canonical_is_caught() {
    // Accepts either case, prints lower case: the planted bug that the checks above must find.
    fn sloppy(bytes: &[u8]) {
        if bytes.iter().all(u8::is_ascii_alphabetic) {
            assert_eq!(bytes.to_ascii_lowercase(), bytes);
        }
    }
    assert!(std::panic::catch_unwind(|| neighbourhood(b"seed", sloppy)).is_err());
}

#[test]
fn frames_of_a_hostile_peer_through_live_associations() {
    let mut lab = Lab::new();
    let mut entropy = Entropy::new(&[1; 32], "session");
    let mut input = vec![0; 4096];
    for _ in 0..300 {
        entropy.fill(&mut input);
        lab.attack(&input);
    }
    println!("{:?}", lab.tally);
    assert!(lab.tally.frames > 10_000 && lab.tally.violations > 10, "{:?}", lab.tally);
}

#[test]
fn strangers_and_hostile_members_against_a_handshake_machine() {
    let mut lab = FuzzLab::new();
    let mut input = vec![0; 4096];
    for case in 0..20 {
        Entropy::new(&[1; 32], &format!("handshake {case}")).fill(&mut input);
        lab.attack(&input);
    }
    let tally = lab.tally;
    println!("{tally:?}");
    // Every stage is reached, so that what is checked there is checked.
    let (reached, drops) = ([tally.asked, tally.responded, tally.finishes, tally.completed], tally.drops);
    assert!(tally.datagrams > 4_000 && reached.iter().all(|n| *n > 0), "{tally:?}");
    assert!(tally.answers.iter().chain(&tally.failed).all(|n| *n > 0), "{tally:?}");
    let reasons = [drops.malformed, drops.mac1, drops.message1, drops.identity, drops.replay, drops.slots];
    assert!(reasons.iter().all(|n| *n > 0), "{tally:?}");
    let reasons = [drops.repeated, drops.downgrade, drops.unexpected, drops.message2, drops.reply];
    assert!(reasons.iter().all(|n| *n > 0), "{tally:?}");
}
