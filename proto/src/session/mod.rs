//! Sessions: an association with one peer, its epochs of keys, its packets and frames.
//!
//! The states, frames and timers are on `docs/protocol/session.md`. This module owns the children
//! (streams, recovery, paths) and is the only place where they meet.

pub mod aead;
mod epoch;
mod frame;
mod receive;
mod records;
mod stats;
mod transmit;

pub(crate) use receive::leading_response;

pub use epoch::{DATA, HEADER, KeyLimits, NewEpoch, OVERHEAD, parse_header};
pub use frame::{Close, Extension};
pub use receive::Arrived;
pub use stats::{Noise, PathStats, PeerStats};
pub use transmit::Batch;

use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::bounded::ReplayWindow;
use crate::entropy::Entropy;
use crate::identity::{EntityId, Incarnation};
use crate::path::{self, Path, PathEvent, PathId, Paths};
use crate::recovery::{AckTracker, Algorithm, Fate, PathRecovery, Recovery, Timeout};
use crate::stream::{self, Limits, Pool, StreamId, Streams};
use crate::time::{Duration, Instant, Reason, earlier, nanos};

use aead::{Cipher, CipherSuite};
use epoch::Epochs;
use records::{Record, Records, SpareRecords};

/// Keep-alive of associations beyond the most recently used.
const SLOW_KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Challenges remembered that came first over another path than the one in use; the oldest goes first.
const MAX_ASKED: usize = 4;
/// Pause before a failed renewal is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A dead peer is dialled after a random time below this, in nanoseconds.
const REDIAL_SPREAD: u64 = 250_000_000;

/// A generation-checked handle to an association. Only a proven session makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Peer {
    slot: u32,
    generation: u32,
}

impl Peer {
    pub(crate) const fn new(slot: u32, generation: u32) -> Self {
        Self { slot, generation }
    }

    /// Index into the node's table; small, reused after the generation moved on.
    pub const fn slot(self) -> u32 {
        self.slot
    }

    /// Which use of the slot.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// Why an association ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum DownReason {
    /// This side closed it.
    #[error("closed here with code {0}")]
    ClosedHere(u16),
    /// The peer closed it.
    #[error("closed by the peer with code {0}")]
    ClosedByPeer(u16),
    /// Nothing came for too long, and dialling again did not help.
    #[error("the peer could not be reached any more")]
    Unreachable,
    /// The peer restarted or forgot: a new association replaces this one.
    #[error("the peer restarted or forgot this association")]
    Restarted,
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(Violation),
    /// The node shuts down.
    #[error("the node shuts down")]
    Shutdown,
}

/// How an authenticated peer broke the protocol. The association is closed with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum Violation {
    /// A frame could not be decoded.
    #[error("a malformed frame")]
    Frame = 1,
    /// An unknown frame that may not be ignored.
    #[error("an unknown critical frame")]
    UnknownCritical,
    /// More data than the window allowed.
    #[error("more than the window allowed")]
    FlowControl,
    /// More streams than allowed, or a stream id of the wrong side.
    #[error("a stream that may not exist")]
    StreamLimit,
    /// Data behind the end of a stream, or two different ends.
    #[error("a stream that does not end where it said")]
    FinalSize,
    /// An acknowledgement of a packet that was never sent.
    #[error("an acknowledgement of what was not sent")]
    Acknowledgement,
    /// A message longer than allowed.
    #[error("a message above the limit")]
    MessageTooLarge,
}

impl From<stream::Violation> for Violation {
    fn from(v: stream::Violation) -> Self {
        match v {
            stream::Violation::Frame => Self::Frame,
            stream::Violation::FlowControl => Self::FlowControl,
            stream::Violation::StreamLimit => Self::StreamLimit,
            stream::Violation::FinalSize => Self::FinalSize,
            stream::Violation::MessageTooLarge => Self::MessageTooLarge,
        }
    }
}

/// Settings of a session; the node's configuration has them all.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Config {
    /// When keys are renewed.
    pub keys: KeyLimits,
    /// PING this long after the last packet, while in use.
    pub keep_alive: Duration,
    /// Dead after this long without a packet, while in use; at least 4 RTT.
    pub dead_after: Duration,
    /// A dead association is dialled for this long before it is given up.
    pub give_up_after: Duration,
    /// Datagram sizes and ECN.
    pub paths: path::Config,
    /// Windows, stream counts, message sizes.
    pub streams: stream::Config,
    /// Congestion control of new paths.
    pub congestion: Algorithm,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            keys: KeyLimits::default(),
            keep_alive: Duration::from_millis(1500),
            dead_after: Duration::from_millis(4500),
            give_up_after: Duration::from_secs(30),
            paths: path::Config::default(),
            streams: stream::Config::default(),
            congestion: Algorithm::default(),
        }
    }
}

