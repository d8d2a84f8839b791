//! `net stats`: what a node that runs on this machine counts, over a socket in its state directory.
//!
//! The directory has mode 0700: whoever may read the node's keys may read its counters. One
//! connection gets one snapshot, a JSON object on one line.

use std::path::Path;
use std::time::Duration;

use net_sdk::{EcnState, Mesh, Mode, PathStats, PeerStats, StreamReport};
use serde_json::{Value, json};

use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::output::{Output, millis, printable, several, size};
use crate::{args, state};

/// The socket's name in the state directory.
#[cfg(unix)]
const SOCKET: &str = "control.sock";

/// Streams of one peer that are shown to people; JSON has them all.
#[cfg(unix)]
const SHOWN: usize = 8;

/// Answers `net stats` until the mesh ends. Without it everything else works, so a failure is only told.
#[cfg(unix)]
pub fn serve(mesh: &Mesh, dir: &Path, output: Output) {
    use tokio::io::AsyncWriteExt;
    let path = dir.join(SOCKET);
    // The directory is locked by this process: a socket that lies there is a dead one's.
    _ = std::fs::remove_file(&path);
    let listener = match tokio::net::UnixListener::bind(&path) {
        Ok(listener) => listener,
        Err(e) => {
            return output.note(format!("`net stats` will not reach this node: {}: {e}", path.display()));
        }
    };
    let mesh = mesh.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let Ok(snapshot) = snapshot(&mesh).await else { return };
            _ = stream.write_all(format!("{snapshot}\n").as_bytes()).await;
        }
    });
}

/// There is no such socket here.
#[cfg(not(unix))]
pub fn serve(_: &Mesh, _: &Path, _: Output) {}

/// Everything that the node counts.
#[cfg(unix)]
async fn snapshot(mesh: &Mesh) -> Result<Value> {
    let mut peers = Vec::new();
    for peer in mesh.peers() {
        // It may have gone meanwhile.
        let (Ok(stats), Ok(paths), Ok(streams)) =
            (peer.stats().await, peer.paths().await, peer.streams().await)
        else {
            continue;
        };
        let mut value = of_peer(&peer.id().to_string(), &stats);
        value["paths"] = paths.iter().map(of_path).collect();
        value["open_streams"] = streams.iter().map(of_stream).collect();
        peers.push(value);
    }
    let node = serde_json::to_value(mesh.stats().await?).map_err(Failure::failed)?;
    Ok(json!({
        "event": "stats", "id": mesh.id().to_string(), "bound": mesh.local_addrs(),
        "ceiling_bytes": mesh.ceiling().await?, "node": node, "peers": peers,
    }))
}

#[cfg(unix)]
fn of_peer(id: &str, s: &PeerStats) -> Value {
    json!({
        "id": id, "addr": s.path.udp_addr().map(|a| a.to_string()), "cipher": s.cipher.name(),
        "age_s": s.age.as_secs_f64(), "rtt_us": s.rtt.as_micros() as u64, "rtt_min_us": s.rtt_min.as_micros() as u64,
        "window": s.window, "in_flight": s.in_flight, "datagram_size": s.datagram_size,
        "packets_sent": s.packets_sent, "bytes_sent": s.bytes_sent, "packets_received": s.packets_received,
        "bytes_received": s.bytes_received, "packets_lost": s.packets_lost, "spurious_losses": s.spurious_losses,
        "retransmitted_bytes": s.retransmitted, "idle_us": s.idle.as_micros() as u64,
        "probes": s.probes, "ecn_marks": s.ecn_marks, "epochs": s.epochs, "streams": s.streams,
    })
}

