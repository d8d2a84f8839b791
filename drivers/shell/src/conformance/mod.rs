//! What every runtime must keep, as cases that anybody can run: `docs/RUNTIMES.md` is the contract.
//!
//! A runtime's tests give a function that runs one case by its name, and get one test for each:
//!
//! ```text
//! fn run(name: &str) {
//!     let case = conformance::find(conformance::CASES, name);
//!     conformance::watch(name, "my runtime", || {
//!         let runtime = Arc::new(MyRuntime::new());
//!         let env = Env::local(runtime.clone(), name);
//!         runtime.block_on((case.run)(env)); // or a spawned task and a channel
//!     });
//! }
//! net_shell::runtime_conformance!(run);
//! ```

pub mod help;
mod ports;
mod sockets;
mod system;
mod tasks;
mod timers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::runtime::{BoxFuture, Runtime, UdpOptions};

/// A case that takes longer than this hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// What a case needs beyond the contract. A runtime that cannot give it refuses, in the way said
/// here, and its tests assert the refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mark {
    /// Sockets and addresses of this machine. Refused: `bind` fails.
    RealSockets,
    /// Blocks a thread, or wakes from one that the runtime did not start. Refused:
    /// [`Runtime::may_block`] panics.
    Blocking,
    /// Something panics on purpose. Refused: the panic reaches the test.
    Panics,
}

/// Where a case runs: two nodes' views, which on a real machine are the same.
#[derive(Clone)]
pub struct Env {
    /// The runtime that the case itself runs on.
    pub here: Arc<dyn Runtime>,
    /// A second one, or the same again.
    pub there: Arc<dyn Runtime>,
    /// An address of `here`.
    pub here_ip: IpAddr,
    /// An address of `there`, which `here` reaches.
    pub there_ip: IpAddr,
    /// A directory of the case's own, which does not exist yet.
    pub dir: PathBuf,
}

impl Env {
    /// One runtime of this machine, over loopback. `dir` names the directory below the system's one
    /// for temporary files.
    pub fn local(runtime: Arc<dyn Runtime>, dir: &str) -> Self {
        Self::pair(runtime.clone(), runtime, dir)
    }

