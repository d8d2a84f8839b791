//! Durable consumers: the server keeps the place, workers share it, and what nobody acknowledged comes
//! again.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, StatusCode};
use futures_util::StreamExt;
use net_proto::bus::{EventId, Position, Shard};
use net_shell::bus::adapter::AdapterError;
use serde_json::json;
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::JetStream;
use crate::connection::Connection;
use crate::error::refused;
use crate::read::{Place, incoming};
use crate::stream;
use crate::thread::{Call, Worker};

/// Events of a shard that are fetched at a time, and may wait in this process.
const FETCH: usize = 32;
/// How long one question waits for events.
const WAIT: Duration = Duration::from_secs(5);
/// How long one may work on an event: zero would mean what the server likes.
const ACK_WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(365 * 86_400);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_millis(250);

/// An event that a worker got.
#[derive(Debug)]
#[non_exhaustive]
pub struct Delivery {
    /// Its shard.
    pub shard: Shard,
    /// Where it lies in the shard.
    pub position: Position,
    /// Its name; `None` for what something else wrote.
    pub id: Option<EventId>,
    /// When it was accepted: nanoseconds since 1970.
    pub stamp: u64,
    /// The body.
    pub raw: bytes::Bytes,
    /// How often it was delivered, this time included.
    pub times: u64,
    reply: async_nats::Subject,
    connection: Arc<Connection>,
    on: tokio::runtime::Handle,
}

impl Delivery {
    /// Says that the event is done. `Ok`: the server noted it and delivers it to nobody again, unless
    /// it crashes before it wrote its note down. Without that, or after an error, the event comes again
    /// once the time of [`Durable::open`] has passed.
    pub async fn ack(self) -> Result<(), AdapterError> {
        let (connection, reply) = (self.connection, self.reply);
        let noted = Call::new(&self.on, async move {
            let noted = connection.client.request(reply, "+ACK".into()).await;
            noted.map(|_| ()).map_err(|error| match error.kind() {
                async_nats::RequestErrorKind::TimedOut => AdapterError::Timeout("acknowledging".into()),
                async_nats::RequestErrorKind::NoResponders => AdapterError::Gone("the consumer".into()),
                _ => AdapterError::Connection(error.to_string()),
            })
        });
        noted.await?
    }
}

/// A durable consumer of all shards that have streams when it is opened.
///
/// Every process that opens it under the same name takes a part of the events. Within a shard they are
/// delivered in order, but what comes again comes late. Dropping it gives back what was not
/// acknowledged.
#[derive(Debug)]
pub struct Durable {
    events: mpsc::Receiver<Result<Delivery, AdapterError>>,
    _worker: Worker,
}

impl Durable {
    /// Opens the consumer `name`, which is made if it does not exist, from the oldest event. What is not
    /// acknowledged within `ack_wait`, 1 ms to a year, comes again.
    pub async fn open(options: JetStream, name: &str, ack_wait: Duration) -> Result<Self, AdapterError> {
        options.check()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            let text = format!("the consumer is {name:?}; allowed are 1 to 64 letters, digits, `-` and `_`");
            return Err(AdapterError::Config(text));
        }
        if !ACK_WAIT.contains(&ack_wait) {
            let text = format!("ack_wait is {ack_wait:?}, allowed is {:?} to a year", ACK_WAIT.start());
            return Err(AdapterError::Config(text));
        }
        let worker = Worker::start()?;
        let (tell, events) = mpsc::channel(1);
        let (name, on) = (name.to_owned(), worker.handle().clone());
        let opened = Call::new(worker.handle(), async move {
            let connection = Arc::new(Connection::open(options).await?);
            for shard in stream::shards(&connection).await? {
                let task = Task {
                    connection: connection.clone(),
                    shard,
                    name: name.clone(),
                    ack_wait,
                    on: on.clone(),
                };
                task.create().await?;
                on.spawn(task.run(tell.clone()));
            }
            Ok(())
        });
        opened.await??;
        Ok(Self { events, _worker: worker })
    }

    /// The next event of any shard. An error ends nothing: the next call goes on. `None`: there are no
    /// shards. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery, AdapterError>> {
        self.events.recv().await
    }
}

