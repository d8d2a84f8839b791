//! Histories of operations, and whether a model allows them.
//!
//! [`Log::check`] takes linear time and fits logs, whose order is known from the offsets. A search
//! ([`linearizable`]) fits anything with a sequential model, for small histories: it tries orders that
//! respect real time (Wing and Gong, 1993) and remembers the (done, state) pairs that led nowhere
//! (Lowe, 2017).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use net_proto::time::Duration;

/// Most operations that the search takes: one bit each.
pub const MOST: usize = 128;

/// One operation of a client, from call to return.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op<I, O> {
    /// Who called.
    pub client: u32,
    /// When it was called.
    pub call: Duration,
    /// When it returned; `None`: it never did, and may have happened or not.
    pub ret: Option<Duration>,
    /// What was asked.
    pub input: I,
    /// What was answered; without an answer nothing is known.
    pub output: Option<O>,
}

/// A history that grows while a run goes on.
#[derive(Clone, Debug)]
pub struct History<I, O> {
    /// The operations, in order of their calls.
    pub ops: Vec<Op<I, O>>,
}

impl<I, O> Default for History<I, O> {
    fn default() -> Self {
        Self { ops: Vec::new() }
    }
}

impl<I, O> History<I, O> {
    /// An operation begins; the number is for [`History::done`].
    pub fn call(&mut self, client: u32, at: Duration, input: I) -> usize {
        self.ops.push(Op { client, call: at, ret: None, input, output: None });
        self.ops.len() - 1
    }

    /// It is answered.
    pub fn done(&mut self, op: usize, at: Duration, output: O) {
        if let Some(op) = self.ops.get_mut(op) {
            (op.ret, op.output) = (Some(at), Some(output));
        }
    }
}

/// What a thing does when operations come one after the other.
pub trait Model {
    /// What it is now.
    type State: Clone + Ord + Debug;
    /// What can be asked.
    type Input: Debug;
    /// What can be answered.
    type Output: Debug + PartialEq;
    /// What it is at first.
    fn start(&self) -> Self::State;
    /// One operation: the next state and the answer.
    fn step(&self, state: &Self::State, input: &Self::Input) -> (Self::State, Self::Output);
}

/// Why a history is not linearizable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotLinear {
    /// No order of the operations explains all answers.
    #[error(
        "no order explains the answers; the longest attempt has {longest} of {all} operations, then: {stuck}"
    )]
    NoOrder {
        /// Operations in the longest order that works.
        longest: usize,
        /// All operations that returned.
        all: usize,
        /// Those that could have come next.
        stuck: String,
    },
    /// More operations than the search takes.
    #[error("{0} operations, at most {MOST} can be searched")]
    TooLong(usize),
}

/// Searches an order of the operations that respects real time and explains every answer. Returns it.
pub fn linearizable<M: Model>(model: &M, ops: &[Op<M::Input, M::Output>]) -> Result<Vec<usize>, NotLinear> {
    if ops.len() > MOST {
        return Err(NotLinear::TooLong(ops.len()));
    }
    let must: u128 = ops.iter().enumerate().filter(|(_, o)| o.ret.is_some()).map(|(i, _)| 1 << i).sum();
    let mut dead: BTreeSet<(u128, M::State)> = BTreeSet::new();
    let mut order: Vec<usize> = Vec::new();
    let mut states = vec![model.start()];
    let mut done: u128 = 0;
    let mut longest: (usize, Vec<usize>) = (0, Vec::new());
    // What was tried last at each depth.
    let mut next = vec![0];
    loop {
        if done & must == must {
            return Ok(order);
        }
        let state = states.last().expect("a state for each depth").clone();
        // An operation may come next if no other open one returned before it was called.
        let first_return = (0..ops.len()).filter(|i| done >> i & 1 == 0).filter_map(|i| ops[i].ret).min();
        let may = |i: usize| done >> i & 1 == 0 && first_return.is_none_or(|ret| ops[i].call <= ret);
        let from = *next.last().expect("a place for each depth");
        let found = (from..ops.len()).filter(|i| may(*i)).find_map(|i| {
            let (state, output) = model.step(&state, &ops[i].input);
            let fits = ops[i].output.as_ref().is_none_or(|o| *o == output);
            (fits && !dead.contains(&(done | 1 << i, state.clone()))).then_some((i, state))
        });
        if order.len() >= longest.0 && from == 0 {
            longest = (order.len(), (0..ops.len()).filter(|i| may(*i)).collect());
        }
        if let Some((i, state)) = found {
            if let Some(tried) = next.last_mut() {
                *tried = i + 1;
            }
            done |= 1 << i;
            order.push(i);
            states.push(state);
            next.push(0);
            continue;
        }
        dead.insert((done, state));
        next.pop();
        states.pop();
        let Some(last) = order.pop() else {
            let show = |i: &usize| format!("{:?}", ops[*i]);
            let stuck = longest.1.iter().map(show).collect::<Vec<_>>().join("; ");
            return Err(NotLinear::NoOrder { longest: longest.0, all: must.count_ones() as usize, stuck });
        };
        done &= !(1 << last);
    }
}

