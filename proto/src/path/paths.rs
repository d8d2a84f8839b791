//! The paths of one association.

use super::size::Search;
use super::{Path, Remote};
use crate::bounded::Few;
use crate::entropy::Entropy;
use crate::time::{Duration, Instant, Reason, earlier, nanos};
use alloc::collections::VecDeque;
use core::net::IpAddr;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Base and largest size, in bytes, of an inner datagram over a relay: 65 bytes less than the hop's.
const VIA_SIZES: (u16, u16) = (1120, 1387);
/// Smallest data packet with one path frame: header 13, type 1, data 8, tag 16.
const MIN_PACKET: u64 = 38;
/// Bytes that may go to an unproven address that this side chose itself.
const OWN_CHOICE: u64 = 3 * 1200;
/// A challenge lives three PTO, and never less than this.
const MIN_TRIAL: Duration = Duration::from_secs(1);
/// PTO until the session tells a better one.
const INITIAL_PTO: Duration = Duration::from_secs(1);
/// A validated path that is not used is kept this long after it was last heard.
const STANDBY: Duration = Duration::from_secs(10);
/// Events kept for a session that does not ask; the oldest goes first.
const MAX_EVENTS: usize = 16;

/// Most paths that may be under trial beside the active one.
pub const MAX_CANDIDATES: usize = 2;

/// Names a path within its association. Rises, and is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

/// Limits and switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Datagram size, in bytes, that every UDP path is taken to carry.
    pub base_size: u16,
    /// Largest datagram, in bytes, that is probed for.
    pub max_size: u16,
    /// Whether sizes above the base are probed for.
    pub probing: bool,
    /// Whether packets are marked ECT(0) where the path proves to keep the marks.
    pub ecn: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { base_size: 1200, max_size: 1452, probing: true, ecn: true }
    }
}

/// A frame that must leave in a packet on a certain path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathFrame {
    /// Asks whoever is at the other end to send the bytes back.
    Challenge([u8; 8]),
    /// Sends the bytes of a challenge back, on the path that it came on.
    Response([u8; 8]),
    /// The same, and says that the challenge came over the path that this side sends on. Somebody who
    /// copies packets from another address cannot bring this about for his own.
    Confirm([u8; 8]),
    /// This side sends on this path from now on, and asks the peer to do the same. The number
    /// rises with every wish, so that a late frame does not undo a newer one.
    Migrate(u64),
}

/// What the session must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathEvent {
    /// Data goes another way from now on.
    Switched {
        /// The path used so far.
        from: PathId,
        /// The path used from now on.
        to: PathId,
        /// Only the remote port changed: RTT and congestion state still hold.
        keep: bool,
    },
    /// The peer answered on this path.
    Validated(PathId),
    /// The path is gone from the table; its id means nothing any more.
    Abandoned(PathId),
    /// The active path did not answer a challenge, and there is no other that did.
    Silent(PathId),
    /// Datagrams on this path may have this many bytes from now on.
    Size(PathId, u16),
}

/// One path.
#[derive(Debug)]
pub struct PathState {
    /// Its name.
    pub id: PathId,
    /// Its addresses.
    pub path: Path,
    /// Whether the peer proved to be there.
    pub validated: bool,
    /// Largest datagram to send, in bytes (UDP payload, or the inner datagram over a relay).
    pub size: u16,
    /// Where datagrams arrived, if `path.local` leaves it open.
    seen_local: Option<IpAddr>,
    received: u64,
    sent: u64,
    heard: Instant,
    rested: Instant,
    challenge: Option<Challenge>,
    /// What is to be answered, and whether the challenge came over the path in use.
    response: Option<([u8; 8], bool)>,
    /// The last challenge that was answered: the better answer to it may come second.
    proof: Option<[u8; 8]>,
    /// The peer said that it uses this path, or this side chose it.
    confirmed: bool,
    /// It answered in the present round.
    answered: bool,
    /// This side chose it.
    ours: bool,
    search: Search,
}

