//! Epochs: the keys of one handshake, and the rule which of several sends.

use alloc::boxed::Box;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::aead::{Aead, Cipher, CipherSuite, EpochKeys, Forged, TAG};
use crate::handshake::PathToken;
use crate::time::{Duration, Instant};

/// Bytes in front of the encrypted frames.
pub const HEADER: usize = 13;
/// First byte of a data packet.
pub const DATA: u8 = 5;
/// Bytes of a data packet that are not frames.
pub const OVERHEAD: usize = HEADER + TAG;
/// Counters stop here; an association would need centuries to get there.
pub const LAST_COUNTER: u64 = 1 << 60;
/// Epochs an association holds at most: one sends, others only receive.
pub const MAX_EPOCHS: usize = 4;

/// Two epochs made within this time come from crossing dials; both ends then prefer the same one.
const CROSSING: Duration = Duration::from_secs(5);

/// How much longer than it may send a key receives.
const LATE: Duration = Duration::from_secs(30);

/// When keys must be renewed, and when they are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLimits {
    /// Age at which the initiator of the epoch asks for a new one.
    pub rekey_after: Duration,
    /// Age at which nothing is sent any more.
    pub refuse_after: Duration,
    /// Packets sent under one key before a new one is asked for.
    pub rekey_packets: u64,
    /// Failed opens under one key before a new one is asked for.
    pub max_forged: u64,
}

impl Default for KeyLimits {
    fn default() -> Self {
        Self {
            rekey_after: Duration::from_secs(120),
            refuse_after: Duration::from_secs(180),
            rekey_packets: 1 << 28,
            max_forged: 1 << 36,
        }
    }
}

/// What a handshake yields for one epoch.
pub struct NewEpoch {
    /// Keys and cipher.
    pub secrets: crate::handshake::Secrets,
    /// Index that the peer writes into its packets.
    pub local_index: u32,
    /// Index that we write into ours.
    pub remote_index: u32,
    /// What message 2 carried for its path, if this side initiated the handshake.
    pub token: Option<PathToken>,
}

impl NewEpoch {
    /// Whether this side initiated the handshake.
    pub const fn initiated(&self) -> bool {
        self.token.is_some()
    }
}

struct Epoch {
    local_index: u32,
    remote_index: u32,
    seal: Box<dyn Aead>,
    open: Box<dyn Aead>,
    cipher: Cipher,
    born: Instant,
    /// To be sent back until the peer shows that it has the keys; none if it initiated.
    token: Option<PathToken>,
    /// A packet from the peer opened under it.
    confirmed: bool,
    sent: u64,
    forged: u64,
    retire_at: Option<Instant>,
}

/// The epochs of an association. The last one sends.
pub(super) struct Epochs {
    /// At most [`MAX_EPOCHS`], usually one.
    list: Vec<Epoch>,
    limits: KeyLimits,
    /// Whether our entity id is the greater.
    greater: bool,
    /// When the newest epoch was made. Of two that crossed an older one may send, and the newer one be
    /// retired: asking for another again and again would change nothing.
    renewed: Instant,
    /// Indices of retired epochs that the node must take back.
    retired: heapless::Vec<u32, 8>,
}

/// The clear header of a data packet.
pub(super) fn header(index: u32, counter: u64) -> [u8; HEADER] {
    let mut h = [DATA; HEADER];
    h[1..5].copy_from_slice(&index.to_le_bytes());
    h[5..].copy_from_slice(&counter.to_le_bytes());
    h
}

/// Index and counter of a data packet that is long enough to be one.
pub fn parse_header(packet: &[u8]) -> Option<(u32, u64)> {
    if packet.len() < OVERHEAD || packet[0] != DATA {
        return None;
    }
    let index = u32::from_le_bytes(packet[1..5].try_into().ok()?);
    let counter = u64::from_le_bytes(packet[5..HEADER].try_into().ok()?);
    Some((index, counter))
}

impl Epochs {
    pub(super) const fn new(limits: KeyLimits, greater: bool) -> Self {
        Self { list: Vec::new(), limits, greater, renewed: Instant::ZERO, retired: heapless::Vec::new() }
    }

