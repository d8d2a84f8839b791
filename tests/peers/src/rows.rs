//! What is measured, and the bounds.

use crate::verdict::Sense;

/// Who runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The program `net`, with the arguments of `net bench`.
    Net,
    /// This program, for the stack that was chosen.
    Peer,
    /// This program, bare UDP.
    Bare,
}

/// One side of a job.
#[derive(Debug)]
pub struct Side {
    pub who: Who,
    /// What tables call it; the stack's name if empty.
    pub name: &'static str,
    pub args: &'static [&'static str],
}

/// Runs that take turns.
#[derive(Debug)]
pub struct Job {
    pub id: &'static str,
    pub sides: &'static [Side],
    /// Datagrams that the relay loses each way, in percent.
    pub loss: f64,
    /// Repetitions and seconds, if not those of the command line.
    pub fixed: Option<(u32, u64)>,
}

/// What is read from a run.
#[derive(Clone, Copy, Debug)]
pub enum Metric {
    /// A number of the JSON.
    Key(&'static str),
    /// Processor time of both processes per GiB delivered, in seconds.
    ProcessorPerGib,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    pub id: &'static str,
    pub work: &'static str,
    pub job: &'static str,
    /// Position in the job's sides. Without a second one, the figure itself has the bounds.
    pub ours: usize,
    pub theirs: Option<usize>,
    pub metric: Metric,
    pub unit: &'static str,
    /// Of the figure, or of ours divided by theirs.
    pub sense: Sense,
    pub bar: Option<f64>,
    pub goal: Option<f64>,
}

const fn net(args: &'static [&'static str]) -> Side {
    Side { who: Who::Net, name: "Net", args }
}

const fn peer(args: &'static [&'static str]) -> Side {
    Side { who: Who::Peer, name: "", args }
}

const fn job(id: &'static str, sides: &'static [Side]) -> Job {
    Job { id, sides, loss: 0.0, fixed: None }
}

pub const JOBS: &[Job] = &[
    job(
        "unreliable-64",
        &[
            net(&["stream", "--payload", "64", "--mode", "unreliable", "--receive", "one"]),
            peer(&["stream", "--payload", "64", "--unreliable"]),
        ],
    ),
    job("reliable-64", &[net(&["stream", "--payload", "64"]), peer(&["stream", "--payload", "64"])]),
    job("reliable-1k", &[net(&["stream", "--payload", "1024"]), peer(&["stream", "--payload", "1024"])]),
    job("reliable-8k", &[net(&["stream", "--payload", "8192"]), peer(&["stream", "--payload", "8192"])]),
    Job {
        loss: 1.0,
        ..job("loss-1k", &[net(&["stream", "--payload", "1024"]), peer(&["stream", "--payload", "1024"])])
    },
    job(
        "echo-1core",
        &[
            net(&["echo", "--pin", "0"]),
            peer(&["echo", "--pin", "0"]),
            Side { who: Who::Bare, name: "bare UDP", args: &["echo", "--pin", "0"] },
        ],
    ),
    job("echo-64", &[net(&["echo", "--concurrency", "64"]), peer(&["echo", "--concurrency", "64"])]),
    job(
        "smol-1k",
        &[
            Side { name: "smol", ..net(&["stream", "--payload", "1024", "--runtime", "smol"]) },
            Side { name: "tokio", ..net(&["stream", "--payload", "1024"]) },
        ],
    ),
    job(
        "smol-echo",
        &[
            Side { name: "smol", ..net(&["echo", "--concurrency", "64", "--runtime", "smol"]) },
            Side { name: "tokio", ..net(&["echo", "--concurrency", "64"]) },
        ],
    ),
    // Long enough that the memory of 1,000 streams is not mapped for the first time in most of it.
    Job {
        fixed: Some((7, 6)),
        ..job(
            "sessions",
            &[
                Side { name: "1,000 sessions", ..net(&["sessions", "--count", "1000"]) },
                Side { name: "one session", ..net(&["sessions", "--count", "1"]) },
            ],
        )
    },
    Job { fixed: Some((1, 20)), ..job("idle", &[net(&["idle"])]) },
    Job { fixed: Some((3, 1)), ..job("memory", &[net(&["sessions", "--count", "1000", "--idle"])]) },
];

