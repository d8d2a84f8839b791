//! The receiving half of a stream: reassembly, duplicates, and the chunk that the port takes.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::api::{FrameError, Tally, Violation};
use super::message::{Mode, charge};
use super::window::Window;
use crate::bounded::{Inserted, RangeSet};
use crate::codec::{DecodeError, Reader, varint_bytes};

/// Gaps in what arrived; a frame that would make one more is refused.
pub(super) const GAPS: usize = 256;
/// Messages of a fire-and-forget stream that are reassembled at once; the oldest gives way.
const PARTIALS_ONCE: usize = 8;
/// Gaps in the numbers of a fire-and-forget stream that late messages may still fill; the oldest goes.
const LATE_GAPS: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    /// `stop` was called: what comes is dropped.
    Stopped,
    /// Nothing more comes.
    Done,
}

#[derive(Debug)]
struct Segment {
    start: u64,
    data: Vec<u8>,
}

impl Segment {
    fn end(&self) -> u64 {
        self.start + self.data.len() as u64
    }
}

#[derive(Debug)]
struct Partial {
    number: u64,
    got: RangeSet,
    data: Vec<u8>,
}

/// The two ends of a stream's life that FIN and RESET tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub size: u64,
    pub charge: u64,
}

/// What the frame did to credit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Effect {
    /// Newly charged.
    pub received: u64,
    /// Of this, or of earlier charges: will never be drained by the application.
    pub gone: u64,
    /// Late messages delivered although their charge counts as drained.
    pub late: u64,
}

#[derive(Debug)]
pub(super) struct RecvHalf {
    mode: Mode,
    pub state: State,
    pub window: Window,
    max_message: u64,
    ready: Vec<u8>,
    /// Bytes of `ready` that are whole messages.
    whole: usize,
    /// Reliable: where the next header is, and the end of a message that is not whole yet.
    scan: usize,
    pending: usize,
    /// Number of the first message in `ready`, and of the next one to become whole.
    first: u64,
    pub next: u64,
    /// Reliable: bytes in order so far.
    offset: u64,
    segments: VecDeque<Segment>,
    /// Charge that bytes behind a gap stand for at least; counted against the session.
    pub ahead: u64,
    /// Unordered: numbers delivered. Fire-and-forget: numbers missed.
    numbers: RangeSet,
    partials: Vec<Partial>,
    /// Late messages whose drain must not count again.
    pub prepaid: u64,
    pub end: Option<End>,
    pub announced: bool,
    pub finished: bool,
    pub told: bool,
    pub missed: u64,
    pub arrived: Tally,
    pub grants: u64,
    spare: Vec<Vec<u8>>,
}

fn frame<T>(result: Result<T, DecodeError>) -> Result<T, FrameError> {
    result.map_err(|_| FrameError::Violation(Violation::Frame))
}

const FLOW: FrameError = FrameError::Violation(Violation::FlowControl);
const FINAL: FrameError = FrameError::Violation(Violation::FinalSize);
const FRAME: FrameError = FrameError::Violation(Violation::Frame);
const LARGE: FrameError = FrameError::Violation(Violation::MessageTooLarge);

impl RecvHalf {
    pub const fn new(mode: Mode, window: Window, max_message: u64) -> Self {
        Self {
            mode,
            state: State::Open,
            window,
            max_message,
            ready: Vec::new(),
            whole: 0,
            scan: 0,
            pending: 0,
            first: 0,
            next: 0,
            offset: 0,
            segments: VecDeque::new(),
            ahead: 0,
            numbers: RangeSet::new(if matches!(mode, Mode::Unordered) { GAPS + 1 } else { LATE_GAPS + 1 }),
            partials: Vec::new(),
            prepaid: 0,
            end: None,
            announced: false,
            finished: false,
            told: false,
            missed: 0,
            arrived: Tally { messages: 0, bytes: 0 },
            grants: 0,
            spare: Vec::new(),
        }
    }

    pub const fn has_messages(&self) -> bool {
        self.whole > 0
    }

    /// Charged and neither drained nor known to be gone.
    pub const fn held(&self) -> u64 {
        self.window.received.saturating_sub(self.window.drained)
    }

