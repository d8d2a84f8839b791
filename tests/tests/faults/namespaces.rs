//! Faults of a router between two hosts, in network namespaces.

use net_tests::lab::child::{Child, are_calm};
use net_tests::lab::pair::{Pair, again};
use net_tests::lab::space::{FAULTS, Fault, LEFT, OTHER, RIGHT, World};
use net_tests::lab::until;

use crate::node_in;

/// A node on the left host, and one on the right.
fn nodes(world: &World, left: &str, right: &str) -> (Child, Child) {
    let a = node_in(&world.on_left(), 1, &format!("bind={LEFT} {left}"));
    let b = node_in(&world.on_right(), 2, &format!("bind={RIGHT} {right}"));
    (a, b)
}

/// The left node dials the right one and pours.
fn pour(world: &World, left: &str, right: &str) -> Pair {
    let (a, b) = nodes(world, left, right);
    let to = b.addr;
    let mut pair = Pair::pour(a, b, to);
    pair.progress(200);
    pair
}

/// Waits until a rule matched so many more packets.
fn matches(world: &World, name: &str, more: u64) {
    let before = world.counted(name);
    until(&format!("{name}: {more} packets"), || (world.counted(name) >= before + more).then_some(()));
}

/// Hides the left host behind an address of the router and a port that it chooses.
///
/// While its rules change, a kernel may forward what it should translate. Routers let nothing out that shows
/// an address from inside, and this one neither: the right host would learn a second, shorter way to the
/// left one, and stay with it.
fn masquerade(world: &World, to: &str) {
    world.router(&format!(
        "nft -f - <<'end'
         add chain ip nat shown {{ type filter hook postrouting priority 300; }}
         flush chain ip nat shown
         add rule ip nat shown oifname right ip saddr 10.77.1.0/24 drop
         flush chain ip nat post
         add rule ip nat post oifname right meta l4proto udp {to}
end
         conntrack -F 2>/dev/null"
    ));
}

/// Ports of two ranges: each change is one.
const PORTS: [&str; 2] = ["masquerade to :40000-44999 random", "masquerade to :45000-49999 random"];

#[test]
fn what_this_machine_can_do() {
    for fault in FAULTS {
        if World::open(&format!("cases of {fault:?}"), &[fault]).is_some() {
            net_tests::lab::say(&format!("namespaces: {fault:?} can be had"));
        }
    }
}

/// Runs a case for each direction, side by side: what carries messages is cut, and what carries
/// acknowledgements.
fn each_direction(case: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| {
        for from in ["left", "right"] {
            let case = &case;
            scope.spawn(move || case(from));
        }
    });
}

#[test]
fn one_direction_is_cut_and_heals() {
    each_direction(|from| {
        let Some(world) = World::open("one_direction_is_cut_and_heals", &[Fault::Cut]) else { return };
        let mut pair = pour(&world, "", "");
        world.rule("cut", "forward", &format!("iifname {from}"), "drop");
        matches(&world, "cut", 10);
        are_calm([&mut pair.a, &mut pair.b]);
        world.heal("forward");
        pair.progress(500);
        pair.end();
    });
}

#[test]
fn one_direction_is_cut_for_good() {
    each_direction(|from| {
        let Some(world) = World::open("one_direction_is_cut_for_good", &[Fault::Cut]) else { return };
        let mut pair = pour(&world, "give_up_ms=3000", "give_up_ms=3000");
        world.rule("cut", "forward", &format!("iifname {from}"), "drop");
        pair.a.reaches("downs", 1);
        let (mut a, mut b, _) = pair.broken();
        assert!(a.report().get("lost") > 0, "what was under way is counted");
        // The other side notices by itself: it hears nothing, or is not answered.
        b.reaches("downs", 1);
        assert_eq!(b.report().get("wrong"), 0, "what came was whole and in order");
        world.heal("forward");
        again(a, b);
    });
}

/// The sender behind a NAT is given another port.
fn rebound(test: &str, runtime: &str) {
    let Some(world) = World::open(test, &[Fault::Nat]) else { return };
    masquerade(&world, PORTS[0]);
    let mut pair = pour(&world, runtime, runtime);
    for ports in [PORTS[1], PORTS[0], PORTS[1]] {
        let moves = pair.b.report().get("moves");
        masquerade(&world, ports);
        pair.b.reaches("moves", moves + 1);
        pair.progress(500);
    }
    pair.end();
}

#[test]
fn nat_forgets_its_mapping() {
    rebound("nat_forgets_its_mapping", "");
}

#[test]
fn nat_forgets_its_mapping_on_smol() {
    rebound("nat_forgets_its_mapping_on_smol", "runtime=smol");
}

