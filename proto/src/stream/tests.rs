//! Two machines joined by a pipe that loses, reorders and duplicates frames.

use alloc::collections::BTreeMap;
use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::codec::{Reader, Writer, check_canonical};
use crate::time::{Duration, Instant};

const RTT: Duration = Duration::from_millis(10);

struct Packet {
    from: usize,
    bytes: Vec<u8>,
    sent: Vec<SentFrame>,
    arrived: bool,
}

#[derive(Default)]
struct Got {
    messages: BTreeMap<u64, Vec<(u64, Vec<u8>)>>,
    finished: Vec<u64>,
    closed: Vec<(u64, Tally)>,
    opened: Vec<u64>,
    flushed: Vec<u64>,
}

struct Pair {
    ends: [Streams; 2],
    pools: [Pool; 2],
    got: [Got; 2],
    wire: Vec<Packet>,
    now: Instant,
    rng: u64,
    loss: u64,
    reading: [bool; 2],
    dropped: usize,
}

impl Pair {
    fn new(config: &Config, seed: u64, loss: u64) -> Self {
        let mut ends = [Streams::new(config, false), Streams::new(config, true)];
        let limits = [ends[0].local_limits(), ends[1].local_limits()];
        ends[0].set_peer_limits(limits[1]);
        ends[1].set_peer_limits(limits[0]);
        Self {
            ends,
            pools: [Pool::new(64 << 20), Pool::new(64 << 20)],
            got: Default::default(),
            wire: Vec::new(),
            now: Instant::ZERO + Duration::from_secs(1),
            rng: seed | 1,
            loss,
            reading: [true; 2],
            dropped: 0,
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng % below
    }

    fn check(&self) {
        for end in &self.ends {
            assert_eq!(end.invariants(), Ok(()));
        }
    }

    fn packet(&mut self, from: usize, room: usize) -> bool {
        if !self.ends[from].has_output() {
            return false;
        }
        let mut buf = std::vec![0; room];
        let mut w = Writer::new(&mut buf);
        let mut sent = Vec::new();
        self.ends[from].write(&mut w, &mut |f| {
            sent.push(f);
            sent.len() <= 40
        });
        let used = w.used();
        sent.truncate(40);
        assert!(used > 0, "output was promised");
        buf.truncate(used);
        self.wire.push(Packet { from, bytes: buf, sent, arrived: false });
        self.check();
        true
    }

    fn arrive(&mut self, index: usize) -> bool {
        let to = 1 - self.wire[index].from;
        let bytes = self.wire[index].bytes.clone();
        let mut r = Reader::new(&bytes);
        while !r.is_empty() {
            let kind = r.u8("kind").unwrap();
            match self.ends[to].handle_frame(self.now, kind, &mut r, &mut self.pools[to]) {
                Ok(()) => {}
                Err(FrameError::Drop) => {
                    self.dropped += 1;
                    return false;
                }
                Err(e) => panic!("{e:?} for a frame {kind:#x}"),
            }
            self.check();
        }
        true
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        for from in 0..2 {
            for _ in 0..8 {
                let room = 600 + self.draw(900) as usize;
                if !self.packet(from, room) {
                    break;
                }
            }
        }
        // Some of what is under way arrives, in any order, sometimes twice.
        for _ in 0..self.wire.len() {
            let index = self.draw(self.wire.len() as u64) as usize;
            let fate = self.draw(100);
            if fate < self.loss {
                // One in four only looked lost: its acknowledgement comes after all.
                let late = self.draw(4) == 0 && self.arrive(index);
                let p = self.wire.swap_remove(index);
                for f in &p.sent {
                    self.ends[p.from].on_lost(*f);
                    self.check();
                }
                for f in p.sent.iter().filter(|_| late) {
                    self.ends[p.from].on_acked(*f);
                    self.check();
                }
            } else if fate < 80 {
                if self.arrive(index) {
                    self.wire[index].arrived = true;
                    if self.draw(10) > 0 {
                        let p = self.wire.swap_remove(index);
                        for f in p.sent {
                            self.ends[p.from].on_acked(f);
                            self.check();
                        }
                    }
                } else {
                    let p = self.wire.swap_remove(index);
                    for f in p.sent {
                        self.ends[p.from].on_lost(f);
                    }
                }
            }
            if self.wire.is_empty() {
                break;
            }
        }
        self.events();
    }

    fn events(&mut self) {
        for end in 0..2 {
            let mut readable = Vec::new();
            while let Some(event) = self.ends[end].poll_event() {
                match event {
                    Event::Readable(id) => readable.push(id),
                    Event::Finished(id) => self.got[end].finished.push(id.0),
                    Event::Closed { id, lost } => self.got[end].closed.push((id.0, lost)),
                    Event::Opened { id, .. } => self.got[end].opened.push(id.0),
                    Event::Flushed { token } => self.got[end].flushed.push(token),
                    _ => {}
                }
            }
            if self.reading[end] {
                for id in readable {
                    self.read(end, id);
                }
            }
        }
    }

    fn read(&mut self, end: usize, id: StreamId) {
        let cost = self.take(end, id);
        self.ends[end].consumed(self.now, id, cost, RTT, &mut self.pools[end]);
        self.check();
    }

    /// Reads without reporting it; what it charges.
    fn take(&mut self, end: usize, id: StreamId) -> u64 {
        let Some(taken) = self.ends[end].take(id, &mut Vec::new()) else { return 0 };
        let mut cost = 0;
        let mut messages = Messages::received(&taken.chunk, taken.mode, taken.first);
        for (number, message) in messages.by_ref() {
            cost += charge(message.len());
            self.got[end].messages.entry(id.0).or_default().push((number, message.to_vec()));
        }
        assert!(messages.rest().is_empty());
        cost
    }

    fn stop(&mut self, end: usize, id: StreamId, code: u16) -> bool {
        self.ends[end].stop(id, code, &mut self.pools[end])
    }

    fn settle(&mut self) {
        for _ in 0..20_000 {
            self.step();
            if self.wire.is_empty() && !self.ends[0].has_output() && !self.ends[1].has_output() {
                return;
            }
        }
        panic!("never idle: {:?} under way", self.wire.len());
    }
}

fn message(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (number as usize * 31 + i) as u8).collect()
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..100, 3 => 0usize..3_000, 1 => 0usize..200_000]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_mode_keeps_its_promise(
        seed in any::<u64>(),
        loss in 0u64..25,
        plan in proptest::collection::vec((0u8..3, 0usize..2, proptest::collection::vec(size(), 0..30)), 1..6),
    ) {
        let mut pair = Pair::new(&Config::default(), seed, loss);
        let mut sent: Vec<(usize, StreamId, Mode, Vec<usize>)> = Vec::new();
        for (mode, from, sizes) in plan {
            let mode = [Mode::FireAndForget, Mode::Reliable, Mode::Unordered][mode as usize];
            let id = pair.ends[from].open("a stream", mode, 16).unwrap();
            for (number, chunk) in sizes.chunks(3).enumerate() {
                let mut bytes = Vec::new();
                for (i, len) in chunk.iter().enumerate() {
                    frame_message(&mut bytes, &message(number as u64 * 3 + i as u64, *len));
                }
                pair.ends[from].send(id, bytes).unwrap();
                pair.check();
                if pair.draw(2) == 0 {
                    pair.step();
                }
            }
            prop_assert!(pair.ends[from].flush(id, id.0));
            prop_assert!(pair.ends[from].finish(id));
            sent.push((from, id, mode, sizes));
        }
        pair.settle();
        for (from, id, mode, sizes) in &sent {
            let to = 1 - from;
            prop_assert!(pair.got[to].finished.contains(&id.0), "{:?} not finished", mode);
            prop_assert!(pair.got[*from].flushed.contains(&id.0));
            let mut got = pair.got[to].messages.remove(&id.0).unwrap_or_default();
            if *mode != Mode::Reliable {
                got.sort();
            }
            prop_assert!(got.windows(2).all(|w| w[0].0 < w[1].0), "twice");
            if *mode != Mode::FireAndForget {
                prop_assert_eq!(got.len(), sizes.len());
            }
            for (number, bytes) in got {
                prop_assert!(bytes == message(number, sizes[number as usize]), "bytes of {}", number);
            }
            // The other direction ends, and the stream is gone at both ends.
            prop_assert!(pair.ends[to].finish(*id));
        }
        pair.settle();
        for end in 0..2 {
            prop_assert_eq!(pair.ends[end].count(), 0, "{:?}", pair.ends[end].table.iter().next());
            prop_assert_eq!(pair.got[end].closed.len(), sent.len());
            prop_assert_eq!(pair.ends[end].window.received, pair.ends[end].window.drained);
            prop_assert_eq!(pair.ends[end].window.received, pair.ends[1 - end].credit.used);
            prop_assert_eq!(pair.ends[end].ledger().queued, Tally::default());
            let lost = pair.ends[end].close_all(&mut pair.pools[end]);
            prop_assert_eq!(lost, Tally::default());
            prop_assert_eq!(pair.pools[end].leased(), 0);
        }
    }

    #[test]
    fn resets_and_stops_leave_no_credit_behind(
        seed in any::<u64>(), loss in 0u64..20, steps in 0u64..20,
        how in proptest::collection::vec((0u8..3, 0u8..3), 1..6),
    ) {
        let mut pair = Pair::new(&Config::default(), seed, loss);
        let mut ids = Vec::new();
        for (mode, how) in how {
            let mode = [Mode::FireAndForget, Mode::Reliable, Mode::Unordered][mode as usize];
            let id = pair.ends[0].open("", mode, 16).unwrap();
            let mut bytes = Vec::new();
            for n in 0..60 {
                frame_message(&mut bytes, &message(n, 2_000));
            }
            pair.ends[0].send(id, bytes).unwrap();
            ids.push((id, how));
        }
        for _ in 0..steps {
            pair.step();
        }
        for (id, how) in &ids {
            match how {
                0 => { pair.ends[0].reset(*id, 7); pair.stop(0, *id, 9); }
                1 => { if !pair.stop(1, *id, 8) { pair.ends[0].reset(*id, 7); } pair.ends[1].reset(*id, 8); }
                _ => { pair.ends[0].finish(*id); pair.stop(0, *id, 9); }
            }
            pair.check();
        }
        pair.settle();
        for (id, _) in &ids {
            for end in 0..2 {
                pair.ends[end].reset(*id, 1);
                pair.stop(end, *id, 1);
            }
        }
        pair.settle();
        for end in 0..2 {
            prop_assert_eq!(pair.ends[end].count(), 0, "streams left at {}", end);
            prop_assert_eq!(pair.ends[end].window.received, pair.ends[end].window.drained);
            prop_assert_eq!(pair.ends[end].window.received, pair.ends[1 - end].credit.used);
            prop_assert!(pair.ends[end].ledger().balances());
        }
    }

    #[test]
    fn hostile_frames_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..200), open in any::<bool>()) {
        hostile(&bytes, open);
    }

    #[test]
    fn limits_are_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        check_canonical::<Limits>(&bytes);
    }
}

