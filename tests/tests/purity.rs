//! `proto` is pure: nothing in its sources or its dependencies can reach the world.

use std::process::Command;

use net_tests::source::{Source, crate_sources, is_ident, is_path_sep, is_punct, visit};
use proc_macro2::TokenTree;

/// Crates that read clocks, draw randomness, open sockets, spawn threads or call C. `rand_core` is not among them: without its
/// features it holds traits only, and x25519-dalek names one.
const BANNED_CRATES: &[&str] = &[
    "async-channel",
    "async-io",
    "async-std",
    "futures-executor",
    "getrandom",
    "libc",
    "mio",
    "openssl",
    "parking_lot",
    "quinn-udp",
    "rand",
    "ring",
    "rustix",
    "smol",
    "socket2",
    "tokio",
    "tracing",
    "windows-sys",
];

/// Words that no line of `proto` outside its tests may have, and why.
const BANNED_WORDS: &[(&str, &str)] = &[
    ("f32", "no floats: results would differ between machines"),
    ("f64", "no floats: results would differ between machines"),
    ("HashMap", "its order is random"),
    ("HashSet", "its order is random"),
    ("async", "machines are synchronous"),
    ("await", "machines are synchronous"),
    ("unsafe", "forbidden"),
    ("Mutex", "machines have one writer"),
    ("RwLock", "machines have one writer"),
    ("thread_local", "no global state"),
    ("AtomicBool", "no global state"),
    ("AtomicU32", "no global state"),
    ("AtomicU64", "no global state"),
    ("AtomicUsize", "no global state"),
    ("Waker", "machines wake nobody"),
];

/// Calls and macros that end the process.
const PANICS: &[&str] = &["unwrap", "expect", "panic", "todo", "unimplemented", "unreachable"];

/// Places that may panic: file, word.
const MAY_PANIC: &[(&str, &str)] = &[];

/// Functions that read foreign bytes but are parts of a registered decoder.
const PARTS: &[&str] = &["decode_exact", "decode_body"];

fn proto() -> Vec<Source> {
    let root = net_tests::root();
    let sources = crate_sources(&root, &root.join("proto/src"));
    assert!(sources.len() > 10, "the reader found almost nothing");
    sources
}

fn report(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The names of the crates that `cargo tree` lists, without those for tests.
fn dependencies(of: &[&str]) -> Vec<String> {
    let run = |extra: &[&str]| {
        Command::new(env!("CARGO"))
            .current_dir(net_tests::root())
            .args(["tree", "-e", "normal", "--prefix", "none", "--locked", "-p"])
            .args(of)
            .args(extra)
            .output()
            .expect("cargo runs")
    };
    let mut out = run(&["--offline"]);
    if !out.status.success() {
        out = run(&[]);
    }
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).expect("text");
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn dependencies_cannot_reach_the_world() {
    for features in [&["--all-features"][..], &["--no-default-features"], &[]] {
        let names = dependencies(&[&["net-proto"], features].concat());
        let has = |name: &str| names.iter().any(|n| n == name);
        assert!(has("snow") && has("blake3"), "not our tree: {names:?}");
        for banned in BANNED_CRATES {
            assert!(!has(banned), "net-proto depends on {banned} with {features:?}");
        }
    }
}

/// Whoever chose smol does not get a second reactor.
#[test]
fn smol_pulls_in_no_tokio() {
    let sdk = ["net-sdk", "--no-default-features", "--features=smol"];
    let redis = ["net-sdk", "--no-default-features", "--features=smol,redis"];
    for of in [&["net-smol"][..], &sdk, &redis] {
        let names = dependencies(of);
        let has = |name: &str| names.iter().any(|n| n == name);
        assert!(has("net-smol") && has("async-io"), "not our tree: {names:?}");
        for banned in ["net-tokio", "tokio", "tokio-util", "mio"] {
            assert!(!has(banned), "{of:?} depends on {banned}");
        }
    }
}

/// Level L2 is a feature: without it a simulator has one executor, its own.
#[test]
fn the_simulator_pulls_in_no_tokio() {
    for (features, tokio) in [(&[][..], false), (&["--features=turmoil"], true)] {
        let names = dependencies(&[&["net-sim"], features].concat());
        assert!(names.iter().any(|n| n == "net-shell"), "not our tree: {names:?}");
        for name in ["tokio", "turmoil", "net-tokio"] {
            assert_eq!(names.iter().any(|n| n == name), tokio, "{name} with {features:?}");
        }
    }
}

#[test]
fn sources_have_no_impure_word() {
    let mut wrong = Vec::new();
    for source in proto() {
        visit(&source.tokens, &mut |run| {
            let line = run[0].span().start().line;
            let mut say =
                |what: &str, why: &str| wrong.push(format!("{}:{line}: {what}: {why}", source.path));
            match &run[0] {
                TokenTree::Ident(word) => {
                    let word = word.to_string();
                    if let Some((_, why)) = BANNED_WORDS.iter().find(|(banned, _)| *banned == word) {
                        say(&word, why);
                    }
                    if word == "std" && is_path_sep(&run[1..]) {
                        say("std::", "the crate is no_std");
                    }
                    if word == "static" && matches!(run.get(1), Some(t) if is_ident(t, "mut")) {
                        say("static mut", "no global state");
                    }
                }
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    if is_float(&text) {
                        say(&text, "no floats: results would differ between machines");
                    }
                }
                _ => {}
            }
        });
    }
    report(&wrong);
}

