//! Events that are on disk before their producer goes on, against a file that is written the same way.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use net_sdk::Net;
use net_shell::bus::engine::Engine;
use serde_json::Value;

use super::{body, on_tokio, per_second, row};
use crate::failure::{Failure, Result};

/// Bytes of the bare file: those of a file of the outbox.
const FILE: usize = 16 << 20;
/// Appends of the bare file.
const APPENDS: u64 = 10_000;

/// A folder that goes when this does.
struct Folder(PathBuf);

impl Folder {
    fn new(below: Option<&Path>) -> Result<Self> {
        let below = below.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let path = below.join(format!("net-bus-bench-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| Failure::failed(format_args!("{}: {e}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// `producers` wait for each event that they emit; the bare file is written by one after the other.
pub fn run(below: Option<&Path>, producers: u64, events: u64) -> Result<Value> {
    let folder = Folder::new(below)?;
    let bare = bare(&folder.0.join("bare"))?;
    let dir = folder.0.join("outbox");
    let ours = on_tokio(outbox(dir, producers, events))?;
    let mut told = row(&format!("emit_durable, {producers} waiting"), events);
    told["producers"] = producers.into();
    told["events_per_s"] = ours.0.into();
    told["commits"] = ours.1.into();
    told["bare_per_s"] = bare.into();
    told["ratio"] = (ours.0 / bare.max(1.0)).into();
    Ok(told)
}

/// Appends to a file that is allocated already, with fdatasync after each.
fn bare(path: &Path) -> Result<f64> {
    let mut file = File::create(path)?;
    file.write_all(&vec![0; FILE])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let begun = Instant::now();
    for n in 0..APPENDS {
        file.write_all(&body(n))?;
        file.sync_data()?;
    }
    Ok(per_second(APPENDS, begun.elapsed()))
}

async fn outbox(dir: PathBuf, producers: u64, events: u64) -> Result<(f64, u64)> {
    fs::create_dir_all(&dir)?;
    // An engine that takes everything at once: what is measured is the disk before it.
    let engine = Engine::new().retaining(1024);
    let bus = Net::builder().adapter(engine.adapter()).outbox(dir).build().await?;
    let each = events / producers;
    let begun = Instant::now();
    let tasks: Vec<_> = (0..producers)
        .map(|_| {
            let bus = bus.clone();
            tokio::spawn(async move {
                for n in 0..each {
                    bus.emit_durable(body(n)).await?;
                }
                Ok::<_, Failure>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(Failure::failed)??;
    }
    let took: Duration = begun.elapsed();
    let commits = bus.bus().commits();
    let closed = bus.shutdown().await;
    if closed.lost + closed.kept > 0 || closed.ledger.ingested != each * producers {
        return Err(Failure::failed("events were lost"));
    }
    Ok((per_second(each * producers, took), commits))
}
