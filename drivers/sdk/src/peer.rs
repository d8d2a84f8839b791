//! A proven peer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use net_proto::identity::EntityId;
use net_proto::node::{DownReason, PathStats, PeerStats, StreamError};
use net_proto::path::Path;
use net_proto::session::aead::Cipher;
use net_proto::stream::Mode;
use net_shell::hub::{Control, PeerShared, Reply, StreamReport, reply};

use crate::mesh::Inner;
use crate::{Error, Result, Stream};

/// An association with a peer whose identity is proven.
///
/// Clones share it. Dropping the handle does not disconnect; a peer that comes back after it was
/// gone is a new association with a new handle.
#[derive(Clone)]
pub struct Peer {
    inner: Arc<Inner>,
    shared: Arc<PeerShared>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("id", &self.id()).field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Peer {
    pub(crate) const fn new(inner: Arc<Inner>, shared: Arc<PeerShared>) -> Self {
        Self { inner, shared }
    }

    /// Who it is, proven.
    pub fn id(&self) -> EntityId {
        self.shared.entity
    }

    /// Its address, if it is reached over UDP directly.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.path().udp_addr()
    }

    /// The path in use.
    pub fn path(&self) -> Path {
        self.shared.path()
    }

    /// The data cipher that was agreed.
    pub fn cipher(&self) -> Cipher {
        self.shared.cipher
    }

    /// Whether the association lives, as far as this side knows.
    pub fn is_connected(&self) -> bool {
        self.shared.down().is_none()
    }

    fn gone(&self) -> Error {
        self.shared.down().map_or(Error::Shutdown, Error::Disconnected)
    }

    /// Opens a stream. `options` is a mode, or [`StreamOptions`].
    ///
    /// `Ok`: the stream can be used here; the peer learns of it with the first message. Waits for
    /// one turn of the driver, not for the network. Dropping the future closes the stream again.
    pub async fn open_stream(&self, label: &str, options: impl Into<StreamOptions>) -> Result<Stream> {
        let StreamOptions { mode, priority } = options.into();
        if !self.is_connected() {
            return Err(self.gone());
        }
        let (answer, wait) = reply();
        let peer = self.shared.peer;
        let open = Control::Open { peer, label: label.into(), mode, priority, reply: answer };
        self.inner.hub.inbox.control(open);
        match wait.recv().await {
            Ok(Ok(opened)) => {
                let shared = opened.keep().ok_or(Error::Shutdown)?;
                Ok(Stream::new(self.inner.clone(), shared))
            }
            Ok(Err(StreamError::Gone)) if !self.is_connected() => Err(self.gone()),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::Shutdown),
        }
    }

    /// Waits for the next stream that this peer opened. Otherwise as
    /// [`Mesh::accept_stream`](crate::Mesh::accept_stream), which takes from the same queue.
    pub async fn accept_stream(&self) -> Result<Stream> {
        let mine = |stream: &Arc<net_shell::hub::StreamShared>| stream.peer.peer == self.shared.peer;
        let taken = self.inner.hub.streams.take(mine, || !self.is_connected()).await;
        Ok(Stream::new(self.inner.clone(), taken.ok_or_else(|| self.gone())?))
    }

    /// Counters and measurements. Dropping the future has no effect.
    pub async fn stats(&self) -> Result<PeerStats> {
        self.ask(Control::PeerStats).await?.ok_or_else(|| self.gone())
    }

    /// Measurements of every path to the peer, the one in use first: at most three. Dropping the future has
    /// no effect.
    pub async fn paths(&self) -> Result<Vec<PathStats>> {
        let paths = self.ask(Control::PathStats).await?;
        if paths.is_empty() { Err(self.gone()) } else { Ok(paths) }
    }

    /// Every stream of the association with its counters, in order of their ids; lanes of planes too.
    /// Dropping the future has no effect.
    pub async fn streams(&self) -> Result<Vec<StreamReport>> {
        self.ask(Control::Streams).await
    }

    async fn ask<T>(&self, call: impl FnOnce(net_proto::session::Peer, Reply<T>) -> Control) -> Result<T> {
        let (answer, wait) = reply();
        self.inner.hub.inbox.control(call(self.shared.peer, answer));
        wait.recv().await.map_err(|_| Error::Shutdown)
    }

    /// Waits until the association is gone, with all its streams, and says why. Dropping the future has no effect.
    pub async fn closed(&self) -> DownReason {
        self.shared.closed().await
    }

    /// Closes the association with an application code. What was not acknowledged may be lost:
    /// flush first what matters. Waits until it is gone; dropping the future does not stop it.
    pub async fn disconnect(&self, code: u16) -> DownReason {
        self.inner.hub.inbox.control(Control::Disconnect(self.shared.peer, code));
        self.closed().await
    }
}

/// How a stream is opened. A bare [`Mode`] converts.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    pub(crate) mode: Mode,
    pub(crate) priority: u8,
}

impl StreamOptions {
    /// A stream of this mode with the usual priority of 16.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, priority: 16 }
    }

    /// Share of the link against other streams of the same peer, 1 to 255.
    pub const fn priority(mut self, priority: u8) -> Self {
        self.priority = if priority == 0 { 1 } else { priority };
        self
    }
}

impl From<Mode> for StreamOptions {
    fn from(mode: Mode) -> Self {
        Self::new(mode)
    }
}
