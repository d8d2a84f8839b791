//! Several planes as one.

use super::{Effects, Job, Lane, LaneSpec};
use crate::identity::EntityId;
use crate::session::Peer;
use crate::storage::{StoreOp, Ticket};

/// Bytes that one plane may commit per drain before the next plane's turn.
pub const QUANTUM: usize = 64 << 10;
/// Bits of a [`Ticket`] that are a plane's own; those above name the plane.
pub const TICKET_BITS: u32 = 56;

/// The plane that a ticket belongs to, and the ticket as that plane knows it.
pub const fn owner(ticket: Ticket) -> (u8, Ticket) {
    ((ticket.0 >> TICKET_BITS) as u8, Ticket(ticket.0 & ((1 << TICKET_BITS) - 1)))
}

/// The set bit at or after `start`, going round.
pub const fn turn_from(bits: u64, start: u32) -> Option<u32> {
    if bits == 0 {
        return None;
    }
    Some((bits.rotate_right(start % 64).trailing_zeros() + start) % 64)
}

/// Effects of one plane within a composition: its kind on its lanes, its number on its tickets, its
/// share of the turn.
pub struct Scoped<'a> {
    fx: &'a mut dyn Effects,
    plane: u8,
    left: usize,
    cut: bool,
}

impl<'a> Scoped<'a> {
    /// A plane that may commit `quantum` bytes. The message that begins within it may exceed it.
    pub fn new(fx: &'a mut dyn Effects, plane: u8, quantum: usize) -> Self {
        Self { fx, plane, left: quantum, cut: false }
    }

    /// Whether the share ran out before the plane was done.
    pub const fn was_cut(&self) -> bool {
        self.cut
    }
}

impl Effects for Scoped<'_> {
    fn entity(&self, peer: Peer) -> Option<EntityId> {
        self.fx.entity(peer)
    }

    fn open(&mut self, peer: Peer, spec: &LaneSpec<'_>) -> Option<Lane> {
        self.fx.open(peer, &LaneSpec { kind: self.plane, ..*spec })
    }

    fn largest(&self, lane: Lane) -> Option<usize> {
        self.fx.largest(lane)
    }

    fn reserve(&mut self, lane: Lane, len: usize) -> Option<&mut [u8]> {
        if self.left == 0 {
            self.cut = true;
            return None;
        }
        self.fx.reserve(lane, len)
    }

    fn commit(&mut self, lane: Lane, used: usize) -> u64 {
        // Empty messages cost something too, or they would be free of any share.
        self.left = self.left.saturating_sub(used.max(64));
        self.fx.commit(lane, used)
    }

    fn close(&mut self, lane: Lane, why: u16) {
        self.fx.close(lane, why);
    }

    fn store(&mut self, ticket: Ticket, op: StoreOp) {
        self.fx.store(self.ticket(ticket), op);
    }

    fn job(&mut self, ticket: Ticket, job: Job) {
        self.fx.job(self.ticket(ticket), job);
    }
}

impl Scoped<'_> {
    const fn ticket(&self, ticket: Ticket) -> Ticket {
        let (_, Ticket(low)) = owner(ticket);
        Ticket((self.plane as u64) << TICKET_BITS | low)
    }
}

