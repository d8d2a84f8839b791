//! Between two processes: this one emits, the other keeps the events and reads them.

use std::time::{Duration, Instant};

use net_sdk::net::{HostLimits, Hosting};
use net_sdk::{Invite, Mesh, Net};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{Count, emit, on_tokio, per_second, row};
use crate::bench::Second;
use crate::failure::{Code, Failure, Result};

const NAME: &str = "bench";
const HERE: &str = "127.0.0.1:0";
/// Room for a whole run: what is measured is not what gives way.
const LIMITS: HostLimits = HostLimits { shards: 64, events: 1 << 30, bytes: 1 << 40 };

/// The row.
pub fn run(events: u64) -> Result<Value> {
    let mut far = Second::start(&["bus".into(), "bench-keeper".into()], Duration::from_secs(3))?;
    let invite: Invite = far.line()?.parse().map_err(Failure::failed)?;
    far.tell(&events.to_string())?;
    let took = on_tokio(pour(invite, events))?;
    let told: Value = serde_json::from_str(&far.line()?).map_err(Failure::failed)?;
    let (delivered, seconds) =
        (told["events"].as_u64().unwrap_or(0), told["seconds"].as_f64().unwrap_or(0.0));
    if delivered != events {
        return Err(Failure::new(
            Code::NotVerified,
            format_args!("{delivered} of {events} events were delivered"),
        ));
    }
    let mut row = row("mesh, two processes", events);
    row["delivered"] = delivered.into();
    row["events_per_s"] = (delivered as f64 / seconds.max(1e-9)).round().into();
    row["acknowledged_per_s"] = per_second(events, took).into();
    Ok(row)
}

/// Emits, until everything is acknowledged.
async fn pour(invite: Invite, events: u64) -> Result<Duration> {
    let mesh = Mesh::builder().mesh(invite.mesh).bind(HERE).accept(false).event_bus().start().await?;
    let bus = Net::builder().mesh(&mesh, NAME, [invite.ticket]).build().await?;
    let producer = bus.clone();
    let begun = Instant::now();
    let emitting =
        tokio::task::spawn_blocking(move || (0..events).try_for_each(|n| emit(&producer, n).map(|_| ())));
    emitting.await.map_err(Failure::failed)??;
    bus.flush().await?;
    let took = begun.elapsed();
    let closed = bus.shutdown().await;
    mesh.shutdown().await;
    if closed.lost > 0 {
        return Err(Failure::new(Code::NotVerified, "not everything was acknowledged"));
    }
    Ok(took)
}

/// The other process: keeps and reads as many events as it is told.
pub async fn keeper() -> Result<()> {
    let mesh = Mesh::builder().bind(HERE).event_bus().start().await?;
    let _kept = mesh.host_events(NAME, Hosting { limits: LIMITS, ..Hosting::default() }).await?;
    let bus = Net::builder().mesh(&mesh, NAME, [mesh.ticket()]).build().await?;
    println!("{}", mesh.invite());
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let events: u64 = line.trim().parse().map_err(Failure::usage)?;
        let count = Count::default().until(bus.subscribe().await?, events).await?;
        count.check(events)?;
        println!("{}", json!({"events": count.events, "seconds": count.took().as_secs_f64()}));
    }
    Ok(())
}
