//! Many seeds of every scenario, and the proof that a seed is a run.

use std::process::ExitCode;
use std::time::Duration;

use net_sim::plan::Kind;
use net_sim::{Plan, World, marks, scenario};

use super::live;
use super::workload::{self, Ciphers};

/// Scenarios of a campaign: name, nodes, seeds for each thousand asked for.
const SCENARIOS: [(&str, u32, u64); 4] =
    [("mesh", 8, 1_000), ("pair", 2, 1_000), ("ciphers", 2, 500), ("bus", 5, 500)];
/// From so many seeds on, everything that must be reached has been.
const ENOUGH: u64 = 200;

fn numbers(args: &[String], names: &[&str]) -> Result<Vec<Option<u64>>, String> {
    let mut found = vec![None; names.len()];
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let place = names.iter().position(|n| n == arg).ok_or_else(|| format!("unknown option {arg}"))?;
        found[place] = Some(value.parse().map_err(|e| format!("{arg} {value}: {e}"))?);
    }
    Ok(found)
}

/// `world campaign`: seeds of all scenarios; a failure, a kind of fault that never happened or a required
/// mark that was never reached makes it fail.
pub fn run(args: &[String]) -> Result<ExitCode, String> {
    let given = numbers(args, &["--runs", "--from", "--seconds", "--faults"])?;
    let (runs, from) = (given[0].unwrap_or(1_000), given[1].unwrap_or(0));
    let (seconds, faults) = (given[2].unwrap_or(20), given[3].unwrap_or(40) as u32);
    // Panics are failures of their seeds, and said with them.
    std::panic::set_hook(Box::new(|_| {}));
    // The wall clock only measures the simulator; nothing in the world sees it.
    #[allow(clippy::disallowed_methods)]
    let begin = std::time::Instant::now();
    let (mut failed, mut simulated, mut tried) = (0, 0.0, 0);
    for (name, nodes, share) in SCENARIOS {
        let template = scenario::swarm(name, nodes, Duration::from_secs(seconds)).at_most(faults);
        let count = (runs * share).div_ceil(1_000);
        for seed in from..from + count {
            let plan = Plan::random(seed, &template);
            simulated += f64::from(plan.nodes) * plan.time.as_secs_f64();
            tried += 1;
            if let Err(failure) = live(&plan) {
                failed += 1;
                let file = format!("{name}-{seed}.plan");
                println!("{name}, seed {seed} failed {failure}; shrink it: world shrink {file}");
                std::fs::write(&file, plan.to_string()).map_err(|e| format!("{file}: {e}"))?;
            }
        }
        eprintln!("{name}: {count} seeds, {:.0} s so far", begin.elapsed().as_secs_f64());
    }
    let marks = marks::take();
    println!("{}", marks.table());
    let mut missing = Vec::new();
    if runs >= ENOUGH {
        let wanted = [Kind::NET, Kind::CRASH, Kind::CLOCK, Kind::MOVE, Kind::DISK].concat();
        let never = wanted.into_iter().filter(|k| !marks.faults.keys().any(|(kind, _)| kind == k));
        missing.extend(never.map(|kind| format!("fault {}", kind.name())));
        let reached = |name: &str| marks.marks.get(name).is_some_and(|(hits, _)| *hits > 0);
        let required = scenario::REQUIRED.iter().chain(scenario::REQUIRED_OF_BUS);
        missing.extend(required.filter(|name| !reached(name)).map(|n| format!("mark {n}")));
    }
    missing.iter().for_each(|what| println!("never reached: {what}"));
    println!(
        "{tried} seeds from {from}, {failed} failed; {:.1} node-hours simulated in {:.0} s",
        simulated / 3_600.0,
        begin.elapsed().as_secs_f64()
    );
    Ok(if failed == 0 && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// `world traces`: the trace hash of seed after seed, a line each. Two builds must print the same.
///
/// Every seed is a mesh of four under random faults; every tenth the whole SDK as well.
pub fn traces(args: &[String]) -> Result<ExitCode, String> {
    let given = numbers(args, &["--seeds", "--from"])?;
    let (seeds, from) = (given[0].unwrap_or(1_000), given[1].unwrap_or(0));
    let template = scenario::swarm("mesh", 4, Duration::from_secs(3)).at_most(20);
    for seed in from..from + seeds {
        let plan = Plan::random(seed, &template);
        let trace = live(&plan).map_err(|failure| format!("seed {seed}: {failure}"))?;
        println!("{seed} mesh {trace:016x}");
        if seed % 10 == 0 {
            let (mut world, _): (World, _) = workload::sdk(seed, 3, Ciphers::Portable);
            world.run_for(Duration::from_secs(3)).map_err(|failure| format!("seed {seed}: {failure}"))?;
            println!("{seed} sdk {:016x}", world.trace());
        }
    }
    Ok(ExitCode::SUCCESS)
}