/// Feeds arbitrary bytes as frames; checks what must hold after each.
fn hostile(bytes: &[u8], open: bool) {
    let mut pool = Pool::new(1 << 20);
    let mut s = Streams::new(&Config::default(), true);
    s.set_peer_limits(Limits::default());
    if open {
        for mode in 0..3 {
            let frame = [mode * 2, mode, 16, 0];
            s.handle_frame(Instant::ZERO, 0x10, &mut Reader::new(&frame), &mut pool).unwrap();
            s.open("x", [Mode::FireAndForget, Mode::Reliable, Mode::Unordered][mode as usize], 16).unwrap();
        }
    }
    let mut r = Reader::new(bytes);
    while let Ok(kind) = r.u8("kind") {
        let kind = if Streams::handles(kind) { kind } else { 0x10 + kind % 13 };
        match s.handle_frame(Instant::ZERO, kind, &mut r, &mut pool) {
            Err(FrameError::Violation(_)) => return,
            _ => assert_eq!(s.invariants(), Ok(())),
        }
    }
}

#[test]
fn what_nobody_reads_stays_within_its_window_and_others_flow() {
    let mut pair = Pair::new(&Config::default(), 5, 0);
    pair.reading[1] = false;
    let stuck: Vec<_> = (0..20).map(|_| pair.ends[0].open("stuck", Mode::Reliable, 16).unwrap()).collect();
    for id in &stuck {
        let mut bytes = Vec::new();
        for n in 0..500 {
            frame_message(&mut bytes, &message(n, 1_000));
        }
        pair.ends[0].send(*id, bytes).unwrap();
    }
    pair.settle();
    for id in &stuck {
        let held = pair.ends[1].stats(*id).unwrap().inbound_pending;
        assert!(held > 30_000 && held <= 32 << 10, "{held}");
    }
    assert!(pair.ends[1].ceiling() <= (20 * 32 + 192) << 10, "{}", pair.ends[1].ceiling());
    pair.reading[1] = true;
    let free = pair.ends[0].open("free", Mode::Unordered, 16).unwrap();
    let mut bytes = Vec::new();
    for n in 0..500 {
        frame_message(&mut bytes, &message(n, 1_000));
    }
    pair.ends[0].send(free, bytes).unwrap();
    pair.settle();
    assert_eq!(pair.got[1].messages[&free.0].len(), 500);
}

