//! How handshakes become associations: dials, half-open answers, lives, replacement.
//! The rules are the table "One association, whoever dials" of `docs/protocol/session.md`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::index::Target;
use super::{DialError, DownReason, Event, Node, Slot};
use crate::codec::Wire;
use crate::handshake::{
    Answer, DialFailure, DialId, DialRefused, DialRequest, Event as Handshake, HalfOpenId, Secrets,
};
use crate::identity::{EntityId, Incarnation};
use crate::path::Path;
use crate::session::aead::TAG;
use crate::session::{HEADER, NewEpoch, Peer, Session, SessionInit, leading_response};
use crate::stream::Limits;
use crate::time::Instant;

/// Told to a peer that the accept policy turned away.
pub const REFUSED_BY_POLICY: u16 = 1;
/// Told to a peer when there are too many already.
pub const REFUSED_FULL: u16 = 2;
/// Told to a peer while the node shuts down.
pub const REFUSED_STOPPING: u16 = 3;

/// A handshake that this side began: for callers, or to renew a session's keys.
pub(super) struct Dial {
    handshake: DialId,
    index: u32,
    waiting: Vec<u64>,
}

/// A handshake that was answered and waits for the initiator's first packet.
pub(super) struct HalfOpen {
    peer: EntityId,
    incarnation: Incarnation,
    life: u64,
    limits: Limits,
    local_index: u32,
    answered: Option<Answered>,
}

/// With whom, in which life, where.
struct Associated {
    peer: EntityId,
    incarnation: Incarnation,
    life: u64,
    path: Path,
    /// Whether the peer answered something that was sent there.
    validated: bool,
}

struct Answered {
    secrets: Secrets,
    remote_index: u32,
}

/// What message 1 says about the association, packed into one number.
fn offer(life: u64, live: bool) -> u64 {
    life << 1 | u64::from(live)
}

impl Node {
    pub(super) fn dial(&mut self, now: Instant, id: u64, entity: EntityId, paths: Vec<Path>) {
        let refused = if self.stopping {
            Some(DialError::Shutdown)
        } else if entity == self.me || entity.admit().is_err() {
            Some(DialError::BadEntity)
        } else {
            None
        };
        if let Some(error) = refused {
            self.events.push_back(Event::DialFailed { dial: id, error });
            return;
        }
        if let Some(event) = self.live(&entity).map(|s| connected(s, Some(id))) {
            self.events.push_back(event);
            return;
        }
        match self.dials.get_mut(&entity) {
            // A renewal asks where the peer used to be; the caller may know better.
            Some(dial) if dial.waiting.is_empty() && !paths.is_empty() => {
                if let Some(dial) = self.dials.remove(&entity) {
                    self.drop_dial(dial, DialError::Cancelled);
                }
            }
            Some(dial) => {
                dial.waiting.push(id);
                return;
            }
            None => {}
        }
        if paths.is_empty() {
            self.events.push_back(Event::DialFailed { dial: id, error: DialError::NoAddress });
            return;
        }
        if let Err(error) = self.start_handshake(now, entity, paths, Some(id)) {
            self.events.push_back(Event::DialFailed { dial: id, error });
        }
    }

    /// A session that answers, as opposed to one that is closing or dead.
    fn live(&self, entity: &EntityId) -> Option<&Session> {
        let slot = self.by_entity.get(entity)?;
        self.slots.get(*slot as usize)?.session.as_deref().filter(|s| s.is_up())
    }

    fn any_session(&self, entity: &EntityId) -> Option<&Session> {
        let slot = self.by_entity.get(entity)?;
        self.slots.get(*slot as usize)?.session.as_deref().filter(|s| !s.is_closing())
    }

    /// The lowest life that a new association with this incarnation of `peer` may have.
    fn record(&self, peer: &EntityId, incarnation: Option<Incarnation>) -> u64 {
        let closing = self
            .by_entity
            .get(peer)
            .and_then(|slot| self.slots.get(*slot as usize)?.session.as_deref())
            .filter(|s| s.is_closing() && incarnation.is_none_or(|i| i == s.incarnation))
            .map_or(0, |s| s.life + 1);
        self.lives.of(peer, incarnation).max(closing)
    }

