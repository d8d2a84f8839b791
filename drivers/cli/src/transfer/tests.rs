//! Both ends against each other, without a network.

use std::fs;
use std::path::Path;

use super::receive::{Receiver, Seen};
use super::scan::{self, Plan};
use super::send::{self, Ledger, Sent, Step};
use super::wire::{Entry, Kind, Reason, Request};

fn plan(path: &Path) -> Plan {
    scan::hash(scan::find(path).unwrap(), |_| {}).unwrap()
}

/// What one attempt came to.
struct Outcome {
    ledger: Ledger,
    seen: Vec<Seen>,
    /// Bytes of content that went over.
    carried: u64,
    complete: bool,
}

/// One attempt; cut after so many content messages.
fn attempt(plan: &Plan, root: &Path, keep: bool, cut: Option<usize>) -> Outcome {
    let mut receiver = Receiver::new(root, keep);
    let mut ledger = Ledger::new(plan);
    let (mut seen, mut carried, mut step) = (Vec::new(), 0, Step::Listen);
    let mut deliver = |receiver: &mut Receiver, ledger: &mut Ledger, message: &[u8]| {
        let mut replies = Vec::new();
        receiver.handle(message, &mut |reply| replies.push(reply.message()), &mut |s| seen.push(s)).unwrap();
        let steps = replies.iter().map(|reply| ledger.handle(plan, reply).unwrap());
        steps.filter(|step| *step != Step::Listen).last().unwrap_or(Step::Listen)
    };
    for message in send::manifest(plan) {
        step = deliver(&mut receiver, &mut ledger, &message);
    }
    assert_eq!(step, Step::Ready);
    let wants = ledger.wants(plan);
    let mut messages = 0;
    let sent = send::content(
        plan,
        &wants,
        |message| {
            messages += 1;
            if cut.is_some_and(|cut| messages > cut) {
                return Err(());
            }
            step = deliver(&mut receiver, &mut ledger, message);
            Ok(())
        },
        |sent| {
            if let Sent::Bytes(n) = sent {
                carried += n;
            }
        },
    );
    if sent.is_err() {
        receiver.interrupt();
    } else {
        assert_eq!(step, Step::End);
    }
    let complete = receiver.complete();
    Outcome { ledger, seen, carried, complete }
}

/// Folders, empty and full, files, empty, small and of several blocks.
fn tree(at: &Path) {
    for folder in ["t", "t/empty", "t/deep/er"] {
        fs::create_dir_all(at.join(folder)).unwrap();
    }
    let noise: Vec<u8> =
        (0..1_500_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(at.join("t/big"), &noise).unwrap();
    fs::write(at.join("t/deep/er/small"), b"small").unwrap();
    fs::write(at.join("t/deep/copy"), b"small").unwrap();
    fs::write(at.join("t/nothing"), b"").unwrap();
    fs::write(at.join("t/run"), b"#!/bin/sh\n").unwrap();
    #[cfg(unix)]
    fs::set_permissions(at.join("t/run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

fn same(a: &Path, b: &Path) {
    let (left, right) = (plan(a), plan(b));
    assert_eq!(left.entries, right.entries);
}

#[test]
fn a_tree_arrives_whole() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(here.path());
    let plan = plan(&here.path().join("t"));
    let outcome = attempt(&plan, there.path(), false, None);
    assert!(outcome.complete);
    assert_eq!(outcome.ledger.verified(), plan.entries.len());
    assert_eq!(outcome.carried, plan.bytes);
    same(&here.path().join("t"), &there.path().join("t"));
    let names: Vec<_> = fs::read_dir(there.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["t"], "nothing is left over");
}

#[test]
fn a_second_time_nothing_is_sent() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(here.path());
    let plan = plan(&here.path().join("t"));
    attempt(&plan, there.path(), false, None);
    let again = attempt(&plan, there.path(), false, None);
    assert_eq!((again.carried, again.complete), (0, true));
    assert_eq!(again.ledger.whole(&plan), plan.bytes);
    let begins = Seen::Begins { files: 5, bytes: plan.bytes, here: plan.bytes };
    assert!(again.seen.contains(&begins), "{:?}", again.seen);
}

#[test]
fn it_goes_on_wherever_it_was_cut() {
    let here = tempfile::tempdir().unwrap();
    tree(here.path());
    let plan = plan(&here.path().join("t"));
    let cuts = plan.bytes / super::BLOCK as u64 + 12;
    for cut in 0..cuts as usize {
        let there = tempfile::tempdir().unwrap();
        let first = attempt(&plan, there.path(), false, Some(cut));
        let second = attempt(&plan, there.path(), false, None);
        assert!(second.complete, "cut after {cut} messages");
        assert!(
            first.carried + second.carried <= plan.bytes + super::BLOCK as u64,
            "cut after {cut} messages"
        );
        same(&here.path().join("t"), &there.path().join("t"));
    }
}

#[test]
fn a_part_of_other_content_is_not_used() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = here.path().join("file");
    fs::write(&path, vec![1; 2_000_000]).unwrap();
    let plan = plan(&path);
    attempt(&plan, there.path(), false, Some(4));
    // The file changes under the same manifest: what the receiver has is not its beginning.
    fs::write(&path, vec![2; 2_000_000]).unwrap();
    let outcome = attempt(&plan, there.path(), false, None);
    assert!(!outcome.complete);
    assert_eq!(outcome.ledger.failures().collect::<Vec<_>>(), [(0, Some(Reason::Changed))]);
    assert!(!there.path().join("file").exists());
}

#[test]
fn a_file_that_shrinks_fails_alone() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(here.path());
    let plan = plan(&here.path().join("t"));
    fs::write(here.path().join("t/big"), b"cut").unwrap();
    let outcome = attempt(&plan, there.path(), false, None);
    assert_eq!(outcome.ledger.failures().count(), 1);
    assert_eq!(fs::read(there.path().join("t/run")).unwrap(), b"#!/bin/sh\n");
    assert!(!there.path().join("t/big").exists());
}

