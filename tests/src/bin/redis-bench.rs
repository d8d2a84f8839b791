//! The event bus on Redis against the `redis` crate at the same work, in turn; prints JSON.
//!
//! `cargo run --release -p net-tests --bin redis-bench -- [EVENTS] [PAIRS] [BYTES] [BATCH]`; a server of
//! its own, in memory. [`net_tests::figures`] has the parts.

use net_tests::figures::redis::{Work, compare};
use net_tests::servers::Server;
use net_tests::servers::redis::Redis;

fn main() {
    let mut words = std::env::args().skip(1).map(|word| word.parse::<usize>().expect("a number"));
    let mut next = |otherwise| words.next().unwrap_or(otherwise);
    let (events, pairs) = (next(500_000), next(7));
    let work = Work { events, bytes: next(64), batch: next(1000) };
    let server = Server::start(Redis::volatile());
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    println!("{}", tokio.expect("a runtime").block_on(compare(&server, work, pairs)));
}
