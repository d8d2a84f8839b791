//! A laboratory for faults on real sockets: nodes as processes of their own, a relay that treats datagrams
//! badly, namespaces with a router between them, and a runtime whose sockets and clock can be broken.
//!
//! `docs/FAULTS.md` lists the cases.

pub mod child;
pub mod faulty;
pub mod line;
pub mod memory;
pub mod mix;
pub mod node;
pub mod pair;
pub mod relay;
pub mod soak;
pub mod space;

use std::io::Write;
use std::time::{Duration, Instant};

/// Bounds a hang, and nothing else: two busy cores are far below it.
pub const LIMIT: Duration = Duration::from_secs(80);
/// How often something that is not told is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Writes a line that the test runner does not hold back.
pub fn say(line: &str) {
    _ = writeln!(std::io::stderr(), "{line}");
}

/// Waits until `look` finds something.
///
/// # Panics
/// When it has not after [`LIMIT`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "in vain for {LIMIT:?}: {what}");
        std::thread::sleep(LOOK);
    }
}