    fn start_handshake(
        &mut self,
        now: Instant,
        entity: EntityId,
        paths: Vec<Path>,
        waiting: Option<u64>,
    ) -> Result<(), DialError> {
        if self.dials.len() >= self.config.max_dials {
            return Err(DialError::TooMany(self.config.max_dials));
        }
        let resume = match self.any_session(&entity) {
            Some(session) => offer(session.life, true),
            None => offer(self.record(&entity, None), false),
        };
        let index =
            self.indices.allocate(Target::Dial).ok_or(DialError::TooMany(super::index::MAX_INDICES))?;
        self.next_dial += 1;
        let request = DialRequest {
            id: self.next_dial,
            peer: entity,
            paths,
            local_index: index,
            resume: Some(resume),
            limits: self.config.session.streams.local.to_vec(),
            mesh: None,
        };
        match self.handshakes.dial(now, request) {
            Ok(handshake) => {
                let waiting = waiting.into_iter().collect();
                self.dials.insert(entity, Dial { handshake, index, waiting });
                Ok(())
            }
            Err(error) => {
                self.indices.release(index);
                Err(refused(error))
            }
        }
    }

    pub(super) fn cancel_dial(&mut self, id: u64) {
        let Some(entity) = self.dials.iter().find(|(_, d)| d.waiting.contains(&id)).map(|(e, _)| *e) else {
            return;
        };
        let for_session = self.any_session(&entity).is_some();
        if let Some(dial) = self.dials.get_mut(&entity) {
            dial.waiting.retain(|w| *w != id);
            if dial.waiting.is_empty()
                && !for_session
                && let Some(dial) = self.dials.remove(&entity)
            {
                self.drop_dial(dial, DialError::Cancelled);
            }
        }
        self.events.push_back(Event::DialFailed { dial: id, error: DialError::Cancelled });
    }

    /// Ends a dial whose entry is already out of the table.
    pub(super) fn drop_dial(&mut self, dial: Dial, error: DialError) {
        self.handshakes.cancel(dial.handshake);
        self.indices.release(dial.index);
        for id in dial.waiting {
            self.events.push_back(Event::DialFailed { dial: id, error });
        }
    }

    /// Starts a handshake for a session that wants new keys or is dead.
    pub(super) fn dial_if_wanted(&mut self, now: Instant, slot: u32) {
        let Some(session) = self.slots[slot as usize].session.as_deref_mut() else { return };
        if !session.wants_dial(now) {
            return;
        }
        let (entity, path) = (session.entity, session.path());
        if self.dials.contains_key(&entity) || self.stopping {
            return;
        }
        if self.start_handshake(now, entity, alloc::vec![path], None).is_err()
            && let Some(session) = self.slots[slot as usize].session.as_deref_mut()
        {
            session.dial_failed(now);
        }
    }

    /// Acts on what the handshake machine says.
    pub(super) fn drain_handshakes(&mut self, now: Instant) {
        while let Some(event) = self.handshakes.poll_event() {
            match event {
                Handshake::Asked { id, peer, incarnation, resume, limits, .. } => {
                    let answer = self.answer(id, peer, incarnation, resume, &limits);
                    if !self.handshakes.answer(now, id, answer) {
                        self.forget_half_open(id);
                    }
                }
                Handshake::Responded { id, secrets, remote_index, .. } => {
                    if let Some(half) = self.half_open.get_mut(&id) {
                        half.answered = Some(Answered { secrets, remote_index });
                    }
                }
                Handshake::Expired { id, .. } => self.forget_half_open(id),
                Handshake::Failed { id, error } => self.handshake_failed(now, id, error),
                Handshake::Completed {
                    peer,
                    incarnation,
                    secrets,
                    local_index,
                    remote_index,
                    association,
                    limits,
                    path,
                    token,
                    ..
                } => {
                    let epoch = NewEpoch { secrets, local_index, remote_index, token: Some(token) };
                    self.completed(
                        now,
                        Associated { peer, incarnation, life: association >> 1, path, validated: true },
                        &limits,
                        epoch,
                    );
                }
            }
        }
    }

