//! Reads by position. A reader's place in a shard is a *lane*: a pull consumer without
//! acknowledgements that lives in the server's memory and is forgotten there soon after nobody asks.
//! Lanes wait in a pool between two reads; one that was lost is made anew from the position.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{join_all, poll_fn, try_join_all};
use net_proto::bus::{Position, Shard};
use net_shell::bus::adapter::{AdapterError, Incoming, Page};
use serde_json::json;
use tokio::select;
use tokio::time::{Instant, sleep, timeout_at};

use crate::connection::{Connection, WAITING};
use crate::error::refused;
use crate::stream::{self, ID, STAMP, Seen};

/// Lanes that wait for the next read.
const POOL: usize = 1024;
/// After this long without a question the server forgets a consumer.
const FORGET: Duration = Duration::from_secs(60);
/// How often a shard without a stream, or a stream that ends before a reader's place, is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Looks at a stream that ends before a reader's place, before that is an error: a new leader may not
/// have caught up with itself.
const PATIENCE: u32 = 8;

/// Lanes by the position that their reader was given last; the one that waits for longest first.
#[derive(Clone, Debug, Default)]
pub struct Pool(Arc<Mutex<VecDeque<Lane>>>);

impl Pool {
    fn take(&self, shard: Shard, from: Option<Position>) -> Option<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = lanes.iter().position(|lane| lane.shard == shard && lane.given == from)?;
        lanes.remove(at)
    }

    fn put(&self, lane: Lane) {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if lanes.len() >= POOL { lanes.pop_front() } else { None };
        lanes.push_back(lane);
        drop(lanes);
        drop(oldest);
    }
}

/// What a lane gives, in order.
#[derive(Debug)]
enum Item {
    Lost(Position, Position),
    Event(Incoming),
}

/// A reader's place in a stream.
#[derive(Debug)]
struct Lane {
    connection: Arc<Connection>,
    shard: Shard,
    created: u64,
    /// The sequence that came last, or the one before the first that is wanted.
    at: u64,
    /// The position that the reader has, if any.
    given: Option<Position>,
    items: VecDeque<Item>,
    consumer: Option<Consumer>,
    /// The stream was looked at since the last consumer ended.
    met: bool,
}

#[derive(Debug)]
struct Consumer {
    name: String,
    inbox: String,
    messages: Subscriber,
    /// Messages that it has delivered.
    delivered: u64,
    /// Messages that the open question may still bring; none: no question is open.
    asked: usize,
    /// The server answers the open question until then, one way or another.
    until: Instant,
    /// Messages that were behind the last one.
    behind: u64,
    /// The connection on which it was made.
    epoch: u64,
}

/// Why a lane cannot go on as it is.
#[derive(Debug)]
enum Broken {
    /// The consumer is gone, or messages of it; another one goes on.
    Again,
    Failed(AdapterError),
}

impl From<AdapterError> for Broken {
    fn from(error: AdapterError) -> Self {
        Self::Failed(error)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The server would forget it by itself, later.
        if let (Some(consumer), Ok(on)) = (self.consumer.take(), tokio::runtime::Handle::try_current()) {
            let connection = self.connection.clone();
            let request = connection.api(&format!("CONSUMER.DELETE.{}.{}", self.stream(), consumer.name));
            on.spawn(async move { _ = connection.client.publish(request, Bytes::new()).await });
        }
    }
}

/// Events after the given positions. Runs on the client's thread.
pub async fn read(
    connection: Arc<Connection>,
    pool: Pool,
    from: Vec<(Shard, Option<Position>)>,
    limit: usize,
    wait: Duration,
) -> Result<Vec<Page>, AdapterError> {
    let limit = limit.clamp(1, WAITING / 4);
    let end = Instant::now() + wait;
    connection.connected().await?;
    let mut lanes = Vec::new();
    let mut missing = Vec::new();
    let found = from.iter().map(|(shard, from)| find(&connection, &pool, *shard, *from));
    for (place, lane) in from.iter().zip(join_all(found).await) {
        match lane? {
            Some(lane) => lanes.push(lane),
            None => missing.push(*place),
        }
    }
    if wait.is_zero() {
        try_join_all(lanes.iter_mut().map(|lane| lane.fill_now(limit))).await?;
    } else {
        wait_for(&connection, &pool, &mut lanes, missing, limit, end).await?;
    }
    let pages = lanes.iter_mut().filter_map(|lane| lane.page(limit)).collect();
    lanes.into_iter().for_each(|lane| pool.put(lane));
    Ok(pages)
}

