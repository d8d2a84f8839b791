//! What is remembered of the frames of packets under way.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::stream::SentFrame;

/// Frames of one packet that recovery remembers; the packet is closed when there are more.
const MAX_RECORDS: usize = 8;

/// What recovery remembers of a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Record {
    /// A frame of the streams.
    Stream(SentFrame),
    /// An acknowledgement up to this packet number.
    Ack(u64),
    /// MIGRATE, with its number.
    Migrate(u64),
    /// The size of a size probe.
    SizeProbe(u16),
}

/// What recovery remembers of the frames of one packet. Nearly all have one or two, and many packets are
/// remembered at a time, so only these lie in place.
#[derive(Debug, Default)]
pub(super) struct Records {
    first: [Option<Record>; 2],
    others: Option<Box<Others>>,
}

type Others = heapless::Vec<Record, { MAX_RECORDS - 2 }>;

/// Room of packets that are settled, for the next ones: traffic that goes on asks for no memory.
#[derive(Debug, Default)]
#[allow(clippy::vec_box)] // the boxes themselves are what is used again
pub(super) struct SpareRecords(Vec<Box<Others>>);

impl SpareRecords {
    const MOST: usize = 32;

    pub(super) fn put(&mut self, records: Records) {
        if let Some(mut others) = records.others
            && self.0.len() < Self::MOST
        {
            others.clear();
            self.0.push(others);
        }
    }

    pub(super) fn footprint(&self) -> u64 {
        (self.0.capacity() * size_of::<Box<Others>>() + self.0.len() * size_of::<Others>()) as u64
    }
}

impl Records {
    pub(super) const fn new() -> Self {
        Self { first: [None; 2], others: None }
    }

    pub(super) fn of(record: Record) -> Self {
        Self { first: [Some(record), None], others: None }
    }

    /// Whether there was a place for it.
    pub(super) fn push(&mut self, record: Record, spare: &mut SpareRecords) -> bool {
        if let Some(place) = self.first.iter_mut().find(|place| place.is_none()) {
            *place = Some(record);
            return true;
        }
        self.others.get_or_insert_with(|| spare.0.pop().unwrap_or_default()).push(record).is_ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.first.iter().flatten().chain(self.others.iter().flat_map(|others| others.iter()))
    }

    /// Bytes on the heap now.
    pub(super) fn footprint(&self) -> u64 {
        self.others.as_deref().map_or(0, |others| size_of_val(others) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_remembers_as_many_frames_as_it_may_carry() {
        let (mut records, mut spare) = (Records::new(), SpareRecords::default());
        for number in 0..MAX_RECORDS as u64 {
            assert!(records.push(Record::Ack(number), &mut spare), "frame {number}");
        }
        assert!(!records.push(Record::Ack(99), &mut spare), "no place is left");
        let numbers: Vec<u64> = records
            .iter()
            .map(|record| match record {
                Record::Ack(number) => *number,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(numbers.into_iter().eq(0..MAX_RECORDS as u64), "in order");
    }

    #[test]
    fn the_room_of_a_settled_packet_is_used_again() {
        let (mut records, mut spare) = (Records::new(), SpareRecords::default());
        for number in 0..3 {
            assert!(records.push(Record::Ack(number), &mut spare));
        }
        let room = records.others.as_deref().map(std::ptr::from_ref);
        spare.put(records);
        assert_eq!(spare.0.len(), 1);
        let mut next = Records::new();
        for number in 3..6 {
            assert!(next.push(Record::Ack(number), &mut spare));
        }
        assert_eq!(next.others.as_deref().map(std::ptr::from_ref), room);
        assert_eq!(next.iter().count(), 3, "nothing of the packet before is left");
        assert!(spare.0.is_empty());
    }

    #[test]
    fn spare_room_is_bounded() {
        let mut spare = SpareRecords::default();
        for _ in 0..2 * SpareRecords::MOST {
            let mut records = Records::new();
            for number in 0..3 {
                assert!(records.push(Record::Ack(number), &mut SpareRecords::default()));
            }
            spare.put(records);
        }
        assert_eq!(spare.0.len(), SpareRecords::MOST);
    }
}