/// A register: reads answer what was written last. Operations: `Some(v)` writes, `None` reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Register;

impl Model for Register {
    type State = u64;
    type Input = Option<u64>;
    type Output = u64;
    fn start(&self) -> u64 {
        0
    }
    fn step(&self, state: &u64, input: &Option<u64>) -> (u64, u64) {
        let value = input.unwrap_or(*state);
        (value, value)
    }
}

/// What can be asked of a [`LogModel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOp {
    /// Appends a value; the answer is its offset.
    Append(u64),
    /// Reads at an offset; the answer is the value, or `u64::MAX` beyond the end.
    Read(u64),
}

/// A log: appends answer offsets, reads answer values.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogModel;

impl Model for LogModel {
    type State = Vec<u64>;
    type Input = LogOp;
    type Output = u64;
    fn start(&self) -> Vec<u64> {
        Vec::new()
    }
    fn step(&self, state: &Vec<u64>, input: &LogOp) -> (Vec<u64>, u64) {
        match input {
            LogOp::Append(value) => {
                let mut next = state.clone();
                next.push(*value);
                (next, state.len() as u64)
            }
            LogOp::Read(at) => (state.clone(), state.get(*at as usize).copied().unwrap_or(u64::MAX)),
        }
    }
}

/// What is known of a replicated log: acknowledged appends, and what each replica holds.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Appends that were acknowledged: value, offset, call, return.
    pub acked: Vec<(u64, u64, Duration, Duration)>,
    /// Appends that were called; the value may appear though nobody acknowledged it.
    pub called: BTreeSet<u64>,
    /// What each replica holds at the end.
    pub replicas: BTreeMap<u32, Vec<u64>>,
}