/// A question under way. Its repeats carry the same bytes, so that a late answer counts.
#[derive(Debug)]
struct Challenge {
    data: [u8; 8],
    pending: bool,
    sends: u32,
    repeat_at: Instant,
    fails_at: Instant,
}

impl PathState {
    fn new(id: PathId, path: Path, config: &Config, now: Instant) -> Self {
        let search = search(&path, config);
        Self {
            id,
            path,
            validated: false,
            size: search.size(),
            seen_local: None,
            received: 0,
            sent: 0,
            heard: now,
            rested: now,
            challenge: None,
            response: None,
            proof: None,
            confirmed: false,
            answered: false,
            ours: false,
            search,
        }
    }

    /// The size, in bytes, that this kind of path is taken to carry: what challenges are padded to,
    /// and the most that a probe-timeout packet should have.
    pub fn base_size(&self) -> u16 {
        self.search.base()
    }

    /// Bytes that came from there and went there, since this side knows of the path.
    pub const fn traffic(&self) -> (u64, u64) {
        (self.received, self.sent)
    }

    /// A packet came from there.
    fn hear(&mut self, now: Instant, from: &Path, bytes: usize) {
        self.received = self.received.saturating_add(bytes as u64);
        self.heard = now;
        if self.path.local.is_none() && from.local.is_some() {
            self.seen_local = from.local;
        }
    }

    fn matches(&self, path: &Path) -> bool {
        let local = match (self.path.local.or(self.seen_local), path.local) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        local && self.path.socket == path.socket && self.path.remote == path.remote
    }

    fn may_send(&self, bytes: u64) -> bool {
        if planted!(AmplificationSkipped) {
            return true;
        }
        self.validated || self.sent.saturating_add(bytes) <= self.received
    }

    /// Only waits to be used again, or to be forgotten.
    const fn rests(&self) -> bool {
        self.challenge.is_none() && !self.answered
    }

    fn forgotten_at(&self) -> Instant {
        self.heard.max(self.rested) + STANDBY
    }

    fn ask(&mut self, entropy: &mut Entropy, now: Instant, trial: Duration) {
        if self.challenge.is_none() {
            self.challenge = Some(Challenge {
                data: entropy.array(),
                pending: true,
                sends: 0,
                repeat_at: now,
                fails_at: now + trial,
            });
        }
    }

    fn timeout(&self) -> Option<(Instant, Reason)> {
        let c = self.challenge.as_ref()?;
        let at = if c.pending { c.fails_at } else { c.repeat_at.min(c.fails_at) };
        Some((at, Reason::PathValidation))
    }

    fn has_frame(&self) -> bool {
        let waits = self.response.is_some() || self.challenge.as_ref().is_some_and(|c| c.pending);
        waits && self.may_send(MIN_PACKET)
    }

    /// Whether the challenge failed; makes a due repeat pending.
    fn tick(&mut self, now: Instant) -> bool {
        let Some(c) = &mut self.challenge else { return false };
        if now >= c.fails_at {
            self.challenge = None;
            return true;
        }
        c.pending |= now >= c.repeat_at;
        false
    }

    fn frame(&mut self, now: Instant, pto: Duration) -> Option<PathFrame> {
        if !self.may_send(MIN_PACKET) {
            return None;
        }
        if let Some((data, in_use)) = self.response.take() {
            return Some(if in_use { PathFrame::Confirm(data) } else { PathFrame::Response(data) });
        }
        let c = self.challenge.as_mut().filter(|c| c.pending)?;
        c.pending = false;
        c.repeat_at = now + pto.saturating_mul(1 << c.sends.min(10));
        c.sends += 1;
        Some(PathFrame::Challenge(c.data))
    }
}

fn search(path: &Path, config: &Config) -> Search {
    let (base, max) = match path.remote {
        Remote::Via { .. } => (config.base_size.min(VIA_SIZES.0), config.max_size.min(VIA_SIZES.1)),
        Remote::Udp(_) => (config.base_size, config.max_size),
        // A stream carries any size: nothing to find out.
        Remote::Carrier(_) => (config.max_size, config.max_size),
    };
    Search::new(base, if config.probing { max.max(base) } else { base })
}

