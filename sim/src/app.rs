//! Applications on bare nodes: synchronous machines that the world calls.

use std::any::Any;

use net_proto::identity::EntityId;
use net_proto::node::{Command, Event, Input};
use net_proto::path::Path;
use net_proto::session::Peer;
use net_proto::stream::{StreamId, Taken};
use net_proto::time::{Duration, Instant};

use crate::keyed::{Domain, Rng};
use crate::world::World;

/// An application under test. It has no clock, no threads and no randomness but what [`Ctx`] gives.
#[allow(unused_variables)]
pub trait App: Any {
    /// The node was started, or started again.
    fn on_start(&mut self, cx: &mut Ctx<'_>) {}
    /// The node has something to tell.
    fn on_event(&mut self, cx: &mut Ctx<'_>, event: Event);
    /// The instant given to [`Ctx::wake_in`] has come.
    fn on_timer(&mut self, cx: &mut Ctx<'_>) {}
}

/// What an application may do while it is called.
pub struct Ctx<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) me: u32,
}

impl Ctx<'_> {
    /// Which node this is.
    pub const fn me(&self) -> u32 {
        self.me
    }

    /// The node's own clock.
    pub fn now(&self) -> Instant {
        self.world.local_now(self.me)
    }

    /// Time since the start of the world: for measuring, not for deciding.
    pub fn elapsed(&self) -> Duration {
        self.world.now()
    }

    /// Asks the node for something.
    pub fn command(&mut self, command: Command) {
        self.world.input(self.me, Input::Command(command));
    }

    /// All whole messages that arrived on a stream; `None` if there are none. See `Node::take`.
    pub fn take(&mut self, peer: Peer, stream: StreamId, spare: &mut Vec<u8>) -> Option<Taken> {
        self.world.take(self.me, peer, stream, spare)
    }

    /// A chunk that the node no longer needs, for reuse.
    pub fn spent(&mut self) -> Option<Vec<u8>> {
        self.world.node_mut(self.me)?.spent()
    }

    /// Asks for one call of [`App::on_timer`]; a second request replaces the first.
    pub fn wake_in(&mut self, after: Duration) {
        self.world.app_timer(self.me, after);
    }

    /// A keyed stream of randomness; `key` tells streams of one node apart.
    pub fn rng(&self, key: u64) -> Rng {
        Rng::new(self.world.seed(), Domain::Application, u64::from(self.me) << 32 ^ key)
    }

    /// The identity of a node.
    pub fn entity(&self, node: u32) -> EntityId {
        self.world.entity(node)
    }

    /// Where a node can be reached now.
    pub fn path_to(&self, node: u32) -> Path {
        self.world.path_to(node)
    }

    /// Lets checkers and the timeline know something: `hop`, say, and of which message.
    pub fn note(&mut self, what: &str, value: u64) {
        self.world.note(self.me, what, value);
    }

    /// Reports a broken promise; the run ends with it.
    pub fn fail(&mut self, what: impl Into<String>) {
        self.world.fail(Some(self.me), what);
    }
}
