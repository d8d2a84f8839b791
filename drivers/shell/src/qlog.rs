//! What a node does, as qlog: events for tools that draw connections.
//!
//! A file in the form of draft-ietf-quic-qlog-main-schema-02 (`qlog_version` 0.3, `JSON-SEQ`: each record
//! behind the byte 0x1e of RFC 7464), with the event names of draft-ietf-quic-qlog-quic-events-02.
//! `docs/OBSERVABILITY.md` lists them. It is made from what passes between node and driver: the node
//! itself knows nothing of it.
//!
//! No keys and no content are in it; addresses, identities, labels, sizes and times are. Its mode is 0600.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path as FilePath;

use net_proto::identity::EntityId;
use net_proto::lane::Plane;
use net_proto::node::{Event, Host, Node, NodeStats, PathStats, Transmit};
use net_proto::path::Path;
use net_proto::recovery::EcnState;
use net_proto::session::{DATA, Peer, parse_header};
use net_proto::stream::StreamId;
use net_proto::time::{Duration, Instant};
use serde_json::{Map, Value, json};

use crate::trace::create_secret;

/// What is known of a datagram before the node opens it in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub path: Path,
    pub len: usize,
    kind: Option<u8>,
    /// Index and number, of a data packet.
    pub header: Option<(u32, u64)>,
    drops: u64,
}

impl Seen {
    pub(crate) fn new<P: Plane>(host: &Host<P>, path: Path, data: &[u8]) -> Self {
        let drops = drops(&host.stats());
        Self { path, len: data.len(), kind: data.first().copied(), header: parse_header(data), drops }
    }

    /// Whose packet it is, if it is one of an association.
    pub(crate) fn peer(&self, node: &Node) -> Option<Peer> {
        node.owner(self.header?.0)
    }
}

/// All datagrams that were dropped.
fn drops(stats: &NodeStats) -> u64 {
    stats.drops.total() + stats.handshake.total()
}

/// The figures of a peer that were written last.
struct Known {
    group: String,
    path: Option<PathStats>,
    epochs: u64,
}

/// Writes a qlog. After an error it stops, with a warning; the node goes on.
pub struct Qlog {
    file: Option<BufWriter<File>>,
    start: Instant,
    peers: HashMap<Peer, Known>,
}

impl std::fmt::Debug for Qlog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qlog").finish_non_exhaustive()
    }
}

impl Qlog {
    /// Creates the file, which may not exist yet. `start` is the node's time at which it begins, `unix`
    /// the time of the wall clock then.
    pub fn create(path: &FilePath, entity: EntityId, start: Instant, unix: Duration) -> io::Result<Self> {
        let mut file = BufWriter::with_capacity(1 << 16, create_secret(path)?);
        let header = json!({
            "qlog_version": "0.3",
            "qlog_format": "JSON-SEQ",
            "title": format!("net node {entity}"),
            "trace": {
                "vantage_point": { "name": entity.to_string(), "type": "unknown" },
                "common_fields": {
                    "time_format": "relative",
                    "reference_time": unix.as_secs_f64() * 1e3,
                    "protocol_type": ["NET"],
                },
            },
        });
        writeln!(file, "\x1e{header}")?;
        file.flush()?;
        Ok(Self { file: Some(file), start, peers: HashMap::new() })
    }

    /// Hands what was written to the system, so that it outlives the process.
    pub(crate) fn flush(&mut self) {
        if let Some(Err(error)) = self.file.as_mut().map(Write::flush) {
            self.stop(&error);
        }
    }

    fn stop(&mut self, error: &io::Error) {
        tracing::warn!(%error, "the qlog ends here");
        self.file = None;
    }

    fn write(&mut self, now: Instant, peer: Option<Peer>, name: &str, data: Value) {
        let Some(file) = &mut self.file else { return };
        let mut event = Map::new();
        // Milliseconds, to the microsecond.
        let time = now.since(self.start).as_micros() as f64 / 1e3;
        event.insert("time".into(), time.into());
        event.insert("name".into(), name.into());
        if let Some(known) = peer.and_then(|peer| self.peers.get(&peer)) {
            event.insert("group_id".into(), known.group.as_str().into());
        }
        event.insert("data".into(), data);
        if let Err(error) = writeln!(file, "\x1e{}", Value::Object(event)) {
            self.stop(&error);
        }
    }

