//! All rows of the event bus, each against its bar and, where it has one, against a peer in turn.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use net_shell::runtime::Runtime;
use serde_json::{Value, json};

use super::verdict::{Samples, Sense};
use super::{core, redis};
use crate::servers::Server;
use crate::servers::nats::Nats;
use crate::servers::redis::Redis;

pub use super::core::subscriber;

/// What is measured at once: one or two rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// How it is named on the command line.
    pub name: &'static str,
    rows: &'static [Row],
}

#[derive(Debug, PartialEq)]
struct Row {
    work: &'static str,
    unit: &'static str,
    peer: Option<&'static str>,
    sense: Sense,
    bar: f64,
    goal: f64,
}

impl Eq for Row {}

const fn row(work: &'static str, unit: &'static str, sense: Sense, bar: f64, goal: f64) -> Row {
    Row { work, unit, peer: None, sense, bar, goal }
}

const fn against(peer: &'static str, work: &'static str, bar: f64, goal: f64) -> Row {
    Row { work, unit: "events/s", peer: Some(peer), sense: Sense::AtLeast, bar, goal }
}

/// Everything.
pub const WORKS: &[Work] = &[
    Work {
        name: "emit-1",
        rows: &[row("emit_raw, 1 producer, all delivered", "events/s", Sense::AtLeast, 5e6, 15e6)],
    },
    Work {
        name: "emit-2",
        rows: &[row("emit_raw, 2 producers, all delivered", "events/s", Sense::AtLeast, 8e6, 25e6)],
    },
    Work {
        name: "latency",
        rows: &[
            row("emit to subscriber, one core, median", "µs", Sense::AtMost, 20.0, 5.0),
            row("the same, 99th percentile", "µs", Sense::AtMost, 200.0, 50.0),
        ],
    },
    Work { name: "idle", rows: &[row("idle, one subscriber", "% of a core", Sense::AtMost, 0.1, 0.0)] },
    Work {
        name: "redis",
        rows: &[
            against("pipelined XADD of the crate", "Redis, written", 0.8, 1.0),
            against("XREAD of the crate", "Redis, read", 0.8, 1.0),
        ],
    },
    Work {
        name: "jetstream",
        rows: &[against("async-nats alone, 64 in flight", "JetStream, acknowledged", 0.9, 1.5)],
    },
    Work { name: "mesh", rows: &[against("NATS core", "mesh, 64 B between two processes", 1.0, 3.0)] },
    Work {
        name: "durable-1",
        rows: &[against("append and fdatasync", "emit_durable through the outbox, 1 producer", 0.8, 1.0)],
    },
    Work {
        name: "durable-64",
        rows: &[against("append and fdatasync", "the same, 64 waiting producers", 20.0, 60.0)],
    },
];

/// How it is measured.
#[derive(Clone, Debug)]
pub struct How {
    /// The program `net`.
    pub net: PathBuf,
    /// Pairs, or runs where there is no peer.
    pub pairs: usize,
}

/// Runs `net bus bench`; some fields of what it says.
fn bench(net: &Path, row: &str, fields: &[&str]) -> Vec<f64> {
    let output = Command::new(net).args(["bus", "bench", row, "--json"]).output().expect("the program runs");
    assert!(output.status.success(), "{}: {output:?}", net.display());
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    fields.iter().map(|field| told[*field].as_f64().unwrap_or_else(|| panic!("no {field}: {told}"))).collect()
}

impl Work {
    /// Measures, and gives an object for each row.
    pub async fn run(&self, how: &How) -> Vec<Value> {
        // For each row our figures and the peer's.
        let mut all = vec![(Vec::new(), Vec::new()); self.rows.len()];
        let mut push = |row: usize, ours: f64, theirs: Option<f64>| {
            all[row].0.push(ours);
            all[row].1.extend(theirs);
        };
        let net = &how.net;
        match self.name {
            "redis" => {
                let server = Server::start(Redis::volatile());
                let work = redis::Work { events: 200_000, bytes: 64, batch: 1000 };
                for _ in 0..how.pairs {
                    let ours = redis::produce(&server, work).await;
                    push(0, ours, Some(redis::produce_bare(&server, work).await));
                    let ours = redis::consume(&server, work).await;
                    push(1, ours, Some(redis::consume_bare(&server, work).await));
                }
            }
            "jetstream" => {
                let server = Server::start(Nats::new());
                let runtime: Arc<dyn Runtime> =
                    Arc::new(net_tokio::Tokio::current().expect("inside of tokio"));
                let work = net_nats::figures::Work { events: 200_000, size: 64, in_flight: 64 };
                // The first one warms the server.
                for n in 0..=how.pairs {
                    let r = net_nats::figures::round(&runtime, &server.url(), work).await.expect("a round");
                    if n > 0 {
                        push(0, r.bus as f64, Some(r.bare as f64));
                    }
                }
            }
            "mesh" => {
                // Nobody is cut off for being slow.
                let server = Nats::new().plain().line("max_pending: 2GB").line("write_deadline: \"60s\"");
                let server = Server::start(server);
                for _ in 0..how.pairs {
                    let ours = bench(net, "mesh", &["events_per_s", "events"]);
                    let (theirs, lost) = core::round(&server.url(), ours[1] as u64).await;
                    assert_eq!(lost, 0, "NATS core dropped events: not the same work");
                    push(0, ours[0], Some(theirs));
                }
            }
            name => {
                let fields: &[&str] = match name {
                    "latency" => &["p50_us", "p99_us"],
                    "idle" => &["core_percent"],
                    "durable-1" | "durable-64" => &["events_per_s", "bare_per_s"],
                    _ => &["accepted_per_s"],
                };
                for _ in 0..how.pairs {
                    let told = bench(net, name, fields);
                    if self.rows[0].peer.is_some() {
                        push(0, told[0], Some(told[1]));
                    } else {
                        told.iter().enumerate().for_each(|(row, ours)| push(row, *ours, None));
                    }
                }
            }
        }
        self.rows.iter().zip(all).map(|(row, (ours, theirs))| row.judge(&ours, &theirs)).collect()
    }
}

