//! Who a node is: one ed25519 seed, its public key as [`EntityId`], and the meshes it belongs to.
//!
//! The X25519 static key of the handshake is the Montgomery form of the same key, so knowing an
//! [`EntityId`] is enough to dial. That form drops the sign bit and any torsion part, therefore ids
//! are admitted only when canonical and torsion-free, and the handshake proves the full 32 bytes
//! (`docs/protocol/handshake.md`).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::IsIdentity;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer};

/// Most addresses in a ticket.
pub const MAX_TICKET_ADDRS: usize = 8;

/// Why an identity, ticket or signature is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The bytes are not the canonical encoding of a point on the curve.
    #[error("the entity id is not a canonical ed25519 public key")]
    NotCanonical,
    /// The point has a part in the small subgroup.
    #[error("the entity id has a torsion part")]
    Torsion,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    BadSignature,
    /// The text is not a ticket, invite or id.
    #[error("the text is not a valid {0}")]
    BadText(&'static str),
    /// The text was cut or mistyped: its checksum does not match.
    #[error("the {0} was cut or mistyped: its checksum does not match")]
    Checksum(&'static str),
}

/// The 32-byte ed25519 public key of a node: the only identity that anything is keyed by.
///
/// A value of this type may come from anywhere and need not be a valid key; [`EntityId::admit`]
/// checks that (28 µs, once per id). The handshake never establishes a session with one that fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntityId(pub [u8; 32]);

impl EntityId {
    /// Checks that the key is canonical, torsion-free and not the identity.
    pub fn admit(&self) -> Result<(), IdentityError> {
        let point = CompressedEdwardsY(self.0).decompress().ok_or(IdentityError::NotCanonical)?;
        if point.compress().0 != self.0 {
            return Err(IdentityError::NotCanonical);
        }
        if point.is_identity() || !point.is_torsion_free() {
            return Err(IdentityError::Torsion);
        }
        Ok(())
    }

    /// The Montgomery form: the X25519 public key of this node. Not an identity: two ids share it.
    pub fn x25519(&self) -> Result<[u8; 32], IdentityError> {
        let point = CompressedEdwardsY(self.0).decompress().ok_or(IdentityError::NotCanonical)?;
        Ok(point.to_montgomery().to_bytes())
    }

    /// BLAKE3 of the id cut to 16 bytes: the short form on wires that need one.
    pub fn short(&self) -> [u8; 16] {
        let hash = blake3::hash(&self.0);
        let mut out = [0; 16];
        out.copy_from_slice(&hash.as_bytes()[..16]);
        out
    }

    /// A number to show to people. Never on the wire, never authority.
    pub fn node_id(&self) -> u64 {
        let short = self.short();
        let mut out = [0; 8];
        out.copy_from_slice(&short[..8]);
        u64::from_le_bytes(out)
    }

    /// Verifies `signature` over `label ‖ 0 ‖ message`. Strict: malleable forms are refused.
    pub fn verify(&self, label: &str, message: &[u8], signature: &[u8; 64]) -> Result<(), IdentityError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| IdentityError::NotCanonical)?;
        key.verify_strict(&labelled(label, message), &Signature::from_bytes(signature))
            .map_err(|_| IdentityError::BadSignature)
    }
}

impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0)[..10])?;
        f.write_str("…")
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

impl FromStr for EntityId {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bytes = unbase32(text).ok_or(IdentityError::BadText("entity id"))?;
        let id = Self(bytes.try_into().map_err(|_| IdentityError::BadText("entity id"))?);
        id.admit()?;
        Ok(id)
    }
}

fn labelled(label: &str, message: &[u8]) -> Vec<u8> {
    let mut all = Vec::with_capacity(label.len() + 1 + message.len());
    all.extend_from_slice(label.as_bytes());
    all.push(0);
    all.extend_from_slice(message);
    all
}

/// A node's secret: the ed25519 seed. Zeroised when dropped; deliberately neither `Default` nor `Debug`.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// The identity of a 32-byte seed. The same seed is the same identity, for ever.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(seed) }
    }

    /// The seed, to be stored with mode 0600.
    pub fn seed(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    /// The public half.
    pub fn id(&self) -> EntityId {
        EntityId(self.key.verifying_key().to_bytes())
    }

    /// Signs `label ‖ 0 ‖ message`. Every kind of signed object has its own label.
    pub fn sign(&self, label: &str, message: &[u8]) -> [u8; 64] {
        self.key.sign(&labelled(label, message)).to_bytes()
    }

    /// The X25519 static secret of the handshake.
    pub fn x25519_secret(&self) -> [u8; 32] {
        self.key.to_scalar_bytes()
    }
}

