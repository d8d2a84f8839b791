//! Making a failing plan small: fewer faults (delta debugging), then fewer nodes, then less time.
//!
//! Every step runs the smaller plan and keeps it only if it fails in the same way. Keyed randomness
//! makes that work: leaving a fault out leaves the other decisions alone.

use net_proto::time::{Duration, nanos};

use crate::plan::{Fault, Plan};
use crate::world::Failure;

/// A plan that became smaller.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest plan that was found.
    pub plan: Plan,
    /// How it fails.
    pub failure: Failure,
    /// Runs that it took.
    pub runs: u32,
}

/// Two failures are of one class if their words agree; numbers may differ.
pub fn class(what: &str) -> String {
    let mut out = String::new();
    let mut number = false;
    for c in what.chars() {
        if c.is_ascii_digit() {
            if !number {
                out.push('#');
            }
            number = true;
        } else {
            // Fractions are one number too.
            if !(number && c == '.') {
                out.push(c);
                number = false;
            }
        }
    }
    out
}

/// Into so many groups nodes are divided at first.
const COARSE: usize = 8;

struct Search<F> {
    run: F,
    class: String,
    runs: u32,
    most: u32,
    failure: Failure,
}

impl<F: FnMut(&Plan) -> Option<Failure>> Search<F> {
    fn fails(&mut self, plan: &Plan) -> bool {
        if self.runs >= self.most {
            return false;
        }
        self.runs += 1;
        match (self.run)(plan) {
            Some(failure) if class(&failure.what) == self.class => {
                self.failure = failure;
                true
            }
            _ => false,
        }
    }

    /// Delta debugging (Zeller and Hildebrandt, 2002): a list from which nothing can be left out.
    /// In no more than `finest` parts, that is in all but the smallest of groups.
    fn ddmin<T: Clone>(&mut self, mut items: Vec<T>, finest: usize, of: impl Fn(&[T]) -> Plan) -> Vec<T> {
        if items.is_empty() || self.fails(&of(&[])) {
            return Vec::new();
        }
        let mut parts = 2;
        while items.len() > 1 {
            let size = items.len().div_ceil(parts);
            let mut smaller = None;
            for from in (0..items.len()).step_by(size) {
                let to = (from + size).min(items.len());
                // With two parts one is the rest of the other.
                let alone = parts == 2;
                let kept =
                    if alone { items[from..to].to_vec() } else { [&items[..from], &items[to..]].concat() };
                if kept.len() < items.len() && self.fails(&of(&kept)) {
                    smaller = Some((kept, if alone { 2 } else { (parts - 1).max(2) }));
                    break;
                }
            }
            match smaller {
                Some((kept, next)) => {
                    parts = next.min(kept.len().max(2));
                    items = kept;
                }
                None if parts >= items.len().min(finest) => break,
                None => parts = (parts * 2).min(items.len()),
            }
        }
        items
    }

    /// Whether it is the faults that make a plan fail.
    fn blames_faults(&mut self, plan: &Plan) -> bool {
        let failure = self.failure.clone();
        let fails = self.fails(&plan.with_faults(Vec::new()));
        self.failure = failure;
        !fails
    }
}

/// A plan with some of its nodes, in rising order; they get the lowest numbers.
fn only(plan: &Plan, kept: &[u32]) -> Plan {
    plan.renumbered(kept.len() as u32, &|n| kept.binary_search(&n).ok().map(|i| i as u32))
}