/// Whether two paths differ in the remote port alone, as after a NAT gave out a new one.
fn only_port(a: &Path, b: &Path) -> bool {
    match (a.udp_addr(), b.udp_addr()) {
        (Some(x), Some(y)) => x.ip() == y.ip() && a.socket == b.socket && a.local == b.local,
        _ => false,
    }
}

/// The paths of one association: see the module's documentation for the rules.
pub struct Paths {
    config: Config,
    entropy: Entropy,
    now: Instant,
    pto: Duration,
    active: PathState,
    candidates: Few<PathState, MAX_CANDIDATES>,
    next: u32,
    /// Where the packet with the highest counter came from first.
    latest: PathId,
    /// Candidates are on trial against the active path.
    round: Option<Round>,
    /// A path that is known already starts no round before this.
    next_round: Instant,
    /// The highest number of a wish of the peer.
    peer_wish: Option<u64>,
    /// It was not followed yet.
    wish_open: bool,
    /// The number of our last wish.
    wish: u64,
    wish_pending: bool,
    /// At most [`MAX_EVENTS`], and rarely one: its memory goes with the last.
    events: VecDeque<PathEvent>,
}

#[derive(Debug)]
struct Round {
    /// A candidate answered; the switch comes then unless the active path answers too.
    switch_at: Option<Instant>,
    /// The others got time once already.
    waited: bool,
}

impl Paths {
    /// Begins with one path. `validated`: the handshake proved that the peer is there; if not, it is
    /// challenged, and gets at most the bytes that came from there.
    pub fn new(config: &Config, now: Instant, first: Path, validated: bool, mut entropy: Entropy) -> Self {
        let mut active = PathState::new(PathId(0), first, config, now);
        active.validated = validated;
        active.confirmed = validated;
        if !validated {
            active.ask(&mut entropy, now, INITIAL_PTO * 3);
        }
        Self {
            config: *config,
            entropy,
            now,
            pto: INITIAL_PTO,
            active,
            candidates: Few::new(),
            next: 1,
            latest: PathId(0),
            round: None,
            next_round: now,
            peer_wish: None,
            wish_open: false,
            wish: 0,
            wish_pending: false,
            events: VecDeque::new(),
        }
    }

    /// The path that data goes on.
    pub const fn active(&self) -> PathId {
        self.active.id
    }

    /// Where data goes.
    pub fn active_path(&self) -> Path {
        self.active.path
    }

    /// The state of a path; `None` if it is gone.
    pub fn get(&self, id: PathId) -> Option<&PathState> {
        self.iter().find(|p| p.id == id)
    }

    /// The path with these addresses. A local address counts only where both sides know it.
    pub fn find(&self, path: &Path) -> Option<PathId> {
        self.iter().find(|p| p.matches(path)).map(|p| p.id)
    }

    /// Bytes on the heap now.
    pub fn footprint(&self) -> u64 {
        self.candidates.footprint() + (self.events.capacity() * size_of::<PathEvent>()) as u64
    }

    /// All paths, the active one first.
    pub fn iter(&self) -> impl Iterator<Item = &PathState> {
        core::iter::once(&self.active).chain(&self.candidates)
    }

    /// A packet of `bytes` (the UDP payload) opened and was no replay. `highest`: its counter is above
    /// all before it. Answers the path that it belongs to; `None` if it came late from an unknown
    /// address, or if there is no room for another candidate (rule: newcomers are refused while both
    /// places hold paths on trial; a path that merely rests for a second or more makes room).
    pub fn on_authenticated(
        &mut self,
        now: Instant,
        from: Path,
        bytes: usize,
        highest: bool,
    ) -> Option<PathId> {
        self.now = now;
        let id = match self.find(&from) {
            Some(id) => id,
            None if highest => self.admit(now, from)?,
            None => return None,
        };
        self.slot(id)?.hear(now, &from, bytes);
        if !highest {
            return Some(id);
        }
        self.latest = id;
        if id == self.active.id {
            self.incumbent_lives(now);
            if !self.active.validated && now >= self.next_round {
                self.next_round = now + self.trial();
                self.ask_active(now);
            }
        } else {
            self.on_trial(now, id);
        }
        Some(id)
    }

