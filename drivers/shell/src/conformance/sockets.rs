//! Sockets.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll, Waker};

use net_proto::path::Ecn;

use super::Env;
use super::help::{Flag, Socket, cut, cuts, one, poll_recv, recv, send, spawn, yield_now};
use crate::runtime::{Transmit, UdpOptions, UdpTx};

fn plain() -> UdpOptions {
    UdpOptions::default()
}

pub(super) async fn port_zero_is_a_free_port(env: Env) {
    let (a, b) = env.sockets(plain());
    let (c, _d) = env.sockets(plain());
    for socket in [&a, &b, &c] {
        assert_ne!(socket.addr().port(), 0);
    }
    assert_eq!((a.addr().ip(), b.addr().ip()), (env.here_ip, env.there_ip));
    assert_ne!(a.addr(), c.addr());
}

pub(super) async fn an_address_in_use_is_refused(env: Env) {
    let (a, _b) = env.sockets(plain());
    let second = env.here.bind(a.addr(), &plain());
    assert_eq!(second.err().map(|e| e.kind()), Some(ErrorKind::AddrInUse));
}

pub(super) async fn a_foreign_address_is_refused(env: Env) {
    // TEST-NET-1 (RFC 5737): nobody has it.
    let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
    let refused = env.here.bind(foreign, &plain());
    assert_eq!(refused.err().map(|e| e.kind()), Some(ErrorKind::AddrNotAvailable));
}

pub(super) async fn both_families_share_a_port(env: Env) {
    let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    // Another program may hold the port in the other family: then the next one is tried.
    for _ in 0..20 {
        let v6 = Socket::bind(&env.here, any6, &plain());
        let port = v6.addr().port();
        let Ok((tx, rx)) = env.here.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), &plain()) else {
            continue;
        };
        let mut v4 = Socket { tx, rx };
        let sender = Socket::bind(&env.here, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &plain());
        sender.send(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), b"four").await;
        assert_eq!(v4.recv(1).await[0].data, b"four", "IPv4 goes to the socket for IPv4");
        return;
    }
    panic!("the port of an IPv6 socket is never free in IPv4: it takes both families");
}

pub(super) async fn ipv6_carries_datagrams(env: Env) {
    let at = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let mut a = Socket::bind(&env.here, at, &plain());
    let mut b = Socket::bind(&env.there, at, &plain());
    talk(&mut a, &mut b).await;
}

/// One datagram there and one back.
async fn talk(a: &mut Socket, b: &mut Socket) {
    let (at_a, at_b) = (a.addr(), b.addr());
    for (ecn, data) in [(Ecn::NotEct, &b"x"[..]), (Ecn::Ect0, &[7; 1200]), (Ecn::Ce, b"ce")] {
        send(&*a.tx, &Transmit { ecn, ..one(at_b, data) }).await.expect("it leaves");
        let got = b.recv(1).await.remove(0);
        assert_eq!((got.from, &got.data[..]), (at_a, data));
        if b.tx.caps().ecn && a.tx.caps().ecn {
            assert_eq!(got.ecn, ecn);
        }
        b.send(at_a, data).await;
        let got = a.recv(1).await.remove(0);
        assert_eq!((got.from, &got.data[..]), (at_b, data));
    }
}

pub(super) async fn a_datagram_arrives_as_it_was_sent(env: Env) {
    let (mut a, mut b) = env.sockets(plain());
    talk(&mut a, &mut b).await;
}

/// `count` datagrams of `size` bytes and a last one of `last`, each filled with its number.
fn batch(count: usize, size: usize, last: usize) -> Vec<u8> {
    let mut data = Vec::new();
    for i in 0..count {
        data.resize(data.len() + if i + 1 == count { last } else { size }, i as u8);
    }
    data
}

/// Sends `data` as datagrams of `size` bytes, in the largest batches that the socket takes.
async fn send_all(tx: &dyn UdpTx, to: SocketAddr, data: &[u8], size: usize) {
    let segments = tx.caps().segments;
    // No system takes more than 64 KiB at once.
    for data in data.chunks(size * segments.min(60_000 / size)) {
        let segment = (data.len() > size).then_some(size);
        send(tx, &Transmit { segment, ..one(to, data) }).await.expect("the batch leaves");
    }
}

