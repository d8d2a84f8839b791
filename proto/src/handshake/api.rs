//! What a parent hands to the handshake machine and takes from it.

use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::identity::{EntityId, Identity, Incarnation, Mesh, MeshId};
use crate::path::Path;
use crate::session::aead::Cipher;
use crate::time::Duration;

use super::wire::{MAX_GRANT, MAX_LIMITS};

/// Most (mesh id, mesh key) pairs that a node accepts at once.
pub const MAX_MESHES: usize = 4;
/// Most paths of one dial.
pub const MAX_PATHS: usize = 16;

/// What the machine is told once. [`Config::new`] fills in the defaults.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// Who this node is.
    pub identity: Identity,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The meshes it belongs to, at most [`MAX_MESHES`]; further ones are ignored. The last is the
    /// newest: dials use it unless they name another.
    pub meshes: Vec<Mesh>,
    /// Bits of the data ciphers that the driver offers; ChaCha20-Poly1305 is always added.
    pub ciphers: u8,
    /// Feature bits to announce.
    pub features: u64,
    /// Lowest and highest wire major that this node speaks; (1, 1).
    pub versions: (u8, u8),
    /// Signed grant to show, at most 512 bytes; empty for a mesh without a root.
    pub grant: Vec<u8>,
    /// When a dial without an authenticated answer gives up; 20 s.
    pub dial_timeout: Duration,
    /// Dials at once; 1,024.
    pub dial_limit: usize,
    /// Half-open handshakes at once; 1,024. From half of it on, a cookie is demanded.
    pub half_open_limit: usize,
    /// Jobs queued or running at once; 1,024. From half of it on, a cookie is demanded.
    pub job_limit: usize,
    /// First messages per second that are answered without a cookie; 500.
    pub cookie_after: u32,
    /// Entity ids whose last confirmed handshake is remembered; 4,096. When full, the one
    /// confirmed longest ago is forgotten.
    pub confirmed_limit: usize,
}

impl Config {
    /// Defaults for everything that has one.
    pub fn new(identity: Identity, incarnation: Incarnation, meshes: Vec<Mesh>) -> Self {
        Self {
            identity,
            incarnation,
            meshes,
            ciphers: Cipher::ChaCha20Poly1305.bit(),
            features: 0,
            versions: (1, 1),
            grant: Vec::new(),
            dial_timeout: Duration::from_secs(20),
            dial_limit: 1024,
            half_open_limit: 1024,
            job_limit: 1024,
            cookie_after: 500,
            confirmed_limit: 4096,
        }
    }
}

/// Names a dial: the number that the caller gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DialId(pub u64);

/// Names a handshake that somebody else began and that has not been confirmed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HalfOpenId(pub(super) u64);

/// What message 2 carries for the path that it leaves on. The initiator sends it back under the new
/// keys, which proves that path: the responder learns where the initiator really is.
pub type PathToken = [u8; 8];

/// Whom to dial, and how.
#[derive(Clone, Debug)]
pub struct DialRequest {
    /// The caller's number; unique among living dials.
    pub id: u64,
    /// Whom.
    pub peer: EntityId,
    /// Where, best first: at least one, at most [`MAX_PATHS`].
    pub paths: Vec<Path>,
    /// The receiver index of this side; unique among living dials.
    pub local_index: u32,
    /// The association to resume.
    pub resume: Option<u64>,
    /// The stream module's limits, opaque here; at most 64 bytes.
    pub limits: Vec<u8>,
    /// Which mesh; `None` for the newest.
    pub mesh: Option<MeshId>,
}

/// Why a dial was not started. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DialRefused {
    /// The id is not a valid key, or it is our own.
    #[error("the entity id cannot be dialled")]
    BadEntity,
    /// No path was given.
    #[error("no path to dial")]
    NoPath,
    /// Too many paths were given.
    #[error("{0} paths, at most {MAX_PATHS} are allowed")]
    TooManyPaths(usize),
    /// Too many dials or jobs at once.
    #[error("at most {0} at once")]
    TooMany(usize),
    /// A living dial has the same id or the same local index.
    #[error("a living dial has the same id or local index")]
    Duplicate,
    /// The node does not belong to that mesh, or to none at all.
    #[error("not a member of the mesh")]
    NoMesh,
    /// The limits or the configured grant are too long.
    #[error("limits above {MAX_LIMITS} bytes or a grant above {MAX_GRANT} bytes")]
    TooLong,
}

/// Why a started dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[non_exhaustive]
pub enum DialFailure {
    /// Nothing that authenticates came back in time.
    #[error("no authenticated answer in {0:?}")]
    TimedOut(Duration),
    /// The peer speaks none of our versions.
    #[error("no common protocol version: ours {ours:?}, the peer's {theirs:?}")]
    Version {
        /// Our lowest and highest.
        ours: (u8, u8),
        /// The peer's lowest and highest.
        theirs: (u8, u8),
    },
    /// The peer's policy refused us, with its code.
    #[error("the peer refused the connection with code {0}")]
    Refused(u16),
    /// The peer's key gives no secret: a key of low order.
    #[error("the peer's key cannot be used")]
    BadKey,
}

/// Why a mesh was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MeshRefused {
    /// There are [`MAX_MESHES`] already.
    #[error("at most {MAX_MESHES} meshes at once")]
    TooMany,
}