/// Names a mesh: 32 random bytes, independent of its key. Public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MeshId(pub [u8; 32]);

/// Admits to a mesh: 32 random bytes. Whoever holds it can speak to every node of the mesh; it is
/// an admission filter, not membership. Passphrases are refused by construction.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct MeshKey(pub [u8; 32]);

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshKey(secret)")
    }
}

/// A mesh that a node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mesh {
    /// Which mesh.
    pub id: MeshId,
    /// What admits to it.
    pub key: MeshKey,
}

/// One life of a node: rises with every start and never repeats, so that nothing of a former life
/// is mistaken for the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation {
    /// Durable and rising; without a directory to keep it, the wall clock in µs.
    pub epoch: u64,
    /// Fresh random bits, should two lives ever share an epoch.
    pub random: u64,
}

/// Where a node can be reached: public, printable, `nt1…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Who.
    pub entity: EntityId,
    /// Where, best first; at most [`MAX_TICKET_ADDRS`].
    pub addrs: Vec<SocketAddr>,
}

impl Wire for Ticket {
    const NAME: &'static str = "ticket";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let entity = EntityId(r.array("entity id")?);
        let count = r.varint("address count")?;
        if count > MAX_TICKET_ADDRS as u64 {
            let limit = MAX_TICKET_ADDRS as u64;
            return Err(DecodeError::TooLarge { what: "address count", value: count, limit });
        }
        let addrs = (0..count).map(|_| read_addr(r)).collect::<Result<_, _>>()?;
        Ok(Self { entity, addrs })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.put(&self.entity.0)?;
        w.varint(self.addrs.len() as u64)?;
        self.addrs.iter().try_for_each(|addr| write_addr(w, addr))
    }
}

/// Reads a socket address: 4 or 6, the octets, the port in little-endian.
pub fn read_addr(r: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    let ip = match r.u8("address family")? {
        4 => IpAddr::from(r.array::<4>("IPv4 address")?),
        6 => IpAddr::from(r.array::<16>("IPv6 address")?),
        _ => return Err(DecodeError::Invalid("address family")),
    };
    Ok(SocketAddr::new(ip, r.u16("port")?))
}

/// Writes a socket address; scope and flow of IPv6 stay local.
pub fn write_addr(w: &mut Writer<'_>, addr: &SocketAddr) -> Result<(), BufferTooSmall> {
    match addr.ip() {
        IpAddr::V4(ip) => {
            w.u8(4)?;
            w.put(&ip.octets())?;
        }
        IpAddr::V6(ip) => {
            w.u8(6)?;
            w.put(&ip.octets())?;
        }
    }
    w.u16(addr.port())
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&armour("nt1", self.to_vec()))
    }
}

impl FromStr for Ticket {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bytes = unarmour("nt1", "ticket", text)?;
        let ticket = Self::decode_exact(&bytes).map_err(|_| IdentityError::BadText("ticket"))?;
        ticket.entity.admit()?;
        Ok(ticket)
    }
}

/// A ticket with the secret that admits to the mesh: printable, `ni1…`. Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invite {
    /// Whom to dial first.
    pub ticket: Ticket,
    /// What to join.
    pub mesh: Mesh,
}

impl Wire for Invite {
    const NAME: &'static str = "invite";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mesh = Mesh { id: MeshId(r.array("mesh id")?), key: MeshKey(r.array("mesh key")?) };
        Ok(Self { mesh, ticket: Ticket::decode(r)? })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.put(&self.mesh.id.0)?;
        w.put(&self.mesh.key.0)?;
        self.ticket.encode(w)
    }
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&armour("ni1", self.to_vec()))
    }
}

impl FromStr for Invite {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bytes = unarmour("ni1", "invite", text)?;
        let invite = Self::decode_exact(&bytes).map_err(|_| IdentityError::BadText("invite"))?;
        invite.ticket.entity.admit()?;
        Ok(invite)
    }
}

fn armour(prefix: &str, mut bytes: Vec<u8>) -> String {
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(&sum.as_bytes()[..4]);
    let mut text = String::from(prefix);
    text.push_str(&base32(&bytes));
    bytes.zeroize();
    text
}

