//! What handles share with the driver: its inbox, and queues of what happened.

use std::fmt;

use async_channel::{Receiver, Sender};
use net_proto::identity::EntityId;
use net_proto::node::{DialError, DownReason, JobDone, Lost, NodeStats, PathStats, PeerStats, StreamError};
use net_proto::path::Path;
use net_proto::session::Peer;
use net_proto::session::aead::Cipher;
use net_proto::storage::Ticket;
use net_proto::stream::{Mode, StreamId, StreamStats};
use net_proto::time::Duration;

use crate::bell::{Inbox, lock};
use crate::mailbox::Mailbox;
use crate::ports::{PlanePort, RecvPort, SendError, SendPort};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Weak};

/// Most streams that wait to be accepted; one more is refused.
pub const MAX_UNACCEPTED_STREAMS: usize = 4096;
/// Most incoming peers that wait to be accepted; one more is only listed.
pub const MAX_UNACCEPTED_PEERS: usize = 1024;
/// Most notices that wait for one reader; one more is counted as missed.
pub const MAX_NOTICES: usize = 1024;
/// The code that a peer sees when a stream was refused because too many wait to be accepted.
pub const REFUSED: u16 = 0xffff;

/// The ports of a driver's planes.
pub type Planes<P> = PlanePort<P, Control>;

/// Where one answer goes.
pub type Reply<T> = Sender<T>;

/// A place for one answer, and the end to wait at. The wait fails when the driver is gone.
pub fn reply<T>() -> (Reply<T>, Receiver<T>) {
    async_channel::bounded(1)
}

/// A stream that was opened for a caller. If the caller gave up, it is closed again, wherever the
/// answer was dropped.
#[derive(Debug)]
pub struct OpenedStream {
    stream: Option<Arc<StreamShared>>,
    inbox: Arc<Inbox<Control>>,
}

impl OpenedStream {
    pub(crate) const fn new(stream: Arc<StreamShared>, inbox: Arc<Inbox<Control>>) -> Self {
        Self { stream: Some(stream), inbox }
    }

    /// The caller has it now, and closes it.
    pub fn keep(mut self) -> Option<Arc<StreamShared>> {
        self.stream.take()
    }
}

impl Drop for OpenedStream {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            abandon(&self.inbox, stream);
        }
    }
}

/// Nobody uses the stream any more: what was admitted is still sent, what comes is not read.
pub fn abandon(inbox: &Inbox<Control>, stream: Arc<StreamShared>) {
    inbox.control(Control::Flush { stream: stream.clone(), finish: true, reply: None });
    stream.rx.stop();
    inbox.control(Control::Stop(stream, 0));
}

/// A call to the driver.
#[derive(Debug)]
pub enum Control {
    /// Dial a peer.
    Dial {
        /// From [`Hub::number`]; names the dial.
        id: u64,
        /// Whom.
        entity: EntityId,
        /// Where, best first.
        paths: Vec<Path>,
        /// The answer.
        reply: Reply<Result<Arc<PeerShared>, DialError>>,
    },
    /// Nobody waits for the dial any more.
    CancelDial(u64),
    /// Open a stream.
    Open {
        /// To whom.
        peer: Peer,
        /// Its label.
        label: String,
        /// Its promise.
        mode: Mode,
        /// Its share.
        priority: u8,
        /// The answer.
        reply: Reply<Result<OpenedStream, StreamError>>,
    },
    /// Answer when everything admitted so far is acknowledged; and finish the stream, if asked.
    Flush {
        /// Which stream.
        stream: Arc<StreamShared>,
        /// No more messages will come.
        finish: bool,
        /// The answer, if somebody waits.
        reply: Option<Reply<Result<(), SendError>>>,
    },
    /// Drop what is queued.
    Reset(Arc<StreamShared>, u16),
    /// Read no more.
    Stop(Arc<StreamShared>, u16),
    /// Close an association.
    Disconnect(Peer, u16),
    /// The network changed.
    NetworkChanged,
    /// Counters of the node.
    NodeStats(Reply<NodeStats>),
    /// Counters of an association.
    PeerStats(Peer, Reply<Option<PeerStats>>),
    /// Measurements of every path of an association.
    PathStats(Peer, Reply<Vec<PathStats>>),
    /// Every stream of an association.
    Streams(Peer, Reply<Vec<StreamReport>>),
    /// Counters of a stream.
    StreamStats(Peer, StreamId, Reply<Option<StreamStats>>),
    /// Bytes that the node may come to hold.
    Ceiling(Reply<u64>),
    /// A job came back from the pool.
    Job(Ticket, JobDone),
    /// Drain for at most this long, then end.
    Shutdown(Duration, Option<Reply<Drained>>),
}

/// One stream of an association, in a list of all.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamReport {
    /// Its name there.
    pub id: StreamId,
    /// What the opener calls it; none for a lane of a plane.
    pub label: Option<String>,
    /// Its counters.
    pub stats: StreamStats,
}