    /// Two runtimes of this machine.
    pub fn pair(here: Arc<dyn Runtime>, there: Arc<dyn Runtime>, dir: &str) -> Self {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let dir = std::env::temp_dir().join(format!("net-conformance-{dir}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self { here, there, here_ip: ip, there_ip: ip, dir }
    }

    /// `here`'s address with a port that the runtime chooses.
    pub fn here_addr(&self) -> SocketAddr {
        SocketAddr::new(self.here_ip, 0)
    }

    /// `there`'s address with a port that the runtime chooses.
    pub fn there_addr(&self) -> SocketAddr {
        SocketAddr::new(self.there_ip, 0)
    }

    fn sockets(&self, options: UdpOptions) -> (help::Socket, help::Socket) {
        let at = |runtime: &Arc<dyn Runtime>, addr| help::Socket::bind(runtime, addr, &options);
        (at(&self.here, self.here_addr()), at(&self.there, self.there_addr()))
    }
}

/// One promise and how it is checked. It panics if the promise is broken.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// What it needs.
    pub marks: &'static [Mark],
    /// The case.
    pub run: fn(Env) -> BoxFuture,
}

impl Case {
    /// Whether it has this mark.
    pub fn has(&self, mark: Mark) -> bool {
        self.marks.contains(&mark)
    }
}

/// The case of this name.
///
/// # Panics
/// If there is none.
pub fn find(cases: &[Case], name: &str) -> Case {
    *cases.iter().find(|case| case.name == name).unwrap_or_else(|| panic!("there is no case {name}"))
}

/// Runs `f` in a thread; a hang becomes a failure that names case and runtime.
///
/// # Panics
/// If `f` panics, with its panic; if it takes longer than [`LIMIT`].
pub fn watch(name: &str, runtime: &str, f: impl FnOnce() + Send + 'static) {
    let (done, wait) = channel();
    let thread = std::thread::Builder::new().name(format!("{name} on {runtime}"));
    let run = move || {
        let _ = done.send(catch_unwind(AssertUnwindSafe(f)));
    };
    let thread = thread.spawn(run).expect("a thread");
    match wait.recv_timeout(LIMIT) {
        Ok(Ok(())) => thread.join().expect("caught above"),
        Ok(Err(panic)) => resume_unwind(panic),
        Err(RecvTimeoutError::Timeout) => panic!("{name} on {runtime} hangs"),
        Err(RecvTimeoutError::Disconnected) => panic!("{name} on {runtime} ended without an answer"),
    }
}

/// Makes a table of cases from the list that the macro `$list!` holds; the cases' functions are
/// `async fn name(env: Env)` in the modules named there.
#[macro_export]
macro_rules! conformance_table {
    ($($module:ident :: $name:ident [$($mark:ident)*] $shows:literal)*) => {
        &[$($crate::conformance::Case {
            name: stringify!($name),
            shows: $shows,
            marks: &[$($crate::conformance::Mark::$mark),*],
            run: |env| ::std::boxed::Box::pin($module::$name(env)),
        }),*]
    };
}

/// Makes a test of each case in a list: the test `name` calls `$run("name")`.
#[macro_export]
macro_rules! conformance_tests {
    ($run:path; $($module:ident :: $name:ident [$($mark:ident)*] $shows:literal)*) => {
        $(#[doc = $shows]
        #[test]
        fn $name() {
            $run(stringify!($name));
        })*
    };
}

/// Makes a test of each case in [`CASES`]: the test `name` calls `$run("name")`.
#[macro_export]
macro_rules! runtime_conformance {
    ($run:path) => {
        $crate::runtime_cases! { conformance_tests $run; }
    };
}

/// The list of cases, handed to another macro of this crate.
#[doc(hidden)]
#[macro_export]
macro_rules! runtime_cases {
    ($then:ident $($with:tt)*) => { $crate::$then! { $($with)*
        sockets::port_zero_is_a_free_port [] "binding port 0 gives a port of its own, and says which"
        sockets::an_address_in_use_is_refused [] "a second bind of one address fails with `AddrInUse`"
        sockets::a_foreign_address_is_refused [] "an address of another machine cannot be bound"
        sockets::both_families_share_a_port [RealSockets] "an IPv6 socket takes IPv6 only"
        sockets::ipv6_carries_datagrams [RealSockets] "IPv6 works like IPv4"
        sockets::a_datagram_arrives_as_it_was_sent [] "bytes, sender and ECN bits arrive, in both directions"
        sockets::a_batch_keeps_its_boundaries [] "every datagram of a batch arrives alone, in order, the last one shorter"
        sockets::the_largest_batch_is_sent_whole [] "`caps().segments` datagrams leave with one call"
        sockets::without_gso_a_batch_is_refused_whole [] "`Unsupported` means that nothing was sent, and `caps` says so"
        sockets::without_gro_datagrams_come_one_by_one [] "the receive option is kept"
        sockets::without_ecn_no_bits_are_set [] "the ECN option is kept"
        sockets::caps_say_what_the_socket_can_do [] "what `caps` says is possible"
        sockets::a_burst_is_received_in_order [] "more datagrams than one batch holds, none twice"
        sockets::who_would_block_is_told_when_to_go_on [] "after `WouldBlock`, `poll_writable` gets ready and the send succeeds"
        sockets::an_idle_socket_is_writable [] "`poll_writable` gets ready again and again, with any waker"
        sockets::a_datagram_that_is_too_long_costs_only_itself [RealSockets] "another error than the named three: the datagram is lost, the socket goes on"
        sockets::pending_receives_wake_their_task [] "`Pending` registered the waker"
        sockets::the_waker_of_the_last_receive_counts [] "another waker replaces the registered one"
        sockets::each_pending_receive_registers_anew [] "no wake is lost over many rounds of `Pending`"
        sockets::receiver_and_sender_work_in_different_tasks [] "the halves are independent"
        sockets::a_receiver_may_move_between_tasks [] "the next task's waker is the one that is woken"
        sockets::other_programs_can_talk_to_it [RealSockets Blocking] "datagrams go to and come from a plain socket of the system"
        sockets::dropped_sockets_free_their_address [] "once both halves are dropped, the address can be bound again"
        sockets::a_dropped_receive_loses_nothing [] "giving up a wait takes no datagram"
        timers::a_timer_is_never_early [] "ready only once the clock passed `at`"
        timers::a_time_that_passed_is_ready_at_once [] "no wait for the past"
        timers::no_time_is_never [] "`None` is never ready, whatever was armed before"
        timers::an_earlier_time_replaces_a_later_one [] "moved forward"
        timers::a_later_time_replaces_an_earlier_one [] "moved back"
        timers::a_time_may_follow_none [] "disarmed and armed again"
        timers::one_timer_serves_for_ever [] "thousands of resets, and firing again after it fired"
        timers::the_waker_of_the_last_poll_counts [] "another waker replaces the registered one"
        timers::a_timer_may_move_between_tasks [] "the next task's waker is the one that is woken"
        timers::many_timers_run_at_once [] "a thousand timers, each on time"
        timers::the_end_of_time_is_far_away [] "the last instant there is neither panics nor fires"
        timers::a_dropped_timer_holds_nobody_up [] "dropping an armed timer is harmless"
        tasks::tasks_run_to_their_end_once [] "spawned tasks run, each exactly once"
        tasks::tasks_start_tasks [] "`spawn` from inside of a task"
        tasks::a_finished_task_is_dropped [] "what a task holds is given back at its end"
        tasks::a_wake_during_the_poll_is_kept [] "a task that wakes itself is polled again"
        tasks::who_yields_lets_others_run [] "a task that is always ready does not starve others"
        tasks::a_wake_after_the_end_is_harmless [] "wakers may outlive their task"
        tasks::wakes_between_tasks_are_not_lost [] "two tasks hand a token to each other thousands of times"
        tasks::wakes_from_foreign_threads_are_not_lost [Blocking] "any thread may wake a task"
        tasks::it_can_be_used_from_foreign_threads [Blocking] "bind, timer, spawn and blocking need no entering"
        tasks::a_panic_takes_no_other_task_along [Panics] "tasks are separate"
        tasks::blocking_work_runs_and_answers [] "work runs once and wakes the task that waits"
        tasks::blocking_work_may_start_tasks [] "the runtime can be used from the pool"
        tasks::blocking_work_does_not_hold_up_tasks [Blocking] "tasks go on while work blocks, even if it waits for them"
        tasks::a_panic_in_blocking_work_leaves_the_pool [Panics] "later work still runs"
        system::now_never_goes_back [] "the clock is monotonic, also from task to task"
        system::timers_follow_now [] "the clock moves on while a timer waits"
        system::the_wall_clock_names_its_error [] "the wall clock is plausible, and its error within the 30 s that are tolerated"
        system::entropy_is_fresh [] "no draw repeats, in one task or in many"
        system::storage_keeps_its_contract [] "the conformance suite of `docs/STORAGE.md`"
        system::storage_wakes_the_task_that_waits [] "completions arrive through `poll_done`"
        system::two_directories_are_two_storages [] "names in one are not names in the other"
        ports::a_batch_is_admitted_whole_or_not_at_all [] "`try_send` of a batch"
        ports::try_send_fails_where_send_waits [] "the two answers to a full port, and nobody overtakes"
        ports::credit_wakes_who_waits_in_order [] "callers in order of arrival"
        ports::a_dropped_send_queues_nothing [] "cut off at each poll and after each wake; the next in line goes on"
        ports::closing_answers_everybody_who_waits [] "close while senders and readers wait"
        ports::the_bell_wakes_a_sleeper_once [] "one wake per drain, none while the driver is awake"
        ports::credit_returns_at_a_quarter [] "drained charges ring at a quarter of the window, once"
        ports::a_dropped_recv_loses_nothing [] "cut off at each poll and after each wake; another reader gets the message"
        ports::what_arrived_comes_before_the_end [] "messages first, then the reason"
        ports::a_mailbox_gives_each_item_to_one_taker [] "many takers, some of which give up"
        ports::nothing_is_lost_through_a_port [] "a driver that sleeps on the bell gets every message of three senders"
        ports::calls_after_the_driver_is_gone_fail_at_once [] "the way to an answer is dropped with the driver"
    } };
}

/// All cases.
pub const CASES: &[Case] = crate::runtime_cases! { conformance_table };
