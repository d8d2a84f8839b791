//! What Redis says, in the words of the bus.

use net_shell::bus::adapter::AdapterError;

use crate::resp::BadAnswer;

impl From<BadAnswer> for AdapterError {
    fn from(bad: BadAnswer) -> Self {
        Self::Protocol(bad.to_string())
    }
}

/// An error that the server answered. Its first word says which.
pub(crate) fn answered(text: &str) -> AdapterError {
    let said = text.to_owned();
    match text.split(' ').next().unwrap_or_default() {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => AdapterError::Denied(said),
        "ERR" if text.contains("AUTH") => AdapterError::Denied(said),
        // Out of memory; too few replicas; cannot save to its disk; a script holds it.
        "OOM" | "NOREPLICAS" | "MISCONF" | "BUSY" => AdapterError::Full(said),
        "WRONGTYPE" => AdapterError::Conflict(said),
        // Somebody wrote the last name that a stream can have: nothing fits behind it.
        "ERR" if text.contains("exhausted the last possible ID") => AdapterError::Conflict(said),
        "NOGROUP" => AdapterError::Gone(said),
        // Another server has to be asked, or this one a little later.
        "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK"
        | "UNBLOCKED" => AdapterError::Connection(said),
        _ => AdapterError::Protocol(said),
    }
}

#[test]
fn by_the_first_word() {
    assert!(matches!(answered("OOM command not allowed"), AdapterError::Full(_)));
    assert!(matches!(answered("MOVED 3999 127.0.0.1:6381"), AdapterError::Connection(_)));
    assert!(matches!(answered("ERR AUTH <password> called without any password"), AdapterError::Denied(_)));
    assert!(matches!(answered("ERR no such key"), AdapterError::Protocol(_)));
}
