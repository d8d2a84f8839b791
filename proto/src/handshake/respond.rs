//! The responder's side.

use alloc::vec::Vec;

use super::api::{Answer, Event, HalfOpenId, PathToken};
use super::cookie::path_mac;
use super::job::{Fault, JobDone, Outcome as Done, Work};
use super::keys::{MAC, MeshKeys, equal, mac1 as make_mac1, mac1_fits, mac16, prologue};
use super::machine::{Handshakes, Held, Out, Owner, count, path_token};
use super::noise::Seed;
use super::wire::{
    CEILING, FLOOR, HEADER1, HEADER2, Hello, MACS, MAX_LIMITS, MESSAGE2, NOISE2, Outcome, VERSIONS_LEN,
    VERSIONS_REPLY, Welcome, common, index_at, macs,
};
use crate::codec::Wire;
use crate::path::Path;
use crate::session::aead::Cipher;
use crate::storage::Ticket;
use crate::time::{Duration, Instant};

/// How long a half-open handshake lives.
const HALF_OPEN: Duration = Duration::from_secs(5);
/// Half-open handshakes of one entity.
const SLOTS: usize = 2;
/// Places that one message 1 came from and that are remembered; a further one displaces the oldest.
const ORIGINS: usize = 4;
/// The longest payload 2 that is made here: all fields, the longest limits, an IPv6 address.
const WELCOME: usize = 1 + 2 + 8 + 1 + 16 + 4 + (1 + 8 + 2 + MAX_LIMITS) + 19;
// Message 2 goes to every place that message 1 came from, so it may never be the longer one.
const _: () = assert!(HEADER2 + NOISE2 + WELCOME + MACS <= FLOOR);

/// A handshake that somebody else began.
pub(super) struct HalfOpen {
    pub(super) expires: Instant,
    mesh: MeshKeys,
    /// Where message 1 came from, at least one place: whoever was fastest is not necessarily the
    /// initiator. Oldest first.
    origins: heapless::Vec<Origin, ORIGINS>,
    /// The key of the paths' tokens.
    token_key: [u8; 32],
    major: u8,
    mac1: [u8; MAC],
    /// The initiator's index.
    remote: u32,
    /// Message 1 came with a cookie.
    proven: bool,
    seed: Seed,
    /// The Noise part of message 1.
    message1: Vec<u8>,
    /// Once read.
    hello: Option<Hello>,
    stage: Stage,
}

/// A place that message 1 came from.
struct Origin {
    path: Path,
    /// It is to get message 2 as soon as there is one.
    waits: bool,
}

enum Stage {
    /// Message 1 is being read.
    Reading(Ticket),
    /// The node is asked.
    Asking(Held),
    /// Message 2 is being made.
    Answering { ticket: Ticket, accepted: Option<(u32, u64)> },
    /// Message 2 is kept for repetition. `accepted` is the local index, unless it is a refusal.
    Answered { message: Vec<u8>, accepted: Option<u32> },
    /// The node does not want to answer; repetitions are not read again.
    Silent,
}

impl HalfOpen {
    /// Writes message 2 for `path`.
    pub(super) fn write(&self, path: &Path, buf: &mut [u8]) -> Option<usize> {
        let Stage::Answered { message, .. } = &self.stage else { return None };
        let out = buf.get_mut(..message.len())?;
        out.copy_from_slice(message);
        // In place of the second MAC: initiators demand no cookies.
        let token = self.token(path);
        out.last_chunk_mut::<MAC>()?.first_chunk_mut().map(|at| *at = token)?;
        Some(message.len())
    }

    /// What only who receives at `path` can know of this handshake.
    fn token(&self, path: &Path) -> PathToken {
        path_token(&path_mac(&self.token_key, path))
    }

    /// Where message 1 came from first, of the places that are remembered.
    fn origin(&self) -> Option<Path> {
        self.origins.first().map(|o| o.path)
    }

    /// Message 1 came from `path` (again). False: another place had to go that waited for message 2.
    fn note(&mut self, path: &Path, waits: bool) -> bool {
        if let Some(known) = self.origins.iter_mut().find(|o| o.path == *path) {
            known.waits |= waits;
            return true;
        }
        let gone = self.origins.is_full().then(|| self.origins.remove(0));
        let _ = self.origins.push(Origin { path: *path, waits });
        gone.is_none_or(|o| !o.waits)
    }

