//! What the driver tells those who watch: spans and packets for `tracing`, and the qlog.

use net_proto::identity::EntityId;
use net_proto::lane::Plane;
use net_proto::node::{Event, Transmit};
use net_proto::session::{Peer, parse_header};
use net_proto::time::Instant;

use super::Core;
use crate::qlog::Seen;

/// The target of single packets, which are at TRACE.
const PACKETS: &str = "net::packet";

/// Enough of an id to tell nodes apart in a log.
pub(super) fn short(entity: EntityId) -> String {
    entity.to_string().chars().take(8).collect()
}

impl<P: Plane> Core<P> {
    /// Whether anybody wants to know of single packets. One load where nobody does.
    pub(super) fn shows_packets(&self) -> bool {
        self.qlog.is_some() || tracing::enabled!(target: PACKETS, tracing::Level::TRACE)
    }

    /// The span of a session, for what happens to it; the node's where there is none.
    pub(super) fn span(&self, peer: Peer) -> Option<tracing::span::Id> {
        self.spans.get(&peer).unwrap_or(&self.span).id()
    }

    pub(super) fn received(&mut self, now: Instant, seen: &Seen) {
        if let Some(qlog) = &mut self.qlog {
            qlog.received(now, &self.host, seen);
        }
        if tracing::enabled!(target: PACKETS, tracing::Level::TRACE) {
            let peer = seen.peer(self.host.node());
            let span = peer.map_or_else(|| self.span.id(), |peer| self.span(peer));
            let number = seen.header.map(|(_, number)| number);
            let from = &seen.path.remote;
            tracing::trace!(target: PACKETS, parent: span, number, len = seen.len, ?from, "received");
        }
    }

    pub(super) fn sent(&mut self, now: Instant, t: &Transmit, bytes: &[u8]) {
        if let Some(qlog) = &mut self.qlog {
            qlog.sent(now, &self.host, t, bytes);
        }
        if tracing::enabled!(target: PACKETS, tracing::Level::TRACE) {
            let to = &t.path.remote;
            for datagram in bytes.chunks(t.segment.unwrap_or(t.len).max(1)) {
                let span = t.peer.map_or_else(|| self.span.id(), |peer| self.span(peer));
                let number = parse_header(datagram).map(|(_, number)| number);
                tracing::trace!(target: PACKETS, parent: span, number, len = datagram.len(), ?to, "sent");
            }
        }
    }

    /// Everything that the node tells passes here first.
    pub(super) fn follow(&mut self, event: &Event) {
        if let Event::Connected { peer, entity, .. } = event
            && !self.spans.contains_key(peer)
        {
            let span =
                tracing::info_span!(target: "net", parent: &self.span, "session", peer = %short(*entity));
            if !span.is_disabled() {
                self.spans.insert(*peer, span);
            }
        }
        if let Some(qlog) = &mut self.qlog {
            qlog.told(self.host.now(), &self.host, event);
        }
    }

    /// Hands what was written to the system, before the driver sleeps.
    pub(super) fn flush(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.flush();
        }
        if let Some(qlog) = &mut self.qlog {
            qlog.flush();
        }
    }
}