#[test]
fn other_content_is_replaced_or_kept() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(here.path().join("file"), b"new").unwrap();
    fs::write(there.path().join("file"), b"old").unwrap();
    let plan = plan(&here.path().join("file"));
    let kept = attempt(&plan, there.path(), true, None);
    assert_eq!(kept.ledger.failures().collect::<Vec<_>>(), [(0, Some(Reason::Occupied))]);
    assert_eq!(fs::read(there.path().join("file")).unwrap(), b"old");
    assert!(attempt(&plan, there.path(), false, None).complete);
    assert_eq!(fs::read(there.path().join("file")).unwrap(), b"new");
}

#[cfg(unix)]
#[test]
fn links_at_the_receiver_are_not_followed() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(here.path().join("file"), b"new").unwrap();
    let outside = here.path().join("outside");
    fs::write(&outside, b"outside").unwrap();
    std::os::unix::fs::symlink(&outside, there.path().join("file")).unwrap();
    assert!(attempt(&plan(&here.path().join("file")), there.path(), false, None).complete);
    assert_eq!(fs::read(&outside).unwrap(), b"outside");
    assert!(!fs::symlink_metadata(there.path().join("file")).unwrap().is_symlink());
}

#[cfg(unix)]
#[test]
fn links_at_the_sender_are_skipped() {
    let here = tempfile::tempdir().unwrap();
    tree(here.path());
    std::os::unix::fs::symlink("/etc/passwd", here.path().join("t/link")).unwrap();
    let plan = plan(&here.path().join("t"));
    assert_eq!(plan.skipped.len(), 1);
    assert!(plan.entries.iter().all(|entry| entry.path != "t/link"));
}

#[test]
fn a_sender_that_breaks_the_protocol_is_stopped() {
    let entry = |path: &str| Entry {
        path: path.into(),
        kind: Kind::File { size: 3, hash: *blake3::hash(b"abc").as_bytes(), executable: false },
    };
    let file = |from| Request::File { index: 0, from };
    let cases: Vec<Vec<Request<'_>>> = vec![
        vec![Request::Done],
        vec![Request::Hello(u64::MAX >> 2)],
        vec![Request::Hello(1), Request::Entries(vec![])],
        vec![Request::Hello(1), Request::Entries(vec![entry("a"), entry("b")])],
        vec![Request::Hello(1), Request::Entries(vec![entry("../a")])],
        vec![Request::Hello(1), Request::Entries(vec![entry("/a")])],
        vec![Request::Hello(1), Request::Entries(vec![entry("a")]), Request::Data(b"a")],
        vec![Request::Hello(1), Request::Entries(vec![entry("a")]), file(1)],
        vec![Request::Hello(1), Request::Entries(vec![entry("a")]), Request::File { index: 1, from: 0 }],
        vec![Request::Hello(1), Request::Entries(vec![entry("a")]), file(0), Request::Data(b"")],
        vec![Request::Hello(1), Request::Entries(vec![entry("a")]), file(0), Request::Data(b"abcd")],
        vec![Request::Hello(1), Request::Entries(vec![entry("a")]), file(0), Request::Data(b"abc"), file(0)],
        vec![Request::Hello(1), Request::Entries(vec![entry("a")]), Request::Done, Request::Done],
    ];
    for case in cases {
        let there = tempfile::tempdir().unwrap();
        let mut receiver = Receiver::new(there.path(), false);
        let (last, before) = case.split_last().unwrap();
        for request in before {
            receiver.handle(&request.message(), &mut |_| {}, &mut |_| {}).unwrap();
        }
        let broken = receiver.handle(&last.message(), &mut |_| {}, &mut |_| {});
        assert!(broken.is_err(), "{case:?}");
    }
}

#[test]
fn content_with_another_hash_does_not_stay() {
    let there = tempfile::tempdir().unwrap();
    let hash = *blake3::hash(b"abc").as_bytes();
    let entry = Entry { path: "a".into(), kind: Kind::File { size: 3, hash, executable: false } };
    let mut receiver = Receiver::new(there.path(), false);
    let mut seen = Vec::new();
    for request in [
        Request::Hello(1),
        Request::Entries(vec![entry]),
        Request::File { index: 0, from: 0 },
        Request::Data(b"abd"),
        Request::Done,
    ] {
        receiver.handle(&request.message(), &mut |_| {}, &mut |s| seen.push(s)).unwrap();
    }
    assert!(matches!(seen[2], Seen::Failed(0, Reason::Changed, _)), "{seen:?}");
    assert!(!receiver.complete());
    assert_eq!(fs::read_dir(there.path()).unwrap().count(), 0);
}
