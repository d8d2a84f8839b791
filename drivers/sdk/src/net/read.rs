//! Polls and subscriptions.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use net_proto::bus::{Cursor, Filter, MAX_READERS, Position, Shard};
use net_shell::bus::{Item, ItemRef, Ordering, Reader, StartAt, StoredEvent};
use serde::de::DeserializeOwned;

use super::{Net, Result, SdkError};

/// What to read.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ReadOptions {
    pub(super) cursor: Option<Cursor>,
    pub(super) start: StartAt,
    pub(super) ordering: Ordering,
    pub(super) shards: Option<Vec<Shard>>,
    pub(super) limit: usize,
    pub(super) lossy: bool,
    pub(super) filter: Option<Filter>,
}

/// What to poll: the same as [`ReadOptions`], at most 100 events unless said otherwise.
pub type PollRequest = ReadOptions;
/// What to subscribe to.
pub type SubscribeOptions = ReadOptions;

/// Events that a subscription filters out before other tasks have their turn.
const YIELD: usize = 4096;
/// Events of one poll unless said otherwise.
const LIMIT: usize = 100;
/// Most events that one poll looks at; a filter that matches less than it finds has more to poll.
const MAX_LOOKED: usize = 1 << 21;
/// Events of one shard before the next has its turn in a poll.
const TURN: usize = 64;
/// Most events of a shard that a poll asks an engine for at a time.
const PAGE: usize = 4096;
/// Most events of one poll.
const MAX_LIMIT: usize = 1 << 20;

impl ReadOptions {
    /// Everything, from the oldest event that is retained.
    pub fn new() -> Self {
        Self { limit: LIMIT, ..Self::default() }
    }

    /// Reads on behind a cursor.
    pub fn cursor(mut self, cursor: Cursor) -> Self {
        self.cursor = Some(cursor);
        self
    }

    /// Starts behind the newest event in shards that the cursor does not name.
    pub const fn latest(mut self) -> Self {
        self.start = StartAt::Latest;
        self
    }

    /// In which order shards are merged.
    pub const fn ordering(mut self, ordering: Ordering) -> Self {
        self.ordering = ordering;
        self
    }

    /// Only events that match. The cursor moves past the others, too.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Only these shards. Without it: all that there are, and for subscriptions those that appear later, from their
    /// first event.
    pub fn shards(mut self, shards: impl IntoIterator<Item = Shard>) -> Self {
        self.shards = Some(shards.into_iter().collect());
        self
    }

    /// Polls: at most so many events.
    pub const fn limit(mut self, events: usize) -> Self {
        self.limit = events;
        self
    }

    /// Subscriptions on memory: what this one has not read does not hold producers back. It gets
    /// [`Item::Lost`] when it falls behind.
    pub const fn lossy(mut self) -> Self {
        self.lossy = true;
        self
    }
}

/// What a poll found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PollResponse {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// What is gone and was never seen: shard, the position before it and the last one of it.
    pub lost: Vec<(Shard, Position, Position)>,
    /// Where to read on.
    pub cursor: Cursor,
    /// More is there already.
    pub has_more: bool,
}

impl Net {
    async fn reader(&self, options: &ReadOptions, attached: bool) -> Result<Reader> {
        let bus = self.bus();
        let mut shards: Vec<Shard> = match &options.shards {
            Some(shards) => shards.clone(),
            None => bus.all_shards().collect(),
        };
        if let Some(adapter) = bus.adapter()
            && options.shards.is_none()
        {
            // Those that an earlier configuration wrote to.
            shards.extend(adapter.shards().await?);
        }
        shards.sort_unstable();
        shards.dedup();
        let tail = match (options.start, bus.adapter()) {
            (StartAt::Oldest, _) => Vec::new(),
            (StartAt::Latest, Some(adapter)) => adapter.tail(&shards).await?,
            (StartAt::Latest, None) => {
                let at =
                    |s: &Shard| Position::new(bus.incarnation(), bus.cell(*s).map_or(1, |c| c.range().1) - 1);
                shards.iter().map(|s| (*s, at(s))).collect()
            }
        };
        if bus.adapter().is_none()
            && let Some(shard) = shards.iter().find(|s| bus.cell(**s).is_none())
        {
            return Err(SdkError::Unrouted(*shard));
        }
        let cursor = options.cursor.clone().unwrap_or_default();
        Reader::new(bus.clone(), &shards, cursor, &tail, options.ordering, attached)
            .ok_or(SdkError::TooManyReaders(MAX_READERS))
    }