#[test]
fn streams_without_end_are_refused_and_places_come_back() {
    let mut config = Config::default();
    config.local.streams = 8;
    let mut pair = Pair::new(&config, 5, 0);
    for round in 0..10 {
        let mut ids = Vec::new();
        while let Ok(id) = pair.ends[0].open("", Mode::Reliable, 16) {
            ids.push(id);
        }
        assert!(!ids.is_empty(), "round {round}");
        assert!(ids.len() <= 8);
        for id in &ids {
            assert!(pair.ends[0].finish(*id));
        }
        pair.settle();
        for id in &ids {
            assert!(pair.ends[1].finish(*id));
        }
        pair.settle();
        assert_eq!(pair.ends[1].count(), 0);
    }
    let mut r = Reader::new(&[0x41, 0xa8, 1, 16, 0]);
    let got = pair.ends[1].handle_frame(pair.now, 0x10, &mut r, &mut pair.pools[1]);
    assert_eq!(got, Err(FrameError::Violation(Violation::StreamLimit)));
}

#[test]
fn memory_that_is_offered_stays_with_the_caller_where_nothing_is_taken() {
    let mut pair = Pair::new(&Config::default(), 1, 0);
    pair.reading = [false; 2];
    let id = pair.ends[0].open("s", Mode::Reliable, 16).unwrap();
    let mut bytes = Vec::new();
    frame_message(&mut bytes, &message(0, 100));
    pair.ends[0].send(id, bytes).unwrap();
    pair.settle();
    let mut spare = Vec::with_capacity(1000);
    assert_eq!(pair.ends[1].take(StreamId(id.0 + 2), &mut spare).map(|t| t.chunk.len()), None);
    assert_eq!(spare.capacity(), 1000, "the stream is unknown");
    assert!(pair.ends[1].take(id, &mut spare).is_some());
    assert_eq!(spare.capacity(), 0, "the stream goes on with it");
    spare.reserve_exact(500);
    assert!(pair.ends[1].take(id, &mut spare).is_none());
    assert_eq!(spare.capacity(), 500, "there was nothing more");
}

