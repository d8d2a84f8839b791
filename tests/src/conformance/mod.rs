//! The conformance suite on every runtime that there is: the cases of `net_shell::conformance`, those
//! of the SDK here, and how each runtime runs them.

mod cancel;
mod ended;
mod sdk;

pub use ended::runtime_ends;

use std::net::{IpAddr, Ipv4Addr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use net_sdk::{Runtime, rt};
use net_shell::conformance::{self, Case, Env, LIMIT, Mark, watch};
use net_sim::world::default_addr;
use net_sim::{Sim, World};
use net_smol::Smol;
use net_tokio::Tokio;

use crate::blocking_runtime::Threads;

/// Hands the list of SDK cases to a macro of `net_shell`.
#[macro_export]
macro_rules! sdk_cases {
    ($then:ident $($with:tt)*) => { net_shell::$then! { $($with)*
        sdk::connecting_proves_the_identity [] "both sides know who the other is"
        sdk::connecting_again_finds_the_association [] "at once and side by side: one association, whoever asks"
        sdk::crossing_connects_are_one_association [] "both sides dial at the same time"
        sdk::a_dial_that_nobody_answers_fails_in_time [] "`TimedOut`, and it may be tried again"
        sdk::another_mesh_key_meets_silence [] "strangers learn nothing"
        sdk::reliable_streams_keep_order [] "every message once, in order, in both directions at once"
        sdk::unordered_streams_deliver_once [] "every message once"
        sdk::fire_and_forget_delivers_at_most_once [] "no message twice"
        sdk::a_batch_goes_whole_or_not_at_all [] "`try_send_batch` without credit queues nothing; `send_batch` waits"
        sdk::try_send_fails_where_send_waits [] "the two answers to a slow reader, and credit comes back"
        sdk::flush_means_acknowledged [] "after `flush` an end of the sender loses nothing"
        sdk::finish_ends_one_direction [] "`None` on the other side, and the way back stays open"
        sdk::messages_can_be_lent [] "`recv_with`, `recv_many` and `try_recv` read the same messages as `recv`"
        sdk::a_reset_tells_its_code [] "the reader learns why"
        sdk::a_stop_tells_its_code [] "the sender learns why"
        sdk::the_last_handle_ends_the_stream [] "what was admitted is sent first"
        sdk::streams_are_accepted_by_peer_or_by_any [] "each stream goes to one taker"
        sdk::long_messages_arrive_and_too_long_ones_are_refused [] "the limit is the receiver's"
        sdk::many_streams_share_a_session [] "fifty streams at once"
        sdk::a_reader_that_is_slow_slows_only_its_sender [] "other streams go on"
        sdk::a_disconnect_tells_both_sides [] "with its code"
        sdk::a_shutdown_answers_everybody_who_waits [] "every call that can wait"
        sdk::a_shutdown_counts_every_message [] "admitted = flushed + lost"
        sdk::after_a_shutdown_calls_fail_at_once [] "and sockets and directory are free"
        sdk::dropping_every_handle_ends_the_node [] "the peer learns it, the address is free"
        sdk::events_tell_who_came_and_went [] "in order, and the end"
        sdk::a_directory_keeps_who_a_node_is [] "identity and mesh outlive the node; two at once are refused"
        sdk::a_node_comes_back_at_its_address [] "and its peers find it"
        sdk::counters_count [] "of node, peer and stream"
        sdk::time_tasks_and_randomness_come_from_the_runtime [] "`rt` inside of a task"
        cancel::start [] "dropped half-way, nothing runs and the directory is free"
        cancel::connect [] "a dial that was given up neither lingers nor harms the next"
        cancel::open_stream [] "a stream that nobody took is closed again"
        cancel::accept_takes_nothing [] "`accept_stream` and `accept_peer`: each is given once"
        cancel::send_queues_nothing [] "`send` and `send_batch`"
        cancel::recv_loses_nothing [] "`recv`, `recv_with` and `recv_many`"
        cancel::flush_and_finish [] "dropping does not undo what was asked"
        cancel::questions [] "`stats`, `ceiling`, `closed` and events"
        cancel::disconnect_goes_on [] "once asked, it happens"
        cancel::shutdown_goes_on [] "once asked, it happens"
    } };
}

/// All cases of the SDK.
pub const SDK: &[Case] = sdk_cases! { conformance_table };

/// Where cases run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// Tokio with one thread.
    TokioCurrentThread,
    /// Tokio with two.
    TokioMultiThread,
    /// Smol's global executor.
    Smol,
    /// The runtime of `std` alone.
    Threads,
    /// The simulator: two machines.
    Simulator,
    /// A simulated machine with a tokio runtime, in turmoil.
    Turmoil,
    /// Tokio here, smol there.
    TokioAndSmol,
    /// `std` alone here, tokio there.
    ThreadsAndTokio,
}

