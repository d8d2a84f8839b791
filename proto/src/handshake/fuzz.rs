//! A hostile member and a stranger against one machine: what fuzzers run.
//!
//! The bytes of a fuzzer are choices: which message to begin from, what to change, whether to repair
//! its MACs, when time passes. One machine lives through all that one input says, and every input
//! begins with the same machine, so an input that fails does so again.

use alloc::vec;
use alloc::vec::Vec;

use super::api::{Answer, Config, DialFailure, DialRequest, Drops, Event, MAX_MESHES};
use super::cookie::{self, Cookies};
use super::dial::header1;
use super::job::Work;
use super::keys::{MAC, MeshKeys, mac1, mac16, prologue};
use super::machine::Handshakes;
use super::noise::{Noise, Seed};
use super::wire::{
    COOKIE_REPLY, FLOOR, HEADER1, HEADER2, Hello, MACS, MESSAGE1, MESSAGE2, NOISE1, Outcome, VERSIONS_REPLY,
    Welcome, index_at, macs,
};
use crate::codec::Wire;
use crate::entropy::Entropy;
use crate::identity::{EntityId, Identity, Incarnation, Mesh, MeshId, MeshKey};
use crate::path::Path;
use crate::session::aead::Cipher;
use crate::time::{Duration, Instant};

const VICTIM: u8 = 1;
/// Whom the victim dials.
const DIALLED: u8 = 2;
/// Members that dial the victim.
const MEMBERS: core::ops::Range<u8> = 3..6;
const PATHS: usize = 3;
const HALVES: usize = 16;
const VERSIONS: (u8, u8) = (1, 2);

/// How far datagrams got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Inputs, each with a machine of its own.
    pub cases: u64,
    /// Datagrams in them.
    pub datagrams: u64,
    /// Of them, such that nobody without a mesh key could make.
    pub authentic: u64,
    /// Messages 1 whose Noise part was read, with or without success.
    pub reads: u64,
    /// Of them, such that authenticated and decoded: the node was asked.
    pub asked: u64,
    /// Messages 2 that the machine made.
    pub responded: u64,
    /// Messages 2 whose Noise part was read, with or without success.
    pub finishes: u64,
    /// Dials that a message 2 completed.
    pub completed: u64,
    /// Dials that failed: refused, no common version, timed out.
    pub failed: [u64; 3],
    /// Answers that left: messages 2, cookie replies, versions replies.
    pub answers: [u64; 3],
    /// Everything else, by the reason for dropping it.
    pub drops: Drops,
}

fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn meshes() -> [Mesh; 2] {
    [1, 2].map(|n| Mesh { id: MeshId([n; 32]), key: MeshKey([n ^ 0x55; 32]) })
}

fn path(n: usize) -> Path {
    Path::udp(([192, 0, 2, n as u8], 9000).into())
}

fn start() -> Instant {
    Instant::from_nanos(1_000_000_000)
}

fn machine(n: u8, meshes: Vec<Mesh>) -> Handshakes {
    let mut config = Config::new(identity(n), Incarnation { epoch: 5, random: u64::from(n) }, meshes);
    (config.versions, config.half_open_limit, config.job_limit) = (VERSIONS, HALVES, 8);
    (config.cookie_after, config.confirmed_limit) = (20, 4);
    Handshakes::new(config, Entropy::new(&[n; 32], "fuzz"), start())
}

fn request(id: u64, peer: u8, at: usize) -> DialRequest {
    DialRequest {
        id,
        peer: identity(peer).id(),
        paths: vec![path(at)],
        local_index: id as u32,
        resume: None,
        limits: vec![7; 9],
        mesh: None,
    }
}

/// Runs the jobs of a well-behaved machine and takes the first datagram that it sends.
fn spoken(m: &mut Handshakes) -> Vec<u8> {
    while let Some((ticket, job)) = m.poll_job() {
        m.handle_job(start(), ticket, job.run());
    }
    let mut buf = vec![0; 1200];
    let sent = m.poll_transmit(start(), &mut buf);
    buf.truncate(sent.map_or(0, |(_, len)| len));
    buf
}

