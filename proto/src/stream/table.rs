//! Which streams exist.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::message::{Mode, StreamId};
use super::recv::RecvHalf;
use super::send::SendHalf;

/// Control frames that a stream owes, as bits.
pub(super) mod owed {
    pub const OPEN: u8 = 1;
    pub const FIN: u8 = 2;
    pub const RESET: u8 = 4;
    pub const STOP: u8 = 8;
    pub const MAX: u8 = 16;
    pub const BLOCKED: u8 = 32;
    pub const SYNC: u8 = 64;
}

#[derive(Debug)]
pub(super) struct Stream {
    pub id: u64,
    pub ours: bool,
    pub mode: Mode,
    pub priority: u8,
    pub label: String,
    /// The peer knows of the stream.
    pub known: bool,
    /// The packet that an OPEN was last written into.
    pub opened_in: u64,
    pub send: SendHalf,
    pub recv: RecvHalf,
    pub owed: u8,
    /// In the lists of streams with control frames, with data, and waiting for session credit.
    pub in_control: bool,
    pub in_active: bool,
    pub in_waiting: bool,
    pub deficit: i64,
    pub stop_code: u16,
    pub need: (u64, u64),
    pub closed: bool,
}

impl Stream {
    pub const fn name(&self) -> StreamId {
        StreamId(self.id)
    }
}

/// Streams by id: two sorted lists (ids rise, so opening appends) into a slab.
#[derive(Debug, Default)]
pub(super) struct Table {
    lists: [Vec<(u64, u32)>; 2],
    pub slots: Vec<Option<Box<Stream>>>,
    free: Vec<u32>,
}

impl Table {
    pub fn find(&self, id: u64) -> Option<u32> {
        let list = &self.lists[(id & 1) as usize];
        let at = list.binary_search_by_key(&id, |e| e.0).ok()?;
        list.get(at).map(|e| e.1)
    }

    pub fn get(&self, slot: u32) -> Option<&Stream> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Stream> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    pub fn insert(&mut self, stream: Stream) -> u32 {
        let id = stream.id;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        if let Some(room) = self.slots.get_mut(slot as usize) {
            *room = Some(Box::new(stream));
        }
        let list = &mut self.lists[(id & 1) as usize];
        let at = list.partition_point(|e| e.0 < id);
        list.insert(at, (id, slot));
        slot
    }

    pub fn remove(&mut self, slot: u32) -> Option<Box<Stream>> {
        let stream = self.slots.get_mut(slot as usize)?.take()?;
        let list = &mut self.lists[(stream.id & 1) as usize];
        if let Ok(at) = list.binary_search_by_key(&stream.id, |e| e.0) {
            list.remove(at);
        }
        self.free.push(slot);
        Some(stream)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slots.iter().filter_map(|s| s.as_deref())
    }

    /// Bytes on the heap now, with labels and without messages.
    pub fn footprint(&self) -> u64 {
        let lists: usize = self.lists.iter().map(|l| l.capacity() * size_of::<(u64, u32)>()).sum();
        let slots = self.slots.capacity() * size_of::<Option<Box<Stream>>>() + self.free.capacity() * 4;
        let streams: usize = self.iter().map(|s| size_of::<Stream>() + s.label.capacity()).sum();
        (lists + slots + streams) as u64
    }

    pub fn len(&self) -> usize {
        self.lists[0].len() + self.lists[1].len()
    }
}
