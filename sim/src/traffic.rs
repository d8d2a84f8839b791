//! Ready-made applications: a [`Station`] that sends and checks numbered messages, and a [`Caller`]
//! that waits for each reply. Every message says which flow it belongs to and which one it is, so
//! the receiver proves exactly once, in order and undamaged by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use net_proto::node::{Command, Event, Lost};
use net_proto::path::Path;
use net_proto::session::Peer;
use net_proto::stream::{Messages, Mode, StreamId, Taken, charge, frame_message};
use net_proto::time::Duration;

use crate::app::{App, Ctx};
use crate::keyed::mix;

/// Stands in every message that is long enough; on the wire it must never be seen.
pub const MARKER: &[u8; 16] = b"plaintext-marker";
/// Shortest message: flow and number.
pub const SHORTEST: usize = 16;
/// Bytes of messages per command.
const CHUNK: usize = 32 << 10;
/// Label of streams that carry flows.
const FLOW: &str = "flow";
/// Label of streams that are answered message by message.
const CALLS: &str = "calls";

/// The message `number` of `flow`, `size` bytes long.
pub fn message(flow: u64, number: u64, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size.max(SHORTEST));
    out.extend_from_slice(&flow.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    if size >= SHORTEST + MARKER.len() {
        out.extend_from_slice(MARKER);
    }
    let mut word = mix(flow ^ mix(number));
    while out.len() < size {
        let bytes = word.to_le_bytes();
        let left = (size - out.len()).min(8);
        out.extend_from_slice(&bytes[..left]);
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(13);
    }
    out
}

/// Flow and number of a message, if every byte of it is right.
pub fn verify(bytes: &[u8]) -> Option<(u64, u64)> {
    let flow = u64::from_le_bytes(*bytes.first_chunk()?);
    let number = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    (message(flow, number, bytes.len()) == bytes).then_some((flow, number))
}

/// Messages that one node sends to another over one stream.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Names it; unique in the world.
    pub id: u64,
    /// To which node.
    pub to: u32,
    /// The stream's promise.
    pub mode: Mode,
    /// How many messages.
    pub messages: u64,
    /// How long each is, in bytes; at least [`SHORTEST`].
    pub size: usize,
    /// Time between messages; `None` sends as fast as the stream takes them.
    pub every: Option<Duration>,
}

impl Flow {
    /// A reliable flow, as fast as possible.
    pub const fn reliable(id: u64, to: u32, messages: u64, size: usize) -> Self {
        Self { id, to, mode: Mode::Reliable, messages, size, every: None }
    }
}

/// How far a flow is, at its sender.
#[derive(Clone, Debug, Default)]
pub struct Sending {
    /// The association and stream, once there is one.
    pub stream: Option<(Peer, StreamId)>,
    /// Messages queued.
    pub queued: u64,
    /// When the last one was acknowledged (fire-and-forget: sent).
    pub flushed: Option<Duration>,
    /// When both directions were over.
    pub closed: Option<Duration>,
    /// What was reported lost.
    pub lost: Option<Lost>,
    charged: u64,
    limit: u64,
    ended: bool,
    due: u64,
}

/// What came of a flow, at its receiver.
#[derive(Clone, Debug, Default)]
pub struct Receiving {
    /// Messages.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the first came.
    pub first: Option<Duration>,
    /// When the last came.
    pub last: Option<Duration>,
    /// The longest time without one, between the first and the last.
    pub longest_gap: Duration,
    /// When the sender's end was reached.
    pub finished: Option<Duration>,
    next: u64,
    early: BTreeSet<u64>,
}

/// Sends flows, reads and checks what others send.
#[derive(Debug, Default)]
pub struct Station {
    /// The flows it sends, and how far they are.
    pub flows: Vec<(Flow, Sending)>,
    /// What it got, by flow.
    pub got: BTreeMap<u64, Receiving>,
    /// Whether it never reads.
    pub deaf: bool,
    /// Associations that are up.
    pub peers: BTreeMap<Peer, u64>,
    /// How often an association came up.
    pub ups: u64,
    /// How often one went down.
    pub downs: u64,
    /// Dials that failed.
    pub failed_dials: u64,
    /// The path of the last [`Event::PathChanged`].
    pub path: Option<Path>,
    /// Nodes to dial although no flow goes there.
    pub acquaintances: Vec<u32>,
    /// Dials again when a dial fails or an association ends, after this time.
    pub redial: Option<Duration>,
    begin: Duration,
    begun: bool,
    dialled: BTreeSet<u32>,
    carries: BTreeMap<(Peer, StreamId), u64>,
    answering: BTreeMap<(Peer, StreamId), Answering>,
}