    fn charge(&mut self, charge: u64, effect: &mut Effect) -> Result<(), FrameError> {
        self.window.received += charge;
        effect.received += charge;
        if self.window.received > self.window.limit { Err(FLOW) } else { Ok(()) }
    }

    /// Bytes of an ordered stream.
    pub fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<Effect, FrameError> {
        let mut effect = Effect::default();
        let end = offset + bytes.len() as u64;
        if self.end.is_some_and(|e| end > e.size) {
            return Err(FINAL);
        }
        if self.state != State::Open || end <= self.offset {
            return Ok(effect);
        }
        if offset > self.offset && !planted!(GapIgnored) {
            self.keep(offset, bytes)?;
        } else {
            self.append(&bytes[self.offset.saturating_sub(offset) as usize..], &mut effect)?;
            while self.segments.front().is_some_and(|s| s.start <= self.offset) {
                let Some(mut segment) = self.segments.pop_front() else { break };
                if let Some(bytes) = segment.data.get((self.offset - segment.start) as usize..) {
                    self.append(bytes, &mut effect)?;
                }
                if self.spare.len() < 8 {
                    segment.data.clear();
                    self.spare.push(segment.data);
                }
            }
        }
        self.look_ahead()?;
        self.finish_if_complete()?;
        Ok(effect)
    }

    /// The charge that the highest byte proves: framing adds at most one byte in 32 to the charge.
    fn look_ahead(&mut self) -> Result<(), FrameError> {
        let Some(last) = self.segments.back() else {
            self.ahead = 0;
            return Ok(());
        };
        let rest = self.pending.saturating_sub(self.ready.len()) as u64;
        let bytes = last.end().saturating_sub(self.offset).saturating_sub(rest);
        self.ahead = bytes - bytes.div_ceil(33);
        if self.window.received + self.ahead > self.window.limit { Err(FLOW) } else { Ok(()) }
    }

    fn append(&mut self, bytes: &[u8], effect: &mut Effect) -> Result<(), FrameError> {
        self.ready.extend_from_slice(bytes);
        self.offset += bytes.len() as u64;
        loop {
            if self.pending > 0 {
                if self.ready.len() < self.pending {
                    return Ok(());
                }
                let header = 1usize << (self.ready[self.scan] >> 6);
                let bytes = (self.pending - self.scan).saturating_sub(header) as u64;
                (self.scan, self.whole) = (self.pending, self.pending);
                self.pending = 0;
                self.next += 1;
                self.arrived.add(Tally { messages: 1, bytes });
            }
            let rest = &self.ready[self.scan..];
            let Some(first) = rest.first() else { return Ok(()) };
            let header = 1usize << (first >> 6);
            if rest.len() < header {
                return Ok(());
            }
            let len = frame(Reader::new(rest).varint("message length"))?;
            if len > self.max_message {
                return Err(LARGE);
            }
            self.charge(charge(len as usize), effect)?;
            self.pending = self.scan + header + len as usize;
        }
    }

