//! The half that keeps events for others: lanes that peers opened, what they ask, what they get.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use super::store::{Place, Store};
use super::wire::{Frame, From, Run, Why};
use super::{EACH, Hosting, PART, Role, Way};
use crate::bus::Shard;
use crate::identity::EntityId;
use crate::session::Peer;

/// Lanes that one node may have open here; more are closed.
const MAX_WAYS_PER_PEER: usize = 64;
/// Lanes of all nodes; more are closed.
pub(super) const MAX_WAYS: usize = 4096;
/// Reads under way on a lane; more are refused.
pub(super) const MAX_READS: usize = 64;
/// Answers and acknowledgements that wait on a lane; a lane with more is closed.
pub(super) const MAX_OUT: usize = 1024;
/// Frames that came before the name of their sender was known. A lane with more is closed.
const MAX_EARLY: usize = 64;

#[derive(Debug)]
struct Topic {
    store: Store,
    hosting: Hosting,
    /// Ways with reads that wait for events.
    waiting: BTreeSet<Way>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    /// Proven, but its name was not looked up yet.
    Peer(Peer),
    Known(EntityId, Option<Peer>),
}

#[derive(Debug)]
struct Served {
    who: Who,
    topic: String,
    role: Role,
    early: Vec<Frame>,
    out: VecDeque<Frame>,
    reads: VecDeque<Asked>,
    close: Option<Why>,
}

/// A read that is not answered to its end.
#[derive(Debug)]
struct Asked {
    call: u64,
    events: u32,
    bytes: usize,
    wait: bool,
    from: Vec<From>,
    /// How many shards are done, counted from `first`.
    done: usize,
    /// Where the next part begins, what was missed before it, and how many events it may have.
    here: Option<(Place, u32)>,
    answered: bool,
}

enum Next {
    Frame(Frame),
    /// That was all.
    Last(Frame),
    Waits,
}

impl Asked {
    /// The shard whose turn it is. Another one goes first in every call, so that none starves where bytes are
    /// what runs out.
    fn turn(&self) -> Option<From> {
        let n = self.from.len();
        let first = (self.call >> 32) as usize;
        (self.done < n).then(|| self.from[(first + self.done) % n])
    }

    fn next(&mut self, store: &Store) -> Next {
        while let Some((shard, at)) = self.turn() {
            let (place, left) = match self.here.take() {
                // Its last part said whether there is more.
                Some(_) if self.bytes == 0 => {
                    self.done += 1;
                    continue;
                }
                Some(here) => here,
                None => match store.place(shard, at) {
                    Ok(Some(place)) => (place, self.events),
                    Ok(None) => {
                        self.done += 1;
                        continue;
                    }
                    Err(why) => return Next::Last(Frame::Refused { call: self.call, why }),
                },
            };
            let read = store.read(shard, place.next, left, self.bytes.clamp(1, PART)).filter(|_| left > 0);
            if read.is_some() && self.bytes == 0 {
                // No room is left: it is only told that there are some.
                self.done += 1;
                let (lost, at) = (place.lost, crate::bus::Position::START);
                let part = Frame::Part { call: self.call, shard, lost, more: true, at, run: None };
                return Next::Frame(part);
            }
            if read.is_none() && place.lost.is_none() {
                self.done += 1;
                continue;
            }
            return Next::Frame(self.part(shard, place, left, read));
        }
        if self.answered || !self.wait {
            return Next::Last(Frame::Done { call: self.call });
        }
        self.done = 0;
        Next::Waits
    }

    fn part(
        &mut self,
        shard: Shard,
        place: Place,
        left: u32,
        read: Option<(crate::bus::Position, Run, bool)>,
    ) -> Frame {
        self.answered = true;
        let Place { lost, .. } = place;
        let Some((at, run, more)) = read else {
            self.done += 1;
            let at = crate::bus::Position::START;
            return Frame::Part { call: self.call, shard, lost, more: false, at, run: None };
        };
        self.bytes = self.bytes.saturating_sub(run.bytes() + EACH);
        let next = at.minor + u64::from(run.len());
        self.here = Some((Place { next, lost: None }, left.saturating_sub(run.len())));
        Frame::Part { call: self.call, shard, lost, more, at, run: Some(run) }
    }
}

/// Lives are microseconds since 1970: the product fits until the year 2540.
const TIMES: u64 = 1 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Serving {
    /// Life of the node, and how often it began to keep a name in it: positions of an earlier time are gone.
    life: u64,
    begun: u64,
    topics: BTreeMap<String, Topic>,
    ways: BTreeMap<Way, Served>,
    /// Ways with something to do.
    busy: BTreeSet<Way>,
}

impl Serving {
    pub const fn new(life: u64) -> Self {
        Self { life, begun: 0, topics: BTreeMap::new(), ways: BTreeMap::new(), busy: BTreeSet::new() }
    }

