//! Handshakes of runs that are lived again: shrinking, replaying and comparing repeat the same keys, and
//! Diffie-Hellman is most of what a small world costs. A job's outcome depends on nothing but the job.

use std::cell::RefCell;
use std::collections::HashMap;

use net_proto::node::{Job, JobDone};

/// Outcomes that are remembered; then all are forgotten. About a kilobyte each.
const MOST: usize = 16_384;

thread_local! {
    static DONE: RefCell<HashMap<[u8; 32], JobDone>> = RefCell::default();
}

/// Does the work, or remembers what came of it.
pub(super) fn run(job: Job) -> JobDone {
    // With a bug on purpose the outcome depends on the bug too.
    let name = match &job {
        Job::Handshake(job) if !cfg!(feature = "planted") => job.digest(),
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