struct Task {
    connection: Arc<Connection>,
    shard: Shard,
    name: String,
    ack_wait: Duration,
    on: tokio::runtime::Handle,
}

impl Task {
    /// Makes sure that the consumer is there. Answers when its stream was created.
    async fn create(&self) -> Result<u64, AdapterError> {
        let stream = stream::name(&self.connection.options, self.shard);
        let seen = stream::see(&self.connection, self.shard).await?;
        let seen = seen.ok_or_else(|| AdapterError::Gone(format!("there is no stream {stream}")))?;
        let config = json!({
            "durable_name": self.name,
            "name": self.name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": self.ack_wait.as_nanos() as u64,
            "replay_policy": "instant",
        });
        let request = json!({ "stream_name": stream, "config": config });
        let subject = format!("CONSUMER.CREATE.{stream}.{}", self.name);
        let created = self.connection.ask::<serde_json::Value>(subject, &request).await?;
        created.map(|_| seen.created).map_err(|error| refused(&error))
    }

    async fn run(self, tell: mpsc::Sender<Result<Delivery, AdapterError>>) {
        while !tell.is_closed() {
            if let Err(error) = self.fetch(&tell).await {
                if tell.send(Err(error)).await.is_err() {
                    return;
                }
                sleep(PAUSE).await;
            }
        }
    }

    /// Hands over events until something fails, or nobody takes them any more.
    async fn fetch(&self, tell: &mpsc::Sender<Result<Delivery, AdapterError>>) -> Result<(), AdapterError> {
        self.connection.connected().await?;
        let created = self.create().await?;
        let client = &self.connection.client;
        let failed = |error: &dyn std::fmt::Display| AdapterError::Connection(error.to_string());
        let inbox = client.new_inbox();
        let mut messages = client.subscribe(inbox.clone()).await.map_err(|e| failed(&e))?;
        let stream = stream::name(&self.connection.options, self.shard);
        let ask = self.connection.api(&format!("CONSUMER.MSG.NEXT.{stream}.{}", self.name));
        let question = json!({ "batch": FETCH, "expires": WAIT.as_nanos() as u64 }).to_string();
        let (mut line, epoch) = (self.connection.line(), self.connection.epoch());
        let limit = WAIT + self.connection.options.request_timeout;
        loop {
            let sent = client.publish_with_reply(ask.clone(), inbox.clone(), question.clone().into());
            sent.await.map_err(|e| failed(&e))?;
            for _ in 0..FETCH {
                let broke = async { _ = line.wait_for(|line| line.epoch != epoch).await };
                let message = select! {
                    message = timeout(limit, messages.next()) => message,
                    () = broke => return Err(AdapterError::Connection("the connection broke".into())),
                    () = tell.closed() => return Ok(()),
                };
                let message = message.map_err(|_| AdapterError::Timeout(format!("reading {stream}")))?;
                let message = message.ok_or(AdapterError::Shutdown)?;
                match message.status {
                    None => {}
                    Some(StatusCode::NOT_FOUND | StatusCode::TIMEOUT) => break,
                    Some(status) => {
                        return Err(AdapterError::Gone(format!("consumer {}: {status}", self.name)));
                    }
                }
                if tell.send(Ok(self.delivery(message, created)?)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    fn delivery(&self, message: Message, created: u64) -> Result<Delivery, AdapterError> {
        let reply = message.reply.clone();
        let found = reply.as_ref().and_then(|reply| Some((Place::of(reply)?, reply.clone())));
        let (place, reply) = found
            .ok_or_else(|| AdapterError::Protocol("a message without its place in the stream".into()))?;
        let event = incoming(message, created, &place);
        Ok(Delivery {
            shard: self.shard,
            position: event.position,
            id: event.id,
            stamp: event.stamp,
            raw: event.raw,
            times: place.times,
            reply,
            connection: self.connection.clone(),
            on: self.on.clone(),
        })
    }
}
