//! What nodes say to each other about events that one of them keeps: frames, and runs of events.

use alloc::vec::Vec;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::id::{EventId, MAX_SHARDS, Position, ProducerId, Shard};
use crate::bus::MAX_EVENT;
use crate::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer, varint_len};

/// Most events of a run.
pub const MAX_RUN: u32 = 1 << 16;

/// Events next to each other, of one life of one producer and with consecutive sequences.
///
/// Each entry is `stamp after the one before (varint), length (varint), body`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who produced them.
    pub producer: ProducerId,
    /// Which life of the producer.
    pub incarnation: u64,
    /// Sequence of the first.
    pub seq: u64,
    /// Nanoseconds since 1970 that the first entry counts from.
    stamp: u64,
    /// How many.
    count: u32,
    entries: Bytes,
}

/// One event of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunEvent<'a> {
    /// Its sequence.
    pub seq: u64,
    /// When it was accepted, nanoseconds since 1970.
    pub stamp: u64,
    /// The body.
    pub body: &'a [u8],
}

impl Run {
    /// How many events.
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of its entries.
    pub const fn bytes(&self) -> usize {
        self.entries.len()
    }

    /// The events, in order.
    pub fn events(&self) -> RunEvents<'_> {
        RunEvents { reader: Reader::new(&self.entries), seq: self.seq, stamp: self.stamp, left: self.count }
    }

    /// A body that [`Run::events`] showed, sharing the run's memory.
    pub fn share(&self, body: &[u8]) -> Bytes {
        if body.is_empty() { Bytes::new() } else { self.entries.slice_ref(body) }
    }

    /// The name of one of its events.
    pub const fn id(&self, shard: Shard, seq: u64) -> EventId {
        EventId { producer: self.producer, incarnation: self.incarnation, shard, seq }
    }

    /// The part of it behind the first `skip` events: at most `events`, and about `bytes` of them but at
    /// least one. It shares the memory of the whole.
    pub fn part(&self, skip: u32, events: u32, bytes: usize) -> Self {
        let mut all = self.events();
        (0..skip).for_each(|_| _ = all.next());
        let (begin, seq, stamp) = (all.offset(self), all.seq, all.stamp);
        let (mut end, mut count) = (begin, 0);
        while count < events && all.next().is_some() {
            let here = all.offset(self);
            if count > 0 && here - begin > bytes {
                break;
            }
            (end, count) = (here, count + 1);
        }
        Self { seq, stamp, count, entries: self.entries.slice(begin..end), ..*self }
    }

    fn size(&self) -> usize {
        16 + varint_len(self.seq)
            + 8
            + varint_len(self.count.into())
            + varint_len(self.entries.len() as u64)
            + self.entries.len()
    }
}

/// Iterates over the events of a run. Ends early where a run was not made by this module.
#[derive(Clone, Debug)]
pub struct RunEvents<'a> {
    reader: Reader<'a>,
    seq: u64,
    stamp: u64,
    left: u32,
}

impl RunEvents<'_> {
    fn offset(&self, run: &Run) -> usize {
        run.entries.len() - self.reader.rest().len()
    }
}

impl<'a> Iterator for RunEvents<'a> {
    type Item = RunEvent<'a>;

    fn next(&mut self) -> Option<RunEvent<'a>> {
        self.left = self.left.checked_sub(1)?;
        let stamp = self.stamp.checked_add(self.reader.varint("stamp").ok()?)?;
        let body = self.reader.bytes(MAX_EVENT as usize, "body").ok()?;
        let event = RunEvent { seq: self.seq, stamp, body };
        (self.stamp, self.seq) = (stamp, self.seq.saturating_add(1));
        Some(event)
    }
}

/// Makes a run.
#[derive(Debug)]
pub struct RunBuilder {
    producer: ProducerId,
    incarnation: u64,
    seq: u64,
    base: u64,
    stamp: u64,
    count: u32,
    entries: Vec<u8>,
}

impl RunBuilder {
    /// An empty run whose first event will be `first`, accepted at `stamp`.
    pub const fn new(first: EventId, stamp: u64) -> Self {
        let EventId { producer, incarnation, seq, .. } = first;
        Self { producer, incarnation, seq, base: stamp, stamp, count: 0, entries: Vec::new() }
    }

