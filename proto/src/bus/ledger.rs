//! Where every event went: ingested = delivered + queued + lost, each loss with its reason.

/// Events that were lost, by reason. Every number only rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Left out by sampling.
    pub sampled: u64,
    /// New events dropped for want of room.
    pub newest: u64,
    /// Unread events that gave way to newer ones.
    pub evicted: u64,
    /// Events that left the log before anybody had asked for them.
    pub expired: u64,
    /// Events that the engine will never take.
    pub rejected: u64,
    /// Events that were here when the bus was shut down.
    pub shutdown: u64,
}

impl Losses {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.sampled + self.newest + self.evicted + self.expired + self.rejected + self.shutdown
    }

    /// The sums of two.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            sampled: self.sampled + other.sampled,
            newest: self.newest + other.newest,
            evicted: self.evicted + other.evicted,
            expired: self.expired + other.expired,
            rejected: self.rejected + other.rejected,
            shutdown: self.shutdown + other.shutdown,
        }
    }
}

/// The balance of a bus or of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Events that were offered and not refused.
    pub ingested: u64,
    /// Events that reached the engine; on memory, events that were read (by every subscriber that
    /// holds, or by anybody where none does).
    pub delivered: u64,
    /// Events on their way: in the log, or sent and not acknowledged. After the end: those that an outbox
    /// keeps for the next life of the producer.
    pub queued: u64,
    /// Events that will never be delivered.
    pub lost: Losses,
    /// Events that were refused, as their producers were told. Not a part of the balance.
    pub refused: u64,
}

impl Ledger {
    /// ingested = delivered + queued + lost.
    pub const fn balances(&self) -> bool {
        self.ingested == self.delivered + self.queued + self.lost.total()
    }

    /// The sums of two.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            ingested: self.ingested + other.ingested,
            delivered: self.delivered + other.delivered,
            queued: self.queued + other.queued,
            lost: self.lost.plus(other.lost),
            refused: self.refused + other.refused,
        }
    }
}
