//! Every order of events, for two nodes: an exhaustive search over who receives what when, which
//! datagrams are lost, doubled or overtaken, which timer fires first, and when a node crashes.
//!
//! Keys cannot be copied, so a state of the machines cannot either. But a node is a function of its own
//! inputs (`local`): a list of inputs names its state, and one that is wanted again is lived again.
//! What a list leads to is remembered, so the machines work only once for each list; the search itself
//! moves over pairs of lists and the datagrams on their way, of which there are many more.
//!
//! What is one state: equal lists of inputs at both nodes, equal datagrams on their way in equal order,
//! equal counts of what has gone wrong. So two orders of events are merged if no node can tell them apart,
//! and equal futures follow, as the machines have nothing but their inputs. A state that was there before
//! with fewer faults is left out: all that can follow it was looked at then. Two lists that happen to lead
//! a machine to the same place are not merged: a machine tells nobody all that it holds, and a datagram
//! moves its clock besides, so few would be.
//!
//! In every state: the machines' invariants, and what `local` looks after (the other's identity and no
//! other, nothing before its confirmation, no counter twice, no message twice, ledgers that balance, no
//! spinning). In every state in which nothing is on its way, faults end: both nodes must then come to one
//! association that both know, over which messages pass.

mod converge;
mod local;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use net_proto::node::Config;
use net_proto::time::{Duration, Reason};

use crate::keyed::mix;
use local::{Cast, Input, Local, Outcome};

/// What two nodes do.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// Which of the two dial, and talk.
    dials: [bool; 2],
    tune: fn(&mut Config),
    /// Timers that may fire in any order; others fire only once faults have ended.
    timers: &'static [Reason],
    /// What happens without faults before the search begins.
    first: First,
}

/// What happens before the search begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Nothing,
    /// They connect, and the first message is delivered.
    Connected,
    /// Then node 0 begins to renew the keys.
    Renewing,
    /// Or node 0 hears nothing until it takes the association for dead.
    Dead,
}

use Reason::{Ack, Dead, Expiry, Handshake, KeepAlive, Loss, PathValidation, Probe, Redial, Rekey};

const QUICK: &[Reason] = &[Handshake, Ack, Loss, Probe, PathValidation];

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "handshake",
        about: "one dials the other",
        dials: [true, false],
        tune: |_| {},
        timers: QUICK,
        first: First::Nothing,
    },
    Scenario {
        name: "crossing",
        about: "both dial each other",
        dials: [true, true],
        tune: |_| {},
        timers: QUICK,
        first: First::Nothing,
    },
    Scenario {
        name: "rekey",
        about: "keys are renewed while a stream is open",
        dials: [true, false],
        tune: early,
        timers: &[Handshake, Ack, Loss, Probe, PathValidation, Rekey, Expiry],
        first: First::Connected,
    },
    Scenario {
        name: "renewal",
        about: "as rekey, and one end has just begun with it",
        dials: [true, false],
        tune: early,
        timers: &[Handshake, Ack, Loss, Probe, PathValidation, Rekey, Expiry],
        first: First::Renewing,
    },
    Scenario {
        name: "resume",
        about: "one end takes the association for dead, and dials to resume it",
        dials: [true, false],
        tune: |_| {},
        timers: &[Handshake, Ack, Loss, Probe, PathValidation, KeepAlive, Dead, Redial],
        first: First::Dead,
    },
];

/// Keys are renewed early, and nothing else happens by itself.
fn early(config: &mut Config) {
    config.session.keep_alive = Duration::from_secs(30);
    config.session.dead_after = Duration::from_secs(90);
    config.session.keys.rekey_after = Duration::from_secs(1);
}

/// The scenario of this name.
pub fn named(name: &str) -> Option<Scenario> {
    ALL.iter().find(|s| s.name == name).copied()
}

/// How much may go wrong in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Datagrams lost.
    pub losses: u8,
    /// Datagrams that arrive twice.
    pub duplicates: u8,
    /// Datagrams that overtake others.
    pub reorders: u8,
    /// Crashes, each with a restart.
    pub crashes: u8,
    /// Timers that fire at each node, out of any order.
    pub timers: u8,
    /// States after which the search gives up.
    pub states: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { losses: 1, duplicates: 0, reorders: 0, crashes: 0, timers: 1, states: 10_000_000 }
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { losses, duplicates, reorders, crashes, timers, .. } = self;
        write!(f, "{losses} lost, {duplicates} doubled, {reorders} overtaking, {crashes} crashes, ")?;
        write!(f, "{timers} timers at each node")
    }
}