/// With whom a session is, and how it begins.
pub struct SessionInit {
    /// Its handle.
    pub handle: Peer,
    /// Proven identity of the peer.
    pub entity: EntityId,
    /// Whether our entity id is the greater.
    pub greater: bool,
    /// The peer's incarnation.
    pub incarnation: Incarnation,
    /// Which association between these two incarnations.
    pub life: u64,
    /// What the peer allows us.
    pub limits: Limits,
    /// The path of the handshake.
    pub path: Path,
    /// Whether the peer is proven to be there: it answered something that was sent there.
    pub validated: bool,
}

/// What a session tells its node.
pub enum Event {
    /// Something about a stream.
    Stream(stream::Event),
    /// Another path is used.
    Path(Path),
    /// The session is over; it must be dropped.
    Gone(DownReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    /// Nothing came for too long; since when.
    Dead(Instant),
    /// CLOSE was sent; when to stop repeating it.
    Closing {
        reason: DownReason,
        until: Instant,
        next: Option<Instant>,
        left: u8,
    },
    Gone(DownReason),
}

/// One association.
pub struct Session {
    /// Its handle.
    pub handle: Peer,
    /// Proven identity of the peer.
    pub entity: EntityId,
    /// The peer's incarnation.
    pub incarnation: Incarnation,
    /// Which association between these two incarnations.
    pub life: u64,
    /// Its streams.
    pub streams: Streams,
    state: State,
    config: Arc<Config>,
    epochs: Epochs,
    replay: ReplayWindow,
    recovery: Recovery<Records>,
    spare_records: SpareRecords,
    acks: AckTracker,
    paths: Paths,
    /// Counters and challenges that may come again over the path in use.
    asked: heapless::Vec<(u64, [u8; 8]), MAX_ASKED>,
    /// Round-trip time and congestion of each path in `paths`.
    on_path: Vec<PathRecovery>,
    /// When the pacer allows the next packet, if it held one back.
    paced_until: Option<Instant>,
    /// A PING is to be sent.
    ping: bool,
    /// CLOSE is to be sent.
    close_due: bool,
    last_heard: Instant,
    /// Start of the present spell of being in use.
    in_use_since: Option<Instant>,
    last_ping: Instant,
    /// Whether this association is among the most recently used.
    favoured: bool,
    retry_dial_at: Instant,
    /// An ignorable frame of a random type is to be sent, so that peers keep ignoring them.
    grease: bool,
    entropy: Entropy,
    began: Instant,
    counts: Counts,
    announced_gone: bool,
    path_changed: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    packets_sent: u64,
    bytes_sent: u64,
    packets_received: u64,
    bytes_received: u64,
    packets_lost: u64,
    spurious_losses: u64,
    ecn_marks: u64,
    probes: u64,
    epochs: u64,
}

impl Session {
    /// An association without keys; [`Session::add_epoch`] follows at once.
    pub fn new(now: Instant, config: Arc<Config>, init: SessionInit, mut entropy: Entropy) -> Self {
        let mut streams = Streams::new(&config.streams, init.greater);
        streams.set_peer_limits(init.limits);
        let paths = Paths::new(&config.paths, now, init.path, init.validated, entropy.split("paths"));
        let on_path = alloc::vec![Self::fresh_path(now, &config, paths.active(), config.paths.base_size)];
        Self {
            handle: init.handle,
            entity: init.entity,
            incarnation: init.incarnation,
            life: init.life,
            streams,
            state: State::Up,
            epochs: Epochs::new(config.keys, init.greater),
            replay: ReplayWindow::new(),
            recovery: Recovery::new(),
            spare_records: SpareRecords::default(),
            acks: AckTracker::new(),
            paths,
            asked: heapless::Vec::new(),
            on_path,
            config,
            paced_until: None,
            ping: false,
            close_due: false,
            last_heard: now,
            in_use_since: None,
            last_ping: now,
            favoured: false,
            retry_dial_at: now,
            grease: false,
            entropy,
            began: now,
            counts: Counts::default(),
            announced_gone: false,
            path_changed: false,
        }
    }

    fn fresh_path(now: Instant, config: &Config, id: PathId, size: u16) -> PathRecovery {
        PathRecovery::new(id.0, now, size, config.congestion)
    }