/// What every case begins with, made once.
pub struct Lab {
    keys: [MeshKeys; 2],
    victim: EntityId,
    /// Whom the victim dials.
    peer: Identity,
    members: Vec<Identity>,
    /// True messages 1 to the victim.
    first: Vec<Vec<u8>>,
    /// True messages 2 to its first dial: yes and no.
    second: Vec<Vec<u8>>,
    /// What happened so far.
    pub tally: Tally,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// Makes the true messages.
    pub fn new() -> Self {
        const { assert!(MAX_MESHES >= 2) };
        let keys = meshes().map(|mesh| MeshKeys::new(&mesh, &identity(VICTIM).id()));
        let mut first = Vec::new();
        for n in MEMBERS {
            let mut member = machine(n, vec![meshes()[usize::from(n) % 2].clone()]);
            for id in 1..3 {
                assert!(member.dial(start(), request(id, VICTIM, 0)).is_ok());
                first.push(spoken(&mut member));
            }
        }
        let question = spoken(&mut Case::new().m);
        let second = [true, false].map(|yes| {
            let mut peer = machine(DIALLED, meshes().to_vec());
            peer.handle_datagram(start(), &path(0), &question);
            let _ = spoken(&mut peer);
            while let Some(event) = peer.poll_event() {
                if let Event::Asked { id, .. } = event {
                    let accept =
                        Answer::Accept { local_index: 9, association: 9, resumed: false, limits: vec![] };
                    assert!(peer.answer(start(), id, if yes { accept } else { Answer::Refuse(3) }));
                }
            }
            spoken(&mut peer)
        });
        assert!(first.iter().chain(&second).all(|message| !message.is_empty()));
        let members = MEMBERS.map(identity).collect();
        let (victim, peer) = (identity(VICTIM).id(), identity(DIALLED));
        Self { keys, victim, peer, members, first, second: second.into(), tally: Tally::default() }
    }

    /// Does to one machine what `input` says. Panics if it answers with more bytes than the question
    /// had, does anything for a datagram that nobody with a mesh key made, believes a changed message,
    /// exceeds its limits, or does not come to rest.
    pub fn attack(&mut self, input: &[u8]) {
        let mut case = Case::new();
        let mut g = Grammar(input);
        case.settle(self, &mut g, &[]);
        while !g.0.is_empty() {
            case.step(self, &mut g);
        }
        case.holding = false;
        case.settle(self, &mut g, &[]);
        for _ in 0..8 {
            case.pass(self, &mut g, Duration::from_secs(10));
        }
        assert!(case.m.is_idle(), "the machine does not come to rest");
        self.tally.cases += 1;
        add(&mut self.tally.drops, case.m.drops());
    }
}

/// One machine and what the attackers know of it.
struct Case {
    m: Handshakes,
    now: Instant,
    /// Message 1 of the victim's dial.
    dialled: Vec<u8>,
    dials: u64,
    /// Replaced round robin: true messages that were made during the case.
    fresh: Vec<Vec<u8>>,
    made: usize,
    /// By path.
    cookies: [Option<[u8; MAC]>; PATHS],
    /// Bytes that came, less those of answers.
    credit: usize,
    /// Jobs wait.
    holding: bool,
    /// This datagram is true, or of one who holds the keys of the entity that it names.
    believable: bool,
    index: u32,
}

impl Case {
    fn new() -> Self {
        let mut m = machine(VICTIM, meshes().to_vec());
        assert!(m.dial(start(), request(1, DIALLED, 0)).is_ok());
        Self {
            m,
            now: start(),
            dialled: Vec::new(),
            dials: 1,
            fresh: Vec::new(),
            made: 0,
            cookies: [None; PATHS],
            credit: 0,
            holding: false,
            believable: false,
            index: 100,
        }
    }

    fn step(&mut self, lab: &mut Lab, g: &mut Grammar<'_>) {
        match g.byte() {
            0..8 => {
                let ms = [1, 10, 50, 300, 1_000, 2_000, 6_000, 130_000][g.pick(8)];
                self.pass(lab, g, Duration::from_millis(ms));
            }
            8 => {
                self.holding = !self.holding;
                self.settle(lab, g, &[]);
            }
            9 if self.m.dialling() == 0 => {
                self.dials += 1;
                let dialled = self.m.dial(self.now, request(self.dials, DIALLED, g.pick(PATHS)));
                assert!(dialled.is_ok() || self.holding, "{dialled:?}");
                self.settle(lab, g, &[]);
            }
            10..13 => self.forged_first(lab, g),
            13 => self.forged_second(lab, g),
            14..18 => self.cookie_reply(lab, g),
            18..22 => self.versions_reply(lab, g),
            _ => self.changed(lab, g),
        }
    }