    fn local_index(&self) -> Option<u32> {
        match &self.stage {
            Stage::Answering { accepted, .. } => accepted.map(|(index, _)| index),
            Stage::Answered { accepted, .. } => *accepted,
            _ => None,
        }
    }
}

impl Handshakes {
    /// A datagram of type 1. Nothing here costs more than a few MACs.
    pub(super) fn message1(&mut self, path: &Path, data: &[u8]) {
        let Some((body, mac1, mac2)) = macs(data) else { return count(&mut self.drops.malformed) };
        let found = self.meshes.iter().find(|mesh| mac1_fits(&mesh.own_mac1, body, mac1));
        let Some(mesh) = found else { return count(&mut self.drops.mac1) };
        let major = data.get(1).copied().unwrap_or(0);
        let ours = self.config.versions;
        if !(ours.0..=ours.1).contains(&major) {
            // The layout behind the second byte is unknown; only the MACs at the end are sure.
            if data.len() < VERSIONS_LEN {
                return count(&mut self.drops.version);
            }
            let mut out = [0; VERSIONS_LEN];
            out[..4].copy_from_slice(&[VERSIONS_REPLY, ours.1, ours.0, ours.1]);
            out[4..4 + MAC].copy_from_slice(mac1);
            let mac = mac16(&mesh.own_versions, &[&out[..4 + MAC]]);
            out[4 + MAC..].copy_from_slice(&mac);
            return self.reply(path, &out);
        }
        let (true, Some(remote)) = ((FLOOR..=CEILING).contains(&data.len()), index_at(data, 2)) else {
            return count(&mut self.drops.malformed);
        };
        if let Some(id) = self.by_mac1.get(mac1).copied() {
            return self.repeated(id, path, data, mac2);
        }
        let covered = data.get(..data.len() - MAC).unwrap_or_default();
        let proven = *mac2 != [0; MAC] && self.cookies.proven(self.now, path, covered, mac2);
        if !proven {
            let busy = self.halves.len() >= self.config.half_open_limit.div_ceil(2) || self.jobs_busy();
            if busy || !self.cookies.spend(self.now) {
                let key = mesh.own_cookie;
                return self.demand_cookie(path, &key, major, remote, mac1);
            }
        }
        // Events that nobody takes count as well, so that they cannot pile up.
        let full = self.halves.len() >= self.config.half_open_limit
            || self.events.len() >= self.config.half_open_limit.saturating_mul(2)
            || self.jobs_full();
        if full {
            return count(&mut self.drops.full);
        }
        let header = body.get(..HEADER1).unwrap_or_default();
        let message1 = body.get(HEADER1..).unwrap_or_default().to_vec();
        let seed = Seed {
            secret: *self.secret,
            ephemeral: self.ephemerals.array(),
            psk0: mesh.psk0,
            psk2: [0; 32],
            prologue: prologue(&mesh.id, &self.own, header),
        };
        let mesh = mesh.clone();
        let token_key = self.ephemerals.array();
        let mut origins = heapless::Vec::new();
        let _ = origins.push(Origin { path: *path, waits: true });
        let id = HalfOpenId(self.next_half);
        self.next_half += 1;
        let work = Work::Read { seed: seed.clone(), message: message1.clone() };
        let ticket = self.start_job(Owner::Half(id), work);
        self.by_mac1.insert(*mac1, id);
        self.halves.insert(
            id,
            HalfOpen {
                expires: self.now + HALF_OPEN,
                mesh,
                origins,
                token_key,
                major,
                mac1: *mac1,
                remote,
                proven,
                seed,
                message1,
                hello: None,
                stage: Stage::Reading(ticket),
            },
        );
    }

    /// The same message 1 again: the initiator's repetition, or a copy from another place, before or
    /// after the original. Whoever sent it gets one message 2 for it, which is never longer; the
    /// initiator then shows which of them reached it.
    fn repeated(&mut self, id: HalfOpenId, path: &Path, data: &[u8], mac2: &[u8; MAC]) {
        let covered = data.get(..data.len() - MAC).unwrap_or_default();
        let Some(half) = self.halves.get_mut(&id) else { return };
        match half.stage {
            Stage::Answered { .. } => {
                half.note(path, false);
                self.send(Out::Half(id, *path));
            }
            Stage::Silent => count(&mut self.drops.repeated),
            _ => {
                // Somebody may have copied a message with a cookie from elsewhere, before the original.
                half.proven =
                    half.proven || *mac2 != [0; MAC] && self.cookies.proven(self.now, path, covered, mac2);
                if !half.note(path, true) {
                    count(&mut self.drops.repeated);
                }
            }
        }
    }

