use super::*;
use alloc::vec;
use proptest::prelude::*;

/// A disk that keeps what was synced, and of the rest as much as `keep` says.
#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<String, (Vec<u8>, Vec<u8>)>,
}

impl Disk {
    fn run(&mut self, op: StoreOp) -> StoreResult {
        Ok(match op {
            StoreOp::Open { file, .. } => {
                Stored::Opened { len: self.files.entry(file).or_default().0.len() as u64 }
            }
            StoreOp::Write { file, offset, data } => {
                let now = &mut self.files.get_mut(&file).ok_or(StoreError::NotFound)?.0;
                now.resize(now.len().max(offset as usize + data.len()), 0);
                now[offset as usize..][..data.len()].copy_from_slice(&data);
                Stored::Done
            }
            StoreOp::Sync { file } => {
                let f = self.files.get_mut(&file).ok_or(StoreError::NotFound)?;
                f.1 = f.0.clone();
                Stored::Done
            }
            StoreOp::Read { file, len, .. } => Stored::Data(self.files[&file].0[..len as usize].to_vec()),
            StoreOp::Remove { file } => {
                self.files.remove(&file).ok_or(StoreError::NotFound)?;
                Stored::Done
            }
            StoreOp::Truncate { file, len } => {
                self.files.get_mut(&file).ok_or(StoreError::NotFound)?.0.truncate(len as usize);
                Stored::Done
            }
            StoreOp::List => Stored::Names(self.files.keys().cloned().collect()),
            _ => return Err(StoreError::Io),
        })
    }

    /// The power fails: of each file what was synced, and `keep` bytes of what was written after, over the zeros
    /// that were there or behind the end.
    fn crash(&mut self, keep: usize) {
        for (now, synced) in self.files.values_mut() {
            let same = now.iter().zip(synced.iter()).take_while(|(a, b)| a == b).count();
            let end = (same + keep).min(now.len());
            synced.resize(synced.len().max(end), 0);
            synced[same..end].copy_from_slice(&now[same..end]);
            *now = synced.clone();
        }
    }
}

/// A producer with one outbox: what it promised, and what the engine has.
struct Life {
    outbox: Outbox,
    /// Names by number, per shard.
    log: [Vec<(u64, u64)>; 2],
    durable: [u64; 2],
}

impl Life {
    fn start(disk: &mut Disk, incarnation: u64) -> Self {
        let mut life =
            Self { outbox: Outbox::new(ProducerId(5), 200), log: [vec![], vec![]], durable: [0; 2] };
        life.turn(disk, usize::MAX);
        assert_eq!(life.outbox.error(), None);
        assert!(life.outbox.is_idle());
        while let Some(record) = life.outbox.poll_replay() {
            assert!(record.event && record.incarnation < incarnation);
            let log = &mut life.log[usize::from(record.shard)];
            log.push((record.incarnation, record.seq));
            life.durable[usize::from(record.shard)] = log.len() as u64;
            assert_eq!(record.body, body(record.seq));
            life.outbox.handle_replayed(log.len() as u64);
        }
        assert!(life.outbox.is_ready());
        life
    }

    fn turn(&mut self, disk: &mut Disk, ops: usize) {
        for _ in 0..ops {
            let Some((ticket, op)) = self.outbox.poll_store() else { break };
            let result = disk.run(op);
            self.outbox.handle_stored(ticket, result);
        }
        while let Some((shard, upto)) = self.outbox.poll_durable() {
            let durable = &mut self.durable[usize::from(shard)];
            assert!(upto >= *durable);
            *durable = upto;
        }
    }
}

fn body(seq: u64) -> Vec<u8> {
    vec![seq as u8; (seq % 40) as usize]
}