    fn forget_half_open(&mut self, id: HalfOpenId) {
        if let Some(half) = self.half_open.remove(&id) {
            self.indices.release(half.local_index);
        }
    }

    /// Decides about an authenticated initiator. Nothing but the answer may follow: the message may
    /// be a replay.
    fn answer(
        &mut self,
        id: HalfOpenId,
        peer: EntityId,
        incarnation: Incarnation,
        resume: Option<u64>,
        limits: &[u8],
    ) -> Answer {
        if peer == self.me {
            return Answer::Ignore;
        }
        if self.stopping {
            return Answer::Refuse(REFUSED_STOPPING);
        }
        if self.config.accept.as_ref().is_some_and(|accept| !accept(&peer)) {
            return Answer::Refuse(REFUSED_BY_POLICY);
        }
        if !self.by_entity.contains_key(&peer) && self.by_entity.len() >= self.config.max_peers {
            return Answer::Refuse(REFUSED_FULL);
        }
        let Ok(limits) = Limits::decode_exact(limits) else { return Answer::Ignore };
        let (offered, offer_live) = (resume.unwrap_or(0) >> 1, resume.unwrap_or(0) & 1 == 1);
        let ours = self.any_session(&peer).filter(|s| s.incarnation == incarnation).map(|s| s.life);
        let life = agree(offered, offer_live, ours, self.record(&peer, Some(incarnation)));
        let Some(local_index) = self.indices.allocate(Target::HalfOpen(id)) else { return Answer::Ignore };
        let half = HalfOpen { peer, incarnation, life, limits, local_index, answered: None };
        if let Some(old) = self.half_open.insert(id, half) {
            self.indices.release(old.local_index);
        }
        Answer::Accept {
            local_index,
            association: offer(life, true),
            // Whether the initiator goes on with what it has; in all other cases it begins.
            resumed: offer_live && life == offered,
            limits: self.config.session.streams.local.to_vec(),
        }
    }

    /// The first packet under a half-open's keys arrived. If it opens, the association exists: its slot.
    pub(super) fn confirm(
        &mut self,
        now: Instant,
        id: HalfOpenId,
        index: u32,
        counter: u64,
        path: Path,
        data: &[u8],
    ) -> Option<u32> {
        let half = self.half_open.get(&id)?;
        let answered = half.answered.as_ref()?;
        // Tried on a copy: the session opens the original.
        let mut copy = data.to_vec();
        let (head, rest) = copy.split_at_mut(HEADER);
        let at = rest.len().checked_sub(TAG)?;
        let (payload, tag) = rest.split_at_mut(at);
        let tag: &[u8; TAG] = (&*tag).try_into().ok()?;
        let key = self.config.ciphers.key(answered.secrets.cipher, &answered.secrets.recv);
        if key.open(counter, head, payload, tag).is_err() {
            self.stats.drops.forged += 1;
            return None;
        }
        let token = leading_response(payload);
        let half = self.half_open.remove(&id)?;
        let proven = self.handshakes.confirm(id, &path, token);
        let answered = half.answered?;
        let epoch = NewEpoch {
            secrets: answered.secrets,
            local_index: index,
            remote_index: answered.remote_index,
            token: None,
        };
        let known = self.any_session(&half.peer).map(|s| (s.incarnation, s.life));
        if known == Some((half.incarnation, half.life)) {
            let slot = self.join(now, half.peer, epoch)?;
            if let (Some(path), Some(session)) = (proven, self.slots[slot as usize].session.as_deref_mut()) {
                session.proven_at(now, path);
            }
            return Some(slot);
        }
        // Meanwhile a later association took its place, or the one to resume ended.
        let stale = match known {
            Some((incarnation, life)) => {
                incarnation.epoch > half.incarnation.epoch
                    || incarnation == half.incarnation && life >= half.life
            }
            None => self.record(&half.peer, Some(half.incarnation)) > half.life,
        };
        if stale || self.stopping {
            self.indices.release(index);
            return None;
        }
        let HalfOpen { peer, incarnation, life, limits, .. } = half;
        // This packet and message 1 may have been somebody's copies. The peer says which message 2 reached
        // it; without that word its path is where this packet came from, and is challenged first.
        let validated = proven.is_some();
        let path = proven.unwrap_or(path);
        self.begin(now, Associated { peer, incarnation, life, path, validated }, limits, epoch)
    }

