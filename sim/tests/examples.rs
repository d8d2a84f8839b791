//! Two applications under test, as users would write them, each with a bug on purpose that its test finds.

#[path = "examples/auction.rs"]
mod auction;
#[path = "examples/counter.rs"]
mod counter;

use std::panic::catch_unwind;
use std::time::Duration;

use auction::Auction;
use counter::Counter;
use net_proto::lane::{Gone, Job, JobDone};
use net_proto::stream::charge;
use net_proto::time::Instant;
use net_sim::checkers::{Broken, Checker, Seen, Wants};
use net_sim::keyed::{Domain, Rng};
use net_sim::plan::Kind;
use net_sim::planenet::{Config, PlaneNet};
use net_sim::{Failure, Sim, Topology, check, ensure};

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// The test of the counter: under faults, then healed, everybody counts the same.
fn counters_agree(s: Sim, once: bool) -> Result<(), Failure> {
    let mut fleet = s.fleet(Topology::Line(3));
    fleet.spawn_all(move |seat| {
        let counter = Counter::new(once);
        (counter.clone(), counter.run(seat.mesh_builder(), seat.neighbours()))
    });
    fleet.faults([Kind::NET, Kind::CRASH]);
    fleet.run_for(secs(10))?;
    fleet.heal();
    fleet.run_for(secs(8))?;
    fleet.eventually(secs(60), "equal totals", |v| v.all_equal(Counter::total))
}

#[test]
fn counter() {
    check("counter", 6, |s| counters_agree(s, false));
}

/// Room for two bids under way: whoever bids more waits.
const TWO_BIDS: u64 = 2 * charge(8);

/// The test of the auction: bids, links that go down and up again, and in the end everybody knows the best.
fn bidders_agree(s: Sim, forgets: bool) -> Result<(), Failure> {
    let planes = (0..4).map(|_| Auction::new(forgets)).collect();
    let run: fn(Job) -> JobDone = Job::run;
    let mut net = PlaneNet::new(s.seed(), Config { credit: TWO_BIDS, ..Config::new(run) }, planes);
    let mut rng = Rng::new(s.seed(), Domain::Plan, 1);
    for step in 1..=200 {
        let n = rng.below(3) as usize;
        match rng.below(4) {
            0 => net.up(n, n + 1),
            1 => net.down(n, n + 1, Gone::Unreachable),
            _ => net.command(n, step * 100),
        }
        net.run(Instant::from_nanos(step * 2_000_000));
    }
    (0..3).for_each(|n| net.up(n, n + 1));
    net.run(Instant::from_nanos(secs(60).as_nanos() as u64));
    let best: Vec<u64> = (0..4).map(|n| net.plane(n).best).collect();
    ensure(&s.world(), best.iter().all(|b| *b == best[0]), || format!("best bids {best:?}"))
}

#[test]
fn auction() {
    check("auction", 200, |s| bidders_agree(s, false));
}

/// Both tests find the bug that is there for them.
#[test]
fn each_test_finds_its_bug() {
    let find = |name: &str, test: fn(Sim, bool) -> Result<(), Failure>| {
        let found = (0..100).find(|seed| test(Sim::new(*seed), true).is_err());
        println!("{name}: found by seed {found:?}");
        assert!(found.is_some(), "{name}: its bug is not found in 100 seeds");
    };
    find("counter", counters_agree);
    find("auction", bidders_agree);
}

/// A task that reads the machine's clock lives two different lives, and that is told.
#[test]
fn real_time_in_a_task_fails_the_run_and_names_the_machine() {
    let outcome = catch_unwind(|| {
        check("real_time", 1, |s| {
            let mut fleet = s.fleet(Topology::Line(2));
            fleet.spawn_all(|seat| {
                let node = seat.node();
                let task = async move {
                    // What nobody should do in a task: the low bits are never the same.
                    #[allow(clippy::disallowed_methods)]
                    let real = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                    let nanos = if node == 1 { real.unwrap().as_nanos() as u64 % 1_000_003 } else { 7 };
                    net_sdk::rt::sleep(Duration::from_nanos(nanos)).await;
                };
                ((), task)
            });
            fleet.run_for(secs(1))
        });
    });
    let panic = outcome.expect_err("it is told");
    let text = panic.downcast_ref::<String>().expect("words");
    assert!(text.contains("NOT DETERMINISTIC") && text.contains("machine 1"), "{text}");
}

/// A call that blocks its thread would stop everybody: it is refused by name, and so is its task.
#[test]
fn a_blocking_call_fails_the_run_and_names_the_task() {
    let outcome = catch_unwind(|| {
        check("blocking", 1, |s| {
            let mut fleet = s.fleet(Topology::Line(2));
            fleet.spawn_all(|seat| {
                let node = seat.node();
                let task = async move {
                    if node == 1 {
                        net_sdk::rt::current().unwrap().may_block("read_blocking");
                    }
                };
                ((), task)
            });
            fleet.run_for(secs(1))
        });
    });
    let panic = outcome.expect_err("it is refused");
    let text = panic.downcast_ref::<String>().expect("words");
    assert!(text.contains("`application` of machine 1") && text.contains("`read_blocking`"), "{text}");
}

/// A checker of one's own: at most one leads at a time.
#[derive(Default)]
struct OneLeads(Option<u32>);

impl Checker for OneLeads {
    fn name(&self) -> &'static str {
        "one leads"
    }

    fn wants(&self) -> Wants {
        Wants::NOTES
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>) -> Result<(), Broken> {
        match seen {
            Seen::Note { node, what: "leads", value } if self.0.is_some() => {
                Err(Broken::at(*node, format!("a second leader, of term {value}")))
            }
            Seen::Note { node, what: "leads", .. } => {
                self.0 = Some(*node);
                Ok(())
            }
            Seen::Note { what: "rests", .. } => {
                self.0 = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Machines lead in turn, for a second each; `patient` ones wait until the one before rests.
fn in_turn(s: Sim, patient: bool) -> Result<(), Failure> {
    let mut fleet = s.fleet(Topology::Line(3));
    fleet.world().check(OneLeads::default());
    fleet.spawn_all(move |seat| {
        let seat = seat.clone();
        let task = async move {
            let turn = if patient { Duration::from_millis(1_001) } else { Duration::from_millis(999) };
            net_sdk::rt::sleep(turn * seat.node()).await;
            seat.note("leads", u64::from(seat.node()));
            net_sdk::rt::sleep(secs(1)).await;
            seat.note("rests", u64::from(seat.node()));
        };
        ((), task)
    });
    fleet.run_for(secs(5))
}

#[test]
fn a_checker_of_ones_own_hears_what_asynchronous_applications_note() {
    assert_eq!(in_turn(Sim::new(1), true), Ok(()));
    let failure = in_turn(Sim::new(1), false).unwrap_err();
    assert_eq!((failure.node, failure.at), (Some(1), Duration::from_millis(999)));
    assert_eq!(failure.what, "one leads: a second leader, of term 1");
}
