//! What the program `world` does besides running one world: searching, replaying and shrinking plans,
//! and trying the planted bugs.

mod bench;
mod campaign;
mod exhaust;
pub mod workload;

use std::process::ExitCode;
use std::time::Duration;

use net_sim::plan::Kind;
use net_sim::shrink::shrink;
use net_sim::{Failure, Plan, marks, scenario};

pub const USAGE: &str = "       world bench [CASE..] [--seconds N] [--runs N] [--seed N] [--ciphers null|portable|ring] [--json]
       world campaign [--runs N] [--from SEED] [--seconds N] [--faults N]
       world traces [--seeds N] [--from SEED]
       world swarm [--scenario NAME] [--runs N] [--from SEED] [--nodes N] [--seconds N] [--faults N]
       world replay FILE
       world shrink [FILE]     (without a file: 500 faults among 50 nodes, of which two make it fail)
       world planted [--bug NAME] [--runs N] [--seconds N]      (built with --features planted)
       world exhaust [--what handshake|crossing|rekey|renewal|resume|all] [--losses N] [--duplicates N] [--reorders N]
                     [--crashes N] [--timers N] [--states N] [--bug NAME] [--json]";

/// Runs the command that the arguments name; `None` if they name none.
pub fn run(args: &[String]) -> Option<ExitCode> {
    let rest = args.get(1..).unwrap_or_default();
    let outcome = match args.first().map(String::as_str)? {
        "bench" => bench::run(rest),
        "campaign" => campaign::run(rest),
        "traces" => campaign::traces(rest),
        "swarm" => swarm(rest),
        "replay" => replay(rest),
        "shrink" => smaller(rest),
        "planted" => planted(rest),
        "exhaust" => exhaust::run(rest),
        _ => return None,
    };
    Some(outcome.unwrap_or_else(|error| {
        eprintln!("{error}\nusage:\n{USAGE}");
        ExitCode::from(2)
    }))
}

struct Options {
    scenario: String,
    bug: Option<String>,
    runs: u64,
    from: u64,
    nodes: u32,
    seconds: u64,
    faults: u32,
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut o =
        Options { scenario: "mesh".into(), bug: None, runs: 100, from: 0, nodes: 8, seconds: 20, faults: 40 };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{arg} {value}: {e}"));
        match arg.as_str() {
            "--scenario" => o.scenario.clone_from(value),
            "--bug" => o.bug = Some(value.clone()),
            "--runs" => o.runs = number()?,
            "--from" => o.from = number()?,
            "--nodes" => o.nodes = number()? as u32,
            "--seconds" => o.seconds = number()?,
            "--faults" => o.faults = number()? as u32,
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    if scenario::named(&o.scenario).is_none() {
        let known: Vec<&str> = scenario::ALL.iter().map(|(name, _)| *name).collect();
        return Err(format!("no scenario is called {}; there are {known:?}", o.scenario));
    }
    Ok(o)
}

/// Lives a plan; a panic is a failure.
fn live(plan: &Plan) -> Result<u64, Failure> {
    let run = scenario::named(&plan.scenario).ok_or_else(|| Failure {
        at: Duration::ZERO,
        node: None,
        what: format!("no scenario is called {}", plan.scenario),
    })?;
    let outcome = std::panic::catch_unwind(|| run(plan).map(|w| w.trace()));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let what = format!("panicked: {}", text.unwrap_or_default());
        Err(Failure { at: Duration::ZERO, node: None, what })
    })
}

