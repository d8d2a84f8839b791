//! The machine itself: what both roles share. `dial` and `respond` hold one role each.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use core::mem::size_of;
use zeroize::Zeroizing;

use super::api::{Config, DialId, Drops, Event, HalfOpenId, MAX_MESHES, MAX_PATHS, MeshRefused, PathToken};
use super::confirmed::Confirmed;
use super::cookie::Cookies;
use super::dial::Dial;
use super::job::{Job, JobDone, Work};
use super::keys::{MAC, MeshKeys};
use super::respond::HalfOpen;
use super::wire::{CEILING, COOKIE_LEN, COOKIE_REPLY, FLOOR, MESSAGE1, MESSAGE2, VERSIONS_REPLY};
use crate::entropy::Entropy;
use crate::identity::{EntityId, Mesh, MeshId};
use crate::path::Path;
use crate::session::aead::Cipher;
use crate::storage::Ticket;
use crate::time::{Instant, Reason, earlier};

/// Datagrams queued at once. A full queue drops the newest: peers repeat what they need.
const MAX_OUTPUT: usize = 1024;

/// The handshake machine of one node: both roles, all peers. See the module's page for the diagram.
pub struct Handshakes {
    pub(super) config: Config,
    pub(super) own: EntityId,
    pub(super) secret: Zeroizing<[u8; 32]>,
    /// Oldest first; at most [`MAX_MESHES`].
    pub(super) meshes: alloc::vec::Vec<MeshKeys>,
    pub(super) ephemerals: Entropy,
    pub(super) cookies: Cookies,
    pub(super) now: Instant,
    pub(super) number: u64,
    pub(super) dials: BTreeMap<DialId, Dial>,
    pub(super) by_index: BTreeMap<u32, DialId>,
    pub(super) timers: BTreeSet<(Instant, DialId)>,
    /// In the order of their expiry, because all live equally long.
    pub(super) halves: BTreeMap<HalfOpenId, HalfOpen>,
    pub(super) by_mac1: BTreeMap<[u8; MAC], HalfOpenId>,
    pub(super) next_half: u64,
    pub(super) confirmed: Confirmed,
    jobs: VecDeque<(Ticket, Job)>,
    /// Queued and running jobs.
    owners: BTreeMap<Ticket, Owner>,
    next_ticket: u64,
    out: VecDeque<Out>,
    pub(super) events: VecDeque<Event>,
    pub(super) drops: Drops,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Dial(DialId),
    Half(HalfOpenId),
}

/// A queued datagram. Long ones stay where they are kept for repetition.
pub(super) enum Out {
    Dial(DialId, u8),
    Half(HalfOpenId, Path),
    Reply(Path, [u8; COOKIE_LEN], u8),
}

impl Handshakes {
    /// A machine without dials. `entropy` is split into streams for secrets and for what peers see.
    pub fn new(mut config: Config, mut entropy: Entropy, now: Instant) -> Self {
        config.ciphers |= Cipher::ChaCha20Poly1305.bit();
        config.ciphers &= Cipher::ChaCha20Poly1305.bit() | Cipher::Aes256Gcm.bit();
        let own = config.identity.id();
        let meshes = config.meshes.iter().take(MAX_MESHES).map(|mesh| MeshKeys::new(mesh, &own)).collect();
        // The keys derived above are all that is needed from here on.
        config.meshes.clear();
        let cookies =
            Cookies::new(entropy.split("cookie secret"), entropy.split("nonce"), config.cookie_after, now);
        Self {
            own,
            secret: Zeroizing::new(config.identity.x25519_secret()),
            meshes,
            ephemerals: entropy.split("ephemeral"),
            cookies,
            now,
            number: 0,
            dials: BTreeMap::new(),
            by_index: BTreeMap::new(),
            timers: BTreeSet::new(),
            halves: BTreeMap::new(),
            by_mac1: BTreeMap::new(),
            next_half: 0,
            confirmed: Confirmed::new(config.confirmed_limit),
            jobs: VecDeque::new(),
            owners: BTreeMap::new(),
            next_ticket: 0,
            out: VecDeque::new(),
            events: VecDeque::new(),
            drops: Drops::default(),
            config,
        }
    }