#[derive(Debug, Default)]
struct Answering {
    limit: u64,
    charged: u64,
    waiting: VecDeque<Vec<u8>>,
}

impl Station {
    /// A station that only listens.
    pub fn listener() -> Self {
        Self::default()
    }

    /// A station that lets itself be sent to and never reads.
    pub fn deaf() -> Self {
        Self { deaf: true, ..Self::default() }
    }

    /// A station that sends these flows.
    pub fn sender(flows: impl IntoIterator<Item = Flow>) -> Self {
        Self { flows: flows.into_iter().map(|f| (f, Sending::default())).collect(), ..Self::default() }
    }

    /// A station that dials these nodes and sends nothing.
    pub fn friend(of: impl IntoIterator<Item = u32>) -> Self {
        Self { acquaintances: of.into_iter().collect(), ..Self::default() }
    }

    /// Does nothing before this time.
    #[must_use]
    pub const fn beginning_after(mut self, time: Duration) -> Self {
        self.begin = time;
        self
    }

    /// Whether every flow was acknowledged.
    pub fn all_flushed(&self) -> bool {
        self.flows.iter().all(|(_, s)| s.flushed.is_some())
    }

    /// Whether every stream that it opened is over in both directions.
    pub fn all_closed(&self) -> bool {
        self.flows.iter().all(|(_, s)| s.closed.is_some())
    }

    /// Messages received, over all flows.
    pub fn received(&self) -> u64 {
        self.got.values().map(|r| r.count).sum()
    }

    fn dial(&mut self, cx: &mut Ctx<'_>, to: u32) {
        self.dialled.insert(to);
        let command = Command::Dial { id: u64::from(to), entity: cx.entity(to), paths: vec![cx.path_to(to)] };
        cx.command(command);
    }

    fn dial_all(&mut self, cx: &mut Ctx<'_>) {
        let to: BTreeSet<u32> =
            self.flows.iter().map(|(f, _)| f.to).chain(self.acquaintances.clone()).collect();
        for to in to.difference(&self.dialled.clone()) {
            self.dial(cx, *to);
        }
    }

    fn pump(&mut self, cx: &mut Ctx<'_>, index: usize) {
        let (flow, sending) = &mut self.flows[index];
        let Some((peer, stream)) = sending.stream else { return };
        let allowed = if flow.every.is_some() { sending.due } else { flow.messages };
        let cost = charge(flow.size.max(SHORTEST));
        while sending.queued < allowed && sending.charged + cost <= sending.limit {
            let mut chunk = cx.spent().unwrap_or_default();
            chunk.clear();
            while sending.queued < allowed && sending.charged + cost <= sending.limit && chunk.len() < CHUNK {
                frame_message(&mut chunk, &message(flow.id, sending.queued, flow.size));
                sending.queued += 1;
                sending.charged += cost;
            }
            cx.command(Command::Send { peer, stream, chunk });
        }
        if sending.queued == flow.messages && !sending.ended {
            sending.ended = true;
            cx.command(Command::Flush { id: index as u64, peer, stream });
            cx.command(Command::Finish { peer, stream });
        }
    }

    fn read(&mut self, cx: &mut Ctx<'_>, peer: Peer, stream: StreamId) {
        let mut spare = Vec::new();
        while let Some(Taken { chunk, first, mode, .. }) = cx.take(peer, stream, &mut spare) {
            let mut worth = 0;
            let mut messages = Messages::received(&chunk, mode, first);
            for (_, bytes) in messages.by_ref() {
                worth += charge(bytes.len());
                if let Some(answering) = self.answering.get_mut(&(peer, stream)) {
                    answering.waiting.push_back(bytes.to_vec());
                    continue;
                }
                let Some((flow, number)) = verify(bytes) else {
                    return cx.fail(format!("a message of {} bytes was damaged", bytes.len()));
                };
                self.carries.insert((peer, stream), flow);
                self.note(cx, flow, number, bytes.len(), mode);
            }
            if !messages.rest().is_empty() {
                return cx.fail("a chunk does not end with a whole message");
            }
            cx.command(Command::Consumed { peer, stream, charge: worth });
            spare = chunk;
        }
        self.answer(cx, peer, stream);
    }

    fn answer(&mut self, cx: &mut Ctx<'_>, peer: Peer, stream: StreamId) {
        let Some(answering) = self.answering.get_mut(&(peer, stream)) else { return };
        let mut chunk = Vec::new();
        while let Some(reply) = answering.waiting.front() {
            if answering.charged + charge(reply.len()) > answering.limit {
                break;
            }
            answering.charged += charge(reply.len());
            frame_message(&mut chunk, reply);
            answering.waiting.pop_front();
        }
        if !chunk.is_empty() {
            cx.command(Command::Send { peer, stream, chunk });
        }
    }

