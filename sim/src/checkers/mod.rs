//! What must hold in every run, as values that can be added to a world.
//!
//! A [`Checker`] sees what happens ([`Seen`]) and says when a promise is broken; the first broken one
//! ends the run. [`World::check`](crate::World::check) adds one. Every world has [`Wire`] (no nonce
//! twice, no amplification), [`TimersAhead`], and with real ciphers [`Plaintext`].

mod delivery;
pub mod history;
mod machine;
mod wire;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::BitOr;
use std::rc::Rc;

use net_proto::identity::EntityId;
use net_proto::node::{Command, Event, Node};
use net_proto::path::Ecn;
use net_proto::session::Peer;
use net_proto::stream::{StreamId, Taken};
use net_proto::time::{Duration, Instant, Reason};

use crate::artefact::Record;
use crate::world::World;

pub use delivery::Delivery;
pub use machine::{BoundedMemory, CreditReturned, Honest, LedgerBalances, NoRoutingLoop, TimersAhead};
pub use wire::{Plaintext, Wire};

/// Something that happens in a world.
#[non_exhaustive]
pub enum Seen<'a> {
    /// A node begins a life.
    Started {
        /// Which.
        node: u32,
        /// The how manieth life.
        life: u32,
        /// Its identity.
        entity: EntityId,
    },
    /// A node ends without a word.
    Stopped {
        /// Which.
        node: u32,
    },
    /// A datagram leaves.
    Sent {
        /// From where.
        node: u32,
        /// Names it in this run.
        id: u64,
        /// The address that others see.
        src: SocketAddr,
        /// To where.
        dst: SocketAddr,
        /// Its ECN bits.
        ecn: Ecn,
        /// Its bytes.
        data: &'a [u8],
    },
    /// A datagram reaches a node, perhaps damaged or a second time.
    Arrived {
        /// Whom.
        node: u32,
        /// Its name, as in [`Seen::Sent`]; zero if no node sent it.
        id: u64,
        /// The node that sent it, if one did.
        from: Option<u32>,
        /// From where, as the node sees it.
        src: SocketAddr,
        /// To which address.
        dst: SocketAddr,
        /// Its bytes.
        data: &'a [u8],
    },
    /// An application gives a command.
    Command {
        /// To which node.
        node: u32,
        /// What.
        command: &'a Command,
    },
    /// A node has something to tell.
    Event {
        /// Which.
        node: u32,
        /// What.
        event: &'a Event,
    },
    /// An application takes messages.
    Taken {
        /// At which node.
        node: u32,
        /// From whom.
        peer: Peer,
        /// On which stream.
        stream: StreamId,
        /// What.
        taken: &'a Taken,
    },
    /// A node asks to be called at once, again.
    Again {
        /// Which.
        node: u32,
        /// How often in a row at this instant.
        turn: u32,
        /// How often in a row without any output.
        silent: u32,
        /// What it asked for.
        wants: (Instant, Reason),
        /// What its clock says.
        now: Instant,
    },
    /// A node did its work and waits.
    Worked {
        /// Which.
        node: u32,
        /// The machine itself.
        machine: &'a Node,
    },
    /// A fault of a plan.
    Fault {
        /// Its number.
        number: usize,
        /// As in the plan.
        text: &'a str,
        /// Whether it begins; otherwise it ends.
        begins: bool,
    },
    /// An application tells something ([`Ctx::note`](crate::Ctx::note), [`Seat::note`](crate::Seat::note)).
    Note {
        /// At which node.
        node: u32,
        /// What, for instance `hop`.
        what: &'a str,
        /// About what.
        value: u64,
    },
}

/// Kinds of [`Seen`] that a checker looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants(u8);

