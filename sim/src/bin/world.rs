//! Runs a world and prints what happened: `world --seed 7 --nodes 50 --seconds 30`.
//!
//! Every node knows 8 neighbours, keeps its sessions alive every 100 ms and sends each neighbour a
//! message of 128 bytes a second, over links that lose and duplicate 1 % and damage 0.1 %.

#[path = "commands/mod.rs"]
mod commands;

use std::process::ExitCode;
use std::time::Duration;

use commands::workload::Ciphers;
use net_sim::traffic::Station;
use net_sim::{Failure, World};

const USAGE: &str = "usage: world [--seed N] [--nodes N] [--seconds N] [--real-ciphers]";

struct Options {
    seed: u64,
    nodes: u32,
    seconds: u64,
    real_ciphers: bool,
}

fn options() -> Result<Options, String> {
    let mut o = Options { seed: 1, nodes: 50, seconds: 30, real_ciphers: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--real-ciphers" {
            o.real_ciphers = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"))?;
        let number: u64 = value.parse().map_err(|e| format!("{arg} {value}: {e}"))?;
        match arg.as_str() {
            "--seed" => o.seed = number,
            "--nodes" => o.nodes = u32::try_from(number).map_err(|e| format!("--nodes: {e}"))?,
            "--seconds" => o.seconds = number,
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    Ok(o)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| matches!(arg.as_str(), "--help" | "-h" | "help")) {
        println!("{USAGE}\n{}", commands::USAGE);
        return ExitCode::SUCCESS;
    }
    if let Some(code) = commands::run(&args) {
        return code;
    }
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}\n{USAGE}\n{}", commands::USAGE);
            return ExitCode::from(2);
        }
    };
    let ciphers = if options.real_ciphers { Ciphers::Portable } else { Ciphers::Null };
    let mut world = commands::workload::bare(options.seed, options.nodes, ciphers);
    // The wall clock only measures the simulator; nothing in the world sees it.
    #[allow(clippy::disallowed_methods)]
    let start = std::time::Instant::now();
    let outcome = world.run_for(Duration::from_secs(options.seconds));
    let took = start.elapsed().as_secs_f64();
    report(&world, &options, took, outcome)
}

fn report(world: &World, options: &Options, took: f64, outcome: Result<(), Failure>) -> ExitCode {
    let (stats, links) = (world.stats(), world.link_stats());
    let stations = (0..options.nodes).filter_map(|i| world.app::<Station>(i));
    let (mut queued, mut received, mut ups, mut downs) = (0, 0, 0, 0);
    for station in stations {
        queued += station.flows.iter().map(|(_, s)| s.queued).sum::<u64>();
        received += station.received();
        ups += station.ups;
        downs += station.downs;
    }
    let node_seconds = f64::from(options.nodes) * options.seconds as f64;
    println!("seed {}, {} nodes, {} simulated seconds", options.seed, options.nodes, options.seconds);
    println!("messages: {queued} queued, {received} delivered; associations: {ups} ends up, {downs} down");
    println!(
        "datagrams: {} sent, {} arrived, {} lost, {} duplicated, {} damaged, {} nowhere",
        stats.datagrams, stats.arrived, links.lost, links.duplicated, links.corrupted, stats.nowhere
    );
    println!("events: {} in {took:.2} s; {:.0} node-seconds per second", stats.events, node_seconds / took);
    println!("trace {:016x}", world.trace());
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("failed {failure}");
            ExitCode::FAILURE
        }
    }
}
