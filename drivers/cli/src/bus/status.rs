//! `net bus status`: what is kept of each shard.

use net_sdk::Net;
use serde_json::{Value, json};

use super::connect::{self, Wishes};
use crate::args::BusStatus;
use crate::config::Config;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Shards that are shown to people; JSON has them all.
const SHOWN: usize = 32;

/// The command.
pub async fn run(args: BusStatus, config: &Config, output: Output) -> Result<()> {
    if args.of.is_memory() {
        return Err(Failure::usage(
            "events in memory are in the process that emitted them, and nowhere else",
        )
        .remedy("name one of --redis, --jetstream and --mesh"));
    }
    let open = connect::open(&args.of, Wishes::default(), Net::builder().read_only(), config).await?;
    let looked = look(&open.bus, open.transport).await;
    open.bus.shutdown().await;
    open.end().await;
    let status = looked?;
    output.emit(&status);
    let shards = status["shards"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_string);
    let line = |shard: &Value| {
        let events = shard["events"].as_u64().map_or_else(|| "events".into(), |n| format!("{n} events"));
        format!("{events} from {} to {}", text(&shard["oldest"]), text(&shard["newest"]))
    };
    let names: Vec<String> = shards.iter().map(|shard| format!("shard {}", shard["shard"])).collect();
    let mut rows = vec![
        ("health", "answers".to_string()),
        ("acknowledged is durable", text(&status["durable"])),
        ("longest event", format!("{} B", status["max_event"])),
        ("shards", shards.len().to_string()),
    ];
    rows.extend(names.iter().map(String::as_str).zip(shards.iter().map(line)).take(SHOWN));
    if shards.len() > SHOWN {
        rows.push(("...", format!("{} more", shards.len() - SHOWN)));
    }
    output.table(status["transport"].as_str().unwrap_or_default(), &rows);
    Ok(())
}

async fn look(bus: &Net, transport: &str) -> Result<Value> {
    bus.health().await?;
    let extents = bus.extents().await?;
    let caps = bus.bus().adapter().map(|adapter| adapter.caps());
    let shards: Vec<Value> = extents
        .iter()
        .map(|extent| {
            json!({
                "shard": extent.shard, "events": extent.events,
                "oldest": extent.oldest.to_string(), "newest": extent.newest.to_string(),
            })
        })
        .collect();
    Ok(json!({
        "event": "status", "transport": transport, "healthy": true,
        "durable": caps.map(|caps| caps.durable), "max_event": caps.map(|caps| caps.max_event),
        "events": extents.iter().map(|extent| extent.events).sum::<Option<u64>>(), "shards": shards,
    }))
}
