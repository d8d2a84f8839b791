//! Layouts of the four handshake datagrams and of the two encrypted payloads.

use alloc::vec::Vec;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

use crate::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer};
use crate::identity::{EntityId, Incarnation, read_addr, write_addr};
use crate::session::aead::{Cipher, TAG};

use super::keys::MAC;

/// First byte of message 1.
pub const MESSAGE1: u8 = 1;
/// First byte of message 2.
pub const MESSAGE2: u8 = 2;
/// First byte of a cookie reply.
pub const COOKIE_REPLY: u8 = 3;
/// First byte of a versions reply.
pub const VERSIONS_REPLY: u8 = 4;

/// Clear header of message 1: type, wire major, sender index.
pub const HEADER1: usize = 6;
/// Clear header of message 2: type, wire major, sender index, receiver index.
pub const HEADER2: usize = 10;
/// The two MACs at the end of messages 1 and 2.
pub const MACS: usize = 2 * MAC;
/// What Noise adds to payload 1: ephemeral key, encrypted static key, tag.
pub const NOISE1: usize = 32 + 32 + TAG + TAG;
/// What Noise adds to payload 2: ephemeral key, tag.
pub const NOISE2: usize = 32 + TAG;
/// Message 1 is at least this long and message 2 at most: no answer is longer than the question.
pub const FLOOR: usize = 512;
/// No handshake message is longer.
pub const CEILING: usize = 1120;
/// Cookie reply: type, wire major, receiver index, nonce, sealed cookie.
pub const COOKIE_LEN: usize = 6 + 24 + 16 + TAG;
/// Versions reply: type, wire major, lowest, highest, the question's mac1, MAC.
pub const VERSIONS_LEN: usize = 4 + MAC + MAC;

/// Most bytes of the stream module's limits.
pub const MAX_LIMITS: usize = 64;
/// Most bytes of a grant.
pub const MAX_GRANT: usize = 512;

const MAX_PAYLOAD1: usize = CEILING - HEADER1 - NOISE1 - MACS;
const MAX_PAYLOAD2: usize = FLOOR - HEADER2 - NOISE2 - MACS;

/// Ignorable: zeros that bring message 1 to [`FLOOR`].
const TLV_PADDING: u64 = 0;

/// Payload 1, encrypted to the responder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who asks; to be checked against the Noise static key.
    pub entity: EntityId,
    /// Lowest and highest wire major.
    pub versions: (u8, u8),
    /// Feature bits; unknown ones mean nothing.
    pub features: u64,
    /// Bits of data ciphers.
    pub ciphers: u8,
    /// The initiator's life.
    pub incarnation: Incarnation,
    /// Rises with every handshake of one incarnation.
    pub number: u64,
    /// The association to resume.
    pub resume: Option<u64>,
    /// The stream module's limits.
    pub limits: Vec<u8>,
    /// Proof of membership, where the mesh has a root.
    pub grant: Vec<u8>,
    /// Extensions as received, byte for byte: checked to be well-formed and ignorable.
    pub tlvs: Vec<u8>,
}

impl Hello {
    /// Appends padding so that message 1 has at least 512 bytes.
    pub fn pad(&mut self) {
        let len = self.to_vec().len();
        let missing = (FLOOR - HEADER1 - NOISE1 - MACS).saturating_sub(len);
        if missing > 0 {
            // Type and a one-byte length, or type and a two-byte length; may overshoot by two.
            let short = missing.saturating_sub(2);
            let zeros = if short <= 63 { short } else { (missing - 3).max(64) };
            let (length, used) = crate::codec::varint_bytes(zeros as u64);
            self.tlvs.push(TLV_PADDING as u8);
            self.tlvs.extend_from_slice(&length[..used]);
            self.tlvs.resize(self.tlvs.len() + zeros, 0);
        }
    }
}

impl Wire for Hello {
    const NAME: &'static str = "hello";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            entity: EntityId(r.array("entity id")?),
            versions: read_versions(r)?,
            features: r.u64("features")?,
            ciphers: read_ciphers(r)?,
            incarnation: read_incarnation(r)?,
            number: r.u64("handshake number")?,
            resume: match r.u8("resume")? {
                0 => None,
                1 => Some(r.u64("association")?),
                _ => return Err(DecodeError::Invalid("resume")),
            },
            limits: r.bytes(MAX_LIMITS, "limits")?.to_vec(),
            grant: r.bytes(MAX_GRANT, "grant")?.to_vec(),
            tlvs: read_tlvs(r, MAX_PAYLOAD1)?,
        })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.put(&self.entity.0)?;
        w.put(&[self.versions.0, self.versions.1])?;
        w.u64(self.features)?;
        w.u8(self.ciphers)?;
        write_incarnation(w, &self.incarnation)?;
        w.u64(self.number)?;
        match self.resume {
            None => w.u8(0)?,
            Some(association) => {
                w.u8(1)?;
                w.u64(association)?;
            }
        }
        w.bytes(&self.limits)?;
        w.bytes(&self.grant)?;
        w.put(&self.tlvs)
    }
}

