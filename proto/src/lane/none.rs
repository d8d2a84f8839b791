//! The empty set of planes.

use serde::{Deserialize, Serialize};

use super::{Effects, In, Plane, Refusal};
use crate::time::{Instant, Reason};

/// No plane at all: every lane that a peer opens is refused. Costs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPlanes;

/// What cannot be: there is nothing to ask of [`NoPlanes`], and nothing that it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Never {}

impl Plane for NoPlanes {
    type Cmd = Never;
    type Event = Never;

    fn handle(&mut self, _: Instant, _: In<'_>) {}

    fn command(&mut self, _: Instant, command: Never) {
        match command {}
    }

    fn handle_timeout(&mut self, _: Instant) {}

    fn drain(&mut self, _: &mut dyn Effects) {}

    fn poll_event(&mut self) -> Option<Never> {
        None
    }

    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        None
    }

    fn ceiling(&self) -> u64 {
        0
    }

    fn admit(&self, kind: u8) -> Result<(), Refusal> {
        Err(Refusal::UnknownKind(kind))
    }

    const PORTS: usize = 0;
}