async fn find(
    connection: &Arc<Connection>,
    pool: &Pool,
    shard: Shard,
    from: Option<Position>,
) -> Result<Option<Lane>, AdapterError> {
    match pool.take(shard, from) {
        Some(mut lane) => {
            // What was on the way when the connection broke does not come.
            if lane.consumer.as_ref().is_some_and(|c| c.epoch != connection.epoch()) {
                lane.restart();
            }
            Ok(Some(lane))
        }
        None => Lane::open(connection, shard, from).await,
    }
}

/// Waits until any lane has something.
async fn wait_for(
    connection: &Arc<Connection>,
    pool: &Pool,
    lanes: &mut Vec<Lane>,
    mut missing: Vec<(Shard, Option<Position>)>,
    limit: usize,
    end: Instant,
) -> Result<(), AdapterError> {
    loop {
        let asked = lanes.iter_mut().map(|lane| lane.ask_until(limit, end)).collect::<Vec<_>>();
        try_join_all(asked).await?;
        let look = if missing.is_empty() { end } else { end.min(Instant::now() + LOOK) };
        // The server ends a question a little after the time that it was given.
        let grace = connection.options.request_timeout;
        let (mut line, epoch) = (connection.line(), connection.epoch());
        let broke = async { _ = line.wait_for(|line| line.epoch != epoch).await };
        let came = select! {
            came = timeout_at(look, poll_fn(|cx| any(lanes, cx))) => Some(came),
            () = broke => None,
        };
        let Some(came) = came else {
            lanes.iter_mut().for_each(Lane::restart);
            connection.connected().await?;
            continue;
        };
        match came {
            Ok(Ok(true)) => {
                // What the server has at hand comes at once.
                let rest = lanes.iter_mut().map(|lane| lane.fill(limit, grace));
                return try_join_all(rest).await.map(|_| ());
            }
            Ok(Ok(false)) => {}
            Ok(Err((lane, Broken::Again))) => lanes[lane].restart(),
            Ok(Err((_, Broken::Failed(error)))) => return Err(error),
            Err(_) if Instant::now() >= end => {
                // Whatever ended or was replaced meanwhile shows here.
                return try_join_all(lanes.iter_mut().map(Lane::check)).await.map(|_| ());
            }
            Err(_) => {}
        }
        let places = std::mem::take(&mut missing);
        let found = places.iter().map(|(shard, from)| find(connection, pool, *shard, *from));
        for (place, lane) in places.iter().zip(join_all(found).await) {
            match lane? {
                Some(lane) => lanes.push(lane),
                None => missing.push(*place),
            }
        }
    }
}

/// Ready when a lane has something (true), or asks nothing any more (false).
fn any(lanes: &mut [Lane], cx: &mut Context<'_>) -> Poll<Result<bool, (usize, Broken)>> {
    let (mut ready, mut idle) = (false, false);
    for (n, lane) in lanes.iter_mut().enumerate() {
        match lane.poll_messages(cx) {
            Poll::Ready(Err(broken)) => return Poll::Ready(Err((n, broken))),
            Poll::Ready(Ok(())) => idle |= lane.consumer.as_ref().is_some_and(|c| c.asked == 0),
            Poll::Pending => {}
        }
        ready |= !lane.items.is_empty();
    }
    if ready || idle { Poll::Ready(Ok(ready)) } else { Poll::Pending }
}

