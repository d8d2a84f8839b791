use super::super::ledger::Ledger;
use super::super::log::{Backpressure, Log, LogLimits, ReaderId};
use super::*;
use proptest::prelude::*;

/// A log, a pipeline and an engine that keeps what it gets, in order, duplicates included.
struct World {
    now: Instant,
    log: Log,
    reader: ReaderId,
    pipe: Pipeline,
    /// Sent on this link and not yet seen by the engine.
    wire: VecDeque<Vec<(u64, u64)>>,
    engine: Vec<u64>,
    offered: u64,
    written: u64,
    acked: u64,
}

impl World {
    fn new(window: usize, mode: Backpressure) -> Self {
        let mut log = Log::new(LogLimits { events: 60, bytes: 1 << 20, keep: false }, mode, 1);
        let reader = log.attach(1, true).unwrap();
        let batch = BatchConfig {
            min_events: 5,
            max_events: 7,
            max_delay: Duration::from_millis(1),
            adaptive: false,
        };
        let config = PipelineConfig { batch, batch_bytes: 1 << 20, window };
        let pipe = Pipeline::new(config, Instant::ZERO, &[0; 32]);
        Self {
            now: Instant::ZERO,
            log,
            reader,
            pipe,
            wire: VecDeque::new(),
            engine: Vec::new(),
            offered: 0,
            written: 0,
            acked: 0,
        }
    }

    fn emit(&mut self, n: u64) {
        for _ in 0..n {
            self.offered += 1;
            if let Ok(at) = self.log.append(b"x", 0) {
                self.written = at;
            }
        }
    }

    /// What a driver does.
    fn turn(&mut self) {
        if self.pipe.poll_open(self.now) {
            self.pipe.handle_opened();
        }
        while let Some((events, bytes)) = self.pipe.wants(self.now, self.log.depth()) {
            let mut out = VecDeque::new();
            self.log.read(self.reader, events, bytes, u64::MAX, &mut out);
            self.pipe.handle_taken(self.now, out);
        }
        while let Some(flight) = self.pipe.poll_send() {
            let numbers: Vec<_> = flight.events().map(|(_, e)| (e.at, e.seq)).collect();
            assert_eq!(numbers.first().map(|n| n.0), Some(flight.first()));
            assert!(numbers.windows(2).all(|w| w[1].0 == w[0].0 + 1), "no gaps: {numbers:?}");
            assert_eq!(numbers.len() as u64, flight.len());
            self.wire.push_back(numbers);
        }
    }

    fn deliver(&mut self, n: usize) {
        for _ in 0..n {
            let Some(batch) = self.wire.pop_front() else { return };
            self.engine.extend(batch.iter().map(|(at, seq)| {
                assert_eq!(at, seq);
                *at
            }));
        }
    }

    fn ack(&mut self, upto: u64) {
        self.acked += self.pipe.handle_ack(upto).unwrap();
    }

    fn fail(&mut self) {
        self.wire.clear();
        self.pipe.handle_failed(self.now, false);
    }

    fn wait(&mut self) {
        if let Some((at, _)) = self.pipe.poll_timeout(self.now, self.log.depth()) {
            self.now = self.now.max(at);
        }
    }
}

#[test]
fn a_new_link_resumes_at_the_first_unacknowledged_event() {
    let mut w = World::new(2, Backpressure::FailProducer);
    w.emit(20);
    w.turn();
    assert_eq!(w.pipe.numbers(), [(1, 8), (8, 15)], "the window holds two");
    w.deliver(1);
    w.ack(3);
    w.fail();
    w.turn();
    assert_eq!(w.pipe.state(), LinkState::Down, "not before the pause is over");
    w.wait();
    w.turn();
    assert_eq!((w.wire[0][0].0, w.wire[1][0].0), (4, 8));
    assert_eq!(w.pipe.resent(), 11);
}

#[test]
fn pauses_double_to_a_limit_and_success_ends_that() {
    let mut w = World::new(2, Backpressure::FailProducer);
    let mut pauses = Vec::new();
    w.emit(1);
    for _ in 0..8 {
        assert!(w.pipe.poll_open(w.now));
        w.pipe.handle_failed(w.now, false);
        let before = w.now;
        w.wait();
        pauses.push(w.now.since(before).as_millis());
    }
    for (n, pause) in pauses.iter().enumerate() {
        let mid = 100u128 << n.min(5);
        assert!(*pause >= mid * 3 / 4 && *pause <= mid * 5 / 4, "{pauses:?}");
    }
    w.turn();
    w.ack(1);
    w.fail();
    let before = w.now;
    w.wait();
    assert!(w.now.since(before).as_millis() <= 125);
}