#[test]
fn nat_takes_another_address() {
    let Some(world) = World::open("nat_takes_another_address", &[Fault::Nat]) else { return };
    masquerade(&world, PORTS[0]);
    let mut pair = pour(&world, "", "");
    masquerade(&world, &format!("snat to {OTHER}:50000-59999 random"));
    pair.b.reaches("moves", 1);
    pair.progress(500);
    pair.end();
}

#[test]
fn nat_forgets_a_receiver_that_only_listens() {
    let test = "nat_forgets_a_receiver_that_only_listens";
    let Some(world) = World::open(test, &[Fault::Nat]) else { return };
    masquerade(&world, PORTS[0]);
    // The one behind the NAT dials, the other one pours: what it sends meets a closed door until the
    // receiver says something.
    let (mut inside, outside) = nodes(&world, "", "");
    inside.connect(outside.addr, 2).expect("connected");
    let mut pair = Pair::pour_back(outside, inside);
    pair.progress(200);
    masquerade(&world, PORTS[1]);
    pair.a.reaches("moves", 1);
    pair.progress(500);
    pair.end();
}

/// The path comes to carry less in mid-transfer. Counts the router's complaints that leave it.
fn shrinks(test: &str, complaints: &str) {
    let Some(world) = World::open(test, &[Fault::Shrink, Fault::Cut]) else { return };
    world.rule("complaints", "output", "icmp type destination-unreachable", complaints);
    let mut pair = pour(&world, "", "");
    pair.a.reaches("datagram", 1452);
    world.router("ip link set right mtu 1300");
    // With the header of IPv4: 20, and of UDP: 8.
    until("datagrams fit the path", || (pair.a.report().get("datagram") <= 1300 - 28).then_some(()));
    pair.progress(500);
    assert!(world.counted("complaints") > 0, "no packet was too large");
    pair.end();
}

#[test]
fn the_path_shrinks_and_says_so() {
    shrinks("the_path_shrinks_and_says_so", "accept");
}

#[test]
fn the_path_shrinks_in_silence() {
    shrinks("the_path_shrinks_in_silence", "drop");
}

#[test]
fn the_first_link_shrinks() {
    let Some(world) = World::open("the_first_link_shrinks", &[Fault::Shrink]) else { return };
    let mut pair = pour(&world, "", "");
    pair.a.reaches("datagram", 1452);
    // The sender's own system refuses what is too large.
    world.left("ip link set wire mtu 1300");
    until("datagrams fit the path", || (pair.a.report().get("datagram") <= 1300 - 28).then_some(()));
    pair.progress(500);
    pair.end();
}

#[test]
fn ecn_is_bleached() {
    let Some(world) = World::open("ecn_is_bleached", &[Fault::Bleach]) else { return };
    world.rule("bleached", "forward", "iifname left ip ecn ect0", "ip ecn set not-ect");
    world.rule("passed", "forward", "iifname left meta l4proto udp", "accept");
    let mut pair = pour(&world, "", "");
    assert!(world.counted("bleached") > 0, "nothing was marked");
    // Marks that never arrive are given up.
    until("the sender stops marking", || {
        let before = world.counted("bleached");
        matches(&world, "passed", 100);
        (world.counted("bleached") == before).then_some(())
    });
    pair.progress(500);
    assert_eq!(pair.a.report().get("marks"), 0);
    pair.end();
}

#[test]
fn the_router_marks_congestion() {
    let Some(world) = World::open("the_router_marks_congestion", &[Fault::Mark]) else { return };
    world.rule("marked", "forward", "iifname left ip ecn ect0 numgen inc mod 50 0", "ip ecn set ce");
    let mut pair = pour(&world, "", "");
    pair.a.reaches("marks", 3);
    pair.progress(500);
    assert!(world.counted("marked") > 0);
    assert_eq!(pair.a.report().get("packets_lost"), 0, "marks, and no loss");
    pair.end();
}

#[test]
fn the_rate_is_limited_and_changes() {
    let Some(world) = World::open("the_rate_is_limited_and_changes", &[Fault::Rate]) else { return };
    let limit = |verb: &str, rate: u32| {
        world.router(&format!("tc qdisc {verb} dev right root tbf rate {rate}mbit burst 16k limit 48k"));
    };
    limit("add", 20);
    let mut pair = pour(&world, "burst=100", "");
    for rate in [4, 40, 10] {
        limit("change", rate);
        pair.progress(1000);
    }
    let told = world.router("tc -s qdisc show dev right");
    let dropped = told.split("dropped ").nth(1).and_then(|rest| rest.split(',').next());
    assert!(dropped.is_some_and(|n| n != "0"), "the queue never overflowed: {told}");
    pair.end();
}
