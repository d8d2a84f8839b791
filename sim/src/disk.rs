//! A simulated disk behind the storage effect. It forgets what was not synced when the power fails,
//! and can be made worse: writes that are lost, torn or misdirected, errors, no room, bits that turn
//! over, slowness. Every operation takes a time that is drawn.
//!
//! The *medium* is what survives; the *view* is what reads see (a page cache). Torn writes and any
//! subset of unsynced changes show only after a crash.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use net_proto::storage::{Storage, StoreError, StoreOp, StoreResult, Stored, Ticket};
use net_proto::time::{Duration, Instant, nanos};
use net_shell::runtime::Timer;
use net_shell::storage::{Change, check_name};

use crate::keyed::{Domain, Rng};
use crate::plan::DiskFault;

/// What the medium writes at once, in bytes.
pub const SECTOR: usize = 512;
/// Largest file, in bytes.
const MAX_FILE: u64 = 1 << 30;
/// An operation takes a time from this range, before faults make it slower.
const LATENCY: (u64, u64) = (20_000, 400_000);

#[derive(Clone, Debug, Default)]
struct Inode {
    medium: Vec<u8>,
    view: Vec<u8>,
    /// Not durable yet, in order.
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Medium {
    rng: Rng,
    files: BTreeMap<String, Inode>,
    locks: BTreeMap<String, u64>,
    holders: u64,
    /// Rises with every crash: handles from before are dead.
    life: u64,
    faults: BTreeMap<usize, DiskFault>,
    injured: u64,
}

impl Medium {
    fn chance(&mut self, pick: impl Fn(&DiskFault) -> Option<u32>) -> bool {
        let ppm = self.faults.values().filter_map(pick).max();
        let hit = ppm.is_some_and(|ppm| self.rng.chance(ppm));
        self.injured += u64::from(hit);
        hit
    }
}

/// A disk. It outlives the handles that are opened on it, and crashes.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Mutex<Medium>>);

/// One process that uses a disk: what it opened, what is poisoned for it.
#[derive(Debug)]
pub struct Holder {
    disk: Disk,
    number: u64,
    life: u64,
    open: BTreeSet<String>,
    poisoned: BTreeSet<String>,
}

impl Disk {
    /// An empty disk, whose chances are keyed by `seed` and `key`.
    pub fn new(seed: u64, key: u64) -> Self {
        Self(Arc::new(Mutex::new(Medium {
            rng: Rng::new(seed, Domain::Disk, key),
            files: BTreeMap::new(),
            locks: BTreeMap::new(),
            holders: 0,
            life: 0,
            faults: BTreeMap::new(),
            injured: 0,
        })))
    }

    fn medium(&self) -> MutexGuard<'_, Medium> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A holder, like a process that starts. The caller says when operations happen.
    pub fn hold(&self) -> Holder {
        let mut medium = self.medium();
        medium.holders += 1;
        Holder {
            disk: self.clone(),
            number: medium.holders,
            life: medium.life,
            open: BTreeSet::new(),
            poisoned: BTreeSet::new(),
        }
    }

    /// A [`Storage`] on this disk whose operations complete when `timer` says that their time has come.
    pub fn open(&self, clock: impl Fn() -> Instant + Send + 'static, timer: Box<dyn Timer>) -> DiskStorage {
        let wait = Some((Box::new(clock) as Clock, timer));
        DiskStorage { holder: self.hold(), wait, waiting: VecDeque::new(), last: Instant::ZERO }
    }

    /// A [`Storage`] on this disk whose operations complete at once.
    pub fn open_at_once(&self) -> DiskStorage {
        DiskStorage { holder: self.hold(), wait: None, waiting: VecDeque::new(), last: Instant::ZERO }
    }

    /// How long the next operation takes.
    pub fn latency(&self) -> Duration {
        let mut medium = self.medium();
        let slow = medium.faults.values().filter_map(|f| match f {
            DiskFault::Slow(by) => Some(nanos(*by)),
            _ => None,
        });
        let slow: u64 = slow.sum();
        Duration::from_nanos(slow + medium.rng.range(LATENCY.0, LATENCY.1))
    }

