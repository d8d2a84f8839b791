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

/// Bytes at the beginning of mac1 that cover the head of a message only.
const GATE: usize = 2;
/// The head: the header and the ephemeral key of either message are in it. One block of BLAKE3.
const HEAD: usize = 48;

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

/// mac1 over `body`, keyed with `key`: two bytes over its head, the others over all of it.
///
/// Bogus messages are told by the first two bytes, at one compression for each mesh key and whatever
/// their length: that makes a flood of them cheap. The other fourteen are what nobody can forge.
pub fn mac1(key: &[u8; 32], body: &[u8]) -> [u8; MAC] {
    let mut mac = tag(key, body);
    mac[..GATE].copy_from_slice(&gate(key, body));
    mac
}

/// Whether `mac` is mac1 over `body`. Reads only the head of nearly every bogus message.
pub fn mac1_fits(key: &[u8; 32], body: &[u8], mac: &[u8; MAC]) -> bool {
    equal(&gate(key, body), &mac[..GATE]) && equal(&tag(key, body)[GATE..], &mac[GATE..])
}

fn gate(key: &[u8; 32], body: &[u8]) -> [u8; GATE] {
    let [a, b, ..] = tag(key, body.get(..HEAD).unwrap_or(body));
    [a, b]
}

fn tag(key: &[u8; 32], bytes: &[u8]) -> [u8; MAC] {
    let hash = blake3::keyed_hash(key, bytes);
    let mut out = [0; MAC];
    out.copy_from_slice(&hash.as_bytes()[..MAC]);
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    fn body() -> Vec<u8> {
        (0..480u32).map(|n| n as u8).collect()
    }

    #[test]
    fn mac1_is_what_its_page_says() {
        let (key, body) = ([7; 32], body());
        let head = blake3::keyed_hash(&key, &body[..48]);
        let all = blake3::keyed_hash(&key, &body);
        let said = [&head.as_bytes()[..2], &all.as_bytes()[2..16]].concat();
        assert_eq!(mac1(&key, &body)[..], said[..]);
        // It may never change, so it stands here as bytes too.
        assert_eq!(mac1(&key, &body), VECTOR);
    }

    // Made by another implementation of BLAKE3.
    const VECTOR: [u8; MAC] = [108, 132, 27, 189, 138, 111, 37, 180, 120, 245, 77, 166, 144, 7, 234, 107];

    #[test]
    fn mac1_covers_every_byte_with_more_than_its_first_two() {
        let (key, body) = ([7; 32], body());
        let good = mac1(&key, &body);
        assert!(mac1_fits(&key, &body, &good));
        assert!(!mac1_fits(&[8; 32], &body, &good));
        for at in 0..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1;
            // With the right first two bytes, as a copier of the head has them.
            let mut mac = good;
            mac[..2].copy_from_slice(&mac1(&key, &changed)[..2]);
            assert_eq!(mac == good, at >= 48, "byte {at}");
            assert!(!mac1_fits(&key, &changed, &mac), "byte {at}");
        }
        for at in 0..MAC {
            let mut mac = good;
            mac[at] ^= 0x80;
            assert!(!mac1_fits(&key, &body, &mac), "byte {at}");
        }
        for len in 0..body.len() {
            assert!(!mac1_fits(&key, &body[..len], &good));
            assert!(mac1_fits(&key, &body[..len], &mac1(&key, &body[..len])));
        }
    }
}
