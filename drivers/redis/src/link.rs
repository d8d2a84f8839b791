//! The writing side of a shard: one transaction after the other, each answered before the next goes
//! out, so that what fails leaves no hole behind which something else was stored.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use net_proto::bus::{EventId, Position};
use net_proto::time::Instant;
use net_shell::bus::adapter::{Ack, AdapterError, Batch, Link, Outgoing};
use net_shell::runtime::Timer;

use crate::conn::Conn;
use crate::core::{Core, no_error};
use crate::error::answered;
use crate::read::position;
use crate::resp::{Item, Walk, begin, command, decimal, digits_of, word};

/// What is known before the event comes: `XADD key NOMKSTREAM * dedup_id`.
fn head_of(key: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    begin(&mut out, 10);
    // Without NOMKSTREAM a stream that somebody removed would come back without a word.
    [b"XADD" as &[u8], key.as_bytes(), b"NOMKSTREAM", b"*", b"dedup_id"]
        .iter()
        .for_each(|w| word(&mut out, w));
    out.to_vec()
}

/// Writes the part of event ids that rarely changes: `producer:incarnation:shard:`.
#[derive(Default)]
struct Names {
    of: Option<EventId>,
    text: Vec<u8>,
}

impl Names {
    fn write(&mut self, out: &mut BytesMut, id: EventId) {
        let of = EventId { seq: 0, ..id };
        if self.of != Some(of) {
            self.of = Some(of);
            self.text = of.to_string().into_bytes();
            // Without the sequence, which is 0 here.
            self.text.pop();
        }
        let mut digits = [0; 20];
        let digits = digits_of(id.seq, &mut digits);
        out.put_u8(b'$');
        decimal(out, (self.text.len() + digits.len()) as u64);
        out.put_slice(b"\r\n");
        out.put_slice(&self.text);
        out.put_slice(digits);
        out.put_slice(b"\r\n");
    }
}

/// A transaction that is ready to be sent.
struct Ready {
    bytes: BytesMut,
    answers: Answers,
}

/// Which answers a transaction gets, in order.
#[derive(Clone, Copy)]
struct Answers {
    /// Number of its last event.
    upto: u64,
    events: usize,
    /// Answers to MULTI and to what it holds; none for a single event.
    queued: usize,
    /// Answers to trimming, then to WAIT.
    trims: usize,
    wait: bool,
}

pub(crate) struct RedisLink {
    core: Arc<Core>,
    conn: Conn,
    key: String,
    head: Vec<u8>,
    names: Names,
    waiting: VecDeque<Ready>,
    under_way: Option<Answers>,
    /// The first error of the transaction under way.
    failed: Option<AdapterError>,
    /// Entry of the last event that was acknowledged.
    last: Option<Position>,
    timer: Box<dyn Timer>,
    deadline: Option<Instant>,
}

impl RedisLink {
    pub(crate) fn new(core: Arc<Core>, conn: Conn, key: String) -> Self {
        let timer = core.runtime.timer();
        let (head, names) = (head_of(&key), Names::default());
        let waiting = VecDeque::new();
        Self {
            core,
            conn,
            key,
            head,
            names,
            waiting,
            under_way: None,
            failed: None,
            last: None,
            timer,
            deadline: None,
        }
    }

    fn event(&mut self, out: &mut BytesMut, event: &Outgoing) {
        out.put_slice(&self.head);
        self.names.write(out, event.id);
        out.put_slice(b"$1\r\nt\r\n");
        let mut digits = [0; 20];
        word(out, digits_of(event.stamp, &mut digits));
        out.put_slice(b"$1\r\nd\r\n");
        word(out, &event.raw);
    }

    /// Writes what keeps the stream short; how many answers that gives.
    fn trim(&self, out: &mut BytesMut) -> usize {
        let mut n = 0;
        let mut trim = |by: &[u8], least: String| {
            command(out, &[b"XTRIM", self.key.as_bytes(), by, b"~", least.as_bytes()]);
            n += 1;
        };
        if let Some(events) = self.core.config.max_len {
            trim(b"MAXLEN", events.to_string());
        }
        // By the clock of the server, as its entries tell it. The last entry of the batch before
        // stays in any case: a reader that stands there can see that it missed nothing.
        if let (Some(age), Some(last)) = (self.core.config.max_age, self.last) {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            trim(b"MINID", last.major.saturating_sub(age).to_string());
        }
        n
    }

    /// Sends the next transaction if none is under way.
    fn begin(&mut self) {
        if self.under_way.is_none()
            && let Some(mut ready) = self.waiting.pop_front()
        {
            ready.answers.trims = self.trim(&mut ready.bytes);
            if self.core.config.replicas > 0 {
                // The server answers a little before this side gives up.
                let millis = self.core.config.command_timeout.as_millis().max(2) * 3 / 4;
                let (replicas, millis) = (self.core.config.replicas.to_string(), millis.to_string());
                command(&mut ready.bytes, &[b"WAIT", replicas.as_bytes(), millis.as_bytes()]);
                ready.answers.wait = true;
            }
            if self.conn.output().is_empty() {
                *self.conn.output() = ready.bytes;
            } else {
                self.conn.output().put_slice(&ready.bytes);
            }
            self.under_way = Some(ready.answers);
            self.deadline = Some(self.core.runtime.now() + self.core.config.command_timeout);
        }
    }

