//! Frames of the session itself. Numbers and layouts: `docs/protocol/session.md`.

use crate::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer};

pub(super) const PADDING: u8 = 0x00;
pub(super) const PING: u8 = 0x01;
pub(super) const ACK: u8 = 0x02;
pub(super) const ACK_ECN: u8 = 0x03;
pub(super) const PATH_CHALLENGE: u8 = 0x04;
pub(super) const PATH_RESPONSE: u8 = 0x05;
pub(super) const PATH_CONFIRM: u8 = 0x0a;
pub(super) const MIGRATE: u8 = 0x06;
pub(super) const CLOSE: u8 = 0x07;
/// First type of the frames that carry a length.
pub(super) const EXTENSION: u64 = 0x40;

/// Why the sender closes the association.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The application's code.
    pub code: u16,
    /// Zero, or how the receiver broke the protocol.
    pub violation: u8,
}

impl Wire for Close {
    const NAME: &'static str = "close";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { code: r.u16("close code")?, violation: r.u8("violation")? })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.u16(self.code)?;
        w.u8(self.violation)
    }
}

/// A frame of a type that this version does not know: length-prefixed, even types may be ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Type, from 0x40 up.
    pub kind: u64,
    /// Its body, kept byte for byte.
    pub body: alloc::vec::Vec<u8>,
}

impl Extension {
    /// Reads past one extension frame; its type.
    pub(super) fn skip(r: &mut Reader<'_>) -> Result<u64, DecodeError> {
        let kind = r.varint("extension type")?;
        if kind < EXTENSION {
            return Err(DecodeError::Invalid("extension type"));
        }
        r.bytes(crate::codec::VARINT_MAX as usize, "extension length")?;
        Ok(kind)
    }
}

impl Wire for Extension {
    const NAME: &'static str = "extension";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut ahead = r.clone();
        let kind = Self::skip(&mut ahead)?;
        let _ = r.varint("extension type")?;
        let body = r.bytes(1 << 16, "extension length")?.to_vec();
        Ok(Self { kind, body })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.varint(self.kind)?;
        w.bytes(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decoders_are_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            crate::codec::check_canonical::<Close>(&bytes);
            crate::codec::check_canonical::<Extension>(&bytes);
        }
    }
}
