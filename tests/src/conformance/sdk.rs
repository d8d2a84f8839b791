//! What the SDK promises, the same on every runtime.

use std::collections::BTreeSet;
use std::time::Duration;

use net_sdk::{
    DialError, DownReason, Drained, Error, FireAndForget, Mesh, MeshBuilder, MeshEvent, Mode, Peer, Reliable,
    Stream, Unordered, rt,
};
use net_shell::conformance::Env;
use net_shell::conformance::help::{poll_once, spawn, spawn_polled};

pub(super) fn here(env: &Env) -> MeshBuilder {
    Mesh::builder().bind(env.here_addr()).runtime(env.here.clone())
}

pub(super) fn there(env: &Env) -> MeshBuilder {
    Mesh::builder().bind(env.there_addr()).runtime(env.there.clone())
}

pub(super) async fn start(builder: MeshBuilder) -> Mesh {
    builder.start().await.expect("the node starts")
}

/// A node here that is connected to a node there.
pub(super) async fn pair(env: &Env) -> (Mesh, Mesh, Peer) {
    pair_with(env, there(env)).await
}

/// The same, and the node there takes [`LITTLE`] of what nobody reads.
pub(super) async fn pair_that_fills(env: &Env) -> (Mesh, Mesh, Peer) {
    pair_with(env, there(env).stream_window(LITTLE as u64)).await
}

const LITTLE: usize = 64 << 10;

/// Waits after [`fill`] in a [`pair_that_fills`]: acknowledgements that come later give back at most [`LITTLE`].
pub(super) static WAITS: [u8; LITTLE + 20_000] = [8; LITTLE + 20_000];

async fn pair_with(env: &Env, there: MeshBuilder) -> (Mesh, Mesh, Peer) {
    let b = start(there).await;
    let a = start(here(env).mesh(b.secret())).await;
    let peer = a.connect(b.ticket()).await.expect("connected");
    (a, b, peer)
}

/// Both ends of a stream whose first message went through.
pub(super) async fn opened(b: &Mesh, peer: &Peer, mode: Mode) -> (Stream, Stream) {
    let tx = peer.open_stream("case", mode).await.expect("opened");
    tx.send(b"first").await.expect("sent");
    let rx = b.accept_stream().await.expect("accepted");
    assert_eq!((rx.label(), rx.mode()), ("case", mode));
    assert_eq!(next(&rx).await.as_deref(), Some(&b"first"[..]));
    tx.flush().await.expect("flushed");
    (tx, rx)
}

pub(super) async fn next(rx: &Stream) -> Option<net_sdk::Bytes> {
    rx.recv().await.expect("the stream lives")
}

fn number(message: &[u8]) -> u32 {
    u32::from_le_bytes(message[..4].try_into().expect("a number"))
}

async fn send_numbers(tx: &Stream, count: u32) -> net_sdk::Result<()> {
    for i in 0..count {
        tx.send(&i.to_le_bytes()).await?;
    }
    tx.finish().await
}

async fn numbers(rx: &Stream) -> Vec<u32> {
    let mut got = Vec::new();
    while let Some(message) = next(rx).await {
        got.push(number(&message));
    }
    got
}

