//! `world bench`: how many node-seconds are simulated in a second of the wall clock.

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use net_sim::World;
use net_sim::traffic::Station;

use super::workload::{self, Ciphers};

/// One line of the table.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    sdk: bool,
    ciphers: Ciphers,
    nodes: u32,
    seconds: u64,
    /// Node-seconds per second: at least, and wished.
    bar: (f64, f64),
}

const fn case(name: &'static str, sdk: bool, ciphers: Ciphers, nodes: u32, bar: (f64, f64)) -> Case {
    Case { name, sdk, ciphers, nodes, seconds: 60, bar }
}

const CASES: [Case; 6] = [
    case("bare-50", false, Ciphers::Null, 50, (3_000.0, 10_000.0)),
    case("bare-1000", false, Ciphers::Null, 1_000, (3_000.0, 10_000.0)),
    case("ring-50", false, Ciphers::Ring, 50, (1_000.0, 4_000.0)),
    case("sdk-50", true, Ciphers::Null, 50, (1_000.0, 4_000.0)),
    case("sdk-1000", true, Ciphers::Null, 1_000, (1_000.0, 4_000.0)),
    case("bare-10000", false, Ciphers::Null, 10_000, (0.0, 2_000.0)),
];

struct Options {
    cases: Vec<Case>,
    seed: u64,
    runs: u32,
    json: bool,
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut o = Options { cases: Vec::new(), seed: 1, runs: 1, json: false };
    let (mut seconds, mut ciphers) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        if arg == "--json" {
            o.json = true;
            continue;
        }
        if !arg.starts_with("--") {
            let known = || CASES.map(|c| c.name).join(", ");
            let case = CASES.iter().find(|c| c.name == arg);
            o.cases.push(*case.ok_or_else(|| format!("no case is called {arg}; there are {}", known()))?);
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{arg} {value}: {e}"));
        match arg.as_str() {
            "--seed" => o.seed = number()?,
            "--runs" => o.runs = number()? as u32,
            "--seconds" => seconds = Some(number()?),
            "--ciphers" => {
                ciphers = Some(match value.as_str() {
                    "null" => Ciphers::Null,
                    "portable" => Ciphers::Portable,
                    "ring" => Ciphers::Ring,
                    other => return Err(format!("no ciphers are called {other}: null, portable, ring")),
                });
            }
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    if o.cases.is_empty() {
        // The last one takes minutes and gigabytes: by name only.
        o.cases.extend(&CASES[..CASES.len() - 1]);
    }
    for case in &mut o.cases {
        case.seconds = seconds.unwrap_or(case.seconds);
        case.ciphers = ciphers.unwrap_or(case.ciphers);
    }
    Ok(o)
}

struct Measured {
    /// Seconds of the wall clock: until all are associated, and in all.
    start: f64,
    whole: f64,
    /// Seconds of the processor, where the system tells: what is left of `whole` on a busy machine.
    cpu: Option<f64>,
    events: u64,
    datagrams: u64,
    sent: u64,
    got: u64,
    trace: u64,
}

impl Measured {
    /// Node-seconds per second over the whole run, and over its part after the start (if it has one).
    fn rates(&self, case: &Case) -> (f64, f64) {
        let nodes = f64::from(case.nodes);
        let after = case.seconds.saturating_sub(START) as f64 * nodes / (self.whole - self.start);
        let whole = case.seconds as f64 * nodes / self.whole;
        (whole, if case.seconds > START { after } else { whole })
    }
}

/// Simulated seconds in which everybody finds everybody.
const START: u64 = 5;

fn measure(case: &Case, seed: u64) -> Result<Measured, String> {
    // The wall clock only measures the simulator; nothing in the world sees it.
    #[allow(clippy::disallowed_methods)]
    let begin = std::time::Instant::now();
    let before = processor();
    let (mut world, counts) = if case.sdk {
        let (world, counts) = workload::sdk(seed, case.nodes, case.ciphers);
        (world, Some(counts))
    } else {
        (workload::bare(seed, case.nodes, case.ciphers), None)
    };
    let run = |world: &mut World, seconds| world.run_for(Duration::from_secs(seconds));
    let first = START.min(case.seconds);
    run(&mut world, first).map_err(|failure| format!("{}: {failure}", case.name))?;
    let start = begin.elapsed().as_secs_f64();
    run(&mut world, case.seconds - first).map_err(|failure| format!("{}: {failure}", case.name))?;
    let whole = begin.elapsed().as_secs_f64();
    let cpu = before.zip(processor()).map(|(before, after)| after - before);
    let stations = (0..case.nodes).filter_map(|i| world.app::<Station>(i));
    let (sent, got) = match &counts {
        Some(counts) => (counts.sent.load(Ordering::Relaxed), counts.got.load(Ordering::Relaxed)),
        None => stations.fold((0, 0), |(sent, got), s| {
            (sent + s.flows.iter().map(|(_, s)| s.queued).sum::<u64>(), got + s.received())
        }),
    };
    let stats = world.stats();
    let (events, datagrams, trace) = (stats.events, stats.datagrams, world.trace());
    Ok(Measured { start, whole, cpu, events, datagrams, sent, got, trace })
}

/// Seconds of the processor that this thread took so far.
fn processor() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<u64>().ok()? as f64 / 1e9)
}

