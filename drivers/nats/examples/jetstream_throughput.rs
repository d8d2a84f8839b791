//! Acknowledged events a second through the bus on JetStream, against the client library alone, as
//! JSON rows: seven rounds, then the medians and the medians of the ratios.
//!
//! ```sh
//! cargo run --release -p net-nats --example jetstream_throughput [url]
//! ```
//!
//! Without an address it starts `nats-server` in a folder of its own, on port 24222.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net_nats::figures::{Work, round};
use net_shell::runtime::Runtime;

const ROUNDS: usize = 7;
const PORT: u16 = 24_222;

/// A server for as long as this lives.
struct Server {
    process: Child,
    dir: std::path::PathBuf,
}

impl Server {
    fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("net-figures-{}", std::process::id()));
        let process = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", &PORT.to_string(), "-js", "-sd"])
            .arg(&dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server on the PATH (the Debian package has its name)");
        let begun = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", PORT)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "nats-server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, dir }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    values[values.len() / 2]
}

fn main() {
    let given = std::env::args().nth(1);
    let server = given.is_none().then(Server::start);
    let url = given.unwrap_or_else(|| format!("nats://127.0.0.1:{PORT}"));
    let work = Work { events: 50_000, size: 64, in_flight: 64 };
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let rt = rt.expect("a runtime");
    rt.block_on(async {
        let runtime: Arc<dyn Runtime> = Arc::new(net_tokio::Tokio::current().expect("tokio"));
        let mut rounds = Vec::new();
        for n in 0..=ROUNDS {
            let r = round(&runtime, &url, work).await.expect("a round");
            // The first one warms the server.
            if n == 0 {
                continue;
            }
            println!(
                "{{\"row\":\"jetstream\",\"round\":{n},\"events\":{},\"size\":{},\"in_flight\":{},\"bus_per_s\":{},\"bare_per_s\":{},\"bare_with_ids_per_s\":{}}}",
                work.events, work.size, work.in_flight, r.bus, r.bare, r.bare_with_ids
            );
            rounds.push(r);
        }
        let of = |what: fn(&net_nats::figures::Round) -> f64| median(rounds.iter().map(what).collect());
        println!(
            "{{\"row\":\"jetstream_median\",\"bus_per_s\":{:.0},\"bare_per_s\":{:.0},\"bare_with_ids_per_s\":{:.0},\"ratio\":{:.2},\"ratio_with_ids\":{:.2}}}",
            of(|r| r.bus as f64),
            of(|r| r.bare as f64),
            of(|r| r.bare_with_ids as f64),
            of(|r| r.bus as f64 / r.bare as f64),
            of(|r| r.bus as f64 / r.bare_with_ids as f64),
        );
    });
    drop(server);
}