#[allow(missing_docs)]
impl Wants {
    pub const NOTHING: Self = Self(0);
    pub const LIVES: Self = Self(1);
    pub const DATAGRAMS: Self = Self(2);
    pub const API: Self = Self(4);
    pub const AGAIN: Self = Self(8);
    pub const WORKED: Self = Self(16);
    pub const FAULTS: Self = Self(32);
    pub const NOTES: Self = Self(64);
    pub const ALL: Self = Self(127);

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Wants {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Seen<'_> {
    const fn kind(&self) -> Wants {
        match self {
            Self::Started { .. } | Self::Stopped { .. } => Wants::LIVES,
            Self::Sent { .. } | Self::Arrived { .. } => Wants::DATAGRAMS,
            Self::Command { .. } | Self::Event { .. } | Self::Taken { .. } => Wants::API,
            Self::Again { .. } => Wants::AGAIN,
            Self::Worked { .. } => Wants::WORKED,
            Self::Fault { .. } => Wants::FAULTS,
            Self::Note { .. } => Wants::NOTES,
        }
    }
}

/// Which promise was broken, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The node, if it is one node's.
    pub node: Option<u32>,
    /// What happened.
    pub what: String,
}

impl Broken {
    /// At a node.
    pub fn at(node: u32, what: impl Into<String>) -> Self {
        Self { node: Some(node), what: what.into() }
    }

    /// At no node in particular.
    pub fn somewhere(what: impl Into<String>) -> Self {
        Self { node: None, what: what.into() }
    }
}

/// Looks on and says when something is wrong.
#[allow(unused_variables)]
pub trait Checker {
    /// Its name, for the message.
    fn name(&self) -> &'static str;
    /// What it looks at; less is faster.
    fn wants(&self) -> Wants {
        Wants::ALL
    }
    /// Something happened at `at` (world time).
    fn see(&mut self, at: Duration, seen: &Seen<'_>) -> Result<(), Broken>;
    /// The run is over ([`World::at_end`](crate::World::at_end)).
    fn at_end(&mut self, world: &World) -> Result<(), Broken> {
        Ok(())
    }
}

/// The checkers of a world, and its recorder.
pub(crate) struct Watch {
    checkers: Vec<(Wants, Box<dyn Checker>)>,
    wants: Wants,
    record: Option<Rc<RefCell<Record>>>,
    pub broken: Option<Broken>,
}

impl Watch {
    pub fn new(record: Option<Rc<RefCell<Record>>>) -> Self {
        let wants = if record.is_some() { Wants::ALL } else { Wants::NOTHING };
        Self { checkers: Vec::new(), wants, record, broken: None }
    }

    pub fn add(&mut self, checker: impl Checker + 'static) {
        let wants = checker.wants();
        self.wants = self.wants | wants;
        self.checkers.push((wants, Box::new(checker)));
    }

    /// Whether what happens is kept.
    pub const fn records(&self) -> bool {
        self.record.is_some()
    }

    pub const fn wants(&self, what: Wants) -> bool {
        self.wants.has(what)
    }

    pub const fn wants_faults(&self) -> bool {
        self.wants(Wants::FAULTS)
    }

    #[inline]
    pub fn see(&mut self, at: Duration, seen: &Seen<'_>) {
        if self.wants.has(seen.kind()) {
            self.show(at, seen);
        }
    }

    fn show(&mut self, at: Duration, seen: &Seen<'_>) {
        if let Some(record) = &self.record {
            record.borrow_mut().see(at, seen);
        }
        let kind = seen.kind();
        for (wants, checker) in &mut self.checkers {
            if wants.has(kind)
                && let Err(broken) = checker.see(at, seen)
                && self.broken.is_none()
            {
                let what = format!("{}: {}", checker.name(), broken.what);
                self.broken = Some(Broken { what, ..broken });
            }
        }
    }

    /// After an event of the world: a point of the trace.
    pub fn point(&self, at: u64, hash: u64) {
        if let Some(record) = &self.record {
            record.borrow_mut().point(at, hash);
        }
    }

    pub fn take_checkers(&mut self) -> Vec<(Wants, Box<dyn Checker>)> {
        std::mem::take(&mut self.checkers)
    }

    pub fn put_checkers(&mut self, checkers: Vec<(Wants, Box<dyn Checker>)>) {
        self.checkers = checkers;
    }
}