impl Lane {
    /// A lane behind `from`; `None` if there is no stream.
    async fn open(
        connection: &Arc<Connection>,
        shard: Shard,
        from: Option<Position>,
    ) -> Result<Option<Self>, AdapterError> {
        let Some(seen) = stream::see(connection, shard).await? else { return Ok(None) };
        let mut lane = Self {
            connection: connection.clone(),
            shard,
            created: seen.created,
            at: seen.first.saturating_sub(1),
            given: from,
            items: VecDeque::new(),
            consumer: None,
            met: true,
        };
        if let Some(from) = from {
            (lane.created, lane.at) = (from.major, from.minor);
            lane.meet(seen).await?;
        }
        Ok(Some(lane))
    }

    fn stream(&self) -> String {
        stream::name(&self.connection.options, self.shard)
    }

    /// Compares the reader's place with the stream. Answers the last sequence there.
    async fn meet(&mut self, mut seen: Seen) -> Result<u64, AdapterError> {
        let name = self.stream();
        self.met = true;
        if self.created > seen.created {
            return Err(AdapterError::Conflict(format!(
                "stream {name} is older than the place of its reader: an earlier one came back"
            )));
        }
        if self.created < seen.created {
            // Another stream took the name. Nothing of the one that was read is left.
            let gone = Position::new(seen.created, seen.first.saturating_sub(1));
            if let Some(given) = self.given {
                self.items.push_back(Item::Lost(given, gone));
            }
            (self.created, self.at, self.consumer) = (seen.created, gone.minor, None);
            return Ok(seen.last);
        }
        for _ in 0..PATIENCE {
            if self.at <= seen.last {
                return Ok(seen.last);
            }
            sleep(LOOK).await;
            match stream::see(&self.connection, self.shard).await? {
                Some(now) => seen = now,
                None => return Ok(self.at),
            }
        }
        Err(AdapterError::Conflict(format!(
            "stream {name} ends at {} and its reader is at {}: the server lost what it had acknowledged",
            seen.last, self.at
        )))
    }

    /// Looks at the stream.
    async fn check(&mut self) -> Result<u64, AdapterError> {
        match stream::see(&self.connection, self.shard).await? {
            Some(seen) => self.meet(seen).await,
            None => {
                (self.consumer, self.met) = (None, false);
                Ok(self.at)
            }
        }
    }

    /// The consumer is gone: the next one begins behind what came.
    fn restart(&mut self) {
        (self.consumer, self.met) = (None, false);
    }

    /// Fetches what is there now, at most `limit` items.
    async fn fill_now(&mut self, limit: usize) -> Result<(), AdapterError> {
        let last = self.check().await?;
        let end = Instant::now() + self.connection.options.request_timeout;
        let mut asked = false;
        while self.at < last && self.items.len() < limit {
            if self.consumer.as_ref().is_none_or(|c| c.asked == 0) {
                // What was asked for did not come: it was deleted.
                if asked {
                    break;
                }
                asked = true;
                self.ask(limit - self.items.len(), None).await?;
            }
            match timeout_at(end, poll_fn(|cx| self.poll_messages(cx))).await {
                Ok(Ok(())) => {}
                Ok(Err(Broken::Again)) => {
                    self.restart();
                    asked = false;
                }
                Ok(Err(Broken::Failed(error))) => return Err(error),
                Err(_) if self.connection.line().borrow().up => {
                    self.restart();
                    return Err(AdapterError::Timeout(format!("reading {}", self.stream())));
                }
                Err(_) => return Err(self.connection.down()),
            }
        }
        Ok(())
    }

    /// Takes what comes for as long as the server said that more is behind, at most `limit` items.
    async fn fill(&mut self, limit: usize, grace: Duration) -> Result<(), AdapterError> {
        let end = Instant::now() + grace;
        while self.items.len() < limit && self.consumer.as_ref().is_some_and(|c| c.behind > 0 && c.asked > 0)
        {
            match timeout_at(end, poll_fn(|cx| self.poll_messages(cx))).await {
                Ok(Ok(())) => {}
                Ok(Err(Broken::Failed(error))) => return Err(error),
                Ok(Err(Broken::Again)) | Err(_) => {
                    self.restart();
                    break;
                }
            }
        }
        Ok(())
    }

