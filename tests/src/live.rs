//! Frames of a hostile peer against a live association.
//!
//! The peer has real keys, so every packet opens and every frame acts. Keys cannot be cloned: the
//! three nodes of a [`Lab`] live once, their steps are recorded, and each case lives them again.

use net_proto::codec::varint_bytes;
use net_proto::identity::{Identity, Incarnation, Mesh, MeshId, MeshKey};
use net_proto::node::{Command, Config, DownReason, Event, Input, Node, Step};
use net_proto::path::{Ecn, Path, Remote};
use net_proto::session::{Peer, parse_header};
use net_proto::stream::{Messages, Mode, StreamId, charge, frame_message};
use net_proto::time::{Duration, Instant};

const VICTIM: usize = 0;
const HOSTILE: usize = 1;
const BYSTANDER: usize = 2;
const MODES: [Mode; 3] = [Mode::Reliable, Mode::Unordered, Mode::FireAndForget];
/// Room for a batch of datagrams.
const ROOM: usize = 16 * 1500;
const MESSAGE: &[u8] = b"still here";

fn address(node: usize) -> Path {
    Path::udp(([10, 0, 0, node as u8 + 1], 7000).into())
}

fn fresh(node: usize) -> Node {
    let identity = Identity::from_seed(&[node as u8 + 10; 32]);
    let mesh = Mesh { id: MeshId([1; 32]), key: MeshKey([2; 32]) };
    let config = Config::new(identity, mesh, Incarnation { epoch: 1, random: node as u64 });
    Node::new(config, [node as u8; 32], Instant::from_nanos(1_000_000_000)).expect("a configuration")
}

/// A node with a driver around it that may write down what the node lives.
struct Station {
    node: Node,
    tape: Vec<(Instant, Step)>,
    record: bool,
    reading: bool,
    events: Vec<Event>,
    messages: Vec<(Peer, Vec<u8>)>,
    out: Vec<(Path, Vec<u8>)>,
    buf: Vec<u8>,
}

impl Station {
    fn new(node: Node, record: bool) -> Self {
        let (tape, events, messages, out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { node, tape, record, reading: true, events, messages, out, buf: vec![0; ROOM] }
    }

    fn note(&mut self, now: Instant, step: impl FnOnce() -> Step) {
        if self.record {
            self.tape.push((now, step()));
        }
    }

    fn input(&mut self, now: Instant, input: Input<'_>) {
        self.note(now, || Step::from(&input));
        self.node.handle(now, input);
    }

    fn command(&mut self, now: Instant, command: Command) {
        self.input(now, Input::Command(command));
    }

    /// What a driver does after an input. Handshake work is done only while the tape runs: a case
    /// needs no new keys.
    fn settle(&mut self, now: Instant) {
        while let Some((ticket, job)) = self.node.poll_job() {
            self.note(now, || Step::Jobs);
            if self.record {
                self.input(now, Input::Job(ticket, job.run()));
            }
        }
        self.take_events(now);
        loop {
            let sent = self.node.poll_transmit(now, &mut self.buf);
            self.note(now, || Step::Transmit(ROOM));
            let Some(t) = sent else { break };
            for datagram in self.buf[..t.len].chunks(t.segment.unwrap_or(t.len)) {
                self.out.push((t.path, datagram.to_vec()));
            }
        }
        self.take_events(now);
        self.node.invariants();
    }

    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.node.poll_event() {
            if let (Event::Readable { peer, stream }, true) = (&event, self.reading) {
                self.read(now, *peer, *stream);
            }
            self.events.push(event);
        }
    }

    fn read(&mut self, now: Instant, peer: Peer, stream: StreamId) {
        self.note(now, || Step::Take(peer, stream));
        let Some(taken) = self.node.take(peer, stream, &mut Vec::new()) else { return };
        let mut total = 0;
        for (_, message) in Messages::received(&taken.chunk, taken.mode, taken.first) {
            total += charge(message.len());
            self.messages.push((peer, message.to_vec()));
        }
        if total > 0 {
            self.command(now, Command::Consumed { peer, stream, charge: total });
        }
    }

    fn peer(&self, entity: usize) -> Peer {
        let entity = Identity::from_seed(&[entity as u8 + 10; 32]).id();
        self.node.peers().find(|(_, e)| *e == entity).expect("an association").0
    }

