//! Running a test over many seeds; saying how to repeat the run that failed, making it small, and
//! leaving behind what explains it.
//!
//! | Variable | Meaning |
//! |---|---|
//! | `NET_SIM_SEED` | this seed only |
//! | `NET_SIM_RUNS` | so many seeds |
//! | `NET_SIM_BASE` | the first of them, otherwise 0; printed by every test, as seeds then differ from run to run |
//! | `NET_SIM_TIME` | how long the faults of a run go on ([`Sim::time`]), as `90s` |
//! | `NET_SIM_REPLAY` | the plan in this file, instead of one that the seed draws |
//! | `NET_SIM_SHRINK` | `1`: a failing plan is made small |
//! | `NET_SIM_DIR` | where failures are written; `target/net-sim` otherwise |
//! | `NET_SIM_TABLE` | `1`: print which faults met which states, and which marks were reached |

use std::any::Any;
use std::cell::RefCell;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use net_proto::time::Duration;

use crate::artefact::{Record, pcap, timeline};
use crate::fleet::Fleet;
use crate::marks;
use crate::plan::{self, Plan, Swarm};
use crate::shrink::{class, shrink};
use crate::topology::Topology;
use crate::world::{Failure, World, WorldConfig};

/// Runs that shrinking takes at most.
const SHRINK_RUNS: u32 = 2_000;

/// What a run is given, and what it tells.
#[derive(Default)]
struct Run {
    given: Option<Plan>,
    used: Option<Plan>,
    record: Option<Rc<RefCell<Record>>>,
    /// What happened in the worlds with tasks, if that is compared.
    lived: Option<Vec<Vec<u64>>>,
}

thread_local! {
    static RUN: RefCell<Run> = RefCell::default();
}

/// The record that the next world fills, if one is wanted. A test's last world is the one that counts.
pub(crate) fn record() -> Option<Rc<RefCell<Record>>> {
    let record = RUN.with_borrow(|run| run.record.clone())?;
    {
        let mut r = record.borrow_mut();
        let (every, window, most) = (r.every, r.window.clone(), r.most);
        *r = Record { every, window, most, ..Record::default() };
    }
    Some(record)
}

