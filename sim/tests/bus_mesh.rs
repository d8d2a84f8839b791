//! The plane of the event bus: one node keeps events, others write and read them over lanes that come and go.

use std::collections::BTreeMap;

use net_proto::bus::mesh::{Access, BusPlane, Command, Event, Hosting, Limits, Part, Run, RunBuilder, Why};
use net_proto::bus::{EventId, Position, ProducerId, Shard};
use net_proto::identity::EntityId;
use net_proto::lane::Job;
use net_proto::time::{Duration, Instant};
use net_sim::keyed::{below, mix};
use net_sim::planenet::{Config, PlaneNet};

const KEEPER: usize = 0;
const NAME: &str = "plant";

fn id(node: usize) -> EntityId {
    EntityId([node as u8; 32])
}

fn net(seed: u64, nodes: usize) -> PlaneNet<BusPlane> {
    let planes = (0..nodes).map(|n| BusPlane::new(id(n), 1)).collect();
    let mut net = PlaneNet::new(seed, Config::new(Job::run), planes);
    (1..nodes).for_each(|n| net.up(KEEPER, n));
    net.run(Instant::from_nanos(1));
    net
}

fn host(net: &mut PlaneNet<BusPlane>, hosting: Hosting) {
    net.command(KEEPER, Command::Host { call: 1, name: NAME.into(), hosting });
    assert_eq!(net.told.pop().map(|(_, _, e)| e), Some(Event::Hosted { call: 1, refused: None }));
}

fn run(producer: u64, shard: Shard, seqs: std::ops::Range<u64>) -> Run {
    let id = |seq| EventId { producer: ProducerId(producer), incarnation: 1, shard, seq };
    let mut builder = RunBuilder::new(id(seqs.start), 0);
    assert!(seqs.clone().all(|seq| builder.push(id(seq), seq, &(producer << 32 | seq).to_le_bytes())));
    builder.finish()
}

/// Writes events 1 to `goal` of a producer; what was not acknowledged is sent again on a new link.
struct Writer {
    node: usize,
    shard: Shard,
    goal: u64,
    link: u64,
    up: bool,
    sent: u64,
    acked: u64,
}

impl Writer {
    fn step(&mut self, net: &mut PlaneNet<BusPlane>) {
        if !self.up {
            self.link += 1;
            (self.up, self.sent) = (true, self.acked);
            let link = self.link << 8 | self.node as u64;
            net.command(self.node, Command::Link { link, to: id(KEEPER), name: NAME.into() });
        }
        let next = (self.sent + 1 + 7).min(self.goal + 1);
        if self.up && self.sent < self.goal && self.sent - self.acked < 64 {
            let (link, first) = (self.link << 8 | self.node as u64, self.sent + 1);
            let run = run(self.node as u64, self.shard, first..next);
            net.command(self.node, Command::Append { link, shard: self.shard, first, run });
            self.sent = next - 1;
        }
    }

    fn told(&mut self, event: &Event) {
        match event {
            Event::Acked { link, upto } if *link == self.link << 8 | self.node as u64 => {
                assert!(*upto <= self.sent && *upto >= self.acked, "{upto} of {}", self.sent);
                self.acked = *upto;
            }
            Event::Broken { link, .. } if *link == self.link << 8 | self.node as u64 => self.up = false,
            _ => {}
        }
    }
}

/// Reads all shards, from its cursor on; asks again when an answer or an error came.
#[derive(Default)]
struct Reader {
    node: usize,
    call: u64,
    waits: bool,
    at: BTreeMap<Shard, Position>,
    got: BTreeMap<Shard, Vec<u64>>,
    lost: u64,
}

impl Reader {
    fn step(&mut self, net: &mut PlaneNet<BusPlane>, shards: Shard) {
        if self.waits {
            return;
        }
        self.waits = true;
        self.call += 1;
        let call = self.call << 8 | self.node as u64 | 0x80;
        let from = (0..shards).map(|s| (s, self.at.get(&s).copied())).collect();
        let (to, name) = (id(KEEPER), NAME.into());
        net.command(self.node, Command::Read { call, to, name, events: 20, bytes: 900, wait: true, from });
    }

    fn told(&mut self, event: &Event) {
        let mine = self.call << 8 | self.node as u64 | 0x80;
        match event {
            Event::Page { call, parts } if *call == mine => {
                self.waits = false;
                parts.iter().for_each(|part| self.take(part));
            }
            Event::Refused { call, .. } if *call == mine => self.waits = false,
            _ => {}
        }
    }