    fn demand_cookie(&mut self, path: &Path, key: &[u8; 32], major: u8, index: u32, mac1: &[u8; MAC]) {
        count(&mut self.drops.cookie_demanded);
        let reply = self.cookies.reply(self.now, path, key, major, index, mac1);
        self.reply(path, &reply);
    }

    /// Forgets a half-open handshake with all that is queued for it.
    pub(super) fn forget_half(&mut self, id: HalfOpenId, tell: bool) {
        let Some(half) = self.halves.remove(&id) else { return };
        self.by_mac1.remove(&half.mac1);
        self.forget(Owner::Half(id));
        if let (true, Some(local_index)) = (tell, half.local_index()) {
            self.events.push_back(Event::Expired { id, local_index });
        }
    }

    /// A job of a half-open handshake is done.
    pub(super) fn half_job(&mut self, id: HalfOpenId, ticket: Ticket, done: JobDone) {
        let Some(half) = self.halves.get_mut(&id) else { return };
        match (&half.stage, done.outcome) {
            (Stage::Reading(t), Done::Read(Ok(hello))) if *t == ticket => {
                self.read_done(id, hello, done.noise)
            }
            (Stage::Reading(t), outcome) if *t == ticket => {
                match outcome {
                    Done::Read(Err(Fault::Identity)) => count(&mut self.drops.identity),
                    _ => count(&mut self.drops.message1),
                }
                self.forget_half(id, false);
            }
            (Stage::Answering { ticket: t, accepted }, outcome) if *t == ticket => {
                let accepted = *accepted;
                let Done::Answered(Ok((noise, secrets))) = outcome else {
                    // Its index is free again; repetitions meet silence.
                    if let Some((local_index, _)) = accepted {
                        self.events.push_back(Event::Expired { id, local_index });
                    }
                    half.stage = Stage::Silent;
                    return;
                };
                let index = accepted.map_or(0, |(index, _)| index);
                let mut message = Vec::with_capacity(HEADER2 + noise.len() + MACS);
                message.extend_from_slice(&[MESSAGE2, half.major]);
                message.extend_from_slice(&index.to_le_bytes());
                message.extend_from_slice(&half.remote.to_le_bytes());
                message.extend_from_slice(&noise);
                let Some(hello) = &half.hello else { return };
                let (peer, incarnation) = (hello.entity, hello.incarnation);
                let mac1 = make_mac1(&half.mesh.mac1(&peer), &message);
                message.extend_from_slice(&mac1);
                // Where `write` puts the token of the path.
                message.extend_from_slice(&[0; MAC]);
                half.stage = Stage::Answered { message, accepted: accepted.map(|(index, _)| index) };
                let remote_index = half.remote;
                let waiting: heapless::Vec<Path, ORIGINS> = half
                    .origins
                    .iter_mut()
                    .filter_map(|o| core::mem::take(&mut o.waits).then_some(o.path))
                    .collect();
                waiting.into_iter().for_each(|path| self.send(Out::Half(id, path)));
                if let Some((local_index, association)) = accepted {
                    self.events.push_back(Event::Responded {
                        id,
                        peer,
                        incarnation,
                        secrets,
                        local_index,
                        remote_index,
                        association,
                    });
                }
            }
            _ => {}
        }
    }

