//! From the node to the sockets. One batch is kept while its socket is full.

use std::io::ErrorKind;
use std::sync::Arc;
use std::task::{Context, Poll};

use net_proto::lane::Plane;
use net_proto::node;
use net_proto::time::{Duration, Instant};

use super::Core;
use crate::runtime::{Transmit, UdpTx};

/// Bytes of one batch: what fits into the largest UDP datagram of either family.
pub(super) const BATCH: usize = 65_000;
/// When to try again where the system does not say when.
const RETRY: Duration = Duration::from_millis(1);

/// Why sending stopped.
pub(super) enum Flow {
    /// The node has nothing to send.
    Idle,
    /// Something left; there may be more.
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

    /// Sends the next batch.
    pub(super) fn transmit<P: Plane>(
        &mut self,
        core: &mut Core<P>,
        cx: &mut Context<'_>,
        now: Instant,
    ) -> Flow {
        if self.pending.is_none() {
            let Some(t) = core.poll_transmit(now, &mut self.buffer) else { return Flow::Idle };
            self.pending = Some((t, 0));
        }
        self.send(cx, now).unwrap_or(Flow::More)
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

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::task::Waker;

    use net_proto::path::{Ecn, Path};

    use super::*;
    use crate::bell::lock;
    use crate::runtime::UdpCaps;

    /// A socket that answers as its script says, then takes everything.
    struct Scripted {
        answers: Mutex<Vec<io::ErrorKind>>,
        segments: Mutex<usize>,
        sent: Mutex<Vec<Vec<u8>>>,
    }

    impl UdpTx for Scripted {
        fn caps(&self) -> UdpCaps {
            let segments = *lock(&self.segments);
            UdpCaps {
                segments,
                gro_segments: 1,
                ecn: true,
                may_fragment: false,
                send_buffer: 0,
                recv_buffer: 0,
            }
        }
        fn local_addr(&self) -> SocketAddr {
            SocketAddr::from(([127, 0, 0, 1], 1))
        }
        fn try_send(&self, t: &Transmit<'_>) -> io::Result<()> {
            if let Some(kind) = lock(&self.answers).pop() {
                if kind == ErrorKind::Unsupported {
                    *lock(&self.segments) = 1;
                }
                return Err(kind.into());
            }
            let count = t.segment.map_or(1, |size| t.data.len().div_ceil(size));
            assert!(count <= *lock(&self.segments), "a batch of {count}");
            lock(&self.sent).extend(t.data.chunks(t.segment.unwrap_or(t.data.len())).map(<[u8]>::to_vec));
            Ok(())
        }
        fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    /// Sends one batch of 10 datagrams through a socket with this script; the flows that came back.
    fn send(mut answers: Vec<io::ErrorKind>) -> (Vec<String>, Vec<Vec<u8>>) {
        answers.reverse();
        let socket = Arc::new(Scripted {
            answers: Mutex::new(answers),
            segments: Mutex::new(4),
            sent: Mutex::default(),
        });
        let mut output = Output::new(vec![socket.clone()]);
        let len = 10 * 100 - 30;
        (0..len).for_each(|i| output.buffer[i] = (i / 100) as u8);
        let path = Path::udp(SocketAddr::from(([127, 0, 0, 1], 2)));
        output.pending =
            Some((node::Transmit { path, ecn: Ecn::Ect0, len, segment: Some(100), peer: None }, 0));
        let mut flows = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        while output.blocked() {
            match output.send(&mut cx, Instant::ZERO) {
                None => flows.push("sent".into()),
                Some(Flow::Blocked(retry)) => flows.push(format!("blocked {retry:?}")),
                Some(_) => flows.push("?".into()),
            }
        }
        let sent = std::mem::take(&mut *lock(&socket.sent));
        (flows, sent)
    }

    fn all() -> Vec<Vec<u8>> {
        (0..10).map(|i| vec![i; if i == 9 { 70 } else { 100 }]).collect()
    }

    #[test]
    fn a_full_socket_keeps_what_was_not_sent() {
        let (flows, sent) = send(vec![ErrorKind::WouldBlock, ErrorKind::ResourceBusy, ErrorKind::WouldBlock]);
        let retry = format!("blocked {:?}", Some(Instant::ZERO + RETRY));
        assert_eq!(flows, ["blocked None", retry.as_str(), "blocked None", "sent"]);
        assert_eq!(sent, all(), "every datagram once, in order");
    }

    #[test]
    fn a_socket_that_loses_its_batches_goes_on_one_by_one() {
        let (flows, sent) = send(vec![ErrorKind::Unsupported, ErrorKind::WouldBlock]);
        assert_eq!(flows, ["blocked None", "sent"]);
        assert_eq!(sent, all());
    }

    #[test]
    fn a_datagram_that_cannot_be_sent_is_dropped_and_the_next_go_on() {
        let (flows, sent) = send(vec![ErrorKind::PermissionDenied]);
        assert_eq!(flows, ["sent"]);
        assert_eq!(sent, all()[4..], "the refused batch of four is lost, as on the way");
    }
}
