//! What a runtime brings. `docs/RUNTIMES.md` is the contract.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use net_proto::path::Ecn;
use net_proto::storage::Storage;
use net_proto::time::{Instant, WallClock};

/// A task.
pub type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// A runtime, used as `Arc<dyn Runtime>`.
pub trait Runtime: Send + Sync + 'static {}

#[allow(dead_code)]
fn _unused(
    _: &Path,
    _: &dyn Storage,
    _: Instant,
    _: WallClock,
    _: io::Result<()>,
    _: SocketAddr,
    _: IpAddr,
    _: Ecn,
    _: &mut Context<'_>,
    _: Poll<()>,
    _: IoSliceMut<'_>,
) {
}