fn is_float(literal: &str) -> bool {
    literal.starts_with(|c: char| c.is_ascii_digit())
        && !literal.starts_with("0x")
        && (literal.ends_with("f32")
            || literal.ends_with("f64")
            || literal.contains('.')
            || literal.contains(['e', 'E']) && !literal.contains("size"))
}

#[test]
fn no_step_can_panic_on_purpose() {
    let mut wrong = Vec::new();
    for source in proto() {
        visit(&source.tokens, &mut |run| {
            let [before, TokenTree::Ident(word), after, ..] = run else { return };
            let word = word.to_string();
            let call = is_punct(before, '.') && matches!(after, TokenTree::Group(_));
            let macro_call = is_punct(after, '!');
            if PANICS.contains(&word.as_str())
                && (call || macro_call)
                && !MAY_PANIC.contains(&(source.path.as_str(), word.as_str()))
            {
                wrong.push(format!("{}:{}: {word}", source.path, run[1].span().start().line));
            }
        });
    }
    report(&wrong);
}

#[test]
fn every_decoder_is_registered() {
    let sources = proto();
    let registry = sources.iter().find(|s| s.path == "proto/src/registry.rs").expect("the registry");
    let mut named = Vec::new();
    visit(&registry.tokens, &mut |run| named.push(run[0].to_string()));
    let mut found = 0;
    let mut wrong = Vec::new();
    for source in &sources {
        if source.path == registry.path {
            continue;
        }
        visit(&source.tokens, &mut |run| {
            // `impl … Wire for Name`
            if is_ident(&run[0], "Wire") && matches!(run.get(1), Some(t) if is_ident(t, "for")) {
                found += 1;
                let name = run[2].to_string();
                if !named.contains(&name) {
                    wrong.push(format!("{}: Wire for {name} is not in the registry", source.path));
                }
            }
            // Functions that decode without the trait, because what they return borrows.
            if is_ident(&run[0], "fn") {
                let name = run[1].to_string();
                if name.starts_with("decode_") && !PARTS.contains(&name.as_str()) && !named.contains(&name) {
                    wrong.push(format!("{}: fn {name} is neither in the registry nor in PARTS", source.path));
                }
            }
        });
    }
    assert!(found >= 2, "the reader found no decoders");
    report(&wrong);
}