    /// A datagram was given to the node.
    pub(crate) fn received<P: Plane>(&mut self, now: Instant, host: &Host<P>, seen: &Seen) {
        let peer = seen.peer(host.node());
        let header = packet(seen.kind, seen.header);
        if drops(&host.stats()) > seen.drops {
            let data =
                json!({ "header": header, "raw": { "length": seen.len }, "trigger": "dropped_by_net" });
            self.write(now, peer, "transport:packet_dropped", data);
        } else {
            let data = json!({ "header": header, "raw": { "length": seen.len } });
            self.write(now, peer, "transport:packet_received", data);
        }
        self.measured(now, host, peer);
    }

    /// The node gave out datagrams.
    pub(crate) fn sent<P: Plane>(&mut self, now: Instant, host: &Host<P>, t: &Transmit, bytes: &[u8]) {
        for datagram in bytes.chunks(t.segment.unwrap_or(bytes.len()).max(1)) {
            let header = packet(datagram.first().copied(), parse_header(datagram));
            let data = json!({ "header": header, "raw": { "length": datagram.len() } });
            self.write(now, t.peer, "transport:packet_sent", data);
        }
        self.measured(now, host, t.peer);
    }

    /// Writes which figures of a peer changed since they were written.
    fn measured<P: Plane>(&mut self, now: Instant, host: &Host<P>, peer: Option<Peer>) {
        let Some(peer) = peer else { return };
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let Some(new) = host.node().path_stats(peer).find(|path| path.active) else { return };
        let epochs = host.node().peer_stats(peer).map_or(known.epochs, |stats| stats.epochs);
        let rekeyed = std::mem::replace(&mut known.epochs, epochs) != epochs;
        // Another path: everything is new.
        let old = known.path.replace(new).filter(|old| old.path == new.path);
        if rekeyed {
            let data = json!({ "key_type": "1rtt_secret", "generation": epochs });
            self.write(now, Some(peer), "security:key_updated", data);
        }
        let mut metrics = Map::new();
        for (name, value) in figures(&new) {
            let same = old.as_ref().is_some_and(|old| figures(old).any(|(n, v)| n == name && v == value));
            if !same {
                metrics.insert(name.into(), value);
            }
        }
        if !metrics.is_empty() {
            self.write(now, Some(peer), "recovery:metrics_updated", Value::Object(metrics));
        }
        let before = old.as_ref();
        let lost = new.packets_lost.saturating_sub(before.map_or(0, |old| old.packets_lost));
        if lost > 0 {
            let bytes = new.bytes_lost.saturating_sub(before.map_or(0, |old| old.bytes_lost));
            let data = json!({ "net_packets": lost, "raw": { "length": bytes } });
            self.write(now, Some(peer), "recovery:packet_lost", data);
        }
        if before.map(phase) != Some(phase(&new)) {
            let data = json!({ "old": before.map(phase), "new": phase(&new) });
            self.write(now, Some(peer), "recovery:congestion_state_updated", data);
        }
        if before.map(|old| old.ecn) != Some(new.ecn) {
            let data = json!({ "old": before.map(|old| ecn(old.ecn)), "new": ecn(new.ecn) });
            self.write(now, Some(peer), "recovery:ecn_state_updated", data);
        }
        if before.is_some_and(|old| old.datagram_size != new.datagram_size) {
            let data = json!({ "old": before.map(|old| old.datagram_size), "new": new.datagram_size, "done": false });
            self.write(now, Some(peer), "connectivity:mtu_updated", data);
        }
    }

