//! Who uses the bus: producers that emit in every way, end and begin again, and consumers that keep
//! where they stand on their disk. Each tells the truth what it was told.

use std::future::poll_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use net_proto::bus::{Backpressure, BatchConfig, Cursor, Dedup};
use net_proto::codec::Wire as _;
use net_proto::storage::{Storage, StoreOp, StoreResult, Stored, Ticket};
use net_proto::time::Duration;
use net_sdk::net::{Item, ReadOptions, Receipt, Result, SdkError, StoredEvent, Subscription};
use net_sdk::{Net, rt};
use net_shell::runtime::Runtime;

use super::adapter::EngineAdapter;
use super::truth::{Refusal, Tag, Truth, body};
use crate::keyed::{Domain, Rng};
use crate::sometimes;

/// Most shards of any producer.
pub const SHARDS: u16 = 4;
const MS: Duration = Duration::from_millis(1);
/// Where a consumer keeps its state, and the file that becomes it.
const STATE: &str = "state";
const NEXT: &str = "state.next";

/// What both kinds are given.
#[derive(Clone)]
pub struct Seat {
    pub node: u32,
    pub seed: u64,
    pub truth: Truth,
    /// No more events; end when the engine has everything.
    pub quiet: Arc<AtomicBool>,
}

impl Seat {
    fn rng(&self, life: u64) -> Rng {
        Rng::new(self.seed, Domain::Application, u64::from(self.node) << 32 | life)
    }
}

/// How a producer is set up; the same in all its lives.
struct Setup {
    outbox: bool,
    identity: bool,
    mode: Backpressure,
    shards: u16,
    capacity: u64,
}

impl Setup {
    fn new(seat: &Seat) -> Self {
        let mut rng = seat.rng(0xffff);
        let outbox = rng.chance(600_000);
        let mode = match rng.below(4) {
            0 => Backpressure::DropNewest,
            1 if outbox => Backpressure::FailProducer,
            1 => Backpressure::DropOldest,
            2 => Backpressure::FailProducer,
            _ => Backpressure::Sample(2 + rng.below(3) as u32),
        };
        let capacity = [8, 30, 200][rng.below(3) as usize];
        Self { outbox, identity: rng.chance(500_000), mode, shards: 1 + rng.below(2) as u16, capacity }
    }

    async fn build(&self, adapter: EngineAdapter, patience: Duration) -> Result<Net> {
        let batch = BatchConfig {
            min_events: 3,
            max_events: 8,
            max_delay: Duration::from_millis(5),
            adaptive: false,
        };
        let mut builder = Net::builder()
            .shards(self.shards)
            .max_shards(SHARDS)
            .buffer_capacity(self.capacity)
            .backpressure(self.mode)
            .batch(batch)
            .adapter_timeout(patience)
            .adapter(adapter);
        if self.outbox {
            builder = builder.outbox("outbox").outbox_segment(2_000);
        } else if self.identity {
            builder = builder.producer_nonce_path("identity/producer");
        }
        builder.build().await
    }
}

/// A machine that produces, life after life.
pub async fn producer(seat: Seat, boot: u64) {
    let setup = Setup::new(&seat);
    let mut rng = seat.rng(boot << 8);
    while !seat.quiet.load(Relaxed) || !seat.truth.finished(&[seat.node]) {
        // Who waits long for the engine leaves little to the next life.
        let patience = MS * if rng.chance(500_000) { 20 } else { 3_000 };
        let Ok(bus) = setup.build(super::adapter(super::ENGINE), patience).await else {
            rt::sleep(300 * MS).await;
            continue;
        };
        let start = bus.stats().ledger;
        sometimes!("an outbox was replayed", start.queued > 0);
        let truth = &seat.truth;
        let life = truth.begins((seat.node, setup.outbox), setup.mode, bus.bus().producer(), start);
        let living = Living { seat: &seat, life, bus: &bus };
        living.live(&mut rng).await;
        let quiet = seat.quiet.load(Relaxed) && living.drained().await;
        let closed = bus.shutdown().await;
        let failed = bus.bus().outbox_error().is_some();
        sometimes!("an outbox failed", failed);
        truth.closes(life, closed, failed);
        sometimes!("a shutdown gave events up", closed.lost > 0);
        sometimes!("a shutdown left events to the next life", closed.kept > 0);
        if quiet {
            truth.finishes(life);
        }
    }
    std::future::pending::<()>().await;
}

struct Living<'a> {
    seat: &'a Seat,
    life: usize,
    bus: &'a Net,
}

