//! Events on disk until the engine has them: group-committed, replayed under their own names by the
//! next life, trimmed as they are acknowledged.
//!
//! ```text
//! Lock ─▶ List ─▶ (Open ─▶ Read)* ─▶ Ready: append, commit, rotate, remove ─▶ Over
//!   └───────┴────────┴───────┴──────────────────┴─────▶ Failed: nothing is promised any more
//! ```
//!
//! One commit is under way at a time; what comes meanwhile is the next one. An event is durable when
//! the `Sync` behind its `Write` has completed, and nothing is sent to the engine before that. So
//! what the engine has is a part of what was here.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use thiserror::Error;

use super::MAX_EVENT;
use super::crc::crc32c;
use super::id::{MAX_SHARDS, ProducerId, Shard};
use crate::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer};
use crate::storage::{StoreError, StoreOp, StoreResult, Stored, Ticket};

const MAGIC: &[u8; 8] = b"net obox";
const VERSION: u8 = 1;
/// Magic, version, producer, number of the segment, CRC-32C of all before.
const HEAD: usize = 8 + 1 + 8 + 8 + 4;
/// Kind, shard, incarnation, sequence, stamp.
const FIXED: usize = 1 + 2 + 8 + 8 + 8;
const EVENT: u8 = 1;
const ACK: u8 = 2;
/// Name of the file that is locked while an outbox is used.
pub const LOCK: &str = "outbox.lock";
const PREFIX: &str = "outbox-";
/// A segment grows by so many bytes of zeros: a sync that changes no length is cheaper.
const GROW: u64 = 1 << 20;
/// Bytes that wait for a commit before no more are taken.
pub const BUFFER: usize = 4 << 20;

/// Why an outbox cannot be used, or not any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// Another bus uses the directory.
    #[error("another bus uses this outbox")]
    InUse,
    /// A file is not whole, or something else, or of another producer.
    #[error("the outbox file `{file}` {why}; it is left untouched")]
    Damaged {
        /// The file.
        file: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Events of a shard wait that this bus does not have.
    #[error("the outbox holds events of shard {0}, which this bus does not have: raise `max_shards`")]
    NoShard(Shard),
    /// The storage failed.
    #[error("storage: {0}")]
    Store(#[from] StoreError),
}

/// A record: length of what follows the checksum, CRC-32C of it, then kind, shard, incarnation,
/// sequence, stamp and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// An event; otherwise an acknowledgement of all up to it, without stamp and body.
    pub event: bool,
    /// The shard.
    pub shard: Shard,
    /// Which life of the producer.
    pub incarnation: u64,
    /// The sequence.
    pub seq: u64,
    /// When it was accepted, nanoseconds since 1970.
    pub stamp: u64,
    /// The body.
    pub body: Vec<u8>,
}

fn put(out: &mut Vec<u8>, kind: u8, name: (Shard, u64, u64), stamp: u64, body: &[u8]) {
    let begin = out.len();
    let len = (FIXED + body.len()) as u32;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.push(kind);
    out.extend_from_slice(&name.0.to_le_bytes());
    out.extend_from_slice(&name.1.to_le_bytes());
    out.extend_from_slice(&name.2.to_le_bytes());
    out.extend_from_slice(&stamp.to_le_bytes());
    out.extend_from_slice(body);
    let crc = crc32c(out.get(begin + 8..).unwrap_or(&[]));
    if let Some(place) = out.get_mut(begin + 4..begin + 8) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
}

impl Wire for Record {
    const NAME: &'static str = "outbox-record";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = u64::from(r.u32("length")?);
        let limit = FIXED as u64 + u64::from(MAX_EVENT);
        if value > limit {
            return Err(DecodeError::TooLarge { what: "length", value, limit });
        }
        let crc = r.u32("check")?;
        let rest = r.take(value as usize, "record")?;
        if crc32c(rest) != crc {
            return Err(DecodeError::Invalid("check"));
        }
        let mut r = Reader::new(rest);
        let event = match r.u8("kind")? {
            EVENT => true,
            ACK => false,
            kind => return Err(DecodeError::UnknownCritical(kind.into())),
        };
        let shard = r.u16("shard")?;
        let (incarnation, seq, stamp) = (r.u64("incarnation")?, r.u64("sequence")?, r.u64("stamp")?);
        let body = r.rest().to_vec();
        if shard >= MAX_SHARDS || !event && (stamp != 0 || !body.is_empty()) {
            return Err(DecodeError::Invalid("record"));
        }
        Ok(Self { event, shard, incarnation, seq, stamp, body })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        let mut out = Vec::new();
        let kind = if self.event { EVENT } else { ACK };
        put(&mut out, kind, (self.shard, self.incarnation, self.seq), self.stamp, &self.body);
        w.put(&out)
    }
}

