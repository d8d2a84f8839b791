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
    assert_eq!(
        (&done["events_in_memory"], &done["events_on_mesh"]),
        (&done["events"], &done["events"]),
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

#[test]
fn a_machine_is_looked_at_and_a_running_node_counted() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_string();
    let (inbox, state, man) = (path("inbox"), path("state"), path("man"));
    let bind = free().to_string();
    let mut receiver = Running::start(&["recv", &inbox, "--dir", &state, "--bind", &bind]);
    let invite = receiver.event("ready")["invite"].as_str().expect("an invite").to_string();
    let output = run(&["doctor", "--to", &invite, "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for name in
        ["UDP buffers", "loopback", "GSO", "GRO", "ECN", "clock", "timers", "ciphers", "state", "path"]
    {
        assert!(text.contains(&format!("\"name\":\"{name}\"")), "no check of {name}: {text}");
    }
    #[cfg(unix)]
    {
        let stats = last(&run(&["stats", "--dir", &state, "--json"]));
        assert!(stats["node"]["datagrams_received"].as_u64() > Some(0), "{stats}");
        receiver.kill();
        assert_eq!(run(&["stats", "--dir", &state]).status.code(), Some(3));
    }
    assert_eq!(run(&["man", &man]).status.code(), Some(0));
    assert!(fs::read_to_string(dir.path().join("man/net-recv.1")).expect("a page").contains("advertise"));
}

#[test]
fn the_configuration_file_is_strict() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("config.toml");
    let state = dir.path().join("state");
    let with = |text: &str| {
        fs::write(&file, text).expect("a file");
        run(&["id", "--json", "--config", file.to_str().expect("UTF-8")])
    };
    let good = with(&format!("dir = {state:?}\n[transport]\nmax_peers = 9\n"));
    assert_eq!(last(&good)["dir"], state.to_str().expect("UTF-8"), "{good:?}");
    let bad = with("max_peers = 9\n");
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("max_peers"), "{bad:?}");
}

#[test]
fn a_flood_meets_the_receiver_and_nobody_else() {
    let output = run(&[
        "bench",
        "flood",
        "--rate",
        "2000",
        "--pairs",
        "1",
        "--seconds",
        "1",
        "--payload",
        "64",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = last(&output);
    let pair = &told["pairs"][0];
    assert!(pair["bogus_per_s"].as_f64() > Some(0.0), "the receiver saw no flood: {told}");
    assert!(pair["with"].as_f64() > Some(0.0) && told["kept_percent"].as_f64() > Some(0.0), "{told}");
    let abroad = run(&["bench-flooder", "192.0.2.1:9", "--rate", "100"]);
    assert_eq!(abroad.status.code(), Some(2), "{abroad:?}");
}
