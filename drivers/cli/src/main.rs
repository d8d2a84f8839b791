//! The program `net`. `docs/CLI.md` describes it.
#![forbid(unsafe_code)]

mod args;
mod bench;
mod bus;
mod config;
mod demo;
mod doctor;
mod eavesdrop;
mod failure;
mod id;
mod output;
mod ping;
mod relay;
mod replay;
mod state;
mod stats;
mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use failure::{Failure, Result};
use output::Output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.json);
    let ended = match cli.command {
        // They choose a runtime themselves.
        Some(Command::Bench(args)) => bench::run(args, &cli.watch, output),
        Some(Command::BenchPeer(args)) => bench::peer::run(args),
        Some(Command::BenchFlooder(args)) => bench::flood::flooder(args),
        Some(Command::Bus(args::Bus::Bench(args))) => bus::bench::run(&args, output),
        Some(Command::Replay(args)) => replay::run(&args, output),
        command => on_tokio(command, cli.config, cli.watch, output),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.fail(&failure);
            ExitCode::from(failure.code as u8)
        }
    }
}

fn on_tokio(
    command: Option<Command>,
    config: Option<PathBuf>,
    watch: args::Watch,
    output: Output,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format_args!("cannot start: {e}")))?;
    // Spawned: the thread that waits here is none of the runtime's workers.
    let ended = runtime.block_on(async { tokio::spawn(run(command, config, watch, output)).await });
    // Threads that wait for files or the network are not worth waiting for.
    runtime.shutdown_background();
    ended.unwrap_or_else(|e| Err(Failure::failed(format_args!("this is a bug: {e}"))))
}

async fn run(
    command: Option<Command>,
    config: Option<PathBuf>,
    watch: args::Watch,
    output: Output,
) -> Result<()> {
    // The demo and the benchmarks stay what they are on every machine.
    let config = || -> Result<config::Config> {
        Ok(config::Config { watch: watch.clone(), ..config::Config::load(config.as_deref())? })
    };
    match command {
        None => {
            output.say("This runs the demo, `net demo`. `net --help` lists what else the program does.\n");
            demo::run(args::Demo { input: None, loss: 1.0 }, &watch, output).await
        }
        Some(Command::Demo(args)) => demo::run(args, &watch, output).await,
        Some(Command::Id(args)) => id::run(args, &config()?, output).await,
        Some(Command::Recv(args)) => transfer::recv(args, &config()?, output).await,
        Some(Command::Send(args)) => transfer::send(args, &config()?, output).await,
        Some(Command::Bus(args)) => bus::run(args, &config()?, output).await,
        Some(Command::Ping(args)) => ping::run(args, &config()?, output).await,
        // `main` ran them.
        Some(Command::Bench(_) | Command::BenchPeer(_) | Command::BenchFlooder(_) | Command::Replay(_)) => {
            Ok(())
        }
        Some(Command::Relay(args)) => relay::run(args, output).await,
        Some(Command::Doctor(args)) => doctor::run(args, &config()?, output).await,
        Some(Command::Stats(args)) => stats::run(args, &config()?, output).await,
        Some(Command::Man(args)) => {
            std::fs::create_dir_all(&args.into)?;
            Ok(clap_mangen::generate_to(Cli::command(), &args.into)?)
        }
        Some(Command::Completions(args)) => {
            let mut text = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "net", &mut text);
            Ok(std::io::Write::write_all(&mut std::io::stdout(), &text)?)
        }
    }
}
