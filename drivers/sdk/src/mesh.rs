//! A running node of a mesh.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use net_proto::identity::{EntityId, Invite, Mesh as MeshSecret, MeshId, Ticket};
use net_proto::node::{DownReason, Lost, NodeStats};
use net_proto::path::Path;
use net_shell::runtime::Runtime;

use crate::{IntoTicket, MeshBuilder, Peer, Result, Stream};

/// A running node of a mesh. Clones share it; dropping the last handle shuts it down.
#[derive(Clone)]
pub struct Mesh {}

#[allow(unused_variables, missing_docs)]
impl Mesh {
    pub fn builder() -> MeshBuilder {
        MeshBuilder::default()
    }
    pub fn id(&self) -> EntityId {
        todo!()
    }
    pub fn mesh_id(&self) -> MeshId {
        todo!()
    }
    pub fn secret(&self) -> MeshSecret {
        todo!()
    }
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        todo!()
    }
    pub fn ticket(&self) -> Ticket {
        todo!()
    }
    pub fn invite(&self) -> Invite {
        todo!()
    }
    pub async fn connect(&self, to: impl IntoTicket) -> Result<Peer> {
        todo!()
    }
    pub fn peers(&self) -> Vec<Peer> {
        todo!()
    }
    pub async fn accept_peer(&self) -> Result<Peer> {
        todo!()
    }
    pub async fn accept_stream(&self) -> Result<Stream> {
        todo!()
    }
    pub fn events(&self) -> Events {
        todo!()
    }
    pub fn rt(&self) -> Arc<dyn Runtime> {
        todo!()
    }
    pub async fn stats(&self) -> Result<NodeStats> {
        todo!()
    }
    pub async fn network_changed(&self) -> Result<()> {
        todo!()
    }
    pub async fn shutdown(&self) -> Drained {
        todo!()
    }
    pub async fn shutdown_within(&self, limit: Duration) -> Drained {
        todo!()
    }
}

/// Events of the mesh from the moment of the call on.
pub struct Events {}

impl Events {
    /// The next event; `None` after the shutdown.
    pub async fn next(&mut self) -> Option<MeshEvent> {
        todo!()
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
    /// Events were dropped because this reader is too slow.
    Missed(u64),
}

/// What a shutdown left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Streams whose queued messages were all acknowledged (fire-and-forget: sent).
    pub flushed: u64,
    /// Messages that peers may not have got.
    pub lost: Lost,
}