#[test]
fn golden() {
    let record = Record { event: true, shard: 1, incarnation: 2, seq: 3, stamp: 4, body: b"x".to_vec() };
    let want = [
        28, 0, 0, 0, 0xdd, 0x5b, 0xb1, 0xd8, 1, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 4, 0,
        0, 0, 0, 0, 0, 0, b'x',
    ];
    let bytes = record.to_vec();
    assert_eq!((&bytes[..4], &bytes[8..]), (&want[..4], &want[8..]));
    assert_eq!(Record::decode_exact(&bytes), Ok(record));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Record::decode_exact(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    for content in [b"something else that is long enough to be a head".to_vec(), head(ProducerId(6), 1)] {
        let mut disk = Disk::default();
        disk.files.insert(name(1), (content.clone(), content.clone()));
        let mut outbox = Outbox::new(ProducerId(5), 100);
        while let Some((ticket, op)) = outbox.poll_store() {
            let result = disk.run(op);
            outbox.handle_stored(ticket, result);
        }
        assert!(matches!(outbox.error(), Some(OutboxError::Damaged { .. })));
        assert_eq!(disk.files[&name(1)].0, content);
        assert!(!outbox.has_room() && outbox.poll_replay().is_none());
    }
}

#[test]
fn a_failed_sync_ends_all_promises() {
    let mut disk = Disk::default();
    let mut life = Life::start(&mut disk, 1);
    life.outbox.append(0, 1, (1, 1), 0, b"x");
    while let Some((ticket, op)) = life.outbox.poll_store() {
        let sync = matches!(op, StoreOp::Sync { .. });
        let result = if sync { Err(StoreError::Io) } else { disk.run(op) };
        life.outbox.handle_stored(ticket, result);
    }
    assert_eq!(life.outbox.poll_durable(), None);
    assert_eq!(life.outbox.error(), Some(&OutboxError::Store(StoreError::Io)));
    assert!(!life.outbox.has_room());
}

/// A sync that changes the length of a file costs a second write of the disk.
#[test]
fn commits_go_into_zeros_that_are_there() {
    let (mut disk, mut lengths) = (Disk::default(), vec![]);
    let mut outbox = Outbox::new(ProducerId(5), 2 * GROW);
    let mut turn = |outbox: &mut Outbox| {
        while let Some((ticket, op)) = outbox.poll_store() {
            let result = disk.run(op);
            outbox.handle_stored(ticket, result);
        }
        lengths.push(disk.files.get(&name(1)).map_or(0, |(now, _)| now.len() as u64));
    };
    turn(&mut outbox);
    assert_eq!(outbox.poll_replay(), None);
    let body = vec![7; GROW as usize / 4];
    for at in 1..=8 {
        outbox.append(0, at, (1, at), 0, &body);
        turn(&mut outbox);
    }
    let over = lengths.pop().unwrap();
    assert_eq!(lengths, [0, GROW, GROW, GROW, 2 * GROW, 2 * GROW, 2 * GROW, 2 * GROW]);
    assert!(over > 2 * GROW && over < 2 * GROW + GROW / 4, "the last commit of a segment ends it: {over}");
    // Zeros behind the records of a segment that is not the last are its end, too.
    let mut next = Outbox::new(ProducerId(5), 2 * GROW);
    let mut replayed = 0;
    disk.files.insert(name(2), (head(ProducerId(5), 2), vec![]));
    disk.files.get_mut(&name(1)).unwrap().0.resize(3 * GROW as usize, 0);
    while let Some((ticket, op)) = next.poll_store() {
        let result = disk.run(op);
        next.handle_stored(ticket, result);
    }
    assert_eq!(next.error(), None);
    while next.poll_replay().is_some() {
        replayed += 1;
        next.handle_replayed(replayed);
    }
    assert_eq!(replayed, 8);
}

#[test]
fn a_clean_end_leaves_nothing_to_replay() {
    let mut disk = Disk::default();
    let mut life = Life::start(&mut disk, 1);
    for seq in 1..=30 {
        life.outbox.append(0, seq, (1, seq), 0, &body(seq));
        life.turn(&mut disk, usize::MAX);
    }
    assert!(disk.files.len() > 3, "segments: {:?}", disk.files.keys());
    life.outbox.handle_acked(0, 20);
    life.turn(&mut disk, usize::MAX);
    life.outbox.handle_acked(0, 30);
    life.outbox.finish();
    life.turn(&mut disk, usize::MAX);
    assert!(life.outbox.is_idle());
    assert_eq!(disk.files.keys().collect::<Vec<_>>(), [LOCK]);
    assert!(Life::start(&mut disk, 2).log[0].is_empty());
}

proptest! {
    /// The power fails after any operation, with any part of the unsynced bytes kept: the next life
    /// replays, under their own names and in order, at least everything durable that the engine
    /// does not have, and nothing that was never emitted.
    #[test]
    fn no_promise_is_broken(steps in proptest::collection::vec((0u8..7, 0usize..12), 1..120)) {
        let mut disk = Disk::default();
        let mut incarnation = 1;
        let mut life = Life::start(&mut disk, incarnation);
        let mut acked = [0u64; 2];
        let mut engine: [Vec<(u64, u64)>; 2] = [vec![], vec![]];
        for (step, n) in steps {
            let shard = n % 2;
            match step {
                0..=2 if life.outbox.has_room() => {
                    let log = &mut life.log[shard];
                    let seq = log.len() as u64 + 1;
                    log.push((incarnation, seq));
                    life.outbox.append(shard as u16, seq, (incarnation, seq), 9, &body(seq));
                }
                3 | 4 => life.turn(&mut disk, n),
                5 => {
                    let upto = (acked[shard] + n as u64 / 2).min(life.durable[shard]);
                    for at in acked[shard]..upto {
                        engine[shard].push(life.log[shard][at as usize]);
                    }
                    acked[shard] = upto;
                    life.outbox.handle_acked(shard as u16, upto);
                }
                _ => {
                    let (old, durable) = (life.log, life.durable);
                    // The power fails, or only the process ends: then what was not synced is there for now.
                    if n % 3 > 0 {
                        disk.crash(n * 7);
                    }
                    incarnation += 1;
                    life = Life::start(&mut disk, incarnation);
                    for s in 0..2 {
                        let owed: Vec<_> = old[s][acked[s] as usize..durable[s] as usize].to_vec();
                        let have = &life.log[s];
                        prop_assert!(owed.iter().all(|e| have.contains(e)), "owed {:?}, replayed {:?}", owed, have);
                        prop_assert!(have.iter().all(|e| old[s].contains(e)));
                        prop_assert!(have.windows(2).all(|w| w[0] < w[1]), "in order: {:?}", have);
                    }
                    acked = [0; 2];
                }
            }
        }
        // Without repetitions the engine has every name once, in order.
        for names in &engine {
            let mut high = (0, 0);
            let first: Vec<_> = names.iter().filter(|n| { let new = **n > high; high = high.max(**n); new }).collect();
            prop_assert!(first.windows(2).all(|w| w[0] < w[1]));
        }
    }

    #[test]
    fn records_are_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        crate::codec::check_canonical::<Record>(&bytes);
    }
}