    /// Whether a packet from `from` that was seen before is worth opening all the same. Somebody who
    /// delivers copies first makes every original a replay, and then a path that the peer moved to shows
    /// in nothing else. Not while first copies come over the path in use and the peer confirmed it.
    pub fn wants_copy(&self, now: Instant, from: &Path) -> bool {
        if self.latest == self.active.id && self.active.confirmed {
            return false;
        }
        let Some(slot) = self.find(from).and_then(|id| self.get(id)) else { return self.room(now) };
        let poor = !slot.may_send(u64::from(slot.base_size()));
        slot.id != self.active.id && (poor || slot.rests() && now >= self.next_round)
    }

    /// A packet that [`Self::wants_copy`] opened: its path goes on trial like that of a first copy.
    pub fn on_copy(&mut self, now: Instant, from: Path, bytes: usize) -> Option<PathId> {
        self.now = now;
        let id = self.find(&from).or_else(|| self.admit(now, from))?;
        self.slot(id)?.hear(now, &from, bytes);
        if id != self.active.id {
            self.on_trial(now, id);
        }
        Some(id)
    }

    /// A handshake proved that the peer is at `path` and means to be. A path that is in use stays so
    /// while it answers.
    pub fn on_proven(&mut self, now: Instant, path: Path) {
        self.now = now;
        let Some(id) = self.find(&path).or_else(|| self.admit(now, path)) else { return };
        let Some(slot) = self.slot(id) else { return };
        slot.heard = now;
        slot.confirmed = true;
        if !slot.validated {
            slot.validated = true;
            self.event(PathEvent::Validated(id));
        }
        if id != self.active.id {
            self.on_trial(now, id);
        }
    }

    /// A challenge arrived in a packet on path `on`; the answer leaves on the same path. An answer
    /// that still waits there is replaced.
    pub fn on_challenge(&mut self, now: Instant, on: PathId, data: [u8; 8]) {
        self.now = now;
        let in_use = self.in_use(on);
        if let Some(slot) = self.slot(on) {
            slot.response = Some((data, in_use));
        }
    }

    /// Whether a path leads where this side sends. A local address makes no difference: it is ours.
    pub fn in_use(&self, id: PathId) -> bool {
        let active = &self.active.path;
        self.get(id).is_some_and(|p| p.path.socket == active.socket && p.path.remote == active.remote)
    }

    /// A response arrived. It proves the path that the challenge went out on, whichever it came back
    /// on (RFC 9000 section 8.2.3): a copier that is always first must not make the true path look
    /// dead. `pto`: the probe timeout of the active path.
    pub fn on_response(&mut self, now: Instant, _on: PathId, data: [u8; 8], pto: Duration) {
        self.answered(now, data, pto, false);
    }

    /// A response arrived that says more: the challenge reached the peer over the path that it sends on.
    /// Of several paths that answer this is the peer's own, the others belong to somebody who passes
    /// packets on. It counts after a plain response to the same challenge as well.
    pub fn on_confirm(&mut self, now: Instant, data: [u8; 8], pto: Duration) {
        self.answered(now, data, pto, true);
    }