    /// A true message, or noise, with up to seven changes and perhaps the right MACs again.
    fn changed(&mut self, lab: &mut Lab, g: &mut Grammar<'_>) {
        let pool = match g.pick(8) {
            0..3 => &lab.first,
            3..5 if !self.fresh.is_empty() => &self.fresh,
            5..7 => &lab.second,
            _ => &lab.first,
        };
        let mut data = pool[g.pick(pool.len())].clone();
        // All but mac2, which only matters where a cookie is demanded.
        let truth = data[..data.len() - MAC].to_vec();
        let kind = g.byte();
        (0..kind & 7).for_each(|_| g.mutate(&mut data));
        // Reading an authentic message takes a hundred times as long as refusing the others.
        let repaired = kind >> 3 == 0;
        let at = g.pick(PATHS);
        if repaired {
            self.repair(lab, g, &mut data, at);
        }
        let same = data.len() == truth.len() + MAC && data.starts_with(&truth[..truth.len() - MAC]);
        let authentic = repaired || same && data.starts_with(&truth);
        self.believable = same;
        self.datagram(lab, g, &data, at, authentic);
    }

    /// The right mac1 under one of the meshes, and the right mac2 where a cookie is known.
    fn repair(&self, lab: &Lab, g: &mut Grammar<'_>, data: &mut [u8], at: usize) {
        let Some(body) = data.len().checked_sub(MACS) else { return };
        let mac = mac1(&lab.keys[g.pick(2)].own_mac1, &data[..body]);
        data[body..body + MAC].copy_from_slice(&mac);
        if let (Some(cookie), true) = (self.cookies[at], g.pick(4) > 0) {
            let mac = mac16(&cookie, &[&data[..body + MAC]]);
            data[body + MAC..].copy_from_slice(&mac);
        }
    }

    /// A message 1 of a member that says what it likes in the payload.
    fn forged_first(&mut self, lab: &mut Lab, g: &mut Grammar<'_>) {
        let victim = lab.victim;
        let member = &lab.members[g.pick(lab.members.len())];
        let mesh = g.pick(2);
        let major = if g.pick(16) == 0 { g.byte() } else { VERSIONS.1 };
        let mut hello = Hello {
            entity: member.id(),
            versions: if g.pick(8) == 0 { (1, 1) } else { VERSIONS },
            features: u64::from(g.byte()),
            ciphers: g.byte() | Cipher::ChaCha20Poly1305.bit(),
            incarnation: Incarnation { epoch: u64::from(g.byte() % 4), random: 1 },
            number: u64::from(g.byte()),
            resume: (g.pick(4) == 0).then(|| u64::from(g.byte())),
            limits: vec![1; g.pick(65)],
            grant: vec![2; if g.pick(8) == 0 { 400 } else { 0 }],
            tlvs: Vec::new(),
        };
        match g.pick(32) {
            0 => hello.entity.0[31] ^= 0x80,
            1 => hello.entity = victim,
            2 => hello.entity = lab.members[g.pick(lab.members.len())].id(),
            3 => hello.entity = EntityId(core::array::from_fn(|_| g.byte())),
            _ => {}
        }
        hello.pad();
        let mut payload = hello.to_vec();
        if g.pick(2) == 0 {
            (0..=g.pick(3)).for_each(|_| g.mutate(&mut payload));
        }
        payload.resize(payload.len().max(FLOOR - HEADER1 - NOISE1 - MACS), 0);
        payload.truncate(900);
        let header = header1(major, u32::from(g.byte()));
        let seed = self.seed(member, &lab.keys[mesh], prologue(&lab.keys[mesh].id, &victim, &header));
        let Some(mut data) = victim
            .x25519()
            .ok()
            .and_then(|key| Noise::initiator(&seed, &key).ok())
            .and_then(|mut noise| noise.write(&payload).ok())
        else {
            return;
        };
        data.splice(..0, header);
        data.resize(data.len() + MACS, 0);
        let at = g.pick(PATHS);
        self.repair(lab, g, &mut data, at);
        let mac = mac1(&lab.keys[mesh].own_mac1, &data[..data.len() - MACS]);
        let body = data.len() - MACS;
        data[body..body + MAC].copy_from_slice(&mac);
        match self.fresh.get_mut(self.made % 8) {
            Some(slot) => slot.clone_from(&data),
            None => self.fresh.push(data.clone()),
        }
        self.made += 1;
        self.believable = true;
        self.datagram(lab, g, &data, at, true);
    }