/// Runs one case of the runtime.
pub fn runtime_case(on: On, name: &str) {
    run(on, conformance::find(conformance::CASES, name));
}

/// Runs one case of the SDK.
pub fn sdk_case(on: On, name: &str) {
    run(on, conformance::find(SDK, name));
}

/// A tokio runtime; zero workers: the thread that calls it.
pub fn tokio(workers: usize) -> tokio::runtime::Runtime {
    let mut builder = match workers {
        0 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if workers > 0 {
        builder.worker_threads(workers);
    }
    builder.enable_all().build().expect("a tokio runtime")
}

async fn entered(case: Case, env: Env) {
    rt::enter(env.here.clone(), (case.run)(env)).await;
}

fn run(on: On, case: Case) {
    let runtime = format!("{on:?}");
    let dir = format!("{}-{runtime}", case.name);
    watch(case.name, &runtime, move || match on {
        On::TokioCurrentThread | On::TokioMultiThread => {
            let tokio = tokio(if on == On::TokioMultiThread { 2 } else { 0 });
            let here = Arc::new(Tokio::new(tokio.handle().clone()));
            tokio.block_on(entered(case, Env::local(here, &dir)));
        }
        On::Smol => smol::block_on(entered(case, Env::local(Arc::new(Smol::new()), &dir))),
        On::Threads => {
            let threads = Threads::new();
            threads.block_on(entered(case, Env::local(Arc::new(threads.clone()), &dir)));
            threads.end();
        }
        On::TokioAndSmol => {
            let tokio = tokio(1);
            let here = Arc::new(Tokio::new(tokio.handle().clone()));
            tokio.block_on(entered(case, Env::pair(here, Arc::new(Smol::new()), &dir)));
        }
        On::ThreadsAndTokio => {
            let (threads, tokio) = (Threads::new(), tokio(1));
            let there = Arc::new(Tokio::new(tokio.handle().clone()));
            threads.block_on(entered(case, Env::pair(Arc::new(threads.clone()), there, &dir)));
            threads.end();
        }
        On::Simulator => simulated(case),
        On::Turmoil => in_turmoil(case),
    });
}

/// What the simulator says when it cannot do what a case needs.
fn refusal(mark: Mark) -> &'static str {
    match mark {
        Mark::RealSockets => "this simulated host has the address",
        Mark::Blocking => "blocks its thread, and the simulator has one thread",
        // Not swallowed: it ends the run.
        Mark::Panics => "on purpose",
        _ => panic!("a mark that the simulator does not know"),
    }
}

fn simulated(case: Case) {
    let mut world = World::new(Sim::new(1).config());
    let (here, there) = (world.host(), world.host());
    let (mut here_ip, mut there_ip) = (default_addr(here).ip(), default_addr(there).ip());
    if case.has(Mark::RealSockets) {
        here_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        there_ip = here_ip;
    }
    let (one, two): (Arc<dyn Runtime>, Arc<dyn Runtime>) = (world.runtime(here), world.runtime(there));
    let env = Env { here: one, there: two, here_ip, there_ip, dir: PathBuf::from("/state") };
    let done = Arc::new(AtomicBool::new(false));
    let set = done.clone();
    world.start_task(here, |_| async move {
        entered(case, env).await;
        set.store(true, Ordering::SeqCst);
    });
    let mut go = || world.eventually(LIMIT, case.name, |_| done.load(Ordering::SeqCst));
    if case.marks.is_empty() {
        go().unwrap_or_else(|failure| panic!("{failure}"));
        return;
    }
    let refused = catch_unwind(AssertUnwindSafe(go)).expect_err("the simulator refuses");
    let text = refused.downcast_ref::<String>().cloned();
    let text = text.or_else(|| refused.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
    let known = case.marks.iter().any(|mark| text.contains(refusal(*mark)));
    assert!(known, "{} is refused with {text:?}", case.name);
}

/// Sends go to the machine itself: a runtime of turmoil can be used on its own machine only.
fn in_turmoil(case: Case) {
    let mut hosts = Sim::new(1).hosts();
    hosts.spawn(move |machine| async move {
        let ip = if case.has(Mark::RealSockets) { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { machine.ip() };
        let (here, there) = (machine.runtime(), machine.runtime());
        entered(case, Env { here, there, here_ip: ip, there_ip: ip, dir: PathBuf::from("/state") }).await;
        Ok(())
    });
    let outcome = hosts.eventually(LIMIT, case.name, |hosts| hosts.is_done(0));
    if case.marks.is_empty() {
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
        return;
    }
    let text = outcome.expect_err("the simulator refuses").what;
    let known = case.marks.iter().any(|mark| text.contains(refusal(*mark)));
    assert!(known, "{} is refused with {text:?}", case.name);
}