/// States between two words of progress.
const TOLD_EVERY: u32 = 1 << 16;

/// What a search has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Steps between them.
    pub steps: u64,
    /// Different states of single nodes: so often the machines worked.
    pub locals: usize,
    /// States in which nothing was on its way; from each both nodes came to agree.
    pub ends: u64,
    /// Longest of the shortest ways to a state.
    pub depth: u32,
    /// Whether that is all that there are.
    pub complete: bool,
}

/// A promise that was broken, and the shortest way there.
#[derive(Clone, Debug)]
pub struct Found {
    /// What broke.
    pub what: String,
    /// What happened, in order.
    pub way: Vec<String>,
    /// What the search had seen by then.
    pub report: Report,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        self.way.iter().enumerate().try_for_each(|(i, step)| writeln!(f, "{:>3}. {step}", i + 1))
    }
}

/// A list of inputs of one node.
struct History {
    /// The list without its last input, and that input; none for the beginning of a life.
    before: Option<(u32, Input)>,
    place: u32,
    life: u32,
    out: Outcome,
    sent: Vec<u32>,
    /// An association was up at some time.
    was_up: bool,
}

/// All that was found out about single nodes.
struct Histories {
    cast: Cast,
    all: Vec<History>,
    next: HashMap<(u32, Input), u32>,
    starts: HashMap<(u32, u32), u32>,
    datagrams: Vec<Vec<u8>>,
    numbers: HashMap<Vec<u8>, u32>,
}

impl Histories {
    fn new(scenario: Scenario) -> Self {
        Self {
            cast: Cast::of(scenario),
            all: Vec::new(),
            next: HashMap::new(),
            starts: HashMap::new(),
            datagrams: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    fn of(&self, history: u32) -> &History {
        &self.all[history as usize]
    }

    /// The beginning of a life.
    fn start(&mut self, place: u32, life: u32) -> u32 {
        if let Some(known) = self.starts.get(&(place, life)) {
            return *known;
        }
        let out = caught(|| Local::start(&self.cast, place, life).1);
        let history = self.add(None, place, life, out, false);
        self.starts.insert((place, life), history);
        history
    }

    /// The list with one more input.
    fn then(&mut self, history: u32, input: Input) -> u32 {
        if let Some(known) = self.next.get(&(history, input)) {
            return *known;
        }
        let History { place, life, was_up, .. } = *self.of(history);
        let out = caught(|| {
            let mut local = self.live(history);
            local.step(input, self.data(input))
        });
        let longer = self.add(Some((history, input)), place, life, out, was_up);
        self.next.insert((history, input), longer);
        longer
    }

    fn add(
        &mut self,
        before: Option<(u32, Input)>,
        place: u32,
        life: u32,
        mut out: Outcome,
        up: bool,
    ) -> u32 {
        let sent = std::mem::take(&mut out.sent);
        let sent = sent.into_iter().map(|data| self.number(data)).collect();
        let was_up = up || out.up_dialled || out.up_accepted;
        self.all.push(History { before, place, life, out, sent, was_up });
        self.all.len() as u32 - 1
    }

    fn number(&mut self, data: Vec<u8>) -> u32 {
        if let Some(known) = self.numbers.get(&data) {
            return *known;
        }
        let number = self.datagrams.len() as u32;
        self.datagrams.push(data.clone());
        self.numbers.insert(data, number);
        number
    }

    fn data(&self, input: Input) -> &[u8] {
        match input {
            Input::Arrives(number) => &self.datagrams[number as usize],
            _ => &[],
        }
    }

    /// A node that lived this list.
    fn live(&self, history: u32) -> Local {
        let mut inputs = Vec::new();
        let mut at = history;
        while let Some((before, input)) = self.of(at).before {
            inputs.push(input);
            at = before;
        }
        let first = self.of(at);
        let (mut local, _) = Local::start(&self.cast, first.place, first.life);
        for input in inputs.into_iter().rev() {
            local.step(input, self.data(input));
        }
        local
    }

    /// Whether a message was delivered somewhere in a list.
    fn heard(&self, mut history: u32, message: u64) -> bool {
        loop {
            let here = self.of(history);
            if here.out.heard.contains(&message) {
                return true;
            }
            let Some((before, _)) = here.before else { return false };
            history = before;
        }
    }

    fn all_heard(&self, mut history: u32) -> Vec<u64> {
        let mut all = Vec::new();
        loop {
            let here = self.of(history);
            all.extend(&here.out.heard);
            let Some((before, _)) = here.before else { return all };
            history = before;
        }
    }
}

/// Invariants panic.
fn caught(f: impl FnOnce() -> Outcome) -> Outcome {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(out) => out,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            let broken = Some(format!("panicked: {}", text.unwrap_or_default()));
            Outcome { broken, ..Outcome::default() }
        }
    }
}

