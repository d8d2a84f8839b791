//! The primitives of `Noise_IKpsk0+psk2_25519_ChaChaPoly_BLAKE2s` for snow, and the four Noise steps.
//!
//! snow brings the state machine of the Noise specification (revision 34); these primitives add what
//! it leaves out: X25519 results of all zeros are refused (RFC 7748 section 6.1), secrets are zeroised
//! where we hold them, and the ephemeral key comes from entropy that the caller gave.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use blake2::{Blake2s256, Digest};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, Error, HandshakeState};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::session::aead::{TAG, nonce};

/// The Noise protocol of wire major 1.
pub const PATTERN: &str = "Noise_IKpsk0+psk2_25519_ChaChaPoly_BLAKE2s";

/// Hands snow our primitives. `ephemeral` is what its random generator returns, once.
pub struct Resolver {
    ephemeral: Zeroizing<[u8; 32]>,
}

impl Resolver {
    /// A resolver whose one ephemeral secret is `ephemeral`.
    pub fn new(ephemeral: [u8; 32]) -> Self {
        Self { ephemeral: Zeroizing::new(ephemeral) }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::Blake2s => Some(Box::new(Blake2s(Blake2s256::new()))),
            _ => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::ChaChaPoly => Some(Box::new(ChaCha::default())),
            _ => None,
        }
    }
}

/// A generator that has 32 bytes to give and then fails.
struct Once(Option<Zeroizing<[u8; 32]>>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        let seed = self.0.take().ok_or(Error::Rng)?;
        if dest.len() != seed.len() {
            return Err(Error::Rng);
        }
        dest.copy_from_slice(&*seed);
        Ok(())
    }
}

#[derive(Default, Zeroize, ZeroizeOnDrop)]
struct X25519 {
    secret: [u8; 32],
    public: [u8; 32],
}

impl X25519 {
    fn install(&mut self) {
        self.public = PublicKey::from(&StaticSecret::from(self.secret)).to_bytes();
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, secret: &[u8]) {
        // A key of the wrong length becomes zeros: its results are then useless, not unsafe.
        self.secret = secret.try_into().unwrap_or([0; 32]);
        self.install();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        rng.try_fill_bytes(&mut self.secret)?;
        self.install();
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.secret
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let public = public.first_chunk::<32>().ok_or(Error::Dh)?;
        let shared = StaticSecret::from(self.secret).diffie_hellman(&PublicKey::from(*public));
        if !shared.was_contributory() {
            return Err(Error::Dh);
        }
        out.first_chunk_mut::<32>().ok_or(Error::Dh)?.copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

struct Blake2s(Blake2s256);

impl Hash for Blake2s {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        let hash = core::mem::replace(&mut self.0, Blake2s256::new()).finalize();
        if let Some(out) = out.get_mut(..hash.len()) {
            out.copy_from_slice(&hash);
        }
    }
}

#[derive(Default, Zeroize, ZeroizeOnDrop)]
struct ChaCha {
    key: [u8; 32],
}

impl ChaCha {
    fn aead(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&Key::from(self.key))
    }
}

impl Cipher for ChaCha {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.key = *key;
    }

    fn encrypt(&self, n: u64, ad: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        // snow checks the room before it calls; a message of Noise is far below the cipher's limit.
        let total = plaintext.len() + TAG;
        let Some(out) = out.get_mut(..total) else { return 0 };
        let (body, tag) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        match self.aead().encrypt_inout_detached(&Nonce::from(nonce(n)), ad, body.into()) {
            Ok(made) => tag.copy_from_slice(&made),
            Err(_) => return 0,
        }
        total
    }

    fn decrypt(&self, n: u64, ad: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (body, tag) = ciphertext.split_last_chunk::<TAG>().ok_or(Error::Decrypt)?;
        let out = out.get_mut(..body.len()).ok_or(Error::Decrypt)?;
        out.copy_from_slice(body);
        self.aead()
            .decrypt_inout_detached(&Nonce::from(nonce(n)), ad, out.into(), &Tag::from(*tag))
            .map_err(|_| Error::Decrypt)?;
        Ok(body.len())
    }
}

/// What every Noise step of one handshake starts from. Zeroised when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed {
    pub secret: [u8; 32],
    pub ephemeral: [u8; 32],
    pub psk0: [u8; 32],
    /// The pairwise secret mixed into message 2: zeros until a post-quantum secret takes the slot.
    pub psk2: [u8; 32],
    #[zeroize(skip)]
    pub prologue: Vec<u8>,
}

/// A Noise handshake between two steps.
pub struct Noise(HandshakeState);

impl Noise {
    /// The initiator's side, with the responder's static key.
    pub fn initiator(seed: &Seed, responder: &[u8; 32]) -> Result<Self, Error> {
        builder(seed)?.remote_public_key(responder)?.build_initiator().map(Self)
    }

    /// The responder's side.
    pub fn responder(seed: &Seed) -> Result<Self, Error> {
        builder(seed)?.build_responder().map(Self)
    }

    /// Writes the next message around `payload`.
    pub fn write(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        // Key, encrypted key and two tags are the most that a message of IK adds.
        let mut out = vec![0; payload.len() + 32 + 32 + 2 * TAG];
        let len = self.0.write_message(payload, &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    /// Reads the next message; its payload.
    pub fn read(&mut self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = vec![0; message.len()];
        let len = self.0.read_message(message, &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    /// The other side's static key, once known.
    pub fn remote_static(&self) -> Option<[u8; 32]> {
        self.0.get_remote_static()?.try_into().ok()
    }

    /// The two keys of Split, the initiator's sending key first. Only after the last message.
    pub fn split(&mut self) -> Zeroizing<([u8; 32], [u8; 32])> {
        Zeroizing::new(self.0.dangerously_get_raw_split())
    }
}

fn builder(seed: &Seed) -> Result<Builder<'_>, Error> {
    Builder::with_resolver(PATTERN.parse()?, Box::new(Resolver::new(seed.ephemeral)))
        .local_private_key(&seed.secret)?
        .prologue(&seed.prologue)?
        .psk(0, &seed.psk0)?
        .psk(2, &seed.psk2)
}