#[test]
fn priority_scales_the_share_of_bytes() {
    let mut config = Config::default();
    config.local.session_window = 8 << 20;
    config.local.stream_window = 4 << 20;
    let mut pair = Pair::new(&config, 1, 0);
    let priorities = [4, 16, 64];
    let ids = priorities.map(|p| pair.ends[0].open("", Mode::Reliable, p).unwrap());
    for id in ids {
        let mut bytes = Vec::new();
        for n in 0..2_000 {
            frame_message(&mut bytes, &message(n, 1_000));
        }
        pair.ends[0].send(id, bytes).unwrap();
    }
    let mut share = BTreeMap::new();
    for _ in 0..1_200 {
        assert!(pair.packet(0, 1_200));
        for f in &pair.wire.pop().unwrap().sent {
            if let SentFrame::Data { id, len, .. } = f {
                *share.entry(*id).or_insert(0u64) += u64::from(*len);
            }
        }
    }
    let total: u64 = share.values().sum();
    for (id, weight) in ids.iter().zip(priorities) {
        let (got, want) = (share[&id.0] * 1_000 / total, u64::from(weight) * 1_000 / 84);
        assert!(got.abs_diff(want) <= 20, "priority {weight}: {got} of 1000, {want} expected");
    }
}

#[test]
fn messages_above_the_first_windows_flow() {
    let mut pair = Pair::new(&Config::default(), 7, 0);
    let id = pair.ends[0].open("", Mode::Reliable, 16).unwrap();
    let mut bytes = Vec::new();
    for n in 0..20 {
        frame_message(&mut bytes, &message(n, 100 << 10));
    }
    pair.ends[0].send(id, bytes).unwrap();
    pair.settle();
    let got = pair.got[1].messages.get(&id.0).map_or(0, Vec::len);
    assert_eq!(
        got,
        20,
        "{:?} {:?} {:?}",
        pair.ends[0].stats(id),
        pair.ends[1].stats(id),
        (&pair.ends[1].window, &pair.ends[0].credit)
    );
}

