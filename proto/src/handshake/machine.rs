//! The machine.
use super::api::*;
use super::job::{Job, JobDone};
use crate::entropy::Entropy;
use crate::identity::{Mesh, MeshId};
use crate::path::Path;
use crate::storage::Ticket;
use crate::time::{Instant, Reason};

/// The handshake machine of one node.
pub struct Handshakes {
    drops: Drops,
}

impl Handshakes {
    /// A machine without dials.
    pub fn new(_config: Config, _entropy: Entropy, _now: Instant) -> Self {
        Self { drops: Drops::default() }
    }
    /// Starts a dial.
    pub fn dial(&mut self, _now: Instant, req: DialRequest) -> Result<DialId, DialRefused> {
        Ok(DialId(req.id))
    }
    /// Gives up a dial, silently.
    pub fn cancel(&mut self, _id: DialId) {}
    /// Takes a datagram of type 1 to 4.
    pub fn handle_datagram(&mut self, _now: Instant, _path: &Path, _data: &[u8]) {}
    /// Takes the result of a job.
    pub fn handle_job(&mut self, _now: Instant, _ticket: Ticket, _done: JobDone) {}
    /// The next job to run.
    #[must_use]
    pub fn poll_job(&mut self) -> Option<(Ticket, Job)> {
        None
    }
    /// Answers [`Event::Asked`]. False: the handshake is gone, and the index of the answer unused.
    pub fn answer(&mut self, _now: Instant, _id: HalfOpenId, _answer: Answer) -> bool {
        false
    }
    /// The initiator's first packet opened.
    pub fn confirm(&mut self, _id: HalfOpenId) {}
    /// The next event.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }
    /// The next datagram.
    #[must_use]
    pub fn poll_transmit(&mut self, _now: Instant, _buf: &mut [u8]) -> Option<(Path, usize)> {
        None
    }
    /// When to call next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        None
    }
    /// Time has passed.
    pub fn handle_timeout(&mut self, _now: Instant) {}
    /// Accepts a further mesh and dials with it from now on.
    pub fn add_mesh(&mut self, _mesh: Mesh) -> Result<(), MeshRefused> {
        Ok(())
    }
    /// Forgets the oldest pair of that mesh id; false if there is none.
    pub fn remove_mesh(&mut self, _mesh: &MeshId) -> bool {
        false
    }
    /// What was dropped, by reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }
    /// Upper bound of the memory that peers can make this machine hold, in bytes.
    pub fn ceiling(&self) -> u64 {
        0
    }
    /// No dial, half-open handshake, job or output.
    pub fn is_idle(&self) -> bool {
        true
    }
}