    fn answered(&mut self, now: Instant, data: [u8; 8], pto: Duration, in_use: bool) {
        self.now = now;
        self.set_pto(pto);
        let asked = |p: &PathState| {
            let open = p.challenge.as_ref().is_some_and(|c| c.sends > 0 && c.data == data);
            open || in_use && p.proof == Some(data)
        };
        let Some(id) = self.iter().find(|p| asked(p)).map(|p| p.id) else { return };
        let Some(slot) = self.slot(id) else { return };
        if slot.challenge.as_ref().is_some_and(|c| c.data == data) {
            slot.challenge = None;
        }
        slot.proof = (!in_use).then_some(data);
        slot.confirmed |= in_use;
        slot.rested = now;
        if !slot.validated {
            slot.validated = true;
            self.event(PathEvent::Validated(id));
        }
        if id == self.active.id {
            self.incumbent_lives(now);
            return;
        }
        let trying = self.round.is_some() || in_use && !self.active.confirmed;
        let wished = in_use && self.wish_open;
        let Some(slot) = self.slot(id) else { return };
        if slot.ours || wished {
            self.switch(now, id);
        } else if trying {
            slot.answered = true;
            self.start_round(now);
            let switch_at = now + self.pto;
            // Ask the incumbent once more: one lost packet must not hand the data to a copier.
            self.ask_active(now);
            if let Some(c) = &mut self.active.challenge {
                c.pending = true;
            }
            if let Some(round) = &mut self.round {
                round.switch_at.get_or_insert(switch_at);
            }
        }
    }

    /// The peer sends on path `on` from now on, and wants this side to. `number` rises with every
    /// wish of the peer; an older one is ignored. It is followed to the first candidate that the peer
    /// confirms, at once if `on` is confirmed already: a copy of the packet may have come first, over a
    /// path that the peer does not use.
    pub fn on_migrate(&mut self, now: Instant, on: PathId, number: u64) {
        self.now = now;
        if self.peer_wish.is_some_and(|seen| number <= seen) || self.get(on).is_none() {
            return;
        }
        self.peer_wish = Some(number);
        self.wish_open = on != self.active.id;
        if !self.wish_open {
            self.incumbent_lives(now);
        } else if self.get(on).is_some_and(|p| p.confirmed) {
            self.switch(now, on);
        } else {
            self.ask_candidate(now, on);
        }
    }

    /// The packet with [`PathFrame::Migrate`] of this number was lost: it is sent again if it is still
    /// what this side wants.
    pub fn on_migrate_lost(&mut self, now: Instant, number: u64) {
        self.now = now;
        // The number is cleared from `wish` by a switch that the peer caused.
        self.wish_pending |= number == self.wish && number > 0 && self.active.ours;
    }

    /// The next frame to send, and the path to send it on: in a packet of its own, padded to
    /// [`PathState::base_size`] where [`Self::may_send`] allows. Frames that wait for an unvalidated
    /// path's budget are not offered.
    #[must_use]
    pub fn poll_frame(&mut self) -> Option<(PathId, PathFrame)> {
        if self.wish_pending {
            self.wish_pending = false;
            return Some((self.active.id, PathFrame::Migrate(self.wish)));
        }
        let (now, pto) = (self.now, self.pto);
        core::iter::once(&mut self.active)
            .chain(&mut self.candidates)
            .find_map(|slot| slot.frame(now, pto).map(|frame| (slot.id, frame)))
    }

    /// Whether `bytes` more (UDP payload) may leave on a path: on an unvalidated one at most as many
    /// as were received, so that a forged source address gains nothing.
    pub fn may_send(&self, id: PathId, bytes: usize) -> bool {
        self.get(id).is_some_and(|p| p.may_send(bytes as u64))
    }

    /// A datagram of `bytes` (UDP payload) left on a path.
    pub fn on_sent(&mut self, id: PathId, bytes: usize) {
        if let Some(slot) = self.slot(id) {
            slot.sent = slot.sent.saturating_add(bytes as u64);
        }
    }