/// Runs `f`; the worlds that it makes fill `record`.
pub fn recorded<T>(record: Rc<RefCell<Record>>, f: impl FnOnce() -> T) -> T {
    RUN.with_borrow_mut(|run| run.record = Some(record));
    let out = catch_unwind(AssertUnwindSafe(f));
    RUN.with_borrow_mut(|run| run.record = None);
    out.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A world is over. Only those with tasks are compared: nothing else may read the machine.
pub(crate) fn lived(tasks: bool, chains: impl FnOnce() -> Vec<u64>) {
    if tasks {
        RUN.with_borrow_mut(|run| {
            if let Some(lived) = &mut run.lived {
                lived.push(chains());
            }
        });
    }
}

/// Runs `test` once more and says where it went another way than before.
fn twice(test: &impl Fn(Sim) -> Result<(), Failure>, seed: u64, first: &[Vec<u64>]) -> Option<Failure> {
    if first.is_empty() {
        return None;
    }
    let marks = marks::so_far();
    let (failure, second) = watched(test, seed);
    marks::put(marks);
    let parts = first.iter().zip(&second).find(|(a, b)| a != b);
    if failure.is_none() && parts.is_none() && first.len() == second.len() {
        return None;
    }
    let node = parts.and_then(|(a, b)| (0..a.len() - 1).find(|i| a.get(*i) != b.get(*i)));
    let place = node.map_or_else(|| "in its course".to_owned(), |node| format!("at machine {node}"));
    let what = format!(
        "NOT DETERMINISTIC: two runs of this seed differ {place}: a task there reads real time, real \
         randomness, or the order of a hash map"
    );
    Some(Failure { at: Duration::ZERO, node: node.map(|n| n as u32), what })
}

/// Runs `test` once, and keeps what its worlds with tasks did.
fn watched(test: &impl Fn(Sim) -> Result<(), Failure>, seed: u64) -> (Option<Failure>, Vec<Vec<u64>>) {
    RUN.with_borrow_mut(|run| run.lived = Some(Vec::new()));
    let failure = once(test, seed, None);
    (failure, RUN.with_borrow_mut(|run| run.lived.take()).unwrap_or_default())
}

/// One run of a test.
#[derive(Clone, Copy, Debug)]
pub struct Sim {
    seed: u64,
}

impl Sim {
    /// A run of a given seed, outside [`check`].
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed of this run.
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The usual configuration of a world of this seed.
    pub fn config(&self) -> WorldConfig {
        WorldConfig::new(self.seed)
    }

    /// An empty world of this seed.
    pub fn world(&self) -> World {
        World::new(self.config())
    }

    /// An asynchronous application on every machine of a topology.
    pub fn fleet<A: 'static>(&self, topology: Topology) -> Fleet<A> {
        Fleet::new(*self, topology, self.world())
    }

    /// The same with other settings of the world: links, ciphers.
    pub fn fleet_with<A: 'static>(&self, topology: Topology, config: WorldConfig) -> Fleet<A> {
        Fleet::new(*self, topology, World::new(config))
    }

    /// The faults of this run: those that the seed draws from `swarm`, or those that are replayed or
    /// tried while shrinking. A test that asks here, and makes as many nodes as the plan says, shrinks.
    pub fn plan(&self, swarm: &Swarm) -> Plan {
        self.plan_or(|| Plan::random(self.seed, swarm))
    }

    /// The same for a test that makes its plan itself.
    pub fn plan_or(&self, make: impl FnOnce() -> Plan) -> Plan {
        let plan = RUN.with_borrow(|run| run.given.clone()).unwrap_or_else(make);
        RUN.with_borrow_mut(|run| run.used = Some(plan.clone()));
        plan
    }

    /// How long the faults of a run go on: `NET_SIM_TIME`, or `default`.
    ///
    /// # Panics
    ///
    /// If `NET_SIM_TIME` is not a time.
    pub fn time(&self, default: Duration) -> Duration {
        let Ok(text) = std::env::var("NET_SIM_TIME") else { return default };
        plan::time(&text).unwrap_or_else(|error| panic!("NET_SIM_TIME: {error}"))
    }

    /// Each of these marks ([`sometimes!`](crate::sometimes)) must be reached in some run of the suite.
    pub fn require(&self, marks: &[&'static str]) {
        marks::require(marks);
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(n) => Some(n),
        Err(error) => panic!("{name}={text} is not a number: {error}"),
    }
}

/// How many seeds a test runs: `NET_SIM_RUNS`, or `default`.
pub fn runs(default: u64) -> u64 {
    variable("NET_SIM_RUNS").unwrap_or(default)
}