    /// Whether our entity id is the greater.
    pub(super) const fn greater(&self) -> bool {
        self.greater
    }

    /// Adds an epoch; it sends from now on unless the crossing rule prefers an older one.
    pub(super) fn add(&mut self, now: Instant, suite: &dyn CipherSuite, new: NewEpoch) {
        if self.list.len() == MAX_EPOCHS {
            let oldest = self.list.remove(0);
            self.give_back(oldest.local_index);
        }
        suite.export(&EpochKeys {
            cipher: new.secrets.cipher,
            local_index: new.local_index,
            remote_index: new.remote_index,
            recv: &new.secrets.recv,
            send: &new.secrets.send,
        });
        let epoch = Epoch {
            local_index: new.local_index,
            remote_index: new.remote_index,
            seal: suite.key(new.secrets.cipher, &new.secrets.send),
            open: suite.key(new.secrets.cipher, &new.secrets.recv),
            cipher: new.secrets.cipher,
            born: now,
            token: new.token,
            // The responder adds an epoch because a packet opened under it.
            confirmed: !new.initiated(),
            sent: 0,
            forged: 0,
            retire_at: None,
        };
        let crossing = self.list.last().is_some_and(|last| {
            // A key that was due itself was renewed, not crossed: it may soon be refused.
            now.since(last.born) < CROSSING.min(self.limits.rekey_after)
                && last.token.is_some() != epoch.token.is_some()
                && last.token.is_some() == self.greater
                && last.sent < self.limits.rekey_packets
        });
        let at = if crossing { self.list.len() - 1 } else { self.list.len() };
        self.list.reserve_exact(1);
        self.list.insert(at, epoch);
        self.renewed = now;
    }

    fn give_back(&mut self, index: u32) {
        if self.retired.is_full() {
            self.retired.remove(0);
        }
        let _ = self.retired.push(index);
    }

    /// An index that the node may use again.
    pub(super) fn pop_retired(&mut self) -> Option<u32> {
        self.retired.pop()
    }

