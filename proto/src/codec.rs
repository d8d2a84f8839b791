//! One canonical codec: strict readers, writers into the caller's buffer, variable-length integers.
//!
//! The rule that every decoder keeps: `decode(x) = Ok(v)` implies `encode(v) = x`. Integers are
//! little-endian where they have a fixed width; [`Reader::varint`] takes the QUIC form (RFC 9000
//! section 16) and refuses any encoding that is longer than it needs to be.

use alloc::vec::Vec;
use thiserror::Error;

/// The largest number that a variable-length integer holds: 2^62 - 1.
pub const VARINT_MAX: u64 = (1 << 62) - 1;

/// Why bytes are not a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The input ends inside a field.
    #[error("the input ends inside {0}")]
    Truncated(&'static str),
    /// Bytes are left over after the last field.
    #[error("{0} bytes are left over")]
    Trailing(usize),
    /// The same value has a shorter encoding.
    #[error("{0} is not in its canonical form")]
    NotCanonical(&'static str),
    /// A field holds a value that it may not.
    #[error("{0} holds a value that is not allowed")]
    Invalid(&'static str),
    /// A length or count is above its limit.
    #[error("{what} is {value}, at most {limit} is allowed")]
    TooLarge {
        /// The field.
        what: &'static str,
        /// What the input says.
        value: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A type that this version does not know and may not skip.
    #[error("unknown critical type {0:#x}")]
    UnknownCritical(u64),
}

/// The caller's buffer is too small for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the buffer is too small")]
pub struct BufferTooSmall;

/// A value with exactly one encoding.
pub trait Wire: Sized {
    /// Name of the format, for the registry of decoders and for fuzzing.
    const NAME: &'static str;
    /// Reads one value; bytes after it stay in `r`.
    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError>;
    /// Writes the value.
    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall>;

    /// Reads a value that fills `bytes` exactly.
    fn decode_exact(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let value = Self::decode(&mut r)?;
        r.end()?;
        Ok(value)
    }

    /// The encoding as a vector. For messages off the packet path; allocates.
    fn to_vec(&self) -> Vec<u8> {
        let mut size = 256;
        loop {
            let mut out = alloc::vec![0; size];
            let mut w = Writer::new(&mut out);
            if self.encode(&mut w).is_ok() {
                let used = w.used();
                out.truncate(used);
                return out;
            }
            size *= 2;
        }
    }
}

/// What a fuzzer calls for one registered decoder: panics if the canonical rule is broken.
pub fn check_canonical<T: Wire>(bytes: &[u8]) {
    let mut r = Reader::new(bytes);
    if let Ok(value) = T::decode(&mut r) {
        let used = bytes.len() - r.rest().len();
        assert_eq!(value.to_vec(), &bytes[..used], "{} is not canonical", T::NAME);
    }
}

/// A cursor over received bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether everything has been read.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Fails if anything is left.
    pub const fn end(&self) -> Result<(), DecodeError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.bytes.len())) }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.bytes.split_at_checked(n).ok_or(DecodeError::Truncated(what))?;
        self.bytes = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.bytes.split_first_chunk::<N>().ok_or(DecodeError::Truncated(what))?;
        self.bytes = tail;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(what)?[0])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A variable-length integer in its shortest form: one, two, four or eight bytes.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let first = *self.bytes.first().ok_or(DecodeError::Truncated(what))?;
        let len = 1usize << (first >> 6);
        let raw = self.take(len, what)?;
        let mut value = u64::from(first & 0x3f);
        for byte in &raw[1..] {
            value = value << 8 | u64::from(*byte);
        }
        if varint_len(value) != len {
            return Err(DecodeError::NotCanonical(what));
        }
        Ok(value)
    }

    /// A variable-length length of at most `limit`, then that many bytes.
    pub fn bytes(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let value = self.varint(what)?;
        if value > limit as u64 {
            return Err(DecodeError::TooLarge { what, value, limit: limit as u64 });
        }
        self.take(value as usize, what)
    }
}

/// Bytes that a variable-length integer takes. Values above [`VARINT_MAX`] count as eight.
pub const fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// A cursor over the caller's output buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    buf: &'a mut [u8],
    used: usize,
}