    /// Moves to another path, because this side's network changed or a better way is known. The path
    /// is challenged; when it answers, data goes there and the peer is told to follow. Asking for the
    /// active path is [`Self::revalidate`]. A wish not yet fulfilled is replaced.
    pub fn migrate_to(&mut self, now: Instant, path: Path) -> PathId {
        self.now = now;
        let id = match self.find(&path) {
            Some(id) if id == self.active.id => {
                self.revalidate(now);
                return id;
            }
            Some(id) => id,
            None => {
                if self.candidates.is_full() {
                    // Our own decision comes before what arrived from outside: the longest unheard goes.
                    let oldest = self.candidates.iter().min_by_key(|p| (p.heard, p.id)).map(|p| p.id);
                    oldest.into_iter().for_each(|id| self.abandon(id));
                }
                match self.insert(now, path) {
                    Some(id) => id,
                    None => return self.active.id,
                }
            }
        };
        for candidate in &mut self.candidates {
            candidate.ours = candidate.id == id;
            if candidate.ours {
                candidate.received = candidate.received.saturating_add(OWN_CHOICE);
            }
        }
        self.ask_candidate(now, id);
        id
    }

    /// Asks the active path whether it still works: this side's network changed, its address perhaps
    /// not. What is known of the local address is forgotten unless it was chosen.
    pub fn revalidate(&mut self, now: Instant) {
        self.now = now;
        self.active.seen_local = None;
        self.ask_active(now);
    }

    /// A path cannot be used any more (its hop session or its socket is gone). If it was the active
    /// one, a validated candidate takes over; without one it stays, and [`PathEvent::Silent`] says so.
    pub fn fail(&mut self, now: Instant, id: PathId) {
        self.now = now;
        if id != self.active.id {
            self.abandon(id);
        } else if let Some(to) = self.candidates.iter().find(|p| p.validated).map(|p| p.id) {
            self.switch(now, to);
            self.abandon(id);
        } else {
            self.event(PathEvent::Silent(id));
        }
        self.settle(now);
    }

    /// A size probe to send now: one packet of exactly that many bytes on that path. Ask only when the
    /// congestion window has room for it; that is why it does not appear in [`Self::poll_timeout`].
    #[must_use]
    pub fn poll_probe(&mut self, now: Instant) -> Option<(PathId, u16)> {
        self.now = now;
        if !self.wants_probe(now) {
            return None;
        }
        self.active.search.poll(now).map(|size| (self.active.id, size))
    }

    /// Reads a word of every part, to have it fetched.
    pub fn warm(&self) -> u64 {
        let active = &self.active;
        let parts = [
            nanos(self.pto),
            u64::from(active.id.0),
            active.received,
            u64::from(active.size),
            u64::from(active.search.size()),
            active.challenge.as_ref().map_or(0, |c| u64::from(c.sends)),
            self.wish,
            u64::from(self.wish_pending),
            self.next_round.as_nanos(),
            self.events.len() as u64,
        ];
        parts.into_iter().fold(0, u64::wrapping_add)
    }

    /// Whether [`Self::poll_probe`] has one.
    pub fn wants_probe(&self, now: Instant) -> bool {
        self.active.validated && self.round.is_none() && self.active.search.is_due(now)
    }

    /// A size probe was acknowledged.
    pub fn on_probe_acked(&mut self, now: Instant, id: PathId, size: u16) {
        self.now = now;
        self.sized(id, |search| search.acked(now, size));
    }

    /// A size probe was lost. Not a congestion signal (RFC 8899 section 3, item 7).
    pub fn on_probe_lost(&mut self, now: Instant, id: PathId, size: u16) {
        self.now = now;
        self.sized(id, |search| search.lost(now, size));
    }

    /// An ordinary packet of `size` bytes was acknowledged.
    pub fn on_acked(&mut self, id: PathId, size: u16) {
        self.sized(id, |search| search.packet_acked(size));
    }

    /// An ordinary packet of `size` bytes was lost. When large packets vanish three times running
    /// while small ones arrive, the size falls back to the base.
    pub fn on_lost(&mut self, now: Instant, id: PathId, size: u16) {
        self.now = now;
        self.sized(id, |search| search.packet_lost(now, size));
    }

