//! Net and others at the same work, side by side on one machine. `docs/BENCHMARKS.md` describes it.

mod bare;
mod build;
mod chart;
mod far;
#[cfg(feature = "tonic")]
mod grpc;
mod measure;
mod near;
#[cfg(feature = "quinn")]
mod quic;
mod relay;
mod report;
mod rows;
mod run;
mod verdict;
#[cfg(feature = "zenoh")]
mod zenoh;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// What can end this program early.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;

/// Runs the same work on Net and on another stack in turn, and says who is faster by how much.
#[derive(Debug, Parser)]
#[command(name = "net-peers", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Debug, Args)]
pub struct Compare {
    /// Rows to measure; all but `build` if none is named. `list` names them
    pub rows: Vec<String>,
    /// What to compare with
    #[arg(long, value_enum, default_value_t = default_stack())]
    pub peer: Stack,
    /// Times that each side runs, in turn
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub pairs: u32,
    /// How long each run works, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The program `net`; built from the workspace if not given
    #[arg(long, value_name = "FILE")]
    pub net: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name the rows
    List,
    /// Draw the ratios of a JSON file as SVG
    Chart { json: PathBuf, svg: PathBuf },
    /// Print a JSON file as a Markdown table
    Table { json: PathBuf },
    /// One run of one stack: messages one way
    #[command(hide = true)]
    Stream(Stream),
    /// One run of one stack: messages there and back
    #[command(hide = true)]
    Echo(Echo),
    /// The process at the far end
    #[command(hide = true)]
    Far(Far),
    /// The lossy link
    #[command(hide = true)]
    Relay(relay::Settings),
}

/// What can be measured; `Bare` is UDP and nothing else, for echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stack {
    Bare,
    #[cfg(feature = "quinn")]
    Quinn,
    #[cfg(feature = "tonic")]
    Tonic,
    #[cfg(feature = "zenoh")]
    Zenoh,
}

impl Stack {
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// Whether it can do a job at all.
    pub fn can(self, job: &rows::Job) -> bool {
        match (self, job.id, job.loss) {
            (Self::Bare, ..) => false,
            #[cfg(feature = "quinn")]
            (Self::Quinn, ..) => true,
            // TCP: no datagrams, and the relay speaks UDP.
            #[cfg(feature = "tonic")]
            (Self::Tonic, work, loss) => loss == 0.0 && work != "unreliable-64",
            // Nothing over QUIC that may be lost.
            #[cfg(feature = "zenoh")]
            (Self::Zenoh, work, _) => work != "unreliable-64",
        }
    }
}

const fn default_stack() -> Stack {
    #[cfg(feature = "quinn")]
    return Stack::Quinn;
    #[cfg(not(feature = "quinn"))]
    Stack::Bare
}

#[derive(Clone, Debug, Args)]
pub struct Common {
    #[arg(long, value_enum)]
    pub stack: Stack,
    #[arg(long, default_value_t = 64)]
    pub payload: usize,
    #[arg(long, default_value_t = 3)]
    pub seconds: u64,
    /// Both processes on this core only.
    #[arg(long)]
    pub pin: Option<usize>,
    /// Where the far end binds.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub bind: SocketAddr,
    /// Where to send instead: a relay to the far end.
    #[arg(long)]
    pub via: Option<SocketAddr>,
}

#[derive(Clone, Debug, Args)]
pub struct Stream {
    #[command(flatten)]
    pub common: Common,
    #[arg(long)]
    pub unreliable: bool,
}

#[derive(Clone, Debug, Args)]
pub struct Echo {
    #[command(flatten)]
    pub common: Common,
    #[arg(long, default_value_t = 1)]
    pub concurrency: usize,
}

#[derive(Clone, Debug, Args)]
pub struct Far {
    #[arg(long, value_enum)]
    pub stack: Stack,
    #[arg(long)]
    pub bind: SocketAddr,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = match cli.command {
        None => run::compare(&cli.compare),
        Some(Command::List) => {
            rows::list();
            Ok(())
        }
        Some(Command::Chart { json, svg }) => chart::draw(&json, &svg),
        Some(Command::Table { json }) => report::table(&json),
        Some(Command::Stream(args)) => near::stream(&args),
        Some(Command::Echo(args)) => near::echo(&args),
        Some(Command::Far(args)) => far::run(&args),
        Some(Command::Relay(args)) => relay::run(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("net-peers: {error}");
            ExitCode::FAILURE
        }
    }
}
