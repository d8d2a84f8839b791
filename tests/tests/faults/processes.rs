//! Sockets that refuse, clocks that jump, processes that stop, die and come back.

use net_tests::lab::pair::{Pair, again};
use net_tests::lab::until;

use crate::node;

#[test]
fn gso_fails_in_mid_transfer() {
    let (a, b) = (node(1, "gso_after=20"), node(2, ""));
    let to = b.addr;
    let mut pair = Pair::pour(a, b, to);
    pair.a.reaches("refused", 1);
    pair.progress(500);
    let report = pair.a.report();
    assert_eq!((report.get("batches"), report.get("refused")), (20, 1), "no batch after the refusal");
    pair.end();
}

#[test]
fn the_system_is_out_of_buffers() {
    let (a, b) = (node(1, "busy_every=3"), node(2, "busy_every=3"));
    let to = b.addr;
    let mut pair = Pair::pour(a, b, to);
    pair.progress(500);
    pair.a.call("busy sends=300").expect("a knob");
    pair.progress(500);
    assert!(pair.a.report().get("refused") >= 300);
    pair.end();
}

#[test]
fn a_reader_that_pauses_stops_its_sender_without_a_busy_loop() {
    let (a, b) = (node(1, "runtime=smol"), node(2, ""));
    let to = b.addr;
    let mut pair = Pair::pour(a, b, to);
    pair.progress(100);
    pair.b.call("read on=0").expect("a knob");
    // Full: nothing is admitted from one look to the next.
    let mut before = 0;
    until("the sender is stopped", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = pair.a.report().get("admitted");
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
    pair.a.is_calm();
    pair.b.call("read on=1").expect("a knob");
    pair.progress(500);
    pair.end();
}

#[test]
fn a_process_that_was_stopped_goes_on() {
    let (a, b) = (node(1, ""), node(2, "recv_buffer=4096"));
    let to = b.addr;
    let mut pair = Pair::pour(a, b, to);
    pair.progress(200);
    pair.b.signal("STOP");
    // Its socket overflows: what is sent meanwhile is lost.
    pair.a.is_calm();
    pair.b.signal("CONT");
    pair.progress(500);
    assert!(pair.a.report().get("packets_lost") > 0, "nothing overflowed");
    pair.end();
}

#[test]
fn the_clock_jumps_by_ten_minutes() {
    for jumps in ["a", "b"] {
        let (a, b) = (node(1, ""), node(2, ""));
        let to = b.addr;
        let mut pair = Pair::pour(a, b, to);
        pair.progress(200);
        let who = if jumps == "a" { &mut pair.a } else { &mut pair.b };
        who.call("jump seconds=600").expect("a knob");
        pair.progress(500);
        pair.end();
    }
}

#[test]
fn the_receiver_is_killed_and_comes_back() {
    let (a, b) = (node(1, "give_up_ms=3000"), node(2, ""));
    let to = b.addr;
    let mut pair = Pair::pour(a, b, to);
    pair.progress(200);
    pair.b.signal("KILL");
    pair.a.is_calm();
    pair.a.reaches("downs", 1);
    let (mut a, old, _) = pair.broken();
    drop(old);
    let b = node(2, &format!("bind={to}"));
    assert!(a.report().get("lost") > 0, "what was under way is counted");
    again(a, b);
}

#[test]
fn the_sender_is_killed_and_comes_back() {
    let (a, b) = (node(1, ""), node(2, ""));
    let to = b.addr;
    let mut pair = Pair::pour(a, b, to);
    pair.progress(200);
    let Pair { a, mut b, .. } = pair;
    a.kill();
    let mut a = node(1, "");
    a.connect(to, 2).expect("connected again");
    b.reaches("broken", 1);
    assert_eq!(b.report().get("wrong"), 0, "what came was whole and in order");
    again(a, b);
}

#[test]
fn both_sides_dial_at_once() {
    let (mut a, mut b) = (node(1, ""), node(2, "runtime=smol"));
    for _ in 0..10 {
        let (to_a, to_b) = (a.addr, b.addr);
        let there = a.ask(&format!("connect to={to_b} who=2"));
        let back = b.ask(&format!("connect to={to_a} who=1"));
        a.wait(there).expect("connected");
        b.wait(back).expect("connected");
        assert_eq!((a.report().get("peers"), b.report().get("peers")), (1, 1), "one association");
        a.call("disconnect").expect("a disconnect");
        until("both sides know", || (b.report().get("peers") == 0).then_some(()));
    }
    again(a, b);
}