    /// Appends an event; false, and nothing happens, if it does not follow: another producer or life, a gap
    /// in the sequence, an earlier stamp, or the run is full.
    pub fn push(&mut self, id: EventId, stamp: u64, body: &[u8]) -> bool {
        let next = self.seq.checked_add(self.count.into());
        let follows = (id.producer, id.incarnation) == (self.producer, self.incarnation)
            && next == Some(id.seq)
            && self.count < MAX_RUN;
        let Some(delta) = stamp.checked_sub(self.stamp).filter(|_| follows) else { return false };
        for number in [delta, body.len() as u64] {
            let (bytes, len) = crate::codec::varint_bytes(number);
            self.entries.extend_from_slice(&bytes[..len]);
        }
        self.entries.extend_from_slice(body);
        self.stamp = stamp;
        self.count += 1;
        true
    }

    /// Bytes of the entries so far.
    pub const fn bytes(&self) -> usize {
        self.entries.len()
    }

    /// The run.
    pub fn finish(self) -> Run {
        let Self { producer, incarnation, seq, base, count, entries, .. } = self;
        Run { producer, incarnation, seq, stamp: base, count, entries: entries.into() }
    }
}

impl Wire for Run {
    const NAME: &'static str = "bus-run";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let producer = ProducerId(r.u64("producer")?);
        let incarnation = r.u64("incarnation")?;
        let seq = r.varint("sequence")?;
        let stamp = r.u64("stamp")?;
        let value = r.varint("count")?;
        let limit = u64::from(MAX_RUN);
        if value > limit {
            return Err(DecodeError::TooLarge { what: "count", value, limit });
        }
        let count = value as u32;
        let entries = r.bytes(usize::MAX, "entries")?;
        let run = Self { producer, incarnation, seq, stamp, count, entries: Bytes::new() };
        let mut events = RunEvents { reader: Reader::new(entries), seq, stamp, left: count };
        if events.by_ref().count() != value as usize || !events.reader.is_empty() || count == 0 {
            return Err(DecodeError::Invalid("entries"));
        }
        Ok(Self { entries: Bytes::copy_from_slice(entries), ..run })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.u64(self.producer.0)?;
        w.u64(self.incarnation)?;
        w.varint(self.seq)?;
        w.u64(self.stamp)?;
        w.varint(self.count.into())?;
        w.bytes(&self.entries)
    }
}

/// Where a reader stands in a shard; `None`: before the oldest.
pub type From = (Shard, Option<Position>);

/// What goes over a lane. `docs/protocol/bus-mesh.md` has the bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// Keep these events.
    Append {
        /// The writer's number of its link.
        link: u64,
        /// The shard.
        shard: Shard,
        /// Number of the first event in the writer's counting.
        first: u64,
        /// The events.
        run: Run,
    },
    /// Everything up to this number is kept.
    Appended {
        /// The writer's link.
        link: u64,
        /// Number of the last event.
        upto: u64,
    },
    /// The link is over.
    Failed {
        /// The writer's link.
        link: u64,
        /// Why.
        why: Why,
    },
    /// Give events.
    Read {
        /// The reader's number.
        call: u64,
        /// Most events of a shard.
        events: u32,
        /// Most bytes of entries, all shards together; the event that passes it is the last.
        bytes: u32,
        /// If there are none: answer when there are.
        wait: bool,
        /// Where the reader stands.
        from: Vec<From>,
    },
    /// The reader waits no more.
    Cancel {
        /// Its number.
        call: u64,
    },
    /// Where do the shards end?
    Ask {
        /// The asker's number.
        call: u64,
    },
    /// Events for a reader.
    Part {
        /// Its number.
        call: u64,
        /// The shard.
        shard: Shard,
        /// Events that are gone: after the first position, up to the second.
        lost: Option<(Position, Position)>,
        /// More are here already.
        more: bool,
        /// Position of the first event.
        at: Position,
        /// The events; `None` if only the loss is told.
        run: Option<Run>,
    },
    /// The answer to a reader is complete.
    Done {
        /// Its number.
        call: u64,
    },
    /// The ends of all shards that hold, or held, anything.
    Ends {
        /// The asker's number.
        call: u64,
        /// Shard and position of its newest event.
        ends: Vec<(Shard, Position)>,
    },
    /// No answer.
    Refused {
        /// The number of the call.
        call: u64,
        /// Why.
        why: Why,
    },
}