/// Both nodes and what is between them.
#[derive(Clone, Debug)]
struct State {
    nodes: [u32; 2],
    /// On the way to each, in the order in which they were sent.
    flying: [Vec<u32>; 2],
    losses: u8,
    duplicates: u8,
    reorders: u8,
    crashes: u8,
    timers: [u8; 2],
    /// What former lives of a node heard.
    heard: [Vec<u64>; 2],
    /// Whether a former life of a node was connected.
    was_up: [bool; 2],
}

/// 128 bits of a state. Among a hundred million states two have the same with a chance of one in 10^22.
type Name = u128;

impl State {
    /// The state without what has gone wrong in it so far.
    fn place(&self) -> Name {
        let Self { nodes, flying, losses: _, duplicates: _, reorders: _, crashes, timers, heard, was_up } =
            self;
        let mut name = [1, 2];
        let mut add = |word: u64| name = [mix(name[0] ^ word), mix(name[1].rotate_left(17) ^ word)];
        for me in 0..2 {
            add(u64::from(nodes[me]) << 32 | flying[me].len() as u64);
            flying[me].iter().for_each(|datagram| add(u64::from(*datagram)));
            add(u64::from(timers[me]) << 32 | heard[me].len() as u64);
            heard[me].iter().for_each(|message| add(*message));
            add(u64::from(*crashes) << 8 | u64::from(was_up[me]));
        }
        Name::from(name[0]) << 64 | Name::from(name[1])
    }
}

/// A place with what has gone wrong on the way to it.
fn named_with(place: Name, losses: u8, duplicates: u8, reorders: u8) -> Name {
    let faults = u64::from(losses) << 16 | u64::from(duplicates) << 8 | u64::from(reorders);
    let half = |n: u64| Name::from(mix((place >> 64) as u64 ^ mix(faults ^ n << 32)));
    half(1) << 64 | half(2).wrapping_add(place) & Name::from(u64::MAX)
}

/// One thing that may happen in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Arrives(u8, u32),
    Overtakes(u8, u32),
    Twice(u8, u32),
    Lost(u8, u32),
    Timer(u8),
    Job(u8),
    Crash(u8),
}

/// Names are drawn evenly already.
#[derive(Default)]
struct Half(u64);

impl Hasher for Half {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u128(&mut self, name: Name) {
        self.0 = name as u64;
    }
}

struct Search {
    histories: Histories,
    limits: Limits,
    /// Looks at a place again after more faults.
    whole: bool,
    #[cfg(test)]
    places: HashSet<Name>,
    seen: HashSet<Name, BuildHasherDefault<Half>>,
    /// Pairs of lists from which both nodes came to agree.
    agreed: HashSet<(u32, u32)>,
    /// By state: where from, and by what.
    ways: Vec<(u32, Choice)>,
    report: Report,
}

/// Looks at every state that a scenario can come to within limits.
///
/// # Errors
///
/// The first broken promise, by the length of the way.
pub fn search(scenario: Scenario, limits: Limits) -> Result<Report, Box<Found>> {
    watched(scenario, limits, |_| {})
}

/// As [`search`]; tells how far it is after every 65,536 states.
///
/// # Errors
///
/// The first broken promise, by the length of the way.
pub fn watched(
    scenario: Scenario,
    limits: Limits,
    mut progress: impl FnMut(Report),
) -> Result<Report, Box<Found>> {
    Search::new(scenario, limits).run(&mut progress)
}

