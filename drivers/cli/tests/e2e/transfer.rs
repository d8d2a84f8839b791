//! Files between two processes.

use std::fs;
use std::path::Path;

use crate::common::{Running, free, last, run};

fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as u8
        })
        .collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Everything below a folder: paths, content, whether executable.
fn tree(at: &Path) -> Vec<(String, Option<Vec<u8>>, bool)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(at).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            found.push((name.clone(), None, false));
            found.extend(tree(&path).into_iter().map(|(p, c, x)| (format!("{name}/{p}"), c, x)));
        } else {
            found.push((name, Some(fs::read(&path).expect("content")), executable(&path)));
        }
    }
    found.sort();
    found
}

#[cfg(unix)]
fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().expect("metadata").permissions().mode() & 0o100 != 0
}

#[cfg(not(unix))]
fn executable(_: &Path) -> bool {
    false
}

#[test]
fn a_tree_arrives_over_a_lossy_link_although_the_receiver_is_killed() {
    const BIG: usize = 32 << 20;
    let dir = tempfile::tempdir().expect("a folder");
    let (from, into, state) = (dir.path().join("from"), dir.path().join("into"), dir.path().join("state"));
    fs::create_dir_all(from.join("sub/empty")).expect("folders");
    fs::write(from.join("big"), noise(BIG, 7)).expect("a file");
    fs::write(from.join("sub/small"), noise(1000, 8)).expect("a file");
    fs::write(from.join("sub/nothing"), b"").expect("a file");
    fs::write(from.join("sub/program"), b"#!/bin/sh\n").expect("a file");
    #[cfg(unix)]
    fs::set_permissions(from.join("sub/program"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a mode");
    let total: u64 = tree(&from).iter().filter_map(|(_, c, _)| c.as_ref()).map(|c| c.len() as u64).sum();

    let bound = free().to_string();
    let mut relay = Running::start(&["relay", &bound, "--loss", "1"]);
    let relayed = relay.event("listening")["addr"].as_str().expect("an address").to_string();
    let receive = || {
        let bind = ["--bind", &bound, "--advertise", &relayed];
        Running::start(&[&["recv", text(&into), "--dir", text(&state), "--once"], &bind[..]].concat())
    };
    let mut receiver = receive();
    let invite = receiver.event("ready")["invite"].as_str().expect("an invite").to_string();

    let mut sender = Running::start(&["send", text(&from), "--to", &invite]);
    receiver.event("progress");
    receiver.kill();
    assert!(!into.join("from/big").exists(), "killed in the middle");
    let mut receiver = receive();
    assert_eq!(receiver.event("ready")["invite"], invite.as_str(), "the invite survives");
    let begins = receiver.event("begins");
    assert!(begins["here"].as_u64() >= Some(4 << 20), "it goes on: {begins}");

    let done = sender.event("done");
    assert_eq!((&done["verified"], &done["entries"]), (&7.into(), &7.into()), "{done}");
    assert!(done["attempts"].as_u64() >= Some(2), "{done}");
    // What was under way when the receiver died went twice: buffers, windows and a checkpoint.
    assert!(done["bytes_sent"].as_u64() < Some(total + (16 << 20)), "{total} bytes: {done}");
    assert!(done["packets_lost"].as_u64() > Some(0), "the link loses: {done}");
    assert_eq!(sender.wait(), Some(0));
    assert_eq!(receiver.wait(), Some(0));
    assert_eq!(tree(&from), tree(&into.join("from")));
    assert_eq!(fs::read_dir(&into).expect("a folder").count(), 1, "nothing is left over");
}

#[test]
fn what_is_there_is_not_sent_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let (file, into, state) = (dir.path().join("file"), dir.path().join("into"), dir.path().join("state"));
    fs::write(&file, noise(300_000, 3)).expect("a file");
    let mut receiver = Running::start(&["recv", text(&into), "--dir", text(&state), "--bind", "127.0.0.1:0"]);
    let invite = receiver.event("ready")["invite"].as_str().expect("an invite").to_string();
    let send = || run(&["send", text(&file), "--to", &invite, "--json"]);
    let (first, second) = (send(), send());
    assert_eq!((first.status.code(), second.status.code()), (Some(0), Some(0)), "{first:?} {second:?}");
    assert_eq!((&last(&first)["bytes_sent"], &last(&second)["bytes_sent"]), (&300_000.into(), &0.into()));
    assert_eq!(fs::read(into.join("file")).expect("it is there"), noise(300_000, 3));
    // Changed content replaces.
    fs::write(&file, noise(300_000, 4)).expect("a file");
    assert_eq!(send().status.code(), Some(0));
    assert_eq!(fs::read(into.join("file")).expect("it is there"), noise(300_000, 4));
    // And a round trip, by invite.
    let ping = run(&["ping", &invite, "-c", "2", "--interval", "0", "--json"]);
    assert_eq!((ping.status.code(), &last(&ping)["echoes"]), (Some(0), &2.into()), "{ping:?}");
}