    /// The node told something.
    pub(crate) fn told<P: Plane>(&mut self, now: Instant, host: &Host<P>, event: &Event) {
        match event {
            Event::Connected { peer, entity, path, cipher, dial } => {
                if self.peers.contains_key(peer) {
                    return;
                }
                let known = Known { group: entity.to_string(), path: None, epochs: 0 };
                self.peers.insert(*peer, known);
                let mut data = address(path);
                data.insert("protocol".into(), "NET".into());
                data.insert("net_dialled".into(), dial.is_some().into());
                self.write(now, Some(*peer), "connectivity:connection_started", Value::Object(data));
                let data = json!({ "owner": "local", "tls_cipher": cipher.name() });
                self.write(now, Some(*peer), "transport:parameters_set", data);
                self.measured(now, host, Some(*peer));
            }
            Event::Disconnected { peer, reason, lost, .. } => {
                let data = json!({
                    "reason": reason.to_string(), "net_lost_messages": lost.messages, "net_lost_bytes": lost.bytes,
                });
                self.write(now, Some(*peer), "connectivity:connection_closed", data);
                self.peers.remove(peer);
            }
            Event::PathChanged { peer, path } => {
                self.write(now, Some(*peer), "connectivity:path_updated", Value::Object(address(path)));
            }
            Event::StreamReady { peer, stream, .. } => self.stream(now, *peer, *stream, "open", json!({})),
            Event::StreamOpened { peer, stream, label, mode, .. } => {
                let more = json!({ "net_label": label, "net_mode": format!("{mode:?}") });
                self.stream(now, *peer, *stream, "open", more);
            }
            Event::Finished { peer, stream } => {
                self.stream(now, *peer, *stream, "half_closed_remote", json!({}));
            }
            Event::ResetByPeer { peer, stream, code } => {
                self.stream(now, *peer, *stream, "reset_received", json!({ "net_code": code }));
            }
            Event::StoppedByPeer { peer, stream, code } => {
                self.stream(now, *peer, *stream, "half_closed_local", json!({ "net_code": code }));
            }
            Event::StreamClosed { peer, stream, lost } => {
                self.stream(now, *peer, *stream, "closed", json!({ "net_lost_messages": lost.messages }));
            }
            _ => {}
        }
    }

    fn stream(&mut self, now: Instant, peer: Peer, stream: StreamId, state: &str, mut data: Value) {
        data["stream_id"] = stream.0.into();
        data["stream_type"] = "bidirectional".into();
        data["new"] = state.into();
        self.write(now, Some(peer), "transport:stream_state_updated", data);
    }
}

/// A packet's header, as far as it is in the clear. The kinds are those of QUIC that stand in the same place.
fn packet(kind: Option<u8>, header: Option<(u32, u64)>) -> Value {
    match (kind, header) {
        (Some(DATA), Some((index, number))) => {
            json!({ "packet_type": "1RTT", "packet_number": number, "dcid": format!("{index:08x}") })
        }
        (Some(1), _) => json!({ "packet_type": "initial" }),
        (Some(2), _) => json!({ "packet_type": "handshake" }),
        (Some(3), _) => json!({ "packet_type": "retry" }),
        (Some(4), _) => json!({ "packet_type": "version_negotiation" }),
        _ => json!({ "packet_type": "unknown" }),
    }
}

/// The figures of `recovery:metrics_updated`: times in milliseconds, the rate in bits a second.
fn figures(p: &PathStats) -> impl Iterator<Item = (&'static str, Value)> {
    let ms = |time: Duration| Value::from(time.as_micros() as f64 / 1e3);
    let threshold = p.slow_start_threshold.map(|bytes| ("ssthresh", Value::from(bytes)));
    let sampled = p.rtt_min > Duration::ZERO;
    let rtt = sampled.then(|| {
        [
            ("smoothed_rtt", ms(p.rtt)),
            ("latest_rtt", ms(p.rtt_latest)),
            ("min_rtt", ms(p.rtt_min)),
            ("rtt_variance", ms(p.rtt_variation)),
        ]
    });
    [
        ("congestion_window", p.window.into()),
        ("bytes_in_flight", p.in_flight.into()),
        ("packets_in_flight", p.packets_in_flight.into()),
        ("pto_count", p.probes_in_row.into()),
        ("pacing_rate", p.pacing_rate.saturating_mul(8).into()),
    ]
    .into_iter()
    .chain(threshold)
    .chain(rtt.into_iter().flatten())
}

const fn phase(p: &PathStats) -> &'static str {
    if p.slow_start { "slow_start" } else { "congestion_avoidance" }
}

const fn ecn(state: EcnState) -> &'static str {
    match state {
        EcnState::Testing => "testing",
        EcnState::Capable => "capable",
        EcnState::Failed => "failed",
    }
}

fn address(path: &Path) -> Map<String, Value> {
    let mut data = Map::new();
    if let Some(addr) = path.udp_addr() {
        data.insert("dst_ip".into(), addr.ip().to_string().into());
        data.insert("dst_port".into(), addr.port().into());
    }
    if let Some(local) = path.local {
        data.insert("src_ip".into(), local.to_string().into());
    }
    data
}
