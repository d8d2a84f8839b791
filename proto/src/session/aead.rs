//! Authenticated encryption as a trait, so that a driver brings hardware and a simulator brings
//! nothing. The portable implementation here is RustCrypto's ChaCha20-Poly1305.

use alloc::boxed::Box;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use serde::{Deserialize, Serialize};

/// Bytes of an authentication tag.
pub const TAG: usize = 16;

/// A data cipher. The number is its bit in the handshake's cipher set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cipher {
    /// RFC 8439; every node has it.
    ChaCha20Poly1305,
    /// Where both ends have hardware for it.
    Aes256Gcm,
}

impl Cipher {
    /// Its bit in a cipher set.
    pub const fn bit(self) -> u8 {
        match self {
            Self::ChaCha20Poly1305 => 1,
            Self::Aes256Gcm => 2,
        }
    }

    /// Its name, for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
            Self::Aes256Gcm => "AES-256-GCM",
        }
    }
}

/// The packet did not authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged;

/// One direction's key. The nonce is four zero bytes and the counter in little-endian.
pub trait Aead: Send {
    /// Encrypts `payload` in place and returns the tag.
    fn seal(&self, counter: u64, aad: &[u8], payload: &mut [u8]) -> [u8; TAG];
    /// Checks `tag` and decrypts `payload` in place. On failure `payload` holds nothing of use.
    fn open(&self, counter: u64, aad: &[u8], payload: &mut [u8], tag: &[u8; TAG]) -> Result<(), Forged>;
}

/// Makes keys of the ciphers that a driver supports.
pub trait CipherSuite: Send + Sync {
    /// Bits of the ciphers offered; ChaCha20-Poly1305 always, AES only where hardware carries it.
    fn offered(&self) -> u8;
    /// A key, which the implementation zeroises when dropped. `cipher` is one of the offered.
    fn key(&self, cipher: Cipher, key: &[u8; 32]) -> Box<dyn Aead>;
    /// Is shown the keys of every epoch before they are used. For drivers that were asked to export them
    /// to a capture tool; nothing happens to them otherwise.
    fn export(&self, _keys: &EpochKeys<'_>) {}
}

/// The keys of one epoch, for [`CipherSuite::export`].
pub struct EpochKeys<'a> {
    /// What they are for.
    pub cipher: Cipher,
    /// The index in the packets that come.
    pub local_index: u32,
    /// The index in the packets that leave.
    pub remote_index: u32,
    /// Opens what comes.
    pub recv: &'a [u8; 32],
    /// Seals what leaves.
    pub send: &'a [u8; 32],
}

/// Without the keys.
impl core::fmt::Debug for EpochKeys<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("EpochKeys").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

/// The 96-bit nonce of a counter.
pub fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// ChaCha20-Poly1305 without hardware, standard library or C.
#[derive(Clone, Copy, Debug, Default)]
pub struct Portable;

impl CipherSuite for Portable {
    fn offered(&self) -> u8 {
        Cipher::ChaCha20Poly1305.bit()
    }

    fn key(&self, _cipher: Cipher, key: &[u8; 32]) -> Box<dyn Aead> {
        Box::new(PortableKey(ChaCha20Poly1305::new(&Key::from(*key))))
    }
}

struct PortableKey(ChaCha20Poly1305);

impl Aead for PortableKey {
    fn seal(&self, counter: u64, aad: &[u8], payload: &mut [u8]) -> [u8; TAG] {
        match self.0.encrypt_inout_detached(&Nonce::from(nonce(counter)), aad, payload.into()) {
            Ok(tag) => tag.into(),
            // Only a payload of 256 GiB fails; a datagram has at most 64 KiB.
            Err(_) => [0; TAG],
        }
    }

    fn open(&self, counter: u64, aad: &[u8], payload: &mut [u8], tag: &[u8; TAG]) -> Result<(), Forged> {
        let nonce = Nonce::from(nonce(counter));
        self.0.decrypt_inout_detached(&nonce, aad, payload.into(), &Tag::from(*tag)).map_err(|_| Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_bit_anywhere_is_forged() {
        let key = Portable.key(Cipher::ChaCha20Poly1305, &[1; 32]);
        let mut payload = *b"hello, mesh";
        let tag = key.seal(7, b"header", &mut payload);
        let mut copy = payload;
        assert_eq!(key.open(7, b"header", &mut copy, &tag), Ok(()));
        assert_eq!(&copy, b"hello, mesh");
        for bit in 0..payload.len() * 8 {
            let mut bad = payload;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(7, b"header", &mut bad, &tag), Err(Forged));
        }
        let mut copy = payload;
        assert_eq!(key.open(8, b"header", &mut copy, &tag), Err(Forged));
        let mut copy = payload;
        assert_eq!(key.open(7, b"Header", &mut copy, &tag), Err(Forged));
    }
}
