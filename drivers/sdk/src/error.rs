//! What can go wrong, and whether trying again can help.

use std::io;
use std::net::SocketAddr;

use net_proto::identity::IdentityError;
use net_proto::node::{DialError, DownReason, StreamError};

/// The SDK's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call of the SDK failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No runtime was given and none was found running.
    #[error("no async runtime: start the mesh inside one, or give one with `.runtime(..)`")]
    NoRuntime,
    /// An address could not be understood.
    #[error("`{0}` is not an address (host:port)")]
    BadAddress(String),
    /// A socket could not be bound.
    #[error("cannot bind {addr}: {source}")]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The state directory could not be used.
    #[error("state directory: {0}")]
    State(String),
    /// A file that was asked for to watch the node could not be made: it exists, or may not be written.
    #[error("cannot create {}: {source}", path.display())]
    Observe {
        /// The file.
        path: std::path::PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A ticket, invite or id is not valid.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(String),
    /// No association came up.
    #[error("cannot connect: {0}")]
    Dial(#[from] DialError),
    /// The association is gone; what was not acknowledged may or may not have arrived.
    #[error("disconnected: {0}")]
    Disconnected(DownReason),
    /// The stream could not be opened.
    #[error("cannot open the stream: {0}")]
    Stream(#[from] StreamError),
    /// The peer dropped what it had not sent yet.
    #[error("the peer reset the stream with code {0}")]
    Reset(u16),
    /// The peer reads no more.
    #[error("the peer stopped reading with code {0}")]
    Stopped(u16),
    /// This side finished, reset or stopped the stream itself.
    #[error("this side of the stream is closed")]
    Closed,
    /// A message is above the limit; nothing was sent.
    #[error("{len} bytes are above the limit of {limit}")]
    TooLarge {
        /// Length of the message, or charge of the batch, in bytes.
        len: u64,
        /// The most that is possible, in bytes.
        limit: u64,
    },
    /// No credit now; nothing was sent.
    #[error("no credit now")]
    Backpressure,
    /// The mesh was shut down.
    #[error("the mesh is shut down")]
    Shutdown,
}

impl From<net_shell::ports::Stopped> for Error {
    fn from(_: net_shell::ports::Stopped) -> Self {
        Self::Shutdown
    }
}

impl Error {
    /// Whether the same call may succeed later without a change of arguments.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Dial(e) => matches!(e, DialError::TimedOut(_) | DialError::TooMany(_)),
            Self::Disconnected(r) => {
                matches!(r, DownReason::Unreachable | DownReason::Restarted)
            }
            Self::Stream(e) => matches!(e, StreamError::TooMany(_)),
            Self::Backpressure => true,
            _ => false,
        }
    }
}
