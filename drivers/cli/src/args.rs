//! The command line.

mod bus;

pub use bus::{Bus, BusBench, BusEmit, BusKeep, BusRow, BusStatus, BusTail, Where};

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use net_sdk::MeshBuilder;

/// An encrypted mesh of nodes: try it, move files with it, measure it.
///
/// Without a command, `net` runs the demo.
#[derive(Debug, Parser)]
#[command(name = "net", version, propagate_version = true, max_term_width = 100, after_help = EXIT_CODES)]
pub struct Cli {
    /// Write JSON, one object a line, instead of text for people
    #[arg(long, global = true)]
    pub json: bool,
    /// Configuration file; without it net/config.toml where the platform keeps configuration
    #[arg(long, global = true, env = "NET_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub watch: Watch,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What a node writes about itself. `%t` in a name becomes the time in seconds, `%p` the process.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub struct Watch {
    /// Record everything that moves the node, for `net replay`; the file is SECRET, it holds the keys
    #[arg(long, global = true, env = "NET_TRACE", value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Write what the node does as qlog, for tools that draw connections
    #[arg(long, global = true, env = "NET_QLOG", value_name = "FILE")]
    pub qlog: Option<PathBuf>,
    /// Write the key of every packet, so that a capture can be read: ENDS THE SECRECY of all that is said
    #[arg(long, global = true, env = "NET_EXPORT_KEYS", value_name = "FILE")]
    pub export_keys: Option<PathBuf>,
}

impl Watch {
    /// The files of a node; `suffix` tells several nodes of one process apart.
    pub fn apply(&self, mut builder: MeshBuilder, suffix: &str) -> MeshBuilder {
        if let Some(path) = &self.trace {
            builder = builder.record(named(path, suffix));
        }
        if let Some(path) = &self.qlog {
            builder = builder.qlog(named(path, suffix));
        }
        if let Some(path) = &self.export_keys {
            let path = named(path, suffix);
            // Not to be overlooked, whatever the output is for.
            eprintln!("net: KEYS ARE EXPORTED to {}: who reads it reads everything", path.display());
            builder = builder.export_keys(path);
        }
        builder
    }
}

/// A name with its places filled in.
fn named(path: &Path, suffix: &str) -> PathBuf {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let name = path.to_string_lossy().replace("%t", &now.as_secs().to_string());
    PathBuf::from(name.replace("%p", &std::process::id().to_string()) + suffix)
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong arguments; 3 the peer cannot be reached; \
4 the peer refused; 5 not everything arrived as it was sent; 6 a replay differs from its record.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show three nodes, a lossy link and a file that arrives whole, in at most 14 s
    Demo(Demo),
    /// Print who this node is; makes an identity and a mesh if there are none
    Id(Id),
    /// Receive files into a folder; prints the invite that a sender needs
    Recv(Recv),
    /// Send a file or a folder; goes on where it was interrupted
    Send(Send),
    /// Measure round trips to a node
    Ping(Ping),
    /// Measure speed between two processes on this machine
    #[command(subcommand)]
    Bench(Bench),
    /// Write and read events: on Redis Streams, NATS JetStream or nodes of the mesh
    #[command(subcommand)]
    Bus(Bus),
    /// Forward UDP datagrams to an address and lose some of them, to try things over a bad link
    Relay(Relay),
    /// Look at what this machine offers to a node: buffers, batches, marks, clocks, ciphers
    Doctor(Doctor),
    /// Show what a node that runs on this machine counts
    Stats(Stats),
    /// Live the record of a node again (`--trace`), event for event, and say where it differs
    Replay(Replay),
    /// Print the completions of a shell
    Completions(Completions),
    /// Write the manual pages into a folder
    Man(Man),
    /// The far end of a benchmark; started by `net bench`
    #[command(hide = true)]
    BenchPeer(BenchPeer),
    /// The flood of a benchmark, to an address of this machine; started by `net bench flood`
    #[command(hide = true)]
    BenchFlooder(BenchFlooder),
}

#[derive(Debug, Args)]
pub struct Demo {
    /// The file to send; this program's own executable if none is given
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Datagrams that the relay loses, in percent, each way
    #[arg(long, value_name = "P", default_value = "1", value_parser = percent)]
    pub loss: f64,
}

