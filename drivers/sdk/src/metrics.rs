//! Figures for the `metrics` facade (feature `metrics`): whatever recorder the application installed, such
//! as an exporter for Prometheus, gets them.
//!
//! Counters and gauges are the fields of [`NodeStats`], [`PeerStats`] and [`PathStats`] under their own
//! names, behind `net_node_` and `net_peer_`; times are in seconds. `docs/OBSERVABILITY.md` lists them.

use std::sync::Arc;
use std::time::Duration;

use ::metrics::{counter, gauge};
use net_proto::node::{NodeStats, PathStats, PeerStats};

use crate::{Mesh, Result, rt};

impl Mesh {
    /// Publishes the node's figures and those of each peer once, labelled with `node` and `peer`.
    /// Dropping the future publishes less.
    pub async fn publish_metrics(&self) -> Result<()> {
        let node = self.id().to_string();
        publish_node(&node, &self.stats().await?, self.ceiling().await?);
        for peer in self.peers() {
            // It may have gone meanwhile.
            let (Ok(stats), Ok(paths)) = (peer.stats().await, peer.paths().await) else { continue };
            publish_peer(&node, &peer.id().to_string(), &stats, paths.first());
        }
        Ok(())
    }

    /// The same every `interval` until the mesh ends; the task does not keep it alive. What was published
    /// last of a peer that is gone stays with the recorder, most of which forget what is idle if asked.
    pub fn publish_metrics_every(&self, interval: Duration) {
        let weak = Arc::downgrade(&self.inner);
        let publish = async move {
            loop {
                // The mesh ends while this task sleeps, too.
                let Some(inner) = weak.upgrade() else { return };
                if (Self { inner }).publish_metrics().await.is_err() {
                    return;
                }
                rt::sleep(interval).await;
            }
        };
        drop(rt::spawn_on(self.rt(), publish));
    }
}

/// Values of one thing, all with the same labels.
macro_rules! publish {
    (@ counter $name:literal, $labels:expr, $value:expr) => { counter!($name, $labels).absolute($value) };
    (@ gauge $name:literal, $labels:expr, $value:expr) => { gauge!($name, $labels).set($value) };
    ($labels:expr; $($kind:ident $name:literal = $value:expr;)*) => {
        $(publish!(@ $kind $name, $labels, $value);)*
    };
}

fn publish_node(node: &str, s: &NodeStats, ceiling: u64) {
    let labels = [("node", node.to_string())];
    publish! { &labels;
        gauge "net_node_peers" = s.peers as f64;
        gauge "net_node_ceiling_bytes" = ceiling as f64;
        counter "net_node_epochs" = s.epochs;
        counter "net_node_datagrams_sent" = s.datagrams_sent;
        counter "net_node_bytes_sent" = s.bytes_sent;
        counter "net_node_datagrams_received" = s.datagrams_received;
        counter "net_node_bytes_received" = s.bytes_received;
        counter "net_node_lost_messages" = s.lost.messages;
        counter "net_node_lost_bytes" = s.lost.bytes;
        counter "net_node_handshake_drops" = s.handshake.total();
    }
    let drops = [
        ("malformed", s.drops.malformed),
        ("unknown_index", s.drops.unknown_index),
        ("replayed", s.drops.replayed),
        ("forged", s.drops.forged),
        ("unfitting", s.drops.unfitting),
        ("path", s.drops.path),
    ];
    for (reason, count) in drops {
        counter!("net_node_drops", "node" => node.to_string(), "reason" => reason).absolute(count);
    }
}

fn publish_peer(node: &str, peer: &str, s: &PeerStats, path: Option<&PathStats>) {
    let labels = [("node", node.to_string()), ("peer", peer.to_string())];
    publish! { &labels;
        gauge "net_peer_rtt_seconds" = s.rtt.as_secs_f64();
        gauge "net_peer_rtt_min_seconds" = s.rtt_min.as_secs_f64();
        gauge "net_peer_idle_seconds" = s.idle.as_secs_f64();
        gauge "net_peer_window_bytes" = s.window as f64;
        gauge "net_peer_in_flight_bytes" = s.in_flight as f64;
        gauge "net_peer_datagram_size_bytes" = f64::from(s.datagram_size);
        gauge "net_peer_streams" = s.streams as f64;
        counter "net_peer_packets_sent" = s.packets_sent;
        counter "net_peer_bytes_sent" = s.bytes_sent;
        counter "net_peer_packets_received" = s.packets_received;
        counter "net_peer_bytes_received" = s.bytes_received;
        counter "net_peer_packets_lost" = s.packets_lost;
        counter "net_peer_spurious_losses" = s.spurious_losses;
        counter "net_peer_retransmitted_bytes" = s.retransmitted;
        counter "net_peer_probes" = s.probes;
        counter "net_peer_ecn_marks" = s.ecn_marks;
        counter "net_peer_epochs" = s.epochs;
    }
    if let Some(path) = path {
        gauge!("net_peer_pacing_bytes_per_second", &labels).set(path.pacing_rate as f64);
    }
}
