//! Which events were seen: per producer, incarnation and shard the highest sequence and a bitmap of
//! the ones just below.

use alloc::collections::BTreeMap;

use super::id::{EventId, ProducerId, Shard};
use crate::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer};

const WORDS: usize = 16;
/// How far below the highest sequence single ones are remembered; what is further below counts as
/// seen. A pipeline sends in order, so an event comes for the first time before later ones do.
pub const SPAN: u64 = WORDS as u64 * 64;
/// Most windows that a filter may have.
pub const MAX_WINDOWS: usize = 1 << 20;

type Key = (ProducerId, u64, Shard);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Window {
    /// The highest sequence that was seen.
    high: u64,
    /// A ring: bit `seq % SPAN` for the last `SPAN` sequences.
    bits: [u64; WORDS],
    used: u64,
}

/// Remembers which events were seen. Bounded: the window that was not used for longest gives way,
/// and its events would count as new.
#[derive(Clone, Debug)]
pub struct Dedup {
    windows: BTreeMap<Key, Window>,
    limit: usize,
    clock: u64,
    forgotten: u64,
}

impl Default for Dedup {
    fn default() -> Self {
        Self::new(4096)
    }
}

impl Dedup {
    /// For at most so many (producer, incarnation, shard); 1 to [`MAX_WINDOWS`], others are clamped.
    /// Each takes about 200 bytes.
    pub fn new(windows: usize) -> Self {
        Self { windows: BTreeMap::new(), limit: windows.clamp(1, MAX_WINDOWS), clock: 0, forgotten: 0 }
    }

    /// Whether the event was seen before; afterwards it was.
    pub fn is_duplicate(&mut self, id: &EventId) -> bool {
        self.clock += 1;
        let life = if planted!(DedupLivesMixed) { 0 } else { id.incarnation };
        let key = (id.producer, life, id.shard);
        if let Some(window) = self.windows.get_mut(&key) {
            window.used = self.clock;
            return !window.insert(id.seq);
        }
        if self.windows.len() >= self.limit
            && let Some(oldest) = self.windows.iter().min_by_key(|(_, w)| w.used).map(|(key, _)| *key)
        {
            self.windows.remove(&oldest);
            self.forgotten += 1;
        }
        let mut window = Window { high: 0, bits: [0; WORDS], used: self.clock };
        window.insert(id.seq);
        self.windows.insert(key, window);
        false
    }

    /// The highest sequence that was seen.
    pub fn high(&self, producer: ProducerId, incarnation: u64, shard: Shard) -> Option<u64> {
        self.windows.get(&(producer, incarnation, shard)).map(|w| w.high)
    }

    /// Windows in use.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Most windows.
    pub const fn capacity(&self) -> usize {
        self.limit
    }

    /// Windows that gave way.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.windows.clear();
    }
}

impl PartialEq for Dedup {
    fn eq(&self, other: &Self) -> bool {
        let of =
            |d: &Self| d.windows.iter().map(|(k, w)| (*k, w.high, w.bits)).collect::<alloc::vec::Vec<_>>();
        of(self) == of(other)
    }
}

impl Window {
    /// Marks `seq`; false if it was marked before, or lies too far below.
    fn insert(&mut self, seq: u64) -> bool {
        if seq > self.high {
            let gap = seq - self.high;
            if gap >= SPAN {
                self.bits = [0; WORDS];
            } else {
                (self.high + 1..seq).for_each(|between| *self.word(between) &= !(1 << (between % 64)));
                if planted!(DedupGapSeen) {
                    (self.high + 1..seq).for_each(|between| *self.word(between) |= 1 << (between % 64));
                }
            }
            self.high = seq;
            *self.word(seq) |= 1 << (seq % 64);
            return true;
        }
        if self.high - seq >= SPAN {
            return false;
        }
        let bit = 1 << (seq % 64);
        let word = self.word(seq);
        let new = *word & bit == 0 || planted!(DedupForgets);
        *word |= bit;
        new
    }