/// Where identity, mesh and boot epoch are kept.
#[derive(Debug, Args)]
pub struct State {
    /// State directory: identity, mesh key, boot epoch
    #[arg(long, env = "NET_DIR", value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Id {
    #[command(flatten)]
    pub state: State,
}

/// Where a node listens that others dial.
#[derive(Debug, Args)]
pub struct Listen {
    /// Address to bind, may be repeated; without it the ports of the last run, else any free ones
    #[arg(long, value_name = "IP:PORT")]
    pub bind: Vec<SocketAddr>,
    /// Address at which others reach this node, may be repeated; for forwarded ports
    #[arg(long, value_name = "IP:PORT")]
    pub advertise: Vec<SocketAddr>,
}

#[derive(Debug, Args)]
pub struct Recv {
    /// The folder to receive into
    #[arg(value_name = "FOLDER")]
    pub into: PathBuf,
    #[command(flatten)]
    pub state: State,
    #[command(flatten)]
    pub listen: Listen,
    /// End after one whole transfer
    #[arg(long)]
    pub once: bool,
    /// Leave files alone that exist with other content
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, Args)]
pub struct Send {
    /// The file or folder to send
    pub path: PathBuf,
    /// The invite that `net recv` printed; `-` reads it from the standard input
    #[arg(long, value_name = "INVITE", env = "NET_INVITE", hide_env_values = true)]
    pub to: String,
    #[command(flatten)]
    pub state: State,
    /// How long to go on trying without a reply, in seconds; 60 if not given
    #[arg(long, value_name = "SECONDS")]
    pub patience: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Ping {
    /// A ticket (needs the state directory of a node of the same mesh) or an invite
    #[arg(value_name = "TICKET|INVITE")]
    pub to: String,
    #[command(flatten)]
    pub state: State,
    /// How many
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// Pause between two, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pub interval: u64,
}

#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Messages one way, counted at the receiver
    Stream(BenchStream),
    /// Messages there and back
    Echo(BenchEcho),
    /// Messages from one socket to many peers in turn; or, with `--idle`, what idle sessions hold
    Sessions(BenchSessions),
    /// What a node with one peer costs that nobody uses
    Idle(BenchIdle),
    /// Paced traffic without and with a flood of bogus first messages
    Flood(BenchFlood),
}

#[derive(Debug, Args)]
pub struct BenchStream {
    /// Bytes in a message
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub payload: u32,
    /// What the stream promises
    #[arg(long, value_enum, default_value_t = Mode::Reliable)]
    pub mode: Mode,
    /// How the far end reads
    #[arg(long, value_enum, default_value_t = Receive::Many)]
    pub receive: Receive,
    /// How long to send, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    #[command(flatten)]
    pub common: BenchCommon,
}

#[derive(Debug, Args)]
pub struct BenchEcho {
    /// Calls under way at the same time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub concurrency: u32,
    /// Bytes in a message
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub payload: u32,
    /// How long to call, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    #[command(flatten)]
    pub common: BenchCommon,
}

#[derive(Debug, Args)]
pub struct BenchSessions {
    /// Peers, each with a session of its own
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub count: u32,
    /// Bytes in a message
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub payload: u32,
    /// What the streams promise
    #[arg(long, value_enum, default_value_t = Mode::Reliable)]
    pub mode: Mode,
    /// Send nothing: say how much memory the sessions hold
    #[arg(long)]
    pub idle: bool,
    /// How long to send, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    #[command(flatten)]
    pub common: BenchCommon,
}

#[derive(Debug, Args)]
pub struct BenchIdle {
    /// How long to watch, in seconds
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    #[command(flatten)]
    pub common: BenchCommon,
}

#[derive(Clone, Debug, Args)]
pub struct BenchFlood {
    /// Bogus first messages a second
    #[arg(long, value_name = "N", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub rate: u32,
    /// Bytes in a message
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub payload: u32,
    /// What the stream promises
    #[arg(long, value_enum, default_value_t = Mode::Reliable)]
    pub mode: Mode,
    /// How often it is measured without and with the flood
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub pairs: u32,
    /// How long each run sends, in seconds
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    #[command(flatten)]
    pub common: BenchCommon,
}