pub(super) async fn a_batch_keeps_its_boundaries(env: Env) {
    let (a, mut b) = env.sockets(plain());
    for (count, size, last) in [(2, 100, 100), (10, 1200, 1100), (5, 300, 1)] {
        send_all(&*a.tx, b.addr(), &batch(count, size, last), size).await;
        for (i, got) in b.recv(count).await.into_iter().enumerate() {
            let len = if i + 1 == count { last } else { size };
            assert_eq!(got.data, vec![i as u8; len], "datagram {i} of {count}");
            assert_eq!(got.from, a.addr());
        }
    }
}

pub(super) async fn the_largest_batch_is_sent_whole(env: Env) {
    let (a, mut b) = env.sockets(plain());
    let count = a.tx.caps().segments;
    let data = batch(count, 500, 499);
    let segment = (count > 1).then_some(500);
    send(&*a.tx, &Transmit { segment, ..one(b.addr(), &data) }).await.expect("the batch leaves");
    let got = b.recv(count).await;
    assert_eq!(got.len(), count);
    assert!(got.iter().enumerate().all(|(i, d)| d.data[0] == i as u8), "in order");
}

pub(super) async fn without_gso_a_batch_is_refused_whole(env: Env) {
    let (a, mut b) = env.sockets(UdpOptions { gso: false, ..plain() });
    assert_eq!(a.tx.caps().segments, 1);
    let data = batch(3, 100, 100);
    let refused = send(&*a.tx, &Transmit { segment: Some(100), ..one(b.addr(), &data) }).await;
    assert_eq!(refused.map_err(|e| e.kind()), Err(ErrorKind::Unsupported));
    a.send(b.addr(), b"alone").await;
    assert_eq!(b.recv(1).await[0].data, b"alone", "nothing of the batch came before");
}

pub(super) async fn without_gro_datagrams_come_one_by_one(env: Env) {
    let (a, mut b) = env.sockets(UdpOptions { gro: false, ..plain() });
    assert_eq!(b.tx.caps().gro_segments, 1);
    send_all(&*a.tx, b.addr(), &batch(20, 200, 200), 200).await;
    let got = b.recv(20).await;
    assert!(got.iter().enumerate().all(|(i, d)| d.data == [i as u8; 200]));
}

pub(super) async fn without_ecn_no_bits_are_set(env: Env) {
    let (mut a, mut b) = env.sockets(UdpOptions { ecn: false, ..plain() });
    assert!(!a.tx.caps().ecn);
    send(&*a.tx, &Transmit { ecn: Ecn::Ect0, ..one(b.addr(), b"x") }).await.expect("it leaves");
    assert_eq!(b.recv(1).await[0].ecn, Ecn::NotEct);
    // Nor are bits read that another sets.
    let c = Socket::bind(&env.there, env.there_addr(), &plain());
    send(&*c.tx, &Transmit { ecn: Ecn::Ect0, ..one(a.addr(), b"x") }).await.expect("it leaves");
    assert_eq!(a.recv(1).await[0].ecn, Ecn::NotEct);
}

pub(super) async fn caps_say_what_the_socket_can_do(env: Env) {
    let (a, _b) = env.sockets(plain());
    let caps = a.tx.caps();
    assert!(caps.segments >= 1 && caps.gro_segments >= 1, "{caps:?}");
    assert!(caps.send_buffer > 0 && caps.recv_buffer > 0, "{caps:?}");
    assert_eq!(a.tx.caps(), caps, "nothing was sent, nothing changed");
}

pub(super) async fn a_burst_is_received_in_order(env: Env) {
    const COUNT: usize = 200;
    // Bounded by what the system granted: 200 small datagrams fit everywhere.
    let (a, mut b) = env.sockets(plain());
    for i in 0..COUNT {
        a.send(b.addr(), &[i as u8; 100]).await;
    }
    let got = b.recv(COUNT).await;
    assert_eq!(got.len(), COUNT);
    assert!(got.iter().enumerate().all(|(i, d)| d.data == [i as u8; 100]));
}