    /// Message 2 opened: this side has keys.
    fn completed(&mut self, now: Instant, with: Associated, limits: &[u8], epoch: NewEpoch) {
        let index = epoch.local_index;
        let Some(dial) = self.dials.remove(&with.peer) else {
            self.indices.release(index);
            return;
        };
        let Ok(limits) = Limits::decode_exact(limits) else {
            self.drop_dial(dial, DialError::BadAnswer);
            if let Some(slot) = self.by_entity.get(&with.peer).copied()
                && let Some(session) = self.slots[slot as usize].session.as_deref_mut()
            {
                session.dial_failed(now);
            }
            return;
        };
        let known = self.any_session(&with.peer).map(|s| (s.incarnation, s.life));
        if known.is_none() && dial.waiting.is_empty() {
            // It was to renew an association that is over or closing; nobody asked for another.
            self.indices.release(index);
            return;
        }
        // The answer is older than the association that stands: another handshake overtook it, and the
        // peer, which knows that, will not follow.
        let overtaken = known.is_some_and(|(incarnation, life)| {
            incarnation.epoch > with.incarnation.epoch || incarnation == with.incarnation && life > with.life
        });
        if overtaken {
            self.indices.release(index);
            let slot = self.by_entity.get(&with.peer).copied();
            let session = slot.and_then(|slot| self.slots.get_mut(slot as usize)?.session.as_deref_mut());
            if let (Some(slot), Some(session)) = (slot, session) {
                session.dial_failed(now);
                self.events.extend(dial.waiting.iter().map(|id| connected(session, Some(*id))));
                self.touched(now, slot);
            }
            return;
        }
        let joins = known == Some((with.incarnation, with.life));
        let path = with.path;
        let slot =
            if joins { self.join(now, with.peer, epoch) } else { self.begin(now, with, limits, epoch) };
        let Some(slot) = slot else {
            let error = DialError::TooMany(self.config.max_peers);
            self.events.extend(dial.waiting.into_iter().map(|dial| Event::DialFailed { dial, error }));
            return;
        };
        if let Some(session) = self.slots[slot as usize].session.as_deref_mut() {
            // The responder learns from this packet that its answer arrived.
            session.announce();
            if joins {
                session.found_at(now, path);
            }
            self.events.extend(dial.waiting.iter().map(|id| connected(session, Some(*id))));
            if !joins && dial.waiting.is_empty() {
                // A renewal met a peer that had forgotten: the new association is news to the application.
                self.events.push_back(connected(session, None));
            }
        }
        self.touched(now, slot);
    }

    fn handshake_failed(&mut self, now: Instant, id: DialId, error: DialFailure) {
        let Some(peer) = self.dials.iter().find(|(_, d)| d.handshake == id).map(|(e, _)| *e) else { return };
        let Some(dial) = self.dials.remove(&peer) else { return };
        self.drop_dial(dial, failed(error));
        if let Some(slot) = self.by_entity.get(&peer).copied()
            && let Some(session) = self.slots[slot as usize].session.as_deref_mut()
        {
            session.dial_failed(now);
            self.touched(now, slot);
        }
    }

    /// A further epoch of a living association.
    fn join(&mut self, now: Instant, peer: EntityId, epoch: NewEpoch) -> Option<u32> {
        let slot = *self.by_entity.get(&peer)?;
        self.indices.retarget(epoch.local_index, Target::Session(slot));
        let session = self.slots[slot as usize].session.as_deref_mut()?;
        session.add_epoch(now, &*self.config.ciphers, epoch);
        self.stats.epochs += 1;
        Some(slot)
    }