#[derive(Clone, Debug, Args)]
pub struct BenchCommon {
    /// What both processes run on
    #[arg(long, value_enum, default_value_t = RuntimeName::Tokio)]
    pub runtime: RuntimeName,
    /// Datagrams to lose, in percent, each way; a relay of its own process loses them
    #[arg(long, value_name = "P", default_value = "0", value_parser = percent)]
    pub loss: f64,
    /// Largest datagram, in bytes; what the node chooses if not given
    #[arg(long, value_name = "BYTES")]
    pub datagram: Option<u16>,
    /// The congestion control of both sides
    #[arg(long, value_enum, default_value_t = Congestion::Cubic)]
    pub congestion: Congestion,
    /// Both processes on this core, and only there (Linux)
    #[arg(long, value_name = "CORE")]
    pub pin: Option<usize>,
    /// Where the far end binds
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub bind: SocketAddr,
    /// Where to send instead: a relay that forwards to the far end
    #[arg(long, value_name = "IP:PORT", conflicts_with = "loss")]
    pub via: Option<SocketAddr>,
    /// What the node of this process writes about itself; the far end writes nothing
    #[arg(skip)]
    pub watch: Watch,
}

#[derive(Debug, Args)]
pub struct BenchPeer {
    #[command(flatten)]
    pub common: BenchCommon,
    /// How to read
    #[arg(long, value_enum, default_value_t = Receive::Many)]
    pub receive: Receive,
    /// Nodes in this process
    #[arg(long, default_value_t = 1)]
    pub nodes: u32,
}

#[derive(Debug, Args)]
pub struct BenchFlooder {
    /// Where to; a loopback address
    #[arg(value_name = "IP:PORT")]
    pub target: SocketAddr,
    /// Messages a second
    #[arg(long)]
    pub rate: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RuntimeName {
    /// tokio, with a thread per core
    Tokio,
    /// smol, with as many threads as `SMOL_THREADS` says, else one
    #[cfg(feature = "smol")]
    Smol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Congestion {
    /// CUBIC, the usual one
    Cubic,
    /// NewReno
    Reno,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Receive {
    /// Whatever is there, in one call
    Many,
    /// One message in a call
    One,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Fire and forget
    Unreliable,
    /// Exactly once, in order
    Reliable,
}

#[derive(Debug, Args)]
pub struct Relay {
    /// Where datagrams go
    #[arg(value_name = "IP:PORT")]
    pub target: SocketAddr,
    /// Address to bind
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub bind: SocketAddr,
    /// Datagrams to lose, in percent, each way
    #[arg(long, value_name = "P", default_value = "1", value_parser = percent)]
    pub loss: f64,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Look at the path to this node too: a ticket or an invite
    #[arg(long, value_name = "TICKET|INVITE")]
    pub to: Option<String>,
    #[command(flatten)]
    pub state: State,
}

#[derive(Debug, Args)]
pub struct Stats {
    #[command(flatten)]
    pub state: State,
    /// Show them again every so many seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
}

#[derive(Debug, Args)]
pub struct Replay {
    /// The record
    #[arg(value_name = "FILE")]
    pub record: PathBuf,
    /// Say every step too
    #[arg(long)]
    pub steps: bool,
    /// Say only how it ended
    #[arg(long, conflicts_with = "steps")]
    pub summary: bool,
}

#[derive(Debug, Args)]
pub struct Man {
    /// The folder to write to; it is made if it is missing
    #[arg(value_name = "FOLDER")]
    pub into: PathBuf,
}

#[derive(Debug, Args)]
pub struct Completions {
    /// For which shell
    pub shell: clap_complete::Shell,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(p) if (0.0..=90.0).contains(&p) => Ok(p),
        _ => Err("a number from 0 to 90".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn losses_are_percentages() {
        assert_eq!(percent("1"), Ok(1.0));
        assert_eq!(percent("0.5%"), Ok(0.5));
        assert!(percent("-1").is_err() && percent("91").is_err() && percent("NaN").is_err());
    }
}
