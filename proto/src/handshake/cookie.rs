//! Cookies: proof that the sender of a first message receives at the path that it names, kept in no
//! state (after WireGuard's section 5.3: a MAC of the path under a secret that changes).

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use core::net::IpAddr;
use zeroize::ZeroizeOnDrop;

use super::keys::{MAC, equal, mac16};
use super::wire::{COOKIE_LEN, COOKIE_REPLY};
use crate::entropy::Entropy;
use crate::path::{Path, Remote};
use crate::session::aead::TAG;
use crate::time::{Duration, Instant, nanos};

/// How long a secret makes cookies; they are taken for as long again.
pub const ROTATION: Duration = Duration::from_secs(120);

/// The rotating secret, and the budget above which cookies are demanded.
#[derive(ZeroizeOnDrop)]
pub struct Cookies {
    #[zeroize(skip)]
    secrets: Entropy,
    #[zeroize(skip)]
    nonces: Entropy,
    current: [u8; 32],
    previous: [u8; 32],
    #[zeroize(skip)]
    since: Instant,
    /// Nanoseconds of budget saved up, at most one second's worth.
    #[zeroize(skip)]
    credit: u64,
    #[zeroize(skip)]
    cost: u64,
    #[zeroize(skip)]
    counted: Instant,
}

const SECOND: u64 = 1_000_000_000;

impl Cookies {
    /// `per_second` first messages go without a cookie; zero demands one always.
    pub fn new(mut secrets: Entropy, nonces: Entropy, per_second: u32, now: Instant) -> Self {
        let (current, previous) = (secrets.array(), secrets.array());
        let cost = SECOND.checked_div(u64::from(per_second)).unwrap_or(u64::MAX);
        Self { secrets, nonces, current, previous, since: now, credit: SECOND, cost, counted: now }
    }

    /// Spends one first message's worth of the budget; false if there is none left.
    pub fn spend(&mut self, now: Instant) -> bool {
        self.credit = self.credit.saturating_add(nanos(now.since(self.counted))).min(SECOND);
        self.counted = now;
        let left = self.credit.checked_sub(self.cost);
        self.credit = left.unwrap_or(self.credit);
        left.is_some()
    }

    /// Whether `mac2` over `covered` was made with a cookie that this node sent to `path`.
    pub fn proven(&mut self, now: Instant, path: &Path, covered: &[u8], mac2: &[u8; MAC]) -> bool {
        self.rotate(now);
        [&self.current, &self.previous]
            .into_iter()
            .any(|secret| equal(&mac16(&path_mac(secret, path), &[covered]), mac2))
    }

    /// A cookie reply to the first message with that mac1 and sender index.
    pub fn reply(
        &mut self,
        now: Instant,
        path: &Path,
        key: &[u8; 32],
        major: u8,
        index: u32,
        mac1: &[u8; MAC],
    ) -> [u8; COOKIE_LEN] {
        self.rotate(now);
        let mut out = [0; COOKIE_LEN];
        let nonce: [u8; 24] = self.nonces.array();
        let mut body = path_mac(&self.current, path);
        let tag = XChaCha20Poly1305::new(&Key::from(*key)).encrypt_inout_detached(
            &XNonce::from(nonce),
            mac1,
            body.as_mut_slice().into(),
        );
        // Sixteen bytes are within the cipher's limit, so it cannot fail.
        let tag = tag.map_or([0; TAG], Into::into);
        out[0] = COOKIE_REPLY;
        out[1] = major;
        out[2..6].copy_from_slice(&index.to_le_bytes());
        out[6..30].copy_from_slice(&nonce);
        out[30..46].copy_from_slice(&body);
        out[46..].copy_from_slice(&tag);
        out
    }

    fn rotate(&mut self, now: Instant) {
        let age = now.since(self.since);
        if age >= ROTATION {
            // After a long silence both secrets are too old to be honoured.
            self.previous = if age >= ROTATION * 2 { self.secrets.array() } else { self.current };
            self.current = self.secrets.array();
            self.since = now;
        }
    }
}

/// Opens a cookie reply to our message with that mac1.
pub fn open(data: &[u8], key: &[u8; 32], mac1: &[u8; MAC]) -> Option<[u8; MAC]> {
    let data: &[u8; COOKIE_LEN] = data.try_into().ok()?;
    let nonce: [u8; 24] = data[6..30].try_into().ok()?;
    let mut body: [u8; MAC] = data[30..46].try_into().ok()?;
    let tag: [u8; TAG] = data[46..].try_into().ok()?;
    XChaCha20Poly1305::new(&Key::from(*key))
        .decrypt_inout_detached(&XNonce::from(nonce), mac1, body.as_mut_slice().into(), &Tag::from(tag))
        .ok()?;
    Some(body)
}

/// A MAC over where a datagram came from: the cookie of a path, or its token in message 2.
pub fn path_mac(secret: &[u8; 32], path: &Path) -> [u8; MAC] {
    let mut bytes = [0u8; 22];
    bytes[0] = path.socket;
    match path.remote {
        Remote::Udp(addr) => {
            match addr.ip() {
                IpAddr::V4(ip) => {
                    bytes[1] = 4;
                    bytes[2..6].copy_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    bytes[1] = 6;
                    bytes[2..18].copy_from_slice(&ip.octets());
                }
            }
            bytes[18..20].copy_from_slice(&addr.port().to_le_bytes());
        }
        Remote::Via { session, destination } => {
            bytes[1] = 1;
            bytes[2..18].copy_from_slice(&destination);
            bytes[18..22].copy_from_slice(&session.to_le_bytes());
        }
        Remote::Carrier(number) => {
            bytes[1] = 2;
            bytes[2..6].copy_from_slice(&number.to_le_bytes());
        }
    }
    mac16(secret, &[&bytes])
}