/// What an operation under way is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Lock,
    List,
    Open(u64),
    Read(u64),
    /// A part of a commit that needs no more than success.
    Part,
    /// The end of a commit.
    Synced,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Recovering,
    Replaying,
    Ready,
    Failed,
}

/// Names in a row: events from number `at` on are (incarnation, sequence and up).
#[derive(Clone, Copy, Debug)]
struct Run {
    at: u64,
    incarnation: u64,
    seq: u64,
}

/// The machine.
#[derive(Debug)]
pub struct Outbox {
    producer: ProducerId,
    segment_bytes: u64,
    phase: Phase,
    error: Option<OutboxError>,
    ops: VecDeque<(Ticket, StoreOp)>,
    pending: BTreeMap<Ticket, What>,
    next_ticket: u64,
    /// Numbers of segments that are to be read.
    unread: VecDeque<u64>,
    /// Events that are to be replayed, with their segments.
    replay: VecDeque<(u64, Record)>,
    /// Per segment the last number of each shard in it.
    segments: BTreeMap<u64, BTreeMap<Shard, u64>>,
    current: u64,
    /// Bytes of the current segment; 0: not created.
    written: u64,
    /// The same, with the zeros behind them.
    grown: u64,
    buffer: Vec<u8>,
    /// The last number of each shard in the buffer, and in the commit under way.
    buffered: BTreeMap<Shard, u64>,
    committing: Option<BTreeMap<Shard, u64>>,
    durable: VecDeque<(Shard, u64)>,
    runs: BTreeMap<Shard, VecDeque<Run>>,
    acked: BTreeMap<Shard, u64>,
    /// Acknowledgements that are to be written with the next commit.
    dirty: BTreeMap<Shard, (u64, u64)>,
    /// Everything up to here was removed when it was acknowledged.
    finishing: bool,
    commits: u64,
}

fn name(number: u64) -> String {
    alloc::format!("{PREFIX}{number:016x}")
}