    /// Adds the keys of a completed handshake.
    pub fn add_epoch(&mut self, now: Instant, suite: &dyn CipherSuite, epoch: NewEpoch) {
        self.epochs.add(now, suite, epoch);
        self.counts.epochs += 1;
        self.retry_dial_at = now;
        self.heard(now);
    }

    /// Sends something at once, so that the peer sees the new keys in use.
    pub fn announce(&mut self) {
        self.grease = true;
        self.ping = true;
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// Whether it is closing or over.
    pub fn is_closing(&self) -> bool {
        self.closing().is_some()
    }

    /// Why it closes, if it does.
    pub fn closing(&self) -> Option<DownReason> {
        match self.state {
            State::Closing { reason, .. } | State::Gone(reason) => Some(reason),
            State::Up | State::Dead(_) => None,
        }
    }

    /// The path in use.
    pub fn path(&self) -> Path {
        self.paths.active_path()
    }

    /// The data cipher in use.
    pub fn cipher(&self) -> Cipher {
        self.epochs.cipher()
    }

    /// Indices that lead here.
    pub fn indices(&self) -> heapless::Vec<u32, 4> {
        self.epochs.indices().collect()
    }

    /// An index that leads nowhere any more.
    pub fn pop_retired_index(&mut self) -> Option<u32> {
        self.epochs.pop_retired()
    }

    /// Whether keys are to be renewed, or the peer is to be looked for.
    pub fn wants_dial(&self, now: Instant) -> bool {
        if now < self.retry_dial_at {
            return false;
        }
        match self.state {
            State::Dead(_) => true,
            State::Up => self.in_use() && self.epochs.rekey_at() <= now,
            State::Closing { .. } | State::Gone(_) => false,
        }
    }

    /// A handshake for this session failed.
    pub fn dial_failed(&mut self, now: Instant) {
        self.retry_dial_at = now + RETRY;
    }

    /// Sets whether its keep-alive is the quick one.
    pub fn set_favoured(&mut self, favoured: bool) {
        self.favoured = favoured;
    }

    /// Whether its keep-alive is the quick one.
    pub const fn is_favoured(&self) -> bool {
        self.favoured
    }

    /// Begins to close: the peer is told, nothing else is sent any more.
    pub fn close(&mut self, now: Instant, reason: DownReason) {
        if self.is_closing() {
            return;
        }
        let pto = self.pto();
        self.state = State::Closing { reason, until: now + pto * 3, next: Some(now + pto), left: 3 };
        self.close_due = true;
    }

    /// The peer answered a dial at `path`.
    pub fn found_at(&mut self, now: Instant, path: Path) {
        if self.paths.find(&path) != Some(self.paths.active()) {
            self.paths.migrate_to(now, path);
            self.drain_paths(now);
        }
    }

    /// The peer began a handshake anew and proved where it is.
    pub fn proven_at(&mut self, now: Instant, path: Path) {
        self.paths.on_proven(now, path);
        self.drain_paths(now);
    }

    /// The application drained messages.
    pub fn consumed(&mut self, now: Instant, stream: StreamId, charge: u64, pool: &mut Pool) {
        let rtt = self.rtt();
        self.streams.consumed(now, stream, charge, rtt, pool);
    }

    /// The local network changed: is the path still good?
    pub fn network_changed(&mut self, now: Instant) {
        self.paths.revalidate(now);
        self.ping = true;
        self.retry_dial_at = now;
    }

    /// A stream is open or something is unacknowledged. Otherwise the association is dormant.
    fn in_use(&self) -> bool {
        self.streams.count() > 0
            || self.on_path.iter().any(|p| p.eliciting_in_flight() > 0)
            || self.streams.has_output()
    }

    fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        if matches!(self.state, State::Dead(_)) {
            self.state = State::Up;
        }
    }

    fn on_active(&self) -> Option<&PathRecovery> {
        let id = self.paths.active().0;
        self.on_path.iter().find(|p| p.id == id)
    }

    fn rtt(&self) -> Duration {
        self.on_active().map_or(crate::congestion::INITIAL_RTT, |p| p.rtt.smoothed())
    }

    fn pto(&self) -> Duration {
        self.on_active().map_or(crate::congestion::INITIAL_RTT * 3, PathRecovery::pto)
    }

    fn dead_after(&self) -> Duration {
        self.config.dead_after.max(self.rtt() * 4)
    }