impl Living<'_> {
    /// Emits until the bus is over, or it is time for another life, or for none.
    async fn live(&self, rng: &mut Rng) {
        loop {
            rt::sleep(MS * rng.range(20, 200) as u32).await;
            if self.seat.quiet.load(Relaxed) {
                return;
            }
            let burst = if rng.chance(50_000) { 60 } else { rng.below(8) };
            for _ in 0..burst {
                let tag = self.tag();
                let result = self.bus.emit_keyed([rng.below(9) as u8], body(tag));
                if self.told(tag, result).is_none() {
                    return;
                }
            }
            let alive = match rng.below(100) {
                0..10 => self.flush().await,
                10..14 => self.durable().await,
                // Shards come, and go with what they hold.
                14..20 => {
                    self.bus.bus().set_active(1 + rng.below(SHARDS.into()) as u16);
                    self.bus.bus().run();
                    true
                }
                20 => false,
                _ => true,
            };
            if !alive {
                return;
            }
        }
    }

    fn tag(&self) -> Tag {
        (self.seat.node, self.seat.truth.number(self.seat.node))
    }

    /// Tells what came of an event. `None`: the bus is over.
    fn told(&self, tag: Tag, result: Result<Receipt>) -> Option<()> {
        let outcome = match result {
            Ok(receipt) => Ok(receipt.id),
            Err(SdkError::Sampled) => Err(Refusal::Sampled),
            Err(SdkError::Dropped) => Err(Refusal::Newest),
            Err(SdkError::Backpressure) => Err(Refusal::Full),
            Err(why) => {
                self.seat.truth.refuses(self.life, &why, self.bus.bus().is_closed());
                return None;
            }
        };
        sometimes!("an event found no room", matches!(outcome, Err(Refusal::Full | Refusal::Newest)));
        self.seat.truth.offered(self.life, tag, outcome, self.bus.stats().ledger);
        Some(())
    }

    async fn flush(&self) -> bool {
        let count = self.seat.truth.accepted(self.life);
        match self.bus.flush().await {
            Ok(_) => {
                self.seat.truth.balance(self.life, self.bus.stats().ledger);
                self.seat.truth.safe(self.life, count);
                true
            }
            Err(error) => matches!(error, SdkError::Unconfirmed { .. }),
        }
    }

    /// What `emit_durable` does, with the receipt at hand while it waits.
    async fn durable(&self) -> bool {
        let tag = self.tag();
        let result = self.bus.emit_raw(body(tag));
        let receipt = result.as_ref().ok().copied();
        if self.told(tag, result).is_none() {
            return false;
        }
        let Some((receipt, cell)) = receipt.and_then(|r| Some((r, self.bus.bus().cell(r.shard())?))) else {
            return true;
        };
        let safe = poll_fn(|cx| cell.poll_safe(receipt.number, cx));
        match rt::timeout(Duration::from_secs(2), safe).await {
            Ok(true) => {
                self.seat.truth.balance(self.life, self.bus.stats().ledger);
                self.seat.truth.safe_one(self.life, tag, cell.confirmed().1 >= receipt.number);
                true
            }
            Ok(false) => false,
            Err(_) => true,
        }
    }

    /// Whether the engine has everything now, after a while.
    async fn drained(&self) -> bool {
        for _ in 0..600 {
            let ledger = self.bus.stats().ledger;
            self.seat.truth.balance(self.life, ledger);
            if ledger.queued == 0 {
                return true;
            }
            if self.bus.bus().is_closed() {
                return false;
            }
            rt::sleep(100 * MS).await;
        }
        false
    }
}

/// What a consumer keeps: where it stands and what it has seen, written together.
struct Kept {
    number: u64,
    cursor: Cursor,
    dedup: Dedup,
}

impl Kept {
    fn encode(&self) -> Vec<u8> {
        let (token, dedup) = (self.cursor.token().into_bytes(), self.dedup.to_vec());
        let mut out = self.number.to_le_bytes().to_vec();
        out.extend_from_slice(&(token.len() as u32).to_le_bytes());
        [out, token, dedup].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (token, dedup) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            cursor: Cursor::from_token(std::str::from_utf8(token).ok()?).ok()?,
            dedup: Dedup::decode_exact(dedup).ok()?,
        })
    }
}

/// Carries out one operation.
async fn run(storage: &mut Box<dyn Storage>, op: StoreOp) -> StoreResult {
    storage.submit(Ticket(0), op);
    poll_fn(|cx| storage.poll_done(cx)).await.1
}

