use super::*;

use bytes::Bytes;
use net_proto::bus::ProducerId;

fn id(producer: u64, seq: u64) -> EventId {
    EventId { producer: ProducerId(producer), incarnation: 1, shard: 0, seq }
}

fn batch(first: u64, events: u64) -> Batch {
    let event = |n| Outgoing { id: id(7, n), stamp: n, raw: Bytes::from_static(b"body") };
    Batch { shard: 0, first, events: (first..first + events).map(event).collect() }
}

/// A stream as the server keeps it.
#[derive(Default)]
struct Stream {
    stored: Vec<EventId>,
}

impl Stream {
    /// What the server does with a message; whether it was stored or was there.
    fn publish(&mut self, id: EventId, after: Option<EventId>) -> bool {
        if self.stored.contains(&id) {
            return true;
        }
        if after.is_some() && self.stored.last() != after.as_ref() {
            return false;
        }
        self.stored.push(id);
        true
    }

    fn last_of(&self, producer: u64) -> Option<EventId> {
        self.stored.iter().rev().find(|id| id.producer.0 == producer).copied()
    }

    fn of(&self, producer: u64) -> Vec<u64> {
        self.stored.iter().filter(|id| id.producer.0 == producer).map(|id| id.seq).collect()
    }
}

type Message = (EventId, Option<EventId>, Option<Ask>);

fn sent(window: &mut Window) -> Vec<Message> {
    let mut sent = Vec::new();
    while let Some(next) = window.next() {
        sent.push((next.event.id, next.after, next.ask));
    }
    sent
}

#[test]
fn a_window_is_filled_and_one_answer_stands_for_all_before_it() {
    let mut window = Window::new(64, None);
    window.push(batch(1, 100));
    let first = sent(&mut window);
    assert_eq!(first.len(), 64);
    assert_eq!(first[0].1, None, "the first of a run goes anywhere");
    assert!(first.windows(2).all(|pair| pair[1].1 == Some(pair[0].0)), "each behind the one before");
    let asked: Vec<_> = first.iter().filter_map(|(_, _, ask)| Some(ask.as_ref()?.number)).collect();
    assert_eq!(asked, [16, 32, 48, 64]);
    window.stored(Ask { run: 0, number: 32 });
    assert_eq!(window.upto(), 32);
    assert_eq!(sent(&mut window).len(), 32);
    window.stored(Ask { run: 0, number: 96 });
    let last = sent(&mut window);
    assert_eq!(last.last().and_then(|m| m.2), Some(Ask { run: 0, number: 100 }), "what nothing follows");
    window.stored(Ask { run: 0, number: 100 });
    assert!(!window.is_waiting() && window.upto() == 100);
}

#[test]
fn what_the_stream_has_is_not_sent_again() {
    let mut window = Window::new(64, Some(id(7, 5)));
    window.push(batch(3, 6));
    assert_eq!(window.upto(), 5);
    assert_eq!(sent(&mut window).iter().map(|m| m.0.seq).collect::<Vec<_>>(), [6, 7, 8]);
    let mut all = Window::new(64, Some(id(7, 8)));
    all.push(batch(3, 6));
    assert!(all.upto() == 8 && sent(&mut all).is_empty());
}

#[test]
fn numbers_may_have_gaps_between_batches() {
    let mut window = Window::new(64, None);
    window.push(batch(1, 3));
    window.push(batch(10, 3));
    let messages = sent(&mut window);
    assert_eq!(messages.last().and_then(|m| m.2), Some(Ask { run: 0, number: 12 }));
    window.stored(Ask { run: 0, number: 10 });
    assert_eq!(window.upto(), 10);
    window.stored(Ask { run: 0, number: 12 });
    assert_eq!(window.upto(), 12);
}

#[test]
fn large_bodies_go_one_at_a_time() {
    let mut window = Window::new(64, None);
    let mut large = batch(1, 3);
    large.events.iter_mut().for_each(|event| event.raw = Bytes::from(vec![0; BYTES]));
    window.push(large);
    for number in 1..=3 {
        let messages = sent(&mut window);
        assert_eq!(messages.len(), 1);
        window.stored(messages[0].2.expect("nothing follows"));
        assert_eq!(window.upto(), number);
    }
}

#[test]
fn answers_of_an_earlier_run_count_for_nothing() {
    let mut window = Window::new(8, None);
    window.push(batch(1, 8));
    let old = sent(&mut window);
    window.resume(None);
    window.stored(old[7].2.expect("a question"));
    assert_eq!(window.upto(), 0);
    assert_eq!(sent(&mut window).len(), 4, "half the room after a break");
}

/// Draws with no other state: the same seed gives the same walk.
fn draw(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

/// Another producer writes in between, messages and answers are lost, messages of an earlier link come
/// late: every event is stored once, in order, without a hole at any time.
#[test]
fn there_is_never_a_hole() {
    for walk in 0..2000u64 {
        let mut seed = walk;
        let seed = &mut seed;
        let mut stream = Stream::default();
        let mut window = Window::new(1 + draw(seed, 16) as usize, None);
        let mut late: Vec<Message> = Vec::new();
        let events = 40;
        window.push(batch(1, events));
        let mut foreign = 0;
        for _ in 0..2000 {
            if window.upto() == events {
                break;
            }
            let mut messages = sent(&mut window);
            if messages.is_empty() {
                // Nothing is answered any more: another link.
                window.resume(stream.last_of(7));
                continue;
            }
            if draw(seed, 3) == 0 {
                late.extend(messages.drain(..).skip(draw(seed, 4) as usize));
                continue;
            }
            let mut broken = false;
            for (id, after, ask) in messages {
                match draw(seed, 10) {
                    0 => continue,
                    1 => {
                        foreign += 1;
                        stream.publish(self::id(9, foreign), None);
                    }
                    2 if !late.is_empty() => {
                        let (id, after, _) = late.remove(0);
                        stream.publish(id, after);
                    }
                    _ => {}
                }
                let stored = stream.publish(id, after);
                let Some(ask) = ask else { continue };
                if draw(seed, 8) == 0 {
                    continue;
                }
                match stored {
                    true if !broken => window.stored(ask),
                    true => {}
                    false => broken = true,
                }
            }
            if broken {
                window.resume(stream.last_of(7));
            }
            let of = stream.of(7);
            assert!(of.iter().copied().eq(1..=of.len() as u64), "walk {walk}: {of:?}");
            assert!(window.upto() <= of.len() as u64, "walk {walk}: an answer too early");
        }
        assert_eq!(window.upto(), events, "walk {walk} makes progress");
    }
}