    /// Keeps events under a name from now on.
    pub fn host(&mut self, name: String, hosting: Hosting) -> Result<(), Why> {
        if hosting.limits.shards == 0 || hosting.limits.events == 0 {
            return Err(Why::Limit);
        }
        if self.topics.contains_key(&name) {
            return Err(Why::Exists);
        }
        // What is kept again under a name begins anew: nobody must take its positions for those before.
        let major = self.life.saturating_mul(TIMES).saturating_add(self.begun);
        self.begun += 1;
        let store = Store::new(major, hosting.limits);
        self.topics.insert(name, Topic { store, hosting, waiting: BTreeSet::new() });
        Ok(())
    }

    /// Forgets the events of a name, and tells whoever uses them.
    pub fn unhost(&mut self, name: &str) {
        if self.topics.remove(name).is_none() {
            return;
        }
        for (way, served) in self.ways.iter_mut().filter(|(_, served)| served.topic == name) {
            served.close = Some(Why::NoTopic);
            self.busy.insert(*way);
        }
    }

    /// Events, bytes, and events that came twice, of a name.
    pub fn counts(&self, name: &str) -> Option<(u64, u64, u64)> {
        Some(self.topics.get(name)?.store.counts())
    }

    /// A peer opened a lane.
    pub fn opened(&mut self, way: Way, peer: Peer, role: Role, topic: &str) {
        let of_peer = |s: &&Served| matches!(s.who, Who::Peer(p) | Who::Known(_, Some(p)) if p == peer);
        let full =
            self.ways.len() >= MAX_WAYS || self.ways.values().filter(of_peer).count() >= MAX_WAYS_PER_PEER;
        let close = full.then_some(Why::Full);
        self.add(way, Who::Peer(peer), role, topic, close);
    }

    /// This node itself uses what it keeps.
    pub fn opened_here(&mut self, way: Way, me: EntityId, role: Role, topic: &str) {
        self.add(way, Who::Known(me, None), role, topic, None);
    }

    /// A peer opened a lane that does not say what it is for.
    pub fn opened_badly(&mut self, way: Way, peer: Peer) {
        self.add(way, Who::Peer(peer), Role::Read, "", Some(Why::Violation));
    }

    fn add(&mut self, way: Way, who: Who, role: Role, topic: &str, close: Option<Why>) {
        let served = Served {
            who,
            topic: topic.into(),
            role,
            early: Vec::new(),
            out: VecDeque::new(),
            reads: VecDeque::new(),
            close,
        };
        self.ways.insert(way, served);
        self.busy.insert(way);
    }

    /// Whether a way is one of this half.
    pub fn has(&self, way: Way) -> bool {
        self.ways.contains_key(&way)
    }

    /// A way is over.
    pub fn closed(&mut self, way: Way) {
        let Some(served) = self.ways.remove(&way) else { return };
        self.busy.remove(&way);
        if let Some(topic) = self.topics.get_mut(&served.topic) {
            topic.waiting.remove(&way);
        }
    }

    /// A peer is gone, with its lanes.
    pub fn down(&mut self, peer: Peer) {
        let of_peer = |s: &Served| matches!(s.who, Who::Peer(p) | Who::Known(_, Some(p)) if p == peer);
        let gone: Vec<Way> = self.ways.iter().filter(|(_, s)| of_peer(s)).map(|(way, _)| *way).collect();
        gone.into_iter().for_each(|way| self.closed(way));
    }

    /// A way could not send, and may now.
    pub fn writable(&mut self, way: Way) {
        if self.ways.contains_key(&way) {
            self.busy.insert(way);
        }
    }

    /// What came on a way; `None` if it does not decode.
    pub fn received(&mut self, way: Way, frame: Option<Frame>) {
        let Some(served) = self.ways.get_mut(&way) else { return };
        if served.close.is_some() {
            return;
        }
        self.busy.insert(way);
        match (frame, served.who) {
            (None, _) => served.close = Some(Why::Violation),
            (Some(_), Who::Peer(_)) if served.early.len() >= MAX_EARLY => served.close = Some(Why::Full),
            (Some(frame), Who::Peer(_)) => served.early.push(frame),
            (Some(frame), Who::Known(entity, _)) => self.act(way, entity, frame),
        }
    }

    /// Looks up who it is that opened a way, and does what it asked meanwhile. An unknown peer is gone.
    pub fn resolve(&mut self, way: Way, name: impl FnOnce(Peer) -> Option<EntityId>) {
        let Some(served) = self.ways.get_mut(&way) else { return };
        let Who::Peer(peer) = served.who else { return };
        let Some(entity) = name(peer) else { return self.closed(way) };
        served.who = Who::Known(entity, Some(peer));
        let early = core::mem::take(&mut served.early);
        let refused = self.refuse(way, &entity);
        if let Some(served) = self.ways.get_mut(&way) {
            served.close = served.close.or(refused);
        }
        for frame in early {
            self.act(way, entity, frame);
        }
    }

