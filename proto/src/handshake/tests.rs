//! Both roles against each other, against noise and against an attacker who holds the mesh key.

use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::api::*;
use super::job::Work;
use super::keys::{MeshKeys, mac1, prologue};
use super::noise::{Noise, Seed};
use super::wire::*;
use super::{Handshakes, Job, JobDone};
use crate::codec::{Wire, check_canonical};
use crate::entropy::Entropy;
use crate::identity::{EntityId, Identity, Incarnation, Mesh, MeshId, MeshKey};
use crate::path::Path;
use crate::session::aead::Cipher;
use crate::time::{Duration, Instant, Reason};

const T0: Instant = Instant::from_nanos(1_000_000_000);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn mesh(n: u8) -> Mesh {
    Mesh { id: MeshId([n; 32]), key: MeshKey([n + 100; 32]) }
}

fn path(port: u16) -> Path {
    Path::udp(([192, 0, 2, 1], port).into())
}

fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn config(n: u8) -> Config {
    Config::new(identity(n), Incarnation { epoch: 10, random: u64::from(n) }, vec![mesh(1)])
}

fn machine(config: Config) -> Handshakes {
    let seed = config.identity.id().0;
    Handshakes::new(config, Entropy::new(&seed, "test"), T0)
}

fn node(n: u8) -> Handshakes {
    machine(config(n))
}

fn request(id: u64, peer: u8) -> DialRequest {
    DialRequest {
        id,
        peer: identity(peer).id(),
        paths: vec![path(2)],
        local_index: 1000 + id as u32,
        resume: None,
        limits: b"limits of a".to_vec(),
        mesh: None,
    }
}

fn accept(index: u32) -> Answer {
    Answer::Accept { local_index: index, association: 77, resumed: false, limits: b"limits of b".to_vec() }
}

/// Runs the queued jobs; with `traced`, their results go through a trace and lose the Noise state.
fn work(m: &mut Handshakes, now: Instant, traced: bool) {
    while let Some((ticket, job)) = m.poll_job() {
        let mut done = job.run();
        if traced {
            done = postcard::from_bytes::<JobDone>(&postcard::to_allocvec(&done).unwrap()).unwrap();
        }
        m.handle_job(now, ticket, done);
    }
}

fn sent(m: &mut Handshakes, now: Instant) -> Vec<(Path, Vec<u8>)> {
    work(m, now, false);
    let mut all = Vec::new();
    let mut buf = [0; 1200];
    while let Some((path, len)) = m.poll_transmit(now, &mut buf) {
        all.push((path, buf[..len].to_vec()));
    }
    all
}

fn one(m: &mut Handshakes, now: Instant) -> Vec<u8> {
    let mut all = sent(m, now);
    assert_eq!(all.len(), 1, "one datagram");
    all.remove(0).1
}

fn events(m: &mut Handshakes) -> Vec<Event> {
    core::iter::from_fn(|| m.poll_event()).collect()
}

/// The message 1 of a fresh dial of node `a`.
fn message1(a: &mut Handshakes, now: Instant, id: u64, peer: u8) -> Vec<u8> {
    let _ = a.dial(now, request(id, peer)).unwrap();
    one(a, now)
}

/// Hands message 1 to `b`, answers with `index`; the half-open handshake and its message 2.
fn respond(b: &mut Handshakes, now: Instant, from: &Path, data: &[u8], index: u32) -> (HalfOpenId, Vec<u8>) {
    b.handle_datagram(now, from, data);
    work(b, now, false);
    let id = asked(b);
    assert!(b.answer(now, id, accept(index)));
    (id, one(b, now))
}

fn asked(b: &mut Handshakes) -> HalfOpenId {
    let all = events(b);
    let ids: Vec<_> =
        all.iter().filter_map(|e| if let Event::Asked { id, .. } = e { Some(*id) } else { None }).collect();
    assert_eq!(ids.len(), 1, "one question in {all:?}");
    ids[0]
}

fn untouched(m: &mut Handshakes, now: Instant) {
    assert!(sent(m, now).is_empty(), "no bytes out");
    assert!(m.poll_event().is_none(), "no event");
    assert_eq!(m.half_open(), 0, "no state");
}

fn through(traced: bool) -> (Event, Event, Vec<Vec<u8>>) {
    let mut c = config(2);
    c.ciphers = 3;
    let (mut a, mut b) = (
        machine({
            let mut c = config(1);
            c.ciphers = 3;
            c
        }),
        machine(c),
    );
    let _ = a.dial(T0, DialRequest { resume: Some(77), ..request(5, 2) }).unwrap();
    work(&mut a, T0, traced);
    let m1 = one(&mut a, T0);
    b.handle_datagram(T0, &path(1), &m1);
    work(&mut b, T0, traced);
    let Some(Event::Asked { id, peer, mesh: m, incarnation, resume, limits, path: p, .. }) = b.poll_event()
    else {
        panic!("asked")
    };
    assert_eq!((peer, m, p, resume), (identity(1).id(), mesh(1).id, path(1), Some(77)));
    assert_eq!((incarnation.random, limits.as_slice()), (1, b"limits of a".as_slice()));
    let answer =
        Answer::Accept { local_index: 9, association: 77, resumed: true, limits: b"limits of b".to_vec() };
    assert!(b.answer(T0, id, answer.clone()));
    assert!(!b.answer(T0, id, answer), "one answer is enough");
    work(&mut b, T0, traced);
    let m2 = one(&mut b, T0);
    let responded = b.poll_event().unwrap();
    a.handle_datagram(T0, &path(2), &m2);
    work(&mut a, T0, traced);
    let completed = a.poll_event().unwrap();
    let _ = b.confirm(id, &path(1), None);
    assert!(a.is_idle() && b.is_idle());
    assert_eq!((a.poll_timeout(), b.poll_timeout()), (None, None));
    (responded, completed, vec![m1, m2])
}