/// Sends until there is no credit; how many messages were admitted.
pub(super) fn fill(tx: &Stream, size: usize) -> u64 {
    let message = vec![7; size];
    let mut count = 0;
    loop {
        match tx.try_send(&message) {
            Ok(()) => count += 1,
            Err(Error::Backpressure) => return count,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) async fn connecting_proves_the_identity(env: Env) {
    let (a, b, peer) = pair(&env).await;
    assert_eq!(peer.id(), b.id());
    let back = b.accept_peer().await.expect("a came");
    assert_eq!(back.id(), a.id());
    assert!(peer.is_connected() && back.is_connected());
    assert_eq!(b.peers().iter().map(Peer::id).collect::<Vec<_>>(), [a.id()]);
    assert_eq!(peer.addr(), Some(b.local_addrs()[0]));
}

pub(super) async fn connecting_again_finds_the_association(env: Env) {
    let (a, b, first) = pair(&env).await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let (a, ticket) = (a.clone(), b.ticket());
        tasks.push(spawn(&*env.here, async move { a.connect(ticket).await }));
    }
    for task in tasks {
        let again = task.recv().await.expect("the task ends").expect("connected");
        assert_eq!(again.id(), first.id());
    }
    // From the other side too.
    assert_eq!(b.connect(a.ticket()).await.expect("connected").id(), a.id());
    assert_eq!((a.peers().len(), b.peers().len()), (1, 1));
    assert!(first.is_connected());
}

pub(super) async fn crossing_connects_are_one_association(env: Env) {
    for _ in 0..3 {
        let b = start(there(&env)).await;
        let a = start(here(&env).mesh(b.secret())).await;
        let (from_b, ticket) = (b.clone(), a.ticket());
        let other = spawn(&*env.there, async move { from_b.connect(ticket).await });
        let ours = a.connect(b.ticket()).await.expect("connected");
        let theirs = other.recv().await.expect("the task ends").expect("connected");
        // Streams work both ways, and go on working once the handshakes have settled.
        for _ in 0..3 {
            let (tx, rx) = opened(&b, &ours, Reliable).await;
            let (back, at_a) = opened(&a, &theirs, Reliable).await;
            drop((tx, rx, back, at_a));
        }
        assert_eq!((a.peers().len(), b.peers().len()), (1, 1));
        assert!(ours.is_connected() && theirs.is_connected());
        assert_eq!(a.shutdown().await.lost.messages, 0);
        assert_eq!(b.shutdown().await.lost.messages, 0);
    }
}

pub(super) fn quick(builder: MeshBuilder) -> MeshBuilder {
    builder.config(|c| c.dial_timeout = Duration::from_millis(400))
}

pub(super) async fn a_dial_that_nobody_answers_fails_in_time(env: Env) {
    let b = start(there(&env)).await;
    let (ticket, secret) = (b.ticket(), b.secret());
    b.shutdown().await;
    let a = start(quick(here(&env)).mesh(secret)).await;
    let error = a.connect(ticket).await.expect_err("nobody is there");
    assert!(matches!(error, Error::Dial(DialError::TimedOut(_))), "{error:?}");
    assert!(error.is_retryable());
}

pub(super) async fn another_mesh_key_meets_silence(env: Env) {
    let b = start(there(&env)).await;
    let stranger = start(quick(here(&env))).await;
    let error = stranger.connect(b.ticket()).await.expect_err("another mesh");
    assert!(matches!(error, Error::Dial(DialError::TimedOut(_))), "{error:?}");
    assert!(b.peers().is_empty());
    assert_eq!(b.stats().await.expect("it lives").datagrams_sent, 0);
}

pub(super) async fn reliable_streams_keep_order(env: Env) {
    const COUNT: u32 = 2000;
    let (a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    let mut senders = Vec::new();
    for (stream, runtime) in [(tx.clone(), &env.here), (rx.clone(), &env.there)] {
        senders.push(spawn(&**runtime, async move { send_numbers(&stream, COUNT).await }));
    }
    let reader = rx.clone();
    let there = spawn(&*env.there, async move { numbers(&reader).await });
    assert!(numbers(&tx).await.into_iter().eq(0..COUNT));
    assert!(there.recv().await.expect("the reader ends").into_iter().eq(0..COUNT));
    for sender in senders {
        sender.recv().await.expect("the sender ends").expect("all acknowledged");
    }
    let drained = a.shutdown().await;
    assert_eq!((drained.flushed, drained.lost.messages), (u64::from(COUNT) + 1, 0));
}

pub(super) async fn unordered_streams_deliver_once(env: Env) {
    const COUNT: u32 = 2000;
    let (_a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Unordered).await;
    let sender = spawn(&*env.here, async move { send_numbers(&tx, COUNT).await });
    let got = numbers(&rx).await;
    assert_eq!(got.len(), COUNT as usize);
    assert_eq!(got.into_iter().collect::<BTreeSet<_>>().len(), COUNT as usize);
    sender.recv().await.expect("the sender ends").expect("all acknowledged");
}

pub(super) async fn fire_and_forget_delivers_at_most_once(env: Env) {
    const COUNT: u32 = 2000;
    let (_a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, FireAndForget).await;
    let sender = spawn(&*env.here, async move { send_numbers(&tx, COUNT).await });
    let got = numbers(&rx).await;
    assert!(!got.is_empty());
    assert_eq!(got.iter().collect::<BTreeSet<_>>().len(), got.len());
    sender.recv().await.expect("the sender ends").expect("all sent");
}

pub(super) async fn a_batch_goes_whole_or_not_at_all(env: Env) {
    let (_a, b, peer) = pair_that_fills(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    let filled = fill(&tx, 10_000);
    let batch: Vec<Vec<u8>> = (0..20u8).map(|i| vec![i; 10_000]).collect();
    assert!(matches!(tx.try_send_batch(&batch), Err(Error::Backpressure)));
    let sender = tx.clone();
    let waits = spawn_polled(&*env.here, async move { sender.send_batch(&batch).await }).await;
    assert!(matches!(tx.try_send(b"x"), Err(Error::Backpressure)), "nobody overtakes");
    for _ in 0..filled {
        assert_eq!(next(&rx).await.expect("a message")[..], [7; 10_000]);
    }
    waits.recv().await.expect("the sender ends").expect("admitted");
    for i in 0..20u8 {
        assert_eq!(next(&rx).await.expect("a message")[..], [i; 10_000], "next to each other, in order");
    }
    let too_much = vec![vec![0; 10_000]; 10_000];
    assert!(matches!(tx.send_batch(&too_much).await, Err(Error::TooLarge { .. })), "it would wait for ever");
}

pub(super) async fn try_send_fails_where_send_waits(env: Env) {
    let (_a, b, peer) = pair_that_fills(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    let filled = fill(&tx, 10_000);
    assert!(filled > 0);
    let sender = tx.clone();
    let waits = spawn_polled(&*env.here, async move { sender.send(&WAITS).await }).await;
    assert!(waits.try_recv().is_err());
    for _ in 0..filled {
        assert_eq!(next(&rx).await.expect("a message")[0], 7);
    }
    waits.recv().await.expect("the sender ends").expect("credit came back");
    assert_eq!(next(&rx).await.expect("a message")[0], 8);
    tx.flush().await.expect("flushed");
    assert!(fill(&tx, 10_000) > 0, "there is credit again");
}

pub(super) async fn flush_means_acknowledged(env: Env) {
    let (a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    for i in 0..100u32 {
        tx.send(&i.to_le_bytes()).await.expect("sent");
    }
    tx.flush().await.expect("flushed");
    let drained = a.shutdown_within(Duration::ZERO).await;
    assert_eq!(drained, Drained { flushed: 101, ..Drained::default() });
    for i in 0..100u32 {
        assert_eq!(number(&next(&rx).await.expect("a message")), i, "the peer's node had it all");
    }
}

pub(super) async fn finish_ends_one_direction(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    tx.send(b"last").await.expect("sent");
    tx.finish().await.expect("acknowledged");
    assert!(matches!(tx.try_send(b"x"), Err(Error::Closed)));
    assert_eq!(next(&rx).await.as_deref(), Some(&b"last"[..]));
    assert_eq!((next(&rx).await, next(&rx).await), (None, None), "the end stays");
    rx.send(b"back").await.expect("the way back is open");
    assert_eq!(next(&tx).await.as_deref(), Some(&b"back"[..]));
}

pub(super) async fn messages_can_be_lent(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    assert!(rx.try_recv().is_none());
    let all: Vec<[u8; 4]> = (0..40u32).map(u32::to_le_bytes).collect();
    tx.send_batch(&all).await.expect("sent");
    tx.finish().await.expect("acknowledged");
    let mut got = Vec::new();
    got.push(rx.recv_with(number).await.expect("it lives").expect("a message"));
    while got.len() < 30 {
        let before = got.len();
        let count = rx.recv_many(7, |message| got.push(number(message))).await.expect("it lives");
        assert!((1..=7).contains(&count) && got.len() == before + count);
    }
    while let Some(message) = rx.try_recv() {
        got.push(number(&message));
    }
    got.extend(numbers(&rx).await);
    assert!(got.into_iter().eq(0..40));
    assert_eq!(rx.recv_many(7, |_| ()).await.expect("it lives"), 0, "the end");
    assert_eq!(rx.recv_with(<[u8]>::len).await.expect("it lives"), None, "the end");
}

/// Reads until an error.
async fn until_error(rx: &Stream) -> Error {
    loop {
        match rx.recv().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it was not finished"),
            Err(error) => return error,
        }
    }
}

pub(super) async fn a_reset_tells_its_code(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    fill(&tx, 10_000);
    tx.reset(9);
    assert!(matches!(tx.try_send(b"x"), Err(Error::Closed)));
    assert!(matches!(tx.flush().await, Err(Error::Closed)), "a flush is answered");
    let end = until_error(&rx).await;
    assert!(matches!(end, Error::Reset(9)), "{end:?}");
}

pub(super) async fn a_stop_tells_its_code(env: Env) {
    let (_a, b, peer) = pair_that_fills(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    fill(&tx, 10_000);
    let sender = tx.clone();
    let waits = spawn_polled(&*env.here, async move { sender.send(&WAITS).await }).await;
    rx.stop(5);
    let stopped = waits.recv().await.expect("the sender ends");
    assert!(matches!(stopped, Err(Error::Stopped(5))), "{stopped:?}");
    let end = rx.recv().await;
    assert!(matches!(end, Err(Error::Closed)), "this side reads no more: {end:?}");
}

pub(super) async fn the_last_handle_ends_the_stream(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    let clone = tx.clone();
    drop(tx);
    clone.send(b"still there").await.expect("a clone keeps it");
    drop(clone);
    assert_eq!(next(&rx).await.as_deref(), Some(&b"still there"[..]));
    assert_eq!(next(&rx).await, None);
    let end = loop {
        if let Err(error) = rx.send(b"anybody?").await {
            break error;
        }
    };
    assert!(matches!(end, Error::Stopped(0) | Error::Closed), "{end:?}");
}

pub(super) async fn streams_are_accepted_by_peer_or_by_any(env: Env) {
    let (a, b, peer) = pair(&env).await;
    let third = start(here(&env).mesh(b.secret())).await;
    let from_third = third.connect(b.ticket()).await.expect("connected");
    let back = b.connect(a.ticket()).await.expect("connected");
    let only_a = spawn_polled(&*env.there, async move { back.accept_stream().await }).await;
    for (peer, label) in [(&from_third, "from the third"), (&peer, "from a")] {
        let stream = peer.open_stream(label, Reliable).await.expect("opened");
        stream.send(b"x").await.expect("sent");
        stream.flush().await.expect("flushed");
    }
    let stream = only_a.recv().await.expect("the task ends").expect("accepted");
    assert_eq!((stream.label(), stream.peer()), ("from a", a.id()));
    let stream = b.accept_stream().await.expect("accepted");
    assert_eq!((stream.label(), stream.peer()), ("from the third", third.id()));
    assert!(poll_once(b.accept_stream()).is_none(), "each is given once");
}

pub(super) async fn long_messages_arrive_and_too_long_ones_are_refused(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    let long: Vec<u8> = (0..700_000u32).map(|i| (i % 251) as u8).collect();
    let (sender, message) = (tx.clone(), long.clone());
    let sends = spawn(&*env.here, async move { sender.send(&message).await });
    assert!(next(&rx).await.expect("a message") == long);
    sends.recv().await.expect("the sender ends").expect("sent");
    let too_long = vec![0; net_sdk::MAX_MESSAGE + 1];
    let refused = tx.send(&too_long).await;
    assert!(matches!(refused, Err(Error::TooLarge { len, limit }) if len > limit), "{refused:?}");
    tx.send(b"").await.expect("an empty message is a message");
    assert_eq!(next(&rx).await.as_deref(), Some(&b""[..]));
}

pub(super) async fn many_streams_share_a_session(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    let echo = b.clone();
    let server = spawn(&*env.there, async move {
        for _ in 0..50 {
            let stream = echo.accept_stream().await.expect("accepted");
            let message = next(&stream).await.expect("a message");
            stream.send(&message).await.expect("sent");
            stream.finish().await.expect("acknowledged");
        }
    });
    let mut streams = Vec::new();
    for i in 0..50u32 {
        let stream = peer.open_stream(&format!("stream {i}"), Reliable).await.expect("opened");
        stream.send(&i.to_le_bytes()).await.expect("sent");
        streams.push(stream);
    }
    for (i, stream) in streams.iter().enumerate() {
        assert_eq!(numbers(stream).await, [i as u32]);
    }
    server.recv().await.expect("the server ends");
}

pub(super) async fn a_reader_that_is_slow_slows_only_its_sender(env: Env) {
    let (_a, b, peer) = pair(&env).await;
    let (stuck, unread) = opened(&b, &peer, Reliable).await;
    let filled = fill(&stuck, 10_000);
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    let sender = spawn(&*env.here, async move { send_numbers(&tx, 500).await });
    assert!(numbers(&rx).await.into_iter().eq(0..500));
    sender.recv().await.expect("the sender ends").expect("all acknowledged");
    for _ in 0..filled {
        assert_eq!(next(&unread).await.expect("a message").len(), 10_000);
    }
}

pub(super) async fn a_disconnect_tells_both_sides(env: Env) {
    let (a, b, peer) = pair(&env).await;
    let back = b.accept_peer().await.expect("a came");
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    assert_eq!(peer.disconnect(77).await, DownReason::ClosedHere(77));
    assert_eq!(back.closed().await, DownReason::ClosedByPeer(77));
    assert!(!peer.is_connected() && !back.is_connected());
    // Streams end after their peer is gone: whoever learns of their end finds it gone.
    assert!(matches!(tx.recv().await, Err(Error::Disconnected(DownReason::ClosedHere(77)))));
    assert!(matches!(tx.try_send(b"x"), Err(Error::Disconnected(DownReason::ClosedHere(77)))));
    let end = rx.recv().await;
    assert!(matches!(end, Err(Error::Disconnected(DownReason::ClosedByPeer(77)))), "{end:?}");
    assert!(matches!(peer.open_stream("x", Reliable).await, Err(Error::Disconnected(_))));
    assert!(matches!(back.accept_stream().await, Err(Error::Disconnected(_))));
    let again = a.connect(b.ticket()).await.expect("connected");
    opened(&b, &again, Reliable).await;
}

pub(super) async fn a_shutdown_answers_everybody_who_waits(env: Env) {
    let (a, b, peer) = pair_that_fills(&env).await;
    let (tx, _rx) = opened(&b, &peer, Reliable).await;
    fill(&tx, 10_000);
    let nobody = {
        let gone = start(there(&env).mesh(b.secret())).await;
        let ticket = gone.ticket();
        gone.shutdown().await;
        ticket
    };
    let mut waits = Vec::new();
    macro_rules! wait {
        ($name:literal, $($held:ident),+ => $call:expr) => {{
            $(#[allow(unused_mut)] let mut $held = $held.clone();)+
            waits.push(($name, spawn_polled(&*env.here, async move { $call }).await));
        }};
    }
    wait!("accept_peer", a => a.accept_peer().await.is_err());
    wait!("accept_stream", a => a.accept_stream().await.is_err());
    wait!("accept_stream of a peer", peer => peer.accept_stream().await.is_err());
    wait!("closed", peer => peer.closed().await == DownReason::Shutdown);
    wait!("connect", a, nobody => a.connect(nobody).await.is_err());
    wait!("send", tx => tx.send(&WAITS).await.is_err());
    wait!("send_batch", tx => tx.send_batch(&[[1; 10_000]; 3]).await.is_err());
    wait!("recv", tx => tx.recv().await.is_err());
    wait!("recv_with", tx => tx.recv_with(|_| ()).await.is_err());
    wait!("recv_many", tx => tx.recv_many(3, |_| ()).await.is_err());
    wait!("flush", tx => tx.flush().await.is_err());
    wait!("shutdown", a => a.shutdown_within(Duration::from_millis(20)).await.flushed > 0);
    let mut events = a.events();
    let ended = spawn_polled(&*env.here, async move { while events.next().await.is_some() {} }).await;
    for (call, wait) in waits {
        assert_eq!(wait.recv().await, Ok(true), "`{call}` is answered");
    }
    ended.recv().await.expect("events end");
}

pub(super) async fn a_shutdown_counts_every_message(env: Env) {
    for limit in [Duration::ZERO, Duration::from_millis(10)] {
        let (a, b, peer) = pair(&env).await;
        let (tx, rx) = opened(&b, &peer, Reliable).await;
        let admitted = fill(&tx, 10_000) + 1;
        let drained = a.shutdown_within(limit).await;
        assert_eq!(drained.flushed + drained.lost.messages, admitted, "{drained:?}");
        assert!(drained.lost.messages > 0, "nobody reads: {drained:?}");
        assert_eq!(drained.lost.bytes, drained.lost.messages * 10_000);
        let mut got = 1;
        while let Ok(Some(_)) = rx.recv().await {
            got += 1;
        }
        assert!(got >= drained.flushed, "{got} arrived, {drained:?}");
    }
}

pub(super) async fn after_a_shutdown_calls_fail_at_once(env: Env) {
    let (a, b, peer) = pair(&env).await;
    let (tx, _rx) = opened(&b, &peer, Reliable).await;
    let at = a.local_addrs();
    assert_eq!(a.shutdown().await.flushed, 1);
    assert!(matches!(a.accept_peer().await, Err(Error::Shutdown)));
    assert!(matches!(a.accept_stream().await, Err(Error::Shutdown)));
    assert!(matches!(a.connect(b.ticket()).await, Err(Error::Shutdown)));
    assert!(matches!(a.stats().await, Err(Error::Shutdown)));
    assert!(matches!(a.ceiling().await, Err(Error::Shutdown)));
    assert!(matches!(tx.try_send(b"x"), Err(Error::Shutdown)));
    assert!(matches!(tx.recv().await, Err(Error::Shutdown)));
    assert!(tx.flush().await.is_err() && tx.finish().await.is_err() && tx.stats().await.is_err());
    assert!(peer.stats().await.is_err() && peer.open_stream("x", Reliable).await.is_err());
    assert_eq!(peer.closed().await, DownReason::Shutdown);
    assert_eq!(a.shutdown().await, Drained::default());
    assert!(a.peers().is_empty() && a.events().next().await.is_none());
    let again = start(Mesh::builder().bind(at[0]).runtime(env.here.clone())).await;
    assert_eq!(again.local_addrs(), at);
}

pub(super) async fn dropping_every_handle_ends_the_node(env: Env) {
    let (a, b, peer) = pair(&env).await;
    let back = b.accept_peer().await.expect("a came");
    let at = a.local_addrs()[0];
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    tx.send(b"last words").await.expect("sent");
    drop((a, peer));
    assert!(back.is_connected(), "a stream holds the node");
    drop(tx);
    assert_eq!(next(&rx).await.as_deref(), Some(&b"last words"[..]), "what was admitted is sent");
    assert!(matches!(back.closed().await, DownReason::Shutdown | DownReason::ClosedByPeer(_)));
    // The goodbye left before the sockets are free: this is tried until they are.
    loop {
        match Mesh::builder().bind(at).runtime(env.here.clone()).start().await {
            Ok(again) => break assert_eq!(again.local_addrs(), [at]),
            Err(Error::Bind { .. }) => rt::sleep(Duration::from_millis(1)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

pub(super) async fn events_tell_who_came_and_went(env: Env) {
    let b = start(there(&env)).await;
    let mut events = b.events();
    let a = start(here(&env).mesh(b.secret())).await;
    a.connect(b.ticket()).await.expect("connected");
    let Some(MeshEvent::Connected(peer)) = events.next().await else { panic!("not connected") };
    assert_eq!(peer.id(), a.id());
    a.shutdown().await;
    loop {
        match events.next().await {
            Some(MeshEvent::Disconnected { peer, lost, .. }) => {
                break assert_eq!((peer, lost.messages), (a.id(), 0));
            }
            Some(MeshEvent::PathChanged { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(!peer.is_connected());
    b.shutdown().await;
    assert!(events.next().await.is_none());
}

pub(super) async fn a_directory_keeps_who_a_node_is(env: Env) {
    let mut seen = BTreeSet::new();
    for _ in 0..3 {
        let node = start(here(&env).dir(&env.dir)).await;
        assert!(matches!(here(&env).dir(&env.dir).start().await, Err(Error::State(_))), "one at a time");
        seen.insert((node.id(), node.mesh_id().0));
        node.shutdown().await;
    }
    assert_eq!(seen.len(), 1);
    let other = here(&env).dir(&env.dir).seed([9; 32]).start().await;
    assert!(matches!(other, Err(Error::State(_))), "the directory belongs to somebody");
    let _ = std::fs::remove_dir_all(&env.dir);
}

pub(super) async fn a_node_comes_back_at_its_address(env: Env) {
    let b = start(there(&env).seed([3; 32])).await;
    let (at, secret) = (b.local_addrs()[0], b.secret());
    let a = start(here(&env).mesh(secret.clone())).await;
    for round in 0..3u8 {
        let b = if round == 0 {
            b.clone()
        } else {
            let builder = Mesh::builder().bind(at).runtime(env.there.clone());
            start(builder.seed([3; 32]).mesh(secret.clone())).await
        };
        let peer = a.connect(b.ticket()).await.expect("connected");
        let (tx, rx) = opened(&b, &peer, Reliable).await;
        rx.send(&[round]).await.expect("sent");
        assert_eq!(next(&tx).await.as_deref(), Some(&[round][..]));
        rx.flush().await.expect("flushed");
        assert_eq!(b.shutdown().await.lost.messages, 0);
        assert!(matches!(tx.recv().await, Err(Error::Disconnected(_))));
        assert!(!peer.is_connected());
    }
}

pub(super) async fn counters_count(env: Env) {
    let (a, b, peer) = pair(&env).await;
    let (tx, rx) = opened(&b, &peer, Reliable).await;
    let before = a.stats().await.expect("it lives");
    tx.send(&[0; 10_000]).await.expect("sent");
    next(&rx).await;
    tx.flush().await.expect("flushed");
    let after = a.stats().await.expect("it lives");
    assert!(after.datagrams_sent > before.datagrams_sent && after.bytes_sent >= before.bytes_sent + 10_000);
    assert!(after.datagrams_received > before.datagrams_received);
    peer.stats().await.expect("it lives");
    tx.stats().await.expect("it lives");
    assert!(a.ceiling().await.expect("it lives") > 0);
}

pub(super) async fn time_tasks_and_randomness_come_from_the_runtime(env: Env) {
    let (out, then) = rt::spawn(async {
        let then = rt::now();
        rt::sleep(Duration::from_millis(3)).await;
        assert!(rt::now().since(then) >= Duration::from_millis(3));
        let inner = rt::spawn(async { rt::rng() }).await.expect("a task inside of a task");
        assert_ne!(inner, rt::rng());
        let limit = Duration::from_millis(2);
        assert_eq!(rt::timeout(limit, std::future::pending::<()>()).await, Err(rt::Elapsed));
        (rt::timeout(Duration::from_secs(3600), async { 5 }).await, then)
    })
    .await
    .expect("the task ends");
    assert_eq!(out, Ok(5));
    assert!(env.here.now() >= then, "the same clock");
}
