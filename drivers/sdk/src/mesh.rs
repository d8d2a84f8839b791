//! A running node of a mesh.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use net_proto::bus::mesh::BusPlane;
use net_proto::identity::{EntityId, Invite, Mesh as MeshSecret, MeshId, Ticket};
use net_proto::node::{DownReason, Lost, NodeStats};
use net_proto::path::Path;
use net_proto::time::Duration;
use net_shell::hub::{Control, Hub, Notice, PeerShared, Planes, reply};
use net_shell::mailbox::Mailbox;
use net_shell::runtime::Runtime;

pub use net_shell::hub::Drained;

use crate::{Error, IntoTicket, MeshBuilder, Peer, Result, Stream};

/// How long [`Mesh::shutdown`] waits for acknowledgements.
const DRAIN: Duration = Duration::from_secs(10);

pub(crate) struct Inner {
    pub(crate) hub: Arc<Hub>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) bound: Vec<SocketAddr>,
    pub(crate) ticket: Ticket,
    pub(crate) secret: MeshSecret,
    /// Present if the node was started with the plane of the event bus.
    pub(crate) bus: Option<Arc<Planes<BusPlane>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.hub.inbox.control(Control::Shutdown(DRAIN, None));
    }
}

/// Tells the driver that nobody waits for a dial any more.
struct Dialling<'a> {
    hub: &'a Hub,
    id: u64,
    done: bool,
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.hub.inbox.control(Control::CancelDial(self.id));
        }
    }
}

impl Inner {
    pub(crate) async fn dial(&self, ticket: Ticket) -> Result<Arc<PeerShared>> {
        let paths = ticket.addrs.iter().filter_map(|addr| self.path_to(*addr)).collect::<Vec<_>>();
        let id = self.hub.number();
        let (answer, wait) = reply();
        self.hub.inbox.control(Control::Dial { id, entity: ticket.entity, paths, reply: answer });
        let mut dialling = Dialling { hub: &self.hub, id, done: false };
        let result = wait.recv().await;
        dialling.done = true;
        Ok(result.map_err(|_| Error::Shutdown)??)
    }

    /// A path from a socket of the right family.
    fn path_to(&self, to: SocketAddr) -> Option<Path> {
        let socket = self.bound.iter().position(|bound| bound.is_ipv4() == to.is_ipv4())?;
        Some(Path { socket: socket as u8, ..Path::udp(to) })
    }
}

/// A running node of a mesh.
///
/// Clones share it. When the last clone, [`Peer`] and [`Stream`] is dropped, the node drains in the
/// background as [`Mesh::shutdown`] does; call that to learn the outcome.
#[derive(Clone)]
pub struct Mesh {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh")
            .field("id", &self.id())
            .field("bound", &self.inner.bound)
            .finish_non_exhaustive()
    }
}