    /// Reads what is there now. Reading consumes nothing: the same request finds the same events for
    /// as long as they are retained. Dropping the future has no effect.
    pub async fn poll(&self, request: PollRequest) -> Result<PollResponse> {
        let limit = if request.limit == 0 { LIMIT } else { request.limit };
        if limit > MAX_LIMIT {
            let range = format!("1 to {MAX_LIMIT}");
            return Err(SdkError::Limit { what: "limit", value: limit as u64, limit: range });
        }
        let reader = self.reader(&request, false).await?;
        // Its share of each shard at a time, so that a question is answered with about what is wanted.
        let share = limit.div_ceil(reader.shards().max(1)).max(limit.min(TURN)).min(PAGE);
        let mut reader = reader.turn_of(limit.min(TURN)).page_of(share);
        let (mut events, mut lost) = (Vec::new(), Vec::new());
        let matches = |event: &StoredEvent| request.filter.as_ref().is_none_or(|f| f.matches(&event.raw));
        let mut looked = 0;
        while events.len() < limit && looked < MAX_LOOKED {
            looked += 1;
            match reader.pop() {
                Some(Item::Event(event)) if !matches(&event) => {}
                Some(Item::Event(event)) => events.push(event),
                Some(Item::Lost { shard, from, to }) => lost.push((shard, from, to)),
                Some(_) => {}
                None if !poll_fn(|cx| reader.poll_once(cx)).await? => break,
                None => {}
            }
        }
        // An engine said whether there is more behind its last page; memory has to be looked at.
        let has_more = reader.has_more()
            || (events.len() == limit || looked == MAX_LOOKED)
                && self.bus().adapter().is_none()
                && poll_fn(|cx| reader.poll_once(cx)).await?;
        Ok(PollResponse { events, lost, cursor: reader.cursor(), has_more })
    }

    /// Subscribes to everything, from the oldest event that is retained.
    ///
    /// `Ok`: from now on, what this subscription has not read is held for it (on memory, as
    /// back-pressure says). Dropping it releases that.
    pub async fn subscribe(&self) -> Result<Subscription> {
        self.subscribe_with(ReadOptions::new()).await
    }

    /// Subscribes as the options say.
    pub async fn subscribe_with(&self, options: SubscribeOptions) -> Result<Subscription> {
        let reader = self.reader(&options, !options.lossy).await?;
        let reader = if options.shards.is_none() { reader.finding_shards() } else { reader };
        Ok(Subscription { reader, filter: options.filter })
    }

    /// Subscribes to everything and reads each event as JSON of type `T`.
    pub async fn subscribe_typed<T: DeserializeOwned>(&self) -> Result<TypedSubscription<T>> {
        self.subscribe_typed_with(ReadOptions::new()).await
    }

    /// Subscribes as the options say and reads each event as JSON of type `T`.
    pub async fn subscribe_typed_with<T: DeserializeOwned>(
        &self,
        options: SubscribeOptions,
    ) -> Result<TypedSubscription<T>> {
        Ok(TypedSubscription { inner: self.subscribe_with(options).await?, of: PhantomData })
    }
}

/// A stream of events. Ends when the bus is shut down and everything was read.
#[derive(Debug)]
#[must_use]
pub struct Subscription {
    reader: Reader,
    filter: Option<Filter>,
}

