//! The rows of the event bus, a line of JSON each; starts the servers that it needs.
//!
//! ```sh
//! cargo build --release -p net-cli
//! cargo run --release -p net-tests --bin bus-bench -- [ROW...] [--pairs N] [--net FILE] [--json FILE]
//! cargo run --release -p net-tests --bin bus-bench -- table FILE       # Markdown
//! ```
//!
//! Rows: `emit-1 emit-2 latency idle redis jetstream mesh durable-1 durable-64`; all of them without any. A row
//! with a peer is measured in turn, seven pairs unless said otherwise. `--json` appends the lines to a file, too.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use net_tests::figures::bus::{How, WORKS, subscriber, table};

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["core-subscriber", url, events] => return subscriber(url, events.parse().expect("a number")).await,
        ["table", file] => return print!("{}", table(&fs::read_to_string(file).expect("a file"))),
        _ => {}
    }
    let beside = std::env::current_exe().expect("this program").with_file_name("net");
    let (mut how, mut rows, mut file) = (How { net: beside, pairs: 7 }, Vec::new(), None);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--pairs" => how.pairs = value().parse().expect("a number"),
            "--net" => how.net = PathBuf::from(value()),
            "--json" => file = Some(value()),
            name => rows.push(
                *WORKS.iter().find(|work| work.name == name).unwrap_or_else(|| panic!("no row {name}")),
            ),
        }
    }
    assert!(how.net.exists(), "{} is missing: cargo build --release -p net-cli", how.net.display());
    if rows.is_empty() {
        rows = WORKS.to_vec();
    }
    let mut file = file.map(|path| File::options().create(true).append(true).open(path).expect("a file"));
    // Not on the thread that waits in `main`.
    let rows = rows.into_iter().map(|work| (work, how.clone()));
    for (work, how) in rows {
        for line in tokio::spawn(async move { work.run(&how).await }).await.expect("no panic") {
            println!("{line}");
            if let Some(file) = &mut file {
                writeln!(file, "{line}").expect("the file takes it");
            }
        }
    }
}
