use super::*;
use alloc::vec;
use proptest::prelude::*;

fn limits(events: u64, bytes: u64, keep: bool) -> LogLimits {
    LogLimits { events, bytes, keep }
}

fn bodies(out: &VecDeque<Slice>) -> Vec<(u64, Vec<u8>)> {
    out.iter().flat_map(|s| s.iter().map(|e| (e.at, e.body.to_vec())).collect::<Vec<_>>()).collect()
}

#[test]
fn what_was_written_is_read_in_order_and_shared() {
    let mut log = Log::new(limits(100, 1 << 20, true), Backpressure::FailProducer, 7);
    for n in 0..10u8 {
        assert_eq!(log.append(&vec![n; n.into()], 50), Ok(u64::from(n) + 1));
    }
    let mut out = VecDeque::new();
    assert_eq!(log.peek(1, 4, 1 << 20, &mut out), (None, 5));
    assert_eq!(log.peek(5, 100, 1 << 20, &mut out), (None, 11));
    let read = bodies(&out);
    assert_eq!(read.len(), 10);
    assert!(
        read.iter().zip(0u8..).all(|((at, body), n)| *at == u64::from(n) + 1 && *body == vec![n; n.into()])
    );
    let stamps: Vec<_> = out.iter().flat_map(|s| s.iter().map(|e| e.stamp).collect::<Vec<_>>()).collect();
    assert_eq!(stamps, (50..60).collect::<Vec<_>>(), "strictly rising although the clock stood still");
    let event = out[1].iter().nth(2).unwrap();
    assert_eq!((event.incarnation, event.seq), (7, event.at));
    assert_eq!(out[1].share(event.body), Bytes::copy_from_slice(event.body));
    assert_eq!(out[0].share(out[0].peek().unwrap().body), Bytes::new(), "an empty event passes");
}

#[test]
fn bytes_bound_a_read_but_one_event_always_goes() {
    let mut log = Log::new(limits(100, 1 << 20, true), Backpressure::FailProducer, 1);
    (0..4).for_each(|_| _ = log.append(&[0; 100], 0).unwrap());
    let mut out = VecDeque::new();
    assert_eq!(log.peek(1, 100, 1, &mut out).1, 2);
    assert_eq!(log.peek(2, 100, 250, &mut out).1, 4);
    assert_eq!(log.peek(4, 100, 0, &mut out).1, 4);
    assert_eq!(bodies(&out).len(), 3);
}

#[test]
fn a_holder_makes_producers_fail_and_nothing_else_does() {
    let mut log = Log::new(limits(4, 1 << 20, true), Backpressure::FailProducer, 1);
    (0..9).for_each(|_| _ = log.append(b"x", 0).unwrap());
    assert_eq!((log.base(), log.counts().lost.expired), (6, 5), "retention without a reader");
    let reader = log.attach(log.base(), true).unwrap();
    assert_eq!(log.append(b"x", 0), Err(Refused::Full));
    let mut out = VecDeque::new();
    assert_eq!(log.read(reader, 2, 99, u64::MAX, &mut out), None);
    assert!(log.append(b"x", 0).is_ok() && log.append(b"x", 0).is_ok());
    assert_eq!(log.append(b"x", 0), Err(Refused::Full));
    log.detach(reader);
    assert!(log.append(b"x", 0).is_ok());
    assert!(log.counts().balances());
    assert_eq!(log.counts().refused, 2);
}

#[test]
fn who_falls_behind_learns_what_is_gone() {
    let mut log = Log::new(limits(4, 1 << 20, true), Backpressure::DropOldest, 1);
    let reader = log.attach(1, true).unwrap();
    (0..10).for_each(|_| _ = log.append(b"x", 0).unwrap());
    let mut out = VecDeque::new();
    assert_eq!(log.read(reader, 99, 99, u64::MAX, &mut out), Some((1, 7)));
    assert_eq!(bodies(&out).iter().map(|e| e.0).collect::<Vec<_>>(), [7, 8, 9, 10]);
    assert_eq!((log.counts().lost.evicted, log.counts().read), (6, 4));
}

#[test]
fn sampling_keeps_exactly_one_in_n() {
    let mut log = Log::new(limits(1000, 1 << 20, true), Backpressure::Sample(7), 1);
    let kept = (0..700).filter(|_| log.append(b"x", 0).is_ok()).count();
    assert_eq!((kept, log.counts().lost.sampled), (100, 600));
    assert!(log.counts().balances());
}

#[test]
fn a_queue_forgets_what_was_read() {
    let mut log = Log::new(limits(100, 1 << 20, false), Backpressure::FailProducer, 1);
    let reader = log.attach(1, true).unwrap();
    (0..10).for_each(|_| _ = log.append(b"x", 0).unwrap());
    let mut out = VecDeque::new();
    log.read(reader, 4, 99, u64::MAX, &mut out);
    assert_eq!((log.counts().retained, log.depth()), (6, 6));
    log.read(reader, 99, 99, 8, &mut out);
    assert_eq!(log.reader_next(reader), 8, "not beyond the gate");
    log.read(reader, 99, 99, u64::MAX, &mut out);
    assert_eq!((log.counts().retained, log.counts().bytes), (0, 0));
}