fn unarmour(prefix: &str, what: &'static str, text: &str) -> Result<Vec<u8>, IdentityError> {
    let body = text.trim().strip_prefix(prefix).ok_or(IdentityError::BadText(what))?;
    let mut bytes = unbase32(body).ok_or(IdentityError::BadText(what))?;
    let at = bytes.len().checked_sub(4).ok_or(IdentityError::BadText(what))?;
    let sum = bytes.split_off(at);
    if blake3::hash(&bytes).as_bytes()[..4] != sum[..] {
        return Err(IdentityError::Checksum(what));
    }
    Ok(bytes)
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// RFC 4648 base 32, lower case, without padding.
pub fn base32(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in bytes {
        bits = bits << 8 | u32::from(*byte);
        held += 8;
        while held >= 5 {
            held -= 5;
            out.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
        }
        bits &= (1 << held) - 1;
    }
    if held > 0 {
        out.push(char::from(ALPHABET[(bits << (5 - held) & 31) as usize]));
    }
    out
}

/// The inverse of [`base32`]; `None` for any text that it does not produce.
pub fn unbase32(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut held) = (0u32, 0u32);
    for c in text.bytes() {
        let value = match c {
            b'a'..=b'z' => c - b'a',
            b'2'..=b'7' => c - b'2' + 26,
            _ => return None,
        };
        bits = bits << 5 | u32::from(value);
        held += 5;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held & 0xff) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (held < 5 && bits == 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn ticket(seed: u8) -> Ticket {
        Ticket {
            entity: Identity::from_seed(&[seed; 32]).id(),
            addrs: vec!["127.0.0.1:9000".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap()],
        }
    }

    #[test]
    fn tickets_and_invites_survive_printing() {
        let t = ticket(1);
        assert_eq!(t.to_string().parse(), Ok(t.clone()));
        let i = Invite { ticket: t, mesh: Mesh { id: MeshId([3; 32]), key: MeshKey([4; 32]) } };
        assert_eq!(i.to_string().parse(), Ok(i));
    }

    #[test]
    fn a_mistyped_ticket_is_refused() {
        let text = ticket(1).to_string();
        let mut changed = text.clone().into_bytes();
        changed[20] = if changed[20] == b'a' { b'b' } else { b'a' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(changed.parse::<Ticket>(), Err(IdentityError::Checksum("ticket")));
        assert!(text[..text.len() - 3].parse::<Ticket>().is_err());
        assert!(text.parse::<Invite>().is_err());
    }

    #[test]
    fn the_montgomery_form_matches_the_secret() {
        let id = Identity::from_seed(&[9; 32]);
        let secret = x25519_dalek::StaticSecret::from(id.x25519_secret());
        assert_eq!(x25519_dalek::PublicKey::from(&secret).to_bytes(), id.id().x25519().unwrap());
    }

    #[test]
    fn the_sign_flipped_id_is_valid_and_different() {
        // This is why state is keyed by the entity id and never by the X25519 key.
        let id = Identity::from_seed(&[9; 32]).id();
        let mut flipped = id;
        flipped.0[31] ^= 0x80;
        assert_eq!(flipped.admit(), Ok(()));
        assert_ne!(flipped, id);
        assert_eq!(flipped.x25519(), id.x25519());
    }

    #[test]
    fn ids_of_mixed_or_small_order_are_refused() {
        use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
        for torsion in &EIGHT_TORSION[1..] {
            let mixed = (ED25519_BASEPOINT_POINT + torsion).compress();
            assert_eq!(EntityId(mixed.0).admit(), Err(IdentityError::Torsion));
        }
        for small in EIGHT_TORSION {
            assert!(EntityId(small.compress().0).admit().is_err());
        }
        // p + 1 encodes the same field element as 1.
        let mut non_canonical = [0xff; 32];
        non_canonical[0] = 0xee;
        non_canonical[31] = 0x7f;
        assert!(EntityId(non_canonical).admit().is_err());
    }

    #[test]
    fn signatures_are_bound_to_their_label() {
        let id = Identity::from_seed(&[1; 32]);
        let sig = id.sign("a", b"m");
        assert_eq!(id.id().verify("a", b"m", &sig), Ok(()));
        assert_eq!(id.id().verify("b", b"m", &sig), Err(IdentityError::BadSignature));
        assert_eq!(id.id().verify("a", b"n", &sig), Err(IdentityError::BadSignature));
    }

    proptest! {
        #[test]
        fn base32_is_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "[a-z2-7]{0,20}") {
            prop_assert_eq!(unbase32(&base32(&bytes)), Some(bytes));
            if let Some(back) = unbase32(&text) {
                prop_assert_eq!(base32(&back), text);
            }
        }

        #[test]
        fn decoders_are_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            crate::codec::check_canonical::<Ticket>(&bytes);
            crate::codec::check_canonical::<Invite>(&bytes);
        }
    }
}