pub(super) async fn who_would_block_is_told_when_to_go_on(env: Env) {
    // Whether a socket is ever full depends on the system; a fresh one may not know yet that it is
    // not. Either way the driver's rule leads to the end.
    let (a, mut b) = env.sockets(UdpOptions { send_buffer: 4096, ..plain() });
    let (at, mut blocked) = (b.addr(), 0u32);
    let data = batch(8, 1200, 1200);
    let reader = spawn(&*env.there, async move { b.recv(400).await.len() });
    for _ in 0..50 {
        for data in data.chunks(1200) {
            while let Err(e) = a.tx.try_send(&one(at, data)) {
                match e.kind() {
                    ErrorKind::WouldBlock => {
                        blocked += 1;
                        poll_fn(|cx| a.tx.poll_writable(cx)).await.expect("the socket lives");
                    }
                    ErrorKind::ResourceBusy => yield_now().await,
                    _ => panic!("{e}"),
                }
            }
        }
        yield_now().await;
    }
    assert_eq!(reader.recv().await, Ok(400), "blocked {blocked} times");
}

pub(super) async fn an_idle_socket_is_writable(env: Env) {
    let (a, mut b) = env.sockets(plain());
    for i in 0..20u8 {
        // Another waker gave up before.
        let _ = a.tx.poll_writable(&mut Context::from_waker(&Flag::new().waker()));
        poll_fn(|cx| a.tx.poll_writable(cx)).await.expect("the socket lives");
        a.send(b.addr(), &[i]).await;
        assert_eq!(b.recv(1).await[0].data, [i]);
    }
}

pub(super) async fn a_datagram_that_is_too_long_costs_only_itself(env: Env) {
    let (a, mut b) = env.sockets(plain());
    let refused = send(&*a.tx, &one(b.addr(), &[0; 65_508])).await;
    let kind = refused.map_err(|e| e.kind());
    assert!(kind.is_err(), "no datagram has 65,508 bytes");
    assert_ne!(kind, Err(ErrorKind::Unsupported), "it was not the batch");
    a.send(b.addr(), b"next").await;
    assert_eq!(b.recv(1).await[0].data, b"next");
}

pub(super) async fn pending_receives_wake_their_task(env: Env) {
    let (a, mut b) = env.sockets(plain());
    let at = b.addr();
    let (ready, listening) = async_channel::bounded(1);
    let reader = spawn(&*env.there, async move {
        let mut got = Vec::new();
        poll_fn(|cx| {
            let polled = poll_recv(&mut *b.rx, cx, &mut got);
            let _ = ready.try_send(polled.is_pending());
            polled
        })
        .await;
        got.remove(0).data
    });
    assert_eq!(listening.recv().await, Ok(true), "nothing came yet");
    a.send(at, b"wake up").await;
    assert_eq!(reader.recv().await, Ok(b"wake up".to_vec()));
}

pub(super) async fn the_waker_of_the_last_receive_counts(env: Env) {
    let (a, mut b) = env.sockets(plain());
    for round in 0..10u8 {
        let (first, second) = (Flag::new(), Flag::new());
        let mut got = Vec::new();
        for flag in [&first, &second, &first, &second] {
            let waker = flag.waker();
            assert!(poll_recv(&mut *b.rx, &mut Context::from_waker(&waker), &mut got).is_pending());
        }
        let woken = second.count();
        a.send(b.addr(), &[round]).await;
        second.woken(woken + 1).await;
        assert_eq!(b.recv(1).await[0].data, [round]);
    }
}

pub(super) async fn each_pending_receive_registers_anew(env: Env) {
    let (mut a, mut b) = env.sockets(plain());
    let (at_a, at_b) = (a.addr(), b.addr());
    let echo = spawn(&*env.there, async move {
        for _ in 0..300 {
            let got = b.recv(1).await.remove(0);
            b.send(at_a, &got.data).await;
        }
    });
    for i in 0..300u32 {
        a.send(at_b, &i.to_le_bytes()).await;
        assert_eq!(a.recv(1).await[0].data, i.to_le_bytes());
    }
    echo.recv().await.expect("the echo ends");
}

