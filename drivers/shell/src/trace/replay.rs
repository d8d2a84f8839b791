//! A node that lives a record again, and where it first does something else.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

use net_proto::identity::EntityId;
use net_proto::lane::Plane;
use net_proto::node::{Config, Event, Host, Node, NodeStats};
use net_proto::time::{Duration, Instant};

use super::{Entry, Header, PlaneStart, TraceError};
use crate::bell::lock;

/// Where a replay first did something else than its record: another build, another configuration, or a
/// record that was changed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// Which step, counted from one.
    pub step: u64,
    /// Its time since the node started.
    pub after: Duration,
    /// The kind of the step.
    pub name: &'static str,
    /// What differs, without secrets.
    pub what: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { step, after, name, what } = self;
        write!(f, "the replay differs at step {step} ({name}, {after:?} after the start): {what}")
    }
}

impl std::error::Error for Difference {}

/// What a replay passes on its way.
#[derive(Debug)]
pub enum Happened<'a> {
    /// A step was lived.
    Step {
        /// Which, counted from one.
        number: u64,
        /// Its time since the node started.
        after: Duration,
        /// Its kind.
        name: &'static str,
        /// Whether something came from outside with it; the rest takes output.
        input: bool,
    },
    /// The node told this.
    Event {
        /// The time of the step before, since the node started.
        after: Duration,
        /// What.
        event: &'a Event,
    },
}

type Decisions = Arc<Mutex<VecDeque<(EntityId, bool)>>>;

/// A node in the middle of its record.
pub struct Replay<P: Plane> {
    host: Host<P>,
    start: Instant,
    now: Instant,
    told: VecDeque<Event>,
    decisions: Decisions,
    scratch: Vec<u8>,
    before: NodeStats,
    steps: u64,
    inputs: u64,
    name: &'static str,
    hash: Hash,
}

impl<P: Plane> fmt::Debug for Replay<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl<P: Plane> Replay<P> {
    /// The node at its start. `config` is [`Header::config`], or a changed one.
    ///
    /// # Errors
    /// [`TraceError::Config`].
    pub fn new(
        header: &Header,
        mut config: Config,
        planes: impl FnOnce(PlaneStart) -> P,
    ) -> Result<Self, TraceError> {
        let decisions = Decisions::default();
        if header.policy() {
            let recorded = decisions.clone();
            config.accept = Some(Arc::new(move |id: &EntityId| {
                lock(&recorded).pop_front().is_some_and(|(who, answer)| who == *id && answer)
            }));
        }
        let node = Node::new(config, header.seed(), header.at())?;
        let host = Host::new(node, planes(header.planes()));
        Ok(Self {
            before: host.stats(),
            host,
            start: header.at(),
            now: header.at(),
            told: VecDeque::new(),
            decisions,
            scratch: Vec::new(),
            steps: 0,
            inputs: 0,
            name: "start",
            hash: Hash::new(),
        })
    }

    /// Steps so far, and how many of them brought something in from outside.
    pub const fn lived(&self) -> (u64, u64) {
        (self.steps, self.inputs)
    }

    /// The node as it is now.
    pub const fn host(&self) -> &Host<P> {
        &self.host
    }

    /// The time of the last step, since the node started.
    pub fn after(&self) -> Duration {
        self.now.since(self.start)
    }

    fn differs(&self, what: String) -> TraceError {
        Box::new(Difference { step: self.steps, after: self.after(), name: self.name, what }).into()
    }

    /// Lives one entry and compares what comes out with it.
    ///
    /// # Errors
    /// [`TraceError::Differs`]. The node is then another than the recorded one: the replay is over.
    pub fn live(&mut self, entry: Entry, watch: &mut dyn FnMut(Happened<'_>)) -> Result<(), TraceError> {
        match entry {
            Entry::Accepted(id, answer) => lock(&self.decisions).push_back((id, answer)),
            Entry::Step { at, step, bytes, counters } => {
                let input = step.is_input();
                self.steps += 1;
                self.inputs += u64::from(input);
                self.now = self.now.max(at);
                self.name = step.name();
                let output = self.host.replay(at, step, &mut self.scratch);
                self.told.extend(output.events);
                if output.bytes != bytes {
                    return Err(self.differs("other bytes came out than were recorded".into()));
                }
                let after = self.host.fingerprint();
                if after != counters {
                    return Err(self.differs(self.changed()));
                }
                self.hash.step(bytes, after);
                self.before = self.host.stats();
                let (number, name) = (self.steps, self.name);
                watch(Happened::Step { number, after: self.after(), name, input });
            }
            Entry::Event(event) => {
                let again = self.told.pop_front();
                if again.as_ref() != Some(&event) {
                    let again = again.map_or_else(|| "nothing".into(), |again| format!("{again:?}"));
                    return Err(self.differs(format!("it told {again}; recorded is {event:?}")));
                }
                self.hash.event(&event);
                watch(Happened::Event { after: self.after(), event: &event });
            }
        }
        Ok(())
    }

    /// Says which counters this step moved: one of them moved otherwise when it was recorded.
    fn changed(&self) -> String {
        let text = |stats: &NodeStats| format!("{stats:#?}");
        let (before, after) = (text(&self.before), text(&self.host.stats()));
        let moved = before.lines().zip(after.lines()).filter(|(a, b)| a != b);
        let moved = moved.map(|(a, b)| format!("{} (was {})", b.trim().trim_end_matches(','), number(a)));
        let moved: Vec<_> = moved.collect();
        let moved = if moved.is_empty() { "none".into() } else { moved.join(", ") };
        format!("other counters than were recorded; those that moved here: {moved}")
    }

    /// The node as it is after the last entry.
    pub fn end(self) -> Replayed<P> {
        let Self { host, steps, inputs, hash, .. } = self;
        Replayed { host, steps, inputs, hash: hash.end() }
    }
}

/// The value in a line of a counter.
fn number(line: &str) -> &str {
    line.rsplit(' ').next().unwrap_or_default().trim_end_matches(',')
}

/// A hash over what came out of a node.
struct Hash(ring::digest::Context);

impl Hash {
    fn new() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256))
    }

    fn step(&mut self, bytes: u64, counters: u64) {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&bytes.to_le_bytes());
        both[8..].copy_from_slice(&counters.to_le_bytes());
        self.0.update(&both);
    }

    fn event(&mut self, event: &Event) {
        // What does not encode was not recorded either.
        self.0.update(&postcard::to_allocvec(event).unwrap_or_default());
    }

    fn end(self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// As the record says it.
pub(super) fn hash(entries: &[Entry]) -> [u8; 32] {
    let mut hash = Hash::new();
    for entry in entries {
        match entry {
            Entry::Step { bytes, counters, .. } => hash.step(*bytes, *counters),
            Entry::Event(event) => hash.event(event),
            Entry::Accepted(..) => {}
        }
    }
    hash.end()
}

/// A node that lived its record again.
pub struct Replayed<P: Plane> {
    /// As it was at the end.
    pub host: Host<P>,
    /// How many steps it lived.
    pub steps: u64,
    /// How many of them brought something in from outside.
    pub inputs: u64,
    /// Over all that came out, as [`Trace::hash`](super::Trace::hash).
    pub hash: [u8; 32],
}

impl<P: Plane> fmt::Debug for Replayed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayed").field("steps", &self.steps).finish_non_exhaustive()
    }
}
