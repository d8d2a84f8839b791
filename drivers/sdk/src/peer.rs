//! A proven peer.

use std::net::SocketAddr;

use net_proto::identity::EntityId;
use net_proto::node::{DownReason, PeerStats};
use net_proto::path::Path;
use net_proto::session::aead::Cipher;
use net_proto::stream::Mode;

use crate::{Result, Stream};

/// An association with a peer whose identity is proven. Clones share it; dropping does not disconnect.
#[derive(Clone, Debug)]
pub struct Peer {}

#[allow(unused_variables, missing_docs)]
impl Peer {
    pub fn id(&self) -> EntityId {
        todo!()
    }
    pub fn addr(&self) -> Option<SocketAddr> {
        todo!()
    }
    pub fn path(&self) -> Path {
        todo!()
    }
    pub fn cipher(&self) -> Cipher {
        todo!()
    }
    pub fn is_connected(&self) -> bool {
        todo!()
    }
    pub async fn open_stream(&self, label: &str, options: impl Into<StreamOptions>) -> Result<Stream> {
        todo!()
    }
    pub async fn accept_stream(&self) -> Result<Stream> {
        todo!()
    }
    pub async fn stats(&self) -> Result<PeerStats> {
        todo!()
    }
    pub async fn closed(&self) -> DownReason {
        todo!()
    }
    pub async fn disconnect(&self, code: u16) -> Result<()> {
        todo!()
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