#[test]
fn two_strangers_become_a_session() {
    let (responded, completed, messages) = through(false);
    let Event::Responded { secrets: bs, peer: bp, local_index: bl, remote_index: br, .. } = &responded else {
        panic!()
    };
    let Event::Completed {
        secrets,
        peer,
        local_index,
        remote_index,
        association,
        resumed,
        limits,
        observed,
        path: p,
        ..
    } = &completed
    else {
        panic!()
    };
    assert_eq!((secrets.send, secrets.recv), (bs.recv, bs.send));
    assert_ne!(secrets.send, secrets.recv);
    assert_eq!((secrets.cipher, bs.cipher), (Cipher::Aes256Gcm, Cipher::Aes256Gcm));
    assert_eq!((*peer, *bp), (identity(2).id(), identity(1).id()));
    assert_eq!((*local_index, *remote_index, *bl, *br), (1005, 9, 9, 1005));
    assert_eq!((*association, *resumed, limits.as_slice()), (77, true, b"limits of b".as_slice()));
    assert_eq!((*observed, *p), (path(1).udp_addr(), path(2)));
    assert!(messages[0].len() >= FLOOR && messages[0].len() <= FLOOR + 2);
    assert!(messages[1].len() <= messages[0].len());
}

#[test]
fn a_trace_without_noise_states_replays_to_the_same_bytes_and_keys() {
    assert_eq!(through(false), through(true));
}

#[test]
fn the_longest_messages_stay_within_their_bounds() {
    let mut c = config(1);
    c.grant = vec![1; MAX_GRANT];
    let mut a = machine(c);
    let _ =
        a.dial(T0, DialRequest { resume: Some(1), limits: vec![2; MAX_LIMITS], ..request(1, 2) }).unwrap();
    let m1 = one(&mut a, T0);
    assert!(m1.len() <= CEILING, "{}", m1.len());
    let mut b = node(2);
    let v6 = Path::udp("[2001:db8::1]:9".parse().unwrap());
    b.handle_datagram(T0, &v6, &m1);
    work(&mut b, T0, false);
    let id = asked(&mut b);
    let long = |n| Answer::Accept { local_index: 1, association: 1, resumed: false, limits: vec![3; n] };
    assert!(b.answer(T0, id, long(MAX_LIMITS)));
    let m2 = one(&mut b, T0);
    assert!(m2.len() <= FLOOR, "{}", m2.len());
    a.handle_datagram(T0, &path(2), &m2);
    work(&mut a, T0, false);
    assert!(matches!(a.poll_event(), Some(Event::Completed { .. })));
}

#[test]
fn no_truncation_and_no_changed_byte_of_message_1_does_anything() {
    let m1 = message1(&mut node(1), T0, 1, 2);
    let mut b = node(2);
    for len in 0..m1.len() {
        b.handle_datagram(T0, &path(1), &m1[..len]);
        untouched(&mut b, T0);
    }
    for at in 0..m1.len() - 16 {
        for bit in [1, 0x80] {
            let mut bad = m1.clone();
            bad[at] ^= bit;
            b.handle_datagram(T0, &path(1), &bad);
            untouched(&mut b, T0);
        }
    }
    assert!(b.drops().mac1 > 2 * 496);
}

#[test]
fn no_changed_byte_below_a_valid_mac_does_anything() {
    // Now the attacker holds the mesh key and repairs the MAC.
    let m1 = message1(&mut node(1), T0, 1, 2);
    let key = MeshKeys::new(&mesh(1), &identity(2).id()).own_mac1;
    let mut c = config(2);
    c.cookie_after = 1_000_000;
    let mut b = machine(c);
    for at in 2..m1.len() - 32 {
        let mut bad = m1.clone();
        bad[at] ^= 1;
        remac(&mut bad, &key);
        b.handle_datagram(T0, &path(1), &bad);
        untouched(&mut b, T0);
    }
    assert_eq!(b.drops().message1, (m1.len() - 34) as u64);
    b.handle_datagram(T0, &path(1), &m1);
    work(&mut b, T0, false);
    asked(&mut b);
}

fn remac(message: &mut [u8], key: &[u8; 32]) {
    let at = message.len() - 32;
    let mac = mac1(key, &message[..at]);
    message[at..at + 16].copy_from_slice(&mac);
}

#[test]
fn a_bad_message_2_leaves_the_dial_alive() {
    let (mut a, mut b) = (node(1), node(2));
    let m1 = message1(&mut a, T0, 1, 2);
    let (_, m2) = respond(&mut b, T0, &path(1), &m1, 9);
    let key = MeshKeys::new(&mesh(1), &identity(1).id()).own_mac1;
    for len in 0..m2.len() {
        a.handle_datagram(T0, &path(2), &m2[..len]);
    }
    for at in 0..m2.len() - 16 {
        let mut bad = m2.clone();
        bad[at] ^= 1;
        a.handle_datagram(T0, &path(2), &bad);
        remac(&mut bad, &key);
        a.handle_datagram(T0, &path(2), &bad);
        assert!(sent(&mut a, T0).is_empty());
        if at < m2.len() - 32 {
            assert!(a.poll_event().is_none(), "byte {at}");
        } else if let Some(event) = a.poll_event() {
            // Repaired, a change of the MAC alone is the true message.
            assert!(matches!(event, Event::Completed { .. }));
            assert_eq!(at, m2.len() - 32);
            return;
        }
    }
    panic!("the true message 2 was refused after the bad ones");
}