    fn send(&mut self, now: Instant, peer: Peer, stream: StreamId, message: &[u8]) {
        let mut chunk = Vec::new();
        frame_message(&mut chunk, message);
        self.command(now, Command::Send { peer, stream, chunk });
    }

    fn stream(&self) -> StreamId {
        let ready = self.events.iter().rev().find_map(|e| match e {
            Event::StreamReady { stream, .. } => Some(*stream),
            _ => None,
        });
        ready.expect("a stream")
    }
}

/// What many cases came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Associations that were rebuilt and attacked.
    pub cases: u64,
    /// Packets that a live association opened.
    pub packets: u64,
    /// Frames in them that were acted on. Of a packet that ended the association one is counted.
    pub frames: u64,
    /// Associations that the victim ended as the rules say, with a violation.
    pub violations: u64,
    /// Associations that the hostile peer's CLOSE ended.
    pub closed: u64,
    /// Times that the bystander's association was tried and carried its message.
    pub bystanders: u64,
}

/// The recorded beginning of three nodes: a victim, a peer that will be hostile, a bystander.
pub struct Lab {
    tapes: [Vec<(Instant, Step)>; 3],
    start: Instant,
    bystander_stream: StreamId,
    /// Leased when the hostile peer is gone.
    rest: u64,
    /// Streams of the hostile peer are odd.
    odd: u64,
    /// What happened so far.
    pub tally: Tally,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// Lets the three nodes meet: both others dial the victim and open a stream, and it opens three
    /// to the hostile one.
    pub fn new() -> Self {
        let mut now = Instant::from_nanos(1_000_000_000);
        let mut all = [VICTIM, HOSTILE, BYSTANDER].map(|n| Station::new(fresh(n), true));
        let ids = [VICTIM, HOSTILE].map(|n| Identity::from_seed(&[n as u8 + 10; 32]).id());
        for n in [HOSTILE, BYSTANDER] {
            let dial = Command::Dial { id: 1, entity: ids[VICTIM], paths: vec![address(VICTIM)] };
            all[n].command(now, dial);
        }
        exchange(&mut all, &mut now);
        for (n, to) in [(BYSTANDER, VICTIM), (VICTIM, HOSTILE), (VICTIM, HOSTILE), (VICTIM, HOSTILE)] {
            let peer = all[n].peer(to);
            let mode = MODES[all[n].events.len() % 3];
            let mode = if n == BYSTANDER { Mode::Reliable } else { mode };
            all[n].command(now, Command::Open { id: 2, peer, label: "lab".into(), mode, priority: 16 });
            all[n].take_events(now);
            let stream = all[n].stream();
            all[n].send(now, peer, stream, MESSAGE);
            exchange(&mut all, &mut now);
        }
        let bystander_stream = all[BYSTANDER].stream();
        let mut lab = Self {
            tapes: all.map(|s| s.tape),
            start: now,
            bystander_stream,
            rest: 0,
            odd: u64::from(ids[HOSTILE] > ids[VICTIM]),
            tally: Tally::default(),
        };
        let mut case = lab.rebuild();
        case.close();
        lab.rest = case.victim.node.leased();
        lab
    }

    fn relive(&self, n: usize) -> Station {
        let mut node = fresh(n);
        for (at, step) in &self.tapes[n] {
            let _ = node.replay(*at, step.clone());
        }
        Station::new(node, false)
    }

    fn rebuild(&self) -> Case {
        let (victim, hostile) = (self.relive(VICTIM), self.relive(HOSTILE));
        let (foe, friend) = (victim.peer(HOSTILE), victim.peer(BYSTANDER));
        let friendly = victim.node.peer_stats(friend).expect("a bystander").packets_received;
        Case {
            key: hostile.peer(VICTIM),
            victim,
            hostile,
            foe,
            friend,
            friendly,
            now: self.start,
            highest: 0,
            ended: None,
            odd: self.odd,
            streams: core::array::from_fn(|n| Stream { index: n as u64, ..Stream::default() }),
            next_index: 8,
            theirs: 3,
            charged: 0,
        }
    }

