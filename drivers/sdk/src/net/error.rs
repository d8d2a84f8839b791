//! What can go wrong on the event bus.

use net_proto::bus::mesh::Why;
use net_proto::bus::{BadText, FilterError, OutboxError, ProducerError};
use net_shell::bus::EmitError;
use net_shell::bus::adapter::AdapterError;

/// The result of a call on the event bus.
pub type Result<T, E = SdkError> = std::result::Result<T, E>;

/// Why a call on the event bus failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SdkError {
    /// No runtime was given and none was found running.
    #[error("no async runtime: build the bus inside one, or give one with `.runtime(..)`")]
    NoRuntime,
    /// A value of the configuration is out of its range.
    #[error("configuration: {what} is {value}, allowed is {limit}")]
    Limit {
        /// The option.
        what: &'static str,
        /// What was given.
        value: u64,
        /// What is allowed.
        limit: String,
    },
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(String),
    /// The event found no room; nothing was taken.
    #[error("no room now: readers or the engine are behind")]
    Backpressure,
    /// The event found no room and was dropped, as configured.
    #[error("dropped for want of room, as configured")]
    Dropped,
    /// The event was left out by sampling, as configured.
    #[error("left out by sampling, as configured")]
    Sampled,
    /// The shard does not exist or takes no events any more.
    #[error("shard {0} takes no events")]
    Unrouted(u16),
    /// The event is above the limit; nothing was taken.
    #[error("an event of {len} bytes is above the limit of {limit}")]
    TooLarge {
        /// Its length, in bytes.
        len: u64,
        /// The most that is possible, in bytes.
        limit: u64,
    },
    /// A value could not be written as JSON, or an event is not JSON of the wanted type.
    #[error("serialization: {0}")]
    Serialization(#[from] serde_json::Error),
    /// A cursor or an id is not valid.
    #[error(transparent)]
    BadText(#[from] BadText),
    /// A filter is not valid.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The identity file cannot be used.
    #[error("{path}: {why}")]
    Identity {
        /// The file.
        path: String,
        /// Why.
        why: ProducerError,
    },
    /// The engine said no.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// The outbox cannot be used, or failed; nothing is promised any more.
    #[error("outbox: {0}")]
    Outbox(#[from] OutboxError),
    /// The node was started without the plane of the event bus.
    #[error("this node keeps and uses no events: start it with `.event_bus()`")]
    NoMesh,
    /// Events cannot be kept under this name.
    #[error("cannot keep events: {0}")]
    Host(Why),
    /// Too many readers are attached to the bus.
    #[error("more than {0} readers on one bus")]
    TooManyReaders(usize),
    /// Not everything was safe in time; it is still kept and sent.
    #[error("not everything was confirmed in time{}", .why.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    Unconfirmed {
        /// What holds it up, if it is known.
        why: Option<AdapterError>,
    },
    /// The bus was shut down.
    #[error("the bus is shut down")]
    Shutdown,
}

impl SdkError {
    /// Whether the same call may succeed later without a change of arguments.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Backpressure | Self::Unconfirmed { .. } => true,
            Self::Adapter(error) => error.is_retryable(),
            _ => false,
        }
    }
}

impl From<EmitError> for SdkError {
    fn from(error: EmitError) -> Self {
        match error {
            EmitError::Dropped => Self::Dropped,
            EmitError::Sampled => Self::Sampled,
            EmitError::Unrouted(shard) => Self::Unrouted(shard),
            EmitError::TooLarge { len, limit } => Self::TooLarge { len, limit },
            EmitError::Shutdown => Self::Shutdown,
            _ => Self::Backpressure,
        }
    }
}
