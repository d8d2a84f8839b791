//! What a recorded node was made of.

use std::sync::Arc;

use net_proto::entropy::Entropy;
use net_proto::identity::{EntityId, Identity, Incarnation, Mesh, MeshId, MeshKey};
use net_proto::lane::{NoPlanes, Plane};
use net_proto::node::Config;
use net_proto::session;
use net_proto::time::{Duration, Instant};
use serde::{Deserialize, Serialize};

use crate::aead::Native;

/// What a node was made of, to make it again.
#[derive(Clone, Serialize, Deserialize)]
pub struct Header {
    seed: [u8; 32],
    at: Instant,
    identity: [u8; 32],
    meshes: Vec<Mesh>,
    incarnation: Incarnation,
    /// The ciphers that its processor was good for.
    ciphers: u8,
    /// A policy decided who may connect.
    policy: bool,
    session: session::Config,
    max_peers: usize,
    max_dials: usize,
    max_active: usize,
    dial_timeout: Duration,
    cookie_after: u32,
    window_pool: u64,
    shard: u8,
    planes: String,
}

/// What planes are made of: the same in a node and in its replay.
#[derive(Clone)]
#[non_exhaustive]
pub struct PlaneStart {
    /// Who the node is; signs.
    pub identity: Identity,
    /// Which life of the node this is.
    pub incarnation: Incarnation,
    /// Feeds every random choice of the planes.
    pub seed: [u8; 32],
    /// When the node starts.
    pub at: Instant,
}

/// Without the secrets.
impl std::fmt::Debug for PlaneStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlaneStart").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Header {
    /// Of the node that `seed` and `config` make at `at`, with planes of type `P`.
    pub fn new<P: Plane>(seed: [u8; 32], at: Instant, config: &Config) -> Self {
        // Every field is named: a new one belongs into the record, or the replay differs.
        let Config {
            identity,
            incarnation,
            meshes,
            ciphers,
            accept,
            max_peers,
            max_dials,
            dial_timeout,
            cookie_after,
            max_active,
            session,
            window_pool,
            shard,
        } = config;
        Self {
            seed,
            at,
            identity: identity.seed(),
            meshes: meshes.clone(),
            incarnation: *incarnation,
            ciphers: ciphers.offered(),
            policy: accept.is_some(),
            session: session.clone(),
            max_peers: *max_peers,
            max_dials: *max_dials,
            max_active: *max_active,
            dial_timeout: *dial_timeout,
            cookie_after: *cookie_after,
            window_pool: *window_pool,
            shard: *shard,
            planes: std::any::type_name::<P>().into(),
        }
    }

    /// The configuration of the recorded node. A policy's answers come from the record.
    pub fn config(&self) -> Config {
        let mesh = self.meshes.first().cloned();
        let mesh = mesh.unwrap_or_else(|| Mesh { id: MeshId([0; 32]), key: MeshKey([0; 32]) });
        let identity = Identity::from_seed(&self.identity);
        Config {
            meshes: self.meshes.clone(),
            ciphers: Arc::new(Native::offering(self.ciphers)),
            session: self.session.clone(),
            max_peers: self.max_peers,
            max_dials: self.max_dials,
            max_active: self.max_active,
            dial_timeout: self.dial_timeout,
            cookie_after: self.cookie_after,
            window_pool: self.window_pool,
            shard: self.shard,
            ..Config::new(identity, mesh, self.incarnation)
        }
    }

    /// Who the node is.
    pub fn entity(&self) -> EntityId {
        Identity::from_seed(&self.identity).id()
    }

    /// When the node started, by its own clock.
    pub const fn at(&self) -> Instant {
        self.at
    }

    /// The type of its planes, where the node had any: a replay needs the same.
    pub fn planes_type(&self) -> Option<&str> {
        (self.planes != std::any::type_name::<NoPlanes>()).then_some(&self.planes)
    }

    pub(super) const fn seed(&self) -> [u8; 32] {
        self.seed
    }

    pub(super) const fn policy(&self) -> bool {
        self.policy
    }

    /// What the planes of this node are made of.
    pub fn planes(&self) -> PlaneStart {
        PlaneStart {
            identity: Identity::from_seed(&self.identity),
            incarnation: self.incarnation,
            seed: Entropy::new(&self.seed, "planes").array(),
            at: self.at,
        }
    }
}

/// Without the secrets.
impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Header").field("at", &self.at).finish_non_exhaustive()
    }
}