#[test]
fn a_replay_keeps_its_names() {
    let mut log = Log::new(limits(100, 1 << 20, true), Backpressure::FailProducer, 9);
    log.rename(4, 17);
    let a = log.append(b"old", 0).unwrap();
    assert_eq!(log.name_of(a), (4, 17));
    log.append(b"old", 0).unwrap();
    log.rename(9, 1);
    log.append(b"new", 0).unwrap();
    let mut out = VecDeque::new();
    log.peek(1, 99, 99, &mut out);
    let names: Vec<_> =
        out.iter().flat_map(|s| s.iter().map(|e| (e.incarnation, e.seq)).collect::<Vec<_>>()).collect();
    assert_eq!(names, [(4, 17), (4, 18), (9, 1)]);
}

#[test]
fn a_replay_ignores_mode_and_room() {
    for mode in [
        Backpressure::FailProducer,
        Backpressure::DropOldest,
        Backpressure::DropNewest,
        Backpressure::Sample(3),
    ] {
        let mut log = Log::new(limits(4, 1 << 20, false), mode, 9);
        let reader = log.attach(1, true).unwrap();
        (0..10).for_each(|n| assert_eq!(log.replay(b"old", 0), n + 1));
        assert_eq!((log.counts().unread, log.counts().lost.total()), (10, 0), "{mode:?}");
        let mut out = VecDeque::new();
        log.read(reader, 99, 999, u64::MAX, &mut out);
        assert_eq!(bodies(&out).len(), 10);
        assert!(log.append(b"new", 0).is_ok() && log.counts().balances());
    }
}

#[test]
fn too_long_and_too_small() {
    let mut log = Log::new(limits(10, 1000, true), Backpressure::DropOldest, 1);
    assert_eq!(log.append(&[0; 1000], 0), Err(Refused::TooLarge));
    for n in 0..100 {
        assert!(log.append(&[0; 300], n).is_ok());
        assert!(log.counts().bytes <= 1000, "{:?}", log.counts());
    }
    assert!(log.counts().balances());
}

#[derive(Clone, Debug)]
enum Op {
    Append(usize, u64),
    Read(usize, usize),
    Attach(bool),
    Detach(usize),
    Peek,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0usize..200, 0u64..6_000_000_000).prop_map(|(len, now)| Op::Append(len, now)),
        4 => (0usize..4, 0usize..12).prop_map(|(r, n)| Op::Read(r, n)),
        1 => any::<bool>().prop_map(Op::Attach),
        1 => (0usize..4).prop_map(Op::Detach),
        1 => Just(Op::Peek),
    ];
    proptest::collection::vec(op, 0..200)
}

fn modes() -> impl Strategy<Value = Backpressure> {
    prop_oneof![
        Just(Backpressure::FailProducer),
        Just(Backpressure::DropOldest),
        Just(Backpressure::DropNewest),
        (1u32..5).prop_map(Backpressure::Sample),
    ]
}

proptest! {
    /// Against a model that keeps everything: the ledger balances after every step, bounds hold, and
    /// each reader sees every number once, in order, as itself or as lost.
    #[test]
    fn nothing_is_lost_silently(mode in modes(), events in 1u64..20, bytes in 400u64..4000, keep: bool, ops in ops()) {
        let mut log = Log::new(limits(events, bytes, keep), mode, 3);
        let mut written: Vec<Vec<u8>> = Vec::new();
        let mut readers: Vec<(ReaderId, u64)> = Vec::new();
        let (mut offered, mut refused) = (0u64, 0u64);
        for op in ops {
            match op {
                Op::Append(len, now) => {
                    let body = vec![written.len() as u8; len];
                    offered += 1;
                    match log.append(&body, now) {
                        Ok(at) => {
                            written.push(body);
                            prop_assert_eq!(at, written.len() as u64);
                        }
                        Err(Refused::Full | Refused::TooLarge) => refused += 1,
                        Err(_) => {}
                    }
                }
                Op::Read(r, n) if !readers.is_empty() => {
                    let r = r % readers.len();
                    let (id, next) = &mut readers[r];
                    let mut out = VecDeque::new();
                    if let Some((from, to)) = log.read(*id, n, 600, u64::MAX, &mut out) {
                        prop_assert_eq!(from, *next);
                        prop_assert!(to > from);
                        *next = to;
                    }
                    for (at, body) in bodies(&out) {
                        prop_assert_eq!(at, *next);
                        prop_assert_eq!(&body, &written[at as usize - 1]);
                        *next += 1;
                    }
                    prop_assert_eq!(log.reader_next(*id), *next);
                }
                Op::Attach(holds) if readers.len() < 4 => {
                    let id = log.attach(log.base(), holds).unwrap();
                    readers.push((id, log.base()));
                }
                Op::Detach(r) if !readers.is_empty() => {
                    let (id, _) = readers.remove(r % readers.len());
                    log.detach(id);
                }
                Op::Peek => {
                    let mut out = VecDeque::new();
                    log.peek(log.base(), 5, 500, &mut out);
                }
                _ => {}
            }
            let counts = log.counts();
            prop_assert!(counts.balances(), "{:?}", counts);
            prop_assert_eq!(counts.ingested + refused, offered);
            prop_assert_eq!(counts.refused, refused);
            prop_assert!(counts.retained <= events && counts.bytes <= bytes, "{:?}", counts);
            if mode == Backpressure::FailProducer {
                prop_assert_eq!(counts.lost.evicted + counts.lost.newest, 0);
            }
        }
        log.abandon(true);
        prop_assert!(log.counts().balances() && log.counts().unread == 0);
    }
}