    /// Message 1 authenticated: who sent it, and may they?
    fn read_done(&mut self, id: HalfOpenId, hello: Hello, noise: Held) {
        let Some(half) = self.halves.get(&id) else { return };
        let Some(path) = half.origin() else { return };
        let (major, remote, mac1, proven) = (half.major, half.remote, half.mac1, half.proven);
        let (mesh, cookie_key) = (half.mesh.id, half.mesh.own_cookie);
        if hello.entity == self.own {
            count(&mut self.drops.identity);
            return self.forget_half(id, false);
        }
        if common(self.config.versions, hello.versions) != Some(major) {
            count(&mut self.drops.downgrade);
            return self.forget_half(id, false);
        }
        if !self.confirmed.is_new(&hello.entity, hello.incarnation.epoch, hello.number) {
            count(&mut self.drops.replay);
            return self.forget_half(id, false);
        }
        let mut taken = 0;
        let mut oldest = None;
        for (other, half) in &self.halves {
            if half.hello.as_ref().is_some_and(|other| other.entity == hello.entity) {
                taken += 1;
                oldest = oldest.or(Some(*other));
            }
        }
        if taken >= SLOTS {
            // Only who proves its path may replace, and only the older: a replayer from elsewhere
            // cannot push out what the entity itself began.
            let Some(oldest) = oldest.filter(|_| proven) else {
                count(&mut self.drops.slots);
                let origins: heapless::Vec<Path, ORIGINS> = half.origins.iter().map(|o| o.path).collect();
                self.forget_half(id, false);
                for path in &origins {
                    self.demand_cookie(path, &cookie_key, major, remote, &mac1);
                }
                return;
            };
            self.forget_half(oldest, true);
        }
        self.events.push_back(Event::Asked {
            id,
            peer: hello.entity,
            mesh,
            incarnation: hello.incarnation,
            features: hello.features,
            resume: hello.resume,
            limits: hello.limits.clone(),
            grant: hello.grant.clone(),
            path,
        });
        if let Some(half) = self.halves.get_mut(&id) {
            half.hello = Some(hello);
            half.stage = Stage::Asking(noise);
        }
    }

    /// Answers [`Event::Asked`]. False: the handshake is gone or was answered already, the limits are
    /// too long, the resumed association is not the one asked for, or no job fits; the index of the
    /// answer is then unused.
    #[must_use]
    pub fn answer(&mut self, now: Instant, id: HalfOpenId, answer: Answer) -> bool {
        self.tick(now);
        let full = self.jobs_full();
        let Some(half) = self.halves.get_mut(&id) else { return false };
        let observed = half.origin().and_then(|path| path.udp_addr());
        let (Stage::Asking(noise), Some(hello)) = (&mut half.stage, &half.hello) else { return false };
        let (outcome, accepted) = match answer {
            Answer::Accept { local_index, association, resumed, limits }
                if limits.len() <= MAX_LIMITS && (!resumed || hello.resume == Some(association)) =>
            {
                (Outcome::Accepted { association, resumed, limits }, Some((local_index, association)))
            }
            Answer::Refuse(code) => (Outcome::Refused(code), None),
            Answer::Accept { .. } | Answer::Ignore => {
                let ignored = matches!(answer, Answer::Ignore);
                half.stage = Stage::Silent;
                return ignored;
            }
        };
        if full {
            count(&mut self.drops.full);
            half.stage = Stage::Silent;
            return false;
        }
        let cipher = if self.config.ciphers & hello.ciphers & Cipher::Aes256Gcm.bit() != 0 {
            Cipher::Aes256Gcm
        } else {
            Cipher::ChaCha20Poly1305
        };
        let welcome = Welcome {
            version: half.major,
            versions: self.config.versions,
            features: self.config.features,
            cipher,
            incarnation: self.config.incarnation,
            index: accepted.map_or(0, |(index, _)| index),
            outcome,
            observed,
            tlvs: Vec::new(),
        };
        let work = Work::Answer {
            noise: noise.take(),
            seed: half.seed.clone(),
            message1: half.message1.clone(),
            payload: welcome.to_vec(),
            cipher,
        };
        let ticket = self.start_job(Owner::Half(id), work);
        if let Some(half) = self.halves.get_mut(&id) {
            half.stage = Stage::Answering { ticket, accepted };
        }
        true
    }

    /// The initiator's first packet opened under the keys of [`Event::Responded`]: its handshake
    /// number counts as used, and the half-open handshake is over. Other ids are ignored.
    ///
    /// `from` is where that packet came from, `token` what it sent back of message 2. Answers the path
    /// that this proves: the initiator takes message 2 only from where it dialled, so whoever only
    /// copies cannot make another path the proven one. `None`: no path is proven.
    pub fn confirm(&mut self, id: HalfOpenId, from: &Path, token: Option<PathToken>) -> Option<Path> {
        let half = self.halves.get(&id)?;
        let (Stage::Answered { accepted: Some(_), .. }, Some(hello)) = (&half.stage, &half.hello) else {
            return None;
        };
        let fits = |path: &Path| token.is_some_and(|token| equal(&half.token(path), &token));
        let proven = core::iter::once(*from).chain(half.origins.iter().map(|o| o.path)).find(fits);
        let (entity, epoch, number) = (hello.entity, hello.incarnation.epoch, hello.number);
        self.confirmed.record(entity, epoch, number);
        self.forget_half(id, false);
        proven
    }
}
