//! `net bench`: speed between two processes on this machine, over loopback.
//!
//! This process sends; a second one, started from the same executable, counts. What it counted is
//! the result. The work itself runs in tasks of the chosen runtime, never in `main`.

mod echo;
pub mod flood;
mod idle;
pub mod peer;
mod runtime;
mod sessions;
mod stream;
pub mod system;

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use net_proto::recovery::Algorithm;
use net_sdk::{Invite, Mesh, MeshBuilder, Peer, Runtime, Ticket};
use serde_json::{Value, json};

use crate::args::{
    Bench, BenchCommon, BenchEcho, BenchIdle, BenchSessions, BenchStream, Congestion, Mode, Receive, Watch,
};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// What the far end counts.
const DATA: &str = "bench/data";
/// Where it says what it counted.
const CONTROL: &str = "bench/control";
/// Messages between two looks at the clock: one look costs about as much as sending a small message.
const CLOCK_EVERY: u64 = 32;

/// The command.
pub fn run(mut args: Bench, watch: &Watch, output: Output) -> Result<()> {
    match &mut args {
        Bench::Stream(BenchStream { common, .. })
        | Bench::Echo(BenchEcho { common, .. })
        | Bench::Sessions(BenchSessions { common, .. })
        | Bench::Idle(BenchIdle { common, .. }) => common.watch = watch.clone(),
        Bench::Flood(_) if *watch != Watch::default() => {
            return Err(Failure::usage("`net bench flood` runs many nodes: watch one of another benchmark"));
        }
        Bench::Flood(_) => {}
    }
    match args {
        Bench::Stream(args) => stream::run(args, output),
        Bench::Echo(args) => echo::run(args, output),
        Bench::Sessions(args) => sessions::run(args, output),
        Bench::Idle(args) => idle::run(args, output),
        Bench::Flood(args) => flood::run(args, output),
    }
}

fn silent() -> Failure {
    Failure::failed("the second process did not start")
}

/// How an argument of the command line is written.
fn text(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string())
}

/// What both processes do alike: the settings of their nodes.
fn builder(args: &BenchCommon, runtime: &Arc<dyn Runtime>) -> MeshBuilder {
    let algorithm = match args.congestion {
        Congestion::Cubic => Algorithm::Cubic,
        Congestion::Reno => Algorithm::Reno,
    };
    let builder =
        Mesh::builder().runtime(runtime.clone()).config(move |config| config.session.congestion = algorithm);
    match args.datagram {
        Some(bytes) => builder.max_datagram(bytes),
        None => builder,
    }
}

/// A second process of this program; it is told to end, and waited for, when dropped.
pub struct Second {
    child: Child,
    input: Option<ChildStdin>,
    /// How long it may take to end; a relay does not look at its input.
    patience: Duration,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Second {
    /// Starts it; `patience`: how long it may take to end.
    pub fn start(args: &[String], patience: Duration) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().ok_or_else(silent)?).lines();
        Ok(Self { child, input, patience, lines })
    }

    /// The next line that it writes.
    pub fn line(&mut self) -> Result<String> {
        Ok(self.lines.next().ok_or_else(silent)??)
    }
}