/// Runs `test` once; a panic is a failure too.
fn once(test: &impl Fn(Sim) -> Result<(), Failure>, seed: u64, given: Option<Plan>) -> Option<Failure> {
    RUN.with_borrow_mut(|run| (run.given, run.used) = (given, None));
    let outcome = catch_unwind(AssertUnwindSafe(|| test(Sim::new(seed))));
    RUN.with_borrow_mut(|run| run.given = None);
    match outcome {
        Ok(result) => result.err(),
        Err(panic) => {
            let what = format!("panicked: {}", words(panic.as_ref()));
            Some(Failure { at: Duration::ZERO, node: None, what })
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// Runs `test` once per seed (the first twice if it has tasks: both runs must be the same), `default_runs` seeds unless the environment says otherwise. A failure
/// or a panic prints one line that repeats it, leaves a folder that explains it, and fails the test.
///
/// # Panics
///
/// If a run fails, or a required mark was never reached.
pub fn check(name: &str, default_runs: u64, test: impl Fn(Sim) -> Result<(), Failure>) {
    marks::take();
    if let Ok(file) = std::env::var("NET_SIM_REPLAY") {
        let plan = Plan::load(&file).unwrap_or_else(|error| {
            let here = std::env::current_dir().unwrap_or_default();
            panic!("NET_SIM_REPLAY: {error} (a test runs in {}, its package's folder)", here.display())
        });
        if let Some(failure) = once(&test, plan.seed, Some(plan.clone())) {
            explain(name, Repeat::Plan, plan.seed, Some(plan), &failure, &test);
        }
        return;
    }
    let single = variable("NET_SIM_SEED");
    let base = variable("NET_SIM_BASE");
    let first = base.unwrap_or(0);
    let seeds = single.map_or_else(|| first..first + runs(default_runs), |seed| seed..seed + 1);
    assert!(!seeds.is_empty(), "{name}: no seed was run: NET_SIM_RUNS is 0");
    if let (Some(_), None) = (base, single) {
        eprintln!("{name}: seeds {} to {}", seeds.start, seeds.end.saturating_sub(1));
    }
    for (n, seed) in seeds.enumerate() {
        // Applications may read the machine without knowing: the first seed is lived twice.
        let failure = if n == 0 {
            let (failure, lived) = watched(&test, seed);
            failure.or_else(|| twice(&test, seed, &lived))
        } else {
            once(&test, seed, None)
        };
        if let Some(failure) = failure {
            let plan = RUN.with_borrow(|run| run.used.clone());
            explain(name, Repeat::Seed, seed, plan, &failure, &test);
        }
    }
    let marks = marks::take();
    if variable("NET_SIM_TABLE").is_some_and(|n| n > 0) {
        eprintln!("{name}\n{}", marks.table());
    }
    let missing = marks.missing();
    // One seed need not reach everything.
    assert!(single.is_some() || missing.is_empty(), "{name}: never reached: {missing:?}\n{}", marks.table());
}

/// Replays the plan of a committed fixture: the run must hold now.
///
/// # Panics
///
/// If the plan cannot be read or the run fails.
pub fn replay(name: &str, plan: &Plan, test: impl Fn(Sim) -> Result<(), Failure>) {
    if let Some(failure) = once(&test, plan.seed, Some(plan.clone())) {
        explain(name, Repeat::Plan, plan.seed, Some(plan.clone()), &failure, &test);
    }
}

/// What is enough to repeat a run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// The seed: everything else was drawn from it.
    Seed,
    /// The plan, which somebody gave.
    Plan,
}

/// Writes everything about a failed run, prints how to repeat it, and fails the test.
fn explain(
    name: &str,
    repeat: Repeat,
    seed: u64,
    mut plan: Option<Plan>,
    failure: &Failure,
    test: &impl Fn(Sim) -> Result<(), Failure>,
) -> ! {
    let dir = directory().join(name).join(format!("seed-{seed}"));
    let mut last = failure.clone();
    let replays =
        |file: &str| format!("repeat with: NET_SIM_REPLAY={} {}", dir.join(file).display(), command(name));
    let line = match repeat {
        Repeat::Seed => replay_line(name, seed),
        Repeat::Plan => replays("run.plan"),
    };
    let mut notes = vec![format!("{name}, seed {seed}: {failure}"), line];
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    if let Some(run) = &plan {
        files.push(("run.plan", run.to_string().into_bytes()));
    }
    if let (true, Some(run)) = (variable("NET_SIM_SHRINK").is_some_and(|n| n > 0), &plan)
        && let Some(shrunk) = shrink(run, SHRINK_RUNS, |p| once(test, p.seed, Some(p.clone())))
    {
        notes.push(format!(
            "shrunk in {} runs: {} faults to {}, {} nodes to {}; {}",
            shrunk.runs,
            run.faults.len(),
            shrunk.plan.faults.len(),
            run.nodes,
            shrunk.plan.nodes,
            replays("min.plan")
        ));
        files.push(("min.plan", shrunk.plan.to_string().into_bytes()));
        last = shrunk.failure;
        plan = Some(shrunk.plan);
    }
    // Again, with a record: a run that is deterministic fails in the same way.
    let shared = Rc::new(RefCell::new(Record::default()));
    let again = recorded(shared.clone(), || once(test, seed, plan.clone()));
    let record = shared.take();
    if again.as_ref().map(|f| class(&f.what)) != Some(class(&last.what)) {
        notes.push(format!("NOT DETERMINISTIC: the second run ended with {again:?}"));
    }
    let options = timeline::Options {
        title: format!("{name}, seed {seed}"),
        failure: Some(last.to_string()),
        nodes: Vec::new(),
    };
    let mut capture = Vec::new();
    if pcap::write(&mut capture, &record).is_ok() {
        files.push(("run.pcap", capture));
    }
    files.push(("timeline.txt", timeline::text(&record, &options).into_bytes()));
    files.push(("timeline.html", timeline::html(&record, &options).into_bytes()));
    files.push(("trace.txt", record.points_text().into_bytes()));
    files.push(("failure.txt", notes.join("\n").into_bytes()));
    match write(&dir, &files) {
        Ok(()) => notes.push(format!("see {}", dir.display())),
        Err(error) => notes.push(format!("nothing written to {}: {error}", dir.display())),
    }
    for note in &notes[1..] {
        eprintln!("{note}");
    }
    panic!("{}", notes[0]);
}

fn write(dir: &Path, files: &[(&str, Vec<u8>)]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    files.iter().try_for_each(|(name, bytes)| fs::write(dir.join(name), bytes))
}

/// Where failures are written.
pub fn directory() -> PathBuf {
    if let Ok(dir) = std::env::var("NET_SIM_DIR") {
        return dir.into();
    }
    // A test lies in target/<profile>/deps, a program in target/<profile>.
    let exe = std::env::current_exe().unwrap_or_default();
    let profile = exe.ancestors().find(|a| a.ends_with("debug") || a.ends_with("release"));
    profile.and_then(Path::parent).map_or_else(|| "target".into(), Path::to_path_buf).join("net-sim")
}

fn command(name: &str) -> String {
    let package = std::env::var("CARGO_PKG_NAME").ok();
    let exe = std::env::current_exe().unwrap_or_default();
    command_of(package.as_deref(), &exe.file_stem().unwrap_or_default().to_string_lossy(), name)
}

/// Cargo tells a test its package. Who starts the file of the test by itself gets that file's tests: it is
/// called as its target, with a hash behind.
fn command_of(package: Option<&str>, file: &str, name: &str) -> String {
    let release = if cfg!(debug_assertions) { "" } else { " --release" };
    let target = file.rsplit_once('-').map_or(file, |(target, _)| target);
    match package {
        Some(package) => format!("cargo test{release} -p {package} {name}"),
        None if target == "net_sim" => format!("cargo test{release} -p net-sim {name}"),
        None => format!("cargo test{release} --test {target} {name}"),
    }
}

/// The command that repeats a run.
fn replay_line(name: &str, seed: u64) -> String {
    repeated(seed, std::env::var("NET_SIM_TIME").ok().as_deref(), name)
}

/// Of the variables only the time changes what a seed is.
fn repeated(seed: u64, time: Option<&str>, name: &str) -> String {
    let time = time.map(|time| format!("NET_SIM_TIME={time} ")).unwrap_or_default();
    format!("repeat with: {time}NET_SIM_SEED={seed} {}", command(name))
}

/// Turns a broken expectation of a test into a failure of the run.
pub fn ensure(world: &World, holds: bool, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure { at: world.now(), node: None, what: what() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(f: impl FnOnce()) -> String {
        words(catch_unwind(AssertUnwindSafe(f)).unwrap_err().as_ref())
    }

    #[test]
    fn a_failing_seed_is_named() {
        let text = message(|| {
            check("planted", 5, |s| ensure(&s.world(), s.seed() != 3, || "three is bad".into()));
        });
        assert!(text.contains("seed 3") && text.contains("three is bad"), "{text}");
        assert!(replay_line("planted", 3).contains("NET_SIM_SEED=3"));
        let told = fs::read_to_string(directory().join("planted/seed-3/failure.txt")).unwrap();
        assert!(told.contains("three is bad") && told.contains("NET_SIM_SEED=3"), "{told}");
    }

    #[test]
    fn the_line_that_repeats_names_the_crate_of_the_test() {
        let package = env!("CARGO_PKG_NAME");
        assert!(replay_line("planted", 3).contains(&format!("-p {package} planted")));
        let release = if cfg!(debug_assertions) { "" } else { " --release" };
        let line = |package, file| command_of(package, file, "roams");
        assert_eq!(line(Some("net-tests"), "l2-0123"), format!("cargo test{release} -p net-tests roams"));
        assert_eq!(line(None, "l2-0123"), format!("cargo test{release} --test l2 roams"));
        assert_eq!(line(None, "net_sim-0123"), format!("cargo test{release} -p net-sim roams"));
    }

    #[test]
    fn a_time_that_was_given_belongs_to_the_line_that_repeats() {
        assert!(
            repeated(3, Some("60s"), "roams")
                .starts_with("repeat with: NET_SIM_TIME=60s NET_SIM_SEED=3 cargo")
        );
        assert!(repeated(3, None, "roams").starts_with("repeat with: NET_SIM_SEED=3 cargo"));
    }

    /// A plan that somebody changed by hand is no seed's.
    #[test]
    fn a_plan_that_was_given_is_what_repeats() {
        let plan = Plan::quiet("by hand", 5, 2, Duration::from_secs(1));
        let fails =
            |s: Sim| ensure(&s.world(), s.plan_or(|| unreachable!()).nodes < 2, || "two are too many".into());
        let text = message(|| replay("by_hand", &plan, fails));
        assert!(text.contains("two are too many"), "{text}");
        let dir = directory().join("by_hand/seed-5");
        let told = fs::read_to_string(dir.join("failure.txt")).unwrap();
        let file = dir.join("run.plan");
        assert!(told.contains(&format!("NET_SIM_REPLAY={} cargo test", file.display())), "{told}");
        assert!(!told.contains("NET_SIM_SEED"), "{told}");
        assert_eq!(Plan::load(file).unwrap(), plan);
    }

    #[test]
    fn no_seed_is_no_test() {
        let text = message(|| check("none", 0, |_| Ok(())));
        assert!(text.contains("no seed was run"), "{text}");
    }

    #[test]
    fn a_panic_is_a_failure_with_its_words() {
        let text = message(|| check("panicking", 1, |_| panic!("by design")));
        assert!(text.contains("by design"), "{text}");
    }

    #[test]
    fn a_required_mark_that_is_never_reached_fails_the_suite() {
        let suite = |reached: u64| {
            message(|| {
                check("marked", 4, |s| {
                    s.require(&["the rare thing"]);
                    crate::sometimes!("the rare thing", s.seed() == reached);
                    Ok(())
                });
                panic!("passed");
            })
        };
        assert_eq!(suite(2), "passed");
        assert!(suite(9).contains("never reached: [\"the rare thing\"]"));
    }

    #[test]
    fn what_is_not_deterministic_is_told() {
        let calls = std::cell::Cell::new(0);
        let text = message(|| {
            check("undecided", 1, |s| {
                calls.set(calls.get() + 1);
                ensure(&s.world(), calls.get() > 1, || "only once".into())
            });
        });
        assert!(text.contains("only once"));
        let told = fs::read_to_string(directory().join("undecided/seed-0/failure.txt")).unwrap();
        assert!(told.contains("NOT DETERMINISTIC"), "{told}");
    }
}