    /// Attacks one rebuilt association as `input` says. Panics if the victim breaks a rule of its own,
    /// does not let go of the association, or lets another one feel it.
    pub fn attack(&mut self, input: &[u8]) {
        let mut case = self.rebuild();
        // How many values in 256 are not what fits: from a case without a fault to a short one.
        let rate = input.first().map_or(0, |b| [0, 0, 1, 1, 2, 4, 16, 64][usize::from(b % 8)]);
        let mut grammar = Grammar { rest: input.get(1..).unwrap_or_default(), rate };
        while case.ended.is_none() && !grammar.rest.is_empty() {
            case.op(&mut grammar, &mut self.tally);
        }
        case.close();
        match case.ended {
            Some(DownReason::Violation(_)) => self.tally.violations += 1,
            Some(DownReason::ClosedByPeer(_)) => self.tally.closed += 1,
            _ => {}
        }
        assert_eq!(case.victim.node.leased(), self.rest, "window was not given back");
        assert!(case.victim.node.ceiling() < 256 << 20, "the printed ceiling ran away");
        case.bystander_untouched();
        if self.tally.cases.is_multiple_of(64) {
            let bystander = self.relive(BYSTANDER);
            case.bystander_works(bystander, self.bystander_stream);
            self.tally.bystanders += 1;
        }
        self.tally.cases += 1;
    }
}

/// Passes datagrams around until nobody has anything to say.
fn exchange(all: &mut [Station; 3], now: &mut Instant) {
    for _ in 0..64 {
        *now += Duration::from_millis(5);
        let mut quiet = true;
        for from in 0..all.len() {
            all[from].input(*now, Input::Timeout);
            all[from].settle(*now);
            for (path, mut data) in core::mem::take(&mut all[from].out) {
                quiet = false;
                let Some(to) = (0..all.len()).find(|n| address(*n).remote == path.remote) else { continue };
                let input = Input::Datagram { path: address(from), ecn: Ecn::NotEct, data: &mut data };
                all[to].input(*now, input);
                all[to].settle(*now);
            }
        }
        if quiet {
            return;
        }
    }
}

/// What the hostile peer knows of a stream of its own, so that most of its frames fit.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    index: u64,
    open: bool,
    offset: u64,
    number: u64,
    charged: u64,
}

struct Case {
    victim: Station,
    hostile: Station,
    /// The victim's handle of the hostile peer.
    foe: Peer,
    /// The victim's handle of the bystander.
    friend: Peer,
    friendly: u64,
    /// The hostile node's handle of the victim.
    key: Peer,
    now: Instant,
    /// Highest packet number that the victim sent to the hostile peer.
    highest: u64,
    ended: Option<DownReason>,
    odd: u64,
    streams: [Stream; 8],
    next_index: u64,
    /// Streams that the victim opened.
    theirs: u64,
    /// Charged to the session by the hostile peer; it stays within the first window.
    charged: u64,
}

impl Case {
    fn op(&mut self, g: &mut Grammar<'_>, tally: &mut Tally) {
        match g.byte() % 16 {
            11 => {
                let ms = [0, 1, 5, 30, 200, 900][g.pick(6)];
                self.pass(Duration::from_millis(ms));
            }
            12 => {
                let mode = MODES[g.pick(3)];
                let open = Command::Open { id: 3, peer: self.foe, label: "v".into(), mode, priority: 16 };
                self.victim.command(self.now, open);
                self.theirs += 1;
            }
            13 => {
                let stream = StreamId(self.stream_id(g));
                let message = vec![7; g.pick(256) * 8];
                self.victim.send(self.now, self.foe, stream, &message);
            }
            14 => {
                let (peer, stream) = (self.foe, StreamId(self.stream_id(g)));
                let command = match g.pick(4) {
                    0 => Command::Finish { peer, stream },
                    1 => Command::Reset { peer, stream, code: 1 },
                    2 => Command::Stop { peer, stream, code: 1 },
                    _ => Command::Flush { id: 4, peer, stream },
                };
                self.victim.command(self.now, command);
            }
            15 => self.victim.reading = g.pick(4) > 0,
            _ => return self.packet(g, tally),
        }
        self.look();
    }

