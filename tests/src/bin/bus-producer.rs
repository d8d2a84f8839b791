//! A producer as a process of its own, for tests that kill it: emits numbered events until its input
//! ends, and says which are safe.
//!
//! `bus-producer ADDRESS LIFE OUTBOX`; `-` for none. Event `n` has the body `LIFE:n` and goes to shard `n % 2`.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use net_redis::RedisConfig;
use net_sdk::{Net, SdkError};

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The test is gone: so is this, soon.
    _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[tokio::main]
async fn main() -> Result<(), SdkError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, life, outbox] = &words[..] else { panic!("ADDRESS LIFE OUTBOX") };
    let end = Arc::new(AtomicBool::new(false));
    let told = end.clone();
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines() {}
        told.store(true, Ordering::Release);
    });
    let runtime = net_tokio::Tokio::current().expect("inside of tokio");
    let mut builder = Net::builder().shards(2).runtime(Arc::new(runtime)).redis(RedisConfig::single(address));
    if outbox != "-" {
        builder = builder.outbox(outbox);
    }
    let bus = builder.build().await?;
    let mut n = 0u64;
    while !end.load(Ordering::Acquire) {
        for _ in 0..10 {
            let body = format!("{life}:{n}");
            while let Err(SdkError::Backpressure) = bus.emit_to((n % 2) as u16, &body) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            n += 1;
        }
        bus.flush().await?;
        say(&format!("safe {n}"));
    }
    let closed = bus.shutdown().await;
    say(&format!("done {}", closed.lost + closed.kept));
    Ok(())
}