/// The most memory that the process had so far, in bytes; zero where the system does not tell.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

pub fn run(args: &[String]) -> Result<ExitCode, String> {
    let o = options(args)?;
    let mut lines = Vec::new();
    let mut met = true;
    if !o.json {
        println!(
            "{:<11}{:>8}{:>7}{:>9}{:>10}{:>10}{:>12}{:>12}{:>12}{:>9}  verdict",
            "case",
            "ciphers",
            "nodes",
            "seconds",
            "wall s",
            "cpu s",
            "per wall s",
            "with start",
            "per cpu s",
            "MiB"
        );
    }
    for case in &o.cases {
        let mut all = Vec::new();
        for _ in 0..o.runs.max(1) {
            all.push(measure(case, o.seed)?);
        }
        // What is judged is the rate after the start: the handshakes of a second are not the work.
        let mut rates: Vec<f64> = all.iter().map(|m| m.rates(case).1).collect();
        rates.sort_by(f64::total_cmp);
        let median = rates[rates.len() / 2];
        let m = all.iter().find(|m| m.rates(case).1 == median).unwrap_or(&all[0]);
        if all.iter().any(|m| m.trace != all[0].trace) {
            return Err(format!("{}: two runs of seed {} have two traces", case.name, o.seed));
        }
        let whole = m.rates(case).0;
        let verdict = match median {
            rate if rate >= case.bar.1 => "goal met",
            rate if rate >= case.bar.0 => "bar met",
            _ => "missed",
        };
        met &= median >= case.bar.0;
        let events = m.events as f64 / m.whole;
        let node_seconds = case.seconds as f64 * f64::from(case.nodes);
        let (cpu, per_cpu) = m.cpu.map_or((0.0, 0.0), |cpu| (cpu, node_seconds / cpu));
        if o.json {
            lines.push(format!(
                "{{\"case\":\"{}\",\"ciphers\":\"{}\",\"nodes\":{},\"seconds\":{},\"seed\":{},\"runs\":{},\
                 \"wall_s\":{:.3},\"node_seconds_per_s\":{median:.0},\"lowest\":{:.0},\"highest\":{:.0},\
                 \"with_start\":{whole:.0},\"cpu_s\":{cpu:.3},\"node_seconds_per_cpu_s\":{per_cpu:.0},\
                 \"events_per_s\":{events:.0},\"datagrams\":{},\"sent\":{},\
                 \"received\":{},\"peak_bytes\":{},\"bar\":{},\"goal\":{},\"verdict\":\"{verdict}\",\
                 \"trace\":\"{:016x}\"}}",
                case.name,
                case.ciphers.name(),
                case.nodes,
                case.seconds,
                o.seed,
                all.len(),
                m.whole,
                rates[0],
                rates[rates.len() - 1],
                m.datagrams,
                m.sent,
                m.got,
                peak(),
                case.bar.0,
                case.bar.1,
                m.trace,
            ));
            continue;
        }
        println!(
            "{:<11}{:>8}{:>7}{:>9}{:>10.2}{cpu:>10.2}{median:>12.0}{whole:>12.0}{per_cpu:>12.0}{:>9}  {verdict}; {} sent, \
             {} received, {} datagrams, trace {:016x}",
            case.name,
            case.ciphers.name(),
            case.nodes,
            case.seconds,
            m.whole,
            peak() >> 20,
            m.sent,
            m.got,
            m.datagrams,
            m.trace,
        );
    }
    if o.json {
        println!("[{}]", lines.join(",\n "));
    }
    Ok(if met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
