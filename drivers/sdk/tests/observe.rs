//! What a node writes about itself: qlog, keys for captures, logs.
#![cfg(feature = "tokio")]

mod common;

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use common::{fresh, opened, soon};
use net_proto::session::aead::{Cipher, CipherSuite, TAG};
use net_proto::session::{HEADER, parse_header};
use net_sdk::{Mesh, Reliable, Result, Ticket};
use net_shell::aead::Native;
use serde_json::Value;

/// The records of a qlog: the header, then the events.
fn qlog(path: &Path) -> (Value, Vec<Value>) {
    let text = std::fs::read_to_string(path).unwrap();
    let records = text.split('\u{1e}').skip(1);
    let mut values = records.map(|record| serde_json::from_str::<Value>(record).expect("JSON"));
    (values.next().expect("a header"), values.collect())
}

#[cfg(unix)]
fn is_secret(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[cfg(not(unix))]
fn is_secret(_: &Path) {}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qlog_holds_what_an_exchange_must_have() -> Result<()> {
    let file = fresh("qlog");
    let b = Mesh::builder().bind("127.0.0.1:0").qlog(&file).start().await?;
    let a = Mesh::builder().bind("127.0.0.1:0").join(&b.invite()).start().await?;
    let peer = soon("connect", a.connect(b.ticket())).await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    for _ in 0..200 {
        tx.send(&[5; 1000]).await?;
        let message = soon("message", rx.recv()).await?.expect("a message");
        rx.send(&message).await?;
        soon("echo", tx.recv()).await?.expect("a message");
    }
    soon("finish", tx.finish()).await?;
    soon("finish", rx.finish()).await?;
    let stats = b.peers()[0].stats().await?;
    soon("shutdown", a.shutdown()).await;
    soon("shutdown", b.shutdown()).await;
    is_secret(&file);

    let (header, events) = qlog(&file);
    assert_eq!((&header["qlog_version"], &header["qlog_format"]), (&"0.3".into(), &"JSON-SEQ".into()));
    assert_eq!(header["trace"]["vantage_point"]["name"], b.id().to_string());
    let named = |name: &str| events.iter().filter(|e| e["name"] == name).collect::<Vec<_>>();
    let times: Vec<f64> = events.iter().map(|e| e["time"].as_f64().unwrap()).collect();
    assert!(times.is_sorted(), "time does not go back");

    // Every data packet that left, once and in order; every byte.
    let sent = named("transport:packet_sent");
    let data = |e: &&&Value| e["data"]["header"]["packet_type"] == "1RTT";
    let numbers: Vec<u64> =
        sent.iter().filter(data).map(|e| e["data"]["header"]["packet_number"].as_u64().unwrap()).collect();
    assert!(numbers.windows(2).all(|n| n[1] == n[0] + 1), "{numbers:?}");
    assert!(numbers.len() as u64 >= stats.packets_sent, "{} of {}", numbers.len(), stats.packets_sent);
    let bytes: u64 = sent.iter().filter(data).map(|e| e["data"]["raw"]["length"].as_u64().unwrap()).sum();
    assert!(bytes >= stats.bytes_sent && bytes > 200_000);
    let received = named("transport:packet_received");
    assert!(received.iter().filter(data).count() as u64 >= stats.packets_received);
    assert!(received.iter().any(|e| e["data"]["header"]["packet_type"] == "initial"), "the first message");
    // What belongs to the peer says so.
    let group = a.id().to_string();
    assert!(sent.iter().filter(data).skip(1).all(|e| e["group_id"] == group.as_str()));

    let metrics = named("recovery:metrics_updated");
    for name in ["smoothed_rtt", "min_rtt", "congestion_window", "bytes_in_flight"] {
        assert!(metrics.iter().any(|e| e["data"][name].as_f64().is_some_and(|v| v > 0.0)), "{name}");
    }
    for name in [
        "connectivity:connection_started",
        "transport:parameters_set",
        "security:key_updated",
        "recovery:congestion_state_updated",
        "recovery:ecn_state_updated",
        "connectivity:connection_closed",
    ] {
        assert_eq!(named(name)[0]["group_id"], group.as_str(), "{name}");
    }
    let streams = named("transport:stream_state_updated");
    let states: Vec<_> = streams.iter().map(|e| e["data"]["new"].as_str().unwrap()).collect();
    assert_eq!((states[0], states[states.len() - 1]), ("open", "closed"), "{states:?}");
    std::fs::remove_file(&file).unwrap();
    Ok(())
}

/// What passed a tap.
type Captured = Arc<Mutex<Vec<Vec<u8>>>>;

/// Forwards datagrams between two sockets and keeps a copy of each.
fn tap(to: SocketAddr) -> (SocketAddr, Captured, Arc<AtomicBool>) {
    let front = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = front.local_addr().unwrap();
    front.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
    let (captured, over) = (Captured::default(), Arc::new(AtomicBool::new(false)));
    let (capture, stop) = (captured.clone(), over.clone());
    std::thread::spawn(move || {
        let (mut buf, mut client) = ([0; 2048], None);
        while !stop.load(Relaxed) {
            let Ok((len, from)) = front.recv_from(&mut buf) else { continue };
            capture.lock().unwrap().push(buf[..len].to_vec());
            let next = if from == to { client } else { Some(to) };
            if from != to {
                client = Some(from);
            }
            if let Some(next) = next {
                let _ = front.send_to(&buf[..len], next);
            }
        }
    });
    (addr, captured, over)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exported_keys_open_captured_datagrams_and_nothing_else_does() -> Result<()> {
    let file = fresh("keys");
    let secret = b"a sentence that only the ends may read";
    let b = Mesh::builder().bind("127.0.0.1:0").export_keys(&file).start().await?;
    let a = Mesh::builder().bind("127.0.0.1:0").mesh(b.secret()).start().await?;
    let (addr, captured, over) = tap(b.local_addrs()[0]);
    let peer = soon("connect", a.connect(Ticket { entity: b.id(), addrs: vec![addr] })).await?;
    let (tx, rx) = opened(&b, &peer, Reliable).await?;
    tx.send(secret).await?;
    soon("message", rx.recv()).await?;
    rx.send(secret).await?;
    soon("answer", tx.recv()).await?;
    soon("shutdown", a.shutdown()).await;
    soon("shutdown", b.shutdown()).await;
    over.store(true, Relaxed);
    is_secret(&file);
    let again = Mesh::builder().bind("127.0.0.1:0").export_keys(&file).start().await;
    assert!(matches!(again, Err(net_sdk::Error::Observe { .. })), "no file is overwritten");

    let mut keys = HashMap::new();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        let mut words = line.split(' ');
        let label = words.next().unwrap().to_string();
        let index = u32::from_str_radix(words.next().unwrap(), 16).unwrap();
        let cipher = match words.next().unwrap() {
            "ChaCha20-Poly1305" => Cipher::ChaCha20Poly1305,
            "AES-256-GCM" => Cipher::Aes256Gcm,
            other => panic!("{other}"),
        };
        let hex = words.next().unwrap();
        let key: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        keys.insert(index, (label, cipher, <[u8; 32]>::try_from(key).unwrap()));
    }
    let mut labels: Vec<_> = keys.values().map(|(label, ..)| label.as_str()).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["NET_RECV_KEY", "NET_SEND_KEY"]);

    // The first 13 bytes are clear and authenticated, the last 16 the tag.
    let (mut opened, mut found) = (HashMap::new(), 0);
    for packet in captured.lock().unwrap().iter() {
        assert!(!packet.windows(secret.len()).any(|w| w == secret), "in the clear on the wire");
        let Some((index, counter)) = parse_header(packet) else { continue };
        let (label, cipher, key) = &keys[&index];
        let (head, rest) = packet.split_at(HEADER);
        let (payload, tag) = rest.split_at(rest.len() - TAG);
        let tag: &[u8; TAG] = tag.try_into().unwrap();
        let mut clear = payload.to_vec();
        Native::new().key(*cipher, key).open(counter, head, &mut clear, tag).expect("the key opens it");
        let mut other = *key;
        other[0] ^= 1;
        assert!(Native::new().key(*cipher, &other).open(counter, head, &mut payload.to_vec(), tag).is_err());
        *opened.entry(label.clone()).or_insert(0) += 1;
        found += usize::from(clear.windows(secret.len()).any(|w| w == secret));
    }
    assert!(opened.len() == 2 && opened.values().all(|n| *n > 2), "{opened:?}");
    assert!(found >= 2, "there and back, {found}");
    std::fs::remove_file(&file).unwrap();
    Ok(())
}
