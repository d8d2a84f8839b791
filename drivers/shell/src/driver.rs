//! The one task that moves a node and its planes: datagrams in, events to ports, ports to the node,
//! datagrams out.
//!
//! **Turn order.** Due timers; at most four batches of input; events fill ports. If a port was
//! filled, the task yields once, so that the applications it woke run and their answers join the
//! same turn. Then it collects ports, until 64 associations may have something to send, and all calls,
//! starts storage operations and jobs, and transmits; acknowledgements ride along. When the node has
//! nothing left to send, the next ports are collected. Transmitting ends after 100 µs, counted from the collection, or when there is nothing to
//! send; input is bounded by its number, not by time. Then: set asleep, look once more, sleep.

mod output;
mod planes;
mod watch;

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use net_proto::identity::EntityId;
use net_proto::lane::Plane;
use net_proto::node::{
    Command, DownReason, Event, Host, Input, Job, Lost, Step, StreamError, Taken, Transmit,
};
use net_proto::path::Path;
use net_proto::session::Peer;
use net_proto::session::aead::Cipher;
use net_proto::storage::{Storage, Ticket};
use net_proto::stream::{Mode, StreamId};
use net_proto::time::{Duration, Instant, Reason};
use tracing::{Instrument, Span};

use crate::bell::Inbox;
use crate::hub::{
    Control, Drained, Hub, Notice, OpenedStream, PeerShared, Planes, REFUSED, Reply, StreamReport,
    StreamShared,
};
use crate::ports::{Collected, End, RecvPort, SendError, SendPort};
use crate::qlog::{Qlog, Seen};
use crate::runtime::{Bound, Runtime, Timer, UdpRx, Watcher};
use crate::trace::Recorder;
use crate::udp::{MAX_SLOTS, SLOT};
use output::Output;
use planes::Feeding;
use watch::short;

/// Most batches of input in a turn.
const MAX_BATCHES: usize = 4;
/// Ports are collected until so many associations may have something to send; further ones when the node
/// has nothing left. Where more are busy, messages gather in their ports meanwhile, and leave together.
const MAX_READY: usize = 64;
/// A turn transmits no longer than this, so that other tasks of the thread run.
const MAX_TRANSMIT: Duration = Duration::from_micros(100);
/// Work that takes longer than this share of the time goes to the pool.
const INLINE_SHARE: u32 = 10;
/// How long goodbyes may take once streams are drained.
const GOODBYE: Duration = Duration::from_millis(500);
/// How often the node learns the wall clock.
const WALL_EVERY: Duration = Duration::from_secs(60);

/// What the driver needs to know of the node's settings.
pub struct Settings {
    /// First receive window of a stream, in charged bytes.
    pub stream_window: u64,
    /// Receive window of an association, in charged bytes.
    pub session_window: u64,
    /// What a stream may have queued, in charged bytes.
    pub send_buffer: u64,
    /// The node's directory: planes store in it, and its locks are kept until the node is gone.
    pub storage: Option<Box<dyn Storage>>,
    /// Records every step of the node.
    pub recorder: Option<Recorder>,
    /// Writes what happens as qlog.
    pub qlog: Option<Qlog>,
}

/// Starts the driver of a host on `runtime`: what handles of the node share with it, and the ports of its
/// planes. Path socket numbers are positions in `sockets`.
pub fn start<P>(
    runtime: &Arc<dyn Runtime>,
    host: Host<P>,
    sockets: Vec<Bound>,
    settings: Settings,
) -> (Arc<Hub>, Arc<Planes<P>>)
where
    P: Plane<Cmd: Send, Event: Send> + Send + 'static,
{
    let inbox = Arc::new(Inbox::new((settings.session_window / 4).max(1)));
    let planes = Arc::new(Planes::new(inbox.clone()));
    let hub = Arc::new(Hub::new(inbox));
    let addrs: Vec<_> = sockets.iter().map(|(sender, _)| sender.local_addr()).collect();
    let (senders, receivers) = sockets.into_iter().unzip();
    // Whatever the driver does happens in the node's span; where nobody listens, that costs nothing.
    let span = tracing::info_span!(target: "net", parent: None, "node", id = %short(host.node().me()));
    let now = runtime.now();
    let mut watcher = runtime.watcher(&addrs);
    if let Some(watcher) = &mut watcher {
        watcher.started(host.node());
    }
    let driver = Driver {
        core: Core {
            host,
            recorder: settings.recorder,
            watcher,
            qlog: settings.qlog,
            span: span.clone(),
            spans: HashMap::new(),
        },
        feeding: Feeding::new(planes.clone()),
        timer: runtime.timer(),
        runtime: runtime.clone(),
        receivers,
        first_receiver: 0,
        output: Output::new(senders),
        stream_window: settings.stream_window,
        send_buffer: settings.send_buffer,
        hub: hub.clone(),
        peers: HashMap::new(),
        streams: Vec::new(),
        free: Vec::new(),
        names: HashMap::new(),
        dials: HashMap::new(),
        opens: HashMap::new(),
        flushes: HashMap::new(),
        ports: Vec::new(),
        rung: VecDeque::new(),
        plenty: Vec::new(),
        spare: Vec::new(),
        filled: Vec::new(),
        yielded: false,
        started: now,
        more: false,
        batches: 0,
        inline_after: now,
        wall_at: now,
        admitted: 0,
        lost: Lost::default(),
        dropped: HashMap::new(),
        closing: None,
        storage: settings.storage,
    };
    runtime.spawn("net driver", Box::pin(driver.instrument(span)));
    (hub, planes)
}

