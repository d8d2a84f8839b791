//! Faults end: from here on everything arrives, in order, and timers fire when they are due. Both nodes
//! must come to one association that both know, and messages must pass over it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use net_proto::time::{Duration, Instant};

use super::Histories;
use super::local::{Local, Outcome};

/// How long agreeing may take: longer than a dead association is held.
const LIMIT: Duration = Duration::from_secs(120);
/// Datagrams and timers by which it must be over.
const MAX_EVENTS: u32 = 20_000;
/// A datagram's time on the way.
const DELAY: Duration = Duration::from_millis(1);

struct Two {
    nodes: [Local; 2],
    /// What each clock showed in the beginning.
    start: [Instant; 2],
    /// Time since then.
    now: Duration,
    /// On the way: when, to whom, what.
    flying: VecDeque<(Duration, usize, Vec<u8>)>,
    heard: Vec<u64>,
    flushed: Vec<u64>,
    events: u32,
}

/// Lets both nodes come to rest from the states that two lists of inputs name.
pub(super) fn agree(histories: &Histories, a: u32, b: u32) -> Result<(), String> {
    let run = || {
        let nodes = [histories.live(a), histories.live(b)];
        let start = [nodes[0].now, nodes[1].now];
        let (flying, heard, flushed) = (VecDeque::new(), Vec::new(), Vec::new());
        let mut two = Two { nodes, start, now: Duration::ZERO, flying, heard, flushed, events: 0 };
        two.agree()
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(format!("panicked after the faults: {}", text.unwrap_or_default()))
    })
}

impl Two {
    fn agree(&mut self) -> Result<(), String> {
        self.until("one association that both know", |two| {
            two.nodes.iter().all(Local::is_joined)
                && two.nodes.iter().all(Local::all_flushed)
                && two.nodes[0].streams() == two.nodes[1].streams()
        })?;
        let mut said = Vec::new();
        for node in 0..2 {
            if self.nodes[node].talks() {
                let Some((message, out)) = self.nodes[node].say() else {
                    return Err(format!("node {node} has no stream after the faults"));
                };
                said.push(message);
                self.take(node, out)?;
            }
        }
        self.until("messages over it", |two| {
            said.iter().all(|m| two.heard.contains(m) && two.flushed.contains(m))
        })
    }

    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !done(self) {
            let timer = |node: usize| {
                let due = self.nodes[node].due()?;
                Some((due.since(self.start[node]).max(self.now), node))
            };
            let timer = [timer(0), timer(1)].into_iter().flatten().min();
            let arrival = self.flying.front().map(|(at, ..)| *at);
            match (arrival, timer) {
                (Some(at), timer) if timer.is_none_or(|(due, _)| at <= due) => {
                    let Some((_, to, data)) = self.flying.pop_front() else { break };
                    self.now = at;
                    let out = self.nodes[to].arrives(self.start[to] + at, &data);
                    self.take(to, out)?;
                }
                (_, Some((due, node))) => {
                    self.now = due;
                    let out = self.nodes[node].call(self.start[node] + due);
                    self.take(node, out)?;
                }
                _ => return Err(format!("once faults ended: {what} never comes, nothing happens any more")),
            }
            self.events += 1;
            if self.now > LIMIT || self.events > MAX_EVENTS {
                return Err(format!("once faults ended: {what} did not come in {:?}", self.now));
            }
        }
        Ok(())
    }

    fn take(&mut self, node: usize, out: Outcome) -> Result<(), String> {
        if let Some(broken) = out.broken {
            return Err(format!("once faults ended: node {node}: {broken}"));
        }
        self.heard.extend(out.heard);
        self.flushed.extend(out.flushed);
        self.flying.extend(out.sent.into_iter().map(|data| (self.now + DELAY, 1 - node, data)));
        Ok(())
    }
}