#[test]
fn acknowledgements_are_checked() {
    let mut w = World::new(2, Backpressure::FailProducer);
    assert_eq!(w.pipe.handle_ack(1), Err(BadAck(1)));
    w.emit(14);
    w.turn();
    assert_eq!(w.pipe.handle_ack(15), Err(BadAck(15)));
    assert_eq!(w.pipe.handle_ack(14), Ok(14));
    assert_eq!(w.pipe.handle_ack(4), Ok(0), "an older one changes nothing");
    assert_eq!(w.pipe.under_way(), 0);
    w.emit(3);
    w.turn();
    w.fail();
    w.wait();
    assert!(w.pipe.poll_open(w.now));
    w.pipe.handle_opened();
    assert_eq!(w.pipe.handle_ack(15), Err(BadAck(15)), "nothing was sent on this link yet");
}

#[test]
fn every_state_answers_every_event() {
    for setup in 0..4 {
        for event in 0..7 {
            let mut w = World::new(1, Backpressure::FailProducer);
            w.emit(3);
            match setup {
                0 => {}
                1 => _ = w.pipe.poll_open(w.now),
                2 => w.turn(),
                _ => w.pipe.handle_failed(w.now, true),
            }
            let state = w.pipe.state();
            match event {
                0 => _ = w.pipe.poll_open(w.now),
                1 => w.pipe.handle_opened(),
                2 => w.pipe.handle_failed(w.now, false),
                3 => _ = w.pipe.handle_ack(2),
                4 => _ = w.pipe.poll_send(),
                5 => _ = w.pipe.wants(w.now, 3),
                _ => _ = w.pipe.abandon(),
            }
            if state == LinkState::Over {
                assert_eq!(w.pipe.state(), LinkState::Over);
                assert!(!w.pipe.poll_open(w.now) && w.pipe.poll_timeout(w.now, 3).is_none());
            }
        }
    }
}

proptest! {
    /// Links fail anywhere, engines take what they took, acknowledgements come late or never: what
    /// the engine holds, without repetitions, is everything that was not dropped, in order. The ledger
    /// balances after every step, in every mode.
    #[test]
    fn nothing_is_lost_and_order_holds(
        window in 1usize..4,
        mode in 0usize..4,
        steps in proptest::collection::vec((0u8..6, 0u64..20), 0..150),
    ) {
        let mode = [
            Backpressure::FailProducer,
            Backpressure::DropOldest,
            Backpressure::DropNewest,
            Backpressure::Sample(3),
        ][mode];
        let mut w = World::new(window, mode);
        for (step, n) in steps {
            match step {
                0 | 1 => w.emit(n),
                2 => w.deliver(n as usize % 4),
                3 => {
                    let last = w.engine.iter().max().copied().unwrap_or(0);
                    let upto = last.saturating_sub(n % 5).max(w.pipe.acked());
                    // Only what this link sent can be acknowledged on it.
                    if let Ok(events) = w.pipe.handle_ack(upto) {
                        w.acked += events;
                    }
                }
                4 => w.fail(),
                _ => w.wait(),
            }
            w.turn();
            let counts = w.log.counts();
            let ledger = Ledger {
                ingested: counts.ingested,
                delivered: w.acked,
                queued: counts.unread + w.pipe.under_way(),
                lost: counts.lost,
                refused: counts.refused,
            };
            prop_assert!(ledger.balances(), "{:?}", ledger);
            prop_assert_eq!(ledger.ingested + ledger.refused, w.offered);
            let unasked = match mode {
                Backpressure::FailProducer => counts.lost.total(),
                Backpressure::DropOldest => counts.lost.sampled + counts.lost.newest,
                Backpressure::DropNewest => counts.lost.sampled + counts.lost.evicted,
                _ => counts.lost.evicted,
            };
            prop_assert_eq!(unasked + counts.lost.expired, 0, "only what the mode allows: {:?}", counts.lost);
            prop_assert!(w.pipe.numbers().len() <= window + 1, "a gap may split one batch");
            // After its own deadline a pipeline has output or a later deadline.
            if let Some((at, reason)) = w.pipe.poll_timeout(w.now, w.log.depth()) {
                prop_assert!(at > w.now || reason == Reason::Output || w.pipe.state() == LinkState::Down);
            }
        }
        for _ in 0..50 {
            w.wait();
            w.turn();
            w.deliver(9);
            if let Some(last) = w.engine.last().copied() {
                let _ = w.pipe.handle_ack(last).map(|n| w.acked += n);
            }
        }
        let mut first = Vec::new();
        for at in &w.engine {
            if first.last().is_none_or(|last| at > last) {
                first.push(*at);
            }
        }
        prop_assert_eq!(w.acked as usize, first.len());
        // The others were never numbered.
        let lost = w.log.counts().lost.evicted;
        prop_assert_eq!(first.len() as u64 + lost, w.written);
        prop_assert_eq!(w.log.depth() + w.pipe.under_way(), 0);
    }
}
