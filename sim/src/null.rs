//! A cipher that does not encrypt: its tag is a keyed checksum. It detects a flipped bit, a wrong
//! key and a wrong counter, at a fraction of the price, so that worlds of thousands of nodes spend
//! their time on protocol. It lives here and nowhere else; no real node can be built with it.

use net_proto::session::aead::{Aead, Cipher, CipherSuite, Forged, TAG};

use crate::keyed::mix;

/// The suite of keyed checksums. It offers the number of ChaCha20-Poly1305, since that is what
/// every node must offer; a real node and a simulated one still cannot speak, as no tag matches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl CipherSuite for Null {
    fn offered(&self) -> u8 {
        Cipher::ChaCha20Poly1305.bit()
    }

    fn key(&self, _cipher: Cipher, key: &[u8; 32]) -> Box<dyn Aead> {
        let word = |i: usize| u64::from_le_bytes(key[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        Box::new(NullKey(mix(word(0) ^ mix(word(1))), mix(word(2) ^ mix(word(3)))))
    }
}

struct NullKey(u64, u64);

/// Both halves of a product, folded: every bit of both factors moves the result.
pub(crate) const fn mum(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

/// Folds bytes into `state`, sixteen at a time; the length is folded too.
pub(crate) fn fold(mut state: u64, bytes: &[u8]) -> u64 {
    const K: u64 = 0x9fb2_1c65_1e98_df25;
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        state = mum(word(&chunk[..8]) ^ K, word(&chunk[8..]) ^ state);
    }
    let mut last = [0; 16];
    last[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    let state = mum(word(&last[..8]) ^ K, word(&last[8..]) ^ state);
    mix(state ^ (bytes.len() as u64).wrapping_mul(K))
}

impl NullKey {
    fn tag(&self, counter: u64, aad: &[u8], payload: &[u8]) -> [u8; TAG] {
        let body = fold(fold(self.0 ^ mix(counter), aad), payload);
        let mut tag = [0; TAG];
        tag[..8].copy_from_slice(&mix(body ^ self.0).to_le_bytes());
        tag[8..].copy_from_slice(&mix(body ^ self.1).to_le_bytes());
        tag
    }
}

impl Aead for NullKey {
    fn seal(&self, counter: u64, aad: &[u8], payload: &mut [u8]) -> [u8; TAG] {
        self.tag(counter, aad, payload)
    }

    fn open(&self, counter: u64, aad: &[u8], payload: &mut [u8], tag: &[u8; TAG]) -> Result<(), Forged> {
        if self.tag(counter, aad, payload) == *tag { Ok(()) } else { Err(Forged) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipped_bits_and_wrong_keys_are_forged() {
        let key = Null.key(Cipher::ChaCha20Poly1305, &[1; 32]);
        let other = Null.key(Cipher::ChaCha20Poly1305, &[2; 32]);
        let mut payload = *b"a payload that is longer than one word";
        let tag = key.seal(7, b"header", &mut payload);
        assert_eq!(key.open(7, b"header", &mut payload, &tag), Ok(()));
        assert_eq!(key.open(8, b"header", &mut payload, &tag), Err(Forged));
        assert_eq!(key.open(7, b"headex", &mut payload, &tag), Err(Forged));
        assert_eq!(other.open(7, b"header", &mut payload, &tag), Err(Forged));
        for bit in 0..payload.len() * 8 {
            let mut bad = payload;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(7, b"header", &mut bad, &tag), Err(Forged));
        }
        assert_eq!(key.open(7, b"header", &mut payload[..37], &tag), Err(Forged));
    }
}
