//! How a mesh is configured and started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use net_proto::identity::{EntityId, Identity, Invite, Mesh as MeshSecret, Ticket};
use net_shell::runtime::Runtime;

use crate::{Error, Mesh, Result};

/// Decides whether a proven identity may stay connected.
pub type AcceptPolicy = Arc<dyn Fn(EntityId) -> bool + Send + Sync>;

/// Configures a node of a mesh; [`MeshBuilder::start`] brings it up.
#[must_use]
#[derive(Default)]
pub struct MeshBuilder {}

#[allow(unused_variables, missing_docs)]
impl MeshBuilder {
    /// Address to bind, `host:port` or a [`SocketAddr`]; may be called for each family.
    pub fn bind(self, addr: impl IntoAddrs) -> Self {
        todo!()
    }
    pub fn identity(self, identity: Identity) -> Self {
        todo!()
    }
    pub fn seed(self, seed: [u8; 32]) -> Self {
        todo!()
    }
    pub fn dir(self, dir: impl Into<PathBuf>) -> Self {
        todo!()
    }
    pub fn join(self, invite: &Invite) -> Self {
        todo!()
    }
    pub fn mesh(self, mesh: MeshSecret) -> Self {
        todo!()
    }
    pub fn runtime(self, runtime: Arc<dyn Runtime>) -> Self {
        todo!()
    }
    pub fn advertise(self, addr: SocketAddr) -> Self {
        todo!()
    }
    pub fn send_buffer(self, bytes: u64) -> Self {
        todo!()
    }
    pub fn stream_window(self, bytes: u64) -> Self {
        todo!()
    }
    pub fn window(self, bytes: u64) -> Self {
        todo!()
    }
    pub fn ecn(self, on: bool) -> Self {
        todo!()
    }
    pub fn gso(self, on: bool) -> Self {
        todo!()
    }
    pub fn max_datagram(self, bytes: u16) -> Self {
        todo!()
    }
    pub fn accept(self, on: bool) -> Self {
        todo!()
    }
    pub fn accept_if(self, policy: impl Fn(EntityId) -> bool + Send + Sync + 'static) -> Self {
        todo!()
    }
    pub async fn start(self) -> Result<Mesh> {
        todo!()
    }
}

/// What [`MeshBuilder::bind`] takes.
pub trait IntoAddrs {
    /// The addresses, or why not.
    fn into_addrs(self) -> Result<Vec<SocketAddr>>;
}
impl IntoAddrs for SocketAddr {
    fn into_addrs(self) -> Result<Vec<SocketAddr>> {
        Ok(vec![self])
    }
}
impl IntoAddrs for &str {
    fn into_addrs(self) -> Result<Vec<SocketAddr>> {
        self.parse().map(|a| vec![a]).map_err(|_| Error::BadAddress(self.into()))
    }
}

/// What [`Mesh::connect`] takes: a ticket, an invite, or the text of a ticket.
pub trait IntoTicket {
    /// The ticket, or why not.
    fn into_ticket(self) -> Result<Ticket>;
}
impl IntoTicket for Ticket {
    fn into_ticket(self) -> Result<Ticket> {
        Ok(self)
    }
}
impl IntoTicket for &Ticket {
    fn into_ticket(self) -> Result<Ticket> {
        Ok(self.clone())
    }
}
impl IntoTicket for &Invite {
    fn into_ticket(self) -> Result<Ticket> {
        Ok(self.ticket.clone())
    }
}
impl IntoTicket for &str {
    fn into_ticket(self) -> Result<Ticket> {
        Ok(self.parse()?)
    }
}