    fn keep_alive(&self) -> Duration {
        if self.favoured { self.config.keep_alive } else { self.config.keep_alive.max(SLOW_KEEP_ALIVE) }
    }

    /// A PING and its answer keep both ends alive, so one end asks: the other one waits until the
    /// question would have come. Its own, should that stay out, still finds an answer before `dead_after`,
    /// which is at least two keep-alives and four round trips.
    fn deference(&self) -> Duration {
        match self.on_active() {
            Some(on) if self.epochs.greater() => on.rtt.pto_base(Duration::ZERO).min(self.keep_alive() / 2),
            _ => Duration::ZERO,
        }
    }

    /// When keep-alive and death are due. Both count from the later of the last packet and the
    /// moment that the association came into use.
    fn liveness(&self) -> Option<(Instant, Instant)> {
        let since = self.in_use_since?;
        let base = self.last_heard.max(since);
        let ping = base.max(self.last_ping) + self.keep_alive() + self.deference();
        let patience = if self.favoured { self.dead_after() } else { self.keep_alive() * 3 };
        Some((ping, base + patience))
    }

    /// The time has come that [`Session::poll_timeout`] named, or some other time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let State::Closing { reason, until, next, left } = self.state {
            if now >= until {
                self.state = State::Gone(reason);
            } else if next.is_some_and(|at| at <= now) {
                let again = (left > 1).then(|| now + self.pto());
                self.state = State::Closing { reason, until, next: again, left: left.saturating_sub(1) };
                self.close_due = true;
            }
            return;
        }
        self.epochs.retire(now);
        if self.paced_until.is_some_and(|at| at <= now) {
            self.paced_until = None;
        }
        let pto = self.pto();
        self.paths.handle_timeout(now, pto);
        self.drain_paths(now);
        self.recover(now);
        if let Some((ping, dead)) = self.liveness() {
            if now >= ping {
                self.ping = true;
                self.streams.ask_again();
                self.last_ping = now;
                // It asks whether the peer lives, so a full window does not hold it back.
                let active = self.paths.active().0;
                if let Some(p) = self.on_path.iter_mut().find(|p| p.id == active) {
                    p.probes = p.probes.max(1);
                }
            }
            if now >= dead && self.state == State::Up {
                self.state = State::Dead(now);
                // Spread out, since a whole mesh may notice the same cut at once.
                self.retry_dial_at = now + Duration::from_nanos(self.entropy.below(REDIAL_SPREAD));
            }
        }
        if let State::Dead(since) = self.state
            && now >= since + self.config.give_up_after
        {
            self.state = State::Gone(DownReason::Unreachable);
        }
    }

    /// Losses and probes by time.
    fn recover(&mut self, now: Instant) {
        let Self { recovery, spare_records: spare, on_path, streams, paths, counts, .. } = self;
        let mut settle = Settle { now, streams, paths, spare, acks: None };
        // Losses first, then perhaps a probe; each path at most once.
        for _ in 0..=on_path.len() {
            let mut sink = |fate, sent| {
                counts.packets_lost += u64::from(fate != Fate::Acked);
                settle.packet(fate, sent);
            };
            match recovery.handle_timeout(now, on_path, &mut sink) {
                Timeout::Nothing => break,
                Timeout::Lost => {}
                // Nothing leaves on a path that data was taken off, so nothing will settle what is still
                // out there: it counts as lost once the path was silent for a probe timeout.
                Timeout::Probe { path, .. } if path != settle.paths.active().0 => {
                    recovery.path_gone(path, &mut |fate, sent| settle.packet(fate, sent));
                    on_path.retain(|p| p.id != path);
                }
                Timeout::Probe { path, .. } => {
                    counts.probes += 1;
                    if let Some(p) = on_path.iter_mut().find(|p| p.id == path) {
                        p.probes = 2;
                    }
                }
            }
        }
        self.drain_paths(now);
    }

    fn forget_path(&mut self, now: Instant, id: PathId) {
        let Self { recovery, spare_records: spare, streams, paths, .. } = self;
        let mut settle = Settle { now, streams, paths, spare, acks: None };
        recovery.path_gone(id.0, &mut |fate, sent| settle.packet(fate, sent));
        self.on_path.retain(|p| p.id != id.0);
    }

    /// Follows what the paths machine decided.
    fn drain_paths(&mut self, now: Instant) {
        while let Some(event) = self.paths.poll_event() {
            match event {
                PathEvent::Switched { from, to, keep } => {
                    if keep {
                        // Only the port changed: what was learned stays true.
                        self.on_path.retain(|p| p.id != to.0);
                        if let Some(p) = self.on_path.iter_mut().find(|p| p.id == from.0) {
                            p.id = to.0;
                            self.recovery.rename_path(from.0, to.0);
                        }
                    } else {
                        // The old path is silent or given up: what is under way there is sent again.
                        self.forget_path(now, from);
                    }
                    self.ensure_path(now, to);
                    self.paced_until = None;
                    self.path_changed = true;
                }
                PathEvent::Validated(id) => self.ensure_path(now, id),
                PathEvent::Abandoned(id) => self.forget_path(now, id),
                PathEvent::Silent(_) => self.ping = true,
                PathEvent::Size(id, size) => {
                    if let Some(p) = self.on_path.iter_mut().find(|p| p.id == id.0) {
                        p.set_mtu(size);
                    }
                }
            }
        }
    }

    /// Makes sure that a path has its round-trip time and congestion state.
    fn ensure_path(&mut self, now: Instant, id: PathId) {
        if self.on_path.iter().any(|p| p.id == id.0) {
            return;
        }
        let Some(size) = self.paths.get(id).map(|p| p.size) else { return };
        let fresh = Self::fresh_path(now, &self.config, id, size);
        if self.on_path.len() > path::MAX_CANDIDATES {
            // Three paths at most; a further entry is a leftover of one that is gone.
            let paths = &self.paths;
            self.on_path.retain(|p| paths.get(PathId(p.id)).is_some());
        }
        self.on_path.push(fresh);
    }

    /// When to call [`Session::handle_timeout`]. Call after transmitting; `&mut` because the start of a
    /// spell of use is noted here.
    pub fn poll_timeout(&mut self, now: Instant) -> Option<(Instant, Reason)> {
        if let State::Closing { until, next, .. } = self.state {
            return Some((next.unwrap_or(until).min(until), Reason::Closing));
        }
        if matches!(self.state, State::Gone(_)) {
            return None;
        }
        match (self.in_use(), self.in_use_since) {
            (true, None) => self.in_use_since = Some(now),
            (true, Some(_)) => {}
            (false, _) => {
                self.in_use_since = None;
                // Dormant, perhaps for hours: thousands of such associations must be cheap.
                self.recovery.rest();
                self.spare_records = SpareRecords::default();
                self.acks.rest();
                self.streams.rest();
            }
        }
        let mut at = self.epochs.retire_at().map(|t| (t, Reason::Expiry));
        // Under a key that is refused nothing can leave, so nothing that wants to leave is awaited.
        if self.epochs.may_send(now) {
            at = earlier(at, self.recovery.poll_timeout(&self.on_path));
            at = earlier(at, self.acks.poll_timeout(now));
            at = earlier(at, self.paths.poll_timeout());
            at = earlier(at, self.paced_until.map(|t| (t, Reason::Pacing)));
        }
        if let Some((ping, dead)) = self.liveness() {
            at = earlier(at, Some((ping, Reason::KeepAlive)));
            if self.state == State::Up {
                at = earlier(at, Some((dead, Reason::Dead)));
            }
            let rekey = self.epochs.rekey_at().max(self.retry_dial_at);
            if self.state == State::Up && rekey > now {
                at = earlier(at, Some((rekey, Reason::Rekey)));
            }
        }
        if let State::Dead(since) = self.state {
            at = earlier(at, Some((since + self.config.give_up_after, Reason::Redial)));
            if self.retry_dial_at > now {
                at = earlier(at, Some((self.retry_dial_at, Reason::Redial)));
            }
        }
        at
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let State::Gone(reason) = self.state {
            return (!core::mem::replace(&mut self.announced_gone, true)).then_some(Event::Gone(reason));
        }
        if core::mem::take(&mut self.path_changed) {
            return Some(Event::Path(self.path()));
        }
        self.streams.poll_event().map(Event::Stream)
    }

    /// Reads a word of every part that the next packet will need, see `node/warm.rs`: of the session itself
    /// at depth 0, of what it points to at depth 1.
    pub(crate) fn warm(&self, depth: u32) -> u64 {
        if depth > 0 {
            let parts = [self.epochs.warm(), self.replay.warm(), self.acks.warm(), self.recovery.warm()];
            let paths = self.on_path.iter().map(PathRecovery::warm);
            return parts.into_iter().chain(paths).fold(0, u64::wrapping_add);
        }
        let own = [
            self.life,
            nanos(self.last_heard.since(self.began)),
            self.in_use_since.map_or(0, Instant::as_nanos),
            self.retry_dial_at.as_nanos(),
            self.counts.packets_sent,
            self.counts.packets_received,
            self.counts.spurious_losses,
            self.replay.next(),
            self.recovery.peek_number(),
            self.recovery.unacked() as u64,
            self.acks.largest().unwrap_or(0),
            self.acks.ecn().ect0,
            u64::from(self.acks.has_news()),
            self.on_path.len() as u64,
            self.asked.len() as u64,
            u64::from(self.favoured),
            self.epochs.retire_at().map_or(0, Instant::as_nanos),
            self.paths.warm(),
            self.streams.warm(),
        ];
        own.into_iter().fold(0, u64::wrapping_add)
    }

    /// Counters and measurements.
    pub fn stats(&self, now: Instant) -> PeerStats {
        let on = self.on_active();
        PeerStats {
            path: self.path(),
            cipher: self.cipher(),
            age: now.since(self.began),
            rtt: self.rtt(),
            rtt_min: on.filter(|p| p.rtt.samples() > 0).map_or(Duration::ZERO, |p| p.rtt.min()),
            window: on.map_or(0, |p| p.window()),
            in_flight: on.map_or(0, |p| p.in_flight()),
            datagram_size: self.paths.get(self.paths.active()).map_or(0, |p| p.size),
            packets_sent: self.counts.packets_sent,
            bytes_sent: self.counts.bytes_sent,
            packets_received: self.counts.packets_received,
            bytes_received: self.counts.bytes_received,
            packets_lost: self.counts.packets_lost,
            spurious_losses: self.counts.spurious_losses,
            probes: self.counts.probes,
            ecn_marks: self.counts.ecn_marks,
            retransmitted: self.streams.retransmitted(),
            idle: now.since(self.last_heard),
            epochs: self.counts.epochs,
            streams: self.streams.count() as u64,
        }
    }

    /// Measurements of every path, the one in use first.
    pub fn path_stats(&self) -> impl Iterator<Item = PathStats> {
        self.paths.iter().filter_map(|state| {
            let p = self.on_path.iter().find(|p| p.id == state.id.0)?;
            let (bytes_received, bytes_sent) = state.traffic();
            let (packets_lost, spurious_losses) = p.losses();
            let sampled = p.rtt.samples() > 0;
            let threshold = p.controller().ssthresh();
            Some(PathStats {
                path: state.path,
                active: self.paths.active() == state.id,
                validated: state.validated,
                rtt: p.rtt.smoothed(),
                rtt_latest: if sampled { p.rtt.latest() } else { Duration::ZERO },
                rtt_min: if sampled { p.rtt.min() } else { Duration::ZERO },
                rtt_variation: p.rtt.variation(),
                window: p.window(),
                slow_start_threshold: (threshold < u64::MAX).then_some(threshold),
                slow_start: p.controller().in_slow_start(),
                pacing_rate: p.rate().over(Duration::from_secs(1)),
                in_flight: p.in_flight(),
                packets_in_flight: p.eliciting_in_flight(),
                datagram_size: state.size,
                ecn: p.ecn(),
                packets_sent: p.packets_sent(),
                bytes_sent,
                bytes_received,
                packets_lost,
                bytes_lost: p.lost_bytes(),
                spurious_losses,
                probes_in_row: p.pto_count(),
            })
        })
    }

    /// Bytes that it holds now, but for messages: itself, its keys, paths, packets under way, streams.
    pub fn footprint(&self) -> u64 {
        let paths: u64 = self.on_path.iter().map(PathRecovery::footprint).sum();
        let records: u64 = self.recovery.records().map(Records::footprint).sum();
        size_of::<Self>() as u64
            + self.epochs.footprint()
            + self.replay.footprint()
            + self.recovery.footprint()
            + records
            + self.spare_records.footprint()
            + self.acks.footprint()
            + self.paths.footprint()
            + self.streams.footprint()
            + paths
    }

    /// Bytes of messages that the peer may make it hold beyond what is leased from the pool.
    pub fn credit(&self) -> u64 {
        self.streams.ceiling()
    }

    /// Checks what must hold after every step.
    #[doc(hidden)]
    pub fn invariants(&self) {
        assert_eq!(self.streams.invariants(), Ok(()));
    }
}

/// Tells the children what became of a packet.
struct Settle<'a> {
    now: Instant,
    streams: &'a mut Streams,
    paths: &'a mut Paths,
    spare: &'a mut SpareRecords,
    acks: Option<&'a mut AckTracker>,
}
