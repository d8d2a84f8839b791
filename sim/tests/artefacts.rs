//! What a failing run leaves behind: a capture that other programs read, a timeline, points of the
//! trace by which two runs are compared, a smaller plan.

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use net_sim::artefact::{Item, Record, divergence, pcap, timeline};
use net_sim::check::recorded;
use net_sim::plan::{LinkFault, What};
use net_sim::shrink::shrink;
use net_sim::traffic::{Flow, Station};
use net_sim::{Fate, Fault, LinkConfig, Plan, Sim, World, scenario};

fn recorded_run(plan: &Plan) -> (Record, Option<String>) {
    let shared = Rc::new(RefCell::new(Record::default()));
    let run = scenario::named(&plan.scenario).unwrap();
    let outcome = recorded(shared.clone(), || run(plan).err().map(|failure| failure.to_string()));
    (shared.take(), outcome)
}

fn small() -> Plan {
    let cut = Fault::new(Duration::from_secs(1), Duration::from_secs(1), What::link(0, 1, LinkFault::Cut));
    Plan::quiet("pair", 2, 2, Duration::from_secs(3)).with(cut)
}

/// `tcpdump`, installed where that is allowed.
fn tcpdump() -> Command {
    let there = || Command::new("tcpdump").arg("--version").output().is_ok();
    if !there() {
        let _ =
            Command::new("apt-get").args(["install", "-y", "--no-install-recommends", "tcpdump"]).output();
    }
    assert!(there(), "this test needs the program tcpdump: install the Debian package `tcpdump`");
    Command::new("tcpdump")
}

#[test]
fn tcpdump_reads_the_capture() {
    let (record, outcome) = recorded_run(&small());
    assert_eq!(outcome, None);
    let mut capture = Vec::new();
    pcap::write(&mut capture, &record).unwrap();
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("run.pcap");
    std::fs::write(&file, capture).unwrap();
    let out = tcpdump().args(["-n", "-v", "-tt", "--nano", "-r"]).arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let sent: Vec<_> = record
        .entries
        .iter()
        .filter_map(|e| {
            if let Item::Sent { src, dst, data, .. } = &e.what { Some((e.at, src, dst, data)) } else { None }
        })
        .collect();
    assert!(sent.len() > 50);
    assert_eq!(text.matches("proto UDP (17)").count(), sent.len());
    assert!(!text.contains("bad"), "checksums are right: {text}");
    // The first one, whole: time, addresses, ports, length.
    let (at, src, dst, data) = sent[0];
    let time = format!("{}.{:09}", at / 1_000_000_000, at % 1_000_000_000);
    assert!(text.starts_with(&time), "{text:.200}");
    let dotted = |a: &std::net::SocketAddr| format!("{}.{}", a.ip(), a.port());
    let line = format!("{} > {}:", dotted(src), dotted(dst));
    assert!(
        text.contains(&line) && text.contains(&format!("length {}", 28 + data.len())),
        "{line}\n{text:.400}"
    );
}

#[test]
fn a_timeline_shows_lanes_datagrams_and_faults() {
    let (record, _) = recorded_run(&small());
    let options = timeline::Options { title: "small".into(), ..timeline::Options::default() };
    let text = timeline::text(&record, &options);
    assert!(text.contains("1s ---- fault 0 BEGINS: cut 0->1"), "{text:.2000}");
    assert!(text.contains("2s ---- fault 0 ENDS: cut 0->1"));
    assert!(text.contains("handshake 1") && text.contains("Connected"));
    let html = timeline::html(&record, &options);
    assert!(html.contains("node 0") && html.contains("node 1") && html.contains("class=\"band\""));
    assert!(html.len() < 4 << 20, "{} bytes", html.len());
}

fn world(seed: u64, change: Option<u64>) -> World {
    let mut world = World::new(Sim::new(seed).config().link(LinkConfig::default().with_loss(10_000)));
    world.spawn(Station::sender([Flow::reliable(1, 1, 2_000, 500)]));
    world.spawn(Station::listener());
    // Something that reads the machine would do this: one datagram takes another way.
    world.link(0, 1).hook =
        Some(Box::new(move |n, _| if Some(n) == change { Fate::Drop } else { Fate::Pass }));
    world.run_for(Duration::from_secs(5)).unwrap();
    world
}

#[test]
fn the_first_event_that_differs_is_found() {
    let run = |change| move |record| drop(recorded(record, || world(1, change)));
    assert_eq!(divergence::first(run(None), run(None)), None);
    let found = divergence::first(run(None), run(Some(300))).expect("they differ");
    assert_eq!(found.event, found.same_until + 1);
    assert_ne!(found.first, found.second, "{found:?}");
    // The 300th datagram was sent just before: its absence is what differs.
    let (a, b) = (world(1, None), world(1, Some(300)));
    assert_ne!(a.trace(), b.trace());
    let arrived = found.first.iter().any(|e| matches!(e.what, Item::Arrived { node: 1, .. }));
    assert!(arrived, "in the first run the datagram arrived: {found:?}");
}

#[test]
fn a_failure_of_two_faults_among_many_is_shrunk_to_them() {
    let plan = scenario::two_faults_among(60, 10);
    let run = |p: &Plan| scenario::named("two-faults").unwrap()(p).err();
    let shrunk = shrink(&plan, 500, run).expect("it fails");
    assert_eq!(shrunk.plan.faults.len(), 2, "{}", shrunk.plan);
    assert!(shrunk.plan.nodes <= 4, "{}", shrunk.plan);
    assert!(shrunk.failure.what.contains("two faults"), "{}", shrunk.failure);
}