/// Shrinks a plan that fails. `run` says how a plan fails, `most` how often it may be called. `None`:
/// the plan does not fail.
pub fn shrink(plan: &Plan, most: u32, mut run: impl FnMut(&Plan) -> Option<Failure>) -> Option<Shrunk> {
    let failure = run(plan)?;
    let class = class(&failure.what);
    let mut search = Search { run, class, runs: 1, most, failure };
    let mut plan = plan.clone();

    // What comes after the failure is not needed, and shorter runs make every later step cheaper.
    let until = Duration::from_millis(nanos(search.failure.at).div_ceil(1_000_000) + 1);
    if until < plan.time {
        let shorter = plan.shortened(until);
        if search.fails(&shorter) {
            plan = shorter;
        }
    }

    // Whole nodes, in large groups: with each go all faults that name it, and in a smaller world every later step
    // is cheaper.
    let all: Vec<u32> = (0..plan.nodes).collect();
    let kept = search.ddmin(all, COARSE, |kept: &[u32]| only(&plan, kept));
    let fewer = only(&plan, &kept);
    if search.blames_faults(&fewer) {
        plan = fewer;
    }

    let whole = plan.clone();
    let faults =
        search.ddmin(plan.faults.clone(), usize::MAX, |faults: &[Fault]| whole.with_faults(faults.to_vec()));
    plan = whole.with_faults(faults);

    // Nodes that no fault names.
    let named = plan.named_nodes();
    let others: Vec<u32> = (0..plan.nodes).filter(|n| !named.contains(n)).collect();
    let with = |others: &[u32]| {
        let mut kept: Vec<u32> = named.iter().chain(others).copied().collect();
        kept.sort_unstable();
        only(&plan, &kept)
    };
    let others = search.ddmin(others, usize::MAX, with);
    let fewer = with(&others);
    if fewer.nodes < plan.nodes && (fewer.faults.is_empty() || search.blames_faults(&fewer)) {
        plan = fewer;
    }

    // The shortest time, to about one part in 64.
    let (mut low, mut high) = (0, nanos(plan.time) / 1_000_000);
    while high - low > (high / 64).max(1) {
        let middle = low.midpoint(high);
        let shorter = plan.shortened(Duration::from_millis(middle));
        if search.fails(&shorter) {
            (plan, high) = (shorter, middle);
        } else {
            low = middle;
        }
    }
    Some(Shrunk { plan, failure: search.failure, runs: search.runs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{LinkFault, What};

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn crowd(faults: u32) -> Plan {
        let mut plan = Plan::quiet("x", 1, 50, ms(60_000));
        for i in 0..faults {
            let what = match i {
                // Fails only together, in any place of the list.
                133 => What::link(4, 7, LinkFault::Cut),
                391 => What::Crash(12),
                _ => What::link(i % 50, (i + 1) % 50, LinkFault::Lose(10_000)),
            };
            plan = plan.with(Fault::new(ms(u64::from(i) * 100), ms(300), what));
        }
        plan
    }

    /// Fails at the end of the later of the two faults, whatever the nodes are called.
    fn run(plan: &Plan) -> Option<Failure> {
        let cut = plan.faults.iter().find(|f| matches!(&f.what, What::Link { does: LinkFault::Cut, .. }))?;
        let crash = plan.faults.iter().find(|f| matches!(f.what, What::Crash(_)))?;
        let at = cut.at.max(crash.at) + ms(250);
        let what = format!("lost {} messages", plan.faults.len());
        (at <= plan.time).then_some(Failure { at, node: None, what })
    }

    #[test]
    fn five_hundred_faults_become_two() {
        let shrunk = shrink(&crowd(500), 1_000, run).unwrap();
        assert_eq!(shrunk.plan.faults.len(), 2, "{}", shrunk.plan);
        assert_eq!(shrunk.plan.nodes, 3, "{}", shrunk.plan);
        assert!(shrunk.plan.time < ms(41_000), "{}", shrunk.plan);
        assert!(shrunk.runs < 150, "{} runs", shrunk.runs);
    }

    #[test]
    fn nothing_is_left_where_no_fault_is_needed() {
        let always = |_: &Plan| Some(Failure { at: ms(5), node: None, what: "always".into() });
        let shrunk = shrink(&crowd(100), 1_000, always).unwrap();
        assert_eq!((shrunk.plan.faults.len(), shrunk.plan.nodes), (0, 0));
        assert!(shrink(&crowd(100), 1_000, |_| None).is_none());
    }

    #[test]
    fn every_single_fault_that_is_left_is_needed() {
        for needed in [vec![0], vec![3, 99], vec![1, 50, 51, 98], (10..20).collect::<Vec<u32>>()] {
            let run = |plan: &Plan| {
                let has = |i: &u32| plan.faults.iter().any(|f| f.at == ms(u64::from(*i) * 100));
                needed.iter().all(has).then(|| Failure { at: ms(59_000), node: None, what: "x".into() })
            };
            let shrunk = shrink(&crowd(100), 2_000, run).unwrap();
            let left: Vec<u32> = shrunk.plan.faults.iter().map(|f| (f.at.as_millis() / 100) as u32).collect();
            assert_eq!(left, needed);
        }
    }

    /// With too few nodes a test may fail whatever the faults are: that explains nothing.
    #[test]
    fn nodes_without_which_nothing_works_stay() {
        let needs = |nodes: u32| {
            move |plan: &Plan| {
                let fails = plan.nodes < nodes || run(plan).is_some();
                fails.then(|| Failure { at: ms(59_000), node: None, what: "no agreement".into() })
            }
        };
        for nodes in [1, 4, 50] {
            let shrunk = shrink(&crowd(500), 1_000, needs(nodes)).unwrap();
            assert_eq!(shrunk.plan.faults.len(), 2, "{}", shrunk.plan);
            assert!(shrunk.plan.nodes >= nodes, "{}", shrunk.plan);
        }
    }

    #[test]
    fn numbers_do_not_make_another_class() {
        assert_eq!(class("flow 3: message 17 at 1.5s"), class("flow 12: message 9 at 31s"));
        assert_ne!(class("flow 3 lost"), class("flow 3 doubled"));
    }
}
