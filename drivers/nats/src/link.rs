//! The writing side of a shard: a task on the client's thread, and the handle that the bus has.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use async_nats::jetstream::response::Response;
use async_nats::{HeaderMap, Message, StatusCode, Subject, Subscriber};
use futures_util::task::AtomicWaker;
use futures_util::{FutureExt, StreamExt};
use net_proto::bus::{ProducerId, Shard};
use net_shell::bus::adapter::{Ack, AdapterError, Batch, Link};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::select;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::connection::Connection;
use crate::error::{is_misplaced, refused};
use crate::stream::{self, AFTER, ID, STAMP};
use crate::window::{Ask, Window};

/// What the task tells the handle.
#[derive(Debug, Default)]
struct Told {
    upto: AtomicU64,
    error: Mutex<Option<AdapterError>>,
    waker: AtomicWaker,
}

impl Told {
    fn stored(&self, upto: u64) {
        if self.upto.swap(upto, Ordering::AcqRel) != upto {
            self.waker.wake();
        }
    }

    fn ended(&self, error: AdapterError) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.waker.wake();
    }
}

/// See [`Link`]. Dropping it ends the task.
#[derive(Debug)]
pub struct JetStreamLink {
    batches: UnboundedSender<Batch>,
    told: Arc<Told>,
    acked: u64,
    task: AbortHandle,
}

impl Drop for JetStreamLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link for JetStreamLink {
    fn send(&mut self, batch: Batch) -> Result<(), AdapterError> {
        // A task that ended has told why, or its thread is gone.
        self.batches.send(batch).map_err(|_| self.why().unwrap_or(AdapterError::Shutdown))
    }