    /// The answers of the transaction under way, one at a time. `Some`: it is complete.
    fn answer(&mut self, frame: &Bytes) -> Result<Option<Ack>, AdapterError> {
        let Some(under_way) = &mut self.under_way else {
            return Err(AdapterError::Protocol("an answer to nothing".into()));
        };
        let mut walk = Walk::new(frame);
        let first = walk.item()?;
        if under_way.queued > 0 {
            under_way.queued -= 1;
            if let Item::Error(text) = first {
                let error = self.refused(text);
                // The first says why; EXEC will only say that there was one.
                self.failed.get_or_insert(error);
            }
            return Ok(None);
        }
        if under_way.events > 0 {
            match first {
                Item::Error(text) => {
                    let error = self.refused(text);
                    return Err(self.failed.take().unwrap_or(error));
                }
                Item::List(n) if n == under_way.events => {
                    let mut last = None;
                    for _ in 0..n {
                        last = Some(walk.item()?);
                    }
                    under_way.events = 0;
                    self.stored(last.unwrap_or(Item::Nil))?;
                }
                single if under_way.events == 1 => {
                    under_way.events = 0;
                    self.stored(single)?;
                }
                _ => return Err(AdapterError::Protocol("EXEC answered something else".into())),
            }
        } else if under_way.trims > 0 {
            under_way.trims -= 1;
            if let Item::Error(text) = first {
                // The events are stored, and may count.
                let error = answered(text);
                self.failed.get_or_insert(error);
            }
        } else {
            under_way.wait = false;
            let replicas = self.core.config.replicas;
            match first {
                Item::Int(n) if n >= i64::from(replicas) => {}
                Item::Int(n) => {
                    let why = format!("{n} of {replicas} replicas have it");
                    return Err(AdapterError::Timeout(why));
                }
                _ => no_error(frame)?,
            }
        }
        let done = self.under_way.filter(|left| left.events == 0 && left.trims == 0 && !left.wait);
        if done.is_some() {
            self.under_way = None;
            self.deadline = None;
        }
        Ok(done.map(|done| Ack { upto: done.upto }))
    }

    fn refused(&self, text: &str) -> AdapterError {
        self.core.follow(&self.key, self.conn.to(), text);
        answered(text)
    }

    /// Looks at what the last XADD of a transaction answered. All fail or none does.
    fn stored(&mut self, last: Item<'_>) -> Result<(), AdapterError> {
        match last {
            Item::Bulk(id) => self.last = Some(position(id)?),
            Item::Nil => return Err(AdapterError::Gone(format!("the stream {} was removed", self.key))),
            Item::Error(text) => return Err(self.refused(text)),
            _ => return Err(AdapterError::Protocol("XADD answered something else".into())),
        }
        Ok(())
    }
}

impl Link for RedisLink {
    fn send(&mut self, batch: Batch) -> Result<(), AdapterError> {
        let limit = self.core.config.max_event as usize;
        if let Some(event) = batch.events.iter().find(|event| event.raw.len() > limit) {
            let why = format!("an event of {} bytes is above the limit of {limit}", event.raw.len());
            return Err(AdapterError::Config(why));
        }
        let events = batch.events.len();
        let bodies: usize = batch.events.iter().map(|event| event.raw.len()).sum();
        let mut bytes = BytesMut::with_capacity(bodies + events * (self.head.len() + 120) + 64);
        let several = events > 1;
        if several {
            command(&mut bytes, &[b"MULTI"]);
        }
        for event in &batch.events {
            self.event(&mut bytes, event);
        }
        if several {
            command(&mut bytes, &[b"EXEC"]);
        }
        let queued = if several { events + 1 } else { 0 };
        let upto = batch.first + events as u64 - 1;
        self.waiting
            .push_back(Ready { bytes, answers: Answers { upto, events, queued, trims: 0, wait: false } });
        Ok(())
    }

    fn poll_ack(&mut self, cx: &mut Context<'_>) -> Poll<Result<Ack, AdapterError>> {
        loop {
            if self.under_way.is_none()
                && let Some(error) = self.failed.take()
            {
                return Poll::Ready(Err(error));
            }
            self.begin();
            match self.conn.poll_frame(cx) {
                Poll::Ready(Ok(frame)) => match self.answer(&frame) {
                    Ok(None) => {}
                    Ok(Some(ack)) => {
                        // The next is on its way before the bus looks at this one.
                        self.begin();
                        if let Poll::Ready(Err(error)) = self.conn.poll_flush(cx) {
                            self.failed.get_or_insert(error);
                        }
                        return Poll::Ready(Ok(ack));
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    let late = self.timer.poll(cx, self.deadline).is_ready();
                    if late && self.deadline.is_some_and(|at| at <= self.core.runtime.now()) {
                        let limit: Duration = self.core.config.command_timeout;
                        let why = format!("{}: a batch took longer than {limit:?}", self.conn.to());
                        return Poll::Ready(Err(AdapterError::Timeout(why)));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
