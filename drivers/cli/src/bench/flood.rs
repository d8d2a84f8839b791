//! Paced traffic under a flood of bogus first messages.
//!
//! First the most that a stream carries, unpaced. Then half of that, without and with the flood in turn. Each
//! run has a fresh pair of processes; the flood comes from a third one and meets the receiver.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use net_proto::entropy::Entropy;
use net_sdk::{Error, Reliable, Stream, rt};
use serde_json::{Value, json};

use super::{CONTROL, DATA, Far, Near, Second, counted, joined, options, rates, runtime, show, silent, text};
use crate::args::{BenchFlood, BenchFlooder, Mode, Receive};
use crate::failure::{Code, Failure, Result};
use crate::output::Output;

/// The part of the most that paced traffic takes.
const SHARE: f64 = 0.5;
/// The part of its goodput that it keeps.
const BAR: f64 = 0.9;
/// How often a paced sender and a flood look at what is due.
const TICK: Duration = Duration::from_millis(1);
/// The flood comes from so many ports.
const PORTS: usize = 16;

pub fn run(args: BenchFlood, output: Output) -> Result<()> {
    let most = one(&args, None, false)?;
    let rate = number(&most, "msgs_per_s");
    output.note(format!("most: {rate:.0} messages/s; paced at half of it from here on"));
    let mut pairs = Vec::new();
    let (mut kept, mut bogus) = (Vec::new(), Vec::new());
    for pair in 1..=args.pairs {
        let [quiet, flooded] = [false, true].map(|flood| one(&args, Some(rate * SHARE), flood));
        let (quiet, flooded) = (quiet?, flooded?);
        let [before, under] = [&quiet, &flooded].map(|result| number(result, "msgs_per_s"));
        let (part, seen) = (under / before, number(&flooded, "bogus_per_s"));
        output.note(format!(
            "pair {pair}: {before:.0} messages/s, {under:.0} under {seen:.0} bogus/s: {:.1} %",
            part * 100.0
        ));
        pairs.push(json!({"without": before, "with": under, "bogus_per_s": seen}));
        kept.push(part);
        bogus.push(seen);
    }
    kept.sort_by(f64::total_cmp);
    bogus.sort_by(f64::total_cmp);
    let percent = |part: f64| (part * 1000.0).round() / 10.0;
    let middle = kept[kept.len() / 2];
    let result = json!({
        "work": "flood",
        "payload": args.payload,
        "mode": text(args.mode),
        "most_msgs_per_s": rate,
        "paced_msgs_per_s": (rate * SHARE).round(),
        "bogus_per_s": bogus[bogus.len() / 2],
        "pairs": pairs,
        "kept_percent": percent(middle),
        "kept_percent_min": percent(kept[0]),
        "kept_percent_max": percent(kept[kept.len() - 1]),
        "bar_percent": percent(BAR),
        "verdict": if middle >= BAR { "met" } else { "missed" },
    });
    let conditions = most.as_object().into_iter().flatten();
    let conditions: serde_json::Map<String, Value> = conditions
        .filter(|(name, _)| {
            ["cipher", "datagram_size", "congestion", "runtime", "threads", "cores", "debug_build"]
                .contains(&name.as_str())
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    show(&joined(result, Value::Object(conditions)), "Under a flood", output);
    Ok(())
}

fn number(result: &Value, name: &str) -> f64 {
    result[name].as_f64().unwrap_or(0.0)
}

/// One transfer at `rate` messages a second, or as fast as it goes.
fn one(args: &BenchFlood, rate: Option<f64>, flood: bool) -> Result<Value> {
    let far = Far::start(&args.common, Receive::Many, 1)?;
    let invite = far.invite.clone();
    let target = invite.ticket.addrs.first().ok_or_else(silent)?.to_string();
    let mut flooder = None;
    if flood {
        let words = ["bench-flooder", &target, "--rate", &args.rate.to_string()].map(String::from);
        let mut started = Second::start(&words, Duration::from_secs(3))?;
        // It is under way.
        started.line()?;
        flooder = Some(started);
    }
    let args = args.clone();
    let mode = args.mode;
    let result = runtime::run(args.common.runtime, move |runtime| async move {
        let near = Near::start(&args.common, &runtime, &invite).await?;
        let control = near.peer.open_stream(CONTROL, Reliable).await?;
        let data = near.peer.open_stream(DATA, options(args.mode)).await?;
        // What the flood did before the first message is none of the result.
        let before = counted(&control).await?;
        let limit = Duration::from_secs(args.seconds);
        let task = rt::spawn_on(runtime.clone(), pour(data, args.payload as usize, limit, rate));
        let begun = Instant::now();
        let sent = task.await.map_err(Failure::failed)??;
        let after = counted(&control).await?;
        let dropped = number(&after, "bogus") - number(&before, "bogus");
        let result = rates(&after, sent, args.payload);
        let result =
            joined(result, json!({"bogus_per_s": (dropped / begun.elapsed().as_secs_f64()).round()}));
        let result = joined(result, near.conditions(&args.common).await?);
        near.end().await;
        Ok(result)
    })?;
    drop(flooder);
    drop(far);
    if mode == Mode::Reliable && result["delivered"] != result["sent"] {
        return Err(Failure::new(Code::NotVerified, "not every reliable message arrived"));
    }
    Ok(result)
}

/// Sends for as long as `limit`; with a `rate`, what is due every millisecond.
async fn pour(stream: Stream, payload: usize, limit: Duration, rate: Option<f64>) -> Result<u64, Error> {
    let message = vec![0x5a; payload];
    let begun = Instant::now();
    let mut sent: u64 = 0;
    loop {
        let passed = begun.elapsed();
        if passed >= limit {
            break;
        }
        let due = rate.map_or(sent + super::CLOCK_EVERY, |rate| (passed.as_secs_f64() * rate) as u64);
        while sent < due {
            stream.send(&message).await?;
            sent += 1;
        }
        if rate.is_some() {
            rt::sleep(TICK).await;
        }
    }
    stream.finish().await?;
    Ok(sent)
}

/// Sends bogus first messages until the standard input ends. Only to this machine: this is a measurement of
/// our own second process, and no tool against others.
pub fn flooder(args: BenchFlooder) -> Result<()> {
    if !args.target.ip().is_loopback() {
        return Err(Failure::usage("a flood goes to an address of this machine only"));
    }
    let sockets: Vec<UdpSocket> =
        (0..PORTS).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).collect::<std::io::Result<_>>()?;
    let (tell, ended) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let mut nothing = [0; 64];
        while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
        drop(tell);
    });
    // The right type, version and lengths; everything else is noise.
    let mut dice = Entropy::new(&[7; 32], "flood");
    let mut bogus: Vec<Vec<u8>> = [512, 816, 1120]
        .into_iter()
        .map(|len| {
            let mut data = vec![0; len];
            dice.fill(&mut data);
            (data[0], data[1]) = (1, 1);
            data
        })
        .collect();
    let begun = Instant::now();
    let mut sent: u64 = 0;
    loop {
        let due = (begun.elapsed().as_secs_f64() * f64::from(args.rate)) as u64;
        while sent < due {
            let kinds = bogus.len();
            let data = &mut bogus[sent as usize % kinds];
            // No two are alike.
            data[6..14].copy_from_slice(&sent.to_le_bytes());
            // Refused ones are as good as lost.
            _ = sockets[sent as usize % PORTS].send_to(data, args.target);
            sent += 1;
            if sent == u64::from(args.rate) / 100 {
                writeln!(std::io::stdout(), "flooding")?;
            }
        }
        if let Err(std::sync::mpsc::RecvTimeoutError::Disconnected) = ended.recv_timeout(TICK) {
            return Ok(());
        }
    }
}
