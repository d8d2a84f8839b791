//! What the server and the client say, as errors of the bus.

use async_nats::jetstream::{self, ErrorCode};
use async_nats::{ConnectError, ConnectErrorKind};
use net_shell::bus::adapter::AdapterError;

/// Why a message was not stored, or a request not done.
pub fn refused(error: &jetstream::Error) -> AdapterError {
    let text = error.to_string();
    match error.error_code() {
        ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED
        | ErrorCode::MAXIMUM_STREAMS_LIMIT
        | ErrorCode::MAXIMUM_CONSUMERS_LIMIT
        | ErrorCode::STREAM_TOO_MANY_REQUESTS => AdapterError::Full(text),
        ErrorCode::STREAM_NOT_FOUND | ErrorCode::CONSUMER_NOT_FOUND => AdapterError::Gone(text),
        ErrorCode::STREAM_SUBJECT_OVERLAP
        | ErrorCode::STREAM_NAME_EXIST
        | ErrorCode::STREAM_SEALED
        | ErrorCode::STREAM_MISMATCH => AdapterError::Conflict(text),
        ErrorCode::JETSTREAM_NOT_ENABLED
        | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        | ErrorCode::NO_ACCOUNT => AdapterError::Denied(text),
        ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED
        | ErrorCode::STREAM_MAX_BYTES_REQUIRED
        | ErrorCode::STREAM_INVALID_CONFIG
        | ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM
        | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM => AdapterError::Config(text),
        ErrorCode::CLUSTER_NOT_AVAILABLE
        | ErrorCode::CLUSTER_NOT_LEADER
        | ErrorCode::CLUSTER_NOT_ACTIVE
        | ErrorCode::CLUSTER_INCOMPLETE
        | ErrorCode::CLUSTER_NO_PEERS
        | ErrorCode::STREAM_OFFLINE => AdapterError::Connection(text),
        _ => AdapterError::Protocol(text),
    }
}

/// Whether a publish came at a place that is not the one that it was meant for.
pub fn is_misplaced(error: &jetstream::Error) -> bool {
    matches!(
        error.error_code(),
        ErrorCode::STREAM_WRONG_LAST_MESSAGE_ID
            | ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT
    )
}

/// Why there is no connection.
pub fn unconnected(error: &ConnectError) -> AdapterError {
    let text = error.to_string();
    match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            AdapterError::Denied(text)
        }
        ConnectErrorKind::ServerParse => AdapterError::Config(text),
        ConnectErrorKind::Tls => AdapterError::Denied(text),
        ConnectErrorKind::TimedOut => AdapterError::Timeout(text),
        // The handshake of TLS fails as an input error.
        _ if is_tls(error) => AdapterError::Denied(format!("TLS: {text}")),
        _ => AdapterError::Connection(text),
    }
}

fn is_tls(error: &ConnectError) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<async_nats::rustls::Error>()
            || inner.is_some_and(|inner| inner.is::<async_nats::rustls::Error>())
        {
            return true;
        }
        cause = error.source();
    }
    false
}
