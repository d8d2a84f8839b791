//! Records of real nodes, lived again.

use std::path::{Path, PathBuf};

use net_proto::node::{Event, Step};
use net_shell::trace::{self, Entry, Reader};
use serde_json::Value;

use crate::common::{last, run};

/// Records the demo; the files of its nodes.
fn recorded(dir: &Path) -> [PathBuf; 3] {
    let input = dir.join("input.txt");
    let lines: String = (0..20_000).map(|i| format!("line {i} of what goes through the demo\n")).collect();
    std::fs::write(&input, lines).unwrap();
    let record = dir.join("demo-%p");
    let demo = run(&[
        "demo",
        "--input",
        input.to_str().unwrap(),
        "--loss",
        "2",
        "--trace",
        record.to_str().unwrap(),
        "--json",
    ]);
    assert!(demo.status.success(), "{demo:?}");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| *path != input);
    files.sort();
    files.try_into().unwrap_or_else(|files| panic!("three records, not {files:?}"))
}

fn hex(hash: [u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_nodes_of_the_demo_replay_to_the_same_events_and_a_changed_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let records = recorded(dir.path());
    for record in &records {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(record).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let replayed = run(&["replay", record.to_str().unwrap(), "--json"]);
        assert!(replayed.status.success(), "{replayed:?}");
        let end = last(&replayed);
        assert_eq!((&end["same"], &end["cut"]), (&true.into(), &false.into()), "{end}");
        assert!(end["inputs"].as_u64().unwrap() > 50, "{end}");
        // What the file says came out is what came out again.
        assert_eq!(end["hash"], hex(trace::read(record).unwrap().hash()));
        let told = String::from_utf8_lossy(&replayed.stdout).into_owned();
        for name in ["connected", "stream_closed", "disconnected", "drained"] {
            assert!(told.contains(&format!("\"name\":\"{name}\"")), "{name} is missing in {told}");
        }
        println!("{}: {} inputs, {} a minute", record.display(), end["inputs"], end["inputs_per_minute"]);
    }
    let [_, b, _] = &records;
    one_changed_byte(b);

    // A record of a process that was killed ends somewhere.
    let bytes = std::fs::read(b).unwrap();
    std::fs::write(b, &bytes[..bytes.len() / 2]).unwrap();
    let cut = run(&["replay", b.to_str().unwrap(), "--summary", "--json"]);
    assert!(cut.status.success(), "{cut:?}");
    assert_eq!(last(&cut)["cut"], true);
    // Something else is no record.
    std::fs::write(b, b"something else").unwrap();
    assert_eq!(run(&["replay", b.to_str().unwrap()]).status.code(), Some(2));
}

/// Flips one bit of one datagram in the file, at several places; the replay stops at that step.
fn one_changed_byte(record: &Path) {
    let bytes = std::fs::read(record).unwrap();
    // Where each entry begins, and the number of the step that it is.
    let mut reader = Reader::open(record).unwrap();
    let size = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let mut at = 9 + 4 + size(9);
    let (mut step, mut datagrams, mut ended) = (0u64, Vec::new(), false);
    while let Some(entry) = reader.next_entry().unwrap() {
        let whole = at + 4..at + 4 + size(at);
        at = whole.end;
        ended |= matches!(entry, Entry::Event(Event::StreamClosed { .. }));
        let Entry::Step { step: lived, .. } = entry else { continue };
        step += 1;
        if let Step::Datagram { data, .. } = lived {
            // What comes for a session that closes changes nothing, whole or not.
            if ended {
                continue;
            }
            let offset = bytes[whole.clone()].windows(data.len()).position(|w| w == data).unwrap();
            datagrams.push((step, whole.start + offset + data.len() / 2));
        }
    }
    assert_eq!(at, bytes.len());
    for (step, place) in [datagrams[0], datagrams[datagrams.len() / 2], datagrams[datagrams.len() - 1]] {
        let mut changed = bytes.clone();
        changed[place] ^= 1;
        std::fs::write(record, changed).unwrap();
        let replayed = run(&["replay", record.to_str().unwrap(), "--summary", "--json"]);
        assert_eq!(replayed.status.code(), Some(6), "step {step}: {replayed:?}");
        let said = String::from_utf8_lossy(&replayed.stdout).into_owned();
        let differs = said.lines().find(|line| line.contains("\"differs\"")).expect("the first difference");
        let differs: Value = serde_json::from_str(differs).unwrap();
        assert_eq!((&differs["step"], &differs["name"]), (&step.into(), &"datagram".into()), "{differs}");
    }
    std::fs::write(record, bytes).unwrap();
}