    /// The power fails. Of what was not synced any part may have reached the medium; the seed picks
    /// which. All handles are dead, all locks are gone.
    pub fn crash(&self) {
        let mut medium = self.medium();
        medium.life += 1;
        medium.locks.clear();
        let torn = medium.faults.values().find_map(|f| match f {
            DiskFault::Torn(ppm) => Some(*ppm),
            _ => None,
        });
        let mut files = std::mem::take(&mut medium.files);
        for inode in files.values_mut() {
            for change in std::mem::take(&mut inode.changes) {
                match change {
                    Change::Write { offset, data } if torn.is_some_and(|ppm| medium.rng.chance(ppm)) => {
                        // Cut at a sector of the medium, wherever the write began.
                        let sectors = (offset % SECTOR + data.len()).div_ceil(SECTOR) as u64;
                        let end = medium.rng.below(sectors) as usize * SECTOR;
                        let kept = end.saturating_sub(offset % SECTOR).min(data.len());
                        medium.injured += 1;
                        if kept > 0 {
                            Change::Write { offset, data: data[..kept].to_vec() }.apply(&mut inode.medium);
                        }
                    }
                    change if medium.rng.chance(500_000) => change.apply(&mut inode.medium),
                    _ => {}
                }
            }
            inode.view.clone_from(&inode.medium);
        }
        medium.files = files;
    }

    /// Makes it worse; `number` names the fault.
    pub fn worsen(&self, number: usize, fault: &DiskFault) {
        let mut medium = self.medium();
        if *fault == DiskFault::Rot {
            let bits: u64 = medium.files.values().map(|f| f.medium.len() as u64 * 8).sum();
            if bits == 0 {
                return;
            }
            let mut bit = medium.rng.below(bits);
            medium.injured += 1;
            for inode in medium.files.values_mut() {
                let here = inode.medium.len() as u64 * 8;
                if bit < here {
                    let (byte, mask) = ((bit / 8) as usize, 1 << (bit % 8));
                    inode.medium[byte] ^= mask;
                    if let Some(seen) = inode.view.get_mut(byte) {
                        *seen ^= mask;
                    }
                    return;
                }
                bit -= here;
            }
            return;
        }
        medium.faults.insert(number, fault.clone());
    }

    /// Ends a fault. What it did stays.
    pub fn mend(&self, number: usize) {
        self.medium().faults.remove(&number);
    }

    /// How often a fault did something.
    pub fn injured(&self) -> u64 {
        self.medium().injured
    }

    /// What a file shows now.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.medium().files.get(name).map(|inode| inode.view.clone())
    }

    /// Puts a durable file there.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let inode = Inode { medium: bytes.to_vec(), view: bytes.to_vec(), changes: Vec::new() };
        self.medium().files.insert(name.into(), inode);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let number = self.number;
        self.disk.medium().locks.retain(|_, holder| *holder != number);
    }
}