impl Search {
    fn new(scenario: Scenario, limits: Limits) -> Self {
        Self {
            histories: Histories::new(scenario),
            limits,
            whole: false,
            #[cfg(test)]
            places: HashSet::new(),
            seen: HashSet::default(),
            agreed: HashSet::new(),
            ways: Vec::new(),
            report: Report::default(),
        }
    }

    fn run(&mut self, progress: &mut dyn FnMut(Report)) -> Result<Report, Box<Found>> {
        let first = self.first()?;
        self.is_new(&first);
        let mut queue = VecDeque::from([(first, 0_u32, 0)]);
        self.ways.push((0, Choice::Job(0)));
        while let Some((state, number, depth)) = queue.pop_front() {
            self.report.depth = depth;
            if self.seen.len() > self.limits.states {
                return Ok(self.told(false));
            }
            if number > 0 && number.is_multiple_of(TOLD_EVERY) {
                progress(self.told(false));
            }
            if self.is_quiet(&state) {
                self.report.ends += 1;
                let [a, b] = state.nodes;
                // The way there does not matter, nor what may still go wrong: nothing does any more.
                if self.agreed.insert((a, b))
                    && let Err(what) = converge::agree(&self.histories, a, b)
                {
                    return Err(self.found(what, number, None));
                }
            }
            for choice in self.choices(&state) {
                self.report.steps += 1;
                let next =
                    self.after(&state, choice).map_err(|what| self.found(what, number, Some(choice)))?;
                if self.is_new(&next) {
                    self.ways.push((number, choice));
                    queue.push_back((next, self.ways.len() as u32 - 1, depth + 1));
                }
            }
        }
        Ok(self.told(true))
    }

    /// Whether a state is to be looked at: it was not seen, nor the same place after fewer faults. From
    /// there all is possible that is possible from here, and the way there was no longer.
    fn is_new(&mut self, state: &State) -> bool {
        let State { losses, duplicates, reorders, .. } = *state;
        let place = state.place();
        #[cfg(test)]
        self.places.insert(place);
        let fewer = (0..=losses)
            .flat_map(|l| (0..=duplicates).flat_map(move |d| (0..=reorders).map(move |r| (l, d, r))));
        if !self.whole && fewer.into_iter().any(|(l, d, r)| self.seen.contains(&named_with(place, l, d, r))) {
            return false;
        }
        self.seen.insert(named_with(place, losses, duplicates, reorders))
    }

    fn is_quiet(&self, state: &State) -> bool {
        state.flying.iter().all(Vec::is_empty) && self.jobs(state, 0) == 0 && self.jobs(state, 1) == 0
    }

    fn told(&mut self, complete: bool) -> Report {
        self.report.states = self.seen.len();
        self.report.locals = self.histories.all.len();
        self.report.complete = complete;
        self.report
    }

    fn found(&mut self, what: String, mut number: u32, last: Option<Choice>) -> Box<Found> {
        let mut way: Vec<Choice> = last.into_iter().collect();
        while number != 0 {
            let (before, choice) = self.ways[number as usize];
            way.push(choice);
            number = before;
        }
        let way = way.into_iter().rev().map(|choice| self.words(choice)).collect();
        Box::new(Found { what, way, report: self.told(false) })
    }

    fn words(&self, choice: Choice) -> String {
        let datagram = |number: u32| {
            let data = &self.histories.datagrams[number as usize];
            let kind = match data.first() {
                Some(1) => "message 1",
                Some(2) => "message 2",
                Some(3) => "cookie reply",
                Some(5) => "data",
                _ => "?",
            };
            format!("datagram {number} ({kind}, {} bytes)", data.len())
        };
        match choice {
            Choice::Arrives(to, d) => format!("{} arrives at node {to}", datagram(d)),
            Choice::Overtakes(to, d) => format!("{} overtakes others to node {to}", datagram(d)),
            Choice::Twice(to, d) => format!("{} arrives at node {to}, and a copy stays behind", datagram(d)),
            Choice::Lost(to, d) => format!("{} to node {to} is lost", datagram(d)),
            Choice::Timer(node) => format!("the timer of node {node} fires"),
            Choice::Job(node) => format!("a job of node {node} is done"),
            Choice::Crash(node) => format!("node {node} crashes and starts again"),
        }
    }