#[test]
fn another_mesh_key_meets_silence() {
    let mut c = config(1);
    c.meshes = vec![Mesh { id: mesh(1).id, key: MeshKey([9; 32]) }];
    let m1 = message1(&mut machine(c), T0, 1, 2);
    let mut b = node(2);
    b.handle_datagram(T0, &path(1), &m1);
    untouched(&mut b, T0);
    assert_eq!(b.drops().mac1, 1);
    // The right key under another mesh id passes the MAC and fails in Noise.
    let mut c = config(1);
    c.meshes = vec![Mesh { id: mesh(2).id, key: mesh(1).key }];
    b.handle_datagram(T0, &path(1), &message1(&mut machine(c), T0, 1, 2));
    untouched(&mut b, T0);
    assert_eq!(b.drops().message1, 1);
}

fn flipped(mut id: EntityId) -> EntityId {
    id.0[31] ^= 0x80;
    id
}

#[test]
fn the_sign_flipped_responder_does_not_answer() {
    let mut a = node(1);
    let _ = a.dial(T0, DialRequest { peer: flipped(identity(2).id()), ..request(1, 2) }).unwrap();
    let mut m1 = one(&mut a, T0);
    let mut b = node(2);
    b.handle_datagram(T0, &path(1), &m1);
    untouched(&mut b, T0);
    assert_eq!(b.drops().mac1, 1);
    // With a repaired MAC the prologue still tells the two apart: the X25519 keys are the same.
    remac(&mut m1, &MeshKeys::new(&mesh(1), &identity(2).id()).own_mac1);
    b.handle_datagram(T0, &path(1), &m1);
    untouched(&mut b, T0);
    assert_eq!(b.drops().message1, 1);
}

/// A message 1 to node 2 whose payload the sender chose freely.
fn forged(secret: [u8; 32], change: impl FnOnce(&mut Hello)) -> Vec<u8> {
    let peer = identity(2).id();
    let header = super::dial::header1(1, 5);
    let keys = MeshKeys::new(&mesh(1), &peer);
    let seed = Seed {
        secret,
        ephemeral: [3; 32],
        psk0: keys.psk0,
        psk2: [0; 32],
        prologue: prologue(&mesh(1).id, &peer, &header),
    };
    let mut hello = Hello {
        entity: identity(1).id(),
        versions: (1, 1),
        features: 0,
        ciphers: 1,
        incarnation: Incarnation { epoch: 10, random: 0 },
        number: 1,
        resume: None,
        limits: Vec::new(),
        grant: Vec::new(),
        tlvs: Vec::new(),
    };
    change(&mut hello);
    hello.pad();
    let mut out = header.to_vec();
    out.extend(Noise::initiator(&seed, &peer.x25519().unwrap()).unwrap().write(&hello.to_vec()).unwrap());
    out.resize(out.len() + 32, 0);
    remac(&mut out, &keys.own_mac1);
    out
}

#[test]
fn an_initiator_that_claims_another_id_is_refused() {
    use curve25519_dalek::constants::EIGHT_TORSION;
    use curve25519_dalek::edwards::CompressedEdwardsY;
    let me = identity(1);
    let point = CompressedEdwardsY(me.id().0).decompress().unwrap();
    let mixed = |at: usize| EntityId((point + EIGHT_TORSION[at]).compress().0);
    let mut b = node(2);
    let other = identity(3).id();
    let claims =
        [mixed(1), mixed(4), mixed(7), other, flipped(other), EntityId([0xff; 32]), EntityId([0; 32])];
    for claim in claims {
        b.handle_datagram(T0, &path(1), &forged(me.x25519_secret(), |h| h.entity = claim));
        untouched(&mut b, T0);
    }
    assert_eq!(b.drops().identity, 7);
    b.handle_datagram(T0, &path(1), &forged(me.x25519_secret(), |_| ()));
    work(&mut b, T0, false);
    asked(&mut b);
}

