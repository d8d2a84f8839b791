//! One run of one stack: this process sends or calls; a second one, which it starts, answers.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Common, Echo, Result, Stack, Stream};

/// The process at the far end; waited for when dropped, so that its processor time counts.
struct Second {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Second {
    fn start(args: &Common) -> Result<Self> {
        if let Some(core) = args.pin {
            let mut set = nix::sched::CpuSet::new();
            set.set(core)?;
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?;
        }
        let bind = args.bind.to_string();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["far", "--stack", &args.stack.name(), "--bind", &bind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().ok_or("no pipe")?).lines();
        Ok(Self { child, input, lines })
    }

    fn line(&mut self) -> Result<Value> {
        let line = self.lines.next().ok_or("the far end ended early")??;
        Ok(serde_json::from_str(&line)?)
    }

    fn counted(&mut self) -> Result<Value> {
        self.input.as_mut().ok_or("no pipe")?.write_all(b"done\n")?;
        self.line()
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        self.input = None;
        let patience = Instant::now() + Duration::from_secs(3);
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

/// A connection of any stack, with what keeps it alive.
pub enum Link {
    Bare(std::net::UdpSocket),
    #[cfg(feature = "quinn")]
    Quinn(crate::quic::Link),
    #[cfg(feature = "tonic")]
    Tonic(crate::grpc::Link),
    #[cfg(feature = "zenoh")]
    Zenoh(crate::zenoh::Link),
}

impl Link {
    async fn open(args: Common, hello: Value) -> Result<Self> {
        Ok(match args.stack {
            Stack::Bare => Self::Bare(crate::bare::connect(&args, &hello)?),
            #[cfg(feature = "quinn")]
            Stack::Quinn => Self::Quinn(crate::quic::connect(&args, &hello).await?),
            #[cfg(feature = "tonic")]
            Stack::Tonic => Self::Tonic(crate::grpc::connect(&hello).await?),
            #[cfg(feature = "zenoh")]
            Stack::Zenoh => Self::Zenoh(crate::zenoh::connect(&args, &hello).await?),
        })
    }

    fn conditions(&self) -> Value {
        match self {
            Self::Bare(_) => json!({"cipher": "none", "congestion": "none"}),
            #[cfg(feature = "quinn")]
            Self::Quinn(link) => link.conditions(),
            #[cfg(feature = "tonic")]
            Self::Tonic(_) => crate::grpc::conditions(),
            #[cfg(feature = "zenoh")]
            Self::Zenoh(_) => crate::zenoh::conditions(),
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn finish(mut result: Value, link: &Link) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let more = [link.conditions(), json!({"runtime": "tokio", "threads": cores, "cores": cores})];
    for object in more {
        if let (Value::Object(all), Value::Object(more)) = (&mut result, object) {
            all.extend(more);
        }
    }
    println!("{result}");
}

pub fn stream(args: &Stream) -> Result<()> {
    let mut far = Second::start(&args.common)?;
    let hello = far.line()?;
    let runtime = runtime()?;
    let (work, common) = (args.clone(), args.common.clone());
    let (sent, link) = runtime.block_on(async move {
        let link = tokio::spawn(Link::open(common, hello)).await??;
        let sent = match &link {
            Link::Bare(_) => return Err("bare UDP has no streams".into()),
            #[cfg(feature = "quinn")]
            Link::Quinn(link) => crate::quic::stream(link, &work).await?,
            #[cfg(feature = "tonic")]
            Link::Tonic(link) => crate::grpc::stream(link, &work).await?,
            #[cfg(feature = "zenoh")]
            Link::Zenoh(link) => crate::zenoh::stream(link, &work).await?,
        };
        Ok::<_, crate::Error>((sent, link))
    })?;
    let counted = far.counted()?;
    let delivered = counted["messages"].as_u64().unwrap_or(0);
    let seconds = counted["seconds"].as_f64().unwrap_or(0.0);
    let rate = if seconds > 0.0 { delivered as f64 / seconds } else { 0.0 };
    let result = json!({
        "work": "stream",
        "payload": args.common.payload,
        "mode": if args.unreliable { "unreliable" } else { "reliable" },
        "sent": sent,
        "delivered": delivered,
        "seconds": seconds,
        "msgs_per_s": rate.round(),
        "mib_per_s": rate * args.common.payload as f64 / 1_048_576.0,
    });
    finish(result, &link);
    drop(link);
    runtime.shutdown_timeout(Duration::from_millis(100));
    if !args.unreliable && delivered != sent {
        return Err(format!("{sent} sent, {delivered} delivered").into());
    }
    Ok(())
}

pub fn echo(args: &Echo) -> Result<()> {
    let mut far = Second::start(&args.common)?;
    let hello = far.line()?;
    let runtime = runtime()?;
    let (work, common) = (args.clone(), args.common.clone());
    let (mut times, seconds, link) = runtime.block_on(async move {
        let link = tokio::spawn(Link::open(common, hello)).await??;
        let (times, took) = match &link {
            Link::Bare(socket) => crate::bare::echo(socket, &work)?,
            #[cfg(feature = "quinn")]
            Link::Quinn(link) => crate::quic::echo(link, &work).await?,
            #[cfg(feature = "tonic")]
            Link::Tonic(link) => crate::grpc::echo(link, &work).await?,
            #[cfg(feature = "zenoh")]
            Link::Zenoh(link) => crate::zenoh::echo(link, &work).await?,
        };
        Ok::<_, crate::Error>((times, took.as_secs_f64(), link))
    })?;
    times.sort_unstable();
    let at = |p: usize| {
        let time = times.get(times.len() * p / 100).copied().unwrap_or_default();
        time.as_nanos() as f64 / 1000.0
    };
    let result = json!({
        "work": "echo",
        "payload": args.common.payload,
        "concurrency": args.concurrency,
        "calls": times.len(),
        "seconds": seconds,
        "calls_per_s": (times.len() as f64 / seconds).round(),
        "p50_us": at(50),
        "p99_us": at(99),
    });
    finish(result, &link);
    drop(link);
    runtime.shutdown_timeout(Duration::from_millis(100));
    Ok(())
}