    /// Keeps bytes that lie behind a gap; only what is new of them.
    fn keep(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FrameError> {
        let end = offset + bytes.len() as u64;
        // Judge first: a refused frame changes nothing.
        let rest = self.pending.saturating_sub(self.ready.len()) as u64;
        let credit = self.window.limit.saturating_sub(self.window.received);
        if end - self.offset > rest + credit + credit / 32 {
            return Err(FLOW);
        }
        let mut at = offset;
        let mut index = self.segments.partition_point(|s| s.end() < offset);
        while at < end {
            let until = match self.segments.get(index) {
                Some(s) if s.start <= at => {
                    if s.end() > at {
                        at = s.end().min(end);
                        continue;
                    }
                    // It ends exactly here: grow it up to its successor.
                    let until = self.segments.get(index + 1).map_or(end, |n| n.start.min(end));
                    if until > at {
                        let from = (at - offset) as usize..(until - offset) as usize;
                        if let Some(s) = self.segments.get_mut(index) {
                            s.data.extend_from_slice(&bytes[from]);
                        }
                        at = until;
                    }
                    index += 1;
                    continue;
                }
                Some(s) => s.start.min(end),
                None => end,
            };
            if self.segments.len() >= GAPS {
                return Err(FrameError::Drop);
            }
            let mut data = self.spare.pop().unwrap_or_default();
            data.extend_from_slice(&bytes[(at - offset) as usize..(until - offset) as usize]);
            self.segments.insert(index, Segment { start: at, data });
            at = until;
        }
        Ok(())
    }

    fn deliver(&mut self, number: u64, payload: &[u8]) {
        let (n, n_len) = varint_bytes(number);
        let (l, l_len) = varint_bytes(payload.len() as u64);
        self.ready.extend_from_slice(&n[..n_len]);
        self.ready.extend_from_slice(&l[..l_len]);
        self.ready.extend_from_slice(payload);
        self.whole = self.ready.len();
        self.arrived.add(Tally { messages: 1, bytes: payload.len() as u64 });
    }

    fn message<'a>(&self, r: &mut Reader<'a>) -> Result<&'a [u8], FrameError> {
        r.bytes(self.max_message as usize, "message").map_err(|e| match e {
            DecodeError::TooLarge { .. } => LARGE,
            _ => FRAME,
        })
    }

    /// Whole messages of an unordered stream, the first with number `first`.
    pub fn unordered_run(&mut self, first: u64, run: &[u8]) -> Result<Effect, FrameError> {
        let mut effect = Effect::default();
        let mut r = Reader::new(run);
        let mut count = 0;
        while !r.is_empty() {
            self.message(&mut r)?;
            count += 1;
        }
        if self.end.is_some_and(|e| first + count > e.size) {
            return Err(FINAL);
        }
        if self.state != State::Open {
            return Ok(effect);
        }
        let range = first..first + count;
        // Only a run that overlaps what is known needs the old set; retransmission makes those.
        let overlaps = self.numbers.iter().rev().take_while(|k| k.end > first).any(|k| k.start < range.end);
        let known = (overlaps && !self.numbers.covers(&range)).then(|| self.numbers.clone());
        match self.numbers.insert(range) {
            Inserted::Known if !planted!(DedupSkipped) => return Ok(effect),
            Inserted::Full => return Err(FrameError::Drop),
            Inserted::Known | Inserted::New | Inserted::Part => {}
        }
        let mut r = Reader::new(run);
        for number in first..first + count {
            let payload = self.message(&mut r)?;
            if known.as_ref().is_some_and(|k| k.contains(number)) {
                continue;
            }
            // A message that began in fragments was charged with the first of them.
            if let Some(at) = self.partials.iter().position(|p| p.number == number) {
                self.partials.swap_remove(at);
            } else {
                self.charge(charge(payload.len()), &mut effect)?;
            }
            self.deliver(number, payload);
        }
        self.finish_if_complete()?;
        Ok(effect)
    }

    /// Part of one message of an unordered stream.
    pub fn unordered_fragment(
        &mut self,
        number: u64,
        total: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Effect, FrameError> {
        let mut effect = Effect::default();
        self.check_fragment(number, total, offset, bytes)?;
        if self.state != State::Open || self.numbers.contains(number) {
            return Ok(effect);
        }
        let index = match self.partials.iter().position(|p| p.number == number) {
            Some(index) => index,
            None => {
                if self.partials.len() >= GAPS || self.numbers.would_overflow(&(number..number + 1)) {
                    return Err(FrameError::Drop);
                }
                self.charge(charge(total as usize), &mut effect)?;
                self.begin(number, total)
            }
        };
        if self.fill(index, total, offset, bytes)? {
            if self.numbers.insert(number..number + 1) == Inserted::Full {
                return Err(FrameError::Drop);
            }
            self.complete(index);
            self.finish_if_complete()?;
        }
        Ok(effect)
    }

    fn check_fragment(&self, number: u64, total: u64, offset: u64, bytes: &[u8]) -> Result<(), FrameError> {
        if total > self.max_message {
            return Err(LARGE);
        }
        if offset + bytes.len() as u64 > total || (bytes.is_empty() && total > 0) {
            return Err(FRAME);
        }
        if self.end.is_some_and(|e| number >= e.size) { Err(FINAL) } else { Ok(()) }
    }

    fn begin(&mut self, number: u64, total: u64) -> usize {
        let mut data = self.spare.pop().unwrap_or_default();
        data.resize(total as usize, 0);
        self.partials.push(Partial { number, got: RangeSet::new(GAPS), data });
        self.partials.len() - 1
    }

    fn fill(&mut self, index: usize, total: u64, offset: u64, bytes: &[u8]) -> Result<bool, FrameError> {
        let Some(p) = self.partials.get_mut(index) else { return Ok(false) };
        if p.data.len() as u64 != total {
            return Err(FRAME);
        }
        let end = offset + bytes.len() as u64;
        if p.got.insert(offset..end) == Inserted::Full {
            return Err(FrameError::Drop);
        }
        if let Some(room) = p.data.get_mut(offset as usize..end as usize) {
            room.copy_from_slice(bytes);
        }
        Ok(p.got.covers(&(0..total)))
    }

    fn complete(&mut self, index: usize) {
        let mut p = self.partials.remove(index);
        self.deliver(p.number, &p.data);
        if self.spare.len() < 8 && p.data.capacity() <= 64 << 10 {
            p.data.clear();
            self.spare.push(p.data);
        }
    }

    /// Moves the fire-and-forget counters up to `number` and `charge`; what lies between is missed.
    fn skip(&mut self, number: u64, charge: u64, effect: &mut Effect) -> Result<(), FrameError> {
        let known = self.window.received;
        let gap = charge.checked_sub(known).ok_or(FRAME)?;
        if (number - self.next).checked_mul(64).is_none_or(|least| least > gap)
            || (number == self.next) != (gap == 0)
        {
            return Err(FRAME);
        }
        if gap > 0 {
            self.charge(gap, effect)?;
            effect.gone += gap;
            self.missed += number - self.next;
            if self.numbers.len() >= LATE_GAPS {
                self.numbers.pop_first();
            }
            self.numbers.insert(self.next..number);
            self.next = number;
        }
        Ok(())
    }

    /// Whole fire-and-forget messages; `charged` is the sum of all charges before the first.
    /// `late_room` is what late messages may still take.
    pub fn once_run(
        &mut self,
        first: u64,
        charged: u64,
        run: &[u8],
        late_room: u64,
    ) -> Result<Effect, FrameError> {
        let mut effect = Effect::default();
        if self.state != State::Open || self.end.is_some() {
            return Ok(effect);
        }
        let fresh = first >= self.next;
        if fresh {
            self.skip(first, charged, &mut effect)?;
        }
        let mut r = Reader::new(run);
        let mut number = first;
        while !r.is_empty() {
            let payload = self.message(&mut r)?;
            let size = charge(payload.len());
            if fresh {
                self.charge(size, &mut effect)?;
                self.next = number + 1;
                self.deliver(number, payload);
            } else if self.numbers.contains(number) && effect.late + size <= late_room {
                self.fill_gap(number);
                effect.late += size;
                self.deliver(number, payload);
            }
            number += 1;
        }
        self.prepaid += effect.late;
        Ok(effect)
    }

    fn fill_gap(&mut self, number: u64) {
        self.numbers.remove(number..number + 1);
        if self.numbers.len() > LATE_GAPS {
            self.numbers.pop_first();
        }
        self.missed = self.missed.saturating_sub(1);
    }

    /// Part of one fire-and-forget message.
    pub fn once_fragment(
        &mut self,
        number: u64,
        charged: u64,
        total: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Effect, FrameError> {
        let mut effect = Effect::default();
        if self.state != State::Open || self.end.is_some() {
            return Ok(effect);
        }
        self.check_fragment(number, total, offset, bytes)?;
        let size = charge(total as usize);
        let index = if let Some(index) = self.partials.iter().position(|p| p.number == number) {
            index
        } else {
            // A message whose first fragment comes after a newer message counts as missed already.
            if number < self.next {
                return Ok(effect);
            }
            self.skip(number, charged, &mut effect)?;
            self.charge(size, &mut effect)?;
            self.next = number + 1;
            if self.partials.len() >= PARTIALS_ONCE {
                self.abandon(0, &mut effect);
            }
            self.begin(number, total)
        };
        match self.fill(index, total, offset, bytes) {
            Ok(true) => self.complete(index),
            Ok(false) => {}
            Err(FrameError::Drop) => self.abandon(index, &mut effect),
            Err(e) => return Err(e),
        }
        Ok(effect)
    }

    fn abandon(&mut self, index: usize, effect: &mut Effect) {
        let p = self.partials.remove(index);
        effect.gone += charge(p.data.len());
        self.missed += 1;
    }

    /// Fire-and-forget: nothing below `number` comes any more.
    pub fn sync(&mut self, number: u64, charged: u64) -> Result<Effect, FrameError> {
        let mut effect = Effect::default();
        if self.state != State::Open || self.end.is_some() {
            return Ok(effect);
        }
        if number > self.next {
            self.skip(number, charged, &mut effect)?;
        }
        while let Some(at) = self.partials.iter().position(|p| p.number < number) {
            self.abandon(at, &mut effect);
        }
        Ok(effect)
    }

    /// FIN.
    pub fn fin(&mut self, end: End) -> Result<Effect, FrameError> {
        let mut effect = Effect::default();
        if self.end.is_some_and(|e| e != end) || end.charge < self.window.received {
            return Err(FINAL);
        }
        if end.charge > self.window.limit {
            return Err(FLOW);
        }
        if self.end.is_some() || self.state == State::Done {
            return Ok(effect);
        }
        let highest = match self.mode {
            Mode::Reliable => self.segments.back().map_or(self.offset, Segment::end),
            Mode::Unordered => {
                let partial = self.partials.iter().map(|p| p.number + 1).max().unwrap_or(0);
                partial.max(self.numbers.max().map_or(0, |n| n + 1))
            }
            Mode::FireAndForget => self.next,
        };
        if end.size < highest {
            return Err(FINAL);
        }
        if self.state == State::Stopped {
            return Ok(self.over(end.charge));
        }
        if self.mode == Mode::FireAndForget {
            effect = self.sync(end.size, end.charge)?;
        }
        self.end = Some(end);
        self.finish_if_complete()?;
        Ok(effect)
    }

    /// RESET, or FIN after `stop`: everything not taken is dropped and counts as drained.
    pub fn over(&mut self, charge: u64) -> Effect {
        let received = charge.saturating_sub(self.window.received);
        self.window.received += received;
        self.discard();
        self.state = State::Done;
        Effect { received, gone: self.held(), late: 0 }
    }

    /// Drops what is held.
    pub fn discard(&mut self) {
        self.ready = Vec::new();
        (self.whole, self.scan, self.pending, self.ahead, self.prepaid) = (0, 0, 0, 0, 0);
        self.segments = VecDeque::new();
        self.partials = Vec::new();
        self.spare = Vec::new();
    }

    fn finish_if_complete(&mut self) -> Result<(), FrameError> {
        let Some(end) = self.end else { return Ok(()) };
        let complete = match self.mode {
            Mode::Reliable => self.offset == end.size,
            Mode::Unordered => self.numbers.covers(&(0..end.size)),
            Mode::FireAndForget => true,
        };
        if complete {
            if self.window.received != end.charge || self.pending > 0 || self.scan < self.tail() {
                return Err(FINAL);
            }
            self.finished = true;
        }
        Ok(())
    }

    const fn tail(&self) -> usize {
        if matches!(self.mode, Mode::Reliable) { self.ready.len() } else { self.scan }
    }

    /// Swaps all whole messages out; `spare` becomes the next chunk, or stays where there are none.
    pub fn take(&mut self, spare: &mut Vec<u8>) -> Option<(Vec<u8>, u64)> {
        if self.whole == 0 {
            return None;
        }
        let mut spare = core::mem::take(spare);
        spare.clear();
        spare.extend_from_slice(&self.ready[self.whole..]);
        let mut chunk = core::mem::replace(&mut self.ready, spare);
        chunk.truncate(self.whole);
        self.scan = self.scan.saturating_sub(self.whole);
        self.pending = self.pending.saturating_sub(self.whole);
        self.whole = 0;
        let first = core::mem::replace(&mut self.first, self.next);
        self.announced = false;
        Some((chunk, first))
    }
}