    /// A message 2 of the peer that the victim dials, which says what it likes in the payload.
    fn forged_second(&mut self, lab: &mut Lab, g: &mut Grammar<'_>) {
        let (peer, victim) = (&lab.peer, lab.victim);
        let question = self.dialled.clone();
        let (Some(index), Some((body, ..))) = (index_at(&question, 2), macs(&question)) else { return };
        let major = question[1];
        let header = header1(major, index);
        // Dials use the newest mesh.
        let keys = &lab.keys[1];
        let seed = self.seed(peer, keys, prologue(&keys.id, &peer.id(), &header));
        let outcome = match g.pick(4) {
            0 => Outcome::Refused(u16::from(g.byte())),
            kind => Outcome::Accepted { association: 5, resumed: kind == 1, limits: vec![3; g.pick(65)] },
        };
        let mut payload = Welcome {
            version: major,
            versions: VERSIONS,
            features: 0,
            cipher: if g.pick(4) == 0 { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 },
            incarnation: Incarnation { epoch: 5, random: 2 },
            index: 9,
            outcome,
            observed: path(0).udp_addr(),
            tlvs: Vec::new(),
        }
        .to_vec();
        if g.pick(4) > 0 {
            (0..=g.pick(3)).for_each(|_| g.mutate(&mut payload));
        }
        payload.truncate(FLOOR - 100);
        let Some(message) = Noise::responder(&seed).ok().and_then(|mut noise| {
            noise.read(&body[HEADER1..]).ok()?;
            noise.write(&payload).ok()
        }) else {
            return;
        };
        let mut data = Vec::with_capacity(FLOOR);
        data.extend_from_slice(&[MESSAGE2, major, 9, 0, 0, 0]);
        data.extend_from_slice(&index.to_le_bytes());
        data.extend_from_slice(&message);
        debug_assert!(data.len() > HEADER2);
        let mac = mac1(&keys.mac1(&victim), &data);
        data.extend_from_slice(&mac);
        data.resize(data.len() + MAC, 0);
        self.believable = true;
        let at = g.pick(PATHS);
        self.datagram(lab, g, &data, at, true);
    }

    fn seed(&mut self, who: &Identity, keys: &MeshKeys, prologue: Vec<u8>) -> Seed {
        self.index += 1;
        let ephemeral = Entropy::new(&[self.index as u8; 32], "ephemeral").array();
        Seed { secret: who.x25519_secret(), ephemeral, psk0: keys.psk0, psk2: [0; 32], prologue }
    }

    /// A cookie of the peer that is dialled, true or changed.
    fn cookie_reply(&mut self, lab: &mut Lab, g: &mut Grammar<'_>) {
        let question = self.dialled.clone();
        let (Some(index), Some((_, mac, _))) = (index_at(&question, 2), macs(&question)) else { return };
        let dice = |label| Entropy::new(&[g.0.len() as u8; 32], label);
        let mut cookies = Cookies::new(dice("secret"), dice("nonce"), 1, self.now);
        let key = lab.keys[1].cookie(&lab.peer.id());
        let mut data = cookies.reply(self.now, &path(0), &key, question[1], index, mac).to_vec();
        let whole = data.clone();
        (0..g.pick(3)).for_each(|_| g.mutate(&mut data));
        let authentic = data == whole;
        let at = g.pick(PATHS);
        self.believable = false;
        self.datagram(lab, g, &data, at, authentic);
    }