    fn history(&self, state: &State, node: u8) -> &History {
        self.histories.of(state.nodes[node as usize])
    }

    fn jobs(&self, state: &State, node: u8) -> usize {
        self.history(state, node).out.jobs
    }

    fn choices(&self, state: &State) -> Vec<Choice> {
        let mut all = Vec::new();
        for to in 0..2 {
            // What is lost is lost when it would have arrived: earlier makes no difference.
            let [first, rest @ ..] = &state.flying[to as usize][..] else { continue };
            all.push(Choice::Arrives(to, *first));
            if state.duplicates < self.limits.duplicates {
                all.push(Choice::Twice(to, *first));
            }
            if state.losses < self.limits.losses {
                all.push(Choice::Lost(to, *first));
            }
            if state.reorders < self.limits.reorders {
                all.extend(rest.iter().map(|datagram| Choice::Overtakes(to, *datagram)));
            }
        }
        for node in 0..2 {
            let here = self.history(state, node);
            if here.out.jobs > 0 {
                all.push(Choice::Job(node));
            }
            let allowed =
                here.out.timer.is_some_and(|reason| self.histories.cast.scenario.timers.contains(&reason));
            if allowed && state.timers[node as usize] < self.limits.timers {
                all.push(Choice::Timer(node));
            }
            if state.crashes < self.limits.crashes {
                all.push(Choice::Crash(node));
            }
        }
        all
    }

    fn after(&mut self, state: &State, choice: Choice) -> Result<State, String> {
        let mut next = state.clone();
        let mut take = |to: u8, datagram: u32| {
            let queue = &mut next.flying[to as usize];
            if let Some(at) = queue.iter().position(|d| *d == datagram) {
                queue.remove(at);
            }
        };
        let (node, input) = match choice {
            Choice::Lost(to, d) => {
                take(to, d);
                next.losses += 1;
                return Ok(next);
            }
            Choice::Arrives(to, d) => {
                take(to, d);
                (to, Some(Input::Arrives(d)))
            }
            Choice::Overtakes(to, d) => {
                take(to, d);
                next.reorders += 1;
                (to, Some(Input::Arrives(d)))
            }
            Choice::Twice(to, d) => {
                take(to, d);
                // The copy comes behind all that is on the way.
                next.flying[to as usize].push(d);
                next.duplicates += 1;
                (to, Some(Input::Arrives(d)))
            }
            Choice::Timer(node) => {
                next.timers[node as usize] += 1;
                (node, Some(Input::Timer))
            }
            Choice::Job(node) => (node, Some(Input::Job)),
            Choice::Crash(node) => {
                next.crashes += 1;
                (node, None)
            }
        };
        self.step(&mut next, node, input)?;
        Ok(next)
    }

    /// One input at one node; no input is the beginning of its next life.
    fn step(&mut self, state: &mut State, node: u8, input: Option<Input>) -> Result<(), String> {
        let me = node as usize;
        let before = state.nodes[me];
        let after = match input {
            Some(input) => self.histories.then(before, input),
            None => {
                let History { place, life, was_up, .. } = *self.histories.of(before);
                state.was_up[me] |= was_up;
                let mut heard = self.histories.all_heard(before);
                state.heard[me].append(&mut heard);
                state.heard[me].sort_unstable();
                state.heard[me].dedup();
                self.histories.start(place, life + 1)
            }
        };
        state.nodes[me] = after;
        let here = self.histories.of(after);
        state.flying[1 - me].extend(&here.sent);
        if let Some(broken) = &here.out.broken {
            return Err(format!("node {node}: {broken}"));
        }
        self.promises(state, node)
    }

    /// What must hold between the two.
    fn promises(&self, state: &State, node: u8) -> Result<(), String> {
        let here = self.history(state, node);
        let other = 1 - node as usize;
        let theirs = state.nodes[other];
        let other_was_up = state.was_up[other] || self.histories.of(theirs).was_up;
        // Who is dialled hears of it once the dialler has the answer and says so.
        if here.out.up_accepted && !other_was_up {
            return Err(format!("node {node}: event before confirmation: connected before the dialler was"));
        }
        let heard = |message| {
            state.heard[other].binary_search(message).is_ok() || self.histories.heard(theirs, *message)
        };
        match here.out.flushed.iter().find(|message| !heard(message)) {
            Some(message) => Err(format!("node {node}: message {message:x} counts as delivered and is not")),
            None => Ok(()),
        }
    }