    fn word(&mut self, seq: u64) -> &mut u64 {
        &mut self.bits[(seq / 64) as usize % WORDS]
    }
}

/// What a consumer keeps beside its cursor, so that a restart forgets nothing.
impl Wire for Dedup {
    const NAME: &'static str = "dedup";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if r.u8("version")? != 1 {
            return Err(DecodeError::Invalid("version"));
        }
        let number = |r: &mut Reader<'_>, what| {
            let value = u64::from(r.u32(what)?);
            let limit = MAX_WINDOWS as u64;
            if value > limit { Err(DecodeError::TooLarge { what, value, limit }) } else { Ok(value as usize) }
        };
        let limit = number(r, "limit")?;
        let count = number(r, "count")?;
        if limit == 0 || count > limit {
            return Err(DecodeError::Invalid("count"));
        }
        let mut dedup = Self::new(limit);
        for _ in 0..count {
            let key = (ProducerId(r.u64("producer")?), r.u64("incarnation")?, r.u16("shard")?);
            if dedup.windows.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(DecodeError::NotCanonical("windows"));
            }
            let high = r.u64("high")?;
            let mut bits = [0; WORDS];
            for word in &mut bits {
                *word = r.u64("bits")?;
            }
            dedup.windows.insert(key, Window { high, bits, used: 0 });
        }
        Ok(dedup)
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.u8(1)?;
        w.u32(self.limit as u32)?;
        w.u32(self.windows.len() as u32)?;
        for ((producer, incarnation, shard), window) in &self.windows {
            w.u64(producer.0)?;
            w.u64(*incarnation)?;
            w.u16(*shard)?;
            w.u64(window.high)?;
            window.bits.iter().try_for_each(|word| w.u64(*word))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    fn id(incarnation: u64, seq: u64) -> EventId {
        EventId { producer: ProducerId(1), incarnation, shard: 0, seq }
    }

    #[test]
    fn a_new_life_starts_afresh_and_an_old_one_is_known() {
        let mut d = Dedup::default();
        assert!((1..=10).all(|seq| !d.is_duplicate(&id(1, seq))));
        assert!((1..=10).all(|seq| !d.is_duplicate(&id(2, seq))), "new events are not duplicates");
        assert!((1..=10).all(|seq| d.is_duplicate(&id(1, seq))), "retried ones are");
        let mut back = Dedup::decode_exact(&d.to_vec()).unwrap();
        assert!(back == d && back.is_duplicate(&id(2, 10)) && !back.is_duplicate(&id(2, 11)));
    }

    #[test]
    fn bounded_by_use() {
        let mut d = Dedup::new(2);
        d.is_duplicate(&id(1, 1));
        d.is_duplicate(&id(2, 1));
        d.is_duplicate(&id(1, 2));
        d.is_duplicate(&id(3, 1));
        assert_eq!((d.len(), d.forgotten(), d.high(ProducerId(1), 2, 0)), (2, 1, None));
        assert!(d.is_duplicate(&id(1, 1)));
    }

    proptest! {
        /// Against a set: within the span every answer is exact; below it, everything was seen.
        #[test]
        fn like_a_set(steps in proptest::collection::vec((0u64..40, any::<bool>()), 1..300)) {
            let mut d = Dedup::new(4);
            let mut seen = BTreeSet::new();
            let mut at = 2000u64;
            for (step, back) in steps {
                let seq = if back { at.saturating_sub(step * 30) } else { at += step * 3; at };
                let high = seen.last().copied().unwrap_or(0u64);
                let new = seen.insert(seq);
                let far = high.saturating_sub(seq) >= SPAN;
                prop_assert_eq!(d.is_duplicate(&id(1, seq)), !new || far);
            }
            crate::codec::check_canonical::<Dedup>(&d.to_vec());
        }

        #[test]
        fn canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            crate::codec::check_canonical::<Dedup>(&bytes);
        }
    }
}
