//! Frames of streams as they leave.

use super::api::{Event, SentFrame};
use super::input::{kind, mode_byte};
use super::message::Mode;
use super::send::{self, At, Commit, Run};
use super::streams::Streams;
use super::table::{Stream, owed};
use crate::codec::{BufferTooSmall, Writer, varint_len};

/// Bytes of quantum per unit of priority; the usual 16 give 2,048 bytes a round.
const QUANTUM: i64 = 128;
/// A frame that would carry less than this and not the whole rest waits for the next packet.
const LEAST: u64 = 64;

type Record<'a> = &'a mut dyn FnMut(SentFrame) -> bool;

/// Writes one frame and records it; without both, the buffer is as before.
fn emit(
    w: &mut Writer<'_>,
    record: Record<'_>,
    sent: SentFrame,
    body: impl FnOnce(&mut Writer<'_>) -> Result<(), BufferTooSmall>,
) -> bool {
    let mark = w.used();
    if body(w).is_ok() && record(sent) {
        return true;
    }
    w.rewind(mark);
    false
}

/// Length prefix of bytes that are about to be copied, then room for them.
fn bytes<'a>(w: &'a mut Writer<'_>, len: u64) -> Result<&'a mut [u8], BufferTooSmall> {
    w.varint(len)?;
    w.reserve(len as usize)
}

impl Streams {
    /// Whether [`Self::write`] would write something now. Streams that wait for credit do not count.
    #[must_use]
    pub fn has_output(&self) -> bool {
        let owed = self.owed.data || self.owed.streams || self.owed.blocked;
        owed || !self.control.is_empty() || !self.active.is_empty()
    }

    /// Fills what is left of a packet: control frames first, then data by deficit round robin. `record`
    /// is told each frame and answers whether it could keep it; where it could not, nothing more is
    /// written. A packet needs [`MIN_ROOM`](super::MIN_ROOM) bytes of room to make progress for sure.
    pub fn write(&mut self, w: &mut Writer<'_>, record: &mut dyn FnMut(SentFrame) -> bool) {
        self.packets += 1;
        let room = w.room() as u64;
        if self.write_session(w, record) && self.write_control(w, record) {
            self.write_data(w, record, room);
        }
    }

    fn write_session(&mut self, w: &mut Writer<'_>, record: Record<'_>) -> bool {
        if self.owed.data {
            let limit = self.window.limit;
            let body = |w: &mut Writer<'_>| {
                w.u8(kind::MAX_DATA)?;
                w.varint(limit)
            };
            if !emit(w, record, SentFrame::MaxData(limit), body) {
                return false;
            }
            self.owed.data = false;
        }
        if self.owed.streams {
            let limit = self.max_streams;
            let body = |w: &mut Writer<'_>| {
                w.u8(kind::MAX_STREAMS)?;
                w.varint(limit)
            };
            if !emit(w, record, SentFrame::MaxStreams(limit), body) {
                return false;
            }
            self.owed.streams = false;
        }
        if self.owed.blocked {
            let (need, size) = self.need;
            let body = |w: &mut Writer<'_>| {
                w.u8(kind::DATA_BLOCKED)?;
                w.varint(need)?;
                w.varint(size)
            };
            if !emit(w, record, SentFrame::DataBlocked(need), body) {
                return false;
            }
            self.owed.blocked = false;
        }
        true
    }

    fn write_control(&mut self, w: &mut Writer<'_>, record: Record<'_>) -> bool {
        while let Some(&slot) = self.control.front() {
            if let Some(s) = self.table.get_mut(slot) {
                if !write_owed(s, self.packets, w, record) {
                    return false;
                }
                s.in_control = false;
            }
            self.control.pop_front();
        }
        true
    }

    fn write_data(&mut self, w: &mut Writer<'_>, record: Record<'_>, room: u64) {
        let mut wrote = false;
        while let Some(&slot) = self.active.front() {
            let Some(s) = self.table.get_mut(slot) else {
                self.active.pop_front();
                continue;
            };
            if s.deficit <= 0 {
                s.deficit += i64::from(s.priority) * QUANTUM;
                if s.deficit <= 0 {
                    self.active.rotate_left(1);
                    continue;
                }
            }
            let first_in_line = self.waiting.is_empty();
            let delivered = s.send.delivered;
            let before = w.used();
            if !s.known && !write_open(s, self.packets, w, record) {
                return;
            }
            let mut commit = |s: &mut Stream| s.send.commit(&mut self.credit, first_in_line);
            let ok = match s.mode {
                Mode::Reliable => write_ordered(s, w, record, &mut commit),
                Mode::Unordered | Mode::FireAndForget => {
                    write_messages(s, w, record, &mut commit, if wrote { room } else { 0 })
                }
            };
            if !ok {
                return;
            }
            wrote = true;
            s.deficit -= (w.used() - before) as i64;
            if s.send.grew_short() {
                self.events.push_back(Event::Wanting(s.name()));
            }
            let turn_over = s.deficit <= 0;
            if s.mode == Mode::FireAndForget {
                s.send.acked_to = s.send.sent;
                let spares = &mut self.spares;
                s.send.release(&mut |c| super::streams::spare(spares, c));
                let mut done = s.send.delivered;
                done.sub(delivered);
                self.left(done);
                self.progress(slot);
            }
            let Some(s) = self.table.get_mut(slot) else { continue };
            if !s.send.sendable() {
                self.active.pop_front();
                s.in_active = false;
                s.deficit = s.deficit.min(0);
                self.wake(slot);
                if self.control.front().is_some() && !self.write_control(w, record) {
                    return;
                }
            } else if turn_over {
                self.active.rotate_left(1);
            }
        }
    }
}

