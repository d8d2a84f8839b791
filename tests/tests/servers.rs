//! The harness for real servers: they start, die, stand still and come back, and leave nothing.

use net_tests::servers::redis::{Answer, Redis, cluster};
use net_tests::servers::{Recipe, Server};

fn text(text: &str) -> Answer {
    Answer::Text(text.to_owned())
}

#[test]
fn data_survive_a_kill_and_the_port_stays() {
    let mut redis = Server::start(Redis::durable());
    let (addr, dir) = (redis.addr(), redis.place().dir.clone());
    assert_eq!(redis.call(&["SET", "a", "1"]), text("OK"));
    redis.kill();
    assert!(!redis.is_running() && std::net::TcpStream::connect(addr).is_err());
    redis.restart();
    assert_eq!((redis.addr(), redis.call(&["GET", "a"])), (addr, text("1")));
    redis.stop();
    redis.restart();
    assert_eq!(redis.call(&["GET", "a"]), text("1"));
    drop(redis);
    assert!(!dir.exists() && std::net::TcpStream::connect(addr).is_err());
}

#[test]
fn a_paused_server_is_silent_and_goes_on() {
    let redis = Server::start(Redis::volatile());
    redis.pause();
    let mut client = net_tests::servers::redis::Client::connect(redis.addr()).expect("the system accepts");
    let asked = std::thread::spawn(move || client.call(&["PING"]));
    redis.resume();
    assert_eq!(asked.join().expect("no panic").expect("an answer"), text("PONG"));
}

#[test]
fn a_panic_leaves_nothing() {
    let redis = Server::start(Redis::volatile());
    let (addr, dir) = (redis.addr(), redis.place().dir.clone());
    let panicked = std::thread::spawn(move || {
        let _redis = redis;
        panic!("on purpose")
    });
    assert!(panicked.join().is_err());
    assert!(!dir.exists() && std::net::TcpStream::connect(addr).is_err());
}

#[test]
fn a_server_that_cannot_start_says_what_it_wrote() {
    let why = std::panic::catch_unwind(|| Server::start(Redis::volatile().option("no-such-option", "1")));
    let why = why.err().expect("it cannot start");
    let why = why.downcast_ref::<String>().expect("a message");
    assert!(why.contains("redis-server ended with") && why.contains("no-such-option"), "{why}");
}

#[test]
fn a_cluster_comes_together() {
    let nodes = cluster();
    let moved = nodes.iter().filter(|node| matches!(node.call(&["GET", "a"]), Answer::Error(_))).count();
    assert_eq!(moved, 2, "one of three has the slot");
}

#[test]
fn a_sentinel_knows_its_master() {
    let redis = Server::start(Redis::volatile());
    let sentinel = Server::start(Redis::sentinel(redis.addr(), 1));
    assert_eq!(sentinel.recipe().program().package, "redis-sentinel");
    let master = sentinel.call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "net"]);
    assert_eq!(master, Answer::List(vec![text("127.0.0.1"), text(&redis.port().to_string())]));
}