/// The node with its planes, what records its steps and who looks on: whatever moves them goes through
/// here.
struct Core<P: Plane> {
    host: Host<P>,
    recorder: Option<Recorder>,
    watcher: Option<Box<dyn Watcher>>,
    qlog: Option<Qlog>,
    /// The node's span, and those of its sessions where somebody listens.
    span: Span,
    spans: HashMap<Peer, Span>,
}

impl<P: Plane> Core<P> {
    fn note(&mut self, now: Instant, step: Step) {
        if let Some(recorder) = &mut self.recorder {
            recorder.input(now, step, &self.host);
        }
    }

    fn handle(&mut self, now: Instant, input: Input<'_>) {
        if let (Some(watcher), Input::Command(command)) = (&mut self.watcher, &input) {
            watcher.command(command);
        }
        // Before: a datagram is opened in place.
        let step = self.recorder.as_ref().map(|_| Step::from(&input));
        let seen = match &input {
            Input::Datagram { path, data, .. } if self.shows_packets() => {
                Some(Seen::new(&self.host, *path, data))
            }
            _ => None,
        };
        self.host.handle(now, input);
        if let Some(step) = step {
            self.note(now, step);
        }
        if let Some(seen) = seen {
            self.received(now, &seen);
        }
    }

    fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<Transmit> {
        let room = buf.len();
        let out = self.host.poll_transmit(now, buf);
        if let Some(recorder) = &mut self.recorder {
            let sent = out.as_ref().map_or(&[][..], |t| &buf[..t.len]);
            recorder.output(now, Step::Transmit(room), sent, &self.host);
        }
        if let Some(t) = &out
            && self.shows_packets()
        {
            self.sent(now, t, &buf[..t.len]);
        }
        out
    }

    fn take(&mut self, peer: Peer, stream: StreamId, spare: &mut Vec<u8>) -> Option<Taken> {
        let out = self.host.take(peer, stream, spare);
        if let Some(recorder) = &mut self.recorder {
            // Taking happens at the node's own time, which is that of its last input.
            let chunk = out.as_ref().map_or(&[][..], |taken| &taken.chunk);
            recorder.output(Instant::ZERO, Step::Take(peer, stream), chunk, &self.host);
        }
        if let (Some(watcher), Some(taken)) = (&mut self.watcher, &out) {
            watcher.taken(peer, stream, taken);
        }
        out
    }

    fn poll_job(&mut self) -> Option<(Ticket, Job)> {
        let out = self.host.poll_job();
        if let (Some(recorder), Some((ticket, job))) = (&mut self.recorder, &out) {
            recorder.job(*ticket, job, &self.host);
        }
        out
    }

    fn poll_event(&mut self) -> Option<Event> {
        let out = self.host.poll_event();
        if let (Some(recorder), Some(event)) = (&mut self.recorder, &out) {
            recorder.event(event);
        }
        if let (Some(watcher), Some(event)) = (&mut self.watcher, &out) {
            watcher.event(event);
        }
        if let Some(event) = &out {
            self.follow(event);
        }
        out
    }

    fn worked(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            watcher.worked(self.host.node());
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        self.handle(now, Input::Command(command));
    }
}

type OpenReply = Reply<Result<OpenedStream, StreamError>>;

struct Opening {
    label: String,
    mode: Mode,
    reply: OpenReply,
}

struct Flushing {
    key: u32,
    reply: Option<Reply<Result<(), SendError>>>,
}