impl Second {
    /// Writes a line to it.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        use std::io::Write;
        let input = self.input.as_mut().ok_or_else(silent)?;
        Ok(writeln!(input, "{line}")?)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        // It ends when its standard input does. Waited for: its processor time counts as ours then.
        self.input = None;
        let patience = Instant::now() + self.patience;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > patience {
                _ = self.child.kill();
                _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The far end, and what stands between.
struct Far {
    invite: Invite,
    /// Where the other nodes of the far end are.
    more: Vec<Ticket>,
    _far: Second,
    _relay: Option<Second>,
}

impl Far {
    /// Starts it with `nodes` nodes.
    fn start(args: &BenchCommon, receive: Receive, nodes: u32) -> Result<Self> {
        system::pin(args.pin)?;
        let mut words = vec![
            "bench-peer".to_string(),
            "--runtime".into(),
            text(args.runtime),
            "--congestion".into(),
            text(args.congestion),
            "--receive".into(),
            text(receive),
            "--nodes".into(),
            nodes.to_string(),
            "--bind".into(),
            args.bind.to_string(),
        ];
        if let Some(bytes) = args.datagram {
            words.extend(["--datagram".into(), bytes.to_string()]);
        }
        let mut far = Second::start(&words, Duration::from_secs(3))?;
        let mut invite: Invite = far.line()?.parse().map_err(Failure::failed)?;
        let more = (1..nodes)
            .map(|_| far.line()?.parse().map_err(Failure::failed))
            .collect::<Result<Vec<Ticket>>>()?;
        let mut relay = None;
        if args.loss > 0.0 {
            let target = invite.ticket.addrs.first().ok_or_else(silent)?.to_string();
            let words = ["relay", &target, "--loss", &args.loss.to_string(), "--json"].map(String::from);
            let mut started = Second::start(&words, Duration::ZERO)?;
            let said: Value = serde_json::from_str(&started.line()?).map_err(Failure::failed)?;
            let addr = said["addr"].as_str().and_then(|addr| addr.parse().ok()).ok_or_else(silent)?;
            invite.ticket.addrs = vec![addr];
            relay = Some(started);
        }
        if let Some(via) = args.via {
            invite.ticket.addrs = vec![via];
        }
        Ok(Self { invite, more, _far: far, _relay: relay })
    }
}

/// This side, connected.
struct Near {
    mesh: Mesh,
    peer: Peer,
}

impl Near {
    async fn start(args: &BenchCommon, runtime: &Arc<dyn Runtime>, invite: &Invite) -> Result<Self> {
        let mesh = Self::mesh(args, runtime, invite).await?;
        let peer = mesh.connect(&invite.ticket).await?;
        Ok(Self { mesh, peer })
    }

    /// Its node alone.
    async fn mesh(args: &BenchCommon, runtime: &Arc<dyn Runtime>, invite: &Invite) -> Result<Mesh> {
        let here = SocketAddr::from(([127, 0, 0, 1], 0));
        let builder = args.watch.apply(builder(args, runtime), "");
        Ok(builder.mesh(invite.mesh.clone()).bind(here).accept(false).start().await?)
    }

    /// What stands beside every figure.
    async fn conditions(&self, args: &BenchCommon) -> Result<Value> {
        let stats = self.peer.stats().await?;
        Ok(json!({
            "cipher": stats.cipher.name(),
            "datagram_size": stats.datagram_size,
            "congestion": text(args.congestion),
            "runtime": text(args.runtime),
            "threads": runtime::threads(args.runtime),
            "cores": system::cores(),
            "loss_percent": args.loss,
            "rtt_us": stats.rtt.as_micros() as u64,
            "window": stats.window,
            "packets_sent": stats.packets_sent,
            "packets_lost": stats.packets_lost,
            "packets_received": stats.packets_received,
            "debug_build": cfg!(debug_assertions),
        }))
    }

    async fn end(self) {
        self.mesh.shutdown_within(Duration::from_secs(1)).await;
    }
}

/// Joins two objects.
fn joined(mut a: Value, b: Value) -> Value {
    if let (Value::Object(a), Value::Object(b)) = (&mut a, b) {
        a.extend(b);
    }
    a
}

pub fn show(result: &Value, title: &str, output: Output) {
    output.emit(result);
    if let Value::Object(fields) = result {
        let rows: Vec<(&str, String)> = fields
            .iter()
            .map(|(name, value)| {
                (name.as_str(), value.as_str().map_or_else(|| value.to_string(), Into::into))
            })
            .collect();
        output.table(title, &rows);
    }
}

/// The SDK's name of a mode.
const fn options(mode: Mode) -> net_sdk::Mode {
    match mode {
        Mode::Unreliable => net_sdk::Mode::FireAndForget,
        Mode::Reliable => net_sdk::Mode::Reliable,
    }
}

/// Messages and times that the far end counted, as rates of `payload` bytes each.
fn rates(counted: &Value, sent: u64, payload: u32) -> Value {
    let delivered = counted["messages"].as_u64().unwrap_or(0);
    let seconds = counted["seconds"].as_f64().unwrap_or(0.0);
    let rate = if seconds > 0.0 { delivered as f64 / seconds } else { 0.0 };
    json!({
        "sent": sent,
        "delivered": delivered,
        "seconds": seconds,
        "msgs_per_s": rate.round(),
        "mib_per_s": (rate * f64::from(payload) / 1_048_576.0 * 10.0).round() / 10.0,
    })
}

/// Asks the far end what it counted.
async fn counted(control: &net_sdk::Stream) -> Result<Value> {
    control.send(b"done").await?;
    let mute = || Failure::failed("the second process did not say what it counted");
    let told = net_sdk::rt::timeout(Duration::from_secs(30), control.recv()).await.map_err(|_| mute())??;
    serde_json::from_slice(&told.ok_or_else(mute)?).map_err(Failure::failed)
}