impl Holder {
    /// Carries out one operation now.
    pub fn run(&mut self, op: StoreOp) -> StoreResult {
        let disk = self.disk.clone();
        let mut medium = disk.medium();
        if medium.life != self.life {
            return Err(StoreError::Io);
        }
        let failed = medium.chance(|f| if let DiskFault::Errors(ppm) = f { Some(*ppm) } else { None });
        if failed {
            // A sync that failed says nothing about what reached the medium: the file is poisoned.
            if let StoreOp::Sync { file } = &op
                && self.open.contains(file)
            {
                self.poisoned.insert(file.clone());
            }
            return Err(StoreError::Io);
        }
        let full = medium.faults.values().any(|f| *f == DiskFault::Full);
        match op {
            StoreOp::Open { file, exclusive, .. } => {
                check_name(&file)?;
                if self.poisoned.contains(&file) {
                    return Err(StoreError::Poisoned);
                }
                if full && !medium.files.contains_key(&file) {
                    medium.injured += 1;
                    return Err(StoreError::Full);
                }
                if exclusive {
                    let holder = *medium.locks.entry(file.clone()).or_insert(self.number);
                    if holder != self.number {
                        return Err(StoreError::Locked);
                    }
                }
                let len = medium.files.entry(file.clone()).or_default().view.len() as u64;
                self.open.insert(file);
                Ok(Stored::Opened { len })
            }
            StoreOp::Write { file, offset, data } => {
                if full || offset.saturating_add(data.len() as u64) > MAX_FILE {
                    medium.injured += u64::from(full);
                    return Err(StoreError::Full);
                }
                self.known(&medium, &file)?;
                let mut offset = offset as usize;
                let lost = medium.chance(|f| if let DiskFault::Lost(ppm) = f { Some(*ppm) } else { None });
                let astray =
                    medium.chance(|f| if let DiskFault::Misdirected(ppm) = f { Some(*ppm) } else { None });
                if astray {
                    let sectors = medium.files.get(&file).map_or(0, |i| i.view.len() / SECTOR) as u64;
                    offset = medium.rng.below(sectors + 1) as usize * SECTOR;
                }
                let change = Change::Write { offset, data };
                if let Some(inode) = medium.files.get_mut(&file) {
                    change.apply(&mut inode.view);
                    if !lost {
                        inode.changes.push(change);
                    }
                }
                Ok(Stored::Done)
            }
            StoreOp::Truncate { file, len } => {
                if len > MAX_FILE {
                    return Err(StoreError::Full);
                }
                self.known(&medium, &file)?;
                let change = Change::Truncate(len as usize);
                if let Some(inode) = medium.files.get_mut(&file) {
                    change.apply(&mut inode.view);
                    inode.changes.push(change);
                }
                Ok(Stored::Done)
            }
            StoreOp::Sync { file } => {
                self.known(&medium, &file)?;
                if let Some(inode) = medium.files.get_mut(&file) {
                    for change in std::mem::take(&mut inode.changes) {
                        change.apply(&mut inode.medium);
                    }
                }
                Ok(Stored::Done)
            }
            StoreOp::Read { file, offset, len } => {
                self.known(&medium, &file)?;
                let empty = Vec::new();
                let bytes = medium.files.get(&file).map_or(&empty, |i| &i.view);
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(bytes.len());
                Ok(Stored::Data(bytes[start..end].to_vec()))
            }
            StoreOp::Rename { from, to } => {
                check_name(&from)?;
                check_name(&to)?;
                if self.poisoned.contains(&from) {
                    return Err(StoreError::Poisoned);
                }
                let inode = medium.files.remove(&from).ok_or(StoreError::NotFound)?;
                medium.files.insert(to.clone(), inode);
                self.open.remove(&to);
                if self.open.remove(&from) {
                    self.open.insert(to);
                }
                Ok(Stored::Done)
            }
            StoreOp::Remove { file } => {
                check_name(&file)?;
                medium.files.remove(&file).ok_or(StoreError::NotFound)?;
                self.open.remove(&file);
                Ok(Stored::Done)
            }
            StoreOp::List => Ok(Stored::Names(medium.files.keys().cloned().collect())),
            _ => Err(StoreError::Io),
        }
    }

    fn known(&self, medium: &Medium, file: &str) -> Result<(), StoreError> {
        check_name(file)?;
        if self.poisoned.contains(file) {
            return Err(StoreError::Poisoned);
        }
        if !self.open.contains(file) || !medium.files.contains_key(file) {
            return Err(StoreError::NotFound);
        }
        Ok(())
    }
}

impl crate::planenet::Medium for Holder {
    fn latency(&mut self) -> Duration {
        self.disk.latency()
    }

    fn run(&mut self, op: StoreOp) -> StoreResult {
        Self::run(self, op)
    }

    fn crash(&mut self) {
        self.disk.crash();
        *self = self.disk.hold();
    }
}

type Clock = Box<dyn Fn() -> Instant + Send>;

/// A handle on a [`Disk`] as the storage effect. Operations happen in order, each when its time came.
pub struct DiskStorage {
    holder: Holder,
    wait: Option<(Clock, Box<dyn Timer>)>,
    waiting: VecDeque<(Instant, Ticket, StoreOp)>,
    last: Instant,
}