pub(super) async fn receiver_and_sender_work_in_different_tasks(env: Env) {
    let (a, b) = env.sockets(plain());
    let (at_a, at_b) = (a.addr(), b.addr());
    let mut tasks = Vec::new();
    for (socket, to, runtime) in [(a, at_b, &env.here), (b, at_a, &env.there)] {
        let Socket { tx, mut rx } = socket;
        tasks.push(spawn(&**runtime, async move { recv(&mut *rx, 100).await.len() }));
        tasks.push(spawn(&**runtime, async move {
            for i in 0..100u8 {
                send(&*tx, &one(to, &[i])).await.expect("it leaves");
                yield_now().await;
            }
            100
        }));
    }
    for task in tasks {
        assert_eq!(task.recv().await, Ok(100));
    }
}

pub(super) async fn a_receiver_may_move_between_tasks(env: Env) {
    let (a, mut b) = env.sockets(plain());
    let (at, runtime) = (b.addr(), env.there.clone());
    for i in 0..10u8 {
        // Registered here, waited for in another task.
        let mut none = Vec::new();
        let stale = Flag::new();
        assert!(poll_recv(&mut *b.rx, &mut Context::from_waker(&stale.waker()), &mut none).is_pending());
        let task = spawn(&*runtime, async move {
            let got = b.recv(1).await.remove(0).data;
            (b, got)
        });
        a.send(at, &[i]).await;
        let got;
        (b, got) = task.recv().await.expect("the task ends");
        assert_eq!(got, [i]);
    }
}

pub(super) async fn other_programs_can_talk_to_it(env: Env) {
    env.here.may_block("a plain socket");
    let mut a = Socket::bind(&env.here, env.here_addr(), &plain());
    let other = std::net::UdpSocket::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).expect("a plain socket");
    let (from, to) = (other.local_addr().expect("an address"), a.addr());
    let (ask, asked) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        asked.recv().expect("the case goes on");
        other.send_to(b"hello", to).expect("sent");
        let mut buf = [0; 100];
        let (len, _) = other.recv_from(&mut buf).expect("received");
        buf[..len].to_vec()
    });
    let mut got = Vec::new();
    let flag = Flag::new();
    assert!(poll_recv(&mut *a.rx, &mut Context::from_waker(&flag.waker()), &mut got).is_pending());
    ask.send(()).expect("the thread lives");
    flag.woken(1).await;
    let got = a.recv(1).await.remove(0);
    assert_eq!((got.from, &got.data[..]), (from, &b"hello"[..]));
    a.send(from, b"back").await;
    assert_eq!(thread.join().expect("the plain socket works"), b"back");
}

pub(super) async fn dropped_sockets_free_their_address(env: Env) {
    let (a, mut b) = env.sockets(plain());
    let mut at = a.addr();
    // One that waits, one that is full of datagrams, one that was never used.
    let mut none = Vec::new();
    assert!(poll_recv(&mut *b.rx, &mut Context::from_waker(Waker::noop()), &mut none).is_pending());
    drop(a);
    for round in 0..5 {
        let mut again = Socket::bind(&env.here, at, &plain());
        assert_eq!(again.addr(), at);
        for _ in 0..round {
            b.send(at, &[1; 1000]).await;
        }
        if round % 2 == 1 {
            again.recv(1).await;
        }
        at = again.addr();
    }
}

pub(super) async fn a_dropped_receive_loses_nothing(env: Env) {
    let (a, mut b) = env.sockets(plain());
    for (i, at) in cuts(2).enumerate() {
        // Woken or polled twice only if there is something.
        let must_come = !matches!(at, super::help::Cut::Polls(0 | 1));
        let mut got = Vec::new();
        if must_come {
            a.send(b.addr(), &[i as u8]).await;
        }
        let waited = cut(at, poll_fn(|cx| poll_recv(&mut *b.rx, cx, &mut got))).await;
        if !must_come {
            assert_eq!(waited, None);
            a.send(b.addr(), &[i as u8]).await;
        }
        if got.is_empty() {
            got = b.recv(1).await;
        }
        assert_eq!((got.len(), &got[0].data[..]), (1, &[i as u8][..]));
    }
    let mut none = Vec::new();
    let rest = poll_recv(&mut *b.rx, &mut Context::from_waker(Waker::noop()), &mut none);
    assert_eq!(rest, Poll::Pending, "nothing came twice");
}
