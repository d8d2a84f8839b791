//! What the program promises to scripts: exit codes, JSON, the demo.

use std::fs;

use crate::common::{Running, free, last, run};

#[test]
fn the_demo_shows_a_file_that_arrives_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("text");
    let lines: String =
        (0..20_000).map(|i| format!("line {i} of a text that nobody else may read\n")).collect();
    fs::write(&file, &lines).expect("a file");
    let output = run(&["demo", "--input", file.to_str().expect("UTF-8"), "--loss", "2", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let done = last(&output);
    assert_eq!((&done["verified"], &done["lines"]), (&true.into(), &20_000.into()), "{done}");
    assert_eq!(done["blake3"], blake3::hash(lines.as_bytes()).to_hex().as_str());
    assert_eq!(
        (&done["plaintext_matches"], &done["plaintext_markers_in_file"]),
        (&0.into(), &8.into()),
        "{done}"
    );
    assert!(done["datagrams_lost"].as_u64() > Some(0), "{done}");
    assert!(output.stderr.is_empty(), "no progress among JSON");
}

#[test]
fn exit_codes_tell_what_happened() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("state");
    let state = state.to_str().expect("UTF-8");
    let code = |args: &[&str]| run(args).status.code();
    assert_eq!(code(&["--version"]), Some(0));
    assert_eq!(code(&["--help"]), Some(0));
    assert_eq!(code(&["completions", "bash"]), Some(0));
    assert_eq!(code(&["nonsense"]), Some(2));
    assert_eq!(code(&["send", "/", "--to", "ni1cut"]), Some(2));
    assert_eq!(code(&["ping", "nt1cut", "--dir", state]), Some(2));
    assert_eq!(code(&["demo", "--loss", "100"]), Some(2));
    assert_eq!(code(&["demo", "--input", dir.path().join("missing").to_str().expect("UTF-8")]), Some(1));

    // Nobody is there.
    let bind = free().to_string();
    let mut receiver = Running::start(&["recv", state, "--dir", state, "--bind", &bind]);
    let invite = receiver.event("ready")["invite"].as_str().expect("an invite").to_string();
    receiver.kill();
    let file = dir.path().join("file");
    fs::write(&file, b"content").expect("a file");
    let file = file.to_str().expect("UTF-8");
    let output = run(&["send", file, "--to", &invite, "--patience", "1", "--json"]);
    assert_eq!((output.status.code(), &last(&output)["code"]), (Some(3), &3.into()), "{output:?}");
    assert!(!last(&output)["remedy"].is_null(), "{output:?}");
}

#[test]
fn an_identity_stays() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("state");
    let id = || last(&run(&["id", "--dir", state.to_str().expect("UTF-8"), "--json"]));
    let (first, second) = (id(), id());
    assert_eq!((&first["id"], &first["mesh"]), (&second["id"], &second["mesh"]));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &std::path::Path| path.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode(&state), 0o700);
        assert_eq!(mode(&state.join("identity")), 0o600);
    }
}
