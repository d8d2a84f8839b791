//! An encrypted mesh of nodes, for applications.
//!
//! ```no_run
//! # async fn run() -> net_sdk::Result<()> {
//! use net_sdk::{Mesh, Reliable};
//! let b = Mesh::builder().bind("127.0.0.1:0").start().await?; // founds a mesh with a fresh key
//! let a = Mesh::builder().join(&b.invite()).start().await?; // the same mesh; knows where b is
//! let peer = a.connect(b.ticket()).await?; // Ok: identity proven
//! let tx = peer.open_stream("logs", Reliable).await?;
//! tx.send(b"hello").await?; // waits for credit; Ok: admitted
//! tx.flush().await?; // Ok: acknowledged by b
//! let rx = b.accept_stream().await?;
//! println!("{:?} from {}", rx.recv().await?, rx.peer());
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

mod builder;
mod error;
mod mesh;
#[cfg(feature = "metrics")]
mod metrics;
pub mod net;
mod peer;
pub mod rt;
mod stream;

pub use builder::{AcceptPolicy, IntoAddrs, IntoTicket, MeshBuilder};
pub use bytes::Bytes;
pub use error::{Error, Result};
pub use mesh::{Drained, Events, Mesh, MeshEvent};
pub use net::{Net, SdkError};
/// NATS JetStream behind the bus.
#[cfg(feature = "nats")]
pub use net_nats as nats;
/// What admits to a mesh: its id and its key.
pub use net_proto::identity::Mesh as MeshSecret;
pub use net_proto::identity::{EntityId, Identity, IdentityError, Invite, MeshId, MeshKey, Ticket};
pub use net_proto::node::{DialError, DownReason, Lost, NodeStats, PathStats, PeerStats, StreamError};
pub use net_proto::path::{Path, Remote};
pub use net_proto::recovery::EcnState;
pub use net_proto::session::aead::Cipher;
pub use net_proto::stream::{MAX_MESSAGE, Mode, Mode::FireAndForget, Mode::Reliable, Mode::Unordered};
pub use net_proto::stream::{StreamStats, Tally};
/// Redis Streams behind the bus: configuration, consumer groups, deduplication for consumers.
#[cfg(feature = "redis")]
pub use net_redis as redis;
pub use net_shell::hub::{Planes, StreamReport};
pub use net_shell::ports::{CommandError, Feed, Stopped};
pub use net_shell::runtime::Runtime;
pub use net_shell::trace::PlaneStart;
#[cfg(feature = "smol")]
pub use net_smol::Smol;
#[cfg(feature = "tokio")]
pub use net_tokio::Tokio;
pub use peer::{Peer, StreamOptions};
pub use stream::Stream;

/// The programs of the pages compile, and those that say so run.
#[cfg(all(doctest, feature = "tokio"))]
mod pages {
    /// One of them is for smol. In the workspace both features are on.
    #[cfg(feature = "smol")]
    #[doc = include_str!("../../../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/BUS.md")]
    struct Bus;
    #[cfg(feature = "nats")]
    #[doc = include_str!("../../../docs/JETSTREAM.md")]
    struct JetStream;
    #[doc = include_str!("../../../docs/REDIS.md")]
    struct Redis;
    #[doc = include_str!("../../../docs/FEATURES.md")]
    struct Features;
    #[doc = include_str!("../../../docs/MIGRATION.md")]
    struct Migration;
    #[doc = include_str!("../../../docs/OBSERVABILITY.md")]
    struct Observability;
}