fn write_open(s: &mut Stream, packet: u64, w: &mut Writer<'_>, record: Record<'_>) -> bool {
    if s.known || s.opened_in == packet {
        return true;
    }
    let (id, mode, priority, label) = (s.id, mode_byte(s.mode), s.priority, s.label.as_bytes());
    let done = emit(w, record, SentFrame::Open(id), |w| {
        w.u8(kind::OPEN)?;
        w.varint(id)?;
        w.u8(mode)?;
        w.u8(priority)?;
        w.bytes(label)
    });
    if done {
        s.opened_in = packet;
        s.owed &= !owed::OPEN;
    }
    done
}

fn write_owed(s: &mut Stream, packet: u64, w: &mut Writer<'_>, record: Record<'_>) -> bool {
    if s.owed == 0 {
        return true;
    }
    // Everything about a stream that the peer may not know comes with its OPEN.
    if !write_open(s, packet, w, record) {
        return false;
    }
    let id = s.id;
    while s.owed != 0 {
        let bit = 1 << s.owed.trailing_zeros();
        let (charge, end) =
            (s.send.charged, if s.mode == Mode::Reliable { s.send.end } else { s.send.end_number });
        let ok = match bit {
            owed::FIN => emit(w, record, SentFrame::Fin(id), |w| {
                w.u8(kind::FIN)?;
                w.varint(id)?;
                w.varint(end)?;
                w.varint(charge)
            }),
            owed::RESET => {
                let send::State::Reset(code) = s.send.state else {
                    s.owed &= !bit;
                    continue;
                };
                emit(w, record, SentFrame::Reset(id), |w| {
                    w.u8(kind::RESET)?;
                    w.varint(id)?;
                    w.u16(code)?;
                    w.varint(charge)
                })
            }
            owed::STOP => emit(w, record, SentFrame::Stop(id), |w| {
                w.u8(kind::STOP)?;
                w.varint(id)?;
                w.u16(s.stop_code)
            }),
            owed::MAX => {
                let limit = s.recv.window.limit;
                emit(w, record, SentFrame::MaxStreamData(id, limit), |w| {
                    w.u8(kind::MAX_STREAM_DATA)?;
                    w.varint(id)?;
                    w.varint(limit)
                })
            }
            owed::BLOCKED => {
                let (need, size) = s.need;
                emit(w, record, SentFrame::StreamBlocked(id, need), |w| {
                    w.u8(kind::STREAM_BLOCKED)?;
                    w.varint(id)?;
                    w.varint(need)?;
                    w.varint(size)
                })
            }
            owed::SYNC => {
                let (number, charge) = s.send.sync;
                emit(w, record, SentFrame::Sync(id, number), |w| {
                    w.u8(kind::SYNC)?;
                    w.varint(id)?;
                    w.varint(number)?;
                    w.varint(charge)
                })
            }
            _ => true,
        };
        if !ok {
            return false;
        }
        s.owed &= !bit;
    }
    true
}

/// Room for `left` bytes behind `header` bytes and a length; `None` if that is too little to bother.
fn fit(w: &Writer<'_>, header: usize, left: u64) -> Option<u64> {
    let room = (w.room() as u64).checked_sub(header as u64 + 1)?;
    // The length takes two bytes from 64 on, four from 16,384 on.
    let room = match room {
        0..=63 => room,
        64..=16_384 => room - 1,
        _ => room - 3,
    };
    let n = left.min(room);
    (n == left || n >= LEAST).then_some(n)
}