impl<'a> Writer<'a> {
    /// Writes from the start of `buf`.
    pub const fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, used: 0 }
    }

    /// Bytes written so far.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Bytes that still fit.
    pub const fn room(&self) -> usize {
        self.buf.len() - self.used
    }

    /// What has been written.
    pub fn written(&self) -> &[u8] {
        &self.buf[..self.used]
    }

    /// Forgets everything written after the first `used` bytes.
    pub fn rewind(&mut self, used: usize) {
        self.used = self.used.min(used);
    }

    /// Room for `n` bytes, to be filled by the caller.
    pub fn reserve(&mut self, n: usize) -> Result<&mut [u8], BufferTooSmall> {
        let end = self.used.checked_add(n).filter(|end| *end <= self.buf.len()).ok_or(BufferTooSmall)?;
        let room = &mut self.buf[self.used..end];
        self.used = end;
        Ok(room)
    }

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Result<(), BufferTooSmall> {
        self.reserve(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> Result<(), BufferTooSmall> {
        self.put(&[value])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, value: u16) -> Result<(), BufferTooSmall> {
        self.put(&value.to_le_bytes())
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, value: u32) -> Result<(), BufferTooSmall> {
        self.put(&value.to_le_bytes())
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, value: u64) -> Result<(), BufferTooSmall> {
        self.put(&value.to_le_bytes())
    }

    /// A variable-length integer in its shortest form. Values above [`VARINT_MAX`] are clamped to it;
    /// no counter of this protocol gets there.
    pub fn varint(&mut self, value: u64) -> Result<(), BufferTooSmall> {
        let (bytes, len) = varint_bytes(value);
        self.put(&bytes[..len])
    }

    /// A variable-length length, then the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), BufferTooSmall> {
        self.varint(bytes.len() as u64)?;
        self.put(bytes)
    }
}

/// A variable-length integer as bytes, and how many of them count.
pub const fn varint_bytes(value: u64) -> ([u8; 8], usize) {
    let value = if value > VARINT_MAX { VARINT_MAX } else { value };
    let len = varint_len(value);
    let tag = match len {
        1 => 0u64,
        2 => 1,
        4 => 2,
        _ => 3,
    };
    let bits = (len * 8) as u32;
    let word = (value | tag << (bits - 2)) << (64 - bits);
    (word.to_be_bytes(), len)
}

/// Serde for bytes in one piece, for records of inputs. The form is that of a list of bytes; only the
/// speed is another.
pub(crate) mod bulk {
    use alloc::vec::Vec;
    use core::fmt;
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(value: u64) -> Vec<u8> {
        let mut buf = [0; 8];
        let mut w = Writer::new(&mut buf);
        w.varint(value).unwrap();
        w.written().to_vec()
    }

    #[test]
    fn varints_at_every_boundary() {
        // The four examples of RFC 9000 appendix A.1.
        assert_eq!(put(37), [0x25]);
        assert_eq!(put(15_293), [0x7b, 0xbd]);
        assert_eq!(put(494_878_333), [0x9d, 0x7f, 0x3e, 0x7d]);
        assert_eq!(put(151_288_809_941_952_652), [0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]);
        for v in [0, 63, 64, 16_383, 16_384, (1 << 30) - 1, 1 << 30, VARINT_MAX] {
            let bytes = put(v);
            assert_eq!(bytes.len(), varint_len(v));
            assert_eq!(Reader::new(&bytes).varint("v"), Ok(v));
        }
    }

    #[test]
    fn a_longer_form_is_refused() {
        assert_eq!(Reader::new(&[0x40, 0x25]).varint("v"), Err(DecodeError::NotCanonical("v")));
        assert_eq!(Reader::new(&[0x40]).varint("v"), Err(DecodeError::Truncated("v")));
    }

    #[test]
    fn a_full_buffer_keeps_what_was_written() {
        let mut buf = [0; 3];
        let mut w = Writer::new(&mut buf);
        w.u16(0x0201).unwrap();
        assert_eq!(w.u16(9), Err(BufferTooSmall));
        assert_eq!(w.written(), [1, 2]);
    }

    proptest! {
        #[test]
        fn decoding_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..16)) {
            let mut r = Reader::new(&bytes);
            if let Ok(v) = r.varint("v") {
                let used = bytes.len() - r.rest().len();
                prop_assert_eq!(put(v), &bytes[..used]);
            }
        }
    }
}