    /// One packet of up to six frames.
    fn packet(&mut self, g: &mut Grammar<'_>, tally: &mut Tally) {
        let count = 1 + g.pick(6) as u64;
        let mut frames = Vec::with_capacity(256);
        (0..count).for_each(|_| self.frame(g, &mut frames));
        // Beyond a datagram: the last frames are cut.
        frames.truncate(1400);
        let mut packet = [0; 1500];
        let sealed = self.hostile.node.forge_packet(self.key, &frames, &mut packet);
        let len = sealed.expect("a packet with room and a key");
        let ecn = [Ecn::NotEct, Ecn::Ect0, Ecn::Ce, Ecn::NotEct][g.pick(4)];
        // Mostly from where it always was; sometimes another port or another host.
        let path = match g.byte() {
            0..250 => address(HOSTILE),
            port @ 250..254 => Path::udp(([10, 0, 0, 2], 7000 + u16::from(port)).into()),
            host => Path::udp(([10, 0, 1, host], 7000).into()),
        };
        self.victim.input(self.now, Input::Datagram { path, ecn, data: &mut packet[..len] });
        self.look();
        tally.packets += 1;
        tally.frames += if self.ended.is_none() { count } else { 1 };
    }

    /// Lets the victim do what it wants to, and notes what became of the association.
    fn look(&mut self) {
        self.victim.settle(self.now);
        for (path, datagram) in self.victim.out.drain(..) {
            let foe = matches!(path.remote, Remote::Udp(a) if a.ip() == address(HOSTILE).udp_addr().expect("UDP").ip());
            if let (true, Some((_, counter))) = (foe, parse_header(&datagram)) {
                self.highest = self.highest.max(counter);
            }
        }
        for event in self.victim.events.drain(..) {
            if let Event::Disconnected { peer, reason, .. } = event {
                assert_eq!(peer, self.foe, "another association ended: {reason:?}");
                self.ended = Some(reason);
            }
        }
        // Closing: the rest of the case would only make it repeat CLOSE.
        if self.ended.is_none() {
            self.ended = self.victim.node.closing(self.foe);
        }
    }

