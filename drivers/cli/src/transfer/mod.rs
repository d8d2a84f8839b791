//! Files and folders over one reliable stream. `docs/protocol/transfer.md` is the protocol.
//!
//! `wire` is what goes over the stream; `manifest` which names may; `scan` reads what is to be sent;
//! `part` keeps what arrived of an unfinished file; `receive` and `send` are the two ends, `serve`
//! and `deliver` put them on the network.

mod deliver;
mod manifest;
mod part;
mod receive;
mod scan;
mod send;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

pub use deliver::{read_invite, run as send};
pub use serve::run as recv;

/// The label of the stream.
pub const LABEL: &str = "net/transfer/1";
/// Bytes of a file in one message.
const BLOCK: usize = 256 << 10;

/// Application codes with which a stream is reset or stopped.
mod code {
    /// A message that the protocol does not allow.
    pub const MALFORMED: u16 = 1;
    /// Too many transfers at once.
    pub const BUSY: u16 = 2;
    /// The receiver's folder cannot be used.
    pub const STORAGE: u16 = 3;
    /// A label that this program does not know.
    pub const UNKNOWN: u16 = 4;
}
