//! Exactly once and in order, exactly once, at most once; and nothing from anybody but its sender.
//!
//! The checker knows every message that applications handed over and every message that they took. A
//! stream is named by both ends' identities and its number; an association that broke and came back
//! has the same name, so the checker keeps all incarnations that what was taken may have come from,
//! and fails when none is left.

use std::collections::BTreeMap;

use net_proto::identity::EntityId;
use net_proto::node::{Command, Event};
use net_proto::session::Peer;
use net_proto::stream::{Messages, Mode, StreamId};
use net_proto::time::Duration;

use super::{Broken, Checker, Seen, Wants};
use crate::null::fold;

/// Checks the delivery promise of every stream. It remembers a hash of every message.
#[derive(Debug, Default)]
pub struct Delivery {
    entities: BTreeMap<u32, EntityId>,
    lives: BTreeMap<u32, u32>,
    peers: BTreeMap<(u32, Peer), EntityId>,
    /// What was sent, by (sender, receiver, stream): one list for each association.
    sent: BTreeMap<(EntityId, EntityId, StreamId), Vec<Sent>>,
    /// What was taken, by receiver and stream: one for each association.
    got: BTreeMap<(u32, StreamId), BTreeMap<Peer, Got>>,
    /// Flushes asked for: what had been sent by then.
    flushes: BTreeMap<(u32, u64), (Peer, StreamId, usize)>,
    messages: u64,
    prompt: bool,
}

#[derive(Debug)]
struct Sent {
    by: Peer,
    life: u32,
    hashes: Vec<u64>,
    counts: BTreeMap<u64, u32>,
}

#[derive(Debug, Default)]
struct Got {
    /// Places in the list of [`Sent`] that it may come from; `None` before the first message.
    from: Option<Vec<usize>>,
    next: usize,
    counts: BTreeMap<u64, u32>,
}

impl Delivery {
    /// Receivers take messages as soon as they are told of them, so what is flushed was taken.
    #[must_use]
    pub const fn prompt(mut self) -> Self {
        self.prompt = true;
        self
    }

    /// Messages that were taken so far.
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    fn send(&mut self, node: u32, peer: Peer, stream: StreamId, chunk: &[u8]) {
        let (Some(me), Some(to)) = (self.entities.get(&node), self.peers.get(&(node, peer))) else { return };
        let all = self.sent.entry((*me, *to, stream)).or_default();
        let life = self.lives.get(&node).copied().unwrap_or(0);
        if all.last().is_none_or(|s| (s.by, s.life) != (peer, life)) {
            all.push(Sent { by: peer, life, hashes: Vec::new(), counts: BTreeMap::new() });
        }
        if let Some(sent) = all.last_mut() {
            for (_, message) in Messages::queued(chunk) {
                let hash = fold(1, message);
                sent.hashes.push(hash);
                *sent.counts.entry(hash).or_default() += 1;
            }
        }
    }

    fn flush(&mut self, node: u32, id: u64, peer: Peer, stream: StreamId) {
        let (Some(me), Some(to)) = (self.entities.get(&node), self.peers.get(&(node, peer))) else { return };
        let sent = self.sent.get(&(*me, *to, stream)).and_then(|all| all.last());
        self.flushes.insert((node, id), (peer, stream, sent.map_or(0, |s| s.hashes.len())));
    }

    /// What was flushed has reached the other side. It may wait there for its application, which the
    /// checker cannot see; so only a stream is judged whose receiver takes as soon as it is told.
    fn flushed(&mut self, node: u32, id: u64) -> Result<(), Broken> {
        let Some((peer, stream, count)) = self.flushes.remove(&(node, id)) else { return Ok(()) };
        let (Some(me), Some(to)) = (self.entities.get(&node), self.peers.get(&(node, peer))) else {
            return Ok(());
        };
        let Some((there, _)) = self.entities.iter().find(|(_, e)| *e == to) else { return Ok(()) };
        let of = |p: &Peer| self.peers.get(&(*there, *p)) == Some(me);
        let taken = self.got.get(&(*there, stream)).into_iter().flatten().filter(|(p, _)| of(p));
        let taken = taken.map(|(_, got)| got.next).max().unwrap_or(0);
        if self.prompt && taken < count {
            let what =
                format!("a flush of {count} messages on {stream:?} was answered after {taken} were taken");
            return Err(Broken::at(node, what));
        }
        Ok(())
    }