impl Storage for DiskStorage {
    fn submit(&mut self, ticket: Ticket, op: StoreOp) {
        let due = match &self.wait {
            Some((clock, _)) => clock().max(self.last) + self.holder.disk.latency(),
            None => Instant::ZERO,
        };
        self.last = due;
        self.waiting.push_back((due, ticket, op));
    }

    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<(Ticket, StoreResult)> {
        let Some((due, ..)) = self.waiting.front() else { return Poll::Pending };
        if let Some((_, timer)) = &mut self.wait
            && timer.poll(cx, Some(*due)).is_pending()
        {
            return Poll::Pending;
        }
        match self.waiting.pop_front() {
            Some((_, ticket, op)) => Poll::Ready((ticket, self.holder.run(op))),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(holder: &mut Holder) {
        let op = StoreOp::Open { file: "f".into(), exclusive: false };
        holder.run(op).unwrap();
    }

    fn write(holder: &mut Holder, offset: u64, data: &[u8]) -> StoreResult {
        holder.run(StoreOp::Write { file: "f".into(), offset, data: data.to_vec() })
    }

    fn sync(holder: &mut Holder) -> StoreResult {
        holder.run(StoreOp::Sync { file: "f".into() })
    }

    fn with(fault: DiskFault) -> (Disk, Holder) {
        let disk = Disk::new(1, 2);
        let mut holder = disk.hold();
        open(&mut holder);
        disk.worsen(0, &fault);
        (disk, holder)
    }

    #[test]
    fn it_keeps_the_contract_of_storage() {
        let disk = Disk::new(1, 1);
        net_shell::storage::conformance(&|| Box::new(disk.open_at_once()));
    }

    #[test]
    fn what_is_synced_survives_and_of_the_rest_any_part_may() {
        let (mut kept, mut gone) = (0, 0);
        for key in 0..50 {
            let disk = Disk::new(1, key);
            let mut holder = disk.hold();
            open(&mut holder);
            write(&mut holder, 0, b"durable").unwrap();
            sync(&mut holder).unwrap();
            write(&mut holder, 7, b"!").unwrap();
            disk.crash();
            assert_eq!(write(&mut holder, 0, b"x"), Err(StoreError::Io), "the handle is dead");
            match disk.content("f").unwrap().as_slice() {
                b"durable" => gone += 1,
                b"durable!" => kept += 1,
                other => panic!("{other:?}"),
            }
        }
        assert!(kept > 10 && gone > 10, "{kept} kept, {gone} gone");
    }

    #[test]
    fn lost_writes_are_seen_until_the_crash() {
        let (disk, mut holder) = with(DiskFault::Lost(1_000_000));
        write(&mut holder, 0, b"x").unwrap();
        sync(&mut holder).unwrap();
        assert_eq!(disk.content("f").unwrap(), b"x");
        disk.crash();
        assert_eq!(disk.content("f").unwrap(), b"");
        assert_eq!(disk.injured(), 1);
    }

    #[test]
    fn a_plane_on_it_forgets_what_it_did_not_sync() {
        use crate::planenet::Medium;
        let disk = Disk::new(1, 9);
        let mut medium = disk.hold();
        open(&mut medium);
        write(&mut medium, 0, b"kept").unwrap();
        sync(&mut medium).unwrap();
        Medium::crash(&mut medium);
        assert_eq!(sync(&mut medium), Err(StoreError::NotFound), "a new process opened nothing yet");
        open(&mut medium);
        assert_eq!(disk.content("f").unwrap(), b"kept");
    }

    #[test]
    fn torn_writes_end_at_a_sector() {
        let mut lengths = BTreeSet::new();
        for key in 0..40 {
            let disk = Disk::new(3, key);
            let mut holder = disk.hold();
            open(&mut holder);
            disk.worsen(0, &DiskFault::Torn(1_000_000));
            write(&mut holder, 100, &[7; 2_000]).unwrap();
            disk.crash();
            lengths.insert(disk.content("f").unwrap().len());
        }
        assert!(lengths.iter().all(|len| len % SECTOR == 0 && *len < 2_100), "{lengths:?}");
        assert!(lengths.len() > 3, "{lengths:?}");
    }

    #[test]
    fn the_other_faults_do_what_they_say() {
        let (disk, mut holder) = with(DiskFault::Full);
        assert_eq!(write(&mut holder, 0, b"x"), Err(StoreError::Full));
        disk.mend(0);
        assert_eq!(write(&mut holder, 0, b"x"), Ok(Stored::Done));

        let (disk, mut holder) = with(DiskFault::Errors(1_000_000));
        assert_eq!(sync(&mut holder), Err(StoreError::Io));
        disk.mend(0);
        assert_eq!(sync(&mut holder), Err(StoreError::Poisoned), "a failed sync poisons");

        let (disk, mut holder) = with(DiskFault::Misdirected(1_000_000));
        write(&mut holder, 5, b"x").unwrap();
        assert_eq!(disk.content("f").unwrap(), b"x", "it landed at the beginning");

        let (disk, _) = with(DiskFault::Rot);
        disk.put("f", &[0; 100]);
        disk.worsen(1, &DiskFault::Rot);
        assert_eq!(disk.content("f").unwrap().iter().map(|b| b.count_ones()).sum::<u32>(), 1);

        let (disk, _) = with(DiskFault::Slow(Duration::from_secs(1)));
        assert!(disk.latency() > Duration::from_secs(1));
        disk.mend(0);
        assert!(disk.latency() < Duration::from_millis(1));
    }
}