#[test]
fn a_stream_with_plenty_to_send_tells_once_when_that_ends() {
    let mut ends = [Streams::new(&Config::default(), false), Streams::new(&Config::default(), true)];
    let limits = Limits { session_window: 1 << 20, stream_window: 1 << 20, ..ends[1].local_limits() };
    ends[0].set_peer_limits(limits);
    let id = ends[0].open("plenty", Mode::Reliable, 16).unwrap();
    let send = |streams: &mut Streams, len: usize| {
        let mut chunk = Vec::new();
        frame_message(&mut chunk, &message(0, len));
        streams.send(id, chunk).unwrap();
    };
    send(&mut ends[0], PLENTY as usize / 2);
    assert!(!ends[0].has_plenty(id));
    send(&mut ends[0], PLENTY as usize / 2 + 2000);
    assert!(ends[0].has_plenty(id));
    let mut told = Vec::new();
    let mut buf = [0; 1400];
    while ends[0].has_output() {
        let mut w = Writer::new(&mut buf);
        ends[0].write(&mut w, &mut |_| true);
        while let Some(event) = ends[0].poll_event() {
            told.push(event);
        }
        let wanting = told.iter().filter(|event| **event == Event::Wanting(id)).count();
        assert_eq!(wanting, usize::from(!ends[0].has_plenty(id)), "{told:?}");
    }
    assert!(told.contains(&Event::Wanting(id)));
}

#[test]
fn a_sent_frame_stays_small() {
    assert!(core::mem::size_of::<SentFrame>() <= 32);
}

/// A message of this many bytes on a stream of its own, for as long as it takes.
fn one_message(pair: &mut Pair, len: usize) -> StreamId {
    let id = pair.ends[0].open("", Mode::Reliable, 16).unwrap();
    let mut bytes = Vec::new();
    frame_message(&mut bytes, &message(0, len));
    pair.ends[0].send(id, bytes).unwrap();
    pair.settle();
    id
}

/// The last message is too large for the window, or finds it held by streams that nobody reads.
#[test]
fn a_message_that_found_the_pool_empty_comes_when_it_asks_again() {
    for lens in [&[100 << 10][..], &[31 << 10, 16 << 10, 31 << 10]] {
        let mut pair = Pair::new(&Config::default(), 7, 0);
        pair.pools[1] = Pool::new(0);
        pair.reading[1] = false;
        let ids: Vec<_> = lens.iter().map(|len| one_message(&mut pair, *len)).collect();
        let last = *ids.last().unwrap();
        assert_eq!(pair.take(1, last), 0, "there was room");
        pair.ends[0].ask_again();
        pair.settle();
        assert_eq!(pair.take(1, last), 0, "the pool is empty");
        pair.pools[1] = Pool::new(64 << 20);
        pair.ends[0].ask_again();
        pair.settle();
        assert_eq!(pair.take(1, last), *lens.last().unwrap() as u64);
    }
}

