//! Bugs on purpose, for testing the tests: the feature `planted` compiles them in, [`choose`] picks
//! one at run time. A build without the feature has neither.
//!
//! This is the one piece of global state in the crate: what is chosen must reach every machine, and no
//! machine may have a setting for being wrong.

use core::sync::atomic::{AtomicU8, Ordering};

macro_rules! bugs {
    ($($name:ident: $text:literal,)+) => {
        /// A bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Bug {
            /// The code as it is.
            None,
            $(#[doc = $text] $name,)+
        }

        /// All bugs: name and what is wrong with them.
        pub const ALL: &[(Bug, &str, &str)] = &[$((Bug::$name, stringify!($name), $text),)+];
    };
}

bugs! {
    AckUnreceived: "a packet in front of a gap is acknowledged though it never came",
    NonceReuse: "one packet in 64 is sealed under the number of the one before",
    LeaseKept: "an association that ends keeps its lease of the window pool",
    CreditNeverReturned: "what the application drained raises no stream's window",
    StreamCreditForgotten: "a lost frame that raises a stream's window is not sent again",
    SessionCreditForgotten: "a lost frame that raises the session's window is not sent again",
    DataForgotten: "lost bytes of a stream are not sent again",
    OpenForgotten: "the lost opening of a stream is not sent again",
    ResetForgotten: "the lost reset of a stream is not sent again",
    FinForgotten: "the lost end of a stream is not sent again",
    DedupSkipped: "an unordered message that comes again is delivered again",
    GapIgnored: "bytes behind a gap are taken for the next ones",
    AckTimerStays: "the deadline of an acknowledgement outlives its sending",
    ProbeStuck: "the second probe timeout in a row does nothing",
    LostWake: "one time in 16 the application is not told that messages wait",
    EarlyFlush: "a flush is answered before the acknowledgement",
    ResetUncounted: "what a reset drops is missing in the ledger",
    InFlightLeak: "lost packets count as in flight for ever",
    AmplificationSkipped: "an address that proved nothing gets as much as it likes",
    UnreadStarves: "what some streams do not read keeps others from sending large messages",
    TagIgnored: "packets are accepted whose tag is wrong",
    // From here on of the event bus: see `of_bus`.
    DedupGapSeen: "events that a later one overtook count as seen",
    DedupForgets: "an event below the highest that was seen is new again",
    DedupLivesMixed: "deduplication takes all lives of a producer for one",
    CursorMinorOnly: "a cursor compares positions by their fine part only",
    CursorAhead: "a cursor stands behind what was fetched, not what was returned",
    LostUntold: "a reader is not told what the engine trimmed before it",
    ResumeSkips: "a new link resumes behind the first batch that is not acknowledged",
    OutboxTailDropped: "a life that recovers an outbox leaves its last event out",
    OutboxRenames: "an outbox replays events under new numbers",
    OutboxUnsynced: "an outbox calls durable what was written and not synced",
    IncarnationReused: "a producer that starts again keeps its incarnation",
    SampledUncounted: "what sampling leaves out is missing in the ledger",
    EvictedUncounted: "what gives way to newer events is missing in the ledger",
    RetiredForgotten: "a shard that retires is not read to its end",
}

impl Bug {
    /// Whether it is one of the event bus.
    pub const fn of_bus(self) -> bool {
        self as u8 >= Self::DedupGapSeen as u8
    }
}

static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// From now on, in this process.
pub fn choose(bug: Bug) {
    CHOSEN.store(bug as u8, Ordering::Relaxed);
}

/// Whether this bug is to happen.
pub fn is(bug: Bug) -> bool {
    CHOSEN.load(Ordering::Relaxed) == bug as u8
}
