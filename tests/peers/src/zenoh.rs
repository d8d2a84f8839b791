//! zenoh: publish and subscribe between two peers, over its QUIC link. One way is a publisher that
//! waits when it is congested; an echo is a sample there and one back.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use zenoh::Wait;
use zenoh::bytes::ZBytes;
use zenoh::qos::CongestionControl;
use zenoh::{Config, Session};

use crate::far::{CLOCK_EVERY, Count};
use crate::{Common, Echo, Result, Stream};

/// Subscriptions are known at the other end after this.
const SETTLE: Duration = Duration::from_millis(500);

fn config(tls: &Value, listen: &[String], connect: &[String]) -> Result<Config> {
    let mut config = Config::default();
    let pieces = [
        ("mode", json!("peer")),
        ("scouting/multicast/enabled", json!(false)),
        ("scouting/gossip/enabled", json!(false)),
        ("listen/endpoints", json!(listen)),
        ("connect/endpoints", json!(connect)),
        ("transport/link/tls", tls.clone()),
    ];
    for (key, value) in pieces {
        config.insert_json5(key, &value.to_string())?;
    }
    Ok(config)
}

/// The far end.
pub async fn serve(bind: SocketAddr, count: Arc<Count>) -> Result<Value> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string(), "127.0.0.1".to_string()])?;
    let certificate = BASE64_STANDARD.encode(made.cert.pem());
    let key = BASE64_STANDARD.encode(made.signing_key.serialize_pem());
    // It does not say which port it got.
    let addr = if bind.port() == 0 { UdpSocket::bind(bind)?.local_addr()? } else { bind };
    let tls = json!({"listen_certificate_base64": certificate, "listen_private_key_base64": key});
    let session = zenoh::open(config(&tls, &[format!("quic/{addr}")], &[])?).await?;
    let messages = AtomicU64::new(0);
    let end = count.clone();
    let counted = move |sample: zenoh::sample::Sample| {
        if sample.key_expr().as_str() == "bench/end" {
            match messages.load(Relaxed) % CLOCK_EVERY {
                0 => {}
                rest => end.add(rest),
            }
            end.end();
        } else if (messages.fetch_add(1, Relaxed) + 1).is_multiple_of(CLOCK_EVERY) {
            end.add(CLOCK_EVERY);
        }
    };
    session.declare_subscriber("bench/*").callback(counted).background().await?;
    let back = Mutex::new(HashMap::new());
    let answering = session.clone();
    let answered = move |sample: zenoh::sample::Sample| {
        let name = sample.key_expr().as_str().replace("/there/", "/back/");
        let mut back = back.lock().unwrap_or_else(PoisonError::into_inner);
        if !back.contains_key(&name) {
            let Ok(publisher) = answering
                .declare_publisher(name.clone())
                .congestion_control(CongestionControl::Block)
                .express(true)
                .wait()
            else {
                return;
            };
            back.insert(name.clone(), publisher);
        }
        if let Some(publisher) = back.get(&name) {
            _ = publisher.put(sample.payload().clone()).wait();
        }
    };
    session.declare_subscriber("echo/there/*").callback(answered).background().await?;
    // For as long as the process lives.
    std::mem::forget(session);
    Ok(json!({"addr": addr.to_string(), "certificate": certificate}))
}

pub type Link = Session;

/// What its QUIC link, quinn with rustls, chooses by itself.
pub fn conditions() -> Value {
    json!({"cipher": "as its TLS chooses", "congestion": "as its QUIC chooses"})
}

pub async fn connect(args: &Common, hello: &Value) -> Result<Link> {
    let there: SocketAddr = hello["addr"].as_str().ok_or("no address")?.parse()?;
    let there = args.via.unwrap_or(there);
    let tls = json!({"root_ca_certificate_base64": hello["certificate"]});
    let session = zenoh::open(config(&tls, &[], &[format!("quic/{there}")])?).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(session)
}

/// Sends for as long as was asked; how many messages that were.
pub async fn stream(link: &Link, args: &Stream) -> Result<u64> {
    let message = ZBytes::from(vec![0x5a; args.common.payload]);
    let limit = Duration::from_secs(args.common.seconds);
    let session = link.clone();
    tokio::spawn(async move {
        let publisher =
            session.declare_publisher("bench/data").congestion_control(CongestionControl::Block).await?;
        let begun = Instant::now();
        let mut sent = 0;
        while begun.elapsed() < limit {
            for _ in 0..CLOCK_EVERY {
                publisher.put(message.clone()).await?;
            }
            sent += CLOCK_EVERY;
        }
        session.put("bench/end", Vec::new()).congestion_control(CongestionControl::Block).await?;
        Ok(sent)
    })
    .await?
}

/// A pair of keys for each caller, which stays.
pub async fn echo(link: &Link, args: &Echo) -> Result<(Vec<Duration>, Duration)> {
    let limit = Duration::from_secs(args.common.seconds);
    let mut callers = Vec::new();
    for number in 0..args.concurrency {
        let answers = link.declare_subscriber(format!("echo/back/{number}")).await?;
        let publisher = link
            .declare_publisher(format!("echo/there/{number}"))
            .congestion_control(CongestionControl::Block)
            .express(true)
            .await?;
        callers.push((answers, publisher));
    }
    tokio::time::sleep(SETTLE).await;
    let begun = Instant::now();
    let message = ZBytes::from(vec![0x5a; args.common.payload]);
    let calling: Vec<_> = callers
        .into_iter()
        .map(|(answers, publisher)| {
            let message = message.clone();
            tokio::spawn(async move {
                let (mut times, mut now) = (Vec::new(), begun);
                while now - begun < limit {
                    let sent = now;
                    publisher.put(message.clone()).await?;
                    answers.recv_async().await?;
                    now = Instant::now();
                    times.push(now - sent);
                }
                Ok::<_, crate::Error>(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for caller in calling {
        times.extend(caller.await??);
    }
    Ok((times, begun.elapsed()))
}