    /// Takes a datagram of type 1 to 4 that arrived on `path`; ignores others.
    pub fn handle_datagram(&mut self, now: Instant, path: &Path, data: &[u8]) {
        self.tick(now);
        match data.first() {
            Some(&MESSAGE1) => self.message1(path, data),
            Some(&MESSAGE2) => self.message2(path, data),
            Some(&COOKIE_REPLY) => self.cookie_reply(path, data),
            Some(&VERSIONS_REPLY) => self.versions_reply(data),
            _ => {}
        }
    }

    /// Takes the result of a job. One that nobody waits for any more is ignored.
    pub fn handle_job(&mut self, now: Instant, ticket: Ticket, done: JobDone) {
        self.tick(now);
        match self.owners.remove(&ticket) {
            Some(Owner::Dial(id)) => self.dial_job(id, ticket, done),
            Some(Owner::Half(id)) => self.half_job(id, ticket, done),
            None => {}
        }
    }

    /// The next job to run, on this thread or another; its result goes to [`Self::handle_job`].
    #[must_use]
    pub fn poll_job(&mut self) -> Option<(Ticket, Job)> {
        self.jobs.pop_front()
    }

    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Writes the next datagram into `buf`: where to, and its length. A buffer below 1,120 bytes may
    /// be too small for a datagram, which is then dropped and counted.
    #[must_use]
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<(Path, usize)> {
        self.tick(now);
        while let Some(out) = self.out.pop_front() {
            let written = match &out {
                Out::Dial(id, at) => self.dials.get(id).and_then(|dial| dial.write(usize::from(*at), buf)),
                Out::Half(id, path) => {
                    self.halves.get(id).and_then(|half| Some((*path, half.write(path, buf)?)))
                }
                Out::Reply(path, data, len) => {
                    let len = usize::from(*len);
                    let from = data.get(..len);
                    from.zip(buf.get_mut(..len)).map(|(from, to)| {
                        to.copy_from_slice(from);
                        (*path, len)
                    })
                }
            };
            if written.is_some() {
                return written;
            }
            count(&mut self.drops.output_full);
        }
        None
    }

