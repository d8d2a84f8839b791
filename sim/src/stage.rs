//! Shows the nodes that tasks run to the checkers of their world.
//!
//! Tasks must be `Send`, and checkers are not: while tasks run, the world's watch lies in a thread-local,
//! where the onlookers of the nodes find it.

use std::cell::RefCell;
use std::sync::Arc;

use net_proto::node::{Command, Event, Node, Taken};
use net_proto::session::Peer;
use net_proto::stream::StreamId;
use net_proto::time::Duration;
use net_shell::runtime::Watcher;

use crate::checkers::{Seen, Wants, Watch};
use crate::exec::Exec;
use crate::keyed::{Domain, below, draw};

/// What an onlooker needs of the world.
pub(crate) struct Stage {
    pub watch: Watch,
    pub now: u64,
    pub seed: u64,
    /// `invariants()` of a node is called after one turn in so many.
    pub invariants_every: u32,
}

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

/// Runs `f`, which runs tasks; gives the watch back.
pub(crate) fn play(stage: Stage, f: impl FnOnce()) -> Watch {
    STAGE.set(Some(stage));
    f();
    STAGE.take().map_or_else(|| Watch::new(None), |stage| stage.watch)
}

/// Shows something to the checkers, if tasks run.
pub(crate) fn show(seen: &Seen<'_>) {
    STAGE.with_borrow_mut(|stage| {
        if let Some(stage) = stage {
            stage.watch.see(Duration::from_nanos(stage.now), seen);
        }
    });
}

/// Looks on at one node.
pub(crate) struct Onlooker {
    exec: Arc<Exec>,
    host: u32,
    /// How often the machine had lost its power.
    crashes: u32,
    node: u32,
    turns: u64,
}

impl Onlooker {
    pub(crate) const fn new(exec: Arc<Exec>, host: u32, crashes: u32, node: u32) -> Self {
        Self { exec, host, crashes, node, turns: 0 }
    }
}

impl Watcher for Onlooker {
    fn started(&mut self, node: &Node) {
        let life = self.exec.node_started(self.host, self.node);
        show(&Seen::Started { node: self.node, life, entity: node.me() });
    }

    fn command(&mut self, command: &Command) {
        show(&Seen::Command { node: self.node, command });
    }

    fn event(&mut self, event: &Event) {
        show(&Seen::Event { node: self.node, event });
        if let Event::Connected { path, .. } | Event::PathChanged { path, .. } = event
            && let Some(addr) = path.udp_addr()
        {
            self.exec.note_path(self.node, addr);
        }
    }

    fn taken(&mut self, peer: Peer, stream: StreamId, taken: &Taken) {
        show(&Seen::Taken { node: self.node, peer, stream, taken });
    }

    fn worked(&mut self, machine: &Node) {
        self.turns += 1;
        STAGE.with_borrow_mut(|stage| {
            let Some(stage) = stage else { return };
            let every = u64::from(stage.invariants_every.max(1));
            let key = u64::from(self.node);
            if every == 1 || below(draw(stage.seed, Domain::Sample, key, self.turns), every) == 0 {
                machine.invariants();
            }
            if stage.watch.wants(Wants::WORKED) {
                stage.watch.see(Duration::from_nanos(stage.now), &Seen::Worked { node: self.node, machine });
            }
        });
    }
}

impl Drop for Onlooker {
    fn drop(&mut self) {
        // After a crash the world knows already, and a successor may run.
        self.exec.node_ended(self.host, self.crashes, self.node);
    }
}
