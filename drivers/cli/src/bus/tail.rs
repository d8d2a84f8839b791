//! `net bus tail`: events, from a place on, and what was lost.

use std::io::{BufWriter, ErrorKind, Stdout, Write};
use std::time::{Duration, Instant};

use net_sdk::net::{Cursor, Filter, Item, PollRequest, ReadOptions, Shard, StoredEvent, Subscription};
use net_sdk::{Net, SdkError};
use serde_json::{Value, json};

use super::connect::{self, Wishes};
use super::place::{self, Place};
use crate::args::BusTail;
use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::output::{Output, several};

/// Events that are written at once.
const SOME: usize = 512;
/// How often the place is written to its file, and new shards are looked for.
const KEEP: Duration = Duration::from_secs(1);
/// After so long without events the end is looked for.
const QUIET: Duration = Duration::from_secs(2);
/// Before the next attempt after an error.
const PAUSE: Duration = Duration::from_millis(200);

/// Writes events: their bytes and an end of line, or objects.
pub struct Printer {
    out: BufWriter<Stdout>,
    output: Output,
    /// Events that were written.
    pub events: u64,
    /// Times that something was gone.
    pub gaps: u64,
}

impl Printer {
    /// To the standard output.
    pub fn new(output: Output) -> Self {
        Self { out: BufWriter::with_capacity(256 << 10, std::io::stdout()), output, events: 0, gaps: 0 }
    }

