//! The command line of `net bus`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Listen, State};

#[derive(Debug, Subcommand)]
pub enum Bus {
    /// Make events of lines, and wait until the other side has them
    Emit(BusEmit),
    /// Read events: what is there, or also what comes
    Tail(BusTail),
    /// Show what is kept of each shard, and whether the other side answers
    Status(BusStatus),
    /// Keep events on this node for others of the mesh; prints the invite that they need
    Keep(BusKeep),
    /// Measure the bus on this machine
    Bench(BusBench),
    /// The far end of `net bus bench mesh`
    #[command(hide = true)]
    BenchKeeper,
}

/// Where events are. One of them; without any the environment variable NET_BUS, which holds an address or an
/// invite.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Where events are (or NET_BUS)")]
pub struct Where {
    /// Redis Streams: `host:port` or `redis[s]://user:password@host:port/database`; several for a Cluster or
    /// Sentinels
    #[arg(long, value_name = "URL", conflicts_with_all = ["jetstream", "mesh", "memory"])]
    pub redis: Vec<String>,
    /// The servers of --redis belong to a Cluster
    #[arg(long, requires = "redis", conflicts_with = "sentinel")]
    pub cluster: bool,
    /// The servers of --redis are Sentinels that know the master under this name
    #[arg(long, value_name = "MASTER", requires = "redis")]
    pub sentinel: Option<String>,
    /// NATS JetStream: `nats://host:port`, `tls://user:password@host:port`; several of one cluster
    #[arg(long, value_name = "URL", conflicts_with_all = ["mesh", "memory"])]
    pub jetstream: Vec<String>,
    /// A node of the mesh that keeps events: the invite that `net bus keep` printed; several in the same order
    /// everywhere
    #[arg(long, value_name = "INVITE", conflicts_with = "memory")]
    pub mesh: Vec<String>,
    /// This process: what goes in comes out
    #[arg(long)]
    pub memory: bool,
    /// What the streams are called, or the events that a node keeps; `net` without it, `net_bench` for `net bus bench`
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Trust these authorities (PEM) instead of those of the system
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// How long to go on without progress, in seconds
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
}

#[derive(Debug, Args)]
pub struct BusEmit {
    /// Each line becomes an event, without its end of line; `-` is the standard input
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,
    #[command(flatten)]
    pub to: Where,
    /// All events have this key: they go to one shard and stay in order
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Most events of one batch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub batch: Option<u32>,
    /// Shards to write to; applications that use the same keys need the same number
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub shards: u16,
    /// Keep events in this folder until the other side has them; what is left, the next run sends
    #[arg(long, value_name = "DIR", conflicts_with = "memory")]
    pub outbox: Option<PathBuf>,
    /// Servers that hold each event: replicas of a stream (JetStream), or that have to answer (Redis)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=5))]
    pub replicas: Option<u8>,
    /// Keep about so many events of each shard (Redis, JetStream)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub retain: Option<u64>,
}

#[derive(Debug, Args)]
pub struct BusTail {
    #[command(flatten)]
    pub of: Where,
    /// Where to begin: `oldest`, `newest`, or the cursor that an earlier run printed
    #[arg(long, value_name = "oldest|newest|CURSOR", default_value = "oldest")]
    pub from: String,
    /// Go on with what comes
    #[arg(short, long)]
    pub follow: bool,
    /// Only events that match, such as `{"$ge":{"path":"c","value":21}}`
    #[arg(long, value_name = "JSON")]
    pub filter: Option<String>,
    /// End after so many events
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Keep the place in this file, and go on there the next time; --from counts if it does not exist yet
    #[arg(long, value_name = "FILE")]
    pub cursor_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct BusStatus {
    #[command(flatten)]
    pub of: Where,
}

#[derive(Debug, Args)]
pub struct BusKeep {
    /// What the events are called
    #[arg(value_name = "NAME", default_value = "net")]
    pub name: String,
    #[command(flatten)]
    pub state: State,
    #[command(flatten)]
    pub listen: Listen,
    /// Events of a shard; above it the oldest give way
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub events: u64,
    /// Bytes of a shard; above them the oldest give way
    #[arg(long, value_name = "N", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(4096..))]
    pub bytes: u64,
}

#[derive(Debug, Args)]
pub struct BusBench {
    /// What to measure; without it `remote` if one of the options says where events are, else everything but that
    #[arg(value_enum)]
    pub rows: Vec<BusRow>,
    #[command(flatten)]
    pub at: Where,
    /// Events of a run; `remote`: at most 1,000,000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub events: Option<u64>,
    /// How long the idle bus is watched, in seconds
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Where the disk is written to; the system's folder for temporary files if not given
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The core of the row `latency` (Linux)
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub pin: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BusRow {
    /// One producer, 64 B events, each delivered to a subscriber
    #[value(name = "emit-1")]
    EmitOne,
    /// Two producers
    #[value(name = "emit-2")]
    EmitTwo,
    /// From emit to a subscriber, on one core
    Latency,
    /// A bus with one subscriber and nothing to do
    Idle,
    /// `emit_durable` through the outbox, one after the other; and a bare append with fdatasync
    #[value(name = "durable-1")]
    DurableOne,
    /// The same with 64 producers that wait
    #[value(name = "durable-64")]
    DurableMany,
    /// To a node of the mesh in a second process, and read there
    Mesh,
    /// To where the options or NET_BUS say, and back. The events stay there
    Remote,
}