    fn note(&mut self, cx: &mut Ctx<'_>, flow: u64, number: u64, len: usize, mode: Mode) {
        let now = cx.elapsed();
        let r = self.got.entry(flow).or_default();
        r.count += 1;
        r.bytes += len as u64;
        r.first.get_or_insert(now);
        r.longest_gap = r.longest_gap.max(now - r.last.unwrap_or(now));
        r.last = Some(now);
        match mode {
            Mode::Reliable if number != r.next => {
                let next = r.next;
                cx.fail(format!("flow {flow}: message {number} where {next} was due"));
            }
            Mode::Reliable => r.next += 1,
            _ if number < r.next || !r.early.insert(number) => {
                cx.fail(format!("flow {flow}: message {number} came twice"));
            }
            _ => {
                while r.early.remove(&r.next) {
                    r.next += 1;
                }
            }
        }
    }

    fn flow_of(&mut self, peer: Peer, stream: StreamId) -> Option<&mut Sending> {
        self.flows.iter_mut().map(|(_, s)| s).find(|s| s.stream == Some((peer, stream)))
    }

    fn tick(&mut self, cx: &mut Ctx<'_>) {
        if let Some(every) = self.flows.iter().filter_map(|(f, _)| f.every).min() {
            cx.wake_in(every);
        } else if let Some(redial) = self.redial {
            cx.wake_in(redial);
        }
    }
}

impl App for Station {
    fn on_start(&mut self, cx: &mut Ctx<'_>) {
        if self.begin > Duration::ZERO {
            return cx.wake_in(self.begin);
        }
        self.begun = true;
        self.dial_all(cx);
        self.tick(cx);
    }

    fn on_timer(&mut self, cx: &mut Ctx<'_>) {
        if !std::mem::replace(&mut self.begun, true) {
            self.dial_all(cx);
            return self.tick(cx);
        }
        for index in 0..self.flows.len() {
            let (flow, sending) = &mut self.flows[index];
            if flow.every.is_some() && sending.stream.is_some() && sending.due < flow.messages {
                sending.due += 1;
                self.pump(cx, index);
            }
        }
        if self.redial.is_some() {
            self.dial_all(cx);
        }
        self.tick(cx);
    }

    fn on_event(&mut self, cx: &mut Ctx<'_>, event: Event) {
        match event {
            Event::Connected { peer, dial, .. } => {
                if self.peers.insert(peer, dial.unwrap_or(u64::MAX)).is_none() {
                    self.ups += 1;
                }
                let Some(to) = dial else { return };
                for (index, (flow, sending)) in self.flows.iter().enumerate() {
                    if u64::from(flow.to) == to && sending.stream.is_none() && sending.lost.is_none() {
                        let label = FLOW.into();
                        cx.command(Command::Open {
                            id: index as u64,
                            peer,
                            label,
                            mode: flow.mode,
                            priority: 16,
                        });
                    }
                }
            }
            Event::DialFailed { dial, .. } => {
                self.failed_dials += 1;
                self.dialled.remove(&(dial as u32));
            }
            Event::Disconnected { peer, lost, .. } => {
                self.downs += 1;
                if let Some(to) = self.peers.remove(&peer) {
                    self.dialled.remove(&(to as u32));
                }
                for (_, sending) in &mut self.flows {
                    if sending.stream.is_some_and(|(p, _)| p == peer) && sending.closed.is_none() {
                        sending.stream = None;
                        sending.lost = Some(lost);
                    }
                }
                self.answering.retain(|(p, _), _| *p != peer);
            }
            Event::StreamReady { id, peer, stream, limit, .. } => {
                if let Some((_, sending)) = self.flows.get_mut(id as usize) {
                    sending.stream = Some((peer, stream));
                    sending.limit = limit;
                    self.pump(cx, id as usize);
                }
            }
            Event::StreamRefused { id, error } => cx.fail(format!("flow number {id} was refused: {error}")),
            Event::StreamOpened { peer, stream, label, limit, .. } if label == CALLS => {
                self.answering.insert((peer, stream), Answering { limit, ..Answering::default() });
            }
            Event::Writable { peer, stream, limit } => {
                let index = self.flows.iter().position(|(_, s)| s.stream == Some((peer, stream)));
                if let Some(index) = index {
                    self.flows[index].1.limit = limit;
                    self.pump(cx, index);
                } else if let Some(answering) = self.answering.get_mut(&(peer, stream)) {
                    answering.limit = limit;
                    self.answer(cx, peer, stream);
                }
            }
            Event::Readable { peer, stream } if !self.deaf => self.read(cx, peer, stream),
            Event::Flushed { id } => {
                if let Some((_, sending)) = self.flows.get_mut(id as usize) {
                    sending.flushed = Some(cx.elapsed());
                }
            }
            Event::Finished { peer, stream } if self.flow_of(peer, stream).is_none() => {
                // What the peer sent is all there: the end of our direction follows.
                self.read(cx, peer, stream);
                let now = cx.elapsed();
                if let Some(flow) = self.carries.get(&(peer, stream)) {
                    self.got.entry(*flow).or_default().finished = Some(now);
                }
                cx.command(Command::Finish { peer, stream });
            }
            Event::StreamClosed { peer, stream, lost } => {
                self.answering.remove(&(peer, stream));
                self.carries.remove(&(peer, stream));
                let now = cx.elapsed();
                if let Some(sending) = self.flow_of(peer, stream) {
                    sending.closed = Some(now);
                    sending.lost = Some(lost);
                }
            }
            Event::PathChanged { path, .. } => self.path = Some(path),
            _ => {}
        }
    }
}

