//! `net bus` against real servers of Redis and NATS, and between processes of the mesh.

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use net_tests::servers::Server;
use net_tests::servers::nats::Nats;
use net_tests::servers::redis::{self, Answer, Redis};
use serde_json::Value;

use crate::common::{Running, last, net, run};

const EVENTS: usize = 3_000;

/// Runs it with this input.
fn fed(args: &[&str], input: &[u8]) -> Output {
    let mut command = net(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // One that ends early does not read everything.
    _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn lines(n: usize) -> String {
    (0..n).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

fn objects(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The words of a command with where the events are.
fn words<'a>(command: &[&'a str], at: &[&'a str]) -> Vec<&'a str> {
    ["bus"].iter().chain(command).chain(at).copied().collect()
}

/// What an operator does in a day, against one transport.
fn a_day(at: &[&str], counts: bool) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_string();
    let (file, place) = (path("lines"), path("place"));
    fs::write(&file, lines(EVENTS)).expect("a file");

    // Nothing is there yet, and looking makes nothing.
    let empty = run(&words(&["status", "--json"], at));
    assert_eq!(
        (empty.status.code(), &last(&empty)["shards"]),
        (Some(0), &Value::Array(Vec::new())),
        "{empty:?}"
    );
    let empty = run(&words(&["tail", "--json"], at));
    assert_eq!((empty.status.code(), &last(&empty)["events"]), (Some(0), &0.into()), "{empty:?}");

    let emitted = run(&words(&["emit", "--json", &file], at));
    assert_eq!(emitted.status.code(), Some(0), "{emitted:?}");
    let told = last(&emitted);
    assert_eq!((&told["acknowledged"], &told["lost"]), (&EVENTS.into(), &0.into()), "{told}");
    let watermark = told["watermarks"][0]["id"].as_str().expect("an id").to_string();
    assert!(watermark.ends_with(&format!(":0:{EVENTS}")), "{watermark}");

    let status = last(&run(&words(&["status", "--json"], at)));
    assert_eq!((&status["healthy"], &status["shards"][0]["shard"]), (&true.into(), &0.into()), "{status}");
    if counts {
        assert_eq!(status["events"], EVENTS, "{status}");
    }

    // Everything, as it went in; and the same again, as reading takes nothing away.
    for _ in 0..2 {
        let all = run(&words(&["tail"], at));
        assert_eq!((all.status.code(), stdout(&all)), (Some(0), lines(EVENTS)));
    }
    let some = run(&words(&["tail", "--json", "--filter", "{\"$ge\":{\"path\":\"n\",\"value\":2998}}"], at));
    let found = objects(&some);
    assert_eq!(
        found.iter().filter_map(|o| o["data"].as_str()).collect::<Vec<_>>(),
        ["{\"n\":2998}", "{\"n\":2999}"]
    );
    assert_eq!(found[1]["id"], watermark.as_str(), "what emit called acknowledged is the last one");

    // In portions, from a file that keeps the place; then by hand from the cursor that was printed.
    let mut read = String::new();
    for _ in 0..2 {
        let part = run(&words(&["tail", "--limit", "1000", "--cursor-file", &place], at));
        assert_eq!(part.status.code(), Some(0), "{part:?}");
        read += &stdout(&part);
    }
    let token = fs::read_to_string(&place).expect("the place");
    let rest = run(&words(&["tail", "--from", token.trim()], at));
    read += &stdout(&rest);
    assert_eq!(read, lines(EVENTS));
    assert!(stderr(&rest).contains("1000 events; go on with --from "), "{rest:?}");
    let newest = run(&words(&["tail", "--json", "--from", "newest"], at));
    assert_eq!(last(&newest)["events"], 0, "{newest:?}");

    // What comes later, also in shards that nobody had written to.
    let follow = words(&["tail", "--follow", "--from", token.trim(), "--limit", "1008"], at);
    let mut follow = Running::start(&follow);
    assert_eq!(follow.event("event")["data"], "{\"n\":2000}");
    let more: String = (0..8).map(|n| format!("late {n}\n")).collect();
    let late = fed(&words(&["emit", "--key", "a", "--shards", "7", "--batch", "2"], at), more.as_bytes());
    assert_eq!(late.status.code(), Some(0), "{late:?}");
    assert_eq!(follow.event("end")["events"], 1008);
    assert_eq!(follow.wait(), Some(0));

    let measured = run(&words(&["bench", "--events", "700", "--json"], at));
    assert_eq!(measured.status.code(), Some(0), "{measured:?}");
    let told = last(&measured);
    for field in ["acknowledged_per_s", "read_per_s", "ack_p50_us", "ack_p99_us"] {
        assert!(told[field].as_f64() > Some(0.0), "no {field}: {told}");
    }
    // Not among the events of others, unless that was said.
    let all = last(&run(&words(&["tail", "--json"], at)));
    let own = if at.contains(&"--name") { told["events"].as_u64() } else { Some(0) };
    let others = (EVENTS + 8) as u64;
    assert!(all["events"].as_u64() >= own.map(|own| own + others), "{all}");
    assert!(own > Some(0) || all["events"] == others, "{all}");
}

#[test]
fn a_day_on_redis() {
    let server = Server::start(Redis::volatile());
    let addr = server.addr().to_string();
    a_day(&["--redis", &addr], true);
}

#[test]
fn a_day_on_a_cluster_of_redis() {
    let members = redis::cluster();
    a_day(&["--redis", &members[1].addr().to_string(), "--cluster"], true);
}

#[test]
fn a_day_under_a_sentinel() {
    let master = Server::start(Redis::volatile());
    let sentinel = Server::start(Redis::sentinel(master.addr(), 1));
    a_day(&["--redis", &sentinel.addr().to_string(), "--sentinel", "net"], true);
}

/// With the rights of the guide, for the names that are used here.
#[test]
fn a_day_with_tls_and_a_user_of_few_rights() {
    let file = |name: &str| net_tests::root().join("tests/src/servers/tls").join(name);
    let text = |name: &str| fs::read_to_string(file(name)).expect("a file of the tests");
    let mut recipe = Redis::volatile();
    for name in ["server.pem", "server.key", "ca.pem"] {
        recipe = recipe.file(name, &text(name));
    }
    let server = Server::start(recipe.tls("server.pem", "server.key", "ca.pem"));
    let page = fs::read_to_string(net_tests::root().join("docs/REDIS.md")).expect("the guide");
    let rights = page.split('`').find(|part| part.starts_with("+type ")).expect("the rights");
    let mut rule = vec!["ACL", "SETUSER", "bus", "on", ">secret", "~net:*", "~net_bench:*"];
    rule.extend(rights.split_whitespace());
    assert_eq!(server.call(&rule), Answer::Text("OK".into()));
    let url = format!("rediss://bus:secret@127.0.0.1:{}", server.place().ports[1]);
    a_day(&["--redis", &url, "--ca", file("ca.pem").to_str().expect("UTF-8")], true);
    let stranger = run(&["bus", "status", "--redis", &url]);
    assert_eq!(stranger.status.code(), Some(4), "the system does not trust this authority: {stranger:?}");
}

#[test]
fn a_day_on_jetstream_with_tls() {
    let server = Server::start(Nats::new().tls(false));
    let ca = net_tests::root().join("tests/data/tls/ca.pem");
    let url = format!("tls://{}", server.addr());
    a_day(&["--jetstream", &url, "--ca", ca.to_str().expect("UTF-8")], true);
}

#[test]
fn a_day_on_jetstream() {
    let server = Server::start(Nats::new());
    a_day(&["--jetstream", &server.url()], true);
}

#[test]
fn a_day_on_the_mesh() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("state");
    let keep = ["bus", "keep", "plant", "--bind", "127.0.0.1:0", "--dir", state.to_str().expect("UTF-8")];
    let mut keeper = Running::start(&keep);
    let invite = keeper.event("ready")["invite"].as_str().expect("an invite").to_string();
    a_day(&["--name", "plant", "--mesh", &invite], true);
    let wrong = run(&["bus", "status", "--mesh", &invite, "--json"]);
    assert_eq!((wrong.status.code(), &last(&wrong)["code"]), (Some(4), &4.into()), "{wrong:?}");
    assert!(last(&wrong)["remedy"].as_str().is_some_and(|text| text.contains("net bus keep")), "{wrong:?}");
    keeper.kill();
    let gone = run(&["bus", "status", "--mesh", &invite, "--name", "plant"]);
    assert_eq!(gone.status.code(), Some(3), "{gone:?}");
}

#[test]
fn what_was_trimmed_is_told() {
    let server = Server::start(Redis::volatile());
    let addr = server.addr().to_string();
    let at = ["--redis", &addr];
    let dir = tempfile::tempdir().expect("a folder");
    let place = dir.path().join("place").to_str().expect("UTF-8").to_string();
    assert_eq!(fed(&words(&["emit"], &at), lines(20).as_bytes()).status.code(), Some(0));
    run(&words(&["tail", "--limit", "5", "--cursor-file", &place], &at));
    server.call(&["XTRIM", "net:shard:0", "MAXLEN", "=", "3"]);
    let rest = run(&words(&["tail", "--json", "--cursor-file", &place], &at));
    let told = objects(&rest);
    assert_eq!((rest.status.code(), &told[0]["event"]), (Some(5), &"lost".into()), "{rest:?}");
    assert_eq!(
        told.iter().filter_map(|o| o["data"].as_str()).collect::<Vec<_>>(),
        ["{\"n\":17}", "{\"n\":18}", "{\"n\":19}"]
    );
    fs::remove_file(&place).expect("it is there");
    run(&words(&["tail", "--limit", "1", "--cursor-file", &place], &at));
    server.call(&["XTRIM", "net:shard:0", "MAXLEN", "=", "1"]);
    let rest = run(&words(&["tail", "--cursor-file", &place], &at));
    assert!(stderr(&rest).contains("Lost{shard: 0, from: "), "{rest:?}");
    assert_eq!(stdout(&rest), "{\"n\":19}\n");
}

#[test]
fn what_is_not_acknowledged_is_told_or_kept() {
    let mut server = Server::start(Redis::durable());
    let addr = server.addr().to_string();
    let dir = tempfile::tempdir().expect("a folder");
    let outbox = dir.path().join("outbox").to_str().expect("UTF-8").to_string();
    let emit = ["bus", "emit", "--redis", &addr, "--patience", "1", "--json"];
    // The first line is acknowledged; from then on nobody answers.
    let interrupted = |server: &mut Server<Redis>, before: i64, more: &[&str]| {
        let mut command = net(&emit);
        command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(b"first\n").expect("it reads");
        let stored = || server.call(&["XLEN", "net:shard:0"]) == Answer::Number(before + 1);
        net_tests::lab::until("the first line is stored", || stored().then_some(()));
        // The server answers this one after it has answered that.
        server.call(&["PING"]);
        server.kill();
        stdin.write_all(lines(7).as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        server.restart();
        output
    };
    let lost = interrupted(&mut server, 0, &[]);
    assert_eq!(lost.status.code(), Some(3), "{lost:?}");
    let told = objects(&lost);
    let told = told.iter().find(|o| o["event"] == "emitted").expect("the balance");
    assert_eq!((&told["acknowledged"], &told["lost"]), (&1.into(), &7.into()), "{told}");
    assert!(told["watermarks"][0]["id"].as_str().is_some_and(|id| id.ends_with(":0:1")), "{told}");
    assert!(stderr(&lost).contains("7 events were not acknowledged"), "{lost:?}");

    let kept = interrupted(&mut server, 1, &["--outbox", &outbox]);
    assert_eq!(kept.status.code(), Some(3), "{kept:?}");
    assert!(stderr(&kept).contains("7 events wait in "), "{kept:?}");
    let sent = fed(&["bus", "emit", "--redis", &addr, "--outbox", &outbox, "--json"], b"after\n");
    assert_eq!((sent.status.code(), &last(&sent)["acknowledged"]), (Some(0), &8.into()), "{sent:?}");
    let all = format!("first\nfirst\n{}after\n", lines(7));
    assert_eq!(stdout(&run(&["bus", "tail", "--redis", &addr])), all);
}

#[test]
fn memory_passes_through_and_says_what_it_is() {
    let passed = fed(&["bus", "emit", "--memory"], b"a\n\n\xff\nlast");
    assert_eq!(
        (passed.status.code(), &passed.stdout[..]),
        (Some(0), &b"a\n\n\xff\nlast\n"[..]),
        "{passed:?}"
    );
    assert!(stderr(&passed).contains("4 events acknowledged by memory"), "{passed:?}");
    let told =
        objects(&fed(&["bus", "emit", "--memory", "--json", "--shards", "3", "--key", "k"], b"a\n\xff\n"));
    assert_eq!((&told[0]["data"], &told[1]["hex"], &told[2]["lost"]), (&"a".into(), &"ff".into(), &0.into()));
    let long = fed(
        &["bus", "emit", "--memory", "--json"],
        &[b"x".repeat((1 << 20) + 1), b"\nb\n".to_vec()].concat(),
    );
    assert_eq!((long.status.code(), &objects(&long)[0]["line"]), (Some(5), &1.into()), "{:?}", long.stderr);
    let measured = run(&["bus", "bench", "--memory", "--events", "700", "--json"]);
    assert_eq!((measured.status.code(), &last(&measured)["name"]), (Some(0), &"net_bench".into()));
    for command in ["tail", "status"] {
        let told = run(&["bus", command, "--memory", "--json"]);
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        assert!(last(&told)["remedy"].as_str().is_some_and(|text| text.contains("--redis")), "{told:?}");
    }
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let server = Server::start(Redis::volatile().password("secret"));
    let (addr, nobody) = (server.addr().to_string(), crate::common::free().to_string());
    let code = |args: &[&str]| {
        let output = run(args);
        let text = stderr(&output);
        assert!(text.starts_with("net: ") || text.starts_with("error: "), "{args:?}: {text}");
        output.status.code()
    };
    assert_eq!(code(&["bus", "tail"]), Some(2), "no transport");
    assert_eq!(code(&["bus", "tail", "--redis", "a", "--jetstream", "b"]), Some(2));
    assert_eq!(code(&["bus", "tail", "--redis", &nobody, "--from", "somewhere"]), Some(2));
    assert_eq!(code(&["bus", "tail", "--redis", &nobody, "--filter", "{"]), Some(2));
    assert_eq!(code(&["bus", "emit", "--mesh", "ni1cut", "Cargo.toml"]), Some(2));
    assert_eq!(code(&["bus", "emit", "--redis", &nobody, "missing"]), Some(1));
    assert_eq!(code(&["bus", "bench", "idle", "--redis", &nobody]), Some(2));
    assert_eq!(code(&["bus", "bench", "--redis", &nobody, "--events", "1000001"]), Some(2));
    assert_eq!(code(&["bus", "bench", "--redis", &nobody]), Some(3));
    assert_eq!(code(&["bus", "status", "--redis", &nobody]), Some(3));
    assert_eq!(code(&["bus", "status", "--redis", &addr]), Some(4), "no password");
    let url = format!("redis://:secret@{addr}");
    let output = net(&["bus", "status", "--json"]).env("NET_BUS", &url).output().expect("the program runs");
    assert_eq!((output.status.code(), &last(&output)["transport"]), (Some(0), &"redis".into()), "{output:?}");
}

#[test]
fn a_stream_with_other_options_is_read_but_not_written() {
    let server = Server::start(Nats::new());
    let at = ["--jetstream", &server.url()];
    let emit = words(&["emit", "--retain", "100"], &at);
    assert_eq!(fed(&emit, b"a\n").status.code(), Some(0));
    let other = fed(&words(&["emit"], &at), b"b\n");
    assert_eq!(other.status.code(), Some(4), "{other:?}");
    assert!(stderr(&other).contains("max_msgs") && stderr(&other).contains("--retain"), "{other:?}");
    assert_eq!(stdout(&run(&words(&["tail"], &at))), "a\n");
}

#[test]
fn every_row_of_the_benchmark_is_measured() {
    let rows = ["emit-1", "emit-2", "latency", "idle", "durable-1", "durable-64", "mesh"];
    let args = [&["bus", "bench", "--events", "640", "--seconds", "1", "--json"], &rows[..]].concat();
    let output = run(&args);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = objects(&output);
    let fields =
        ["accepted_per_s", "accepted_per_s", "p99_us", "seconds", "ratio", "commits", "acknowledged_per_s"];
    assert_eq!(told.len(), rows.len(), "{output:?}");
    for (row, field) in told.iter().zip(fields) {
        assert!(row[field].as_f64() > Some(0.0), "no {field}: {row}");
    }
}
