//! The initiator's side.

use alloc::vec::Vec;

use super::api::{DialFailure, DialId, DialRefused, DialRequest, Event, MAX_PATHS, PathToken};
use super::cookie;
use super::job::{Fault, JobDone, Outcome as Done, Work};
use super::keys::{MAC, MeshKeys, equal, mac1 as make_mac1, mac1_fits, mac16, prologue};
use super::machine::{Handshakes, Held, Out, Owner, count, path_token};
use super::noise::Seed;
use super::wire::{
    COOKIE_LEN, FLOOR, HEADER1, HEADER2, Hello, MACS, MAX_GRANT, MAX_LIMITS, MESSAGE1, NOISE2, Outcome,
    VERSIONS_LEN, common, index_at, macs,
};
use crate::codec::Wire;
use crate::path::Path;
use crate::storage::Ticket;
use crate::time::{Duration, Instant};

/// Wait before the first repetition; doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// The longest wait between two repetitions.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Dial {
    request: DialRequest,
    mesh: MeshKeys,
    /// The key for messages to the peer.
    mac1_key: [u8; 32],
    /// Wire major of message 1.
    major: u8,
    deadline: Instant,
    /// When the timer set names this dial.
    due: Instant,
    /// Transmissions so far.
    sent: u32,
    /// A cookie per path, once the responder demanded one there.
    cookies: Vec<Option<[u8; MAC]>>,
    /// A cookie was answered at once already; further ones wait for the timer.
    hurried: bool,
    seed: Seed,
    payload: Vec<u8>,
    /// Message 1 up to and with mac1; empty until it is made.
    message: Vec<u8>,
    mac1: [u8; MAC],
    noise: Held,
    stage: Stage,
}

enum Stage {
    /// Message 1 is being made.
    Preparing(Ticket),
    /// Message 1 is repeated until message 2 comes.
    Waiting,
    /// A message 2 is being read; if it fails, back to waiting.
    Finishing { ticket: Ticket, path: Path, index: u32, token: PathToken },
}

impl Dial {
    /// Writes message 1 for the path at `at`.
    pub(super) fn write(&self, at: usize, buf: &mut [u8]) -> Option<(Path, usize)> {
        let path = self.request.paths.get(at)?;
        let len = self.message.len();
        let (body, rest) = buf.split_at_mut_checked(len)?;
        body.copy_from_slice(&self.message);
        let mac2 = match self.cookies.get(at) {
            Some(Some(cookie)) => mac16(cookie, &[&self.message]),
            _ => [0; MAC],
        };
        rest.get_mut(..MAC)?.copy_from_slice(&mac2);
        Some((*path, len + MAC))
    }

    /// Which of the dialled paths `from` is.
    fn dialled(&self, from: &Path) -> Option<usize> {
        self.request.paths.iter().position(|p| p.socket == from.socket && p.remote == from.remote)
    }

    /// The wait after the transmission just made. Every path gets the schedule 300 ms, 600 ms, ...
    /// of its own; the paths take turns, evenly spaced.
    fn wait(&self) -> Duration {
        let paths = self.request.paths.len().max(1) as u32;
        let round = (self.sent.saturating_sub(1) / paths).min(16);
        FIRST_WAIT.saturating_mul(1 << round).min(LONGEST_WAIT) / paths
    }
}

