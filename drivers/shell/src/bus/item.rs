//! What a reader gets: events and gaps, to keep or only to look at.

use bytes::Bytes;
use net_proto::bus::{EventId, Position, Shard, Slice};

/// An event as a reader gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its shard.
    pub shard: Shard,
    /// Where it lies in the shard.
    pub position: Position,
    /// Its name; `None` for entries of an engine that something else wrote.
    pub id: Option<EventId>,
    /// When it was accepted: nanoseconds since 1970, 0 if unknown.
    pub stamp: u64,
    /// The body. On memory it shares up to 64 KiB with its neighbours: copy what is to be kept long.
    pub raw: Bytes,
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// An event.
    Event(StoredEvent),
    /// Events are gone that this reader has not seen: those after `from`, up to and including `to`.
    Lost {
        /// The shard.
        shard: Shard,
        /// The last position that was seen, or that lies before the first lost event.
        from: Position,
        /// The position of the last lost event.
        to: Position,
    },
}

impl Item {
    /// The event.
    #[inline]
    pub fn into_event(self) -> Option<StoredEvent> {
        match self {
            Self::Event(event) => Some(event),
            Self::Lost { .. } => None,
        }
    }
}

/// An event that a reader lends: to look at it costs nothing, to keep it a count of references.
#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    /// Its shard.
    pub shard: Shard,
    /// Where it lies in the shard.
    pub position: Position,
    /// Its name; `None` for entries of an engine that something else wrote.
    pub id: Option<EventId>,
    /// When it was accepted: nanoseconds since 1970, 0 if unknown.
    pub stamp: u64,
    /// The body.
    pub raw: &'a [u8],
    pub(super) memory: Memory<'a>,
}

/// Where the body of a lent event lies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Memory<'a> {
    Slice(&'a Slice),
    Whole(&'a Bytes),
}

impl EventRef<'_> {
    /// The event, to keep. It shares the memory of the body.
    #[inline]
    pub fn to_event(self) -> StoredEvent {
        let Self { shard, position, id, stamp, raw, memory } = self;
        let raw = match memory {
            Memory::Slice(slice) => slice.share(raw),
            Memory::Whole(whole) => whole.clone(),
        };
        StoredEvent { shard, position, id, stamp, raw }
    }
}

/// What a reader lends.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum ItemRef<'a> {
    /// An event.
    Event(EventRef<'a>),
    /// As [`Item::Lost`].
    Lost {
        /// The shard.
        shard: Shard,
        /// The last position that was seen, or that lies before the first lost event.
        from: Position,
        /// The position of the last lost event.
        to: Position,
    },
}

impl ItemRef<'_> {
    /// The item, to keep.
    #[inline]
    pub fn to_item(self) -> Item {
        match self {
            Self::Event(event) => Item::Event(event.to_event()),
            Self::Lost { shard, from, to } => Item::Lost { shard, from, to },
        }
    }
}

impl Item {
    /// The item, lent.
    #[inline]
    pub fn lend(&self) -> ItemRef<'_> {
        match self {
            Self::Event(StoredEvent { shard, position, id, stamp, raw }) => ItemRef::Event(EventRef {
                shard: *shard,
                position: *position,
                id: *id,
                stamp: *stamp,
                raw,
                memory: Memory::Whole(raw),
            }),
            Self::Lost { shard, from, to } => ItemRef::Lost { shard: *shard, from: *from, to: *to },
        }
    }
}