    /// False if nobody reads any more. `true` proves that all of them were handed over.
    pub fn print(&mut self, items: impl Iterator<Item = Item>) -> Result<bool> {
        // The reader of a pipe may take its time; the runtime's other tasks go on.
        let written = tokio::task::block_in_place(|| {
            for item in items {
                self.item(&item)?;
            }
            self.out.flush()
        });
        match written {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn item(&mut self, item: &Item) -> std::io::Result<()> {
        match item {
            Item::Event(event) => {
                self.events += 1;
                if self.output.json() {
                    return writeln!(self.out, "{}", object(event));
                }
                self.out.write_all(&event.raw)?;
                self.out.write_all(b"\n")
            }
            Item::Lost { shard, from, to } => {
                self.gaps += 1;
                // Where it belongs between the events, and where people look.
                self.output.note(format!("Lost{{shard: {shard}, from: {from}, to: {to}}}"));
                if self.output.json() {
                    let told = json!({"event": "lost", "shard": shard, "from": from.to_string(), "to": to.to_string()});
                    writeln!(self.out, "{told}")?;
                }
                Ok(())
            }
            // No other item exists in this version.
            _ => Ok(()),
        }
    }
}

/// Any bytes pass: what is not UTF-8 comes as hexadecimal digits.
fn object(event: &StoredEvent) -> Value {
    let mut told = json!({
        "event": "event", "shard": event.shard, "position": event.position.to_string(),
        "id": event.id.map(|id| id.to_string()), "stamp": event.stamp,
    });
    match std::str::from_utf8(&event.raw) {
        Ok(text) => told["data"] = text.into(),
        Err(_) => told["hex"] = event.raw.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
    told
}

/// The command.
pub async fn run(args: BusTail, config: &Config, output: Output) -> Result<()> {
    if args.of.is_memory() {
        return Err(Failure::usage("events in memory are in the process that emitted them, and nowhere else")
            .remedy("`net bus emit --memory` writes what comes out; between processes use --redis, --jetstream or --mesh"));
    }
    let filter =
        args.filter.as_deref().map(|text| text.parse::<Filter>()).transpose().map_err(SdkError::from)?;
    let place = args.cursor_file.clone().map(Place::open).transpose()?;
    let from = match (place.as_ref().and_then(Place::kept), args.from.as_str()) {
        (Some(kept), _) => From::Cursor(kept.clone()),
        (None, "oldest") => From::Cursor(Cursor::new()),
        (None, "newest") => From::Newest,
        (None, cursor) => From::Cursor(place::parse(cursor)?),
    };
    let open = connect::open(&args.of, Wishes::default(), Net::builder().read_only(), config).await?;
    let mut tail = Tail {
        bus: open.bus.clone(),
        filter,
        follow: args.follow,
        left: args.limit,
        patience: args.of.patience(),
        cursor: Cursor::new(),
        shards: Vec::new(),
        ends: Cursor::new(),
        place,
        kept: Instant::now(),
        printer: Printer::new(output),
        output,
    };
    let ended = tokio::select! {
        ended = tail.go(from) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    let kept = tail.keep();
    let (events, gaps, cursor) = (tail.printer.events, tail.printer.gaps, tail.cursor.token());
    output.emit(&json!({"event": "end", "events": events, "gaps": gaps, "cursor": cursor}));
    output.note(format!("{}; go on with --from {cursor}", several(events, "event")));
    open.bus.shutdown().await;
    open.end().await;
    ended.and(kept)?;
    if gaps == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Code::NotVerified,
        format_args!("events were gone before they were read, {}", several(gaps, "time")),
    ))
}

/// Where to begin.
enum From {
    Cursor(Cursor),
    Newest,
}

struct Tail {
    bus: Net,
    filter: Option<Filter>,
    follow: bool,
    left: Option<u64>,
    patience: Duration,
    /// Behind everything that was written.
    cursor: Cursor,
    shards: Vec<Shard>,
    /// The newest events at the beginning.
    ends: Cursor,
    place: Option<Place>,
    kept: Instant,
    printer: Printer,
    output: Output,
}

impl Tail {
    async fn go(&mut self, from: From) -> Result<()> {
        self.shards = self.known().await?;
        for extent in self.bus.extents().await? {
            self.ends.set(extent.shard, extent.newest);
        }
        self.cursor = match from {
            From::Cursor(cursor) => cursor,
            From::Newest => self.ends.clone(),
        };
        // Also if nothing ever comes: the next run begins here.
        self.keep()?;
        let mut events = self.subscribe().await?;
        let (mut items, mut moved, mut told) = (Vec::new(), Instant::now(), None);
        while self.follow || !self.reached() {
            let most = self.left.map_or(SOME, |left| left.min(SOME as u64) as usize);
            if most == 0 {
                break;
            }
            let came = tokio::time::timeout(KEEP, events.next_many(most, |item| items.push(item))).await;
            match came {
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => (moved, told) = (Instant::now(), None),
                Ok(Err(error)) => {
                    let patient = self.follow || moved.elapsed() < self.patience;
                    if !(error.is_retryable() && patient && passes(&error)) {
                        return Err(error.into());
                    }
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        self.output.note(format!("waiting: {text}"));
                        told = Some(text);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_) if self.follow => {
                    // Shards that somebody began to write to.
                    if let Ok(known) = self.known().await
                        && known != self.shards
                    {
                        self.shards = known;
                        events = self.subscribe().await?;
                    }
                }
                Err(_) if moved.elapsed() > QUIET && self.is_end().await => break,
                Err(_) => {}
            }
            if let Some(filter) = &self.filter {
                items.retain(|item| !matches!(item, Item::Event(event) if !filter.matches(&event.raw)));
            }
            let before = self.printer.events;
            if !items.is_empty() && !self.printer.print(items.drain(..))? {
                break;
            }
            self.left = self.left.map(|left| left - (self.printer.events - before));
            self.cursor = events.cursor();
            if self.kept.elapsed() >= KEEP {
                self.keep()?;
            }
        }
        Ok(())
    }

    /// The shards that there are, and the first one: somebody may begin to write.
    async fn known(&self) -> Result<Vec<Shard>> {
        let adapter = self.bus.bus().adapter().ok_or(SdkError::Shutdown)?;
        let mut known = adapter.shards().await.map_err(SdkError::from)?;
        known.push(0);
        known.sort_unstable();
        known.dedup();
        Ok(known)
    }

    async fn subscribe(&self) -> Result<Subscription> {
        let options = ReadOptions::new().cursor(self.cursor.clone()).shards(self.shards.iter().copied());
        Ok(self.bus.subscribe_with(options).await?)
    }

    /// Whether everything was read that was there at the beginning.
    fn reached(&self) -> bool {
        self.ends.iter().all(|(shard, end)| self.cursor.get(shard).is_some_and(|at| at >= end))
    }

    /// Whether nothing is there any more: the newest may have been removed.
    async fn is_end(&self) -> bool {
        let request = PollRequest::new().cursor(self.cursor.clone()).limit(1);
        self.bus.poll(request).await.is_ok_and(|page| page.events.is_empty() && page.lost.is_empty())
    }

    fn keep(&mut self) -> Result<()> {
        self.kept = Instant::now();
        self.place.as_mut().map_or(Ok(()), |place| place.keep(&self.cursor))
    }
}

/// Whether it may be over soon, without anybody's doing here.
const fn passes(error: &SdkError) -> bool {
    use net_sdk::net::AdapterError::{Connection, Full, Gone, Timeout};
    matches!(error, SdkError::Adapter(Connection(_) | Timeout(_) | Full(_) | Gone(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use net_sdk::net::Position;

    #[test]
    fn any_bytes_are_told() {
        let event = |raw: &'static [u8]| StoredEvent {
            shard: 1,
            position: Position::new(2, 3),
            id: None,
            stamp: 4,
            raw: raw.into(),
        };
        assert_eq!(object(&event(b"{\"a\":1}"))["data"], "{\"a\":1}");
        assert_eq!(object(&event(b"\xff\x00"))["hex"], "ff00");
        assert_eq!(object(&event(b""))["data"], "");
        assert_eq!(object(&event(b""))["position"], "2-3");
    }
}