    /// The next event. Ask after every call: of more than sixteen the oldest are dropped.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<PathEvent> {
        let event = self.events.pop_front();
        if self.events.is_empty() {
            self.events = VecDeque::new();
        }
        event
    }

    /// When to call [`Self::handle_timeout`]; the instant of the last input while a frame or an event
    /// can be taken now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        if self.wish_pending || !self.events.is_empty() || self.iter().any(PathState::has_frame) {
            return Some((self.now, Reason::Output));
        }
        let mut next = self.active.timeout();
        if let Some(at) = self.round.as_ref().and_then(|r| r.switch_at) {
            next = earlier(next, Some((at, Reason::PathValidation)));
        }
        for candidate in &self.candidates {
            let own = if candidate.rests() {
                Some((candidate.forgotten_at(), Reason::Expiry))
            } else {
                candidate.timeout()
            };
            next = earlier(next, own);
        }
        next
    }

    /// Time has passed. `pto`: the probe timeout of the active path (RFC 9002 section 6.2.1).
    pub fn handle_timeout(&mut self, now: Instant, pto: Duration) {
        self.now = now;
        self.set_pto(pto);
        let due = |r: &mut Round| r.switch_at.take_if(|at| now >= *at).is_some();
        if self.round.as_mut().is_some_and(due) {
            let answered = self.candidates.iter().filter(|p| p.answered);
            let best = answered.max_by_key(|p| (p.confirmed, p.heard, p.id)).map(|p| (p.id, p.confirmed));
            // A path that the peer does not use gives the others time to answer.
            let others = self.candidates.iter().any(|p| p.challenge.is_some());
            match (best, &mut self.round) {
                (Some((_, false)), Some(round)) if others && !round.waited => {
                    round.waited = true;
                    round.switch_at = Some(now + self.pto);
                }
                (Some((to, _)), _) => self.switch(now, to),
                (None, _) => {}
            }
        }
        let mut gone: Vec<PathId, MAX_CANDIDATES> = Vec::new();
        for candidate in &mut self.candidates {
            if candidate.tick(now) || (candidate.rests() && now >= candidate.forgotten_at()) {
                let _ = gone.push(candidate.id);
            }
        }
        gone.into_iter().for_each(|id| self.abandon(id));
        if self.active.tick(now) {
            self.incumbent_silent(now);
        }
        self.settle(now);
    }

    fn slot(&mut self, id: PathId) -> Option<&mut PathState> {
        core::iter::once(&mut self.active).chain(&mut self.candidates).find(|p| p.id == id)
    }

    fn set_pto(&mut self, pto: Duration) {
        // A zero would ask for the same instant for ever.
        self.pto = pto.max(Duration::from_millis(1));
    }

    /// How long a challenge lives, and how long a known path waits between rounds.
    fn trial(&self) -> Duration {
        self.pto.saturating_mul(3).max(MIN_TRIAL)
    }

    fn event(&mut self, event: PathEvent) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn ask_active(&mut self, now: Instant) {
        let trial = self.trial();
        self.active.ask(&mut self.entropy, now, trial);
    }

    fn ask_candidate(&mut self, now: Instant, id: PathId) {
        let trial = self.trial();
        if let Some(slot) = self.candidates.iter_mut().find(|p| p.id == id) {
            slot.ask(&mut self.entropy, now, trial);
        }
    }

    /// The candidate that makes room for a newcomer.
    fn displaced(&self, now: Instant) -> Option<PathId> {
        let trial = self.trial();
        let resting = self.candidates.iter().filter(|p| p.rests() && p.rested + trial <= now);
        resting.min_by_key(|p| (p.heard, p.id)).map(|p| p.id)
    }

    fn room(&self, now: Instant) -> bool {
        !self.candidates.is_full() || self.displaced(now).is_some()
    }

    /// A newcomer proposed by a packet.
    fn admit(&mut self, now: Instant, from: Path) -> Option<PathId> {
        if self.candidates.is_full() {
            let id = self.displaced(now)?;
            self.abandon(id);
        }
        let id = self.insert(now, from)?;
        self.ask_candidate(now, id);
        self.start_round(now);
        Some(id)
    }

    fn insert(&mut self, now: Instant, path: Path) -> Option<PathId> {
        let id = PathId(self.next);
        self.candidates.push(PathState::new(id, path, &self.config, now)).ok()?;
        self.next = self.next.saturating_add(1);
        Some(id)
    }

    /// A highest packet came from a candidate that is known already.
    fn on_trial(&mut self, now: Instant, id: PathId) {
        let Some(slot) = self.slot(id) else { return };
        // What arrives where we asked for it is the answer, not the peer's roaming.
        if slot.ours || !slot.rests() {
            return;
        }
        if self.round.is_some() {
            self.ask_candidate(now, id);
        } else if now >= self.next_round {
            self.ask_candidate(now, id);
            self.start_round(now);
        }
    }

    fn start_round(&mut self, now: Instant) {
        if self.round.is_none() {
            self.round = Some(Round { switch_at: None, waited: false });
            self.next_round = now + self.trial();
            self.ask_active(now);
        }
    }

    /// The active path answered, or sent something newer than all others.
    fn incumbent_lives(&mut self, now: Instant) {
        // A path that the peer uses outdoes one that only passes packets on.
        if !self.active.confirmed && self.candidates.iter().any(|p| p.answered && p.confirmed) {
            return;
        }
        if self.round.take().is_some() {
            self.next_round = now + self.trial();
            for candidate in self.candidates.iter_mut().filter(|p| p.answered) {
                candidate.answered = false;
                candidate.confirmed = false;
                candidate.rested = now;
            }
        }
    }

    /// The active path did not answer a challenge in time.
    fn incumbent_silent(&mut self, now: Instant) {
        if self.candidates.is_empty() {
            self.event(PathEvent::Silent(self.active.id));
        } else if self.round.is_none() {
            let trial = self.trial();
            for candidate in &mut self.candidates {
                candidate.ask(&mut self.entropy, now, trial);
            }
            self.start_round(now);
        }
    }

    /// Ends a round that no candidate can win any more.
    fn settle(&mut self, now: Instant) {
        if self.round.is_some() && self.candidates.iter().all(PathState::rests) {
            self.round = None;
            self.next_round = now + self.trial();
        }
    }

    fn abandon(&mut self, id: PathId) {
        let before = self.candidates.len();
        self.candidates.retain(|p| p.id != id);
        if self.candidates.len() < before {
            self.event(PathEvent::Abandoned(id));
        }
    }

    fn switch(&mut self, now: Instant, id: PathId) {
        let Some(slot) = self.candidates.iter_mut().find(|p| p.id == id) else { return };
        let keep = only_port(&self.active.path, &slot.path);
        core::mem::swap(&mut self.active, slot);
        let old = slot;
        if keep {
            self.active.search = old.search.clone();
        } else {
            self.active.search = search(&self.active.path, &self.config);
        }
        self.active.size = self.active.search.size();
        old.challenge = None;
        old.rested = now;
        old.ours = false;
        old.confirmed = false;
        let from = old.id;
        // `ours` stays on the active path: it says that a lost wish is repeated.
        if self.active.ours {
            self.wish = self.wish.saturating_add(1);
        }
        self.wish_pending = self.active.ours;
        self.active.confirmed |= self.active.ours;
        self.active.answered = false;
        self.wish_open = false;
        for candidate in &mut self.candidates {
            candidate.answered = false;
        }
        self.round = None;
        self.next_round = now + self.trial();
        self.event(PathEvent::Switched { from, to: id, keep });
    }

    fn sized(&mut self, id: PathId, change: impl FnOnce(&mut Search)) {
        let Some(slot) = self.slot(id) else { return };
        change(&mut slot.search);
        if slot.size != slot.search.size() {
            slot.size = slot.search.size();
            let size = slot.size;
            self.event(PathEvent::Size(id, size));
        }
    }
}