/// Why something was not done. The number goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// No association with the node.
    #[error("no connection to the node that keeps the events")]
    NotConnected,
    /// The association ended; what was under way may have been done.
    #[error("the connection to the node that keeps the events ended")]
    Down,
    /// The node has no event bus.
    #[error("the node keeps no events: it was started without that plane")]
    NoPlane,
    /// It keeps no events of this name.
    #[error("the node keeps no events of this name")]
    NoTopic,
    /// This node may not do that.
    #[error("the node that keeps the events does not allow it")]
    NotAllowed,
    /// An event is longer than what the node takes, or a shard is above its number of shards.
    #[error("above the limits of the node that keeps the events")]
    Limit,
    /// Too many lanes, links, calls or writers.
    #[error("too many at once for the node that keeps the events")]
    Full,
    /// A reader stands where nothing was written yet.
    #[error("the cursor lies ahead of the events")]
    Ahead,
    /// The name is in use on this node.
    #[error("this node keeps events of this name already")]
    Exists,
    /// The other side broke the protocol.
    #[error("protocol violation")]
    Violation,
}

impl Why {
    const ALL: [Self; 10] = [
        Self::NotConnected,
        Self::Down,
        Self::NoPlane,
        Self::NoTopic,
        Self::NotAllowed,
        Self::Limit,
        Self::Full,
        Self::Ahead,
        Self::Exists,
        Self::Violation,
    ];

    /// The number on the wire.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reason of a number; an unknown one is a violation.
    pub fn from_code(code: u16) -> Self {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(Self::Violation)
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let code = r.u8("reason")?;
        Self::ALL.get(usize::from(code)).copied().ok_or(DecodeError::Invalid("reason"))
    }
}

const APPEND: u8 = 1;
const APPENDED: u8 = 2;
const FAILED: u8 = 3;
const READ: u8 = 4;
const CANCEL: u8 = 5;
const ASK: u8 = 6;
const PART: u8 = 7;
const DONE: u8 = 8;
const ENDS: u8 = 9;
const REFUSED: u8 = 10;

/// Bits of a part's flags.
const LOST: u8 = 1;
const MORE: u8 = 2;
const RUN: u8 = 4;

fn shard(r: &mut Reader<'_>) -> Result<Shard, DecodeError> {
    let shard = r.u16("shard")?;
    if shard < MAX_SHARDS { Ok(shard) } else { Err(DecodeError::Invalid("shard")) }
}

fn position(r: &mut Reader<'_>) -> Result<Position, DecodeError> {
    Ok(Position::new(r.u64("major")?, r.u64("minor")?))
}

fn put_position(w: &mut Writer<'_>, at: Position) -> Result<(), BufferTooSmall> {
    w.u64(at.major)?;
    w.u64(at.minor)
}

fn flag(r: &mut Reader<'_>, what: &'static str) -> Result<bool, DecodeError> {
    match r.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Invalid(what)),
    }
}

/// A list whose shards ascend, so that there is one form of it.
fn list<T>(
    r: &mut Reader<'_>,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<Vec<(Shard, T)>, DecodeError> {
    let value = r.varint("count")?;
    let limit = u64::from(MAX_SHARDS);
    if value > limit {
        return Err(DecodeError::TooLarge { what: "count", value, limit });
    }
    let mut items: Vec<(Shard, T)> = Vec::new();
    for _ in 0..value {
        let shard = shard(r)?;
        if items.last().is_some_and(|(last, _)| *last >= shard) {
            return Err(DecodeError::NotCanonical("shards"));
        }
        items.push((shard, item(r)?));
    }
    Ok(items)
}

