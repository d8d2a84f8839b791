//! A user's pure machine: everybody learns the highest bid. It implements `Plane`, so the same value runs
//! in production (`Mesh::builder().start_with`) and here.

use std::collections::BTreeMap;

use net_proto::lane::{Effects, In, Lane, LaneSpec, Plane, Refusal};
use net_proto::session::Peer;
use net_proto::stream::Mode;
use net_proto::time::{Instant, Reason};

const KIND: u8 = 1;

/// What one peer was told: nothing yet, or the highest bid then.
#[derive(Debug, Default)]
struct Told {
    lane: Option<Lane>,
    best: u64,
    waits: bool,
}

#[derive(Debug)]
pub struct Auction {
    pub best: u64,
    peers: BTreeMap<Peer, Told>,
    now: Instant,
    /// A bug on purpose: what finds no room is taken for sent.
    forgets: bool,
}

impl Auction {
    pub const fn new(forgets: bool) -> Self {
        Self { best: 0, peers: BTreeMap::new(), now: Instant::ZERO, forgets }
    }

    fn behind(&self, told: &Told) -> bool {
        !told.waits && told.best < self.best
    }
}

impl Plane for Auction {
    type Cmd = u64;
    type Event = ();

    fn handle(&mut self, now: Instant, input: In<'_>) {
        self.now = now;
        match input {
            In::Up(peer) => _ = self.peers.insert(peer, Told::default()),
            In::Down(peer, _) => _ = self.peers.remove(&peer),
            In::Msg(_, _, _, bid) => {
                self.best = self.best.max(bid.try_into().map_or(0, u64::from_le_bytes));
            }
            In::Writable(lane) => {
                self.peers
                    .values_mut()
                    .filter(|told| told.lane == Some(lane))
                    .for_each(|told| told.waits = false);
            }
            _ => {}
        }
    }

    fn command(&mut self, now: Instant, bid: u64) {
        self.now = now;
        self.best = self.best.max(bid);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
    }

    fn drain(&mut self, fx: &mut dyn Effects) {
        let best = self.best;
        for (peer, told) in &mut self.peers {
            if told.waits || told.best >= best {
                continue;
            }
            let spec = LaneSpec { kind: KIND, mode: Mode::Reliable, priority: 16, head: b"bids" };
            let Some(lane) = told.lane.or_else(|| fx.open(*peer, &spec)) else { continue };
            told.lane = Some(lane);
            match fx.reserve(lane, 8) {
                Some(room) => {
                    room.copy_from_slice(&best.to_le_bytes());
                    fx.commit(lane, 8);
                    told.best = best;
                }
                None if self.forgets => told.best = best,
                None => told.waits = true,
            }
        }
    }

    fn poll_event(&mut self) -> Option<()> {
        None
    }

    fn poll_timeout(&self) -> Option<(Instant, Reason)> {
        self.peers.values().any(|told| self.behind(told)).then_some((self.now, Reason::Output))
    }

    fn ceiling(&self) -> u64 {
        // As many peers as the node takes; each is one entry.
        1 << 20
    }

    fn admit(&self, kind: u8) -> Result<(), Refusal> {
        if kind == KIND { Ok(()) } else { Err(Refusal::UnknownKind(kind)) }
    }
}
