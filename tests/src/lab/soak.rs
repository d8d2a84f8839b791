//! Mixed load for a long time, in laps of the same amount of work. Between two laps nothing is under way, and
//! what both nodes hold is looked at.

use std::time::{Duration, Instant};

use super::child::{Child, are_calm};
use super::line::Line;
use super::relay::{Relay, Treatment};
use super::{say, until};

/// Streams that a node sends on at the same time.
const WORKERS: u64 = 8;
/// After so many laps the association ends, and a new one begins.
const LAPS_OF_AN_ASSOCIATION: u64 = 8;

/// How long, and how hard.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// At least so many laps.
    pub laps: u64,
    /// And at least so long.
    pub time: Duration,
    /// Streams of each worker in a lap.
    pub rounds: u64,
    /// Milliseconds between two streams of a worker.
    pub pause_ms: u64,
    /// Seconds after which keys are renewed.
    pub rekey_s: u64,
}

/// What both nodes hold after a lap, and what went over by then.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Since the beginning.
    pub at: Duration,
    /// Laps so far.
    pub lap: u64,
    /// Messages so far, both directions.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes allocated by the one that dials and by the other.
    pub live: [u64; 2],
    /// Bytes of theirs in memory, as the system counts them.
    pub resident: [u64; 2],
    /// Epochs of keys of the present association.
    pub epochs: u64,
}

/// Runs it with nodes that `start` makes from their words; tells every sample as it is taken.
///
/// # Panics
/// If a message is damaged or out of order, an association ends by itself, a node exceeds its ceiling or
/// does not come to rest, or the ledger does not balance at the end.
pub fn run(plan: Plan, start: impl Fn(&Line) -> Child, mut tell: impl FnMut(&Sample)) -> Vec<Sample> {
    let node = |me: u64, runtime: &str| {
        let words = format!("bind=127.0.0.1:0 runtime={runtime} rekey_s={} me={me}", plan.rekey_s);
        start(&Line::parse(&words))
    };
    // The two runtimes that exist.
    let (mut a, mut b) = (node(1, "tokio"), node(2, "smol"));
    let treatment = Treatment { loss: 10, reorder: 20, hold: 5, duplicate: 5, ..Treatment::default() };
    let relay = Relay::start(b.addr, treatment);
    a.connect(relay.addr, 2).expect("connected");
    let (begun, mut samples) = (Instant::now(), Vec::new());
    let (mut messages, mut bytes) = (0, 0);
    for lap in 1.. {
        if lap > plan.laps && begun.elapsed() >= plan.time {
            break;
        }
        if lap % LAPS_OF_AN_ASSOCIATION == 0 {
            a.call("disconnect").expect("a disconnect");
            until("both sides know", || (b.report().get("peers") == 0).then_some(()));
            a.connect(relay.addr, 2).expect("connected again");
        }
        let words = |from: u64| {
            let (rounds, pause) = (plan.rounds, plan.pause_ms);
            format!("mix workers={WORKERS} rounds={rounds} pause_ms={pause} seed={}", lap * 2 + from)
        };
        let asked = (a.ask(&words(0)), b.ask(&words(1)));
        let told = [a.wait_long(asked.0), b.wait_long(asked.1)];
        if told.iter().any(Result::is_err) {
            for node in [&mut a, &mut b] {
                say(&format!("node {}:", node.me));
                _ = node.call("tell");
            }
        }
        for told in told {
            let told = told.expect("everything is sent");
            messages += told.get("messages");
            bytes += told.get("bytes");
        }
        let reports = until("both come to rest", || {
            let reports = [a.report(), b.report()];
            reports.iter().all(|r| r.number("streams") == Some(0) && r.get("readers") == 0).then_some(reports)
        });
        for report in &reports {
            assert_eq!(report.get("wrong"), 0, "{report}");
        }
        let each = |name: &str| [reports[0].get(name), reports[1].get(name)];
        let sample = Sample {
            at: begun.elapsed(),
            lap,
            messages,
            bytes,
            live: each("live"),
            resident: each("resident"),
            epochs: reports[0].get("epochs"),
        };
        tell(&sample);
        samples.push(sample);
    }
    are_calm([&mut a, &mut b]);
    for node in [&mut a, &mut b] {
        node.is_within_its_ceiling();
    }
    a.balances();
    b.balances();
    samples
}

/// Slope of `value` over `of`: the median of the slopes between all pairs, which single outliers do not
/// move. The first quarter is left out: tables and pools are growing to their size.
pub fn slope(samples: &[Sample], of: impl Fn(&Sample) -> f64, value: impl Fn(&Sample) -> f64) -> f64 {
    let steady = &samples[samples.len() / 4..];
    let mut slopes = Vec::new();
    for (n, one) in steady.iter().enumerate() {
        for other in &steady[n + 1..] {
            slopes.push((value(other) - value(one)) / (of(other) - of(one)));
        }
    }
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_found_among_outliers() {
        let sample = |lap: u64, live: u64| Sample {
            at: Duration::from_secs(lap),
            lap,
            messages: 0,
            bytes: 0,
            live: [live, 0],
            resident: [0, 0],
            epochs: 1,
        };
        let noisy = |lap: u64| if lap.is_multiple_of(7) { 900_000 } else { 0 };
        let leak: Vec<_> = (0..100).map(|lap| sample(lap, 5_000_000 + 10 * lap + noisy(lap))).collect();
        let found = slope(&leak, |s| s.lap as f64, |s| s.live[0] as f64);
        assert!((9.0..11.0).contains(&found), "{found}");
    }
}
