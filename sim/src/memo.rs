//! Handshakes that are lived again: shrinking, replaying, comparing and searching repeat the same keys, and
//! Diffie-Hellman is most of what a small world costs. A job's outcome depends on nothing but the job.

use std::cell::RefCell;
use std::collections::HashMap;

use net_proto::node::{Job, JobDone};

/// Outcomes that are remembered; then all are forgotten. About a kilobyte each.
const MOST: usize = 16_384;

/// A bug on purpose, and all else that an outcome depends on.
type Name = (Option<usize>, [u8; 32]);

thread_local! {
    static DONE: RefCell<HashMap<Name, JobDone>> = RefCell::default();
}

/// Does the work, or remembers what came of it.
pub(crate) fn run(job: Job) -> JobDone {
    let name = match &job {
        Job::Handshake(job) => (planted(), job.digest()),
        _ => return job.run(),
    };
    if let Some(done) = DONE.with_borrow(|known| known.get(&name).cloned()) {
        return done;
    }
    let done = job.run();
    DONE.with_borrow_mut(|known| {
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(name, done.clone());
    });
    done
}

/// With a bug on purpose the outcome depends on the bug too.
#[cfg(feature = "planted")]
fn planted() -> Option<usize> {
    use net_proto::planted::{ALL, is};
    ALL.iter().position(|(bug, ..)| is(*bug))
}

#[cfg(not(feature = "planted"))]
const fn planted() -> Option<usize> {
    None
}