impl Handshakes {
    /// Starts a dial: also for a rekey, with the path in use and the association to resume. Checks
    /// the entity id (28 µs). Exactly one [`Event::Completed`] or [`Event::Failed`] follows unless the
    /// dial is cancelled.
    pub fn dial(&mut self, now: Instant, request: DialRequest) -> Result<DialId, DialRefused> {
        self.tick(now);
        let id = DialId(request.id);
        let (paths, limit) = (request.paths.len(), self.config.dial_limit);
        if self.dials.contains_key(&id) || self.by_index.contains_key(&request.local_index) {
            return Err(DialRefused::Duplicate);
        }
        if self.dials.len() >= limit {
            return Err(DialRefused::TooMany(limit));
        }
        if self.jobs_full() {
            return Err(DialRefused::TooMany(self.config.job_limit));
        }
        if paths == 0 {
            return Err(DialRefused::NoPath);
        }
        if paths > MAX_PATHS {
            return Err(DialRefused::TooManyPaths(paths));
        }
        if request.limits.len() > MAX_LIMITS || self.config.grant.len() > MAX_GRANT {
            return Err(DialRefused::TooLong);
        }
        let named = |keys: &&MeshKeys| request.mesh.is_none_or(|mesh| mesh == keys.id);
        let mesh = self.meshes.iter().rev().find(named).ok_or(DialRefused::NoMesh)?.clone();
        if request.peer == self.own || request.peer.admit().is_err() {
            return Err(DialRefused::BadEntity);
        }
        let deadline = self.now + self.config.dial_timeout;
        let dial = Dial {
            mac1_key: mesh.mac1(&request.peer),
            mesh,
            major: self.config.versions.1,
            deadline,
            due: deadline,
            sent: 0,
            cookies: alloc::vec![None; paths],
            hurried: false,
            seed: Seed {
                secret: [0; 32],
                ephemeral: [0; 32],
                psk0: [0; 32],
                psk2: [0; 32],
                prologue: Vec::new(),
            },
            payload: Vec::new(),
            message: Vec::new(),
            mac1: [0; MAC],
            noise: None,
            stage: Stage::Waiting,
            request,
        };
        self.by_index.insert(dial.request.local_index, id);
        self.timers.insert((deadline, id));
        self.dials.insert(id, dial);
        self.prepare(id);
        Ok(id)
    }

    /// Gives up a dial; no event follows. Unknown ids are ignored.
    pub fn cancel(&mut self, id: DialId) {
        self.end_dial(id);
    }