impl Mesh {
    /// Configures a node.
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }

    /// Who this node is.
    pub fn id(&self) -> EntityId {
        self.inner.ticket.entity
    }

    /// Which mesh it is in. Public.
    pub fn mesh_id(&self) -> MeshId {
        self.inner.secret.id
    }

    /// Id and key of the mesh. Secret: the key admits.
    pub fn secret(&self) -> MeshSecret {
        self.inner.secret.clone()
    }

    /// The bound addresses, with the ports that the system chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.inner.bound.clone()
    }

    /// Who and where this node is. Public: it admits nobody. It is a line of text too (`to_string`, `parse`).
    pub fn ticket(&self) -> Ticket {
        self.inner.ticket.clone()
    }

    /// What another node needs to join. Secret: it holds the mesh key. It is a line of text too
    /// (`to_string`, `parse`), which is how it comes to the other machine.
    pub fn invite(&self) -> Invite {
        Invite { ticket: self.ticket(), mesh: self.secret() }
    }

    /// Connects to a peer of the same mesh.
    ///
    /// `Ok`: an association is up and the peer proved the identity of the ticket; an association
    /// that lives already is given at once. Dropping the future gives up the dial, unless others
    /// wait for it.
    pub async fn connect(&self, to: impl IntoTicket) -> Result<Peer> {
        let shared = self.inner.dial(to.into_ticket()?).await?;
        Ok(Peer::new(self.inner.clone(), shared))
    }

    /// The peers that are connected now.
    pub fn peers(&self) -> Vec<Peer> {
        self.inner.hub.peers().into_iter().map(|shared| Peer::new(self.inner.clone(), shared)).collect()
    }

    /// Waits for the next peer that connected to this node.
    ///
    /// `Ok`: its identity is proven; it may be gone again. Up to 1,024 peers wait here, more are
    /// only in [`Mesh::peers`]. Dropping the future takes nobody. [`Error::Shutdown`] once the mesh ends.
    pub async fn accept_peer(&self) -> Result<Peer> {
        let shared = self.inner.hub.incoming.take(|_| true, || false).await.ok_or(Error::Shutdown)?;
        Ok(Peer::new(self.inner.clone(), shared))
    }

    /// Waits for the next stream that any peer opened.
    ///
    /// `Ok`: the stream exists; its messages may be here already. Up to 4,096 streams wait here,
    /// more are reset with code 65535. Dropping the future takes nothing. [`Error::Shutdown`] once the
    /// mesh ends: the end of a server's loop.
    pub async fn accept_stream(&self) -> Result<Stream> {
        let shared = self.inner.hub.streams.take(|_| true, || false).await.ok_or(Error::Shutdown)?;
        Ok(Stream::new(self.inner.clone(), shared))
    }

    /// What happens from now on. Up to 1,024 events wait for a slow reader; it learns how many more
    /// it missed.
    pub fn events(&self) -> Events {
        Events { inner: Arc::downgrade(&self.inner), mailbox: self.inner.hub.notices() }
    }

    /// The runtime: clock, timers, tasks, entropy.
    pub fn rt(&self) -> Arc<dyn Runtime> {
        self.inner.runtime.clone()
    }

    /// Counters of the node. Dropping the future has no effect.
    pub async fn stats(&self) -> Result<NodeStats> {
        self.ask(Control::NodeStats).await
    }

    /// The most bytes that the node's state may come to take.
    pub async fn ceiling(&self) -> Result<u64> {
        self.ask(Control::Ceiling).await
    }

    async fn ask<T>(&self, call: impl FnOnce(net_shell::hub::Reply<T>) -> Control) -> Result<T> {
        let (answer, wait) = reply();
        self.inner.hub.inbox.control(call(answer));
        wait.recv().await.map_err(|_| Error::Shutdown)
    }

    /// Says that the network under the sockets changed: paths are checked at once.
    pub fn network_changed(&self) {
        self.inner.hub.inbox.control(Control::NetworkChanged);
    }

    /// Drains for at most 10 s, then ends. See [`Mesh::shutdown_within`].
    pub async fn shutdown(&self) -> Drained {
        self.shutdown_within(DRAIN).await
    }

    /// Sends what was admitted, waits at most `limit` for the acknowledgements, says goodbye to all
    /// peers and ends. From the call on, nothing is admitted; afterwards sockets and directory are
    /// free.
    ///
    /// The ledger balances: messages admitted over the life of the mesh = `flushed` + `lost`.
    /// Dropping the future does not stop the shutdown. A second call after the end returns zeros.
    pub async fn shutdown_within(&self, limit: Duration) -> Drained {
        let (answer, wait) = reply();
        self.inner.hub.inbox.control(Control::Shutdown(limit, Some(answer)));
        wait.recv().await.unwrap_or_default()
    }
}

/// Events of a mesh, from [`Mesh::events`].
pub struct Events {
    /// Weak: a reader of events does not keep the mesh alive.
    inner: std::sync::Weak<Inner>,
    mailbox: Arc<Mailbox<Notice>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Waits for the next event; `None` after the end of the mesh. Dropping the future takes
    /// nothing.
    pub async fn next(&mut self) -> Option<MeshEvent> {
        let missed = self.mailbox.missed();
        if missed > 0 {
            return Some(MeshEvent::Missed(missed));
        }
        let notice = self.mailbox.take(|_| true, || false).await?;
        Some(match notice {
            Notice::Connected(shared) => MeshEvent::Connected(Peer::new(self.inner.upgrade()?, shared)),
            Notice::Disconnected(shared, reason, lost) => {
                MeshEvent::Disconnected { peer: shared.entity, reason, lost }
            }
            Notice::PathChanged(shared, path) => MeshEvent::PathChanged { peer: shared.entity, path },
        })
    }
}

/// What happens in a mesh.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum MeshEvent {
    /// A peer is connected.
    Connected(Peer),
    /// A peer is gone.
    Disconnected {
        /// Who.
        peer: EntityId,
        /// Why.
        reason: DownReason,
        /// What of ours it may not have got.
        lost: Lost,
    },
    /// A peer is reached over another path.
    PathChanged {
        /// Who.
        peer: EntityId,
        /// The path in use.
        path: Path,
    },
    /// So many events were dropped because this reader is too slow.
    Missed(u64),
}

impl From<net_shell::storage::state::StateError> for Error {
    fn from(error: net_shell::storage::state::StateError) -> Self {
        Self::State(error.to_string())
    }
}
