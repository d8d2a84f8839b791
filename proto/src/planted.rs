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