    /// What comes before the search: no faults, everything in order.
    fn first(&mut self) -> Result<State, Box<Found>> {
        let mut state = State {
            nodes: [0; 2],
            flying: [Vec::new(), Vec::new()],
            losses: 0,
            duplicates: 0,
            reorders: 0,
            crashes: 0,
            timers: [0; 2],
            heard: [Vec::new(), Vec::new()],
            was_up: [false; 2],
        };
        for node in 0..2_u8 {
            let history = self.histories.start(u32::from(node), 1);
            state.nodes[node as usize] = history;
            state.flying[1 - node as usize].extend(&self.histories.of(history).sent);
        }
        let outcome = match self.histories.cast.scenario.first {
            First::Nothing => Ok(()),
            First::Connected => self.connect(&mut state),
            First::Renewing => self.connect(&mut state).and_then(|()| self.wait_for_work(&mut state)),
            First::Dead => self.connect(&mut state).and_then(|()| self.wait_for_work(&mut state)),
        };
        outcome.map_err(|what| self.found(format!("before the search: {what}"), 0, None))?;
        Ok(state)
    }

    /// Everything arrives in order until the first message counts as delivered and nothing is on its way.
    fn connect(&mut self, state: &mut State) -> Result<(), String> {
        let mut flushed = false;
        for _ in 0..1_000 {
            let jobs = (0..2).find(|node| self.jobs(state, *node) > 0);
            let (node, input) = if let Some(node) = jobs {
                (node, Input::Job)
            } else if let Some(to) = (0..2).find(|to| !state.flying[*to as usize].is_empty()) {
                (to, Input::Arrives(state.flying[to as usize].remove(0)))
            } else if flushed {
                return Ok(());
            } else {
                let quick =
                    |node: &u8| self.history(state, *node).out.timer.is_some_and(|r| QUICK.contains(&r));
                (((0..2).find(quick)).ok_or("nothing happens any more")?, Input::Timer)
            };
            self.step(state, node, Some(input))?;
            flushed |= !self.history(state, node).out.flushed.is_empty();
        }
        Err("they do not connect".into())
    }

    /// Node 0 says and hears nothing more until there is work for a dial: it renews keys, or resumes.
    fn wait_for_work(&mut self, state: &mut State) -> Result<(), String> {
        for _ in 0..1_000 {
            self.step(state, 0, Some(Input::Timer))?;
            // What it said before is lost; the first work is that of the dial.
            state.flying[1].clear();
            if self.jobs(state, 0) > 0 {
                return Ok(());
            }
        }
        Err("it does not dial".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaving out what was there with fewer faults leaves out no place and no list of a node.
    #[test]
    fn the_same_places_are_seen_with_and_without_states_of_more_faults() {
        let small = Limits { losses: 1, duplicates: 1, reorders: 0, crashes: 1, timers: 0, states: 100_000 };
        for (name, limits) in [
            ("handshake", Limits { losses: 2, ..small }),
            ("handshake", Limits { reorders: 1, timers: 1, crashes: 0, ..small }),
            ("resume", small),
            ("renewal", Limits { losses: 2, ..small }),
            ("crossing", Limits { crashes: 0, ..small }),
        ] {
            let look = |whole| {
                let mut search = Search::new(named(name).expect("a scenario"), limits);
                search.whole = whole;
                let report = search.run(&mut |_| {}).unwrap_or_else(|found| panic!("{found}"));
                assert!(report.complete, "{report:?}");
                (report, search.places)
            };
            let (quick, places) = look(false);
            let (whole, all_places) = look(true);
            println!("{name}: {} of {} states", quick.states, whole.states);
            assert!(places == all_places && quick.locals == whole.locals, "{name}: {quick:?} {whole:?}");
            assert!(quick.states < whole.states, "{name}: {quick:?} {whole:?}");
        }
    }
}