async fn load(runtime: &dyn Runtime) -> std::result::Result<Option<Kept>, ()> {
    let mut storage = runtime.storage(Path::new("consumer")).map_err(drop)?;
    let open = StoreOp::Open { file: STATE.into(), exclusive: false };
    let Stored::Opened { len } = run(&mut storage, open).await.map_err(drop)? else { return Err(()) };
    if len == 0 {
        return Ok(None);
    }
    match run(&mut storage, StoreOp::Read { file: STATE.into(), offset: 0, len }).await {
        Ok(Stored::Data(bytes)) => Kept::decode(&bytes).map(Some).ok_or(()),
        _ => Err(()),
    }
}

/// Whether it is kept; if not, what was kept before is.
async fn keep(runtime: &dyn Runtime, kept: &Kept) -> bool {
    let Ok(mut storage) = runtime.storage(Path::new("consumer")) else { return false };
    let file = || NEXT.to_owned();
    for op in [
        StoreOp::Open { file: file(), exclusive: false },
        StoreOp::Truncate { file: file(), len: 0 },
        StoreOp::Write { file: file(), offset: 0, data: kept.encode() },
        StoreOp::Sync { file: file() },
        StoreOp::Rename { from: file(), to: STATE.into() },
    ] {
        if run(&mut storage, op).await.is_err() {
            return false;
        }
    }
    true
}

/// A machine that consumes.
pub async fn consumer(seat: Seat, boot: u64) {
    let runtime = rt::current().expect("a task on a machine");
    let mut rng = seat.rng(boot << 8 | 1);
    // Several workers behind one reader finish in any order.
    let workers = seat.rng(0xfffe).chance(500_000);
    loop {
        let Ok(bus) = Net::builder().shards(SHARDS).adapter(super::adapter(super::ENGINE)).build().await
        else {
            rt::sleep(300 * MS).await;
            continue;
        };
        _ = reads(&seat, &*runtime, &bus, &mut rng, workers).await;
        bus.shutdown().await;
        rt::sleep(100 * MS).await;
    }
}

async fn reads(
    seat: &Seat,
    runtime: &dyn Runtime,
    bus: &Net,
    rng: &mut Rng,
    workers: bool,
) -> std::result::Result<(), ()> {
    let kept = load(runtime).await?;
    let fresh = Kept { number: 0, cursor: Cursor::new(), dedup: Dedup::default() };
    sometimes!("a consumer went on from where it was kept", kept.is_some());
    let mut kept = kept.unwrap_or(fresh);
    let mut events = subscribe(bus, &kept.cursor).await?;
    seat.truth.resumes(seat.node, kept.number, &kept.cursor);
    loop {
        let mut items = Vec::new();
        let most = rng.range(1, 30) as usize;
        match rt::timeout(Duration::from_secs(2), events.next_many(most, |item| items.push(item))).await {
            Ok(Err(_)) => rt::sleep(100 * MS).await,
            Ok(Ok(0)) => return Ok(()),
            _ => {}
        }
        for item in &items {
            sometimes!("a reader was told what it lost", matches!(item, Item::Lost { .. }));
            seat.truth.reads(seat.node, item);
        }
        let mut got: Vec<StoredEvent> = items.into_iter().filter_map(Item::into_event).collect();
        while !got.is_empty() {
            let first = if workers { rng.below(got.len() as u64) as usize } else { 0 };
            let event = got.remove(first);
            let Some(id) = event.id else { continue };
            let duplicate = kept.dedup.is_duplicate(&id);
            sometimes!("a duplicate was recognised", duplicate);
            seat.truth.handles(seat.node, &event.raw, duplicate);
        }
        if rng.chance(300_000) {
            kept.number += 1;
            kept.cursor = events.cursor();
            seat.truth.keeps(seat.node, kept.number, &kept.cursor);
            if keep(runtime, &kept).await && rng.chance(100_000) {
                // Another subscription, where this one stands.
                events = subscribe(bus, &kept.cursor).await?;
                seat.truth.resumes(seat.node, kept.number, &kept.cursor);
            }
        }
        if rng.chance(20_000) {
            return Ok(());
        }
        rt::sleep(MS * rng.range(1, 60) as u32).await;
    }
}

async fn subscribe(bus: &Net, cursor: &Cursor) -> std::result::Result<Subscription, ()> {
    bus.subscribe_with(ReadOptions::new().cursor(cursor.clone())).await.map_err(drop)
}