    fn take(
        &mut self,
        node: u32,
        peer: Peer,
        stream: StreamId,
        taken: &net_proto::stream::Taken,
    ) -> Result<(), Broken> {
        let (Some(me), Some(from)) = (self.entities.get(&node), self.peers.get(&(node, peer))) else {
            return Err(Broken::at(node, "messages from somebody who never connected"));
        };
        let none = Vec::new();
        let all = self.sent.get(&(*from, *me, stream)).unwrap_or(&none);
        let got = self.got.entry((node, stream)).or_default().entry(peer).or_default();
        for (number, message) in Messages::received(&taken.chunk, taken.mode, taken.first) {
            self.messages += 1;
            let hash = fold(1, message);
            let count = got.counts.entry(hash).or_default();
            *count += 1;
            let fits = |sent: &Sent| match taken.mode {
                Mode::Reliable => sent.hashes.get(got.next) == Some(&hash),
                _ => sent.counts.get(&hash).is_some_and(|n| n >= count),
            };
            let old = got.from.take();
            let before = old.clone().unwrap_or_else(|| (0..all.len()).collect());
            let left: Vec<usize> = before.into_iter().filter(|i| all.get(*i).is_some_and(fits)).collect();
            if left.is_empty() {
                let known = all.iter().any(|s| s.counts.contains_key(&hash));
                let rule = match (known, taken.mode) {
                    (false, _) => "authenticated sender: nobody sent it",
                    (true, Mode::Reliable) => "exactly once in order: another one was due",
                    (true, Mode::Unordered) => "exactly once: it came again",
                    (true, _) => "at most once: it came again",
                };
                let what = format!(
                    "message {number} of {} bytes on {stream:?} from {peer:?}: {rule} (place {} of the stream)",
                    message.len(),
                    got.next
                );
                return Err(Broken::at(node, what));
            }
            got.from = Some(left);
            got.next += 1;
        }
        Ok(())
    }
}

impl Checker for Delivery {
    fn name(&self) -> &'static str {
        "delivery"
    }

    fn wants(&self) -> Wants {
        Wants::LIVES | Wants::API
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Started { node, life, entity } => {
                self.entities.insert(*node, *entity);
                self.lives.insert(*node, *life);
                self.peers.retain(|(n, _), _| n != node);
                self.got.retain(|(n, _), _| n != node);
                // What a former life took is no longer known.
                let peers = &self.peers;
                self.flushes
                    .retain(|(n, _), (peer, ..)| n != node && peers.get(&(*n, *peer)) != Some(entity));
            }
            Seen::Event { node, event: Event::Connected { peer, entity, .. } } => {
                if !self.entities.values().any(|known| known == entity) {
                    return Err(Broken::at(*node, format!("authenticated sender: nobody is {entity:?}")));
                }
                self.peers.insert((*node, *peer), *entity);
            }
            Seen::Command { node, command: Command::Send { peer, stream, chunk } } => {
                self.send(*node, *peer, *stream, chunk);
            }
            Seen::Command { node, command: Command::Flush { id, peer, stream } } => {
                self.flush(*node, *id, *peer, *stream);
            }
            Seen::Event { node, event: Event::Flushed { id } } => return self.flushed(*node, *id),
            Seen::Taken { node, peer, stream, taken } => return self.take(*node, *peer, *stream, taken),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_proto::path::Path;
    use net_proto::session::aead::Cipher;
    use net_proto::stream::{Taken, frame_message};

    /// Two nodes that are connected; 0 sends to 1.
    struct Two {
        checker: Delivery,
        peer: Peer,
    }

    impl Two {
        fn new() -> Self {
            let mut two = Self { checker: Delivery::default(), peer: net_proto::lane::forge::peer(0, 1) };
            let entity = |n: u32| net_proto::identity::Identity::from_seed(&[n as u8 + 1; 32]).id();
            for node in 0..2 {
                two.see(&Seen::Started { node, life: 1, entity: entity(node) }).unwrap();
            }
            for node in 0..2 {
                let event = Event::Connected {
                    peer: two.peer,
                    entity: entity(1 - node),
                    dial: None,
                    path: Path::udp("10.0.0.1:1".parse().unwrap()),
                    cipher: Cipher::ChaCha20Poly1305,
                };
                two.see(&Seen::Event { node, event: &event }).unwrap();
            }
            two
        }

        fn see(&mut self, seen: &Seen<'_>) -> Result<(), Broken> {
            self.checker.see(Duration::ZERO, seen)
        }

        fn send(&mut self, messages: &[&[u8]]) {
            let mut chunk = Vec::new();
            messages.iter().for_each(|m| frame_message(&mut chunk, m));
            let command = Command::Send { peer: self.peer, stream: StreamId(0), chunk };
            self.see(&Seen::Command { node: 0, command: &command }).unwrap();
        }

        fn take(&mut self, message: &[u8]) -> Result<(), Broken> {
            let mut chunk = Vec::new();
            frame_message(&mut chunk, message);
            let taken = Taken { chunk, first: 0, mode: Mode::Reliable };
            self.see(&Seen::Taken { node: 1, peer: self.peer, stream: StreamId(0), taken: &taken })
        }
    }

    #[test]
    fn order_counts() {
        let mut two = Two::new();
        two.send(&[b"a", b"b", b"c"]);
        assert_eq!((two.take(b"a"), two.take(b"b")), (Ok(()), Ok(())));
        let broken = two.take(b"b").unwrap_err();
        assert!(broken.what.contains("in order"), "{broken:?}");
        assert_eq!(two.checker.messages(), 3);
    }

    #[test]
    fn what_nobody_sent_is_noticed() {
        let mut two = Two::new();
        two.send(&[b"a"]);
        let broken = two.take(b"x").unwrap_err();
        assert!(broken.what.contains("authenticated sender"), "{broken:?}");
    }
}
