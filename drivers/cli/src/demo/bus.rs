//! Events: one program, on memory and on the mesh.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use net_sdk::net::Typed;
use net_sdk::{Net, SdkError};
use serde::{Deserialize, Serialize};

/// Sensors, and readings of each.
const SENSORS: u32 = 8;
const READINGS: u32 = 500;

#[derive(Serialize, Deserialize)]
struct Reading {
    sensor: u32,
    number: u32,
}

/// What the reader got.
#[derive(Clone, Copy)]
pub struct Got {
    /// Events, whichever.
    pub events: u64,
    /// Those that were the next of their sensor.
    pub in_order: u64,
    /// From the first emitted to the last read.
    pub took: Duration,
}

impl Got {
    /// As many as were emitted.
    pub const ALL: u64 = SENSORS as u64 * READINGS as u64;

    /// Every event came once, those of a sensor in order.
    pub const fn is_whole(&self) -> bool {
        self.events == Self::ALL && self.in_order == Self::ALL
    }
}

/// The program. What lies beneath is the business of whoever built the buses.
pub async fn program(writer: Net, reader: Net) -> Result<Got, SdkError> {
    let begun = Instant::now();
    let mut readings = reader.subscribe_typed::<Reading>().await?;
    for number in 0..READINGS {
        for sensor in 0..SENSORS {
            let reading = serde_json::to_vec(&Reading { sensor, number })?;
            writer.emit_keyed(sensor.to_le_bytes(), reading)?; // Ok: events of one sensor stay in order
        }
    }
    writer.flush().await?; // Ok: where it is kept, all of it has arrived
    let (mut events, mut in_order, mut next) = (0, 0, BTreeMap::new());
    while events < Got::ALL {
        let Some(item) = readings.next().await else { break };
        let Typed::Event(Reading { sensor, number }) = item? else { break };
        let expected = next.entry(sensor).or_insert(0);
        in_order += u64::from(number == *expected);
        *expected = number + 1;
        events += 1;
    }
    Ok(Got { events, in_order, took: begun.elapsed() })
}
