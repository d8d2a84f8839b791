//! A stream of messages, in both directions.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use net_proto::identity::EntityId;
use net_proto::node::DownReason;
use net_proto::stream::{Mode, StreamStats};
use net_shell::hub::{Control, StreamShared, abandon, reply};
use net_shell::ports::{End, SendError};

use crate::mesh::Inner;
use crate::{Error, Result};

/// A stream of messages, in both directions. All methods take `&self`; clones share the stream.
///
/// When the last clone is dropped, the sending side is finished (what was admitted is still sent)
/// and the peer is told with code 0 that nobody reads. After [`Stream::finish`] the other direction
/// goes on.
#[derive(Clone)]
pub struct Stream {
    held: Arc<Held>,
}

struct Held {
    inner: Arc<Inner>,
    shared: Arc<StreamShared>,
}

impl Drop for Held {
    fn drop(&mut self) {
        abandon(&self.inner.hub.inbox, self.shared.clone());
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.shared.fmt(f)
    }
}

impl Stream {
    pub(crate) fn new(inner: Arc<Inner>, shared: Arc<StreamShared>) -> Self {
        Self { held: Arc::new(Held { inner, shared }) }
    }

    /// What the opener calls it.
    pub fn label(&self) -> &str {
        &self.held.shared.label
    }

    /// Who is at the other end, proven.
    pub fn peer(&self) -> EntityId {
        self.held.shared.peer.entity
    }

    /// What the stream promises.
    pub fn mode(&self) -> Mode {
        self.held.shared.mode
    }

    /// Queues a message; waits for credit, callers in order of arrival, and for the driver while
    /// applications are 64 MiB ahead of it over all streams.
    ///
    /// `Ok`: admitted. The driver sends it; in the reliable modes it arrives exactly once unless the
    /// stream is reset or the association ends, which every later call reports and
    /// [`Mesh::shutdown`](crate::Mesh::shutdown) counts. Dropping the future before it is ready
    /// queues nothing.
    pub async fn send(&self, message: &[u8]) -> Result<()> {
        self.send_batch(&[message]).await
    }

    /// Queues a message if there is credit now; otherwise [`Error::Backpressure`].
    pub fn try_send(&self, message: &[u8]) -> Result<()> {
        self.try_send_batch(&[message])
    }

    /// Queues all messages or none, next to each other. Otherwise as [`Stream::send`].
    pub async fn send_batch<M: AsRef<[u8]>>(&self, messages: &[M]) -> Result<()> {
        Ok(self.held.shared.tx.send(messages).await?)
    }

    /// Queues all messages or none, if there is credit now. Otherwise as [`Stream::try_send`].
    pub fn try_send_batch<M: AsRef<[u8]>>(&self, messages: &[M]) -> Result<()> {
        Ok(self.held.shared.tx.try_send(messages)?)
    }

    /// Waits until everything admitted so far is acknowledged.
    ///
    /// `Ok`: the peer's node has it all (fire-and-forget: it was sent). It does not say that the
    /// peer's application read it. Dropping the future does not stop the sending.
    pub async fn flush(&self) -> Result<()> {
        self.flush_and(false).await
    }

    /// Ends the sending side and waits as [`Stream::flush`] does. The peer reads to the end, then
    /// gets `None`. Once polled, dropping the future does not undo it.
    pub async fn finish(&self) -> Result<()> {
        self.flush_and(true).await
    }

    async fn flush_and(&self, finish: bool) -> Result<()> {
        let (answer, wait) = reply();
        let stream = self.held.shared.clone();
        self.held.inner.hub.inbox.control(Control::Flush { stream, finish, reply: Some(answer) });
        Ok(wait.recv().await.map_err(|_| Error::Shutdown)??)
    }

    /// Drops what is queued and tells the peer why. What it has not read may not come.
    pub fn reset(&self, code: u16) {
        self.held.shared.tx.close(SendError::Closed);
        self.held.inner.hub.inbox.control(Control::Reset(self.held.shared.clone(), code));
    }

    /// Reads no more: drops what came, and tells the peer to stop sending.
    pub fn stop(&self, code: u16) {
        self.held.shared.rx.stop();
        self.held.inner.hub.inbox.control(Control::Stop(self.held.shared.clone(), code));
    }

    /// Waits for a message; `None` at the end of the stream.
    ///
    /// The bytes are a copy of exactly the message's size, the caller's from then on. Reading gives
    /// the peer credit: who does not read slows its sender, nobody else. What arrived before an
    /// error is delivered before the error. Dropping the future loses no message.
    ///
    /// [`Error::Reset`]: the peer dropped the rest, with its code. [`Error::Disconnected`]: the association
    /// ended. [`Error::Shutdown`]: this mesh did. [`Error::Closed`]: this side stopped reading.
    pub async fn recv(&self) -> Result<Option<Bytes>> {
        Ok(self.held.shared.rx.recv().await?)
    }

    /// A message that is here already.
    pub fn try_recv(&self) -> Option<Bytes> {
        self.held.shared.rx.try_recv()
    }

    /// Waits for a message and lends it to `read`, without a copy; `None` at the end. Otherwise as
    /// [`Stream::recv`]. `read` must not read from this stream, which would wait for itself.
    pub async fn recv_with<R>(&self, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        Ok(self.held.shared.rx.recv_with(read).await?)
    }

    /// Waits for messages, lends up to `max` of those that are here to `read`, and returns how many;
    /// zero at the end. Otherwise as [`Stream::recv_with`].
    pub async fn recv_many(&self, max: usize, read: impl FnMut(&[u8])) -> Result<usize> {
        Ok(self.held.shared.rx.recv_many(max, read).await?)
    }

    /// Counters. Dropping the future has no effect.
    pub async fn stats(&self) -> Result<StreamStats> {
        let (answer, wait) = reply();
        let shared = &self.held.shared;
        self.held.inner.hub.inbox.control(Control::StreamStats(shared.peer.peer, shared.id, answer));
        let gone = || shared.peer.down().map_or(Error::Closed, Error::Disconnected);
        wait.recv().await.map_err(|_| Error::Shutdown)?.ok_or_else(gone)
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Backpressure => Self::Backpressure,
            SendError::TooLarge { len, limit } => Self::TooLarge { len, limit },
            SendError::Stopped(code) => Self::Stopped(code),
            SendError::Disconnected(DownReason::Shutdown) => Self::Shutdown,
            SendError::Disconnected(reason) => Self::Disconnected(reason),
            _ => Self::Closed,
        }
    }
}

impl From<End> for Error {
    fn from(end: End) -> Self {
        match end {
            End::Reset(code) => Self::Reset(code),
            End::Disconnected(DownReason::Shutdown) => Self::Shutdown,
            End::Disconnected(reason) => Self::Disconnected(reason),
            _ => Self::Closed,
        }
    }
}