    fn take(&mut self, part: &Part) {
        if let Some((from, to)) = part.lost {
            assert_eq!(self.at.get(&part.shard).copied(), Some(from));
            self.lost += 1;
            self.at.insert(part.shard, to);
        }
        for (at, run) in &part.runs {
            let next = self.at.get(&part.shard).copied().map_or(at.minor, |seen| seen.minor + 1);
            assert_eq!(at.minor, next, "no event is left out, none comes twice");
            self.got.entry(part.shard).or_default().extend(
                run.events().map(|e| u64::from_le_bytes(e.body.try_into().expect("what was written"))),
            );
            self.at.insert(part.shard, Position::new(at.major, at.minor + u64::from(run.len()) - 1));
        }
    }
}

/// Links break and come back at drawn times; every event is kept once, and every reader gets all of them.
#[test]
fn every_event_arrives_once_however_links_break() {
    for seed in 0..40 {
        let (writers, shards) = (3, 2);
        let mut net = net(seed, 1 + writers + 2);
        host(&mut net, Hosting::default());
        let mut writers: Vec<Writer> = (1..=writers)
            .map(|node| Writer {
                node,
                shard: node as u16 % shards,
                goal: 300,
                link: 0,
                up: false,
                sent: 0,
                acked: 0,
            })
            .collect();
        // Two far readers, and the keeper itself.
        let mut readers: Vec<Reader> =
            [0, 4, 5].map(|node| Reader { node, ..Reader::default() }).into_iter().collect();
        let mut seen = 0;
        for step in 0..20_000u64 {
            let now = net.now() + Duration::from_millis(3);
            net.run(now);
            let told: Vec<_> =
                net.told[seen..].iter().map(|(_, node, event)| (*node, event.clone())).collect();
            seen = net.told.len();
            for (node, event) in told {
                writers.iter_mut().filter(|w| w.node == node).for_each(|w| w.told(&event));
                readers.iter_mut().filter(|r| r.node == node).for_each(|r| r.told(&event));
            }
            writers.iter_mut().for_each(|w| w.step(&mut net));
            readers.iter_mut().for_each(|r| r.step(&mut net, shards));
            if step < 2_000 && step % 11 == 0 {
                let node = 1 + below(mix(seed << 32 | step), 5) as usize;
                net.up(KEEPER, node);
            }
            let all = |r: &Reader| r.got.values().map(Vec::len).sum::<usize>() == 900;
            if step > 2_000 && readers.iter().all(all) && writers.iter().all(|w| w.acked == w.goal) {
                break;
            }
        }
        for reader in &readers {
            assert_eq!(reader.lost, 0, "seed {seed}");
            for writer in &writers {
                let of = |n: &&u64| **n >> 32 == writer.node as u64;
                let got: Vec<u64> =
                    reader.got[&writer.shard].iter().filter(of).map(|n| n & 0xffff_ffff).collect();
                assert_eq!(got, (1..=writer.goal).collect::<Vec<_>>(), "seed {seed}, writer {}", writer.node);
            }
            assert_eq!(reader.got, readers[0].got, "all see one order");
        }
    }
}

/// The keeper forgets everything when it ends: readers learn it once, and go on.
#[test]
fn a_keeper_that_starts_again_says_what_is_gone() {
    let mut net = net(1, 3);
    host(&mut net, Hosting::default());
    let mut reader = Reader { node: 2, ..Reader::default() };
    let write = |net: &mut PlaneNet<BusPlane>, link, seqs| {
        net.command(1, Command::Link { link, to: id(KEEPER), name: NAME.into() });
        net.command(1, Command::Append { link, shard: 0, first: 1, run: run(1, 0, seqs) });
    };
    let read = |net: &mut PlaneNet<BusPlane>, reader: &mut Reader, n| {
        for _ in 0..100 {
            reader.step(net, 1);
            let seen = net.told.len();
            net.run(net.now() + Duration::from_millis(50));
            let told: Vec<_> = net.told[seen..].to_vec();
            let node = reader.node;
            told.iter().filter(|t| t.1 == node).for_each(|t| reader.told(&t.2));
            if reader.got.values().map(Vec::len).sum::<usize>() == n {
                return;
            }
        }
        panic!("{n} events did not come: {:?}", reader.got);
    };
    write(&mut net, 1, 1..5);
    read(&mut net, &mut reader, 4);
    net.crash(KEEPER, BusPlane::new(id(KEEPER), 2));
    host(&mut net, Hosting::default());
    net.up(KEEPER, 1);
    net.up(KEEPER, 2);
    net.run(net.now() + Duration::from_millis(50));
    let broken = |t: &(Instant, usize, Event)| t.2 == Event::Broken { link: 1, why: Why::Down };
    assert!(net.told.iter().any(broken), "the writer learns that its link is over");
    reader.waits = false;
    write(&mut net, 2, 5..8);
    read(&mut net, &mut reader, 7);
    assert_eq!((reader.lost, reader.at[&0]), (1, Position::new(2 << 10, 3)));
    // Within one life, too, what is kept again under a name begins anew.
    net.command(KEEPER, Command::Unhost { name: NAME.into() });
    net.run(net.now() + Duration::from_millis(50));
    host(&mut net, Hosting::default());
    write(&mut net, 3, 8..20);
    read(&mut net, &mut reader, 19);
    assert_eq!((reader.lost, reader.at[&0]), (2, Position::new((2 << 10) + 1, 12)));
}