impl Frame {
    /// Bytes of the encoding.
    pub fn size(&self) -> usize {
        1 + match self {
            Self::Append { run, .. } => 8 + 2 + 8 + run.size(),
            Self::Appended { .. } => 16,
            Self::Failed { .. } | Self::Refused { .. } => 9,
            Self::Read { from, .. } => {
                let each = |(_, at): &From| 3 + if at.is_some() { 16 } else { 0 };
                8 + 4 + 4 + 1 + varint_len(from.len() as u64) + from.iter().map(each).sum::<usize>()
            }
            Self::Cancel { .. } | Self::Ask { .. } | Self::Done { .. } => 8,
            Self::Part { lost, run, .. } => {
                8 + 2 + 1 + if lost.is_some() { 32 } else { 0 } + run.as_ref().map_or(0, |r| 16 + r.size())
            }
            Self::Ends { ends, .. } => 8 + varint_len(ends.len() as u64) + ends.len() * 18,
        }
    }
}

impl Wire for Frame {
    const NAME: &'static str = "bus-frame";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = r.u8("kind")?;
        let number = r.u64("number")?;
        let (link, call) = (number, number);
        Ok(match kind {
            APPEND => Self::Append { link, shard: shard(r)?, first: r.u64("first")?, run: Run::decode(r)? },
            APPENDED => Self::Appended { link, upto: r.u64("upto")? },
            FAILED => Self::Failed { link, why: Why::decode(r)? },
            READ => Self::Read {
                call,
                events: r.u32("events")?,
                bytes: r.u32("bytes")?,
                wait: flag(r, "wait")?,
                from: list(r, |r| Ok(if flag(r, "stands")? { Some(position(r)?) } else { None }))?,
            },
            CANCEL => Self::Cancel { call },
            ASK => Self::Ask { call },
            PART => {
                let shard = shard(r)?;
                let flags = r.u8("flags")?;
                if flags & !(LOST | MORE | RUN) != 0 || flags == 0 {
                    return Err(DecodeError::Invalid("flags"));
                }
                let lost = if flags & LOST != 0 { Some((position(r)?, position(r)?)) } else { None };
                let (at, run) = if flags & RUN != 0 {
                    (position(r)?, Some(Run::decode(r)?))
                } else {
                    (Position::START, None)
                };
                Self::Part { call, shard, lost, more: flags & MORE != 0, at, run }
            }
            DONE => Self::Done { call },
            ENDS => Self::Ends { call, ends: list(r, position)? },
            REFUSED => Self::Refused { call, why: Why::decode(r)? },
            kind => return Err(DecodeError::UnknownCritical(kind.into())),
        })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        let head = |w: &mut Writer<'_>, kind: u8, number: u64| {
            w.u8(kind)?;
            w.u64(number)
        };
        match self {
            Self::Append { link, shard, first, run } => {
                head(w, APPEND, *link)?;
                w.u16(*shard)?;
                w.u64(*first)?;
                run.encode(w)
            }
            Self::Appended { link, upto } => {
                head(w, APPENDED, *link)?;
                w.u64(*upto)
            }
            Self::Failed { link, why } => {
                head(w, FAILED, *link)?;
                w.u8(*why as u8)
            }
            Self::Read { call, events, bytes, wait, from } => {
                head(w, READ, *call)?;
                w.u32(*events)?;
                w.u32(*bytes)?;
                w.u8((*wait).into())?;
                w.varint(from.len() as u64)?;
                from.iter().try_for_each(|(shard, at)| {
                    w.u16(*shard)?;
                    w.u8(at.is_some().into())?;
                    at.map_or(Ok(()), |at| put_position(w, at))
                })
            }
            Self::Cancel { call } => head(w, CANCEL, *call),
            Self::Ask { call } => head(w, ASK, *call),
            Self::Part { call, shard, lost, more, at, run } => {
                head(w, PART, *call)?;
                w.u16(*shard)?;
                let bit = |on: bool, bit: u8| if on { bit } else { 0 };
                w.u8(bit(lost.is_some(), LOST) | bit(*more, MORE) | bit(run.is_some(), RUN))?;
                if let Some((after, upto)) = lost {
                    put_position(w, *after)?;
                    put_position(w, *upto)?;
                }
                if let Some(run) = run {
                    put_position(w, *at)?;
                    run.encode(w)?;
                }
                Ok(())
            }
            Self::Done { call } => head(w, DONE, *call),
            Self::Ends { call, ends } => {
                head(w, ENDS, *call)?;
                w.varint(ends.len() as u64)?;
                ends.iter().try_for_each(|(shard, at)| {
                    w.u16(*shard)?;
                    put_position(w, *at)
                })
            }
            Self::Refused { call, why } => {
                head(w, REFUSED, *call)?;
                w.u8(*why as u8)
            }
        }
    }
}

