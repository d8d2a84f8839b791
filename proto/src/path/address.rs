//! Addresses: what names one way to a peer.

use core::net::{IpAddr, SocketAddr};
use serde::{Deserialize, Serialize};

/// One way to a peer. Stands in every transmit and session; nothing above the socket module
/// handles a bare socket address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Path {
    /// Which of the driver's sockets.
    pub socket: u8,
    /// The local address that the datagram arrived at or must leave from; `None` lets the system choose.
    pub local: Option<IpAddr>,
    /// The far end.
    pub remote: Remote,
}

impl Path {
    /// A UDP path on socket 0 with the local address left open.
    pub const fn udp(remote: SocketAddr) -> Self {
        Self { socket: 0, local: None, remote: Remote::Udp(remote) }
    }

    /// The UDP address, if it is a UDP path.
    pub const fn udp_addr(&self) -> Option<SocketAddr> {
        match self.remote {
            Remote::Udp(addr) => Some(addr),
            _ => None,
        }
    }
}

/// The far end of a [`Path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Remote {
    /// A UDP address.
    Udp(SocketAddr),
    /// End-to-end datagrams inside the session with a neighbour that relays them.
    Via {
        /// Slot of the hop session.
        session: u32,
        /// Short id of the destination.
        destination: [u8; 16],
    },
    /// A stream carrier (TCP, WebSocket) by number.
    Carrier(u32),
}

/// The two ECN bits of a datagram (RFC 3168 section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ecn {
    /// Not ECN-capable.
    #[default]
    NotEct,
    /// ECN-capable, ECT(1).
    Ect1,
    /// ECN-capable, ECT(0): what we send.
    Ect0,
    /// Congestion experienced.
    Ce,
}
