//! Keys that come from a mesh key, each under its own label, and the small MACs made with them.

use alloc::vec::Vec;
use blake2::Blake2sMac;
use blake2::digest::consts::{U16, U32};
use blake2::digest::{KeyInit, Mac};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::identity::{EntityId, Mesh, MeshId};
use crate::session::aead::Cipher;

/// Bytes of a MAC on a handshake message.
pub const MAC: usize = 16;

const PSK0: &[u8] = b"net psk0";
// These two name no version: whatever the wire major, they stay (docs/protocol/handshake.md).
const MAC1: &[u8] = b"net mac1";
const VERSIONS: &[u8] = b"net versions";
const COOKIE: &[u8] = b"net cookie";
const DATA: &[u8] = b"net data key";

/// BLAKE2s-256 keyed with `key` over the parts.
pub fn kdf(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = <Blake2sMac<U32> as KeyInit>::new(key.into());
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// BLAKE2s-128 keyed with `key` over the parts.
pub fn mac16(key: &[u8], parts: &[&[u8]]) -> [u8; MAC] {
    // Keys here have 16 or 32 bytes; BLAKE2s takes up to 32, so the error cannot happen.
    let Ok(mut mac) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else { return [0; MAC] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// What mac1 covers, hashed once. With several mesh keys only the short MAC over it is made for each.
pub fn mac1_hash(body: &[u8]) -> [u8; 32] {
    *blake3::hash(body).as_bytes()
}

/// mac1 over `body`: BLAKE2s-128 keyed with `key` over the BLAKE3 hash of `body`.
pub fn mac1(key: &[u8; 32], body: &[u8]) -> [u8; MAC] {
    mac16(key, &[&mac1_hash(body)])
}

/// Whether two MACs are equal, in time that does not depend on where they differ.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0u8, |all, (x, y)| core::hint::black_box(all | (x ^ y))) == 0
}

/// What a (mesh id, mesh key) pair gives for messages to one receiver.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MeshKeys {
    #[zeroize(skip)]
    pub id: MeshId,
    pub psk0: [u8; 32],
    /// For messages to this node.
    pub own_mac1: [u8; 32],
    /// For cookie replies of this node.
    pub own_cookie: [u8; 32],
    /// For versions replies of this node.
    pub own_versions: [u8; 32],
    key: [u8; 32],
}

impl MeshKeys {
    pub fn new(mesh: &Mesh, own: &EntityId) -> Self {
        let key = mesh.key.0;
        Self {
            id: mesh.id,
            psk0: kdf(&key, &[PSK0]),
            own_mac1: kdf(&key, &[MAC1, &own.0]),
            own_cookie: kdf(&key, &[COOKIE, &own.0]),
            own_versions: kdf(&key, &[VERSIONS, &own.0]),
            key,
        }
    }

    /// Whether it is the same pair.
    pub fn same(&self, other: &Self) -> bool {
        self.id == other.id && equal(&self.key, &other.key)
    }

    /// The key for messages to `peer`.
    pub fn mac1(&self, peer: &EntityId) -> [u8; 32] {
        kdf(&self.key, &[MAC1, &peer.0])
    }

    /// The key of `peer`'s cookie replies.
    pub fn cookie(&self, peer: &EntityId) -> [u8; 32] {
        kdf(&self.key, &[COOKIE, &peer.0])
    }

    /// The key of `peer`'s versions replies.
    pub fn versions(&self, peer: &EntityId) -> [u8; 32] {
        kdf(&self.key, &[VERSIONS, &peer.0])
    }
}

/// A data key from one half of Noise's Split, for one cipher.
pub fn data_key(split: &[u8; 32], cipher: Cipher) -> [u8; 32] {
    kdf(split, &[DATA, &[0], cipher.name().as_bytes()])
}

/// The Noise prologue: what both ends must agree on before the first byte.
pub fn prologue(mesh: &MeshId, responder: &EntityId, header: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(b"net handshake ");
    // The wire major stands in the header as well; here it makes the label of each version its own.
    out.push(header.get(1).copied().unwrap_or(0));
    out.extend_from_slice(&mesh.0);
    out.extend_from_slice(&responder.0);
    out.extend_from_slice(header);
    out
}