#[cfg(unix)]
fn of_path(p: &PathStats) -> Value {
    let micros = |time: Duration| time.as_micros() as u64;
    json!({
        "addr": p.path.udp_addr().map(|a| a.to_string()), "active": p.active, "validated": p.validated,
        "rtt_us": micros(p.rtt), "rtt_latest_us": micros(p.rtt_latest), "rtt_min_us": micros(p.rtt_min),
        "rtt_variation_us": micros(p.rtt_variation), "window": p.window, "slow_start": p.slow_start,
        "slow_start_threshold": p.slow_start_threshold, "pacing_bytes_per_s": p.pacing_rate,
        "in_flight": p.in_flight, "packets_in_flight": p.packets_in_flight, "datagram_size": p.datagram_size,
        "ecn": ecn(p.ecn), "packets_sent": p.packets_sent, "bytes_sent": p.bytes_sent,
        "bytes_received": p.bytes_received, "packets_lost": p.packets_lost, "bytes_lost": p.bytes_lost,
        "spurious_losses": p.spurious_losses, "probes_in_row": p.probes_in_row,
    })
}

#[cfg(unix)]
const fn ecn(state: EcnState) -> &'static str {
    match state {
        EcnState::Testing => "testing",
        EcnState::Capable => "capable",
        EcnState::Failed => "failed",
    }
}

#[cfg(unix)]
fn of_stream(stream: &StreamReport) -> Value {
    let s = &stream.stats;
    let mode = match s.mode {
        Mode::FireAndForget => "fire-and-forget",
        Mode::Reliable => "reliable",
        Mode::Unordered => "unordered",
    };
    json!({
        "id": stream.id.0, "label": stream.label, "mode": mode, "sent": s.tx_seq, "sent_bytes": s.sent_bytes,
        "queued": s.queued.messages, "queued_bytes": s.queued.bytes, "acked": s.delivered.messages,
        "acked_bytes": s.delivered.bytes, "lost": s.lost.messages, "lost_bytes": s.lost.bytes,
        "retransmitted_bytes": s.retransmitted, "credit": s.tx_credit_remaining,
        "backpressure": s.backpressure_events, "received": s.received.messages,
        "received_bytes": s.received.bytes, "undrained": s.inbound_pending, "missed": s.missed,
        "window": s.rx_window,
    })
}

/// The command.
#[cfg(unix)]
pub async fn run(args: args::Stats, config: &Config, output: Output) -> Result<()> {
    let dir = state::dir(args.state.dir.clone().or_else(|| config.dir.clone()))?;
    loop {
        let snapshot = ask(&dir).await?;
        output.emit(&snapshot);
        if !output.json() {
            show(&snapshot, output);
        }
        let Some(seconds) = args.watch else { return Ok(()) };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// It needs sockets of the Unix kind.
#[cfg(not(unix))]
pub async fn run(_: args::Stats, _: &Config, _: Output) -> Result<()> {
    Err(Failure::usage("`net stats` needs a Unix system"))
}

#[cfg(unix)]
async fn ask(dir: &Path) -> Result<Value> {
    use tokio::io::AsyncReadExt;
    let path = dir.join(SOCKET);
    let nobody = |e: std::io::Error| {
        Failure::new(Code::Unreachable, format_args!("no node runs with {}: {e}", dir.display()))
            .remedy("`net recv` with this directory starts one; --dir names another")
    };
    let mut text = String::new();
    let mut stream = tokio::net::UnixStream::connect(&path).await.map_err(nobody)?;
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut text)).await;
    read.map_err(|_| Failure::new(Code::Unreachable, "the node did not answer in 5 s"))??;
    if text.is_empty() {
        return Err(Failure::new(Code::Unreachable, "the node is ending"));
    }
    serde_json::from_str(&text).map_err(|e| Failure::failed(format_args!("the node's answer: {e}")))
}

