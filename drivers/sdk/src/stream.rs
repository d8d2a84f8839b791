//! A stream of messages, both directions.

use bytes::Bytes;
use net_proto::identity::EntityId;
use net_proto::node::StreamStats;
use net_proto::stream::Mode;

use crate::Result;

/// A stream of messages. Clones share it.
#[derive(Clone, Debug)]
pub struct Stream {}

#[allow(unused_variables, missing_docs)]
impl Stream {
    pub fn label(&self) -> &str {
        todo!()
    }
    pub fn peer(&self) -> EntityId {
        todo!()
    }
    pub fn mode(&self) -> Mode {
        todo!()
    }
    pub async fn send(&self, message: &[u8]) -> Result<()> {
        todo!()
    }
    pub fn try_send(&self, message: &[u8]) -> Result<()> {
        todo!()
    }
    pub async fn send_batch<M: AsRef<[u8]>>(&self, messages: &[M]) -> Result<()> {
        todo!()
    }
    pub fn try_send_batch<M: AsRef<[u8]>>(&self, messages: &[M]) -> Result<()> {
        todo!()
    }
    pub async fn flush(&self) -> Result<()> {
        todo!()
    }
    pub async fn finish(&self) -> Result<()> {
        todo!()
    }
    pub fn reset(&self, code: u16) {
        todo!()
    }
    pub fn stop(&self, code: u16) {
        todo!()
    }
    pub async fn recv(&self) -> Result<Option<Bytes>> {
        todo!()
    }
    pub async fn recv_with<R>(&self, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        todo!()
    }
    pub async fn recv_many(&self, max: usize, read: impl FnMut(&[u8])) -> Result<usize> {
        todo!()
    }
    pub async fn stats(&self) -> Result<StreamStats> {
        todo!()
    }
}
