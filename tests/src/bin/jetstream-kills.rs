//! Kills JetStream servers and producers at random moments, and looks whether anything is lost:
//! `cargo run --release -p net-tests --bin jetstream-kills -- 200`. A row of JSON for each kind.

use std::path::{Path, PathBuf};

use net_tests::kills::{of_the_producer, of_the_server, on_tokio, producer};

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    if let ["producer", url, kind, dir] = words[..] {
        return on_tokio(producer(url, Path::new(dir), kind == "outbox"));
    }
    let kills = words.first().map_or(200, |n| n.parse().expect("how many kills of each kind"));
    let program = std::env::current_exe().expect("this program");
    let fresh = |name: &str| -> PathBuf {
        let dir = std::env::temp_dir().join(format!("net-kills-{name}-{}", std::process::id()));
        _ = std::fs::remove_dir_all(&dir);
        dir
    };
    for outbox in [true, false] {
        let kind = if outbox { "outbox" } else { "plain" };
        let dir = fresh(kind);
        let found = on_tokio(of_the_producer(&program, kills, &dir, outbox));
        println!("{{\"row\":\"producer\",\"kind\":\"{kind}\",\"found\":{found}}}");
        _ = std::fs::remove_dir_all(&dir);
        let found = on_tokio(of_the_server(kills, outbox.then_some(dir.as_path())));
        println!("{{\"row\":\"server\",\"kind\":\"{kind}\",\"found\":{found}}}");
        _ = std::fs::remove_dir_all(&dir);
    }
}
