//! What a node is told at the start; checked once, then trusted.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

use crate::handshake;
use crate::identity::{EntityId, Identity, Incarnation, Mesh};
use crate::session;
use crate::session::aead::{CipherSuite, Portable};
use crate::time::Duration;

/// Whom a node lets in. Asked once the entity id is proven, before anything else happens.
pub type AcceptPolicy = Arc<dyn Fn(&EntityId) -> bool + Send + Sync>;

/// Settings of a node. [`Config::new`] gives values that suit most; all fields may be changed.
#[derive(Clone)]
pub struct Config {
    /// Who this node is.
    pub identity: Identity,
    /// Which life of it this is; must rise with every start (see [`crate::node::boot`]).
    pub incarnation: Incarnation,
    /// One to four meshes; the last is dialled with, all are answered.
    pub meshes: Vec<Mesh>,
    /// The data ciphers.
    pub ciphers: Arc<dyn CipherSuite>,
    /// Who may connect; `None` lets in whoever holds a mesh key.
    pub accept: Option<AcceptPolicy>,
    /// Most associations at once; more are refused.
    pub max_peers: usize,
    /// Most dials at once.
    pub max_dials: usize,
    /// A dial fails after this.
    pub dial_timeout: Duration,
    /// Handshakes per second above which strangers must first return a cookie.
    pub cookie_after: u32,
    /// Most associations that keep alive every `keep_alive`; the rest take 25 s.
    pub max_active: usize,
    /// Everything about single associations: keys, liveness, paths, streams, congestion.
    pub session: session::Config,
    /// Bytes from which windows beyond the first 64 KiB of each association are leased.
    pub window_pool: u64,
    /// Shard number of this node's indices.
    pub shard: u8,
}

impl Config {
    /// The usual settings.
    pub fn new(identity: Identity, mesh: Mesh, incarnation: Incarnation) -> Self {
        Self {
            identity,
            incarnation,
            meshes: alloc::vec![mesh],
            ciphers: Arc::new(Portable),
            accept: None,
            max_peers: 4096,
            max_dials: 256,
            dial_timeout: Duration::from_secs(20),
            cookie_after: 500,
            max_active: 16,
            session: session::Config::default(),
            window_pool: 64 << 20,
            shard: 0,
        }
    }

    /// Checks every field.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.meshes.is_empty() || self.meshes.len() > handshake::MAX_MESHES {
            return Err(ConfigError::Meshes(self.meshes.len()));
        }
        if self.max_peers == 0 || self.max_peers > 16_384 {
            return Err(ConfigError::MaxPeers(self.max_peers));
        }
        if self.max_dials == 0 {
            return Err(ConfigError::Zero("max_dials"));
        }
        let durations = [
            ("dial_timeout", self.dial_timeout),
            ("session.keep_alive", self.session.keep_alive),
            ("session.dead_after", self.session.dead_after),
            ("session.give_up_after", self.session.give_up_after),
            ("session.keys.rekey_after", self.session.keys.rekey_after),
        ];
        if let Some((name, _)) = durations.iter().find(|(_, d)| d.is_zero()) {
            return Err(ConfigError::Zero(name));
        }
        if self.session.dead_after < self.session.keep_alive * 2 {
            return Err(ConfigError::DeadAfter(self.session.dead_after, self.session.keep_alive));
        }
        if self.session.keys.refuse_after <= self.session.keys.rekey_after {
            return Err(ConfigError::RefuseAfter(
                self.session.keys.refuse_after,
                self.session.keys.rekey_after,
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("entity", &self.identity.id()).finish_non_exhaustive()
    }
}

/// Settings that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Too few or too many meshes.
    #[error("{0} meshes are given, 1 to {max} are allowed", max = handshake::MAX_MESHES)]
    Meshes(usize),
    /// Too few or too many peers.
    #[error("max_peers is {0}, 1 to 16384 are allowed")]
    MaxPeers(usize),
    /// A field that may not be zero.
    #[error("{0} may not be zero")]
    Zero(&'static str),
    /// Keep-alives could not keep a session alive.
    #[error("dead_after is {0:?}, it must be at least twice keep_alive ({1:?})")]
    DeadAfter(Duration, Duration),
    /// Keys would be refused before they are renewed.
    #[error("keys.refuse_after is {0:?}, it must be longer than keys.rekey_after ({1:?})")]
    RefuseAfter(Duration, Duration),
}