    /// Time passes; the victim is called when it asked to be.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..256 {
            let Some((at, _)) = self.victim.node.poll_timeout().filter(|(at, _)| *at <= until) else { break };
            self.now = self.now.max(at);
            self.victim.input(self.now, Input::Timeout);
            self.look();
        }
        self.now = until;
    }

    /// Ends the association, if it still lives, and waits until the victim has let go of it.
    fn close(&mut self) {
        let reason = self.ended;
        self.victim.command(self.now, Command::Disconnect { peer: self.foe, code: 9 });
        self.look();
        for _ in 0..8 {
            if self.victim.node.entity(self.foe).is_none() {
                self.ended = reason;
                return;
            }
            self.pass(Duration::from_secs(20));
        }
        panic!("the victim does not let go of the association");
    }

    fn bystander_untouched(&self) {
        let stats = self.victim.node.peer_stats(self.friend).expect("the bystander's association lives");
        assert_eq!(stats.packets_received, self.friendly, "packets went to another association");
        assert!(self.victim.messages.iter().all(|(peer, _)| *peer == self.foe), "messages of another");
    }

    /// The bystander sends a message on the stream that it always had.
    fn bystander_works(&mut self, mut bystander: Station, stream: StreamId) {
        let peer = bystander.peer(VICTIM);
        self.victim.reading = true;
        self.victim.messages.clear();
        let now = self.now;
        bystander.send(now, peer, stream, MESSAGE);
        bystander.settle(now);
        for (_, mut data) in bystander.out.drain(..) {
            let input = Input::Datagram { path: address(BYSTANDER), ecn: Ecn::NotEct, data: &mut data };
            self.victim.input(now, input);
            self.victim.settle(now);
        }
        assert_eq!(self.victim.messages, [(self.friend, MESSAGE.to_vec())], "the bystander is not heard");
    }

    /// A stream that may exist: mostly the hostile peer's, else the victim's.
    fn stream_id(&self, g: &mut Grammar<'_>) -> u64 {
        let pick = g.byte();
        let side = if pick < 160 { self.odd } else { 1 - self.odd };
        let pick = u64::from(pick);
        let index = if side == self.odd { self.streams[pick as usize % 8].index } else { pick % self.theirs };
        if g.odd() { g.wild() } else { 2 * index + side }
    }

    /// Appends one frame.
    fn frame(&mut self, g: &mut Grammar<'_>, out: &mut Vec<u8>) {
        match g.pick(32) {
            0 => out.push(0x01),
            1 => out.extend(vec![0; g.pick(64)]),
            2..=5 => self.ack(g, out),
            6 => {
                out.push(0x04 + g.pick(2) as u8);
                out.extend((0..8).map(|_| g.byte()));
            }
            7 => put(out, 0x06, &[g.near(1)]),
            8 => put(out, 0x08, &[g.near(64 << 10)]),
            9 => put(out, 0x09, &[g.near(1024)]),
            10..=21 => self.data(g, out),
            22 => {
                let id = self.stream_id(g);
                put(out, 0x1a, &[id, g.near(32 << 10)]);
            }
            23 => {
                let id = self.stream_id(g);
                put(out, 0x1b, &[id, g.near(40 << 10), g.near(64)]);
            }
            24 => put(out, 0x1c, &[g.near(70 << 10), g.near(64)]),
            25 => {
                let id = self.stream_id(g);
                put(out, 0x19, &[id]);
                out.extend([g.byte(), 0]);
            }
            26 if g.pick(4) == 0 => {
                let s = self.ensure(g.pick(8), out);
                put(out, 0x18, &[self.id(s)]);
                out.extend([g.byte(), 0]);
                put_number(out, g.near(self.streams[s].charged));
                self.replace(s);
            }
            27 if g.pick(4) == 0 => {
                let s = self.ensure(g.pick(8), out);
                let Stream { offset, number, charged, .. } = self.streams[s];
                let size = if s.is_multiple_of(3) { offset } else { number };
                put(out, 0x17, &[self.id(s), g.near(size), g.near(charged)]);
                self.replace(s);
            }
            28 | 29 => {
                // An extension that may be ignored; rarely one that may not.
                put_number(out, 0x40 + 2 * g.pick(200) as u64 + u64::from(g.odd()));
                let body = vec![g.byte(); g.pick(40)];
                put_number(out, body.len() as u64);
                out.extend(body);
            }
            30 if g.odd() => out.extend([0x07, g.byte(), 0, g.byte() % 9]),
            31 if g.odd() => out.extend((0..g.pick(24)).map(|_| g.byte())),
            _ => {
                // A stream that is open already, or a bad OPEN.
                let slot = self.ensure(g.pick(8), out);
                put(out, 0x10, &[g.near(self.id(slot))]);
                out.extend([[1, 2, 0][slot % 3], 16, 1, b'x']);
            }
        }
    }

    /// An acknowledgement of packets that the victim may have sent.
    fn ack(&self, g: &mut Grammar<'_>, out: &mut Vec<u8>) {
        let ecn = g.pick(2) == 1;
        let largest = if g.odd() { g.wild() } else { self.highest.saturating_sub(g.pick(4) as u64) };
        let more = if largest > 64 { g.pick(6) as u64 } else { 0 };
        let first = if largest > 64 { g.pick(4) as u64 } else { g.pick(largest as usize + 1) as u64 };
        out.push(0x02 + u8::from(ecn));
        for number in [largest, g.near(900), more, first] {
            put_number(out, number);
        }
        for _ in 0..more {
            put_number(out, g.pick(4) as u64);
            put_number(out, g.pick(4) as u64);
        }
        if ecn {
            let marked = self.highest;
            for number in [g.near(marked), u64::from(g.odd()), g.near(0)] {
                put_number(out, number);
            }
        }
    }

    fn id(&self, slot: usize) -> u64 {
        2 * self.streams[slot].index + self.odd
    }

    /// OPEN in front, unless the stream is known. Gives back the slot.
    fn ensure(&mut self, slot: usize, out: &mut Vec<u8>) -> usize {
        if !core::mem::replace(&mut self.streams[slot].open, true) {
            put(out, 0x10, &[self.id(slot)]);
            out.extend([[1, 2, 0][slot % 3], 16, 1, b'h']);
        }
        slot
    }

    /// The stream is over: the next one takes its slot, as long as the victim allows more.
    fn replace(&mut self, slot: usize) {
        if self.next_index < 1_000 {
            self.streams[slot] = Stream { index: self.next_index, ..Stream::default() };
            self.next_index += 1;
        }
    }

    /// Messages of a stream in its mode, mostly what comes next: whole, in two parts, parts in either
    /// order, parts left out, parts twice.
    fn data(&mut self, g: &mut Grammar<'_>, out: &mut Vec<u8>) {
        let slot = self.ensure(g.pick(8), out);
        let id = self.id(slot);
        let (len, whole) = (1 + g.pick(80), g.pick(3) > 0);
        let total = if whole { len } else { 2 * len };
        if self.charged + charge(total) > 60 << 10 {
            return out.push(0x01);
        }
        let mut chunk = Vec::new();
        frame_message(&mut chunk, &vec![g.byte(); total]);
        let s = &mut self.streams[slot];
        let Stream { offset, number, charged, .. } = *s;
        s.offset += chunk.len() as u64;
        s.number += 1;
        s.charged += charge(total);
        self.charged += charge(total);
        let mut parts: Vec<(Vec<u64>, Vec<u8>)> = Vec::new();
        let kind = match (slot % 3, whole) {
            (0, _) => {
                let half = if whole { chunk.len() } else { chunk.len() / 2 };
                for (at, bytes) in [(0, &chunk[..half]), (half, &chunk[half..])] {
                    parts.push((vec![id, g.near(offset + at as u64)], bytes.to_vec()));
                }
                parts.truncate(if whole { 1 } else { 2 });
                0x11
            }
            (1, true) => {
                parts.push((vec![id, g.near(number)], chunk));
                0x12
            }
            (1, false) => {
                for at in [0, len] {
                    parts.push((
                        vec![id, g.near(number), g.near(total as u64), g.near(at as u64)],
                        vec![1; len],
                    ));
                }
                0x13
            }
            (_, true) if g.pick(8) == 0 => {
                // This message is missed; SYNC says so.
                put(out, 0x16, &[id, g.near(number + 1), g.near(charged + charge(total))]);
                return;
            }
            (_, true) => {
                parts.push((vec![id, g.near(number), g.near(charged)], chunk));
                0x14
            }
            (_, false) => {
                for at in [0, len] {
                    let head =
                        vec![id, g.near(number), g.near(charged), g.near(total as u64), g.near(at as u64)];
                    parts.push((head, vec![1; len]));
                }
                0x15
            }
        };
        match g.pick(8) {
            0 => parts.reverse(),
            1 => parts.push(parts[0].clone()),
            2 if slot % 3 == 2 => parts.truncate(1),
            _ => {}
        }
        for (head, bytes) in parts {
            put(out, kind, &head);
            put_number(out, g.near(bytes.len() as u64));
            out.extend(bytes);
        }
    }
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    let (bytes, len) = varint_bytes(number);
    out.extend_from_slice(&bytes[..len]);
}

