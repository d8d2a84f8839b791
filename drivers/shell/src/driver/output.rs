//! From the node to the sockets. One batch is kept while its socket is full.

use std::io::ErrorKind;
use std::sync::Arc;
use std::task::{Context, Poll};

use net_proto::node;
use net_proto::time::{Duration, Instant};

use super::Core;
use crate::runtime::{Runtime, Transmit, UdpTx};

/// Bytes of one batch: what fits into the largest UDP datagram of either family.
const BATCH: usize = 65_000;
/// When to try again where the system does not say when.
const RETRY: Duration = Duration::from_millis(1);

/// Why sending stopped.
pub(super) enum Flow {
    /// The node has nothing to send.
    Idle,
    /// The time is up.
    More,
    /// The socket is full; its readiness wakes the task, or the time does.
    Blocked(Option<Instant>),
}

pub(super) struct Output {
    sockets: Vec<Arc<dyn UdpTx>>,
    buffer: Vec<u8>,
    /// What lies in `buffer`, and how much of it was sent.
    pending: Option<(node::Transmit, usize)>,
}

impl Output {
    pub(super) fn new(sockets: Vec<Arc<dyn UdpTx>>) -> Self {
        Self { sockets, buffer: vec![0; BATCH], pending: None }
    }

    /// Lets go of the sockets.
    pub(super) fn close(&mut self) {
        self.sockets.clear();
        self.pending = None;
    }

    pub(super) fn blocked(&self) -> bool {
        self.pending.is_some()
    }

    pub(super) fn transmit(
        &mut self,
        core: &mut Core,
        runtime: &dyn Runtime,
        cx: &mut Context<'_>,
        now: Instant,
        until: Instant,
    ) -> Flow {
        let mut now = now;
        loop {
            if self.pending.is_none() {
                let Some(t) = core.poll_transmit(now, &mut self.buffer) else { return Flow::Idle };
                self.pending = Some((t, 0));
            }
            if let Some(flow) = self.send(cx, now) {
                return flow;
            }
            now = runtime.now();
            if now >= until {
                return Flow::More;
            }
        }
    }

    /// Sends what is pending; says why it could not.
    fn send(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Flow> {
        let (t, sent) = self.pending.as_mut()?;
        let socket = self.sockets.get(usize::from(t.path.socket));
        let (Some(socket), Some(to)) = (socket, t.path.udp_addr()) else {
            tracing::debug!(path = ?t.path, "a path without a socket");
            self.pending = None;
            return None;
        };
        while *sent < t.len {
            let rest = &self.buffer[*sent..t.len.min(self.buffer.len())];
            let segment = t.segment.filter(|size| *size > 0 && *size < rest.len());
            let most = match segment {
                Some(size) => size.saturating_mul(socket.caps().segments.max(1)).min(rest.len()),
                None => rest.len(),
            };
            if most == 0 {
                break;
            }
            let data = &rest[..most];
            let segment = segment.filter(|size| *size < data.len());
            let batch = Transmit { to, from: t.path.local, ecn: t.ecn, data, segment };
            match socket.try_send(&batch) {
                Ok(()) => *sent += most,
                // From now on one by one.
                Err(e)
                    if e.kind() == ErrorKind::Unsupported
                        && segment.is_some()
                        && socket.caps().segments < 2 => {}
                Err(e) if e.kind() == ErrorKind::ResourceBusy => {
                    return Some(Flow::Blocked(Some(now + RETRY)));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => match socket.poll_writable(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Some(Flow::Blocked(Some(now + RETRY))),
                    Poll::Pending => return Some(Flow::Blocked(None)),
                },
                // Too large for the interface, no route, refused by a firewall: the datagram is
                // lost, and loss recovery or the size search learns of it.
                Err(error) => {
                    tracing::debug!(%error, %to, len = data.len(), "send");
                    *sent += most;
                }
            }
        }
        self.pending = None;
        None
    }
}