    /// Versions of the peer that is dialled, with the right MAC or without.
    fn versions_reply(&mut self, lab: &mut Lab, g: &mut Grammar<'_>) {
        let Some((_, mac, _)) = macs(&self.dialled) else { return };
        let mut data = vec![VERSIONS_REPLY, 1, g.byte() % 5, g.byte() % 5];
        data.extend_from_slice(mac);
        let mac = mac16(&lab.keys[1].versions(&lab.peer.id()), &[&data]);
        data.extend_from_slice(&mac);
        let whole = data.clone();
        // Mostly changed: a true one ends the dial or begins it again.
        if g.pick(8) > 0 {
            (0..=g.pick(3)).for_each(|_| g.mutate(&mut data));
        }
        let authentic = data == whole;
        self.believable = false;
        let at = g.pick(PATHS);
        self.datagram(lab, g, &data, at, authentic);
    }

    fn datagram(&mut self, lab: &mut Lab, g: &mut Grammar<'_>, data: &[u8], at: usize, authentic: bool) {
        self.now += Duration::from_micros(200);
        self.credit += data.len();
        lab.tally.datagrams += 1;
        lab.tally.authentic += u64::from(authentic);
        let (halves, dials) = (self.m.half_open(), self.m.dialling());
        self.m.handle_datagram(self.now, &path(at), data);
        if !authentic {
            // Nothing at all: no state, no job, no event, no answer, for the waiting ones neither.
            assert_eq!((self.m.half_open(), self.m.dialling()), (halves, dials), "a stranger made state");
            assert!(self.holding || self.m.poll_job().is_none(), "a stranger made work");
            assert!(self.m.poll_event().is_none(), "a stranger made an event");
        }
        let answered = self.settle(lab, g, data);
        assert!(answered <= if authentic { data.len() } else { 0 }, "{answered} for {}", data.len());
        assert!(self.m.half_open() <= HALVES);
        self.believable = false;
    }

    /// Runs what is queued; the bytes that left in answer to `question`.
    fn settle(&mut self, lab: &mut Lab, g: &mut Grammar<'_>, question: &[u8]) -> usize {
        let (mut buf, mut bytes) = ([0; 1200], 0);
        loop {
            let mut quiet = true;
            while !self.holding
                && let Some((ticket, job)) = self.m.poll_job()
            {
                match job.0 {
                    Work::Read { .. } => lab.tally.reads += 1,
                    Work::Finish { .. } => lab.tally.finishes += 1,
                    _ => {}
                }
                self.m.handle_job(self.now, ticket, job.run());
                quiet = false;
            }
            while let Some(event) = self.m.poll_event() {
                self.event(lab, g, event, question.is_empty());
                quiet = false;
            }
            while let Some((to, len)) = self.m.poll_transmit(self.now, &mut buf) {
                let sent = &buf[..len];
                match sent[0] {
                    MESSAGE1 => {
                        // Of its own dial: no answer.
                        self.dialled = sent.to_vec();
                        continue;
                    }
                    COOKIE_REPLY => {
                        lab.tally.answers[1] += 1;
                        self.learn(lab, &to, sent, question);
                    }
                    kind => lab.tally.answers[if kind == MESSAGE2 { 0 } else { 2 }] += 1,
                }
                bytes += len;
            }
            if quiet {
                let left = self.credit.checked_sub(bytes);
                assert!(left.is_some(), "more bytes left than came");
                self.credit = left.unwrap_or(0);
                return bytes;
            }
        }
    }

    fn learn(&mut self, lab: &Lab, to: &Path, reply: &[u8], question: &[u8]) {
        let Some((_, mac, _)) = macs(question) else { return };
        let cookie = lab.keys.iter().find_map(|keys| cookie::open(reply, &keys.own_cookie, mac));
        if let Some(slot) = (0..PATHS).find(|at| path(*at).remote == to.remote) {
            self.cookies[slot] = cookie.or(self.cookies[slot]);
        }
    }