/// One frame of each kind, for tests and seeds.
#[doc(hidden)]
pub fn samples() -> Vec<Frame> {
    let id = |seq| EventId { producer: ProducerId(7), incarnation: 3, shard: 1, seq };
    let mut run = RunBuilder::new(id(5), 1_000);
    for (n, body) in [&b"one"[..], b"", &[9; 100]].into_iter().enumerate() {
        assert!(run.push(id(5 + n as u64), 1_000 + n as u64 * 70, body));
    }
    let run = run.finish();
    let at = Position::new(4, 17);
    alloc::vec![
        Frame::Append { link: 1 << 32, shard: 1, first: 9, run: run.clone() },
        Frame::Appended { link: 1 << 32, upto: 11 },
        Frame::Failed { link: 2, why: Why::Limit },
        Frame::Read {
            call: 3,
            events: 512,
            bytes: 1 << 20,
            wait: true,
            from: alloc::vec![(0, None), (3, Some(at))],
        },
        Frame::Cancel { call: 3 },
        Frame::Ask { call: 4 },
        Frame::Part { call: 3, shard: 3, lost: None, more: true, at, run: Some(run.part(1, 9, 9_000)) },
        Frame::Part {
            call: 3,
            shard: 0,
            lost: Some((Position::START, at)),
            more: false,
            at: Position::START,
            run: None,
        },
        Frame::Done { call: 3 },
        Frame::Ends { call: 4, ends: alloc::vec![(0, at), (1, Position::new(4, 1))] },
        Frame::Refused { call: 5, why: Why::NoTopic },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_frame_comes_back_and_knows_its_size() {
        for frame in samples() {
            let bytes = frame.to_vec();
            assert_eq!(bytes.len(), frame.size(), "{frame:?}");
            assert_eq!(Frame::decode_exact(&bytes), Ok(frame));
        }
        for (n, why) in Why::ALL.into_iter().enumerate() {
            assert_eq!((usize::from(why.code()), Why::from_code(n as u16)), (n, why));
        }
    }

    #[test]
    fn a_part_of_a_run_is_a_run() {
        let id = |seq| EventId { producer: ProducerId(7), incarnation: 3, shard: 0, seq };
        let mut builder = RunBuilder::new(id(10), 500);
        let events: Vec<(u64, u64, Vec<u8>)> = (0..40u8)
            .map(|n| (10 + u64::from(n), 500 + u64::from(n) * 31, alloc::vec![n; n.into()]))
            .collect();
        for (seq, stamp, body) in &events {
            assert!(builder.push(id(*seq), *stamp, body));
        }
        assert!(!builder.push(id(51), 9_999, b"a gap"));
        assert!(!builder.push(id(50), 1, b"earlier"));
        assert!(!builder.push(EventId { incarnation: 4, ..id(50) }, 9_999, b"another life"));
        let run = builder.finish();
        let seen = |run: &Run| run.events().map(|e| (e.seq, e.stamp, e.body.to_vec())).collect::<Vec<_>>();
        assert_eq!(seen(&run), events);
        for skip in 0..=40u32 {
            for most in [1, 3, 40] {
                let part = run.part(skip, most, usize::MAX);
                let end = events.len().min((skip + most) as usize);
                assert_eq!(seen(&part), events[skip as usize..end]);
                assert!(part.is_empty() || Run::decode_exact(&part.to_vec()) == Ok(part));
            }
        }
        assert_eq!(run.part(30, 40, 50).len(), 1, "one goes whatever its length");
        assert_eq!(run.part(0, 40, 50).len(), 8);
    }

    proptest! {
        #[test]
        fn canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 1u8..12) {
            let mut framed = alloc::vec![kind];
            framed.extend(&bytes);
            crate::codec::check_canonical::<Frame>(&framed);
            crate::codec::check_canonical::<Run>(&bytes);
        }
    }
}