#[test]
fn what_may_not_be_done_is_refused_with_its_reason() {
    let mut net = net(1, 3);
    let ask = |net: &mut PlaneNet<BusPlane>, node, to, name: &str, write| {
        let from = net.told.len();
        net.command(node, Command::Ask { call: 9, to, name: name.into(), write });
        net.run(net.now() + Duration::from_millis(200));
        match &net.told[from..] {
            [(_, at, Event::Refused { call: 9, why })] if *at == node => Err(*why),
            [(_, at, Event::Ends { call: 9, .. })] if *at == node => Ok(()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut net, 1, id(KEEPER), NAME, false), Err(Why::NoTopic));
    let only = Access::Only(vec![id(1)]);
    let limits = Limits { shards: 1, ..Limits::default() };
    host(&mut net, Hosting { writers: only, limits, ..Hosting::default() });
    assert_eq!(ask(&mut net, 1, id(KEEPER), NAME, true), Ok(()));
    assert_eq!(ask(&mut net, 2, id(KEEPER), NAME, true), Err(Why::NotAllowed));
    assert_eq!(ask(&mut net, 2, id(KEEPER), NAME, false), Ok(()));
    assert_eq!(ask(&mut net, KEEPER, id(KEEPER), NAME, true), Ok(()), "who keeps them may");
    assert_eq!(ask(&mut net, 1, id(7), NAME, false), Err(Why::NotConnected));
    assert_eq!(ask(&mut net, 1, id(KEEPER), "", false), Err(Why::Limit));

    // A shard too many, and a cursor from the future.
    net.command(1, Command::Link { link: 3, to: id(KEEPER), name: NAME.into() });
    net.command(1, Command::Append { link: 3, shard: 1, first: 1, run: run(1, 1, 1..2) });
    net.run(net.now() + Duration::from_millis(200));
    assert_eq!(net.told.pop().map(|t| t.2), Some(Event::Broken { link: 3, why: Why::Limit }));
    let from = vec![(0, Some(Position::new(9 << 10, 9)))];
    let (to, name) = (id(KEEPER), NAME.to_string());
    net.command(2, Command::Read { call: 4, to, name, events: 1, bytes: 1, wait: true, from });
    net.run(net.now() + Duration::from_millis(200));
    assert_eq!(net.told.pop().map(|t| t.2), Some(Event::Refused { call: 4, why: Why::Ahead }));

    // The end of the name ends links and calls.
    let from = vec![(0, None)];
    let (to, name) = (id(KEEPER), NAME.to_string());
    net.command(2, Command::Read { call: 5, to, name, events: 1, bytes: 1, wait: true, from });
    net.run(net.now() + Duration::from_millis(200));
    net.command(KEEPER, Command::Unhost { name: NAME.into() });
    net.run(net.now() + Duration::from_millis(200));
    assert_eq!(net.told.pop().map(|t| t.2), Some(Event::Refused { call: 5, why: Why::NoTopic }));
}

/// A reader that waits costs one call; what it asked last is answered, what it cancelled is not.
#[test]
fn a_cancelled_read_is_never_answered() {
    let mut net = net(3, 2);
    host(&mut net, Hosting::default());
    let read = |call| {
        let (to, name, from) = (id(KEEPER), NAME.to_string(), vec![(0, None)]);
        Command::Read { call, to, name, events: 10, bytes: 10_000, wait: true, from }
    };
    net.command(1, read(1));
    net.command(1, read(2));
    net.run(net.now() + Duration::from_millis(100));
    net.command(1, Command::Cancel { call: 1 });
    net.run(net.now() + Duration::from_millis(100));
    net.command(KEEPER, Command::Link { link: 9, to: id(KEEPER), name: NAME.into() });
    net.command(KEEPER, Command::Append { link: 9, shard: 0, first: 1, run: run(1, 0, 1..2) });
    net.run(net.now() + Duration::from_millis(200));
    let calls: Vec<u64> = net
        .told
        .iter()
        .filter_map(|t| if let Event::Page { call, .. } = t.2 { Some(call) } else { None })
        .collect();
    assert_eq!(calls, [2]);
}