    fn event(&mut self, lab: &mut Lab, g: &mut Grammar<'_>, event: Event, late: bool) {
        // Late: the job was held back, and whose datagram it was is not known any more.
        match event {
            Event::Asked { id, peer, resume, .. } => {
                assert!(self.believable || late, "a changed message was believed");
                assert_ne!(peer, lab.victim);
                let known = |member: &Identity| member.id() == peer || same_key(&member.id(), &peer);
                assert!(lab.members.iter().any(known), "an id that nobody has");
                lab.tally.asked += 1;
                self.index += 1;
                let resumed = resume.is_some() && g.pick(2) == 0;
                let answer = match g.pick(8) {
                    0 => Answer::Refuse(7),
                    1 => Answer::Ignore,
                    _ => Answer::Accept {
                        local_index: self.index,
                        association: resume.unwrap_or(4),
                        resumed,
                        limits: vec![5; g.pick(66)],
                    },
                };
                let _ = self.m.answer(self.now, id, answer);
            }
            Event::Responded { id, .. } => {
                lab.tally.responded += 1;
                if g.pick(2) == 0 {
                    // A token that fits nothing proves no path; from where it came does not matter then.
                    let token = (g.pick(2) == 0).then_some([g.pick(256) as u8; 8]);
                    assert_eq!(self.m.confirm(id, &path(g.pick(4)), token), None);
                }
            }
            Event::Completed { peer, .. } => {
                assert!(self.believable || late, "a changed message was believed");
                assert_eq!(peer, lab.peer.id());
                lab.tally.completed += 1;
            }
            Event::Failed { error, .. } => {
                let kind = match error {
                    DialFailure::Refused(_) => 0,
                    DialFailure::Version { .. } => 1,
                    _ => 2,
                };
                lab.tally.failed[kind] += 1;
            }
            Event::Expired { .. } => {}
        }
    }

    /// Time passes; the machine is called when it asked to be.
    fn pass(&mut self, lab: &mut Lab, g: &mut Grammar<'_>, time: Duration) {
        let until = self.now + time;
        for _ in 0..256 {
            let Some((at, _)) = self.m.poll_timeout().filter(|(at, _)| *at <= until) else { break };
            self.now = self.now.max(at);
            self.m.handle_timeout(self.now);
            self.settle(lab, g, &[]);
            if self.holding {
                break;
            }
        }
        self.now = until;
    }
}

/// Whether two ids are of one X25519 key: who holds it may appear under both.
fn same_key(a: &EntityId, b: &EntityId) -> bool {
    a.x25519().is_ok_and(|key| b.x25519() == Ok(key))
}

fn add(sum: &mut Drops, more: &Drops) {
    let Drops {
        malformed,
        mac1,
        version,
        repeated,
        cookie_demanded,
        full,
        output_full,
        message1,
        identity,
        replay,
        slots,
        downgrade,
        unexpected,
        message2,
        reply,
    } = more;
    for (sum, more) in [
        (&mut sum.malformed, malformed),
        (&mut sum.mac1, mac1),
        (&mut sum.version, version),
        (&mut sum.repeated, repeated),
        (&mut sum.cookie_demanded, cookie_demanded),
        (&mut sum.full, full),
        (&mut sum.output_full, output_full),
        (&mut sum.message1, message1),
        (&mut sum.identity, identity),
        (&mut sum.replay, replay),
        (&mut sum.slots, slots),
        (&mut sum.downgrade, downgrade),
        (&mut sum.unexpected, unexpected),
        (&mut sum.message2, message2),
        (&mut sum.reply, reply),
    ] {
        *sum += more;
    }
}

/// Reads choices from a fuzzer's bytes; zeros when they are used up.
struct Grammar<'a>(&'a [u8]);

impl Grammar<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Below `bound`, which is at most 256.
    fn pick(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    /// One change.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let spot = usize::from(self.byte()) << 8 | usize::from(self.byte());
        // Headers and ends as often as everything between them.
        let at = match spot & 3 {
            0 => (spot >> 2) % 16,
            1 => bytes.len().saturating_sub((spot >> 2) % 40),
            _ => (spot >> 2) % (bytes.len() + 1),
        };
        let value = self.byte();
        match value % 16 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at.min(bytes.len()), value),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => bytes.resize(bytes.len() + usize::from(value), value),
            4 if at < bytes.len() => {
                bytes[at] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xfe, 0xff][usize::from(value >> 5)]
            }
            _ => match bytes.get_mut(at) {
                Some(byte) => *byte ^= 1 << (value >> 5),
                None => bytes.push(value),
            },
        }
    }
}