    /// All indices that lead here.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        self.list.iter().map(|e| e.local_index)
    }

    /// Opens a packet in place. The caller has checked the counter against the replay window.
    pub(super) fn open(
        &mut self,
        now: Instant,
        index: u32,
        counter: u64,
        packet: &mut [u8],
        grace: Duration,
    ) -> Result<(), Forged> {
        let at = self.list.iter().position(|e| e.local_index == index).ok_or(Forged)?;
        let epoch = &mut self.list[at];
        // The peer stopped sending under this key; whoever still does has stolen it.
        if now.since(epoch.born) > self.limits.refuse_after + LATE {
            return Err(Forged);
        }
        let end = packet.len().checked_sub(TAG).filter(|end| *end >= HEADER).ok_or(Forged)?;
        let (head, rest) = packet.split_at_mut(HEADER);
        let (payload, tag) = rest.split_at_mut(end - HEADER);
        let tag: &[u8; TAG] = (&*tag).try_into().map_err(|_| Forged)?;
        if epoch.open.open(counter, head, payload, tag).is_err() && !planted!(TagIgnored) {
            epoch.forged += 1;
            return Err(Forged);
        }
        epoch.confirmed = true;
        if at + 1 == self.list.len() {
            for old in self.list.iter_mut().rev().skip(1) {
                old.retire_at.get_or_insert(now + grace);
            }
        }
        Ok(())
    }

    /// Seals `packet`, whose frames lie between the header's room and the tag's room.
    pub(super) fn seal(&mut self, counter: u64, packet: &mut [u8]) -> bool {
        let Some(epoch) = self.list.last_mut() else { return false };
        let (head, rest) = packet.split_at_mut(HEADER);
        head.copy_from_slice(&header(epoch.remote_index, counter));
        let at = rest.len() - TAG;
        let (payload, tag) = rest.split_at_mut(at);
        tag.copy_from_slice(&epoch.seal.seal(counter, head, payload));
        epoch.sent += 1;
        true
    }

    /// Whether the sending key may still be used.
    pub(super) fn may_send(&self, now: Instant) -> bool {
        self.list.last().is_some_and(|e| now.since(e.born) < self.limits.refuse_after)
    }

    /// When the sending key is due for renewal. The side that did not initiate waits longer, so that
    /// the two do not usually ask at once.
    pub(super) fn rekey_at(&self) -> Instant {
        let Some(e) = self.list.last() else { return Instant::ZERO };
        if e.sent >= self.limits.rekey_packets || e.forged >= self.limits.max_forged {
            return Instant::ZERO;
        }
        let patience = if e.token.is_some() { Duration::ZERO } else { self.limits.rekey_after / 12 };
        self.renewed + self.limits.rekey_after + patience
    }

    /// When the next old key is to be forgotten.
    pub(super) fn retire_at(&self) -> Option<Instant> {
        self.list.iter().filter_map(|e| e.retire_at).min()
    }

    /// Forgets keys whose time has come.
    pub(super) fn retire(&mut self, now: Instant) {
        while let Some(at) = self.list.iter().position(|e| e.retire_at.is_some_and(|t| t <= now)) {
            if at + 1 == self.list.len() {
                // Never the one that sends.
                self.list[at].retire_at = None;
                continue;
            }
            let old = self.list.remove(at);
            self.list.shrink_to_fit();
            self.give_back(old.local_index);
        }
    }

    /// See [`Session::warm`](super::Session::warm).
    pub(super) fn warm(&self) -> u64 {
        self.list
            .last()
            .map_or(0, |e| e.sent.wrapping_add(e.born.as_nanos()).wrapping_add(u64::from(e.local_index)))
    }

    /// Bytes on the heap now.
    pub(super) fn footprint(&self) -> u64 {
        let keys: usize = self.list.iter().map(|e| size_of_val(&*e.seal) + size_of_val(&*e.open)).sum();
        (self.list.capacity() * size_of::<Epoch>() + keys) as u64
    }

    /// Whether the peer has shown that it has the sending key.
    pub(super) fn confirmed(&self) -> bool {
        self.list.last().is_some_and(|e| e.confirmed)
    }

    /// What every packet begins with until the peer has shown that: which message 2 arrived.
    pub(super) fn token(&self) -> Option<PathToken> {
        self.list.last().filter(|e| !e.confirmed)?.token
    }

    pub(super) fn cipher(&self) -> Cipher {
        self.list.last().map_or(Cipher::ChaCha20Poly1305, |e| e.cipher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::Secrets;
    use crate::session::aead::Portable;

    fn epoch(index: u32, initiated: bool) -> NewEpoch {
        let secrets = Secrets { send: [1; 32], recv: [2; 32], cipher: Cipher::ChaCha20Poly1305 };
        let token = initiated.then(PathToken::default);
        NewEpoch { secrets, local_index: index, remote_index: index, token }
    }

    /// The greater end initiated a first epoch and answers another, `later`. Which one sends, and may it?
    fn crossed(limits: KeyLimits, later: Duration) -> (u32, bool) {
        let mut epochs = Epochs::new(limits, true);
        let start = Instant::ZERO + Duration::from_secs(100);
        epochs.add(start, &Portable, epoch(1, true));
        epochs.add(start + later, &Portable, epoch(2, false));
        (epochs.list.last().unwrap().local_index, epochs.may_send(start + later))
    }

    #[test]
    fn of_two_that_cross_the_greater_ends_sends_unless_it_was_due_itself() {
        let second = Duration::from_secs(1);
        let usual = KeyLimits::default();
        assert_eq!(crossed(usual, second * 4), (1, true));
        assert_eq!(crossed(usual, CROSSING), (2, true));
        let short = KeyLimits { rekey_after: second * 2, refuse_after: second * 3, ..usual };
        assert_eq!(crossed(short, second), (1, true));
        assert_eq!(crossed(short, second * 4), (2, true), "the first may not send any more");
    }
}