/// What a shutdown left behind. Over the life of the mesh, `admitted = flushed + lost.messages`, where
/// messages are those of streams and those that planes committed to lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Messages that were acknowledged by their peers (fire-and-forget: sent).
    pub flushed: u64,
    /// Messages that peers may not have got.
    pub lost: Lost,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A peer is connected.
    Connected(Arc<PeerShared>),
    /// A peer is gone.
    Disconnected(Arc<PeerShared>, DownReason, Lost),
    /// A peer is reached over another path.
    PathChanged(Arc<PeerShared>, Path),
}

/// An association, as handles see it.
#[derive(Debug)]
pub struct PeerShared {
    /// Its handle.
    pub peer: Peer,
    /// Its proven identity.
    pub entity: EntityId,
    /// The data cipher.
    pub cipher: Cipher,
    path: Mutex<Path>,
    down: Mutex<Option<DownReason>>,
    /// Only closed, never filled: whoever waits for the end waits here.
    gone: Mailbox<()>,
}

impl PeerShared {
    pub(crate) fn new(peer: Peer, entity: EntityId, cipher: Cipher, path: Path) -> Self {
        Self { peer, entity, cipher, path: Mutex::new(path), down: Mutex::new(None), gone: Mailbox::new(1) }
    }

    /// The path in use.
    pub fn path(&self) -> Path {
        *lock(&self.path)
    }

    /// Why it is gone, if it is.
    pub fn down(&self) -> Option<DownReason> {
        *lock(&self.down)
    }

    /// Waits until it is gone, and its streams with it.
    pub async fn closed(&self) -> DownReason {
        self.gone.take(|()| true, || false).await;
        self.down().unwrap_or(DownReason::Shutdown)
    }

    pub(crate) fn set_path(&self, path: Path) {
        *lock(&self.path) = path;
    }

    pub(crate) fn set_down(&self, reason: DownReason) {
        lock(&self.down).get_or_insert(reason);
    }

    /// Its streams have ended too.
    pub(crate) fn set_closed(&self) {
        self.gone.close();
    }
}

/// A stream, as handles see it.
pub struct StreamShared {
    /// Its association.
    pub peer: Arc<PeerShared>,
    /// Its name there.
    pub id: StreamId,
    /// What the opener calls it.
    pub label: String,
    /// What it promises.
    pub mode: Mode,
    /// Messages to the peer.
    pub tx: SendPort<Control>,
    /// Messages from the peer.
    pub rx: RecvPort<Control>,
    pub(crate) key: u32,
    /// Where what happens to it is logged.
    pub(crate) span: tracing::Span,
}

impl fmt::Debug for StreamShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("label", &self.label)
            .field("peer", &self.peer.entity)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// What handles share with the driver.
#[derive(Debug)]
pub struct Hub {
    /// Calls to the driver.
    pub inbox: Arc<Inbox<Control>>,
    /// Streams that peers opened.
    pub streams: Mailbox<Arc<StreamShared>>,
    /// Peers that connected to us.
    pub incoming: Mailbox<Arc<PeerShared>>,
    numbers: AtomicU64,
    peers: Mutex<Vec<Arc<PeerShared>>>,
    /// `None` once the driver is gone.
    readers: Mutex<Option<Vec<Weak<Mailbox<Notice>>>>>,
}

impl Hub {
    pub(crate) fn new(inbox: Arc<Inbox<Control>>) -> Self {
        Self {
            inbox,
            streams: Mailbox::new(MAX_UNACCEPTED_STREAMS),
            incoming: Mailbox::new(MAX_UNACCEPTED_PEERS),
            numbers: AtomicU64::new(1),
            peers: Mutex::default(),
            readers: Mutex::new(Some(Vec::new())),
        }
    }

    /// A number not used before in this mesh.
    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// The associations that live now.
    pub fn peers(&self) -> Vec<Arc<PeerShared>> {
        lock(&self.peers).clone()
    }

    /// A queue of what happens from now on; closed if nothing will.
    pub fn notices(&self) -> Arc<Mailbox<Notice>> {
        let mailbox = Arc::new(Mailbox::new(MAX_NOTICES));
        match &mut *lock(&self.readers) {
            Some(readers) => {
                readers.retain(|reader| reader.strong_count() > 0);
                readers.push(Arc::downgrade(&mailbox));
            }
            None => mailbox.close(),
        }
        mailbox
    }

    pub(crate) fn tell(&self, notice: &Notice) {
        let readers: Vec<_> = lock(&self.readers).iter().flatten().filter_map(Weak::upgrade).collect();
        for reader in readers {
            // A full queue counts what it missed.
            let _ = reader.push(notice.clone());
        }
    }

    pub(crate) fn up(&self, peer: Arc<PeerShared>) {
        lock(&self.peers).push(peer);
    }

    pub(crate) fn gone(&self, peer: Peer) {
        lock(&self.peers).retain(|held| held.peer != peer);
        // Whoever waits for a stream of this peer learns that none will come.
        self.streams.nudge();
    }

    pub(crate) fn close(&self) {
        self.inbox.close();
        lock(&self.peers).clear();
        self.streams.close();
        self.incoming.close();
        // None is added from here on that would not be closed.
        let readers = lock(&self.readers).take().unwrap_or_default();
        readers.iter().filter_map(Weak::upgrade).for_each(|reader| reader.close());
    }
}