/// Composes planes into one [`Plane`](crate::lane::Plane).
///
/// ```text
/// planes! {
///     /// What this node runs.
///     pub struct Mesh, commands MeshCommand, events MeshEvent;
///     1 rpc: Rpc,
///     #[cfg(feature = "log")]
///     2 log: Log,
/// }
/// ```
///
/// The number is the kind on the wire, 1 to 63, never given to another plane later. The type's name
/// names the variants of the two enums. Generated: the struct with its planes as fields and `new`, the
/// enums, `KINDS`, dispatch by kind, draining of the dirty ones in turn with a share for each, the sum
/// of ceilings, the earliest timeout, and the refusal of kinds that are not there.
#[macro_export]
macro_rules! planes {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident, commands $cmd:ident, events $event:ident;
        $( $(#[cfg($($cfg:tt)*)])* $kind:literal $field:ident: $ty:ident ),* $(,)?
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $( $(#[cfg($($cfg)*)])* $field: $ty, )*
            /// Planes that something happened to since they were last drained to the end.
            dirty: u64,
            /// Planes that may have events.
            eventful: u64,
            /// Whose turn it is.
            turn: u32,
            now: $crate::time::Instant,
        }

        /// A command to one of the planes.
        #[allow(missing_docs)]
        $vis enum $cmd { $( $(#[cfg($($cfg)*)])* $ty(<$ty as $crate::lane::Plane>::Cmd), )* }

        /// An event of one of the planes.
        #[allow(missing_docs)]
        $vis enum $event { $( $(#[cfg($($cfg)*)])* $ty(<$ty as $crate::lane::Plane>::Event), )* }

        #[allow(dead_code)]
        impl $name {
            /// The planes that are built in: number on the wire, and name.
            pub const KINDS: &'static [(u8, &'static str)] =
                &[ $( $(#[cfg($($cfg)*)])* ($kind, stringify!($field)), )* ];

            const ALL: u64 = {
                let mut all = 0u64;
                $( $(#[cfg($($cfg)*)])* {
                    assert!($kind >= 1 && $kind < 64, "a kind is 1 to 63");
                    assert!(all & (1 << $kind) == 0, "two planes have one kind");
                    all |= 1 << $kind;
                } )*
                all
            };

            /// Composes.
            #[allow(clippy::too_many_arguments)]
            pub const fn new($( $(#[cfg($($cfg)*)])* $field: $ty, )*) -> Self {
                Self {
                    $( $(#[cfg($($cfg)*)])* $field, )*
                    dirty: Self::ALL,
                    eventful: Self::ALL,
                    turn: 0,
                    now: $crate::time::Instant::ZERO,
                }
            }

            /// Has every plane drained and polled again. Never needed; a test shows that it changes nothing.
            pub const fn mark_all(&mut self) {
                self.dirty = Self::ALL;
                self.eventful = Self::ALL;
            }

            const fn mark(&mut self, kind: u32) {
                self.dirty |= 1 << kind;
                self.eventful |= 1 << kind;
            }

            fn give(&mut self, now: $crate::time::Instant, kind: u8, input: $crate::lane::In<'_>) {
                match kind {
                    $( $(#[cfg($($cfg)*)])* $kind => {
                        self.mark($kind);
                        $crate::lane::Plane::handle(&mut self.$field, now, input);
                    } )*
                    _ => {}
                }
            }
        }

        impl $crate::lane::Plane for $name {
            type Cmd = $cmd;
            type Event = $event;

            fn handle(&mut self, now: $crate::time::Instant, input: $crate::lane::In<'_>) {
                use $crate::lane::In;
                self.now = now;
                match input {
                    In::Up(peer) => {
                        $( $(#[cfg($($cfg)*)])* self.give(now, $kind, In::Up(peer)); )*
                    }
                    In::Down(peer, why) => {
                        $( $(#[cfg($($cfg)*)])* self.give(now, $kind, In::Down(peer, why)); )*
                    }
                    In::Wall(clock) => {
                        $( $(#[cfg($($cfg)*)])* self.give(now, $kind, In::Wall(clock)); )*
                    }
                    In::Stored(ticket, result) => {
                        let (kind, own) = $crate::lane::owner(ticket);
                        self.give(now, kind, In::Stored(own, result));
                    }
                    In::Job(ticket, done) => {
                        let (kind, own) = $crate::lane::owner(ticket);
                        self.give(now, kind, In::Job(own, done));
                    }
                    In::Opened(_, lane, _)
                    | In::Msg(_, lane, _, _)
                    | In::Writable(lane)
                    | In::Acked(lane, _)
                    | In::Closed(lane, _) => self.give(now, lane.kind(), input),
                    #[allow(unreachable_patterns)]
                    _ => {}
                }
            }

            fn command(&mut self, now: $crate::time::Instant, command: Self::Cmd) {
                self.now = now;
                match command {
                    $( $(#[cfg($($cfg)*)])* $cmd::$ty(own) => {
                        self.mark($kind);
                        $crate::lane::Plane::command(&mut self.$field, now, own);
                    } )*
                }
            }

            fn handle_timeout(&mut self, now: $crate::time::Instant) {
                self.now = now;
                $( $(#[cfg($($cfg)*)])* {
                    let due = $crate::lane::Plane::poll_timeout(&self.$field);
                    if due.is_some_and(|(at, _)| at <= now) {
                        self.mark($kind);
                        $crate::lane::Plane::handle_timeout(&mut self.$field, now);
                    }
                } )*
            }

            fn drain(&mut self, fx: &mut dyn $crate::lane::Effects) {
                // One share for each that is dirty; who was cut stays dirty and does not come first again.
                let mut round = self.dirty;
                while let Some(kind) = $crate::lane::turn_from(round, self.turn) {
                    round &= !(1 << kind);
                    let mut own = $crate::lane::Scoped::new(&mut *fx, kind as u8, $crate::lane::QUANTUM);
                    match kind {
                        $( $(#[cfg($($cfg)*)])* $kind => {
                            $crate::lane::Plane::drain(&mut self.$field, &mut own);
                        } )*
                        _ => {}
                    }
                    // Draining may make events (a lane could not be opened).
                    self.eventful |= 1 << kind;
                    if own.was_cut() {
                        self.turn = (kind + 1) % 64;
                    } else {
                        self.dirty &= !(1 << kind);
                    }
                }
            }

            fn poll_event(&mut self) -> Option<Self::Event> {
                while let Some(kind) = $crate::lane::turn_from(self.eventful, self.turn) {
                    let event = match kind {
                        $( $(#[cfg($($cfg)*)])* $kind => {
                            $crate::lane::Plane::poll_event(&mut self.$field).map($event::$ty)
                        } )*
                        _ => None,
                    };
                    if event.is_some() {
                        return event;
                    }
                    self.eventful &= !(1 << kind);
                }
                None
            }

            fn poll_timeout(&self) -> Option<($crate::time::Instant, $crate::time::Reason)> {
                if self.dirty != 0 {
                    return Some((self.now, $crate::time::Reason::Output));
                }
                let next = None;
                $( $(#[cfg($($cfg)*)])*
                let next = $crate::time::earlier(next, $crate::lane::Plane::poll_timeout(&self.$field)); )*
                next
            }

            fn ceiling(&self) -> u64 {
                let sum = core::mem::size_of::<Self>() as u64;
                $( $(#[cfg($($cfg)*)])*
                let sum = sum.saturating_add($crate::lane::Plane::ceiling(&self.$field)); )*
                sum
            }

            fn admit(&self, kind: u8) -> Result<(), $crate::lane::Refusal> {
                match kind {
                    $( $(#[cfg($($cfg)*)])* $kind => $crate::lane::Plane::admit(&self.$field, kind), )*
                    _ => Err($crate::lane::Refusal::UnknownKind(kind)),
                }
            }

            // A port's number is its plane's kind.
            const PORTS: usize = 64 - Self::ALL.leading_zeros() as usize;

            fn port(command: &Self::Cmd) -> usize {
                match *command {
                    $( $(#[cfg($($cfg)*)])* $cmd::$ty(_) => $kind, )*
                }
            }

            fn weight(command: &Self::Cmd) -> usize {
                match *command {
                    $( $(#[cfg($($cfg)*)])*
                    $cmd::$ty(ref own) => <$ty as $crate::lane::Plane>::weight(own), )*
                }
            }

            fn takes(&self, port: usize) -> bool {
                match port {
                    $( $(#[cfg($($cfg)*)])* $kind => $crate::lane::Plane::takes(&self.$field, 0), )*
                    _ => true,
                }
            }

            fn addressee(event: &Self::Event) -> Option<u64> {
                match *event {
                    $( $(#[cfg($($cfg)*)])*
                    $event::$ty(ref own) => <$ty as $crate::lane::Plane>::addressee(own), )*
                }
            }
        }

        // By the plane's number, not by the variant's place, so that a trace reads in a build with other planes.
        impl $crate::lane::serde::Serialize for $cmd {
            fn serialize<S: $crate::lane::serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                match *self {
                    $( $(#[cfg($($cfg)*)])*
                    $cmd::$ty(ref own) => $crate::lane::serde::Serialize::serialize(&($kind as u8, own), to), )*
                }
            }
        }

        impl $crate::lane::serde::Serialize for $event {
            fn serialize<S: $crate::lane::serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                match *self {
                    $( $(#[cfg($($cfg)*)])*
                    $event::$ty(ref own) => $crate::lane::serde::Serialize::serialize(&($kind as u8, own), to), )*
                }
            }
        }

        impl<'de> $crate::lane::serde::Deserialize<'de> for $cmd {
            fn deserialize<D: $crate::lane::serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                struct Pair;
                impl<'de> $crate::lane::serde::de::Visitor<'de> for Pair {
                    type Value = $cmd;

                    fn expecting(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                        f.write_str("the number of a plane, and a command to it")
                    }

                    fn visit_seq<A: $crate::lane::serde::de::SeqAccess<'de>>(
                        self,
                        mut from: A,
                    ) -> Result<$cmd, A::Error> {
                        use $crate::lane::serde::de::Error;
                        let cut = || A::Error::custom("a command is cut off");
                        let kind: u8 = from.next_element()?.ok_or_else(cut)?;
                        match kind {
                            $( $(#[cfg($($cfg)*)])*
                            $kind => Ok($cmd::$ty(from.next_element()?.ok_or_else(cut)?)), )*
                            _ => Err(A::Error::custom("no plane of this kind is built in")),
                        }
                    }
                }
                $crate::lane::serde::Deserializer::deserialize_tuple(from, 2, Pair)
            }
        }
    };
}
