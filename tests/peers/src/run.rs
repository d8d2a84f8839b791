//! All rows that were asked for: jobs in turn, pairs in turn within each.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::measure::{Run, Setting, run};
use crate::rows::{JOBS, Job, ROWS, Row, Who};
use crate::verdict::Samples;
use crate::{Compare, Result, report};

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn net() -> Result<PathBuf> {
    eprintln!("building `net` ...");
    let manifest = root().join("Cargo.toml");
    let built = Command::new("cargo")
        .args(["build", "--release", "-p", "net-cli", "--manifest-path"])
        .arg(&manifest)
        .status()?;
    if !built.success() {
        return Err("`net` does not build".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release/net"))
}

/// The command without a subcommand.
pub fn compare(args: &Compare) -> Result<()> {
    for id in &args.rows {
        if id != "build" && !ROWS.iter().any(|row| row.id == id) {
            return Err(format!("there is no row `{id}`; `list` names them").into());
        }
    }
    let wanted = |id: &str| args.rows.is_empty() || args.rows.iter().any(|row| row == id);
    let stack = args.peer.name();
    let only_build = args.rows == ["build"];
    let net = match &args.net {
        Some(net) => net.clone(),
        None if only_build => PathBuf::new(),
        None => net()?,
    };
    let mut all = json!({
        "peer": stack,
        "pairs": args.pairs,
        "seconds": args.seconds,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "processor": processor(),
        "rows": [],
    });
    let mut failed = false;
    for job in JOBS {
        let rows: Vec<&Row> = ROWS.iter().filter(|row| row.job == job.id && wanted(row.id)).collect();
        if rows.is_empty() {
            continue;
        }
        if !args.peer.can(job) && job.sides.iter().any(|side| side.who == Who::Peer) {
            eprintln!("{}: {stack} cannot do this", job.id);
            continue;
        }
        let runs = match take_turns(job, args, &net) {
            Ok(runs) => runs,
            Err(error) => {
                eprintln!("{}: {error}", job.id);
                failed = true;
                continue;
            }
        };
        for row in rows {
            let figures = evaluate(row, job, &runs, &stack)?;
            report::print(&figures);
            if let Some(rows) = all["rows"].as_array_mut() {
                rows.push(figures);
            }
        }
    }
    if args.rows.iter().any(|row| row == "build") {
        for figures in crate::build::measure()? {
            report::print(&figures);
            if let Some(rows) = all["rows"].as_array_mut() {
                rows.push(figures);
            }
        }
    }
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{all:#}\n"))?;
    }
    if failed { Err("not every row could be measured".into()) } else { Ok(()) }
}

/// The runs of each side.
fn take_turns(job: &Job, args: &Compare, net: &Path) -> Result<Vec<Vec<Run>>> {
    let (times, seconds) = job.fixed.unwrap_or((args.pairs, args.seconds));
    let mut runs: Vec<Vec<Run>> = job.sides.iter().map(|_| Vec::new()).collect();
    for time in 0..times {
        eprintln!("{}: {} of {times}", job.id, time + 1);
        for (side, runs) in job.sides.iter().zip(&mut runs) {
            let setting = Setting {
                net: net.to_path_buf(),
                peer: args.peer,
                seconds,
                loss: job.loss,
                key: u64::from(time),
            };
            runs.push(run(side, &setting)?);
        }
    }
    Ok(runs)
}

fn summary(values: &[f64]) -> Value {
    let samples = Samples::new(values.to_vec());
    let (low, high) = samples.interval();
    json!({
        "median": samples.median(), "min": samples.min(), "max": samples.max(),
        "low": low, "high": high, "samples": values,
    })
}

/// What was switched on, beside the figure.
const CONDITIONS: &[&str] =
    &["datagram_size", "cipher", "congestion", "cores", "threads", "runtime", "receive", "p99_us"];

fn side(job: &Job, index: usize, runs: &[Run], row: &Row, peer: &str) -> Result<(Vec<f64>, Value)> {
    let values = runs.iter().map(|run| run.metric(row.metric)).collect::<Result<Vec<f64>>>()?;
    let name = if job.sides[index].name.is_empty() { peer } else { job.sides[index].name };
    let mut figures = summary(&values);
    figures["name"] = name.into();
    let mut conditions = Map::new();
    if let Some(last) = runs.last() {
        for key in CONDITIONS {
            if !last.json[*key].is_null() {
                conditions.insert((*key).to_string(), last.json[*key].clone());
            }
        }
    }
    figures["conditions"] = Value::Object(conditions);
    Ok((values, figures))
}

fn evaluate(row: &Row, job: &Job, runs: &[Vec<Run>], peer: &str) -> Result<Value> {
    let (ours, our_figures) = side(job, row.ours, &runs[row.ours], row, peer)?;
    let mut figures = json!({"id": row.id, "work": row.work, "unit": row.unit, "ours": our_figures});
    let compared = match row.theirs {
        None => ours,
        Some(index) => {
            let (theirs, their_figures) = side(job, index, &runs[index], row, peer)?;
            figures["theirs"] = their_figures;
            let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
            figures["ratio"] = summary(&ratios);
            ratios
        }
    };
    let samples = Samples::new(compared);
    figures["sense"] =
        if row.sense == crate::verdict::Sense::AtLeast { "at least" } else { "at most" }.into();
    for (name, bound) in [("bar", row.bar), ("goal", row.goal)] {
        if let Some(bound) = bound {
            let verdict = samples.verdict(row.sense, bound).to_string();
            figures[name] = json!({"bound": bound, "verdict": verdict});
        }
    }
    Ok(figures)
}

/// What the system calls its processor.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name"));
    name.map_or("unknown", |name| name.trim_start_matches([' ', '\t', ':'])).to_string()
}
