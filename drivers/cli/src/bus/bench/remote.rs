//! To the server or node of the user and back: what it acknowledges, how soon, and how fast it is read.

use std::future::Future;
use std::time::{Duration, Instant};

use net_sdk::net::{ReadOptions, Subscription};
use net_sdk::{Net, SdkError};
use serde_json::Value;

use super::{body, on_tokio, per_second, row};
use crate::args::Where;
use crate::bus::connect::{self, Wishes};
use crate::config::Config;
use crate::failure::{Code, Failure, Result};

/// What streams are called unless the user says otherwise: nobody's events lie between these.
const NAME: &str = "net_bench";
/// About so many events of a shard stay there, and a run is not longer.
const RETAIN: u64 = 1_000_000;
/// Events that are waited for one by one: so many, or for so long.
const ALONE: (usize, Duration) = (1_000, Duration::from_secs(2));
/// Between two attempts while there is no room.
const FULL: Duration = Duration::from_millis(1);

/// The row.
pub fn run(at: &Where, events: u64) -> Result<Value> {
    if events > RETAIN {
        return Err(Failure::usage(format_args!("--events: at most {RETAIN}, as no more are kept there")));
    }
    let mut at = at.clone();
    at.name.get_or_insert_with(|| NAME.into());
    on_tokio(async move {
        let retain = (!at.mesh_or_memory()?).then_some(RETAIN);
        let builder = Net::builder().adapter_timeout(at.patience());
        let open =
            connect::open(&at, Wishes { retain, ..Wishes::default() }, builder, &Config::default()).await?;
        let measured = measure(&open.bus, at.patience(), events).await;
        let closed = open.bus.shutdown().await;
        let mut told = row(&format!("remote, {}", open.transport), events);
        told["name"] = at.name().into();
        open.end().await;
        for (name, value) in measured? {
            told[name] = value;
        }
        if closed.lost > 0 && !at.is_memory() {
            return Err(Failure::new(Code::NotVerified, "not everything was acknowledged"));
        }
        Ok(told)
    })
}

async fn measure(bus: &Net, patience: Duration, events: u64) -> Result<Vec<(&'static str, Value)>> {
    let (begun, mut times) = (Instant::now(), Vec::new());
    while times.len() < ALONE.0 && begun.elapsed() < ALONE.1 {
        let at = Instant::now();
        within(patience, bus, bus.emit_durable(body(times.len() as u64))).await?;
        times.push(at.elapsed().as_nanos() as u64);
    }
    times.sort_unstable();
    let percent = |p: usize| times[(times.len() - 1) * p / 100] as f64 / 1000.0;
    let reader = bus.subscribe_with(ReadOptions::new().latest()).await?;
    let begun = Instant::now();
    for n in 0..events {
        emit(bus, patience, n).await?;
    }
    bus.flush().await?;
    let written = begun.elapsed();
    let read = read(bus, reader, patience, events).await?;
    Ok(vec![
        ("acknowledged_per_s", per_second(events, written).into()),
        ("read_per_s", per_second(events, read).into()),
        ("ack_p50_us", percent(50).into()),
        ("ack_p99_us", percent(99).into()),
        ("sent_again", bus.bus().resent().into()),
        ("durable", bus.bus().adapter().map(|adapter| adapter.caps().durable).into()),
    ])
}

/// Again until there is room; an error if there is none for too long.
async fn emit(bus: &Net, patience: Duration, number: u64) -> Result<()> {
    let body = body(number);
    let room = async {
        loop {
            match bus.emit_raw(&body) {
                Err(SdkError::Backpressure) => tokio::time::sleep(FULL).await,
                emitted => return emitted,
            }
        }
    };
    within(patience, bus, room).await.map(|_| ())
}

/// How long it takes from now until all of them have come. Others may write there, too.
async fn read(bus: &Net, mut from: Subscription, patience: Duration, events: u64) -> Result<Duration> {
    let (begun, mut own, mut lost) = (Instant::now(), 0, false);
    while own < events && !lost {
        let some = from.next_many(4096, |item| match item.into_event() {
            Some(event) => own += u64::from(event.id.is_some_and(|id| id.producer == bus.bus().producer())),
            None => lost = true,
        });
        if within(patience, bus, some).await? == 0 {
            break;
        }
    }
    if own == events {
        return Ok(begun.elapsed());
    }
    Err(Failure::new(Code::NotVerified, format_args!("{own} of {events} events were read")))
}

/// With a limit, after which the error says what holds it up.
async fn within<T>(
    patience: Duration,
    bus: &Net,
    future: impl Future<Output = Result<T, SdkError>>,
) -> Result<T> {
    match tokio::time::timeout(patience, future).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(SdkError::Unconfirmed { why: bus.bus().link_error() }.into()),
    }
}