fn write_ordered(
    s: &mut Stream,
    w: &mut Writer<'_>,
    record: Record<'_>,
    commit: &mut dyn FnMut(&mut Stream) -> Commit,
) -> bool {
    let again = s.send.lost.first();
    let start = again.as_ref().map_or(s.send.sent, |r| r.start);
    let header = 1 + varint_len(s.id) + varint_len(start);
    let left = match &again {
        Some(r) => r.end - r.start,
        None => {
            while s.send.committed - start < w.room() as u64 && commit(s) == Commit::Done {}
            s.send.committed - start
        }
    };
    let Some(n) = fit(w, header, left).filter(|n| *n > 0) else { return false };
    let (id, send) = (s.id, &s.send);
    let ok = emit(w, record, SentFrame::Data { id, start, len: n as u32 }, |w| {
        w.u8(kind::DATA)?;
        w.varint(id)?;
        w.varint(start)?;
        if send.copy(start, bytes(w, n)?) { Ok(()) } else { Err(BufferTooSmall) }
    });
    if !ok {
        return false;
    }
    if again.is_some() {
        s.send.lost.remove(start..start + n);
        s.send.retransmitted += n;
    } else {
        s.send.sent += n;
    }
    true
}

/// Frames of the two modes without order. `wait`: a message that fits so much room is not cut.
fn write_messages(
    s: &mut Stream,
    w: &mut Writer<'_>,
    record: Record<'_>,
    commit: &mut dyn FnMut(&mut Stream) -> Commit,
    wait: u64,
) -> bool {
    let again = s.send.lost.first();
    let once = s.mode == Mode::FireAndForget;
    let (start, end, at) = match &again {
        Some(r) => (r.start, r.end, s.send.find(r.start)),
        None => {
            while s.send.committed - s.send.sent < w.room() as u64 && commit(s) == Commit::Done {}
            (s.send.sent, s.send.committed, s.send.next_message())
        }
    };
    let Some(at) = at else { return false };
    let id = s.id;
    let charged = s.send.sent_charge;
    let header = 1 + varint_len(id) + varint_len(at.number) + if once { varint_len(charged) } else { 0 };
    if start == at.start {
        let room = fit(w, header, u64::MAX >> 2).unwrap_or(0);
        let run = s.send.run(start, end, room);
        if run.messages > 0 {
            return write_run(s, w, record, at, run, again.is_some());
        }
        if at.header + at.len + header as u64 + 4 <= wait {
            return false;
        }
    }
    // Part of a message; its length prefix counts as sent with its first byte.
    let body = at.start + at.header;
    let offset = start.saturating_sub(body);
    let left = end.min(at.end()) - body - offset;
    let header = header + varint_len(at.len) + varint_len(offset);
    let Some(n) = fit(w, header, left).filter(|n| *n > 0 || at.len == 0) else { return false };
    let to = body + offset + n;
    let done = to == at.end();
    let sent = if once {
        SentFrame::Once { id, next: at.number + 1, charge: charged + super::charge(at.len as usize) }
    } else {
        SentFrame::Data { id, start, len: (to - start) as u32 }
    };
    let send = &s.send;
    let ok = emit(w, record, sent, |w| {
        w.u8(if once { kind::ONCE_FRAGMENT } else { kind::FRAGMENT })?;
        w.varint(id)?;
        w.varint(at.number)?;
        if once {
            w.varint(charged)?;
        }
        w.varint(at.len)?;
        w.varint(offset)?;
        if send.copy(body + offset, bytes(w, n)?) { Ok(()) } else { Err(BufferTooSmall) }
    });
    if !ok {
        return false;
    }
    if again.is_some() {
        s.send.lost.remove(start..to);
        s.send.retransmitted += n;
        return true;
    }
    s.send.sent = to;
    s.send.inside = (!done).then_some(at);
    if done {
        s.send.sent_number += 1;
        s.send.sent_charge += super::charge(at.len as usize);
    }
    true
}

fn write_run(s: &mut Stream, w: &mut Writer<'_>, record: Record<'_>, at: At, run: Run, again: bool) -> bool {
    let (id, once, charged) = (s.id, s.mode == Mode::FireAndForget, s.send.sent_charge);
    let sent = if once {
        SentFrame::Once { id, next: at.number + run.messages, charge: charged + run.charge }
    } else {
        SentFrame::Data { id, start: at.start, len: run.bytes as u32 }
    };
    let send = &s.send;
    let ok = emit(w, record, sent, |w| {
        w.u8(if once { kind::ONCE_RUN } else { kind::RUN })?;
        w.varint(id)?;
        w.varint(at.number)?;
        if once {
            w.varint(charged)?;
        }
        if send.copy(at.start, bytes(w, run.bytes)?) { Ok(()) } else { Err(BufferTooSmall) }
    });
    if !ok {
        return false;
    }
    if again {
        s.send.lost.remove(at.start..at.start + run.bytes);
        s.send.retransmitted += run.bytes;
    } else {
        s.send.sent += run.bytes;
        s.send.sent_number += run.messages;
        s.send.sent_charge += run.charge;
    }
    true
}