    /// When to call [`Self::handle_timeout`], and why. The last input's time while output waits.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        if !(self.out.is_empty() && self.events.is_empty() && self.jobs.is_empty()) {
            return Some((self.now, Reason::Output));
        }
        let dial = self.timers.first().map(|(due, _)| (*due, Reason::Handshake));
        let half = self.halves.values().next().map(|half| (half.expires, Reason::Expiry));
        earlier(dial, half)
    }

    /// Reads a word of every part that is looked at even when no handshake is under way, to have it fetched.
    pub(crate) fn warm(&self) -> u64 {
        let lists =
            [self.out.len(), self.events.len(), self.jobs.len(), self.timers.len(), self.halves.len()];
        lists.into_iter().fold(self.now.as_nanos(), |sum, len| sum.wrapping_add(len as u64))
    }

    /// Time has passed: repeats first messages, gives up dials, forgets half-open handshakes.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tick(now);
        while let Some((id, half)) = self.halves.first_key_value() {
            if half.expires > self.now {
                break;
            }
            let id = *id;
            self.forget_half(id, true);
        }
        while let Some((due, id)) = self.timers.first().copied() {
            if due > self.now {
                break;
            }
            self.dial_due(id);
        }
    }

    /// Accepts a further (mesh id, key) pair and dials with it from now on. A pair that is there
    /// already only becomes the newest.
    pub fn add_mesh(&mut self, mesh: &Mesh) -> Result<(), MeshRefused> {
        let keys = MeshKeys::new(mesh, &self.own);
        self.meshes.retain(|known| !known.same(&keys));
        if self.meshes.len() >= MAX_MESHES {
            return Err(MeshRefused::TooMany);
        }
        self.meshes.push(keys);
        Ok(())
    }

    /// Forgets the oldest pair with that mesh id; false if there is none. While a key is rotated the
    /// id has two pairs, and this is the old one. Handshakes under way go on.
    pub fn remove_mesh(&mut self, mesh: &MeshId) -> bool {
        let at = self.meshes.iter().position(|known| known.id == *mesh);
        at.map(|at| self.meshes.remove(at)).is_some()
    }

    /// What was dropped, by reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Upper bound of the memory that peers can make this machine hold, in bytes.
    pub fn ceiling(&self) -> u64 {
        // Of a half-open handshake: its message, its answer and the Noise state (4 KiB at most).
        let half = size_of::<HalfOpen>() + CEILING * 2 + FLOOR + 4096;
        let confirmed = 2 * (size_of::<EntityId>() + 4 * size_of::<u64>());
        let job = size_of::<(Ticket, Job)>() + CEILING;
        let parts = [
            (self.config.half_open_limit, half + 2 * size_of::<Event>()),
            (self.config.job_limit, job),
            (self.confirmed.limit(), confirmed),
            (MAX_OUTPUT, size_of::<Out>()),
        ];
        parts.iter().fold(0u64, |sum, (n, size)| sum.saturating_add((*n as u64).saturating_mul(*size as u64)))
    }

    /// No dial, half-open handshake, job or output.
    pub fn is_idle(&self) -> bool {
        self.dials.is_empty()
            && self.halves.is_empty()
            && self.owners.is_empty()
            && self.out.is_empty()
            && self.events.is_empty()
    }

    /// Dials under way.
    pub fn dialling(&self) -> usize {
        self.dials.len()
    }

    /// Half-open handshakes.
    pub fn half_open(&self) -> usize {
        self.halves.len()
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Whether another job fits.
    pub(super) fn jobs_full(&self) -> bool {
        self.owners.len() >= self.config.job_limit
    }

    /// Whether half the jobs are taken: the time to ask strangers for cookies.
    pub(super) fn jobs_busy(&self) -> bool {
        self.owners.len() >= self.config.job_limit.div_ceil(2)
    }

    pub(super) fn start_job(&mut self, owner: Owner, work: Work) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.owners.insert(ticket, owner);
        self.jobs.push_back((ticket, Job(work)));
        ticket
    }

    /// Drops queued jobs and datagrams of `owner`. A job that runs already counts until it is done.
    pub(super) fn forget(&mut self, owner: Owner) {
        let owners = &mut self.owners;
        self.jobs.retain(|(ticket, _)| {
            let gone = owners.get(ticket) == Some(&owner);
            if gone {
                owners.remove(ticket);
            }
            !gone
        });
        self.out.retain(|out| match (out, owner) {
            (Out::Dial(id, _), Owner::Dial(gone)) => *id != gone,
            (Out::Half(id, _), Owner::Half(gone)) => *id != gone,
            _ => true,
        });
    }

    pub(super) fn send(&mut self, out: Out) {
        if self.out.len() >= MAX_OUTPUT {
            count(&mut self.drops.output_full);
        } else {
            self.out.push_back(out);
        }
    }

    /// Sends a short reply.
    pub(super) fn reply(&mut self, path: &Path, data: &[u8]) {
        let mut bytes = [0; COOKIE_LEN];
        if let Some(room) = bytes.get_mut(..data.len()) {
            room.copy_from_slice(data);
            self.send(Out::Reply(*path, bytes, data.len() as u8));
        }
    }
}

// Both are kept in one byte of `Out`.
const _: () = assert!(MAX_PATHS < 256);
const _: () = assert!(COOKIE_LEN < 256);

/// The path token in a second MAC of message 2, or of a path's own MAC: the first half.
pub(super) fn path_token(mac: &[u8; MAC]) -> PathToken {
    mac.first_chunk().copied().unwrap_or_default()
}

/// One more of a kind.
pub(super) const fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

/// The Noise state of a finished job, if it came with one.
pub(super) type Held = Option<Box<super::noise::Noise>>;
