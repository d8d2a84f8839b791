//! How fast the bus is on JetStream, against the client library alone, in one run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use net_proto::bus::{Backpressure, BatchConfig, LogLimits, ProducerId};
use net_shell::bus::adapter::{Adapter, AdapterError, Setup};
use net_shell::bus::{Bus, BusConfig};
use net_shell::runtime::Runtime;

use crate::stream::ID;
use crate::thread::{Call, Worker};
use crate::{JetStream, JetStreamAdapter};

/// Acknowledged events a second, of one round.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Round {
    /// The bus, from the first `emit` to the last acknowledgement.
    pub bus: u64,
    /// The client library: a message and an acknowledgement for each event, as many in flight.
    pub bare: u64,
    /// The same with an id in each message, which the bus has, too.
    pub bare_with_ids: u64,
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Events of each measurement.
    pub events: u64,
    /// Bytes of each event.
    pub size: usize,
    /// Events in flight.
    pub in_flight: u16,
}

/// Measures one round on a server: the library, the bus, the library with ids. Each writes to a stream
/// of its own, which is removed afterwards.
pub async fn round(runtime: &Arc<dyn Runtime>, url: &str, work: Work) -> Result<Round, AdapterError> {
    let bare = alone(url, work, false).await?;
    let bus = bus(runtime, url, work).await?;
    let bare_with_ids = alone(url, work, true).await?;
    Ok(Round { bus, bare, bare_with_ids })
}

fn per_second(events: u64, took: Duration) -> u64 {
    (u128::from(events) * 1_000_000_000 / took.as_nanos().max(1)) as u64
}

fn other(error: impl std::fmt::Display) -> AdapterError {
    AdapterError::Protocol(error.to_string())
}

/// The library on a thread like that of the adapter.
async fn alone(url: &str, work: Work, ids: bool) -> Result<u64, AdapterError> {
    let worker = Worker::start()?;
    let url = url.to_owned();
    let measured = Call::new(worker.handle(), async move {
        let client = async_nats::connect(url).await.map_err(other)?;
        let context = jetstream::new(client);
        let config =
            stream::Config { name: "bare".into(), subjects: vec!["bare.*".into()], ..Default::default() };
        context.create_stream(config).await.map_err(other)?;
        let begun = Instant::now();
        let mut acks = FuturesOrdered::new();
        for n in 0..work.events {
            let body = vec![n as u8; work.size].into();
            let sent = if ids {
                let mut headers = HeaderMap::new();
                headers.insert(ID, format!("0000000000000007:1:0:{n}").as_str());
                context.publish_with_headers("bare.0", headers, body).await
            } else {
                context.publish("bare.0", body).await
            };
            acks.push_back(sent.map_err(other)?.into_future());
            if acks.len() >= usize::from(work.in_flight) {
                acks.next().await.transpose().map_err(other)?;
            }
        }
        while acks.next().await.transpose().map_err(other)?.is_some() {}
        let took = begun.elapsed();
        context.delete_stream("bare").await.map_err(other)?;
        Ok(per_second(work.events, took))
    });
    measured.await?
}

async fn bus(runtime: &Arc<dyn Runtime>, url: &str, work: Work) -> Result<u64, AdapterError> {
    let options = JetStream::new(url).prefix("figures").in_flight(work.in_flight);
    let adapter: Arc<dyn Adapter> = Arc::new(JetStreamAdapter::new(options));
    let producer = ProducerId(u64::from_le_bytes(*runtime.entropy().first_chunk().unwrap_or(&[7; 8])));
    adapter.start(&Setup::new(runtime.clone(), producer, 1, 1)).await?;
    let config = BusConfig {
        shards: 1,
        max_shards: 1,
        limits: LogLimits { events: work.events, bytes: 1 << 30, keep: false },
        mode: Backpressure::FailProducer,
        max_event: adapter.caps().max_event,
        batch: BatchConfig::default(),
        producer,
        incarnation: 1,
        adapter: Some(adapter.clone()),
    };
    let bus = Bus::new(runtime.clone(), config);
    bus.run();
    let begun = Instant::now();
    for n in 0..work.events {
        bus.emit(0, &vec![n as u8; work.size]).map_err(other)?;
    }
    let stored = match bus.cell(0) {
        Some(cell) => std::future::poll_fn(|cx| cell.poll_safe(work.events, cx)).await,
        None => false,
    };
    let took = begun.elapsed();
    bus.close();
    bus.stop().await;
    adapter.shutdown().await?;
    if !stored {
        return Err(bus.link_error().unwrap_or(AdapterError::Shutdown));
    }
    let worker = Worker::start()?;
    let url = url.to_owned();
    let removed = Call::new(worker.handle(), async move {
        let client = async_nats::connect(url).await.map_err(other)?;
        jetstream::new(client).delete_stream("figures_shard_0").await.map_err(other)
    });
    removed.await??;
    Ok(per_second(work.events, took))
}