/// It is too small to ask for credit, so credit has to be there.
#[test]
fn a_message_of_almost_half_the_window_comes_beside_streams_that_nobody_reads() {
    let mut pair = Pair::new(&Config::default(), 7, 0);
    pair.reading[1] = false;
    let ids = [31 << 10, 16 << 10, 31 << 10].map(|len| one_message(&mut pair, len));
    assert_eq!(pair.take(1, ids[2]), 31 << 10);
}

/// Streams of every mode, small messages and large ones. As ports do, readers report some of what they read
/// late, and the rest by stopping at the end; some stop early, and some never read at all. The others go on.
#[test]
fn a_mixture_never_stands_still() {
    const STREAMS: usize = 250;
    const UNREAD: usize = 16;
    #[derive(PartialEq)]
    enum Reader {
        Whole,
        StopsEarly,
        Never,
    }
    for seed in 1..=40 {
        let mut pair = Pair::new(&Config::default(), seed, 2);
        pair.reading = [false; 2];
        let mut live: Vec<(StreamId, Reader, u64)> = Vec::new();
        let (mut opened, mut still) = (0, 0);
        let read = |live: &[(StreamId, Reader, u64)]| live.iter().filter(|s| s.1 != Reader::Never).count();
        while opened < STREAMS || read(&live) > 0 {
            while opened < STREAMS && read(&live) < 8 {
                let mode = [Mode::FireAndForget, Mode::Reliable, Mode::Unordered][pair.draw(3) as usize];
                let id = pair.ends[0].open("", mode, 16).unwrap();
                let large = pair.draw(8) == 0;
                let (count, len) = if large { (4, 200_000) } else { (1 + pair.draw(64), 2_000) };
                let len = pair.draw(len) as usize;
                let mut bytes = Vec::new();
                (0..count).for_each(|n| frame_message(&mut bytes, &message(n, len)));
                pair.ends[0].send(id, bytes).unwrap();
                pair.ends[0].finish(id);
                let reader = match pair.draw(8) {
                    0 => Reader::StopsEarly,
                    1 if live.len() - read(&live) < UNREAD => Reader::Never,
                    _ => Reader::Whole,
                };
                live.push((id, reader, 0));
                opened += 1;
            }
            let got = |pair: &Pair| pair.got[1].messages.values().map(Vec::len).sum::<usize>();
            let before = (opened, live.len(), got(&pair));
            pair.step();
            // Time in which nothing happens: windows shrink again.
            if pair.draw(20) == 0 {
                let rest = Duration::from_millis(pair.draw(500));
                pair.now += rest;
            }
            for (id, reader, unreported) in &mut live {
                if *reader == Reader::Never || pair.draw(3) > 0 {
                    continue;
                }
                let charge = pair.take(1, *id);
                *unreported += charge;
                if *unreported >= 8 << 10 || (charge == 0 && pair.draw(4) == 0) {
                    let charge = core::mem::take(unreported);
                    pair.ends[1].consumed(pair.now, *id, charge, RTT, &mut pair.pools[1]);
                }
                let over = pair.got[1].finished.contains(&id.0) && charge == 0;
                if over || (*reader == Reader::StopsEarly && charge > 0) {
                    pair.ends[1].finish(*id);
                    pair.stop(1, *id, 0);
                }
            }
            pair.events();
            live.retain(|(id, ..)| (0..2).any(|end| pair.ends[end].stats(*id).is_some()));
            still = if before == (opened, live.len(), got(&pair)) { still + 1 } else { 0 };
            let (credit, window) = (&pair.ends[0].credit, &pair.ends[1].window);
            assert!(still < 2_000, "seed {seed}, {} streams: {credit:?} {window:?}", live.len());
        }
        // Who did not read stops now, and all credit is back.
        for (id, ..) in live {
            pair.ends[1].finish(id);
            pair.stop(1, id, 0);
        }
        pair.settle();
        assert_eq!((pair.ends[0].count(), pair.ends[1].count()), (0, 0), "seed {seed}");
        assert_eq!(
            pair.ends[1].window.advertised(),
            pair.ends[1].window.limit - pair.ends[1].window.received
        );
    }
}