/// What the node says to an authenticated, not yet confirmed first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Take part.
    Accept {
        /// The receiver index of this side.
        local_index: u32,
        /// The association that the keys are for.
        association: u64,
        /// Whether that association is the one that the initiator asked to resume.
        resumed: bool,
        /// The stream module's limits; at most 64 bytes, longer ones turn the answer into `Ignore`.
        limits: Vec<u8>,
    },
    /// Say no, with a code. The peer learns it authenticated.
    Refuse(u16),
    /// Say nothing.
    Ignore,
}

/// The two keys of an epoch and the cipher that they are for. Zeroised when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct Secrets {
    /// Key for packets that this side seals.
    pub send: [u8; 32],
    /// Key for packets that this side opens.
    pub recv: [u8; 32],
    /// The negotiated data cipher.
    #[zeroize(skip)]
    pub cipher: Cipher,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({})", self.cipher.name())
    }
}

/// What came of dials and of other nodes' first messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A first message authenticated. It may be a replay: nothing may follow but an answer.
    Asked {
        /// Which handshake, for [`super::Handshakes::answer`].
        id: HalfOpenId,
        /// Who: proven to have made this message at some time.
        peer: EntityId,
        /// In which mesh.
        mesh: MeshId,
        /// The peer's life.
        incarnation: Incarnation,
        /// The peer's feature bits.
        features: u64,
        /// The association that the peer wants to resume.
        resume: Option<u64>,
        /// The peer's limits, opaque here.
        limits: Vec<u8>,
        /// The peer's grant, opaque here; empty if it shows none.
        grant: Vec<u8>,
        /// Where the message came from first. That may have been somebody's copy.
        path: Path,
    },
    /// The second message is queued; the keys are ready to open the initiator's first packet. Send
    /// nothing before that packet opened; then call [`super::Handshakes::confirm`].
    Responded {
        /// Which handshake.
        id: HalfOpenId,
        /// Who.
        peer: EntityId,
        /// The peer's life.
        incarnation: Incarnation,
        /// The keys.
        secrets: Secrets,
        /// The receiver index of this side.
        local_index: u32,
        /// The receiver index of the peer.
        remote_index: u32,
        /// The association that the answer named.
        association: u64,
    },
    /// A dial is through: the peer is proven. Send a packet at once; it confirms the handshake.
    Completed {
        /// Which dial.
        id: DialId,
        /// Who.
        peer: EntityId,
        /// In which mesh.
        mesh: MeshId,
        /// The peer's life.
        incarnation: Incarnation,
        /// The peer's feature bits.
        features: u64,
        /// The keys.
        secrets: Secrets,
        /// The receiver index of this side.
        local_index: u32,
        /// The receiver index of the peer.
        remote_index: u32,
        /// The association that the keys are for.
        association: u64,
        /// Whether it is the one that the dial asked to resume.
        resumed: bool,
        /// The peer's limits, opaque here.
        limits: Vec<u8>,
        /// Where the second message came from: one of the dialled paths.
        path: Path,
        /// What it carried for the path that it took. Send it back as a PATH_RESPONSE, in front of all
        /// else, in every packet until one of the peer's opens.
        token: PathToken,
        /// Where the peer saw our first message come from first, if it was UDP; that may have been
        /// somebody's copy.
        observed: Option<SocketAddr>,
    },
    /// A dial ended without a session.
    Failed {
        /// Which dial.
        id: DialId,
        /// Why.
        error: DialFailure,
    },
    /// An accepted handshake was never confirmed, or was replaced; its index is free again.
    Expired {
        /// Which handshake.
        id: HalfOpenId,
        /// The receiver index that the answer gave.
        local_index: u32,
    },
}

/// What was dropped without an answer, by reason. Counts saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Drops {
    /// Not the length of its type.
    pub malformed: u64,
    /// The MAC is not of a mesh of ours, or not for us.
    pub mac1: u64,
    /// An unknown version, in a datagram too short to be answered.
    pub version: u64,
    /// A first message whose handshake is still being worked on and that came from more places than
    /// are remembered, or that is not to be answered at all.
    pub repeated: u64,
    /// A cookie was demanded and sent.
    pub cookie_demanded: u64,
    /// Half-open handshakes or jobs at their limit.
    pub full: u64,
    /// The output queue was full.
    pub output_full: u64,
    /// The first message did not decrypt, or its payload is malformed.
    pub message1: u64,
    /// The claimed entity id is not admissible, or is not the one of the Noise static key.
    pub identity: u64,
    /// Not above the last confirmed handshake of that entity.
    pub replay: u64,
    /// Both slots of that entity are taken and no cookie was proven.
    pub slots: u64,
    /// The version ranges allow a better version than the one used.
    pub downgrade: u64,
    /// A second message, cookie or versions reply that belongs to no dial.
    pub unexpected: u64,
    /// A second message that did not decrypt, or whose payload is malformed.
    pub message2: u64,
    /// A cookie or versions reply that does not authenticate.
    pub reply: u64,
}

impl Drops {
    /// All of them.
    pub const fn total(&self) -> u64 {
        let Self {
            malformed,
            mac1,
            version,
            repeated,
            cookie_demanded,
            full,
            output_full,
            message1,
            identity,
            replay,
            slots,
            downgrade,
            unexpected,
            message2,
            reply,
        } = *self;
        malformed
            + mac1
            + version
            + repeated
            + cookie_demanded
            + full
            + output_full
            + message1
            + identity
            + replay
            + slots
            + downgrade
            + unexpected
            + message2
            + reply
    }
}