fn put(out: &mut Vec<u8>, kind: u8, numbers: &[u64]) {
    out.push(kind);
    numbers.iter().for_each(|n| put_number(out, *n));
}

/// Reads choices from a fuzzer's bytes; zeros when they are used up.
struct Grammar<'a> {
    rest: &'a [u8],
    /// How many of 256 values are not what fits.
    rate: u8,
}

impl Grammar<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// Below `bound`, which is at most 256 here.
    fn pick(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    /// Whether this is to be wrong.
    fn odd(&mut self) -> bool {
        self.byte() < self.rate
    }

    /// `value`, rarely something else.
    fn near(&mut self, value: u64) -> u64 {
        if !self.odd() {
            return value;
        }
        match self.pick(8) {
            0 => value + 1,
            1 => value.saturating_sub(1),
            2 => value.saturating_mul(2),
            3 => value + self.pick(64) as u64,
            4 => value.saturating_sub(self.pick(64) as u64),
            _ => self.wild(),
        }
    }

    /// Any number that a varint holds, boundaries among them.
    fn wild(&mut self) -> u64 {
        const EDGES: [u64; 8] = [0, 63, 64, 16_383, 1 << 30, (1 << 32) - 1, (1 << 62) - 2, (1 << 62) - 1];
        let edge = self.byte();
        if edge < 128 {
            return EDGES[usize::from(edge % 8)];
        }
        let mut bytes = [0; 8];
        bytes.iter_mut().for_each(|b| *b = self.byte());
        u64::from_le_bytes(bytes) >> (2 + edge % 60)
    }
}
