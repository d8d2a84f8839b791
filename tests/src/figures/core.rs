//! NATS core, the peer of the event bus on the mesh: a process that publishes, one that subscribes, and the
//! server between them. Nothing is acknowledged and nothing encrypted.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::StreamExt;

/// Bytes of an event.
const SIZE: usize = 64;
const SUBJECT: &str = "figures.core";
/// When nothing came for so long, the rest was dropped.
const QUIET: Duration = Duration::from_secs(3);

async fn connect(url: &str) -> async_nats::Client {
    // As much as a run has: the client drops what its subscription has no room for.
    let options = async_nats::ConnectOptions::new().subscription_capacity(1 << 24);
    options.connect(url).await.expect("a server")
}

/// The process that counts: says so when it listens, then how many came in how many seconds.
pub async fn subscriber(url: &str, events: u64) {
    let client = connect(url).await;
    let mut messages = client.subscribe(SUBJECT).await.expect("a subscription");
    client.flush().await.expect("it is known");
    println!("ready");
    let (mut n, mut first, mut last) = (0, None, Instant::now());
    while n < events {
        let Ok(Some(message)) = tokio::time::timeout(QUIET, messages.next()).await else { break };
        assert_eq!(message.payload.len(), SIZE);
        n += 1;
        // As rarely as the bus looks at the clock.
        if first.is_none() || n % 512 == 0 || n == events {
            last = Instant::now();
            first.get_or_insert(last);
        }
    }
    println!("{n} {}", first.map_or(0.0, |first| (last - first).as_secs_f64()));
}

/// Events a second at the subscriber, and how many did not come.
pub async fn round(url: &str, events: u64) -> (f64, u64) {
    let mut far = Command::new(std::env::current_exe().expect("this program"))
        .args(["core-subscriber", url, &events.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a second process");
    let mut lines = BufReader::new(far.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line(), "ready");
    let client = connect(url).await;
    for n in 0..events {
        let mut body = vec![0x5a; SIZE];
        body[..8].copy_from_slice(&n.to_le_bytes());
        client.publish(SUBJECT, body.into()).await.expect("published");
    }
    client.flush().await.expect("sent");
    let told = tokio::task::block_in_place(line);
    far.wait().expect("it ends");
    let (came, seconds) = told.split_once(' ').expect("two numbers");
    let (came, seconds): (u64, f64) = (came.parse().expect("events"), seconds.parse().expect("seconds"));
    (came as f64 / seconds.max(1e-9), events - came)
}