fn swarm(args: &[String]) -> Result<ExitCode, String> {
    let o = options(args)?;
    let template = scenario::swarm(&o.scenario, o.nodes, Duration::from_secs(o.seconds)).at_most(o.faults);
    let mut failed = 0;
    for seed in o.from..o.from + o.runs {
        let plan = Plan::random(seed, &template);
        if let Err(failure) = live(&plan) {
            failed += 1;
            let file = format!("{}-{seed}.plan", o.scenario);
            println!("seed {seed} failed {failure}; its plan is in {file}: world shrink {file}");
            std::fs::write(&file, plan.to_string()).map_err(|e| format!("{file}: {e}"))?;
        }
        let done = seed + 1 - o.from;
        if done.is_multiple_of(o.runs.div_ceil(10).max(1)) {
            eprintln!("{done} of {} runs, {failed} failed", o.runs);
        }
    }
    let marks = marks::take();
    println!("{}", marks.table());
    let met =
        Kind::ALL.concat().into_iter().filter(|k| marks.faults.keys().any(|(kind, _)| kind == k)).count();
    println!("{} runs of {}, {failed} failed, {met} kinds of faults", o.runs, o.scenario);
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn load(args: &[String]) -> Result<(Plan, String), String> {
    let [file] = args else { return Err("one file is needed".into()) };
    Ok((Plan::load(file).map_err(|e| e.to_string())?, file.clone()))
}

fn replay(args: &[String]) -> Result<ExitCode, String> {
    let (plan, _) = load(args)?;
    Ok(match live(&plan) {
        Ok(trace) => {
            println!("{} faults, {} nodes: no failure\ntrace {trace:016x}", plan.faults.len(), plan.nodes);
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("failed {failure}");
            ExitCode::FAILURE
        }
    })
}

fn smaller(args: &[String]) -> Result<ExitCode, String> {
    let (plan, file) = if args.is_empty() {
        let (plan, file) = (scenario::two_faults_among(500, 50), "two-faults.plan".to_owned());
        std::fs::write(&file, plan.to_string()).map_err(|e| format!("{file}: {e}"))?;
        (plan, file)
    } else {
        load(args)?
    };
    // Panics are expected while plans are tried, and said at the end.
    std::panic::set_hook(Box::new(|_| {}));
    // The wall clock only measures the simulator; nothing in the world sees it.
    #[allow(clippy::disallowed_methods)]
    let start = std::time::Instant::now();
    let Some(shrunk) = shrink(&plan, 5_000, |p| live(p).err()) else {
        return Err(format!("{file} does not fail"));
    };
    let out = format!("{}.min.plan", file.strip_suffix(".plan").unwrap_or(&file));
    std::fs::write(&out, shrunk.plan.to_string()).map_err(|e| format!("{out}: {e}"))?;
    println!("{}", shrunk.plan);
    println!(
        "{} faults to {}, {} nodes to {}, in {} runs and {:.1} s; failed {}",
        plan.faults.len(),
        shrunk.plan.faults.len(),
        plan.nodes,
        shrunk.plan.nodes,
        shrunk.runs,
        start.elapsed().as_secs_f64(),
        shrunk.failure
    );
    println!("written to {out}");
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(feature = "planted"))]
fn planted(_args: &[String]) -> Result<ExitCode, String> {
    Err("this build has no planted bugs: cargo run --release -p net-sim --features planted --bin world -- planted".into())
}

/// Tries each bug on seed after seed until a checker finds it.
#[cfg(feature = "planted")]
fn planted(args: &[String]) -> Result<ExitCode, String> {
    use net_proto::planted::{ALL, Bug, choose};

    let o = options(args)?;
    std::panic::set_hook(Box::new(|_| {}));
    // Of the transport one seed in turn on each of two scenarios; seeds are drawn alike, so the first that
    // finds it is what counts.
    let run = |seed: u64, of_bus: bool| {
        let (name, nodes, seconds, seed) = match (of_bus, seed % 2) {
            (true, _) => ("bus", 5, o.seconds, seed),
            (_, 0) => ("pair", 4, o.seconds.min(10), seed / 2),
            _ => ("mesh", 4, o.seconds.min(10), seed / 2),
        };
        let swarm = scenario::swarm(name, nodes, Duration::from_secs(seconds)).at_most(30);
        live(&Plan::random(seed, &swarm))
    };
    choose(Bug::None);
    for (seed, of_bus) in (0..o.runs.min(20)).flat_map(|seed| [(seed, false), (seed, true)]) {
        if let Err(failure) = run(seed, of_bus) {
            return Err(format!("without a bug seed {seed} fails: {failure}"));
        }
    }
    let (mut found, mut tried, mut all) = (0, 0, Vec::new());
    for (bug, name, text) in ALL.iter().filter(|(_, name, _)| o.bug.as_deref().is_none_or(|b| b == *name)) {
        choose(*bug);
        tried += 1;
        let hit =
            (0..o.runs).find_map(|seed| run(seed, bug.of_bus()).err().map(|failure| (seed + 1, failure)));
        match hit {
            Some((seeds, failure)) => {
                found += 1;
                all.push(seeds);
                println!("{name:<24} {seeds:>6} seeds  {:.90}", failure.what);
            }
            None => println!("{name:<24} not in {} seeds: {text}", o.runs),
        }
    }
    choose(Bug::None);
    all.sort_unstable();
    println!("{found} of {tried} found; median {} seeds", all.get(all.len() / 2).copied().unwrap_or(0));
    Ok(if found + 1 >= tried { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