fn number(name: &str) -> Option<u64> {
    let hex = name.strip_prefix(PREFIX).filter(|hex| hex.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()
}

impl Outbox {
    /// An outbox of this producer. A segment ends when it has `segment_bytes`.
    pub fn new(producer: ProducerId, segment_bytes: u64) -> Self {
        let mut outbox = Self {
            producer,
            segment_bytes,
            phase: Phase::Recovering,
            error: None,
            ops: VecDeque::new(),
            pending: BTreeMap::new(),
            next_ticket: 0,
            unread: VecDeque::new(),
            replay: VecDeque::new(),
            segments: BTreeMap::new(),
            current: 1,
            written: 0,
            grown: 0,
            buffer: Vec::new(),
            buffered: BTreeMap::new(),
            committing: None,
            durable: VecDeque::new(),
            runs: BTreeMap::new(),
            acked: BTreeMap::new(),
            dirty: BTreeMap::new(),
            finishing: false,
            commits: 0,
        };
        outbox.ask(What::Lock, StoreOp::Open { file: LOCK.into(), exclusive: true });
        outbox
    }

    fn ask(&mut self, what: What, op: StoreOp) {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.pending.insert(ticket, what);
        self.ops.push_back((ticket, op));
    }

    fn fail(&mut self, error: OutboxError) {
        self.phase = Phase::Failed;
        self.ops.clear();
        self.pending.clear();
        self.error.get_or_insert(error);
    }

    /// The next operation, if one is due.
    #[must_use]
    pub fn poll_store(&mut self) -> Option<(Ticket, StoreOp)> {
        if self.ops.is_empty() {
            self.commit();
        }
        self.ops.pop_front()
    }

    /// The result of the operation under `ticket`. Results of others are ignored.
    pub fn handle_stored(&mut self, ticket: Ticket, result: StoreResult) {
        let Some(what) = self.pending.remove(&ticket) else { return };
        let stored = match result {
            Ok(stored) => stored,
            Err(StoreError::Locked) if what == What::Lock => return self.fail(OutboxError::InUse),
            Err(error) => return self.fail(error.into()),
        };
        match (what, stored) {
            (What::Lock, _) => self.ask(What::List, StoreOp::List),
            (What::List, Stored::Names(names)) => {
                self.unread = names.iter().filter_map(|name| number(name)).collect();
                self.current = self.unread.back().map_or(1, |last| last.saturating_add(1));
                self.read_next();
            }
            (What::Open(number), Stored::Opened { len }) => {
                self.ask(What::Read(number), StoreOp::Read { file: name(number), offset: 0, len });
            }
            (What::Read(number), Stored::Data(bytes)) => match self.recover(number, &bytes) {
                Ok(()) => self.read_next(),
                Err(why) => self.fail(OutboxError::Damaged { file: name(number), why }),
            },
            (What::Synced, _) => {
                self.commits += 1;
                self.durable.extend(self.committing.take().unwrap_or_default());
                self.remove();
            }
            (What::Part | What::Removed, _) => {}
            // The storage answered something else than was asked.
            _ => self.fail(StoreError::Io.into()),
        }
    }

    fn read_next(&mut self) {
        match self.unread.pop_front() {
            Some(number) => {
                let open = StoreOp::Open { file: name(number), exclusive: false };
                self.ask(What::Open(number), open);
            }
            None => self.phase = Phase::Replaying,
        }
    }

    /// Reads a segment: its events wait for replay, unless they are acknowledged.
    fn recover(&mut self, number: u64, bytes: &[u8]) -> Result<(), &'static str> {
        let last = self.unread.is_empty();
        self.segments.insert(number, BTreeMap::new());
        let head = head(self.producer, number);
        let Some(mut rest) = bytes.strip_prefix(head.as_slice()) else {
            // The power failed before the head was there: nothing in it was ever promised.
            let torn = bytes.len() < HEAD || bytes.iter().all(|b| *b == 0);
            if !last || !torn {
                return Err("is not a segment of this producer's outbox");
            }
            self.segments.remove(&number);
            self.ask(What::Removed, StoreOp::Remove { file: name(number) });
            return Ok(());
        };
        while !rest.is_empty() {
            let mut r = Reader::new(rest);
            let Ok(record) = Record::decode(&mut r) else {
                // The end, or a write that was cut off. Only the last segment was being written.
                if rest.iter().all(|b| *b == 0) {
                    break;
                }
                if !last {
                    return Err("has a damaged record");
                }
                // Cut, so that later lives, for which it is not the last, find it whole.
                let len = (bytes.len() - rest.len()) as u64;
                self.ask(What::Part, StoreOp::Truncate { file: name(number), len });
                break;
            };
            rest = r.rest();
            if record.event {
                self.replay.push_back((number, record));
            } else {
                let ack = (record.incarnation, record.seq);
                self.replay.retain(|(_, e)| e.shard != record.shard || (e.incarnation, e.seq) > ack);
            }
        }
        if last && planted!(OutboxTailDropped) {
            self.replay.pop_back();
        }
        if last {
            // A life that was killed may have left what no sync made durable. From here on it counts as that.
            self.ask(What::Part, StoreOp::Sync { file: name(number) });
        }
        Ok(())
    }

    /// After recovery: the next event to replay, in order. The caller appends it to its shard's log
    /// and tells the number there with [`Outbox::handle_replayed`].
    #[must_use]
    pub fn poll_replay(&mut self) -> Option<Record> {
        if self.phase != Phase::Replaying {
            return None;
        }
        match self.replay.front() {
            Some((_, record)) => {
                let mut record = record.clone();
                record.seq += if planted!(OutboxRenames) { 1_000 } else { 0 };
                Some(record)
            }
            None => {
                self.phase = Phase::Ready;
                self.remove();
                None
            }
        }
    }

    /// The event of [`Outbox::poll_replay`] has this number in its shard's log.
    pub fn handle_replayed(&mut self, at: u64) {
        let Some((segment, record)) = self.replay.pop_front() else { return };
        if let Some(last) = self.segments.get_mut(&segment) {
            last.insert(record.shard, at);
        }
        self.note(record.shard, at, record.incarnation, record.seq);
    }

    fn note(&mut self, shard: Shard, at: u64, incarnation: u64, seq: u64) {
        let runs = self.runs.entry(shard).or_default();
        let goes_on = runs.back().is_some_and(|r| r.incarnation == incarnation && r.seq + (at - r.at) == seq);
        if !goes_on {
            runs.push_back(Run { at, incarnation, seq });
        }
    }

    /// Whether more events may be appended now.
    pub fn has_room(&self) -> bool {
        self.phase == Phase::Ready && self.buffer.len() < BUFFER
    }

    /// Appends an event that has number `at` in its shard's log.
    pub fn append(&mut self, shard: Shard, at: u64, name: (u64, u64), stamp: u64, body: &[u8]) {
        put(&mut self.buffer, EVENT, (shard, name.0, name.1), stamp, body);
        self.buffered.insert(shard, at);
        self.note(shard, at, name.0, name.1);
    }

    /// The engine has everything of a shard up to number `upto`.
    pub fn handle_acked(&mut self, shard: Shard, upto: u64) {
        if self.acked.get(&shard).is_some_and(|acked| *acked >= upto) || upto == 0 {
            return;
        }
        self.acked.insert(shard, upto);
        if let Some(runs) = self.runs.get_mut(&shard) {
            while runs.get(1).is_some_and(|next| next.at <= upto) {
                runs.pop_front();
            }
            if let Some(run) = runs.front().filter(|run| run.at <= upto) {
                self.dirty.insert(shard, (run.incarnation, run.seq + (upto - run.at)));
            }
        }
        self.remove();
    }

    /// Forms a commit of what waits.
    fn commit(&mut self) {
        let nothing = self.buffer.is_empty() && (self.dirty.is_empty() || !self.finishing);
        if self.phase != Phase::Ready || !self.pending.is_empty() || nothing {
            return;
        }
        let mut data = Vec::new();
        if self.written >= self.segment_bytes {
            (self.current, self.written, self.grown) = (self.current + 1, 0, 0);
        }
        let file = name(self.current);
        if self.written == 0 {
            let open = StoreOp::Open { file: file.clone(), exclusive: false };
            self.ask(What::Part, open);
            data = head(self.producer, self.current);
        }
        // Acknowledgements first: they are of events before those in the buffer.
        for (shard, (incarnation, seq)) in core::mem::take(&mut self.dirty) {
            put(&mut data, ACK, (shard, incarnation, seq), 0, &[]);
        }
        data.append(&mut self.buffer);
        let offset = self.written;
        self.written += data.len() as u64;
        if self.written > self.grown {
            let upto = self.written.next_multiple_of(GROW).min(self.segment_bytes);
            self.grown = upto.max(self.written);
            data.resize((self.grown - offset) as usize, 0);
        }
        self.ask(What::Part, StoreOp::Write { file: file.clone(), offset, data });
        let file = if planted!(OutboxUnsynced) { LOCK.into() } else { file };
        self.ask(What::Synced, StoreOp::Sync { file });
        let last = core::mem::take(&mut self.buffered);
        self.segments.entry(self.current).or_default().extend(last.iter().map(|(s, at)| (*s, *at)));
        self.committing = Some(last);
    }

    /// Removes segments whose events the engine has.
    fn remove(&mut self) {
        if self.phase != Phase::Ready || self.committing.is_some() {
            return;
        }
        let spare = self.finishing && self.buffer.is_empty();
        let (acked, current) = (&self.acked, self.current);
        let done =
            |last: &BTreeMap<Shard, u64>| last.iter().all(|(s, at)| acked.get(s).is_some_and(|a| a >= at));
        // In order: an acknowledgement in a later segment is about events in earlier ones.
        let gone: Vec<u64> = self
            .segments
            .iter()
            .take_while(|(number, last)| (**number != current || spare) && done(last))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.segments.remove(&number);
            if number == current {
                (self.written, self.grown) = (0, 0);
                self.current += 1;
                self.dirty.clear();
            }
            self.ask(What::Removed, StoreOp::Remove { file: name(number) });
        }
    }

    /// No more is appended. What is acknowledged is noted or removed, so that the next life replays
    /// no more than it must.
    pub fn finish(&mut self) {
        self.finishing = true;
        self.remove();
    }

    /// Whether nothing is under way or waits to be.
    pub fn is_idle(&self) -> bool {
        let dirty = self.finishing && !self.dirty.is_empty();
        self.phase == Phase::Failed
            || self.ops.is_empty() && self.pending.is_empty() && self.buffer.is_empty() && !dirty
    }

    /// Whether recovery and replay are over.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    /// Why nothing is promised any more.
    pub const fn error(&self) -> Option<&OutboxError> {
        self.error.as_ref()
    }

    /// Events up to a number of a shard became durable.
    #[must_use]
    pub fn poll_durable(&mut self) -> Option<(Shard, u64)> {
        self.durable.pop_front()
    }

    /// Commits so far.
    pub const fn commits(&self) -> u64 {
        self.commits
    }
}

fn head(producer: ProducerId, number: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD);
    head.extend_from_slice(MAGIC);
    head.push(VERSION);
    head.extend_from_slice(&producer.0.to_le_bytes());
    head.extend_from_slice(&number.to_le_bytes());
    let crc = crc32c(&head);
    head.extend_from_slice(&crc.to_le_bytes());
    head
}

#[cfg(test)]
mod tests;