    fn poll_ack(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ack, AdapterError>> {
        self.told.waker.register(cx.waker());
        let upto = self.told.upto.load(Ordering::Acquire);
        if upto > self.acked {
            self.acked = upto;
            return Poll::Ready(Ok(Ack { upto }));
        }
        match self.why() {
            Some(error) => Poll::Ready(Err(error)),
            None if self.batches.is_closed() => Poll::Ready(Err(AdapterError::Shutdown)),
            None => Poll::Pending,
        }
    }
}

impl JetStreamLink {
    fn why(&self) -> Option<AdapterError> {
        self.told.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Opens a link: the stream is there, and what it has of this producer is known. Runs on the client's
/// thread.
pub async fn open(
    connection: Arc<Connection>,
    shard: Shard,
    producer: ProducerId,
    max_event: u32,
) -> Result<JetStreamLink, AdapterError> {
    connection.connected().await?;
    stream::ensure(&connection, shard, max_event).await?;
    let stored = stream::last_of(&connection, shard, producer).await?;
    let inbox = connection.client.new_inbox();
    let answers = connection.client.subscribe(format!("{inbox}.*")).await;
    let answers = answers.map_err(|error| AdapterError::Connection(error.to_string()))?;
    let line = connection.line().borrow().clone();
    let (batches, incoming) = mpsc::unbounded_channel();
    let told = Arc::<Told>::default();
    let mut task = Task {
        subject: stream::subject(&connection.options, shard, producer).into(),
        window: Window::new(usize::from(connection.options.in_flight), stored),
        last: String::new(),
        asked: Instant::now(),
        epoch: line.epoch,
        denials: line.denials,
        connection,
        shard,
        producer,
        inbox,
        answers,
        incoming,
        told: told.clone(),
    };
    let task = Handle::current().spawn(async move {
        let Err(error) = task.run().await;
        task.told.ended(error);
    });
    Ok(JetStreamLink { batches, told, acked: 0, task: task.abort_handle() })
}

struct Task {
    connection: Arc<Connection>,
    shard: Shard,
    producer: ProducerId,
    subject: Subject,
    inbox: String,
    answers: Subscriber,
    incoming: UnboundedReceiver<Batch>,
    window: Window,
    /// The id that was sent last, as text.
    last: String,
    /// Since when an answer is waited for.
    asked: Instant,
    epoch: u64,
    denials: u64,
    told: Arc<Told>,
}

/// An answer to a publish.
#[derive(Debug, Deserialize)]
struct Stored {
    #[expect(dead_code, reason = "an answer without it is none")]
    seq: u64,
}

impl Task {
    async fn run(&mut self) -> Result<std::convert::Infallible, AdapterError> {
        let limit = self.connection.options.request_timeout;
        let mut line = self.connection.line();
        let mut ticks = interval(limit / 4);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.send().await?;
            self.told.stored(self.window.upto());
            select! {
                biased;
                answer = self.answers.next() => {
                    let mut next = answer.ok_or(AdapterError::Shutdown)?;
                    loop {
                        self.answered(&next).await?;
                        match self.answers.next().now_or_never() {
                            Some(Some(answer)) => next = answer,
                            _ => break,
                        }
                    }
                }
                batch = self.incoming.recv() => {
                    self.window.push(batch.ok_or(AdapterError::Shutdown)?);
                }
                changed = line.changed() => {
                    changed.map_err(|_| AdapterError::Shutdown)?;
                    self.look()?;
                }
                now = ticks.tick() => {
                    if self.window.is_waiting() && now.duration_since(self.asked) >= limit {
                        return Err(AdapterError::Timeout(format!("storing in {}", self.subject)));
                    }
                }
            }
        }
    }

    /// Whether the connection ended, or the server spoke of rights.
    fn look(&self) -> Result<(), AdapterError> {
        let line = self.connection.line().borrow().clone();
        if line.epoch != self.epoch {
            return Err(AdapterError::Connection("the connection broke".into()));
        }
        match self.connection.denied_since(self.denials) {
            Some(AdapterError::Denied(text))
                if text.contains(self.subject.as_str()) || text.contains(&self.inbox) =>
            {
                Err(AdapterError::Denied(text))
            }
            _ => Ok(()),
        }
    }

    async fn send(&mut self) -> Result<(), AdapterError> {
        if !self.window.is_waiting() {
            self.asked = Instant::now();
        }
        let limit = self.connection.options.request_timeout;
        match timeout(limit, self.publish()).await {
            Ok(sent) => sent,
            Err(_) => Err(AdapterError::Timeout(format!("sending to {}", self.subject))),
        }
    }

    /// Sends what the window lets go. The client queues messages; it waits where its queue is full.
    async fn publish(&mut self) -> Result<(), AdapterError> {
        let client = &self.connection.client;
        while let Some(next) = self.window.next() {
            let mut headers = HeaderMap::new();
            if next.after.is_some() {
                headers.insert(AFTER, self.last.as_str());
            }
            self.last.clear();
            // Writing to a string does not fail.
            _ = write!(self.last, "{}", next.event.id);
            headers.insert(ID, self.last.as_str());
            headers.insert(STAMP, next.event.stamp.to_string().as_str());
            let (subject, body) = (self.subject.clone(), next.event.raw.clone());
            let sent = match next.ask {
                Some(Ask { run, number }) => {
                    let reply = format!("{}.{run}-{number}", self.inbox);
                    client.publish_with_reply_and_headers(subject, reply, headers, body).await
                }
                None => client.publish_with_headers(subject, headers, body).await,
            };
            sent.map_err(|error| AdapterError::Connection(error.to_string()))?;
        }
        Ok(())
    }

    async fn answered(&mut self, answer: &Message) -> Result<(), AdapterError> {
        let word = answer.subject.rsplit('.').next().unwrap_or_default();
        let numbers =
            word.split_once('-').and_then(|(run, number)| Some((run.parse().ok()?, number.parse().ok()?)));
        let Some((run, number)) = numbers else { return Ok(()) };
        let ask = Ask { run, number };
        if !self.window.is_current(ask) {
            return Ok(());
        }
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(AdapterError::Gone(format!(
                "nobody stores {}: its stream is gone or has no leader",
                self.subject
            )));
        }
        match serde_json::from_slice::<Response<Stored>>(&answer.payload) {
            Ok(Response::Ok(_)) => {
                self.window.stored(ask);
                self.asked = Instant::now();
                Ok(())
            }
            Ok(Response::Err { error }) if is_misplaced(&error) => self.resume().await,
            Ok(Response::Err { error }) => Err(refused(&error)),
            Err(error) => Err(AdapterError::Protocol(format!("an answer to a publish: {error}"))),
        }
    }

    /// Another producer wrote in between, or something was lost: goes on with the first event that is
    /// not stored.
    async fn resume(&mut self) -> Result<(), AdapterError> {
        let stored = stream::last_of(&self.connection, self.shard, self.producer).await?;
        self.window.resume(stored);
        Ok(())
    }
}