struct Closing {
    /// Streams are drained until then.
    until: Instant,
    /// Flushes that the shutdown waits for.
    waiting: usize,
    /// Goodbyes were sent; the task ends at the latest then.
    goodbye: Option<Instant>,
    done: bool,
    replies: Vec<Reply<Drained>>,
}

struct Driver<P: Plane> {
    core: Core<P>,
    feeding: Feeding<P>,
    runtime: Arc<dyn Runtime>,
    timer: Box<dyn Timer>,
    receivers: Vec<Box<dyn UdpRx>>,
    first_receiver: usize,
    output: Output,
    stream_window: u64,
    send_buffer: u64,
    hub: Arc<Hub>,
    peers: HashMap<Peer, Arc<PeerShared>>,
    streams: Vec<Option<Arc<StreamShared>>>,
    free: Vec<u32>,
    names: HashMap<(Peer, StreamId), u32>,
    dials: HashMap<u64, Reply<Result<Arc<PeerShared>, net_proto::node::DialError>>>,
    opens: HashMap<u64, Opening>,
    flushes: HashMap<u64, Flushing>,
    /// Scratch: ports that rang.
    ports: Vec<u32>,
    /// Ports to be collected, in the order in which they rang.
    rung: VecDeque<u32>,
    /// By stream: the node has plenty to send of it, and its port is left alone until it has not.
    plenty: Vec<bool>,
    /// Memory for the next queue of a sending port.
    spare: Vec<u8>,
    /// Scratch: streams whose readers are to be woken.
    filled: Vec<u32>,
    yielded: bool,
    started: Instant,
    more: bool,
    /// Batches of input so far.
    batches: u64,
    inline_after: Instant,
    wall_at: Instant,
    /// Messages that ports admitted, as far as they were collected.
    admitted: u64,
    /// Those that never reached the node. What the node lost is in its ledger, and only there.
    lost: Lost,
    /// What ports of living streams dropped, by the stream's key.
    dropped: HashMap<u32, Lost>,
    closing: Option<Closing>,
    storage: Option<Box<dyn Storage>>,
}

// Nothing in it is pinned.
impl<P: Plane> Unpin for Driver<P> {}

impl<P: Plane> Future for Driver<P> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.hub.inbox.wake_up();
        let resumed = std::mem::take(&mut this.yielded);
        if !resumed {
            this.started = this.runtime.now();
            this.timers();
            this.more = this.receive(cx);
            if this.events(this.started) {
                this.yielded = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        let now = this.runtime.now();
        this.collect(now);
        this.effects(cx, now);
        this.events(now);
        let (flow, told) = this.transmit(cx, now);
        // What left may have made room on a lane, and so work for others.
        let effects = this.effects(cx, now);
        let filled = this.events(now) || told;
        this.core.worked();
        if this.closed(now) {
            return Poll::Ready(());
        }
        let next = this.next_wake(&flow);
        let busy = this.more
            || filled
            || effects
            || this.feeding.unblocked(&this.core)
            || matches!(flow, output::Flow::More)
            || this.timer.poll(cx, next).is_ready()
            || (resumed && this.heard(cx))
            || !this.hub.inbox.sleep(cx.waker());
        if busy {
            cx.waker().wake_by_ref();
        } else {
            this.core.flush();
        }
        Poll::Pending
    }
}

impl<P: Plane> Drop for Driver<P> {
    /// The runtime may drop the task at any time: nobody may wait for ever.
    fn drop(&mut self) {
        self.abandon();
        self.hub.close();
        self.feeding.port().close();
    }
}