    /// Starts the job that makes message 1 for the dial's wire major.
    fn prepare(&mut self, id: DialId) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        self.number += 1;
        let mut hello = Hello {
            entity: self.own,
            versions: self.config.versions,
            features: self.config.features,
            ciphers: self.config.ciphers,
            incarnation: self.config.incarnation,
            number: self.number,
            resume: dial.request.resume,
            limits: dial.request.limits.clone(),
            grant: self.config.grant.clone(),
            tlvs: Vec::new(),
        };
        hello.pad();
        dial.payload = hello.to_vec();
        dial.seed = Seed {
            secret: *self.secret,
            ephemeral: self.ephemerals.array(),
            psk0: dial.mesh.psk0,
            psk2: [0; 32],
            prologue: prologue(
                &dial.mesh.id,
                &dial.request.peer,
                &header1(dial.major, dial.request.local_index),
            ),
        };
        let (seed, peer, payload) = (dial.seed.clone(), dial.request.peer, dial.payload.clone());
        let ticket = self.start_job(Owner::Dial(id), Work::Initiate { seed, peer, payload });
        if let Some(dial) = self.dials.get_mut(&id) {
            dial.stage = Stage::Preparing(ticket);
        }
    }

    /// Forgets a dial with all that is queued for it.
    fn end_dial(&mut self, id: DialId) -> Option<Dial> {
        let dial = self.dials.remove(&id)?;
        self.by_index.remove(&dial.request.local_index);
        self.timers.remove(&(dial.due, id));
        self.forget(Owner::Dial(id));
        Some(dial)
    }

    fn fail_dial(&mut self, id: DialId, error: DialFailure) {
        if self.end_dial(id).is_some() {
            self.events.push_back(Event::Failed { id, error });
        }
    }

    /// Sends message 1 to the next path and sets the timer.
    fn transmit(&mut self, id: DialId) {
        let now = self.now;
        let Some(dial) = self.dials.get_mut(&id) else { return };
        let at = dial.sent as usize % dial.request.paths.len().max(1);
        dial.sent = dial.sent.saturating_add(1);
        self.timers.remove(&(dial.due, id));
        dial.due = (now + dial.wait()).min(dial.deadline);
        self.timers.insert((dial.due, id));
        self.send(Out::Dial(id, at as u8));
    }

    /// The timer of a dial came.
    pub(super) fn dial_due(&mut self, id: DialId) {
        match self.dials.get(&id) {
            Some(dial) if self.now >= dial.deadline => {
                self.fail_dial(id, DialFailure::TimedOut(self.config.dial_timeout));
            }
            Some(_) => self.transmit(id),
            None => {}
        }
    }

    /// A job of a dial is done.
    pub(super) fn dial_job(&mut self, id: DialId, ticket: Ticket, done: JobDone) {
        let Some(dial) = self.dials.get_mut(&id) else { return };
        match (&dial.stage, done.outcome) {
            (Stage::Preparing(t), Done::Initiated(Ok(noise))) if *t == ticket => {
                dial.message.clear();
                dial.message.extend_from_slice(&header1(dial.major, dial.request.local_index));
                dial.message.extend_from_slice(&noise);
                dial.mac1 = make_mac1(&dial.mac1_key, &dial.message);
                dial.message.extend_from_slice(&dial.mac1);
                dial.noise = done.noise;
                dial.stage = Stage::Waiting;
                self.transmit(id);
            }
            (Stage::Preparing(t), _) if *t == ticket => self.fail_dial(id, DialFailure::BadKey),
            (Stage::Finishing { ticket: t, path, index, token }, outcome) if *t == ticket => {
                let came = (*path, *token);
                let index = *index;
                dial.stage = Stage::Waiting;
                dial.noise = done.noise;
                match outcome {
                    Done::Finished(Ok((welcome, secrets))) => self.welcome(id, came, index, welcome, secrets),
                    Done::Finished(Err(Fault::Message | Fault::Identity)) => count(&mut self.drops.message2),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    /// A message 2 authenticated.
    fn welcome(
        &mut self,
        id: DialId,
        (path, token): (Path, PathToken),
        index: u32,
        welcome: super::wire::Welcome,
        secrets: super::api::Secrets,
    ) {
        let Some(dial) = self.dials.get(&id) else { return };
        let fits = welcome.index == index
            && welcome.version == dial.major
            && self.config.ciphers & welcome.cipher.bit() != 0;
        if !fits {
            return count(&mut self.drops.message2);
        }
        if common(self.config.versions, welcome.versions) != Some(dial.major) {
            return count(&mut self.drops.downgrade);
        }
        let (resume, mesh) = (dial.request.resume, dial.mesh.id);
        match welcome.outcome {
            Outcome::Refused(code) => self.fail_dial(id, DialFailure::Refused(code)),
            // Resumed is only ever what was asked for.
            Outcome::Accepted { association, resumed, .. } if resumed && resume != Some(association) => {
                count(&mut self.drops.message2);
            }
            Outcome::Accepted { association, resumed, limits } => {
                let Some(dial) = self.end_dial(id) else { return };
                self.events.push_back(Event::Completed {
                    id,
                    peer: dial.request.peer,
                    mesh,
                    incarnation: welcome.incarnation,
                    features: welcome.features,
                    secrets,
                    local_index: dial.request.local_index,
                    remote_index: index,
                    association,
                    resumed,
                    limits,
                    path,
                    token,
                    observed: welcome.observed,
                });
            }
        }
    }

    /// A datagram of type 2.
    pub(super) fn message2(&mut self, path: &Path, data: &[u8]) {
        if !(HEADER2 + NOISE2 + MACS..=FLOOR).contains(&data.len()) {
            return count(&mut self.drops.malformed);
        }
        let (Some(remote), Some(local), Some((body, mac1, mac2))) =
            (index_at(data, 2), index_at(data, 6), macs(data))
        else {
            return count(&mut self.drops.malformed);
        };
        let id = self.by_index.get(&local).copied();
        let full = self.jobs_full();
        let Some((id, dial)) = id.and_then(|id| Some((id, self.dials.get_mut(&id)?))) else {
            return count(&mut self.drops.unexpected);
        };
        // From anywhere else it is the copy of somebody who was faster, or was sent to him and passed on
        // (RFC 9000 section 9 discards packets from unknown servers for the same reason).
        // The local address stays as it was asked for: left open, the system goes on choosing.
        let Some(path) = dial.dialled(path).and_then(|at| dial.request.paths.get(at)).copied() else {
            return count(&mut self.drops.unexpected);
        };
        if !mac1_fits(&dial.mesh.own_mac1, body, mac1) {
            return count(&mut self.drops.mac1);
        }
        if data.get(1) != Some(&dial.major) || !matches!(dial.stage, Stage::Waiting) {
            // While one message 2 is read another has to wait: repetition brings it again.
            return count(&mut self.drops.unexpected);
        }
        if full {
            return count(&mut self.drops.full);
        }
        let message = body.get(HEADER2..).unwrap_or_default().to_vec();
        let work = Work::Finish {
            noise: dial.noise.take(),
            seed: dial.seed.clone(),
            peer: dial.request.peer,
            payload1: dial.payload.clone(),
            message,
        };
        let token = path_token(mac2);
        let ticket = self.start_job(Owner::Dial(id), work);
        if let Some(dial) = self.dials.get_mut(&id) {
            dial.stage = Stage::Finishing { ticket, path, index: remote, token };
        }
    }

    /// A datagram of type 3.
    pub(super) fn cookie_reply(&mut self, path: &Path, data: &[u8]) {
        if data.len() != COOKIE_LEN {
            return count(&mut self.drops.malformed);
        }
        let id = index_at(data, 2).and_then(|index| self.by_index.get(&index).copied());
        let Some((id, dial)) = id.and_then(|id| Some((id, self.dials.get_mut(&id)?))) else {
            return count(&mut self.drops.unexpected);
        };
        let (Stage::Waiting, Some(at)) = (&dial.stage, dial.dialled(path)) else {
            return count(&mut self.drops.unexpected);
        };
        let Some(cookie) = cookie::open(data, &dial.mesh.cookie(&dial.request.peer), &dial.mac1) else {
            return count(&mut self.drops.reply);
        };
        if let Some(slot) = dial.cookies.get_mut(at) {
            *slot = Some(cookie);
        }
        // Once at once; a responder that asks again and again gets the timer's pace.
        if !core::mem::replace(&mut dial.hurried, true) {
            self.send(Out::Dial(id, at as u8));
        }
    }

    /// A datagram of type 4.
    pub(super) fn versions_reply(&mut self, data: &[u8]) {
        if data.len() != VERSIONS_LEN {
            return count(&mut self.drops.malformed);
        }
        let Some((body, echo, mac)) = macs(data) else { return count(&mut self.drops.malformed) };
        let full = self.jobs_full();
        let waiting = |dial: &Dial| matches!(dial.stage, Stage::Waiting) && equal(&dial.mac1, echo);
        let Some((id, dial)) = self.dials.iter_mut().find(|(_, dial)| waiting(dial)) else {
            return count(&mut self.drops.unexpected);
        };
        let id = *id;
        if !equal(&mac16(&dial.mesh.versions(&dial.request.peer), &[body, echo]), mac) {
            return count(&mut self.drops.reply);
        }
        let theirs = (body.get(2).copied().unwrap_or(0), body.get(3).copied().unwrap_or(0));
        let ours = self.config.versions;
        match common(ours, theirs) {
            // A peer that speaks our version does not send this.
            _ if (theirs.0..=theirs.1).contains(&dial.major) || theirs.0 > theirs.1 => {
                count(&mut self.drops.reply);
            }
            None => self.fail_dial(id, DialFailure::Version { ours, theirs }),
            Some(_) if full => count(&mut self.drops.full),
            Some(major) => {
                dial.major = major;
                dial.noise = None;
                dial.message.clear();
                dial.sent = 0;
                self.timers.remove(&(dial.due, id));
                dial.due = dial.deadline;
                self.timers.insert((dial.due, id));
                self.forget(Owner::Dial(id));
                self.prepare(id);
            }
        }
    }
}

/// The clear header of message 1.
pub(super) fn header1(major: u8, index: u32) -> [u8; HEADER1] {
    let [a, b, c, d] = index.to_le_bytes();
    [MESSAGE1, major, a, b, c, d]
}