#[test]
fn the_sign_flipped_initiator_is_its_own_entity_and_no_other() {
    // -A is a valid key with the secret -a, and X25519 cannot tell a from -a. Its holder is the same
    // person; state is keyed by the full id, so it is simply somebody else.
    let me = identity(1);
    let mut b = node(2);
    b.handle_datagram(T0, &path(1), &forged(me.x25519_secret(), |h| h.entity = flipped(me.id())));
    work(&mut b, T0, false);
    match b.poll_event() {
        Some(Event::Asked { peer, .. }) => assert!(peer == flipped(me.id()) && peer != me.id()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_payload_that_breaks_a_rule_is_refused() {
    let secret = identity(1).x25519_secret();
    let mut b = node(2);
    let refuse = |b: &mut Handshakes, change: fn(&mut Hello)| {
        b.handle_datagram(T0, &path(1), &forged(secret, change));
        untouched(b, T0);
    };
    refuse(&mut b, |h| h.tlvs = vec![1, 0]);
    refuse(&mut b, |h| h.ciphers = 2);
    refuse(&mut b, |h| h.versions = (2, 1));
    assert_eq!(b.drops().message1, 3);
    refuse(&mut b, |h| h.versions = (2, 3));
    assert_eq!(b.drops().downgrade, 1);
    // A greased ignorable extension passes.
    b.handle_datagram(T0, &path(1), &forged(secret, |h| h.tlvs = vec![0x4a, 0x0a, 3, 1, 2, 3]));
    work(&mut b, T0, false);
    asked(&mut b);
}

#[test]
fn a_replay_does_nothing_after_and_repeats_the_answer_before() {
    let (mut a, mut b) = (node(1), node(2));
    let m1 = message1(&mut a, T0, 1, 2);
    let (id, m2) = respond(&mut b, T0, &path(1), &m1, 9);
    let _ = events(&mut b);
    // The same bytes from elsewhere: the same answer but for the path's token, no job, no question.
    b.handle_datagram(T0, &path(66), &m1);
    assert!(b.poll_job().is_none());
    let again = sent(&mut b, T0);
    let [(to, other)] = &again[..] else { panic!("{again:?}") };
    let token = m2.len() - 16;
    assert_eq!((*to, &other[..token]), (path(66), &m2[..token]));
    assert_ne!(other[token..], m2[token..]);
    assert!(events(&mut b).is_empty());
    let _ = b.confirm(id, &path(1), None);
    b.handle_datagram(T0, &path(66), &m1);
    untouched(&mut b, T0);
    assert_eq!(b.drops().replay, 1);
    // The next handshake of the same life is fine, and one of an earlier life is not.
    let (_, _) = respond(&mut b, T0, &path(1), &message1(&mut a, T0, 2, 2), 10);
    let mut c = config(1);
    c.incarnation.epoch = 9;
    let _ = events(&mut b);
    b.handle_datagram(T0, &path(1), &message1(&mut machine(c), T0, 1, 2));
    work(&mut b, T0, false);
    assert_eq!(b.drops().replay, 2);
}

/// A copy of message 1 arrives first, from another address, and the initiator's own while it is read.
#[test]
fn who_races_message_1_gets_one_answer_and_proves_nothing() {
    let (mut a, mut b) = (node(1), node(2));
    let m1 = message1(&mut a, T0, 1, 2);
    let (copier, truth) = (path(66), path(1));
    b.handle_datagram(T0, &copier, &m1);
    b.handle_datagram(T0, &truth, &m1);
    b.handle_datagram(T0, &truth, &m1);
    work(&mut b, T0, false);
    let id = asked(&mut b);
    assert!(b.answer(T0, id, accept(9)));
    let answers = sent(&mut b, T0);
    let [(first, for_copier), (second, for_truth)] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!((*first, *second), (copier, truth));
    assert!(for_truth.len() <= m1.len(), "no answer is longer than the question");
    // The copier passes its answer on, and a copy of the other: neither comes from where was dialled.
    for copy in [for_copier, for_truth] {
        a.handle_datagram(T0, &path(99), copy);
        assert!(a.poll_job().is_none());
    }
    assert_eq!(a.drops().unexpected, 2);
    a.handle_datagram(T0, &path(2), for_truth);
    work(&mut a, T0, false);
    let Some(Event::Completed { token, path: p, .. }) = a.poll_event() else { panic!("completed") };
    assert_eq!(p, path(2));
    // The first data packet is raced as well: still the true path is the proven one.
    assert_eq!(b.confirm(id, &copier, Some(token)), Some(truth));
}

#[test]
fn a_path_is_proven_by_its_own_token_only() {
    for (token, proven) in [(None, false), (Some([0; 8]), false), (Some([7; 8]), true)] {
        let (mut a, mut b) = (node(1), node(2));
        let m1 = message1(&mut a, T0, 1, 2);
        let (id, m2) = respond(&mut b, T0, &path(1), &m1, 9);
        let own: PathToken = m2[m2.len() - 16..][..8].try_into().unwrap();
        let token = token.map(|t: PathToken| if t == [7; 8] { own } else { t });
        assert_eq!(b.confirm(id, &path(1), token), proven.then_some(path(1)), "{token:?}");
    }
}

/// More places than are remembered: every one gets an answer once there is one, the last four can be
/// proven, and the initiator's own repetition counts again.
#[test]
fn many_copies_of_message_1_keep_the_initiator_out_for_one_repetition_at_most() {
    let (mut a, mut b) = (node(1), node(2));
    let m1 = message1(&mut a, T0, 1, 2);
    b.handle_datagram(T0, &path(1), &m1);
    for port in 60..64 {
        b.handle_datagram(T0, &path(port), &m1);
    }
    assert_eq!(b.drops().repeated, 1, "who is displaced while it waits counts");
    work(&mut b, T0, false);
    let id = asked(&mut b);
    assert!(b.answer(T0, id, accept(9)));
    let to: Vec<Path> = sent(&mut b, T0).into_iter().map(|(to, _)| to).collect();
    assert_eq!(to, (60..64).map(path).collect::<Vec<_>>());
    b.handle_datagram(T0, &path(1), &m1);
    let m2 = one(&mut b, T0);
    let token: PathToken = m2[m2.len() - 16..][..8].try_into().unwrap();
    assert_eq!(b.confirm(id, &path(60), Some(token)), Some(path(1)));
}

#[test]
fn a_cookie_is_demanded_of_every_place_that_a_raced_message_came_from() {
    let mut b = node(2);
    let mut a = node(1);
    for id in 1..3 {
        let m1 = message1(&mut a, T0, id, 2);
        let _ = respond(&mut b, T0, &path(1), &m1, id as u32);
    }
    let _ = events(&mut b);
    let m1 = message1(&mut a, T0, 3, 2);
    b.handle_datagram(T0, &path(66), &m1);
    b.handle_datagram(T0, &path(1), &m1);
    let replies = sent(&mut b, T0);
    let to: Vec<Path> = replies.iter().map(|(to, _)| *to).collect();
    assert_eq!(to, [path(66), path(1)]);
    assert!(replies.iter().all(|(_, data)| data.len() == COOKIE_LEN));
    // The initiator's own reply proves its path, although the copy of that message comes first again.
    a.handle_datagram(T0, &path(2), &replies[1].1);
    let again = one(&mut a, T0);
    b.handle_datagram(T0, &path(66), &again);
    b.handle_datagram(T0, &path(1), &again);
    work(&mut b, T0, false);
    let all = events(&mut b);
    assert!(all.iter().any(|e| matches!(e, Event::Asked { .. })), "{all:?}");
}

#[test]
fn unconfirmed_handshakes_expire_and_free_their_index() {
    let (mut a, mut b) = (node(1), node(2));
    let m1 = message1(&mut a, T0, 1, 2);
    let (id, _) = respond(&mut b, T0, &path(1), &m1, 9);
    let _ = events(&mut b);
    let (at, reason) = b.poll_timeout().unwrap();
    assert_eq!((at, reason), (T0 + Duration::from_secs(5), Reason::Expiry));
    b.handle_timeout(at);
    assert_eq!(events(&mut b), [Event::Expired { id, local_index: 9 }]);
    assert!(b.is_idle());
    let _ = b.confirm(id, &path(1), None);
    assert!(!b.answer(at, id, accept(1)));
}

#[test]
fn a_refusal_and_silence() {
    let (mut a, mut b) = (node(1), node(2));
    b.handle_datagram(T0, &path(1), &message1(&mut a, T0, 1, 2));
    work(&mut b, T0, false);
    let id = asked(&mut b);
    assert!(b.answer(T0, id, Answer::Refuse(403)));
    let m2 = one(&mut b, T0);
    assert!(events(&mut b).is_empty(), "no keys for a refused peer");
    a.handle_datagram(T0, &path(2), &m2);
    work(&mut a, T0, false);
    assert_eq!(events(&mut a), [Event::Failed { id: DialId(1), error: DialFailure::Refused(403) }]);

    let m1 = message1(&mut a, T0, 2, 2);
    b.handle_datagram(T0, &path(1), &m1);
    work(&mut b, T0, false);
    let id = asked(&mut b);
    assert!(b.answer(T0, id, Answer::Ignore));
    b.handle_datagram(T0, &path(1), &m1);
    assert!(sent(&mut b, T0).is_empty() && events(&mut b).is_empty());
    assert_eq!(b.drops().repeated, 1);
}

/// Message 1 again, as its dial sends it after the cookie reply `reply`.
fn with_cookie(a: &mut Handshakes, now: Instant, reply: &[u8]) -> Vec<u8> {
    a.handle_datagram(now, &path(2), reply);
    one(a, now)
}

#[test]
fn above_the_budget_a_cookie_is_demanded_and_works() {
    let mut c = config(2);
    c.cookie_after = 0;
    let (mut a, mut b) = (node(1), machine(c));
    let m1 = message1(&mut a, T0, 1, 2);
    b.handle_datagram(T0, &path(1), &m1);
    assert_eq!(b.half_open(), 0);
    let reply = one(&mut b, T0);
    assert_eq!(reply.len(), COOKIE_LEN);
    // Changed anywhere, it is nothing.
    for at in 0..reply.len() {
        let mut bad = reply.clone();
        bad[at] ^= 1;
        // The wire major of a reply says nothing; all else is bound.
        if at != 1 {
            a.handle_datagram(T0, &path(2), &bad);
            assert!(sent(&mut a, T0).is_empty(), "byte {at}");
        }
    }
    let proven = with_cookie(&mut a, T0, &reply);
    assert_eq!(proven[..m1.len() - 16], m1[..m1.len() - 16]);
    // From another path it proves nothing.
    b.handle_datagram(T0, &path(3), &proven);
    assert_eq!((b.half_open(), one(&mut b, T0).len()), (0, COOKIE_LEN));
    // Two rotations later neither.
    let (_, m2) = respond(&mut b, T0 + Duration::from_secs(130), &path(1), &proven, 9);
    a.handle_datagram(T0, &path(2), &m2);
    work(&mut a, T0, false);
    assert!(matches!(a.poll_event(), Some(Event::Completed { .. })));
    let m1 = message1(&mut a, T0, 2, 2);
    b.handle_datagram(T0 + Duration::from_secs(130), &path(1), &m1);
    let reply = one(&mut b, T0);
    let proven = with_cookie(&mut a, T0, &reply);
    b.handle_datagram(T0 + Duration::from_secs(371), &path(1), &proven);
    assert_eq!(one(&mut b, T0).len(), COOKIE_LEN, "the secret is gone");
}

#[test]
fn the_budget_refills_with_time() {
    let mut c = config(2);
    c.cookie_after = 2;
    let (mut a, mut b) = (node(1), machine(c));
    let mut demanded = |b: &mut Handshakes, now, id| {
        let before = b.drops().cookie_demanded;
        let m1 = message1(&mut a, T0, id, 2);
        b.handle_datagram(now, &path(1), &m1);
        b.drops().cookie_demanded > before
    };
    assert_eq!([1, 2, 3].map(|id| demanded(&mut b, T0, id)), [false, false, true]);
    assert_eq!([4, 5].map(|id| demanded(&mut b, T0 + ms(500), id)), [false, true]);
}

#[test]
fn two_half_opens_of_one_entity_and_only_a_cookie_replaces_the_older() {
    let (mut a, mut b) = (node(1), node(2));
    let (first, _) = respond(&mut b, T0, &path(1), &message1(&mut a, T0, 1, 2), 1);
    let _ = respond(&mut b, T0, &path(1), &message1(&mut a, T0, 2, 2), 2);
    let _ = events(&mut b);
    let third = message1(&mut a, T0, 3, 2);
    b.handle_datagram(T0, &path(1), &third);
    let reply = one(&mut b, T0);
    assert_eq!((b.half_open(), b.drops().slots, reply.len()), (2, 1, COOKIE_LEN));
    assert!(events(&mut b).is_empty(), "nothing was evicted");
    // Others are not touched by it.
    let _ = respond(&mut b, T0, &path(4), &message1(&mut node(3), T0, 1, 2), 4);
    let _ = events(&mut b);
    let proven = with_cookie(&mut a, T0, &reply);
    b.handle_datagram(T0, &path(1), &proven);
    work(&mut b, T0, false);
    assert_eq!(b.poll_event(), Some(Event::Expired { id: first, local_index: 1 }));
    asked(&mut b);
    assert_eq!(b.half_open(), 3);
}

#[test]
fn rotation_add_switch_remove() {
    let (mut a, mut b) = (node(1), node(2));
    let next = Mesh { id: mesh(1).id, key: MeshKey([55; 32]) };
    let run = |a: &mut Handshakes, b: &mut Handshakes, id: u64| {
        let m1 = message1(a, T0, id, 2);
        b.handle_datagram(T0, &path(1), &m1);
        work(b, T0, false);
        let Some(Event::Asked { id: half, .. }) = b.poll_event() else { return false };
        assert!(b.answer(T0, half, accept(id as u32)));
        let m2 = one(b, T0);
        a.handle_datagram(T0, &path(2), &m2);
        work(a, T0, false);
        let _ = b.confirm(half, &path(1), None);
        let _ = events(b);
        matches!(a.poll_event(), Some(Event::Completed { .. }))
    };
    b.add_mesh(&next).unwrap();
    assert!(run(&mut a, &mut b, 1), "the old key still works");
    a.add_mesh(&next).unwrap();
    assert!(run(&mut a, &mut b, 2));
    assert!(b.remove_mesh(&mesh(1).id) && a.remove_mesh(&mesh(1).id));
    assert!(run(&mut a, &mut b, 3), "the new key stayed");
    let mut dice = Entropy::new(&[5; 32], "dice");
    let before = b.drops().mac1;
    assert!(!run(&mut a_new(&mut dice), &mut b, 1), "the old key is gone");
    assert_eq!(b.drops().mac1, before + 1);
    assert!(b.remove_mesh(&mesh(1).id) && !b.remove_mesh(&mesh(1).id));
    for n in 1..=4 {
        b.add_mesh(&mesh(n)).unwrap();
    }
    assert_eq!(b.add_mesh(&mesh(5)), Err(MeshRefused::TooMany));
    b.add_mesh(&mesh(1)).unwrap();
    assert!(run(&mut a_new(&mut dice), &mut b, 1), "four at once");
    a.meshes.clear();
    assert_eq!(a.dial(T0, request(9, 2)), Err(DialRefused::NoMesh));
}

#[test]
fn versions_are_told_to_members_and_a_common_one_is_dialled() {
    let with = |n, low, high| {
        let mut c = config(n);
        c.versions = (low, high);
        machine(c)
    };
    let (mut a, mut b) = (with(1, 3, 4), with(2, 1, 2));
    let m1 = message1(&mut a, T0, 1, 2);
    b.handle_datagram(T0, &path(1), &m1);
    let reply = one(&mut b, T0);
    assert!(reply.len() == VERSIONS_LEN && reply.len() <= m1.len());
    for at in 0..reply.len() {
        let mut bad = reply.clone();
        bad[at] ^= 1;
        a.handle_datagram(T0, &path(2), &bad);
        assert!(events(&mut a).is_empty(), "byte {at}");
    }
    a.handle_datagram(T0, &path(2), &reply);
    let error = DialFailure::Version { ours: (3, 4), theirs: (1, 2) };
    assert_eq!(events(&mut a), [Event::Failed { id: DialId(1), error }]);
    // Too short to be answered.
    let mut short = vec![1, 9];
    short.resize(2 + 32, 0);
    remac(&mut short, &MeshKeys::new(&mesh(1), &identity(2).id()).own_mac1);
    b.handle_datagram(T0, &path(1), &short);
    assert!(sent(&mut b, T0).is_empty());
    assert_eq!(b.drops().version, 1);

    // N and N-1.
    let (mut a, mut b) = (with(1, 1, 2), with(2, 1, 1));
    let m1 = message1(&mut a, T0, 1, 2);
    b.handle_datagram(T0, &path(1), &m1);
    let reply = one(&mut b, T0);
    a.handle_datagram(T0, &path(2), &reply);
    let m1 = one(&mut a, T0);
    assert_eq!(m1[1], 1);
    let (_, m2) = respond(&mut b, T0, &path(1), &m1, 9);
    a.handle_datagram(T0, &path(2), &m2);
    work(&mut a, T0, false);
    assert!(matches!(a.poll_event(), Some(Event::Completed { .. })));
    // The same message at a node that speaks both shows the downgrade.
    let mut c = with(2, 1, 2);
    c.handle_datagram(T0, &path(1), &m1);
    untouched(&mut c, T0);
    assert_eq!(c.drops().downgrade, 1);
}

#[test]
fn repetition_doubles_takes_paths_in_turn_and_ends() {
    let mut a = node(1);
    let _ = a.dial(T0, request(1, 2)).unwrap();
    let first = one(&mut a, T0);
    let mut waits = Vec::new();
    let mut now = T0;
    let end = loop {
        let (at, reason) = a.poll_timeout().unwrap();
        assert_eq!(reason, Reason::Handshake);
        a.handle_timeout(at);
        if let Some(event) = a.poll_event() {
            assert_eq!(
                event,
                Event::Failed { id: DialId(1), error: DialFailure::TimedOut(Duration::from_secs(20)) }
            );
            break at;
        }
        assert_eq!(one(&mut a, at), first, "the same bytes");
        waits.push(at.since(now).as_millis());
        now = at;
    };
    assert_eq!(waits, [300, 600, 1200, 2400, 4800, 5000, 5000]);
    assert_eq!(end, T0 + Duration::from_secs(20));
    assert!(a.is_idle());

    let _ = a.dial(T0 + ms(0), DialRequest { paths: vec![path(7), path(8)], ..request(2, 2) }).unwrap();
    let mut trail = vec![];
    work(&mut a, now, false);
    let start = end;
    for _ in 0..5 {
        let (p, _) = sent(&mut a, start).pop().unwrap();
        let (at, _) = a.poll_timeout().unwrap();
        trail.push((p, at.since(start).as_millis()));
        a.handle_timeout(at);
    }
    let wanted = [(7, 150), (8, 300), (7, 600), (8, 900), (7, 1500)];
    assert_eq!(trail, wanted.map(|(port, at)| (path(port), at)));
    a.cancel(DialId(2));
    assert!(a.is_idle() && a.poll_timeout().is_none());
}

#[test]
fn silly_dials_are_refused_and_change_nothing() {
    let mut c = config(1);
    c.dial_limit = 2;
    let mut a = machine(c);
    let mut refused = |r: DialRequest| a.dial(T0, r).unwrap_err();
    assert_eq!(refused(DialRequest { paths: vec![], ..request(1, 2) }), DialRefused::NoPath);
    assert_eq!(
        refused(DialRequest { paths: vec![path(1); 17], ..request(1, 2) }),
        DialRefused::TooManyPaths(17)
    );
    assert_eq!(refused(request(1, 1)), DialRefused::BadEntity);
    assert_eq!(refused(DialRequest { peer: EntityId([0; 32]), ..request(1, 2) }), DialRefused::BadEntity);
    assert_eq!(refused(DialRequest { mesh: Some(MeshId([9; 32])), ..request(1, 2) }), DialRefused::NoMesh);
    assert_eq!(refused(DialRequest { limits: vec![0; 65], ..request(1, 2) }), DialRefused::TooLong);
    assert!(a.is_idle());
    let _ = a.dial(T0, request(1, 2)).unwrap();
    assert_eq!(a.dial(T0, DialRequest { local_index: 1, ..request(1, 2) }), Err(DialRefused::Duplicate));
    assert_eq!(a.dial(T0, DialRequest { local_index: 1001, ..request(2, 2) }), Err(DialRefused::Duplicate));
    let _ = a.dial(T0, request(2, 2)).unwrap();
    assert_eq!(a.dial(T0, request(3, 2)), Err(DialRefused::TooMany(2)));
}

#[test]
fn hostile_datagrams_never_get_more_bytes_than_they_brought() {
    // Members with broken, replayed, cookie-less and unknown-version messages; strangers with noise.
    let mut c = config(2);
    (c.cookie_after, c.half_open_limit) = (20, 16);
    let mut b = machine(c);
    let mut dice = Entropy::new(&[4; 32], "dice");
    let key = MeshKeys::new(&mesh(1), &identity(2).id()).own_mac1;
    let mut a = node(1);
    let mut pool: Vec<Vec<u8>> = (0..20).map(|id| message1(&mut a, T0, id, 2)).collect();
    let mut now = T0;
    let (mut received, mut answered, mut datagrams) = (0u64, 0u64, 0u64);
    for _ in 0..20_000 {
        now += Duration::from_micros(dice.below(2_000));
        let at = dice.below(pool.len() as u64) as usize;
        let mut data = pool[at].clone();
        let long = data.len() as u64;
        match dice.below(8) {
            0 => dice.fill(&mut data),
            1 => data.truncate(dice.below(long) as usize),
            2 | 3 => {
                let spot = 2 + dice.below(long - 34) as usize;
                data[spot] ^= 1;
                remac(&mut data, &key);
            }
            4 => {
                data[1] = 9;
                data.drain(2..2 + dice.below(long - 40) as usize);
                remac(&mut data, &key);
            }
            5 => data[0] = 1 + dice.below(5) as u8,
            6 => pool[at] = message1(&mut a_new(&mut dice), T0, 1, 2),
            _ => {}
        }
        received += data.len() as u64;
        datagrams += 1;
        let before = received - data.len() as u64;
        let source = path(dice.below(4) as u16);
        b.handle_datagram(now, &source, &data);
        work(&mut b, now, false);
        while let Some(event) = b.poll_event() {
            if let Event::Asked { id, .. } = event {
                let _ = b.answer(now, id, accept(dice.u32()));
            }
        }
        let out: u64 = sent(&mut b, now).iter().map(|(_, d)| d.len() as u64).sum();
        assert!(out <= received - before, "{out} bytes for {}", data.len());
        answered += out;
        assert!(b.half_open() <= 16);
        if b.poll_timeout().is_some_and(|(at, _)| at <= now) {
            b.handle_timeout(now);
        }
    }
    let drops = b.drops();
    assert!(answered > 0 && answered <= received, "{answered} of {received} bytes in {datagrams} datagrams");
    assert!(
        drops.cookie_demanded > 0 && drops.message1 > 0 && drops.mac1 > 0 && drops.malformed > 0,
        "{drops:?}"
    );
    assert!(b.ceiling() > 0 && b.ceiling() < 64 << 20);
}

fn a_new(dice: &mut Entropy) -> Handshakes {
    let mut c = config(1);
    c.identity = Identity::from_seed(&dice.array());
    machine(c)
}

#[test]
fn limits_of_jobs_and_half_opens_end_in_silence() {
    let mut c = config(2);
    (c.job_limit, c.half_open_limit) = (2, 2);
    let (mut a, mut b) = (node(1), machine(c));
    let m: Vec<_> = (1..5).map(|id| message1(&mut a, T0, id, 2)).collect();
    b.handle_datagram(T0, &path(1), &m[0]);
    b.handle_datagram(T0, &path(1), &m[1]);
    let mut buf = [0; 1200];
    let (_, len) = b.poll_transmit(T0, &mut buf).unwrap();
    assert_eq!((len, b.half_open()), (COOKIE_LEN, 1), "half full: a cookie first");
    let reply = buf[..len].to_vec();
    // The reply is for the second dial, whose repetition is then the proven one.
    let proven = with_cookie(&mut a, T0, &reply);
    b.handle_datagram(T0, &path(1), &proven);
    assert_eq!(b.half_open(), 2);
    b.handle_datagram(T0, &path(1), &m[2]);
    let (_, len) = b.poll_transmit(T0, &mut buf).unwrap();
    let proven = with_cookie(&mut a, T0, &buf[..len]);
    b.handle_datagram(T0, &path(1), &proven);
    assert_eq!((b.half_open(), b.drops().full, b.poll_transmit(T0, &mut buf)), (2, 1, None));
    // A dial finds no job either, and a result for nobody is ignored.
    assert_eq!(b.dial(T0, request(1, 3)), Err(DialRefused::TooMany(2)));
    let (ticket, job) = b.poll_job().unwrap();
    b.handle_timeout(T0 + Duration::from_secs(6));
    b.handle_job(T0, ticket, job.run());
    b.handle_job(T0, ticket, Job(Work::Read { seed: seed(), message: vec![] }).run());
    assert!(b.is_idle(), "queued jobs went with their owners");
}

fn seed() -> Seed {
    Seed { secret: [1; 32], ephemeral: [2; 32], psk0: [0; 32], psk2: [0; 32], prologue: vec![] }
}

#[test]
fn jobs_and_results_may_run_anywhere() {
    fn movable<T: Send + 'static>() {}
    movable::<Job>();
    movable::<JobDone>();
    movable::<Handshakes>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn free_input_does_nothing(kind in 0u8..6, major in 0u8..3, rest in proptest::collection::vec(any::<u8>(), 0..1300)) {
        let mut data = vec![kind, major];
        data.extend(rest);
        let mut b = node(2);
        b.handle_datagram(T0, &path(1), &data);
        untouched(&mut b, T0);
    }

    #[test]
    fn payload_decoders_are_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check_canonical::<Hello>(&bytes);
        check_canonical::<Welcome>(&bytes);
    }

    #[test]
    fn payloads_survive_and_padding_reaches_the_floor(
        grant in proptest::collection::vec(any::<u8>(), 0..=MAX_GRANT),
        limits in proptest::collection::vec(any::<u8>(), 0..=MAX_LIMITS),
        resume in any::<Option<u64>>(),
    ) {
        let mut hello = Hello {
            entity: EntityId([1; 32]), versions: (1, 3), features: 5, ciphers: 3,
            incarnation: Incarnation { epoch: 1, random: 2 }, number: 3, resume, limits, grant, tlvs: vec![],
        };
        let bare = hello.to_vec().len();
        hello.pad();
        let bytes = hello.to_vec();
        let floor = FLOOR - HEADER1 - NOISE1 - MACS;
        prop_assert!(bytes.len() >= floor && bytes.len() <= bare.max(floor + 2));
        prop_assert_eq!(Hello::decode_exact(&bytes), Ok(hello));
    }

    #[test]
    fn timeouts_always_make_progress(steps in proptest::collection::vec((0u8..9, 0u64..6_000), 1..60)) {
        // Two machines, jobs late or never, datagrams lost or repeated, calls in any order.
        let mut c = config(2);
        (c.cookie_after, c.half_open_limit, c.job_limit) = (3, 6, 6);
        let mut m = [node(1), machine(c)];
        let (mut now, mut id, mut buf) = (T0, 0, [0; 1200]);
        let mut wire: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut held: Vec<(usize, crate::storage::Ticket, Job)> = Vec::new();
        for (kind, n) in steps {
            let side = n as usize % 2;
            match kind {
                0 => { id += 1; let _ = m[side].dial(now, request(id, 2 - side as u8)); }
                1 => if let Some((ticket, job)) = m[side].poll_job() { held.push((side, ticket, job)); },
                2 => if let Some((side, ticket, job)) = held.pop() { m[side].handle_job(now, ticket, job.run()); },
                3 => if let Some((_, len)) = m[side].poll_transmit(now, &mut buf) {
                    wire.push((1 - side, buf[..len].to_vec()));
                },
                4 | 5 => if let Some((side, data)) = wire.last().cloned() {
                    if kind == 4 { wire.pop(); }
                    m[side].handle_datagram(now, &path(n as u16 % 3), &data);
                },
                6 => match m[side].poll_event() {
                    Some(Event::Asked { id, .. }) => { let _ = m[side].answer(now, id, accept(n as u32)); }
                    Some(Event::Responded { id, .. }) if n % 3 == 0 => { let _ = m[side].confirm(id, &path(1), None); }
                    _ => {}
                },
                7 => m[side].cancel(DialId(n % 8)), _ => now += ms(n),
            }
            for m in &mut m {
                let Some((at, _)) = m.poll_timeout().filter(|(at, _)| *at <= now) else { continue };
                m.handle_timeout(at.max(now));
                let sent = m.poll_transmit(now, &mut buf).is_some();
                let emitted = m.poll_event().is_some() | m.poll_job().is_some() | sent;
                let later = m.poll_timeout().is_none_or(|(next, _)| next > at);
                prop_assert!(emitted || later, "stuck at {at:?}");
            }
        }
    }
}