    /// Makes sure that a question is open until `end`, for `events` events.
    async fn ask_until(&mut self, events: usize, end: Instant) -> Result<(), AdapterError> {
        let now = Instant::now();
        match &self.consumer {
            _ if !self.items.is_empty() => return Ok(()),
            Some(consumer) if consumer.asked > 0 && consumer.until > now => return Ok(()),
            Some(consumer) if consumer.asked > 0 => self.restart(),
            _ => {}
        }
        let wait = end.saturating_duration_since(now).max(Duration::from_millis(1));
        self.ask(events, Some(wait)).await
    }

    /// Asks for events: for those that are there, or as long as it may take.
    async fn ask(&mut self, events: usize, wait: Option<Duration>) -> Result<(), AdapterError> {
        if self.consumer.is_none() {
            if !self.met {
                self.check().await?;
            }
            self.consumer = self.subscribe().await?;
        }
        let stream = self.stream();
        let Some(consumer) = &mut self.consumer else { return Ok(()) };
        let question = match wait {
            Some(wait) => json!({ "batch": events, "expires": wait.as_nanos() as u64 }),
            None => json!({ "batch": events, "no_wait": true }),
        };
        let (client, grace) = (&self.connection.client, self.connection.options.request_timeout);
        let subject = self.connection.api(&format!("CONSUMER.MSG.NEXT.{stream}.{}", consumer.name));
        let sent = client.publish_with_reply(subject, consumer.inbox.clone(), question.to_string().into());
        let now = Instant::now();
        match timeout_at(now + grace, sent).await {
            Ok(Ok(())) => {
                (consumer.asked, consumer.until) = (events, now + wait.unwrap_or_default() + grace);
                Ok(())
            }
            Ok(Err(error)) => Err(AdapterError::Connection(error.to_string())),
            Err(_) => Err(AdapterError::Timeout("asking for events".into())),
        }
    }

    /// A consumer behind `at`; `None` if the stream is gone.
    async fn subscribe(&self) -> Result<Option<Consumer>, AdapterError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let stream = self.stream();
        let epoch = self.connection.epoch();
        let client = &self.connection.client;
        let inbox = client.new_inbox();
        let unique = inbox.rsplit('.').next().unwrap_or_default();
        let name = format!("net_{unique}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let messages = client.subscribe(inbox.clone()).await;
        let messages = messages.map_err(|error| AdapterError::Connection(error.to_string()))?;
        let config = json!({
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.at + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": FORGET.as_nanos() as u64,
            "mem_storage": true,
            "num_replicas": 1,
        });
        let request = json!({ "stream_name": stream, "config": config });
        let subject = format!("CONSUMER.CREATE.{stream}.{name}");
        match self.connection.ask::<serde_json::Value>(subject, &request).await? {
            Ok(_) => {
                let until = Instant::now();
                Ok(Some(Consumer { name, inbox, messages, delivered: 0, asked: 0, until, behind: 0, epoch }))
            }
            Err(error) => match refused(&error) {
                AdapterError::Gone(_) => Ok(None),
                other => Err(other),
            },
        }
    }

