//! For consumers: which entries were seen before.

use net_proto::bus::{BadText, Dedup, EventId};
use net_proto::codec::{DecodeError, Wire};

/// Tells entries that are in a stream twice.
///
/// For each producer, incarnation and shard it keeps the highest sequence and a bitmap of the 1,024
/// just below, so its size does not depend on how many events there were, and it forgets nothing
/// inside that span.
/// Keep [`RedisStreamDedup::to_bytes`] beside the cursor, so that a restart forgets nothing either.
///
/// ```
/// let mut seen = net_redis::RedisStreamDedup::new();
/// assert!(!seen.is_duplicate("00000000000000a1:1:0:7").unwrap());
/// assert!(seen.is_duplicate("00000000000000a1:1:0:7").unwrap());
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RedisStreamDedup {
    inner: Dedup,
    missing: u64,
}

impl RedisStreamDedup {
    /// For up to 4,096 producers, incarnations and shards: less than 1 MiB.
    pub fn new() -> Self {
        Self::default()
    }

    /// For so many producers, incarnations and shards, about 200 bytes each. 1 to 2^20; others are
    /// clamped. The one that was not used for longest gives way.
    pub fn with_capacity(windows: usize) -> Self {
        Self { inner: Dedup::new(windows), missing: 0 }
    }

    /// Whether the entry with this field `dedup_id` was seen before; afterwards it was. An error
    /// if the text is not the id of an event.
    pub fn is_duplicate(&mut self, dedup_id: &str) -> Result<bool, BadText> {
        Ok(self.is_duplicate_id(&dedup_id.parse()?))
    }

    /// The same for an id that was read already.
    pub fn is_duplicate_id(&mut self, id: &EventId) -> bool {
        let high = self.inner.high(id.producer, id.incarnation, id.shard);
        let again = self.inner.is_duplicate(id);
        match high {
            Some(high) if !again && id.seq > high => self.missing += id.seq - high - 1,
            Some(_) if !again => self.missing = self.missing.saturating_sub(1),
            _ => {}
        }
        again
    }

    /// Sequences that were skipped between entries of one life of a producer. Its bus dropped these
    /// events, as it was told to, or the server lost them: trimmed before this consumer came, or not
    /// replicated when another server took over. Not kept by [`RedisStreamDedup::to_bytes`].
    pub const fn missing(&self) -> u64 {
        self.missing
    }

    /// Producers, incarnations and shards that are remembered.
    pub fn len(&self) -> usize {
        self.inner.len()
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Most of them.
    pub const fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.inner.clear();
        self.missing = 0;
    }

    /// For storage.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.inner.to_vec()
    }

    /// What was stored. An error if it is not exactly that.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { inner: Dedup::decode_exact(bytes)?, missing: 0 })
    }
}

#[test]
fn what_is_missing_is_counted_and_what_comes_late_is_not() {
    let mut seen = RedisStreamDedup::with_capacity(2);
    let mut id = |seq: u64| seen.is_duplicate(&format!("00000000000000a1:1:0:{seq}")).unwrap();
    assert!(!id(5) && !id(6) && id(6) && !id(10) && !id(8) && id(8));
    assert_eq!((seen.missing(), seen.len(), seen.capacity()), (2, 1, 2));
    assert!(seen.is_duplicate("not an id").is_err());
    let mut back = RedisStreamDedup::from_bytes(&seen.to_bytes()).unwrap();
    assert!(back.is_duplicate("00000000000000a1:1:0:10").unwrap());
    back.clear();
    assert!(back.is_empty() && RedisStreamDedup::from_bytes(b"x").is_err());
}