const fn ratio(id: &'static str, work: &'static str, bar: f64, goal: f64) -> Row {
    Row {
        id,
        work,
        job: id,
        ours: 0,
        theirs: Some(1),
        metric: Metric::Key("msgs_per_s"),
        unit: "messages/s",
        sense: Sense::AtLeast,
        bar: Some(bar),
        goal: Some(goal),
    }
}

const fn figure(
    id: &'static str,
    work: &'static str,
    key: &'static str,
    unit: &'static str,
    bar: f64,
    goal: f64,
) -> Row {
    Row { theirs: None, metric: Metric::Key(key), unit, sense: Sense::AtMost, ..ratio(id, work, bar, goal) }
}

pub const ROWS: &[Row] = &[
    ratio("unreliable-64", "unreliable, 64 B, one a call at both ends", 1.0, 1.5),
    ratio("reliable-64", "reliable, 64 B", 1.0, 2.0),
    ratio("reliable-1k", "reliable, 1 KiB", 1.0, 2.0),
    ratio("reliable-8k", "reliable, 8 KiB", 1.0, 2.0),
    ratio("loss-1k", "reliable, 1 KiB, 1 % loss each way", 1.0, 1.2),
    Row {
        metric: Metric::Key("p50_us"),
        unit: "µs",
        sense: Sense::AtMost,
        goal: None,
        ..ratio("echo-1core", "echo, both processes on one core, median", 1.0, 0.0)
    },
    Row {
        job: "echo-1core",
        theirs: Some(2),
        metric: Metric::Key("p50_us"),
        unit: "µs",
        sense: Sense::AtMost,
        bar: None,
        ..ratio("echo-bare", "the same against a bare UDP round trip", 0.0, 2.5)
    },
    Row {
        metric: Metric::Key("calls_per_s"),
        unit: "calls/s",
        ..ratio("echo-64", "echo, 64 outstanding", 1.0, 2.0)
    },
    Row {
        job: "echo-64",
        metric: Metric::Key("p99_us"),
        unit: "µs",
        sense: Sense::AtMost,
        goal: None,
        ..ratio("echo-64-p99", "the same, 99th percentile", 1.0, 0.0)
    },
    ratio("smol-1k", "smol against tokio, reliable 1 KiB", 0.8, 1.0),
    Row {
        metric: Metric::Key("calls_per_s"),
        unit: "calls/s",
        ..ratio("smol-echo", "smol against tokio, echo, 64 outstanding", 0.8, 1.0)
    },
    Row {
        job: "reliable-8k",
        metric: Metric::ProcessorPerGib,
        unit: "s/GiB",
        sense: Sense::AtMost,
        ..ratio("cpu-8k", "processor time per GiB, reliable 8 KiB, both processes", 1.0, 0.6)
    },
    ratio("sessions", "1,000 sessions on one socket, 64 B in turn, against one", 0.7, 0.9),
    figure("idle", "idle node with one peer, share of a core", "core_percent", "%", 0.3, 0.1),
    figure(
        "memory",
        "memory of a node with 1,000 idle sessions",
        "memory_bytes",
        "bytes",
        (16 << 20) as f64,
        (4 << 20) as f64,
    ),
];

pub fn list() {
    for row in ROWS {
        println!("{:14} {}", row.id, row.work);
    }
    println!("{:14} packages and clean release build of a streams-only program; only if named", "build");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_job_and_every_job_a_row() {
        for row in ROWS {
            let job = JOBS.iter().find(|job| job.id == row.job).unwrap_or_else(|| panic!("{}", row.id));
            assert!(row.ours < job.sides.len() && row.theirs.is_none_or(|side| side < job.sides.len()));
        }
        for job in JOBS {
            assert!(ROWS.iter().any(|row| row.job == job.id), "{}", job.id);
        }
    }
}