    /// A new association; ends the one that it replaces.
    fn begin(&mut self, now: Instant, with: Associated, limits: Limits, epoch: NewEpoch) -> Option<u32> {
        let Associated { peer, incarnation, life, path, validated } = with;
        if let Some(old) = self.by_entity.get(&peer).copied() {
            self.end(old, DownReason::Restarted);
        }
        if self.by_entity.len() >= self.config.max_peers {
            self.indices.release(epoch.local_index);
            return None;
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot { generation: 0, session: None, ready: false });
                (self.slots.len() - 1) as u32
            }
        };
        let init = SessionInit {
            handle: Peer::new(slot, self.slots[slot as usize].generation),
            entity: peer,
            greater: self.me > peer,
            incarnation,
            life,
            limits,
            path,
            validated,
        };
        let initiated = epoch.initiated();
        self.indices.retarget(epoch.local_index, Target::Session(slot));
        let mut session =
            Box::new(Session::new(now, self.session_config.clone(), init, self.entropy.split("session")));
        session.add_epoch(now, &*self.config.ciphers, epoch);
        self.stats.epochs += 1;
        self.stats.peers += 1;
        self.by_entity.insert(peer, slot);
        if !initiated {
            // A dial of our own that crossed this one is answered by it.
            match self.dials.remove(&peer) {
                Some(mut dial) => {
                    let waiting = core::mem::take(&mut dial.waiting);
                    self.events.extend(waiting.into_iter().map(|id| connected(&session, Some(id))));
                    self.dials.insert(peer, dial);
                }
                None => self.events.push_back(connected(&session, None)),
            }
        }
        self.slots[slot as usize].session = Some(session);
        Some(slot)
    }

    /// Forgets an association and says what was lost with it.
    pub(super) fn end(&mut self, slot: u32, reason: DownReason) {
        let entry = &mut self.slots[slot as usize];
        let Some(mut session) = entry.session.take() else { return };
        let reason = session.closing().unwrap_or(reason);
        let peer = Peer::new(slot, entry.generation);
        entry.generation = entry.generation.wrapping_add(1);
        self.timers.set(slot, None);
        self.free.push(slot);
        for index in session.indices() {
            self.indices.release(index);
        }
        while let Some(index) = session.pop_retired_index() {
            self.indices.release(index);
        }
        while let Some(event) = session.streams.poll_event() {
            self.events.push_back(super::api::stream_event(peer, event, &session.streams));
        }
        let lost = super::Lost::from(session.streams.close_all(&mut self.pool));
        self.ended.add(session.streams.ledger());
        self.recent.retain(|s| *s != slot);
        let entity = session.entity;
        self.lives.ended(entity, session.incarnation, session.life);
        self.by_entity.remove(&entity);
        self.stats.peers -= 1;
        self.stats.lost.messages += lost.messages;
        self.stats.lost.bytes += lost.bytes;
        self.events.push_back(Event::Disconnected { peer, entity, reason, lost });
        // A dial that only renewed this association has no purpose any more.
        if self.dials.get(&entity).is_some_and(|d| d.waiting.is_empty())
            && let Some(dial) = self.dials.remove(&entity)
        {
            self.drop_dial(dial, DialError::Cancelled);
        }
        self.note_drained();
    }
}

/// The life of an association, from what the initiator offers and the responder has.
fn agree(offered: u64, offer_live: bool, ours: Option<u64>, record: u64) -> u64 {
    match ours {
        Some(life) if life >= offered => life,
        _ if offer_live => record.max(offered.saturating_add(1)),
        _ => record.max(offered),
    }
}

fn connected(session: &Session, dial: Option<u64>) -> Event {
    Event::Connected {
        peer: session.handle,
        entity: session.entity,
        dial,
        path: session.path(),
        cipher: session.cipher(),
    }
}

fn refused(error: DialRefused) -> DialError {
    match error {
        DialRefused::NoPath => DialError::NoAddress,
        DialRefused::TooManyPaths(limit) | DialRefused::TooMany(limit) => DialError::TooMany(limit),
        _ => DialError::BadEntity,
    }
}

fn failed(error: DialFailure) -> DialError {
    match error {
        DialFailure::TimedOut(after) => DialError::TimedOut(after),
        DialFailure::Version { ours, theirs } => DialError::Version { ours, theirs },
        DialFailure::Refused(code) => DialError::Refused(code),
        DialFailure::BadKey => DialError::BadEntity,
    }
}
