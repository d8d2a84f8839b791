//! Stand-in until the node lands.
#![allow(missing_docs)]

use super::*;
use alloc::vec::Vec;
use thiserror::Error;
use crate::identity::Mesh;
use crate::session::Peer;
use crate::storage::Ticket;
use crate::stream::{Mode, StreamId};
use alloc::sync::Arc;
use crate::identity::{Identity, Incarnation};
use crate::session::aead::CipherSuite;
use crate::time::{Instant, Reason};

#[derive(Clone)]
pub struct Config {
    pub identity: Identity,
    pub meshes: Vec<Mesh>,
    pub incarnation: Incarnation,
    pub ciphers: Arc<dyn CipherSuite>,
    pub accept: bool,
}
impl Config {
    pub fn new(identity: Identity, mesh: Mesh, incarnation: Incarnation) -> Self {
        Self { identity, meshes: alloc::vec![mesh], incarnation, ciphers: Arc::new(crate::session::aead::Portable), accept: true }
    }
}
#[derive(Clone, Copy, Debug, Error)]
#[error("bad configuration")]
pub struct ConfigError;
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeStats;
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerStats;
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamStats;
#[derive(Debug)]
pub struct Taken { pub chunk: Vec<u8>, pub first: u64, pub mode: Mode }
pub struct Node;
#[allow(unused_variables)]
impl Node {
    pub fn new(config: Config, seed: [u8; 32], now: Instant) -> Result<Self, ConfigError> { Ok(Self) }
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {}
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut [u8]) -> Option<Transmit> { None }
    pub fn poll_event(&mut self) -> Option<Event> { None }
    pub fn poll_job(&mut self) -> Option<(Ticket, Job)> { None }
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> { None }
    pub fn take(&mut self, peer: Peer, stream: StreamId, spare: Vec<u8>) -> Option<Taken> { None }
    pub fn spent(&mut self) -> Option<Vec<u8>> { None }
    pub fn stats(&self) -> NodeStats { NodeStats }
    pub fn peer_stats(&self, peer: Peer) -> Option<PeerStats> { None }
    pub fn stream_stats(&self, peer: Peer, stream: StreamId) -> Option<StreamStats> { None }
    pub fn ceiling(&self) -> u64 { 0 }
}