/// Sends a request, waits for the reply, sends the next.
#[derive(Debug)]
pub struct Caller {
    /// Whom it calls: a [`Station`].
    pub to: u32,
    /// How many calls.
    pub calls: u64,
    /// Bytes of a request, and of its reply.
    pub size: usize,
    /// Replies so far.
    pub replies: u64,
    /// When the last reply came.
    pub done: Option<Duration>,
    stream: Option<(Peer, StreamId)>,
    /// When the stream was ready, so that a test can leave the handshake out.
    pub ready: Option<Duration>,
    begin: bool,
}

impl Caller {
    /// Calls `to` as often as `calls`, once the stream stands.
    pub const fn new(to: u32, calls: u64, size: usize) -> Self {
        Self { to, calls, size, replies: 0, done: None, stream: None, ready: None, begin: true }
    }

    /// Waits for [`Caller::begin`] before the first call.
    pub const fn waiting(mut self) -> Self {
        self.begin = false;
        self
    }

    /// Makes the first call.
    pub fn begin(&mut self, cx: &mut Ctx<'_>) {
        self.begin = true;
        self.call(cx);
    }

    fn call(&self, cx: &mut Ctx<'_>) {
        let Some((peer, stream)) = self.stream else { return };
        if self.begin && self.replies < self.calls {
            let mut chunk = Vec::new();
            frame_message(&mut chunk, &message(u64::from(cx.me()), self.replies, self.size));
            cx.command(Command::Send { peer, stream, chunk });
        }
    }
}

impl App for Caller {
    fn on_start(&mut self, cx: &mut Ctx<'_>) {
        let command = Command::Dial { id: 0, entity: cx.entity(self.to), paths: vec![cx.path_to(self.to)] };
        cx.command(command);
    }

    fn on_event(&mut self, cx: &mut Ctx<'_>, event: Event) {
        match event {
            Event::Connected { peer, dial: Some(_), .. } => {
                let (label, mode) = (CALLS.into(), Mode::Reliable);
                cx.command(Command::Open { id: 0, peer, label, mode, priority: 16 });
            }
            Event::StreamReady { peer, stream, .. } => {
                self.stream = Some((peer, stream));
                self.ready = Some(cx.elapsed());
                self.call(cx);
            }
            Event::Readable { peer, stream } => {
                while let Some(Taken { chunk, first, mode, .. }) = cx.take(peer, stream, &mut Vec::new()) {
                    for (_, reply) in Messages::received(&chunk, mode, first) {
                        if verify(reply) != Some((u64::from(cx.me()), self.replies)) {
                            cx.fail(format!("reply {} is not what was asked", self.replies));
                        }
                        self.replies += 1;
                        cx.command(Command::Consumed { peer, stream, charge: charge(reply.len()) });
                    }
                }
                if self.replies == self.calls {
                    self.done.get_or_insert(cx.elapsed());
                } else {
                    self.call(cx);
                }
            }
            Event::DialFailed { error, .. } => cx.fail(format!("the dial failed: {error}")),
            Event::Disconnected { reason, .. } => cx.fail(format!("disconnected: {reason}")),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_proves_itself() {
        for size in [16, 17, 31, 32, 33, 100, 5_000] {
            let mut bytes = message(7, 9, size);
            assert_eq!(bytes.len(), size);
            assert_eq!(verify(&bytes), Some((7, 9)));
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert_ne!(verify(&bytes), Some((7, 9)));
        }
        assert_eq!(verify(b"short"), None);
    }
}