#[cfg(unix)]
fn show(s: &Value, output: Output) {
    let number = |v: &Value| v.as_u64().unwrap_or(0);
    let node = &s["node"];
    let drops: u64 = ["drops", "handshake"]
        .iter()
        .filter_map(|group| node[group].as_object())
        .flat_map(|group| group.values().map(number))
        .sum();
    output.table(
        "node",
        &[
            ("id", s["id"].as_str().unwrap_or_default().to_string()),
            ("peers", number(&node["peers"]).to_string()),
            (
                "sent",
                format!("{} in {}", size(number(&node["bytes_sent"])), datagrams(&node["datagrams_sent"])),
            ),
            (
                "received",
                format!(
                    "{} in {}",
                    size(number(&node["bytes_received"])),
                    datagrams(&node["datagrams_received"])
                ),
            ),
            ("dropped", several(drops, "datagram")),
            ("memory", format!("at most {}", size(number(&s["ceiling_bytes"])))),
        ],
    );
    for peer in s["peers"].as_array().into_iter().flatten() {
        let micros = |name: &str| millis(Duration::from_micros(number(&peer[name])));
        output.table(
            peer["id"].as_str().unwrap_or_default(),
            &[
                ("at", peer["addr"].as_str().unwrap_or("a relay").to_string()),
                (
                    "round trip",
                    match number(&peer["rtt_min_us"]) {
                        0 => "not measured yet".into(),
                        _ => format!("{}, least {}", micros("rtt_us"), micros("rtt_min_us")),
                    },
                ),
                (
                    "window",
                    format!(
                        "{}, {} in flight",
                        size(number(&peer["window"])),
                        size(number(&peer["in_flight"]))
                    ),
                ),
                (
                    "packets",
                    format!(
                        "{} sent, {} lost, {} received, up to {} B",
                        peer["packets_sent"],
                        peer["packets_lost"],
                        peer["packets_received"],
                        peer["datagram_size"]
                    ),
                ),
                (
                    "again",
                    format!(
                        "{}, {} probes, ECN {}",
                        size(number(&peer["retransmitted_bytes"])),
                        peer["probes"],
                        peer["paths"][0]["ecn"].as_str().unwrap_or("unknown")
                    ),
                ),
                ("streams", streams(peer)),
            ],
        );
    }
}

/// The first streams of a peer, a line each.
#[cfg(unix)]
fn streams(peer: &Value) -> String {
    let mut text = peer["streams"].to_string();
    let all = peer["open_streams"].as_array().map_or(&[][..], Vec::as_slice);
    for s in all.iter().take(SHOWN) {
        let label = printable(s["label"].as_str().unwrap_or("a lane"));
        let mode = s["mode"].as_str().unwrap_or_default();
        text += &format!(
            "\n{label} ({mode}): {} sent, {} acknowledged, {} queued, {} received",
            s["sent"], s["acked"], s["queued"], s["received"]
        );
    }
    if all.len() > SHOWN {
        text += &format!("\nand {} more", all.len() - SHOWN);
    }
    text
}

#[cfg(unix)]
fn datagrams(v: &Value) -> String {
    several(v.as_u64().unwrap_or(0), "datagram")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_running_node_tells_its_counters_and_a_dead_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ask(dir.path()).await.unwrap_err().code, Code::Unreachable);
        let b = Mesh::builder().bind("127.0.0.1:0").dir(dir.path()).start().await.unwrap();
        serve(&b, dir.path(), Output::new(true));
        let a = Mesh::builder().mesh(b.secret()).bind("127.0.0.1:0").start().await.unwrap();
        let peer = a.connect(b.ticket()).await.unwrap();
        b.accept_peer().await.unwrap();
        let stream = peer.open_stream("lo\x1b[2Jgs", net_sdk::Reliable).await.unwrap();
        stream.send(b"hello").await.unwrap();
        stream.flush().await.unwrap();
        let seen = ask(dir.path()).await.unwrap();
        assert_eq!(seen["node"]["peers"], 1);
        assert_eq!(seen["peers"][0]["id"], a.id().to_string());
        assert_eq!(seen["peers"][0]["cipher"], peer.cipher().name());
        let path = &seen["peers"][0]["paths"][0];
        assert_eq!((&path["active"], &path["validated"]), (&true.into(), &true.into()));
        assert!(path["datagram_size"].as_u64().unwrap() >= 1200, "{path}");
        let open = &seen["peers"][0]["open_streams"][0];
        assert_eq!((&open["mode"], &open["received"]), (&"reliable".into(), &1.into()));
        assert_eq!(open["received_bytes"], 5);
        assert!(!streams(&seen["peers"][0]).contains('\x1b'), "a label cannot write to the terminal");
        show(&seen, Output::new(false));
        a.shutdown().await;
        b.shutdown().await;
        // The node is gone; its socket lies there and leads to nobody, or to one that ends.
        assert_eq!(ask(dir.path()).await.unwrap_err().code, Code::Unreachable);
    }
}
