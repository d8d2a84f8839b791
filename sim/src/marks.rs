//! What a suite must have seen: marks that tests and applications set when something rare happens,
//! and how often each kind of fault met each state of the protocol.
//!
//! A test that never reaches what it is about proves nothing. [`sometimes!`](crate::sometimes) counts;
//! [`Sim::require`](crate::Sim::require) fails the suite if a mark was never reached over all its seeds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::plan::Kind;

/// Where an association was when a fault began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The node did not run.
    Down,
    /// It had no association, and asked for none.
    Alone,
    /// It was dialling.
    Dialling,
    /// Associated, nothing in flight.
    Quiet,
    /// Associated, data in flight.
    Busy,
    /// Associated, nothing in flight, under keys that were renewed.
    Renewed,
    /// The fault concerns many nodes, or tasks on a machine.
    Many,
}

impl State {
    const ALL: [Self; 7] =
        [Self::Down, Self::Alone, Self::Dialling, Self::Quiet, Self::Busy, Self::Renewed, Self::Many];

    const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Alone => "alone",
            Self::Dialling => "dialling",
            Self::Quiet => "quiet",
            Self::Busy => "busy",
            Self::Renewed => "renewed",
            Self::Many => "many",
        }
    }
}

/// Counts over all runs since they were last taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// By name: how often reached, how often looked at.
    pub marks: BTreeMap<String, (u64, u64)>,
    /// Faults begun, by kind and state.
    pub faults: BTreeMap<(Kind, State), u64>,
    required: Vec<&'static str>,
}

thread_local! {
    static HERE: RefCell<Marks> = RefCell::default();
}

/// Counts a mark. [`sometimes!`](crate::sometimes) is the usual way.
pub fn note(name: &str, reached: bool) {
    HERE.with_borrow_mut(|m| {
        if !m.marks.contains_key(name) {
            m.marks.insert(name.to_owned(), (0, 0));
        }
        if let Some((hits, looks)) = m.marks.get_mut(name) {
            *hits += u64::from(reached);
            *looks += 1;
        }
    });
}

pub(crate) fn fault(kind: Kind, state: State) {
    HERE.with_borrow_mut(|m| *m.faults.entry((kind, state)).or_default() += 1);
}

pub(crate) fn require(names: &[&'static str]) {
    HERE.with_borrow_mut(|m| {
        for name in names {
            if !m.required.contains(name) {
                m.required.push(name);
            }
        }
    });
}

/// The counts of this thread so far.
pub fn so_far() -> Marks {
    HERE.with_borrow(Clone::clone)
}

/// Sets the counts of this thread back.
pub(crate) fn put(marks: Marks) {
    HERE.set(marks);
}

/// Takes the counts of this thread, which begin again at zero.
pub fn take() -> Marks {
    HERE.take()
}

impl Marks {
    /// Required marks that were never reached.
    pub fn missing(&self) -> Vec<&'static str> {
        let reached = |name: &&'static str| self.marks.get(*name).is_some_and(|(hits, _)| *hits > 0);
        self.required.iter().copied().filter(|name| !reached(name)).collect()
    }

    /// Both tables as text.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| {
            let _ = writeln!(out, "{args}");
        };
        if !self.faults.is_empty() {
            let head: String = State::ALL.iter().map(|s| format!("{:>10}", s.name())).collect();
            line(format_args!("{:<12}{head}", "fault"));
            for kind in crate::plan::Kind::ALL.concat() {
                let cells = State::ALL.map(|s| self.faults.get(&(kind, s)).copied().unwrap_or(0));
                if cells.iter().any(|n| *n > 0) {
                    let row: String = cells.iter().map(|n| format!("{n:>10}")).collect();
                    line(format_args!("{:<12}{row}", kind.name()));
                }
            }
        }
        if !self.marks.is_empty() || !self.required.is_empty() {
            line(format_args!("{:<40}{:>10}{:>10}", "mark", "reached", "looked"));
            for (name, (hits, looks)) in &self.marks {
                line(format_args!("{name:<40}{hits:>10}{looks:>10}"));
            }
            for name in self.missing() {
                line(format_args!("{name:<40}{:>10}  required", 0));
            }
        }
        out
    }
}

/// Counts that something rare was reached: `sometimes!("a stream was reset while blocked", n > 0)`.
#[macro_export]
macro_rules! sometimes {
    ($name:expr) => {
        $crate::marks::note($name, true)
    };
    ($name:expr, $reached:expr) => {
        $crate::marks::note($name, $reached)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_count_and_what_is_required_is_missed() {
        take();
        sometimes!("a", false);
        sometimes!("a", true);
        sometimes!("b", false);
        require(&["a", "b", "c"]);
        fault(Kind::Cut, State::Busy);
        let marks = take();
        assert_eq!(marks.marks["a"], (1, 2));
        assert_eq!(marks.missing(), ["b", "c"]);
        let table = marks.table();
        assert!(table.contains("cut") && table.contains("required"), "{table}");
        assert_eq!(take(), Marks::default());
    }
}