    /// Why a way may not be used, if so.
    fn refuse(&self, way: Way, entity: &EntityId) -> Option<Why> {
        let served = self.ways.get(&way)?;
        let Some(topic) = self.topics.get(&served.topic) else { return Some(Why::NoTopic) };
        let access = match served.role {
            Role::Write => &topic.hosting.writers,
            Role::Read => &topic.hosting.readers,
        };
        let local = matches!(way, Way::Local(_));
        (!local && !access.allows(entity)).then_some(Why::NotAllowed)
    }

    fn act(&mut self, way: Way, entity: EntityId, frame: Frame) {
        let Some(served) = self.ways.get_mut(&way).filter(|served| served.close.is_none()) else { return };
        let Some(topic) = self.topics.get_mut(&served.topic) else {
            served.close = Some(Why::NoTopic);
            return;
        };
        let mut answer = None;
        match (frame, served.role) {
            (Frame::Append { link, shard, first, run }, Role::Write) => {
                let upto = first.saturating_add(run.len().into()).saturating_sub(1);
                match topic.store.append(&entity, shard, &run) {
                    Ok(()) => {
                        self.busy.extend(core::mem::take(&mut topic.waiting));
                        match served.out.back_mut() {
                            Some(Frame::Appended { link: last, upto: have }) if *last == link => *have = upto,
                            _ => answer = Some(Frame::Appended { link, upto }),
                        }
                    }
                    Err(why) => answer = Some(Frame::Failed { link, why }),
                }
            }
            (Frame::Read { call, events, bytes, wait, from }, Role::Read) => {
                if served.reads.len() >= MAX_READS {
                    answer = Some(Frame::Refused { call, why: Why::Full });
                } else {
                    let bytes = (bytes as usize).max(1);
                    let (done, here, answered) = (0, None, false);
                    let asked = Asked { call, events, bytes, wait, from, done, here, answered };
                    served.reads.push_back(asked);
                }
            }
            (Frame::Cancel { call }, Role::Read) => served.reads.retain(|asked| asked.call != call),
            (Frame::Ask { call }, _) => answer = Some(Frame::Ends { call, ends: topic.store.ends() }),
            _ => served.close = Some(Why::Violation),
        }
        if let Some(answer) = answer {
            if served.out.len() >= MAX_OUT {
                served.close = Some(Why::Full);
            } else {
                served.out.push_back(answer);
            }
        }
    }

    /// Ways that have something to do, each to be asked by [`Self::poll`] until it has nothing more.
    pub fn busy(&self) -> Vec<Way> {
        self.busy.iter().copied().collect()
    }

    /// Whether any way like that has something to do.
    pub fn any_busy(&self, like: impl Fn(Way) -> bool) -> bool {
        self.busy.iter().copied().any(like)
    }

    /// The next frame for a way. What finds no room comes back by [`Self::unpoll`].
    pub fn poll(&mut self, way: Way) -> Option<Frame> {
        let served = self.ways.get_mut(&way).filter(|served| served.close.is_none())?;
        if let Some(frame) = served.out.pop_front() {
            return Some(frame);
        }
        if let Some(topic) = self.topics.get_mut(&served.topic) {
            for index in 0..served.reads.len() {
                let Some(asked) = served.reads.get_mut(index) else { break };
                match asked.next(&topic.store) {
                    Next::Frame(frame) => return Some(frame),
                    Next::Last(frame) => {
                        served.reads.remove(index);
                        return Some(frame);
                    }
                    Next::Waits => {}
                }
            }
            if !served.reads.is_empty() {
                topic.waiting.insert(way);
            }
        }
        self.busy.remove(&way);
        None
    }

    /// A frame that found no room: it goes first the next time.
    pub fn unpoll(&mut self, way: Way, frame: Frame) {
        if let Some(served) = self.ways.get_mut(&way) {
            served.out.push_front(frame);
        }
    }

    /// Why a way is to be closed, if so. It is forgotten.
    pub fn poll_close(&mut self, way: Way) -> Option<Why> {
        let why = self.ways.get(&way)?.close?;
        self.closed(way);
        Some(why)
    }

    /// Most bytes that it may come to hold for the names of now.
    pub fn ceiling(&self) -> u64 {
        let stores: u64 = self.topics.values().map(|topic| topic.store.ceiling()).sum();
        let each = size_of::<Served>() + MAX_READS * (size_of::<Asked>() + 32);
        stores + self.ways.values().map(|s| (each + s.out.len() * size_of::<Frame>()) as u64).sum::<u64>()
    }
}
