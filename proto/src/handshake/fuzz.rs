//! Entry for fuzzers: decoders and both roles under free input.

use alloc::vec;

use super::api::{Answer, Config, DialRequest, Event};
use super::keys::{MAC, mac1};
use super::machine::Handshakes;
use super::wire::{Hello, MACS, Welcome};
use crate::codec::check_canonical;
use crate::entropy::Entropy;
use crate::identity::{Identity, Incarnation, Mesh, MeshId, MeshKey};
use crate::path::Path;
use crate::time::{Duration, Instant};

/// Panics if a decoder is not canonical, if an answer is longer than its question, or if anything
/// but silence meets input that nobody with an identity made. Feeds `data` as it is and again with a
/// valid mac1, as a hostile member would send it.
pub fn fuzz(data: &[u8]) {
    check_canonical::<Hello>(data);
    check_canonical::<Welcome>(data);
    let start = Instant::from_nanos(1);
    let mesh = Mesh { id: MeshId([1; 32]), key: MeshKey([2; 32]) };
    let config = Config::new(Identity::from_seed(&[3; 32]), Incarnation { epoch: 1, random: 1 }, vec![mesh]);
    let mut m = Handshakes::new(config, Entropy::new(&[4; 32], "fuzz"), start);
    let path = Path::udp(([192, 0, 2, 1], 1).into());
    let request = DialRequest {
        id: 1,
        peer: Identity::from_seed(&[5; 32]).id(),
        paths: vec![path],
        local_index: 0,
        resume: None,
        limits: vec![],
        mesh: None,
    };
    assert!(m.dial(start, request).is_ok());
    let _ = drain(&mut m, start);
    m.handle_datagram(start, &path, data);
    assert!(drain(&mut m, start) <= data.len(), "more bytes than the question had");
    if let (Some(at), Some(key)) = (data.len().checked_sub(MACS), m.meshes.first().map(|mesh| mesh.own_mac1))
    {
        let mut member = data.to_vec();
        let mac = mac1(&key, &data[..at]);
        member[at..at + MAC].copy_from_slice(&mac);
        m.handle_datagram(start, &path, &member);
        assert!(drain(&mut m, start) <= data.len(), "more bytes than the question had");
    }
    m.handle_timeout(start + Duration::from_secs(30));
    let _ = drain(&mut m, start);
    assert!(m.is_idle());
}

/// Runs what is queued; the bytes that left.
fn drain(m: &mut Handshakes, now: Instant) -> usize {
    let (mut buf, mut bytes) = ([0; 1200], 0);
    while let Some((ticket, job)) = m.poll_job() {
        m.handle_job(now, ticket, job.run());
    }
    while let Some(event) = m.poll_event() {
        assert!(!matches!(event, Event::Completed { .. }), "nobody answered this dial");
        if let Event::Asked { id, .. } = event {
            let _ = m.answer(now, id, Answer::Ignore);
        }
    }
    while let Some((_, len)) = m.poll_transmit(now, &mut buf) {
        bytes += len;
    }
    bytes
}
