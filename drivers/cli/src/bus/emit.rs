//! `net bus emit`: lines become events, and the command ends when the other side has them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use net_sdk::net::{BatchConfig, Closed, EventId, Receipt, Shard};
use net_sdk::{Net, SdkError};
use serde_json::json;
use tokio::task::JoinHandle;

use super::connect::{self, Wishes};
use super::lines::{self, Line};
use super::tail::Printer;
use crate::args::BusEmit;
use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::output::{Bar, Output, several};

/// Between two looks at what the other side has.
const LOOK: Duration = Duration::from_millis(100);
/// Between two attempts while there is no room.
const FULL: Duration = Duration::from_millis(1);
/// The longest that one question for safety takes.
const SLICE: Duration = Duration::from_secs(1);
/// Lines that cannot become events and are named one by one.
const NAMED: u64 = 10;

/// The command.
pub async fn run(args: BusEmit, config: &Config, output: Output) -> Result<()> {
    let from_input = args.file == Path::new("-");
    if from_input && args.to.reads_input() {
        return Err(Failure::usage("the standard input cannot hold both the invite and the events")
            .remedy("put the invite into NET_BUS"));
    }
    let input: Box<dyn Read + Send> = if from_input {
        Box::new(std::io::stdin())
    } else {
        let opened = File::open(&args.file);
        Box::new(opened.map_err(|e| Failure::failed(format_args!("{}: {e}", args.file.display())))?)
    };
    let mut builder = Net::builder().shards(args.shards).adapter_timeout(SLICE);
    if let Some(most) = args.batch {
        let usual = BatchConfig::default();
        builder =
            builder.batch(BatchConfig { max_events: most, min_events: usual.min_events.min(most), ..usual });
    }
    let mut state = None;
    if let Some(dir) = &args.outbox {
        std::fs::create_dir_all(dir).map_err(|e| Failure::failed(format_args!("{}: {e}", dir.display())))?;
        builder = builder.outbox(dir);
        state = Some(dir.join("node"));
    }
    let wishes =
        Wishes { replicas: args.replicas, retain: args.retain, batch: args.batch, state: state.as_deref() };
    let open = connect::open(&args.to, wishes, builder, config).await?;
    let progress = output.progress();
    let mut emitter = Emitter {
        bus: open.bus.clone(),
        key: args.key,
        patience: args.to.patience(),
        moved: (Instant::now(), 0),
        lines: 0,
        refused: 0,
        last: BTreeMap::new(),
        trouble: None,
        bar: progress.flow("emitting"),
        output,
    };
    let echo = match open.transport {
        "memory" => Some(echo(&open.bus, output).await?),
        _ => None,
    };
    let begun = Instant::now();
    let mut lines = lines::read(input);
    let fed = tokio::select! {
        fed = emitter.feed(&mut lines) => fed,
        // What was taken is brought to its end.
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    // An input that breaks off leaves something to bring to its end, too; patience that ended does not.
    let safe = match &fed {
        Err(failure) if matches!(failure.code, Code::Unreachable | Code::Refused) => Ok(()),
        _ => emitter.settle(args.outbox.is_some()).await,
    };
    let mut closed = open.bus.shutdown().await;
    let kept = closed.kept;
    if let Some(echo) = echo {
        echo.await.map_err(Failure::failed)??;
        // By now its reader has read to the end.
        closed.ledger = open.bus.stats().ledger;
    }
    progress.clear();
    emitter.tell(open.transport, &closed, kept, begun.elapsed());
    let refused = emitter.refused;
    open.end().await;
    let why = fed.and(safe).err();
    let silent = || Failure::new(Code::Unreachable, "no answer");
    match &args.outbox {
        None if closed.lost > 0 => {
            let what = format!("{} were not acknowledged, and are lost", several(closed.lost, "event"));
            let why = why.unwrap_or_else(silent);
            return Err(Failure::new(why.code, format_args!("{what}: {}", why.what))
                .remedy("with --outbox DIR they would be kept for the next run"));
        }
        Some(dir) if kept > 0 => {
            let why = why.unwrap_or_else(silent);
            let what = format_args!("{} wait in {}: {}", several(kept, "event"), dir.display(), why.what);
            return Err(Failure::new(why.code, what)
                .remedy("the next run with this --outbox sends them, also without input"));
        }
        _ => why.map_or(Ok(()), Err)?,
    }
    if refused > 0 {
        return Err(Failure::new(
            Code::NotVerified,
            format_args!("{} were too long", several(refused, "line")),
        ));
    }
    Ok(())
}

/// Writes what comes out of a bus in memory.
async fn echo(bus: &Net, output: Output) -> Result<JoinHandle<Result<()>>> {
    let mut events = bus.subscribe().await?;
    Ok(tokio::spawn(async move {
        let mut printer = Printer::new(output);
        let mut items = Vec::new();
        while events.next_many(512, |item| items.push(item)).await? > 0 {
            if !printer.print(items.drain(..))? {
                break;
            }
        }
        Ok(())
    }))
}

struct Emitter {
    bus: Net,
    key: Option<String>,
    patience: Duration,
    /// When the other side last took something, and how much it had then.
    moved: (Instant, u64),
    lines: u64,
    /// Lines that cannot be events.
    refused: u64,
    /// The last event of each shard.
    last: BTreeMap<Shard, (EventId, u64)>,
    /// What holds it up, as it was told.
    trouble: Option<String>,
    bar: Bar,
    output: Output,
}

impl Emitter {
    /// Emits what comes until nothing more does.
    async fn feed(
        &mut self,
        lines: &mut tokio::sync::mpsc::Receiver<std::io::Result<Vec<Line>>>,
    ) -> Result<()> {
        let mut look = tokio::time::interval(LOOK);
        loop {
            let some = tokio::select! {
                some = lines.recv() => some,
                _ = look.tick() => {
                    self.look()?;
                    continue;
                }
            };
            let Some(some) = some else { return Ok(()) };
            for line in some? {
                self.lines += 1;
                match line {
                    Line::Event(body) => self.emit(&body).await?,
                    Line::TooLong => self.refuse("longer than any event may be"),
                }
            }
        }
    }

    async fn emit(&mut self, body: &[u8]) -> Result<()> {
        let mut waited = 0u32;
        loop {
            let emitted = match &self.key {
                Some(key) => self.bus.emit_keyed(key, body),
                None => self.bus.emit_raw(body),
            };
            match emitted {
                Ok(Receipt { id, number, .. }) => {
                    self.last.insert(id.shard, (id, number));
                    return Ok(());
                }
                Err(SdkError::Backpressure) => {
                    if waited.is_multiple_of(64) {
                        self.look()?;
                    }
                    waited += 1;
                    tokio::time::sleep(FULL).await;
                }
                Err(error @ SdkError::TooLarge { .. }) => {
                    self.refuse(&error.to_string());
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn refuse(&mut self, why: &str) {
        self.refused += 1;
        if self.refused <= NAMED {
            self.output.note(format!("line {}: {why}", self.lines));
        }
        self.output.emit(&json!({"event": "refused", "line": self.lines, "why": why}));
    }

    /// What the other side has; an error if it has taken nothing for too long.
    fn look(&mut self) -> Result<()> {
        let ledger = self.bus.stats().ledger;
        self.bar.flow(ledger.delivered, ledger.queued);
        if ledger.delivered != self.moved.1 || ledger.queued == 0 {
            self.moved = (Instant::now(), ledger.delivered);
        }
        let trouble = self.bus.bus().link_error();
        let text = trouble.as_ref().map(ToString::to_string);
        if let (true, Some(text)) = (text != self.trouble, &text) {
            self.output.note(format!("{} wait: {text}", several(ledger.queued, "event")));
        }
        self.trouble = text;
        if self.moved.0.elapsed() < self.patience {
            return Ok(());
        }
        Err(trouble.map_or_else(|| SdkError::Unconfirmed { why: None }.into(), Failure::from))
    }

    /// Waits until the other side has everything.
    async fn settle(&mut self, outbox: bool) -> Result<()> {
        self.moved.0 = Instant::now();
        loop {
            match self.bus.flush().await {
                // The outbox has it; the engine is what this command is for.
                Ok(_) if outbox && self.bus.stats().ledger.queued > 0 => tokio::time::sleep(FULL).await,
                Ok(_) => return self.look(),
                Err(SdkError::Unconfirmed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            self.look()?;
        }
    }

    fn tell(&self, transport: &str, closed: &Closed, kept: u64, took: Duration) {
        let ledger = closed.ledger;
        let (seconds, lost) = (took.as_secs_f64(), closed.lost);
        let rate = (ledger.delivered as f64 / seconds.max(1e-9)).round();
        let confirmed = |shard: Shard| self.bus.bus().cell(shard).map_or(0, |cell| cell.confirmed().1);
        let memory = transport == "memory";
        let watermarks: Vec<_> = self
            .last
            .iter()
            .map(|(shard, (id, number))| {
                // Numbers count without gaps, as sequences do.
                let behind = if memory { 0 } else { number.saturating_sub(confirmed(*shard)) };
                (*shard, id.seq.checked_sub(behind).map(|seq| EventId { seq, ..*id }))
            })
            .collect();
        let name = |id: &Option<EventId>| id.filter(|id| id.seq > 0).map(|id| id.to_string());
        self.output.emit(&json!({
            "event": "emitted", "transport": transport, "lines": self.lines, "refused": self.refused,
            "acknowledged": ledger.delivered, "lost": lost,
            "in_outbox": kept, "sent_again": self.bus.bus().resent(),
            "seconds": seconds, "events_per_s": rate,
            "watermarks": watermarks.iter().map(|(shard, id)| json!({"shard": shard, "id": name(id)})).collect::<Vec<_>>(),
        }));
        // In memory the standard output has the events.
        let say = |line: String| if memory { self.output.note(line) } else { self.output.say(line) };
        say(format!(
            "{} acknowledged by {transport} in {seconds:.1} s, {rate:.0}/s; lost: {lost}.",
            several(ledger.delivered, "event")
        ));
        for (shard, id) in &watermarks {
            say(format!("shard {shard}: up to {}", name(id).unwrap_or_else(|| "nothing".into())));
        }
    }
}