impl Log {
    /// In linear time (up to sorting): replicas are prefixes of the longest; every acknowledged value
    /// stands once, at its offset, in every replica that is long enough and in the longest; nothing
    /// stands that nobody appended; and of two appends the one that returned before the other was
    /// called has the lower offset.
    pub fn check(&self) -> Result<(), String> {
        let Some((who, longest)) = self.replicas.iter().max_by_key(|(node, log)| (log.len(), **node)) else {
            return if self.acked.is_empty() {
                Ok(())
            } else {
                Err("no replica holds what was acknowledged".into())
            };
        };
        for (node, log) in &self.replicas {
            if let Some(at) = log.iter().zip(longest).position(|(a, b)| a != b) {
                return Err(format!(
                    "replicas {node} and {who} part at offset {at}: {} and {}",
                    log[at], longest[at]
                ));
            }
        }
        let mut at = BTreeMap::new();
        for (offset, value) in longest.iter().enumerate() {
            if let Some(before) = at.insert(*value, offset) {
                return Err(format!("{value} stands at {before} and at {offset}"));
            }
            if !self.called.is_empty() && !self.called.contains(value) {
                return Err(format!("{value} at {offset} was never appended"));
            }
        }
        for (value, offset, ..) in &self.acked {
            match at.get(value) {
                None => return Err(format!("{value} was acknowledged at {offset} and is lost")),
                Some(found) if *found as u64 != *offset => {
                    return Err(format!("{value} was acknowledged at {offset} and stands at {found}"));
                }
                Some(_) => {}
            }
        }
        // By offset: the latest call so far may not lie after a later offset's return.
        let mut by_offset = self.acked.clone();
        by_offset.sort_by_key(|(_, offset, ..)| *offset);
        let mut latest: Option<(u64, Duration)> = None;
        for (value, _, call, ret) in by_offset {
            if let Some((before, called)) = latest
                && ret < called
            {
                return Err(format!("{value} returned before {before} was called, and stands after it"));
            }
            if latest.is_none_or(|(_, called)| call > called) {
                latest = Some((value, call));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyed::{Domain, Rng};

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn op<I, O>(call: u64, ret: u64, input: I, output: O) -> Op<I, O> {
        Op { client: 0, call: ms(call), ret: Some(ms(ret)), input, output: Some(output) }
    }

    #[test]
    fn a_register_that_works_is_found_linear() {
        // The read overlaps the write: old and new value are both fine.
        for read in [0, 1] {
            let ops = [op(0, 10, Some(1), 1), op(5, 6, None, read), op(11, 12, None, 1)];
            assert!(linearizable(&Register, &ops).is_ok(), "{read}");
        }
    }

    #[test]
    fn a_stale_read_is_found() {
        let ops = [op(0, 10, Some(1), 1), op(11, 12, None, 0)];
        let error = linearizable(&Register, &ops).unwrap_err();
        assert!(matches!(error, NotLinear::NoOrder { longest: 1, all: 2, .. }), "{error}");
        // New, then old again: each read alone would be fine.
        let ops = [op(0, 20, Some(1), 1), op(1, 2, None, 1), op(3, 4, None, 0)];
        assert!(linearizable(&Register, &ops).is_err());
    }

    #[test]
    fn an_operation_without_an_answer_may_have_happened_or_not() {
        let lost = |read| {
            let mut ops = vec![op(5, 6, None, read)];
            ops.push(Op { client: 1, call: ms(0), ret: None, input: Some(7), output: None });
            linearizable(&Register, &ops)
        };
        assert!(lost(0).is_ok() && lost(7).is_ok() && lost(8).is_err());
    }

    /// Histories of a register that really was one, made from a random order.
    #[test]
    fn real_histories_pass_and_broken_ones_do_not() {
        let mut caught = 0;
        for seed in 0..300 {
            let mut rng = Rng::new(seed, Domain::Plan, 1);
            let mut value = 0;
            let mut ops: Vec<_> = (0..40)
                .map(|i| {
                    // The point at which it takes effect is i; call and return lie around it.
                    let input = rng.chance(500_000).then(|| rng.below(4));
                    value = input.unwrap_or(value);
                    let at = 100 + i * 10;
                    op(at - rng.below(60), at + rng.below(60), input, value)
                })
                .collect();
            assert!(linearizable(&Register, &ops).is_ok(), "seed {seed}");
            if let Some(read) = ops.iter_mut().rev().find(|o| o.input.is_none()) {
                read.output = Some(9);
                caught += u32::from(linearizable(&Register, &ops).is_err());
            }
        }
        assert_eq!(caught, 300);
    }

    #[test]
    fn logs_by_search() {
        let ops = [
            op(0, 10, LogOp::Append(5), 0),
            op(0, 10, LogOp::Append(6), 1),
            op(11, 12, LogOp::Read(0), 5),
            op(11, 12, LogOp::Read(7), u64::MAX),
        ];
        assert!(linearizable(&LogModel, &ops).is_ok());
        let ops = [op(0, 10, LogOp::Append(5), 0), op(0, 10, LogOp::Append(6), 0)];
        assert!(linearizable(&LogModel, &ops).is_err());
        assert_eq!(linearizable(&LogModel, &vec![ops[0].clone(); 129]), Err(NotLinear::TooLong(129)));
    }

    #[test]
    fn logs_in_linear_time() {
        let good = Log {
            acked: vec![(5, 0, ms(0), ms(10)), (6, 1, ms(5), ms(20)), (7, 2, ms(21), ms(30))],
            called: BTreeSet::from([5, 6, 7, 8]),
            replicas: BTreeMap::from([(0, vec![5, 6, 7]), (1, vec![5, 6]), (2, vec![])]),
        };
        assert_eq!(good.check(), Ok(()));
        let broken = |f: fn(&mut Log)| {
            let mut log = good.clone();
            f(&mut log);
            log.check().unwrap_err()
        };
        let part = |log: &mut Log| log.replicas.get_mut(&1).unwrap().push(8);
        assert!(broken(part).contains("part at offset 2"));
        assert!(broken(|l| l.replicas.get_mut(&0).unwrap().truncate(2)).contains("7 was acknowledged"));
        assert!(broken(|l| l.replicas.get_mut(&0).unwrap().push(5)).contains("stands at 0 and at 3"));
        assert!(broken(|l| l.replicas.get_mut(&0).unwrap().push(99)).contains("never appended"));
        assert!(broken(|l| l.acked[0].1 = 1).contains("stands at 0"));
        assert!(broken(|l| (l.acked[0].2, l.acked[1].3) = (ms(40), ms(20))).contains("returned before"));
    }
}