/// What the responder says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It takes part.
    Accepted {
        /// The association that the keys are for.
        association: u64,
        /// Whether it is the one that was asked for.
        resumed: bool,
        /// The stream module's limits.
        limits: Vec<u8>,
    },
    /// It does not, with a code.
    Refused(u16),
}

/// Payload 2, encrypted to the initiator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The wire major in use.
    pub version: u8,
    /// Lowest and highest wire major of the responder.
    pub versions: (u8, u8),
    /// Feature bits.
    pub features: u64,
    /// The chosen data cipher.
    pub cipher: Cipher,
    /// The responder's life.
    pub incarnation: Incarnation,
    /// The sender index of the clear header again, so that nobody changes it under way.
    pub index: u32,
    /// Yes or no.
    pub outcome: Outcome,
    /// Where message 1 came from, if that was UDP.
    pub observed: Option<SocketAddr>,
    /// Extensions as received, byte for byte.
    pub tlvs: Vec<u8>,
}

impl Wire for Welcome {
    const NAME: &'static str = "welcome";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            version: r.u8("version")?,
            versions: read_versions(r)?,
            features: r.u64("features")?,
            cipher: match r.u8("cipher")? {
                1 => Cipher::ChaCha20Poly1305,
                2 => Cipher::Aes256Gcm,
                _ => return Err(DecodeError::Invalid("cipher")),
            },
            incarnation: read_incarnation(r)?,
            index: r.u32("index")?,
            outcome: match r.u8("outcome")? {
                0 => Outcome::Refused(r.u16("refusal")?),
                kind @ 1..=2 => Outcome::Accepted {
                    association: r.u64("association")?,
                    resumed: kind == 2,
                    limits: r.bytes(MAX_LIMITS, "limits")?.to_vec(),
                },
                _ => return Err(DecodeError::Invalid("outcome")),
            },
            observed: match r.u8("observed")? {
                0 => None,
                1 => Some(read_addr(r)?),
                _ => return Err(DecodeError::Invalid("observed")),
            },
            tlvs: read_tlvs(r, MAX_PAYLOAD2)?,
        })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.put(&[self.version, self.versions.0, self.versions.1])?;
        w.u64(self.features)?;
        w.u8(self.cipher.bit())?;
        write_incarnation(w, &self.incarnation)?;
        w.u32(self.index)?;
        match &self.outcome {
            Outcome::Refused(code) => {
                w.u8(0)?;
                w.u16(*code)?;
            }
            Outcome::Accepted { association, resumed, limits } => {
                w.u8(if *resumed { 2 } else { 1 })?;
                w.u64(*association)?;
                w.bytes(limits)?;
            }
        }
        match &self.observed {
            None => w.u8(0)?,
            Some(addr) => {
                w.u8(1)?;
                write_addr(w, addr)?;
            }
        }
        w.put(&self.tlvs)
    }
}

fn read_versions(r: &mut Reader<'_>) -> Result<(u8, u8), DecodeError> {
    let [low, high] = r.array("versions")?;
    if low > high {
        return Err(DecodeError::Invalid("versions"));
    }
    Ok((low, high))
}

fn read_ciphers(r: &mut Reader<'_>) -> Result<u8, DecodeError> {
    let bits = r.u8("ciphers")?;
    if bits & Cipher::ChaCha20Poly1305.bit() == 0 {
        return Err(DecodeError::Invalid("ciphers"));
    }
    Ok(bits)
}

fn read_incarnation(r: &mut Reader<'_>) -> Result<Incarnation, DecodeError> {
    Ok(Incarnation { epoch: r.u64("boot epoch")?, random: r.u64("boot random")? })
}

fn write_incarnation(w: &mut Writer<'_>, incarnation: &Incarnation) -> Result<(), BufferTooSmall> {
    w.u64(incarnation.epoch)?;
    w.u64(incarnation.random)
}

/// Checks that the rest is a list of (type, length, value) with ignorable types, and keeps it whole.
fn read_tlvs(r: &mut Reader<'_>, limit: usize) -> Result<Vec<u8>, DecodeError> {
    let whole = r.rest();
    if whole.len() > limit {
        let value = whole.len() as u64;
        return Err(DecodeError::TooLarge { what: "extensions", value, limit: limit as u64 });
    }
    while !r.is_empty() {
        let kind = r.varint("extension type")?;
        r.bytes(limit, "extension")?;
        if kind % 2 == 1 {
            return Err(DecodeError::UnknownCritical(kind));
        }
    }
    Ok(whole.to_vec())
}

/// The version that two ranges agree on: the highest that both have.
pub fn common(ours: (u8, u8), theirs: (u8, u8)) -> Option<u8> {
    let (low, high) = (ours.0.max(theirs.0), ours.1.min(theirs.1));
    (low <= high).then_some(high)
}

/// The four bytes at `at` as an index.
pub fn index_at(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

/// Splits a handshake message into what mac1 covers, mac1 and mac2.
pub fn macs(data: &[u8]) -> Option<(&[u8], &[u8; MAC], &[u8; MAC])> {
    let (rest, mac2) = data.split_last_chunk::<MAC>()?;
    let (body, mac1) = rest.split_last_chunk::<MAC>()?;
    Some((body, mac1, mac2))
}