    /// Takes what came. Ready once something did.
    fn poll_messages(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut came = false;
        loop {
            let Some(consumer) = &mut self.consumer else {
                return if came { Poll::Ready(Ok(())) } else { Poll::Pending };
            };
            match consumer.messages.poll_next_unpin(cx) {
                Poll::Pending if came => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Err(AdapterError::Shutdown.into())),
                Poll::Ready(Some(message)) => {
                    if let Err(broken) = self.take(message) {
                        return Poll::Ready(Err(broken));
                    }
                    came = true;
                }
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<(), Broken> {
        let Some(consumer) = &mut self.consumer else { return Ok(()) };
        if let Some(status) = message.status {
            // 404 and 408: nothing there, or not in time. 409 and 503: the consumer is gone.
            if status == StatusCode::NOT_FOUND || status == StatusCode::TIMEOUT {
                (consumer.asked, consumer.behind) = (0, 0);
                return Ok(());
            }
            return Err(Broken::Again);
        }
        let Some(place) = message.reply.as_ref().and_then(|reply| Place::of(reply)) else {
            return Err(AdapterError::Protocol("a message without its place in the stream".into()).into());
        };
        // Counted by the consumer: a gap here means messages that were lost on the way.
        if place.delivered != consumer.delivered + 1 {
            return Err(Broken::Again);
        }
        consumer.delivered = place.delivered;
        consumer.asked = consumer.asked.saturating_sub(1);
        consumer.behind = place.behind;
        // A gap of the stream: what is not there any more.
        if place.sequence > self.at + 1 {
            let (from, to) = (self.at, place.sequence - 1);
            let of = |sequence| Position::new(self.created, sequence);
            self.items.push_back(Item::Lost(of(from), of(to)));
        }
        self.at = place.sequence;
        self.items.push_back(Item::Event(incoming(message, self.created, &place)));
        Ok(())
    }

    /// What is handed to the reader: something lost, then events up to the next loss.
    fn page(&mut self, limit: usize) -> Option<Page> {
        let mut page = Page { shard: self.shard, lost: None, events: Vec::new(), more: false };
        while page.events.len() < limit {
            match self.items.pop_front() {
                Some(Item::Lost(from, to)) if page.events.is_empty() && page.lost.is_none() => {
                    page.lost = Some((from, to));
                    self.given = Some(to);
                }
                Some(Item::Event(event)) => {
                    self.given = Some(event.position);
                    page.events.push(event);
                }
                Some(lost) => {
                    self.items.push_front(lost);
                    break;
                }
                None => break,
            }
        }
        page.more = !self.items.is_empty() || self.consumer.as_ref().is_some_and(|c| c.behind > 0);
        (page.lost.is_some() || !page.events.is_empty()).then_some(page)
    }
}

/// A delivered message as an event.
pub fn incoming(message: Message, created: u64, place: &Place) -> Incoming {
    let header = |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name));
    Incoming {
        position: Position::new(created, place.sequence),
        id: header(ID).and_then(|value| value.as_str().parse().ok()),
        stamp: header(STAMP).and_then(|value| value.as_str().parse().ok()).unwrap_or(place.stored),
        raw: message.payload,
    }
}

/// What the reply subject of a delivered message says.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// How often it was delivered.
    pub times: u64,
    sequence: u64,
    delivered: u64,
    /// When it was stored, nanoseconds since 1970.
    stored: u64,
    behind: u64,
}

impl Place {
    /// `$JS.ACK.<stream>.<consumer>.<times>.<sequence>.<delivered>.<stored>.<behind>`, or with domain
    /// and account before the stream, and then a word more at the end.
    pub fn of(reply: &str) -> Option<Self> {
        let words: Vec<_> = reply.split('.').collect();
        let at = match words.len() {
            9 => 4,
            11.. => 6,
            _ => return None,
        };
        let number = |n: usize| words.get(at + n)?.parse().ok();
        (words.starts_with(&["$JS", "ACK"])).then_some(())?;
        let (times, sequence, delivered) = (number(0)?, number(1)?, number(2)?);
        Some(Self { times, sequence, delivered, stored: number(3)?, behind: number(4)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_place_are_read() {
        let place = Place { times: 1, sequence: 20, delivered: 3, stored: 17, behind: 4 };
        assert_eq!(Place::of("$JS.ACK.net_shard_0.c.1.20.3.17.4").as_ref(), Some(&place));
        assert_eq!(Place::of("$JS.ACK.hub.ACC.net_shard_0.c.1.20.3.17.4.x").as_ref(), Some(&place));
        assert_eq!(Place::of("$JS.ACK.hub.ACC.net_shard_0.c.1.20.3.17.4"), Some(place));
        for wrong in ["", "$JS.ACK.a.b.1.x.3.17.4", "a.b.c.d.1.20.3.17.4", "$JS.ACK.a.b.1.20.3.17"] {
            assert_eq!(Place::of(wrong), None, "{wrong}");
        }
    }
}
