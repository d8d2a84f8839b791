//! The acknowledgement frame.
//!
//! ```text
//! type      u8      0x02, or 0x03 with ECN counts
//! largest   varint  the highest packet number received
//! delay     varint  microseconds since that packet arrived
//! more      varint  ranges after the first
//! first     varint  packets below `largest` in the first range
//! more times:
//!   gap     varint  missing packets before the next lower range, less one
//!   length  varint  packets in that range, less one
//! with 0x03: ect0, ect1, ce   varints, packets received with each mark
//! ```

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use crate::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer};
use crate::time::Duration;

/// An acknowledgement without ECN counts.
pub const FRAME_ACK: u8 = 0x02;
/// An acknowledgement with ECN counts.
pub const FRAME_ACK_ECN: u8 = 0x03;
/// Ranges that a receiver keeps and sends.
pub const MAX_RANGES_SENT: usize = 64;
/// Ranges accepted in one frame.
pub const MAX_RANGES_ACCEPTED: usize = 256;

/// Packets received with each ECN mark since the association began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EcnCounts {
    /// With ECT(0).
    pub ect0: u64,
    /// With ECT(1).
    pub ect1: u64,
    /// With CE.
    pub ce: u64,
}

/// An acknowledgement frame in the bytes that it came in: checked once, then iterated.
#[derive(Clone, Copy, Debug)]
pub struct AckView<'a> {
    largest: u64,
    delay_us: u64,
    first: u64,
    more: usize,
    ranges: &'a [u8],
    ecn: Option<EcnCounts>,
}

impl<'a> AckView<'a> {
    /// Reads a frame with its type byte.
    pub fn decode(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match r.u8("frame type")? {
            FRAME_ACK => Self::decode_body(false, r),
            FRAME_ACK_ECN => Self::decode_body(true, r),
            _ => Err(DecodeError::Invalid("frame type")),
        }
    }

    /// Reads what follows the type byte; `ecn` for type 0x03.
    pub fn decode_body(ecn: bool, r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let largest = r.varint("largest acknowledged")?;
        let delay_us = r.varint("ack delay")?;
        let more = r.varint("ack ranges")?;
        if more >= MAX_RANGES_ACCEPTED as u64 {
            let limit = MAX_RANGES_ACCEPTED as u64 - 1;
            return Err(DecodeError::TooLarge { what: "ack ranges", value: more, limit });
        }
        let first = r.varint("first ack range")?;
        let mut low = largest.checked_sub(first).ok_or(DecodeError::Invalid("first ack range"))?;
        let start = r.rest();
        for _ in 0..more {
            let gap = r.varint("ack gap")?;
            let length = r.varint("ack range")?;
            // gap + 1 missing packets, then length + 1 packets; neither sum can overflow 62 bits.
            let high = low.checked_sub(gap + 2).ok_or(DecodeError::Invalid("ack gap"))?;
            low = high.checked_sub(length).ok_or(DecodeError::Invalid("ack range"))?;
        }
        let ranges = &start[..start.len() - r.rest().len()];
        let ecn = match ecn {
            false => None,
            true => Some(EcnCounts { ect0: r.varint("ect0")?, ect1: r.varint("ect1")?, ce: r.varint("ce")? }),
        };
        Ok(Self { largest, delay_us, first, more: more as usize, ranges, ecn })
    }

    /// The highest packet number acknowledged.
    pub const fn largest(&self) -> u64 {
        self.largest
    }

    /// How long the peer had the largest packet before it sent this frame.
    pub const fn delay(&self) -> Duration {
        Duration::from_micros(self.delay_us)
    }

    /// The ECN counts, if the frame has them.
    pub const fn ecn(&self) -> Option<EcnCounts> {
        self.ecn
    }

    /// The ranges, highest first.
    pub fn ranges(&self) -> impl Iterator<Item = RangeInclusive<u64>> + 'a {
        let mut r = Reader::new(self.ranges);
        let mut next = Some((self.largest - self.first, self.largest));
        core::iter::from_fn(move || {
            let (low, high) = next?;
            // The bytes were checked; a failure here would only end the iteration.
            next = (|| {
                let gap = r.varint("ack gap").ok()?;
                let length = r.varint("ack range").ok()?;
                let high = low.checked_sub(gap + 2)?;
                Some((high.checked_sub(length)?, high))
            })();
            Some(low..=high)
        })
    }

    /// Ranges in the frame.
    pub const fn range_count(&self) -> usize {
        self.more + 1
    }
}

/// An acknowledgement frame as a value: for tests, tools and the registry of decoders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Microseconds that the peer had the largest packet.
    pub delay_us: u64,
    /// Highest first, at least one, neither overlapping nor adjacent.
    pub ranges: Vec<RangeInclusive<u64>>,
    /// ECN counts.
    pub ecn: Option<EcnCounts>,
}

impl Wire for Ack {
    const NAME: &'static str = "ack";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let view = AckView::decode(r)?;
        Ok(Self { delay_us: view.delay_us, ranges: view.ranges().collect(), ecn: view.ecn })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        let ranges = self.ranges.iter().map(|r| (*r.start(), *r.end()));
        write_ack(w, self.delay_us, ranges, self.ranges.len(), self.ecn)
    }
}

/// Writes a frame with the first `count` of `ranges` (low, high), highest first. Writes nothing if
/// there is no range.
pub(super) fn write_ack(
    w: &mut Writer<'_>,
    delay_us: u64,
    mut ranges: impl Iterator<Item = (u64, u64)>,
    count: usize,
    ecn: Option<EcnCounts>,
) -> Result<(), BufferTooSmall> {
    let Some((mut low, high)) = ranges.next() else { return Ok(()) };
    w.u8(if ecn.is_some() { FRAME_ACK_ECN } else { FRAME_ACK })?;
    w.varint(high)?;
    w.varint(delay_us)?;
    w.varint(count.saturating_sub(1) as u64)?;
    w.varint(high.saturating_sub(low))?;
    for (next_low, next_high) in ranges.take(count.saturating_sub(1)) {
        w.varint(low.saturating_sub(next_high).saturating_sub(2))?;
        w.varint(next_high.saturating_sub(next_low))?;
        low = next_low;
    }
    if let Some(ecn) = ecn {
        w.varint(ecn.ect0)?;
        w.varint(ecn.ect1)?;
        w.varint(ecn.ce)?;
    }
    Ok(())
}