impl Row {
    fn judge(&self, ours: &[f64], theirs: &[f64]) -> Value {
        let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        let samples = Samples::new(ours.to_vec());
        let judged = if self.peer.is_some() { Samples::new(ratios) } else { samples.clone() };
        let verdict = |bound: f64| judged.verdict(self.sense, bound).to_string();
        json!({
            "work": self.work, "unit": self.unit, "runs": ours.len(),
            "bus": samples.median(), "bus_min": samples.min(), "bus_max": samples.max(),
            "peer": self.peer, "peer_median": self.peer.map(|_| Samples::new(theirs.to_vec()).median()),
            "ratio": self.peer.map(|_| judged.median()), "ratio_min": self.peer.map(|_| judged.min()),
            "ratio_max": self.peer.map(|_| judged.max()),
            "at_most": self.sense == Sense::AtMost,
            "bar": self.bar, "bar_verdict": verdict(self.bar),
            "goal": self.goal, "goal_verdict": verdict(self.goal),
        })
    }
}

/// A number for people.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 1e4 => format!("{:.0} k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Objects that [`Work::run`] gave, one a line, as Markdown.
pub fn table(lines: &str) -> String {
    let mut out = String::from(
        "| 64 B events | bus | peer | median (spread) | bar | goal |\n|---|---|---|---|---|---|\n",
    );
    for row in lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
        let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        let text = |name: &str| row[name].as_str().unwrap_or("");
        let sign = if row["at_most"] == true { "≤" } else { "≥" };
        let (peer, spread, x) = match text("peer") {
            "" => {
                let spread = ["bus", "bus_min", "bus_max"].map(|name| short(number(name)));
                (String::new(), format!("{} ({} to {})", spread[0], spread[1], spread[2]), "")
            }
            peer => {
                let ratios = ["ratio", "ratio_min", "ratio_max"].map(number);
                let spread = format!("{:.2}x ({:.2}x to {:.2}x)", ratios[0], ratios[1], ratios[2]);
                (format!("{peer}: {}/s", short(number("peer_median"))), spread, "x")
            }
        };
        let unit = match text("unit") {
            "events/s" => "/s".to_owned(),
            unit => format!(" {unit}"),
        };
        let bound =
            |name: &str| format!("{sign} {}{x}: {}", short(number(name)), text(&format!("{name}_verdict")));
        let (bar, goal) = (bound("bar"), bound("goal"));
        let ours = short(number("bus"));
        _ = writeln!(out, "| {} | {ours}{unit} | {peer} | {spread} | {bar} | {goal} |", text("work"));
    }
    out
}

#[test]
fn rows_are_judged_and_shown() {
    let ratio = against("bare", "x", 0.8, 1.0).judge(&[90.0, 100.0, 110.0], &[100.0; 3]);
    assert_eq!((&ratio["bar_verdict"], &ratio["goal_verdict"]), (&"met".into(), &"within noise".into()));
    let late = row("y", "µs", Sense::AtMost, 20.0, 5.0).judge(&[10.0, 11.0, 12.0], &[]);
    assert_eq!((&late["bar_verdict"], &late["goal_verdict"]), (&"met".into(), &"missed".into()));
    let shown = table(&format!("{ratio}\n{late}\n"));
    assert!(shown.contains(
        "| x | 100/s | bare: 100/s | 1.00x (0.90x to 1.10x) | ≥ 0.80x: met | ≥ 1.00x: within noise |"
    ));
    assert!(
        shown.contains("| y | 11.0 µs |  | 11.0 (10.0 to 12.0) | ≤ 20.0: met | ≤ 5.00: missed |"),
        "{shown}"
    );
}
