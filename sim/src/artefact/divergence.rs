//! Where two runs that should be one part.
//!
//! The trace hash is a chain: once it differs it differs for ever. So the points of two runs are
//! bisected to the last common one, and the stretch after it is run again with a point at every event.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Entry, Point, Record};

/// Two runs part here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The last event after which both had the same hash; zero if none.
    pub same_until: u64,
    /// The first event after which they differ, if it was found.
    pub event: u64,
    /// When that was, in nanoseconds of world time, in both.
    pub at: (u64, u64),
    /// What happened in it in the first run.
    pub first: Vec<Entry>,
    /// And in the second.
    pub second: Vec<Entry>,
}

/// The stretch of events in which two lists of points part; `None` if they agree.
pub fn stretch(a: &[Point], b: &[Point]) -> Option<std::ops::Range<u64>> {
    let common = a.len().min(b.len());
    // All points up to the first different one are equal, and none after it.
    let same = partition(common, |i| a[i] == b[i]);
    let before = if same == 0 { 0 } else { a[same - 1].event };
    if same < common {
        return Some(before + 1..a[same].event.max(b[same].event) + 1);
    }
    // One run is longer: they part after the last common point.
    (a.len() != b.len()).then(|| before + 1..u64::MAX - 1)
}

fn partition(len: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low.midpoint(high);
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Finds the first event in which two runs differ. Each function runs one of them from the beginning
/// and fills the record that it is given (see [`recorded`](crate::check::recorded)).
pub fn first(one: impl Fn(Rc<RefCell<Record>>), other: impl Fn(Rc<RefCell<Record>>)) -> Option<Divergence> {
    let run = |f: &dyn Fn(Rc<RefCell<Record>>), record: Record| {
        let shared = Rc::new(RefCell::new(record));
        f(shared.clone());
        shared.take()
    };
    // Coarse points, then every event of the stretch.
    let coarse = |f: &dyn Fn(Rc<RefCell<Record>>)| run(f, Record { every: 256, ..Record::points_only() });
    let (a, b) = (coarse(&one), coarse(&other));
    let window = match stretch(&a.points, &b.points) {
        Some(window) => window,
        // The same at every point: at most the rest after the last one differs.
        None => a.points.last().map_or(1, |p| p.event + 1)..u64::MAX - 1,
    };
    let fine = |f: &dyn Fn(Rc<RefCell<Record>>)| run(f, Record::of_window(window.clone()));
    let (a, b) = (fine(&one), fine(&other));
    let inside = |r: &Record| -> Vec<Point> {
        r.points.iter().filter(|p| window.contains(&p.event)).copied().collect()
    };
    let (pa, pb) = (inside(&a), inside(&b));
    let same = partition(pa.len().min(pb.len()), |i| pa[i] == pb[i]);
    if same == pa.len() && same == pb.len() {
        return None;
    }
    let event = pa.get(same).or(pb.get(same)).map_or(0, |p| p.event);
    let of = |r: &Record| r.entries.iter().filter(|e| e.event + 1 == event).cloned().collect();
    let at = (pa.get(same).map_or(0, |p| p.at), pb.get(same).map_or(0, |p| p.at));
    Some(Divergence { same_until: event - 1, event, at, first: of(&a), second: of(&b) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(hashes: &[u64]) -> Vec<Point> {
        hashes
            .iter()
            .enumerate()
            .map(|(i, h)| Point { event: (i as u64 + 1) * 10, at: 0, hash: *h })
            .collect()
    }

    #[test]
    fn the_stretch_begins_after_the_last_common_point() {
        let same = points(&[1, 2, 3, 4]);
        assert_eq!(stretch(&same, &same), None);
        assert_eq!(stretch(&same, &points(&[1, 2, 9, 8])), Some(21..31));
        assert_eq!(stretch(&same, &points(&[7, 8, 9, 8])), Some(1..11));
        assert_eq!(stretch(&same, &points(&[1, 2])), Some(21..u64::MAX - 1));
    }
}
