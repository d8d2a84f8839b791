//! `net bus bench`: the bus on this machine. One configuration for all rows: that of `Net::builder()`.

mod durable;
mod memory;
mod mesh;
mod remote;

use std::future::Future;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use net_sdk::net::ItemRef;
use net_sdk::{Net, SdkError};
use serde_json::{Value, json};

use crate::args::{BusBench, BusRow};
use crate::bench::{show, system};
use crate::failure::{Failure, Result};
use crate::output::Output;

pub use mesh::keeper;

/// Bytes of an event.
const SIZE: usize = 64;

/// The command. Each row has threads of its own: being pinned to a core ends with them.
pub fn run(args: &BusBench, output: Output) -> Result<()> {
    let here = |row: &&BusRow| **row != BusRow::Remote;
    let rows: Vec<_> = match (&args.rows[..], args.at.is_open()) {
        ([], true) => BusRow::value_variants().iter().filter(here).collect(),
        ([], false) => vec![&BusRow::Remote],
        (rows, false) if rows.iter().any(|row| here(&row)) => {
            return Err(Failure::usage(
                "--redis, --jetstream, --mesh and --memory are for the row `remote` alone",
            ));
        }
        (rows, _) => rows.iter().collect(),
    };
    for row in rows {
        let ended = std::thread::scope(|scope| scope.spawn(|| measure(*row, args)).join());
        let mut result = ended.map_err(|_| Failure::failed("this is a bug: the benchmark panicked"))??;
        result["cores"] = system::cores().into();
        result["debug_build"] = cfg!(debug_assertions).into();
        show(&result, result["work"].as_str().unwrap_or_default(), output);
    }
    Ok(())
}

fn measure(row: BusRow, args: &BusBench) -> Result<Value> {
    match row {
        BusRow::EmitOne => memory::emit(1, args.events.unwrap_or(10_000_000)),
        BusRow::EmitTwo => memory::emit(2, args.events.unwrap_or(10_000_000)),
        BusRow::Latency => memory::latency(args.pin, args.events.unwrap_or(20_000)),
        BusRow::Idle => memory::idle(Duration::from_secs(args.seconds)),
        BusRow::DurableOne => durable::run(args.dir.as_deref(), 1, args.events.unwrap_or(10_000)),
        BusRow::DurableMany => durable::run(args.dir.as_deref(), 64, args.events.unwrap_or(320_000)),
        BusRow::Mesh => mesh::run(args.events.unwrap_or(2_000_000)),
        BusRow::Remote => remote::run(&args.at, args.events.unwrap_or(100_000)),
    }
}

/// Runs on the runtime that every row has.
fn on_tokio<T: Send + 'static>(task: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = tokio.block_on(async { tokio::spawn(task).await });
    tokio.shutdown_background();
    ended.unwrap_or_else(|e| Err(Failure::failed(format_args!("this is a bug: {e}"))))
}

/// A fresh buffer that begins with a number.
fn body(number: u64) -> Vec<u8> {
    let mut body = vec![0x5a; SIZE];
    body[..8].copy_from_slice(&number.to_le_bytes());
    body
}

/// Emits a fresh buffer, again until there is room. How often there was none.
fn emit(bus: &Net, number: u64) -> Result<u64> {
    let body = body(number);
    let mut refused = 0;
    loop {
        match bus.emit_raw(&body) {
            Ok(_) => return Ok(refused),
            Err(SdkError::Backpressure) => {
                refused += 1;
                std::thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn per_second(n: u64, took: Duration) -> f64 {
    (n as f64 / took.as_secs_f64().max(1e-9)).round()
}

/// Events that were counted, and how long it took from the first to the last.
#[derive(Default)]
struct Count {
    events: u64,
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Count {
    /// Counts until `events` have come, or no more do.
    async fn until(mut self, mut from: net_sdk::net::Subscription, events: u64) -> Result<Self> {
        let mut lost = 0u64;
        while self.events < events {
            let bytes = &mut self.bytes;
            let n = from.visit_many(4096, |item| match item {
                ItemRef::Event(event) => *bytes += event.raw.len() as u64,
                _ => lost += 1,
            });
            let n = n.await? as u64;
            let now = Instant::now();
            self.first.get_or_insert(now);
            self.last = Some(now);
            if n == 0 || lost > 0 {
                break;
            }
            self.events += n;
        }
        Ok(self)
    }

    fn took(&self) -> Duration {
        self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last - first)
    }

    /// An error unless everything came.
    fn check(&self, events: u64) -> Result<()> {
        if self.events == events && self.bytes == events * SIZE as u64 {
            return Ok(());
        }
        let what = format!("{} of {events} events were delivered", self.events);
        Err(Failure::new(crate::failure::Code::NotVerified, what))
    }
}

/// The fields that say what was measured.
fn row(work: &str, events: u64) -> Value {
    json!({"work": format!("bus {work}"), "events": events, "size": SIZE})
}