impl<P: Plane> Driver<P> {
    fn timers(&mut self) {
        let now = self.started;
        if now >= self.wall_at {
            self.wall_at = now + WALL_EVERY;
            let wall = self.runtime.wall();
            self.core.handle(now, Input::Wall(wall));
        }
        if self.core.host.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.core.handle(now, Input::Timeout);
        }
    }

    /// After a yield: takes input that came meanwhile; true if there was any. A socket wakes once, and
    /// that wake may have become one with the yield's own: whoever slept now without asking again would
    /// sleep on input until some timer fires.
    fn heard(&mut self, cx: &mut Context<'_>) -> bool {
        let before = self.batches;
        self.started = self.runtime.now();
        self.more = self.receive(cx);
        self.batches != before
    }

    /// True if there may be more input than a turn takes.
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.started;
        let count = self.receivers.len();
        let mut budget = MAX_BATCHES;
        for i in 0..count {
            // Another socket goes first in the next turn.
            let index = (self.first_receiver + i) % count;
            loop {
                if budget == 0 {
                    self.first_receiver = (index + 1) % count;
                    return true;
                }
                let core = &mut self.core;
                match self.receivers[index].poll_recv(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(batch)) => batch.for_each(|from, local, ecn, data| {
                        let path =
                            Path { socket: index as u8, local, remote: net_proto::path::Remote::Udp(from) };
                        core.handle(now, Input::Datagram { path, ecn, data });
                    }),
                    Poll::Ready(Err(error)) => tracing::debug!(%error, "receive"),
                }
                budget -= 1;
                self.batches += 1;
            }
        }
        false
    }

    /// Hands out what the node says. True if a port was filled or an answer given.
    fn events(&mut self, now: Instant) -> bool {
        let mut woke = false;
        while let Some(event) = self.core.poll_event() {
            woke = true;
            self.event(now, event);
        }
        while let Some(event) = self.core.poll_plane_event() {
            woke = true;
            self.feeding.port().give(event);
        }
        while let Some(key) = self.filled.pop() {
            if let Some(stream) = self.stream(key) {
                stream.rx.wake();
            }
        }
        woke
    }

    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connected { peer, entity, dial, path, cipher } => {
                self.connected(peer, entity, dial, path, cipher);
            }
            Event::DialFailed { dial, error } => {
                if let Some(reply) = self.dials.remove(&dial) {
                    let _ = reply.try_send(Err(error));
                }
            }
            Event::Disconnected { peer, reason, lost, .. } => self.disconnected(peer, reason, lost),
            Event::StreamReady { id, peer, stream, limit, max_message } => {
                let Some(opening) = self.opens.remove(&id) else { return };
                let bounds = (limit, max_message);
                let Some(shared) = self.insert(peer, stream, opening.label, opening.mode, bounds) else {
                    let _ = opening.reply.try_send(Err(StreamError::Gone));
                    return;
                };
                // If the caller gave up, dropping the answer closes the stream.
                let _ = opening.reply.try_send(Ok(OpenedStream::new(shared, self.hub.inbox.clone())));
            }
            Event::StreamRefused { id, error } => {
                if let Some(opening) = self.opens.remove(&id) {
                    let _ = opening.reply.try_send(Err(error));
                } else if let Some(flushing) = self.flushes.remove(&id) {
                    // The stream was reset, or ended while the flush was on its way.
                    self.answer_flush(flushing, Err(SendError::Closed));
                }
            }
            Event::StreamOpened { peer, stream, label, mode, limit, max_message } => {
                let bounds = (limit, max_message);
                let Some(shared) = self.insert(peer, stream, label, mode, bounds) else { return };
                if let Err(shared) = self.hub.streams.push(shared) {
                    shared.tx.close(SendError::Closed);
                    shared.rx.stop();
                    self.core.command(now, Command::Reset { peer, stream, code: REFUSED });
                    self.core.command(now, Command::Stop { peer, stream, code: REFUSED });
                }
            }
            Event::Readable { peer, stream } => self.take(peer, stream),
            Event::Writable { peer, stream, limit } => {
                if let Some(stream) = self.named(peer, stream) {
                    stream.tx.raise(limit);
                }
            }
            Event::Flushed { id } => {
                if let Some(flushing) = self.flushes.remove(&id) {
                    self.answer_flush(flushing, Ok(()));
                }
            }
            Event::Finished { peer, stream } => {
                self.take(peer, stream);
                if let Some(stream) = self.named(peer, stream) {
                    tracing::debug!(target: "net", parent: &stream.span, "finished by the peer");
                    stream.rx.end(End::Finished);
                }
            }
            Event::ResetByPeer { peer, stream, code } => {
                self.take(peer, stream);
                if let Some(stream) = self.named(peer, stream) {
                    tracing::debug!(target: "net", parent: &stream.span, code, "reset by the peer");
                    stream.rx.end(End::Reset(code));
                }
            }
            Event::StoppedByPeer { peer, stream, code } => {
                if let Some(stream) = self.named(peer, stream) {
                    tracing::debug!(target: "net", parent: &stream.span, code, "stopped by the peer");
                    self.end_sending(&stream, SendError::Stopped(code));
                    self.fail_flushes(stream.key, SendError::Stopped(code));
                }
            }
            Event::StreamClosed { peer, stream, lost } => {
                self.take(peer, stream);
                let Some(shared) = self.named(peer, stream) else { return };
                tracing::debug!(target: "net", parent: &shared.span, lost = lost.messages, "closed");
                self.end_sending(&shared, SendError::Closed);
                shared.rx.end(End::Finished);
                if lost.messages == 0 {
                    self.pass_flushes(shared.key);
                } else {
                    self.fail_flushes(shared.key, SendError::Closed);
                }
                self.remove(&shared);
            }
            Event::PathChanged { peer, path } => {
                if let Some(shared) = self.peers.get(&peer) {
                    shared.set_path(path);
                    tracing::info!(target: "net", parent: self.core.span(peer), ?path, "path changed");
                    self.hub.tell(&Notice::PathChanged(shared.clone(), path));
                }
            }
            Event::Wanting { peer, stream } => {
                if let Some(stream) = self.named(peer, stream) {
                    self.plenty[stream.key as usize] = false;
                    if stream.tx.has_rung() {
                        // Before those that rang: it waited longer.
                        self.rung.push_front(stream.key);
                    }
                }
            }
            Event::Drained => {
                if let Some(closing) = &mut self.closing {
                    closing.done = true;
                }
            }
            other => tracing::warn!(?other, "an event that this driver does not know"),
        }
    }

    fn connected(&mut self, peer: Peer, entity: EntityId, dial: Option<u64>, path: Path, cipher: Cipher) {
        let shared = match self.peers.get(&peer) {
            Some(shared) => shared.clone(),
            None => {
                let shared = Arc::new(PeerShared::new(peer, entity, cipher, path));
                self.peers.insert(peer, shared.clone());
                self.hub.up(shared.clone());
                self.hub.tell(&Notice::Connected(shared.clone()));
                if dial.is_none() {
                    // Full: nobody accepts peers here; they stay in the list.
                    let _ = self.hub.incoming.push(shared.clone());
                }
                let span = self.core.span(peer);
                tracing::info!(target: "net", parent: span, peer = ?entity, ?path, cipher = cipher.name(), "connected");
                shared
            }
        };
        if let Some(reply) = dial.and_then(|id| self.dials.remove(&id)) {
            let _ = reply.try_send(Ok(shared));
        }
    }

    fn disconnected(&mut self, peer: Peer, reason: DownReason, lost: Lost) {
        let Some(shared) = self.peers.remove(&peer) else { return };
        // Before its streams end: who learns of the end from one of them finds the peer gone too.
        shared.set_down(reason);
        let mut lost = lost;
        let streams: Vec<_> =
            self.streams.iter().flatten().filter(|stream| stream.peer.peer == peer).cloned().collect();
        for stream in streams {
            self.take(peer, stream.id);
            self.end_sending(&stream, SendError::Disconnected(reason));
            add(&mut lost, self.dropped.remove(&stream.key).unwrap_or_default());
            stream.rx.end(End::Disconnected(reason));
            self.fail_flushes(stream.key, SendError::Disconnected(reason));
            self.remove(&stream);
        }
        // After its streams ended: who waited for the end finds them ended.
        shared.set_closed();
        self.hub.gone(peer);
        let span = self.core.spans.remove(&peer).unwrap_or_else(Span::none);
        tracing::info!(target: "net", parent: &span, peer = ?shared.entity, %reason, lost = lost.messages, "disconnected");
        self.hub.tell(&Notice::Disconnected(shared, reason, lost));
    }

    fn insert(
        &mut self,
        peer: Peer,
        id: StreamId,
        label: String,
        mode: Mode,
        (limit, max_message): (u64, u64),
    ) -> Option<Arc<StreamShared>> {
        let shared = self.peers.get(&peer)?.clone();
        let key = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.plenty.push(false);
            (self.streams.len() - 1) as u32
        });
        let inbox = &self.hub.inbox;
        let session = self.core.span(peer);
        let span = tracing::debug_span!(target: "net", parent: session, "stream", id = id.0, %label, ?mode);
        tracing::debug!(target: "net", parent: &span, "opened");
        let stream = Arc::new(StreamShared {
            peer: shared,
            id,
            label,
            mode,
            tx: SendPort::new(key, inbox.clone(), limit, max_message),
            rx: RecvPort::new(key, inbox.clone(), self.stream_window),
            key,
            span,
        });
        self.streams[key as usize] = Some(stream.clone());
        self.plenty[key as usize] = false;
        self.names.insert((peer, id), key);
        Some(stream)
    }

    fn remove(&mut self, stream: &StreamShared) {
        if self.names.remove(&(stream.peer.peer, stream.id)).is_some() {
            self.streams[stream.key as usize] = None;
            self.dropped.remove(&stream.key);
            self.free.push(stream.key);
        }
    }

    fn stream(&self, key: u32) -> Option<Arc<StreamShared>> {
        self.streams.get(key as usize)?.clone()
    }

    fn named(&self, peer: Peer, id: StreamId) -> Option<Arc<StreamShared>> {
        self.stream(*self.names.get(&(peer, id))?)
    }

    /// Moves what arrived into the port.
    fn take(&mut self, peer: Peer, id: StreamId) {
        let Some(stream) = self.named(peer, id) else { return };
        let mut spare = stream.rx.spare();
        let Some(taken) = self.core.take(peer, id, &mut spare) else { return stream.rx.keep(spare) };
        stream.rx.push(taken);
        if self.filled.last() != Some(&stream.key) {
            self.filled.push(stream.key);
        }
    }

    /// Sends, and collects further ports when the node has nothing left. Also whether there were events.
    fn transmit(&mut self, cx: &mut Context<'_>, now: Instant) -> (output::Flow, bool) {
        let until = now + MAX_TRANSMIT;
        let (mut now, mut told) = (now, false);
        loop {
            match self.output.transmit(&mut self.core, cx, now) {
                output::Flow::Idle if !self.collect_ports(now) => return (output::Flow::Idle, told),
                output::Flow::Idle | output::Flow::More => {}
                blocked @ output::Flow::Blocked(_) => return (blocked, told),
            }
            told |= self.events(now);
            now = self.runtime.now();
            if now >= until {
                return (output::Flow::More, told);
            }
        }
    }

    /// Collects what ports hold, then does what was asked. A flush comes after what it covers.
    fn collect(&mut self, now: Instant) {
        let mut ports = std::mem::take(&mut self.ports);
        self.hub.inbox.take_ports(&mut ports);
        let rung = self.feeding.rung(&mut ports);
        if rung != 0 {
            self.feeding.feed(&mut self.core, now, rung);
        }
        self.rung.extend(ports.drain(..));
        self.ports = ports;
        self.collect_ports(now);
        while let Some(call) = self.hub.inbox.take_control() {
            self.call(now, call);
        }
    }

    /// Collects ports that rang, for as many associations as send next. False: there was none.
    fn collect_ports(&mut self, now: Instant) -> bool {
        let mut any = false;
        while self.core.host.node().ready() < MAX_READY && self.collect_next(now) {
            any = true;
        }
        any
    }

    /// Collects the port that rang first. False: none did.
    fn collect_next(&mut self, now: Instant) -> bool {
        let Some(key) = self.rung.pop_front() else { return false };
        let Some(stream) = self.stream(key) else { return true };
        if self.plenty[key as usize] {
            stream.tx.pass_over();
        } else {
            self.collect_port(now, &stream);
        }
        let charge = stream.rx.consumed();
        if charge > 0 {
            let (peer, stream) = (stream.peer.peer, stream.id);
            self.core.command(now, Command::Consumed { peer, stream, charge });
        }
        true
    }

    fn collect_port(&mut self, now: Instant, stream: &StreamShared) {
        let spare = std::mem::take(&mut self.spare);
        let spare = if spare.capacity() > 0 { spare } else { self.core.host.spent().unwrap_or_default() };
        let got = stream.tx.collect(spare);
        if got.chunk.is_empty() {
            self.spare = got.chunk;
            return;
        }
        self.admitted += got.messages;
        if self.names.contains_key(&(stream.peer.peer, stream.id)) {
            let (peer, id) = (stream.peer.peer, stream.id);
            self.core.command(now, Command::Send { peer, stream: id, chunk: got.chunk });
            self.plenty[stream.key as usize] = self.core.host.node().has_plenty(peer, id);
        } else {
            self.drop_at_port(stream, Lost { messages: got.messages, bytes: got.bytes });
        }
    }

    /// No more goes out on this stream; what was not collected is lost, and returned.
    fn end_sending(&mut self, stream: &StreamShared, why: SendError) {
        stream.tx.close(why);
        let Collected { messages, bytes, .. } = stream.tx.collect(Vec::new());
        self.admitted += messages;
        self.drop_at_port(stream, Lost { messages, bytes });
    }

    /// Counts what never reached the node. While the stream lives, the end of its association tells it
    /// too, as it tells what the node itself dropped.
    fn drop_at_port(&mut self, stream: &StreamShared, lost: Lost) {
        add(&mut self.lost, lost);
        if lost.messages > 0 && self.names.contains_key(&(stream.peer.peer, stream.id)) {
            add(self.dropped.entry(stream.key).or_default(), lost);
        }
    }

    fn call(&mut self, now: Instant, call: Control) {
        match call {
            Control::Dial { id, entity, paths, reply } => {
                self.dials.insert(id, reply);
                self.core.command(now, Command::Dial { id, entity, paths });
            }
            Control::CancelDial(id) => {
                if self.dials.remove(&id).is_some() {
                    self.core.command(now, Command::CancelDial { id });
                }
            }
            Control::Open { peer, label, mode, priority, reply } => {
                let id = self.hub.number();
                self.opens.insert(id, Opening { label: label.clone(), mode, reply });
                self.core.command(now, Command::Open { id, peer, label, mode, priority });
            }
            Control::Flush { stream, finish, reply } => self.flush(now, &stream, finish, reply),
            Control::Reset(stream, code) => {
                self.end_sending(&stream, SendError::Closed);
                self.fail_flushes(stream.key, SendError::Closed);
                let (peer, stream) = (stream.peer.peer, stream.id);
                self.core.command(now, Command::Reset { peer, stream, code });
            }
            Control::Stop(stream, code) => {
                let (peer, stream) = (stream.peer.peer, stream.id);
                self.core.command(now, Command::Stop { peer, stream, code });
            }
            Control::Disconnect(peer, code) => {
                let streams: Vec<_> =
                    self.streams.iter().flatten().filter(|s| s.peer.peer == peer).cloned().collect();
                for stream in streams {
                    self.collect_port(now, &stream);
                }
                self.core.command(now, Command::Disconnect { peer, code });
            }
            Control::NetworkChanged => self.core.command(now, Command::NetworkChanged),
            Control::NodeStats(reply) => {
                let _ = reply.try_send(self.core.host.stats());
            }
            Control::PeerStats(peer, reply) => {
                let _ = reply.try_send(self.core.host.node().peer_stats(peer));
            }
            Control::PathStats(peer, reply) => {
                let _ = reply.try_send(self.core.host.node().path_stats(peer).collect());
            }
            Control::Streams(peer, reply) => {
                let streams = self.core.host.node().streams(peer);
                let label = |id| self.named(peer, id).map(|stream| stream.label.clone());
                let report = |(id, stats)| StreamReport { id, label: label(id), stats };
                let mut streams: Vec<_> = streams.map(report).collect();
                streams.sort_unstable_by_key(|stream| stream.id);
                let _ = reply.try_send(streams);
            }
            Control::StreamStats(peer, stream, reply) => {
                let _ = reply.try_send(self.core.host.node().stream_stats(peer, stream));
            }
            Control::Ceiling(reply) => {
                let _ = reply.try_send(self.ceiling());
            }
            Control::Job(ticket, done) => self.core.handle(now, Input::Job(ticket, done)),
            Control::Shutdown(limit, reply) => self.shutdown(now, limit, reply),
        }
    }

    fn flush(
        &mut self,
        now: Instant,
        stream: &Arc<StreamShared>,
        finish: bool,
        reply: Option<Reply<Result<(), SendError>>>,
    ) {
        let (peer, id) = (stream.peer.peer, stream.id);
        if finish {
            stream.tx.close(SendError::Closed);
        }
        self.collect_port(now, stream);
        if !self.names.contains_key(&(peer, id)) {
            let why = stream.peer.down().map_or(SendError::Closed, SendError::Disconnected);
            if let Some(reply) = reply {
                let _ = reply.try_send(Err(why));
            }
            return;
        }
        // First the end, so that the flush covers it: `Ok` means that the peer knows it.
        if finish {
            self.core.command(now, Command::Finish { peer, stream: id });
        }
        if let Some(reply) = reply {
            let number = self.hub.number();
            self.flushes.insert(number, Flushing { key: stream.key, reply: Some(reply) });
            self.core.command(now, Command::Flush { id: number, peer, stream: id });
        }
    }

    fn answer_flush(&mut self, flushing: Flushing, result: Result<(), SendError>) {
        match (flushing.reply, &mut self.closing) {
            (Some(reply), _) => {
                let _ = reply.try_send(result);
            }
            (None, Some(closing)) => closing.waiting = closing.waiting.saturating_sub(1),
            (None, None) => {}
        }
    }

    fn end_flushes(&mut self, key: u32, result: Result<(), SendError>) {
        // In order of their numbers, so that a run repeats.
        let mut ids: Vec<u64> =
            self.flushes.iter().filter(|(_, flushing)| flushing.key == key).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        for id in ids {
            if let Some(flushing) = self.flushes.remove(&id) {
                self.answer_flush(flushing, result);
            }
        }
    }

    fn fail_flushes(&mut self, key: u32, why: SendError) {
        self.end_flushes(key, Err(why));
    }

    fn pass_flushes(&mut self, key: u32) {
        self.end_flushes(key, Ok(()));
    }

    fn shutdown(&mut self, now: Instant, limit: Duration, reply: Option<Reply<Drained>>) {
        if let Some(closing) = &mut self.closing {
            closing.replies.extend(reply);
            closing.until = closing.until.min(now + limit);
            return;
        }
        self.closing = Some(Closing {
            until: now + limit,
            waiting: 0,
            goodbye: None,
            done: false,
            replies: reply.into_iter().collect(),
        });
        self.feeding.port().refuse();
        self.core.host.mark_lanes();
        let streams: Vec<_> = self.streams.iter().flatten().cloned().collect();
        for stream in streams {
            stream.tx.close(SendError::Disconnected(DownReason::Shutdown));
            self.collect_port(now, &stream);
            let id = self.hub.number();
            self.flushes.insert(id, Flushing { key: stream.key, reply: None });
            if let Some(closing) = &mut self.closing {
                closing.waiting += 1;
            }
            self.core.command(now, Command::Flush { id, peer: stream.peer.peer, stream: stream.id });
        }
    }

    /// Moves a shutdown on. True when it is over.
    fn closed(&mut self, now: Instant) -> bool {
        let Some(closing) = &mut self.closing else { return false };
        match closing.goodbye {
            None if closing.waiting == 0 && !self.core.host.lanes_pending() || now >= closing.until => {
                closing.goodbye = Some(now + GOODBYE);
                self.core.command(now, Command::Shutdown);
                // The goodbyes leave in the next turn.
                self.more = true;
                false
            }
            Some(latest) if closing.done || now >= latest => {
                // `Drained` comes with the last goodbye still to be sent.
                !self.more && !self.output.blocked() || now >= latest
            }
            _ => false,
        }
    }

    fn next_wake(&self, flow: &output::Flow) -> Option<Instant> {
        // Output that waits for the socket is not due.
        let node = self
            .core
            .host
            .poll_timeout()
            .filter(|(_, why)| !(matches!(flow, output::Flow::Blocked(_)) && *why == Reason::Output));
        let retry = match flow {
            output::Flow::Blocked(retry) => *retry,
            _ => None,
        };
        let closing = self.closing.as_ref().map(|c| c.goodbye.unwrap_or(c.until));
        [node.map(|(at, _)| at), retry, closing].into_iter().flatten().min()
    }

    /// Bytes that node and driver may come to hold for the streams and peers of now.
    ///
    /// What lies in a receiving port counts in the node's windows, which it was granted from. A
    /// sending port and the node hold at most the send buffer between them; a growing vector may hold
    /// twice that.
    fn ceiling(&self) -> u64 {
        let streams = self
            .streams
            .iter()
            .flatten()
            .map(|stream| (size_of::<StreamShared>() + stream.label.len()) as u64 + 2 * self.send_buffer);
        let peers = self.peers.len() * size_of::<PeerShared>();
        let receive = self.receivers.len() * MAX_SLOTS * SLOT;
        let ports = self.feeding.port().ceiling();
        self.core.host.ceiling() + streams.sum::<u64>() + (peers + receive + output::BATCH + ports) as u64
    }

    /// What became of every message that a port admitted or a plane committed, once all ports are closed
    /// and collected.
    fn ledger(&self) -> Drained {
        let node = self.core.host.node().ledger();
        let admitted = self.admitted + self.core.host.committed();
        let mut lost = self.lost;
        for part in [node.queued, node.reset, node.stopped, node.closed] {
            add(&mut lost, part.into());
        }
        let flushed = node.delivered.messages;
        if flushed + lost.messages != admitted {
            tracing::error!(admitted, flushed, lost = lost.messages, "the ledger does not balance");
        }
        Drained { flushed, lost }
    }

    /// Ends everything that somebody may wait for, and answers the shutdown.
    fn abandon(&mut self) {
        let mut peers: Vec<Peer> = self.peers.keys().copied().collect();
        peers.sort_unstable();
        for peer in peers {
            self.disconnected(peer, DownReason::Shutdown, Lost::default());
        }
        // Before the answer: its caller may start again on the same addresses and directory.
        self.receivers.clear();
        self.output.close();
        self.storage = None;
        self.core.recorder = None;
        self.core.qlog = None;
        let drained = self.ledger();
        for reply in self.closing.take().into_iter().flat_map(|closing| closing.replies) {
            let _ = reply.try_send(drained);
        }
    }
}

fn add(sum: &mut Lost, part: Lost) {
    sum.messages += part.messages;
    sum.bytes += part.bytes;
}