impl Subscription {
    /// The next item; `None` at the end. An error of the engine ends nothing: the next call asks
    /// again. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Result<Item>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Item>>> {
        for _ in 0..YIELD {
            let item = ready!(self.reader.poll_next(cx));
            match (&item, &self.filter) {
                (Some(Ok(Item::Event(event))), Some(filter)) if !filter.matches(&event.raw) => {}
                _ => return Poll::Ready(item.map(|item| item.map_err(SdkError::from))),
            }
        }
        // A filter that matches little must not keep its task's neighbours from running.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes up to `max` items that are here, after waiting for the first; how many came. Zero at the
    /// end. Cheaper than as many calls of [`Subscription::next`]. Dropping the future loses nothing.
    pub async fn next_many(&mut self, max: usize, mut each: impl FnMut(Item)) -> Result<usize> {
        self.visit_many(max, |item| each(item.to_item())).await
    }

    /// As [`Subscription::next_many`], for items that are looked at where they lie: cheaper still. What is worth
    /// keeping, [`ItemRef::to_item`] keeps.
    pub async fn visit_many(&mut self, max: usize, mut each: impl FnMut(ItemRef<'_>)) -> Result<usize> {
        if max == 0 {
            return Ok(0);
        }
        match self.next().await {
            None => return Ok(0),
            Some(first) => each(first?.lend()),
        }
        let mut n = 1;
        let filter = self.filter.as_ref();
        while n < max {
            let taken = self.reader.visit(|item| {
                let passes = match (&item, filter) {
                    (ItemRef::Event(event), Some(filter)) => filter.matches(event.raw),
                    _ => true,
                };
                if passes {
                    each(item);
                }
                passes
            });
            match taken {
                Some(passed) => n += usize::from(passed),
                None => break,
            }
        }
        Ok(n)
    }

    /// Where it stands: behind everything that it returned. Keep its token to read on after a
    /// restart.
    pub fn cursor(&self) -> Cursor {
        self.reader.cursor()
    }
}

impl Stream for Subscription {
    type Item = Result<Item>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

/// What a [`TypedSubscription`] gives.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Typed<T> {
    /// An event.
    Event(T),
    /// Events are gone; see [`Item::Lost`].
    Lost {
        /// The shard.
        shard: Shard,
        /// The position before the first lost event.
        from: Position,
        /// The position of the last lost event.
        to: Position,
    },
}

impl<T> Typed<T> {
    /// The event.
    pub fn into_event(self) -> Option<T> {
        match self {
            Self::Event(value) => Some(value),
            Self::Lost { .. } => None,
        }
    }
}

/// A stream of values. An event that is not JSON of type `T` is an error and passes by; the stream
/// goes on.
#[must_use]
pub struct TypedSubscription<T> {
    inner: Subscription,
    of: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for TypedSubscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<T: DeserializeOwned> TypedSubscription<T> {
    /// The next value; otherwise as [`Subscription::next`].
    pub async fn next(&mut self) -> Option<Result<Typed<T>>> {
        poll_fn(|cx| self.poll_typed(cx)).await
    }

    fn poll_typed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Typed<T>>>> {
        let item = match ready!(self.inner.poll_item(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(item)) => item,
        };
        Poll::Ready(Some(match item {
            Item::Event(event) => parse(&event.raw).map(Typed::Event),
            Item::Lost { shard, from, to } => Ok(Typed::Lost { shard, from, to }),
            // No other item exists in this version.
            _ => return Poll::Ready(None),
        }))
    }

    /// Where it stands; see [`Subscription::cursor`].
    pub fn cursor(&self) -> Cursor {
        self.inner.cursor()
    }
}

impl<T: DeserializeOwned> Stream for TypedSubscription<T> {
    type Item = Result<Typed<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_typed(cx)
    }
}

/// An event as JSON of type `T`.
pub fn parse<T: DeserializeOwned>(raw: &Bytes) -> Result<T> {
    Ok(serde_json::from_slice(raw)?)
}
