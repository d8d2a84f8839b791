//! Seeds of the fuzzers, and the mutations that every run of the tests tries on them.

use net_proto::codec::Wire;
use net_proto::entropy::Entropy;
use net_proto::identity::{Identity, Invite, Mesh, MeshId, MeshKey, Ticket};
use net_proto::stream::frame_message;

/// Seeds of the decoder `name`, small and valid ones first. Empty for a decoder without any: a test
/// fails then.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "ticket" => tickets().iter().map(Wire::to_vec).collect(),
        "invite" => invites().iter().map(Wire::to_vec).collect(),
        "entity-text" => tickets().iter().map(|t| t.entity.to_string().into_bytes()).collect(),
        "ticket-text" => tickets().iter().map(|t| t.to_string().into_bytes()).collect(),
        "invite-text" => invites().iter().map(|i| i.to_string().into_bytes()).collect(),
        "chunk" => chunks(),
        _ => Vec::new(),
    }
}

fn tickets() -> Vec<Ticket> {
    let addrs = ["127.0.0.1:9000", "[2001:db8::1]:1", "192.0.2.1:65535"];
    (0..3u8)
        .map(|n| Ticket {
            entity: Identity::from_seed(&[n; 32]).id(),
            addrs: addrs.iter().take(n.into()).map(|a| a.parse().expect("an address")).collect(),
        })
        .collect()
}

fn invites() -> Vec<Invite> {
    let mesh = |n| Mesh { id: MeshId([n; 32]), key: MeshKey([n ^ 0xff; 32]) };
    tickets().into_iter().zip(0..).map(|(ticket, n)| Invite { ticket, mesh: mesh(n) }).collect()
}

fn chunks() -> Vec<Vec<u8>> {
    let sizes: [&[usize]; 3] = [&[0], &[1, 0, 63], &[64, 5, 300]];
    sizes
        .iter()
        .map(|sizes| {
            let mut chunk = Vec::new();
            sizes.iter().for_each(|size| frame_message(&mut chunk, &vec![*size as u8; *size]));
            chunk
        })
        .collect()
}

/// Tries `check` on `seed`, on everything it begins with, and with every byte replaced by every
/// other. Returns how many inputs that were.
pub fn neighbourhood(seed: &[u8], check: fn(&[u8])) -> usize {
    (0..=seed.len()).for_each(|len| check(&seed[..len]));
    let mut changed = seed.to_vec();
    for at in 0..seed.len() {
        for value in 0..=255 {
            changed[at] = value;
            check(&changed);
        }
        changed[at] = seed[at];
    }
    seed.len() + 1 + seed.len() * 256
}

/// One random change of `bytes`, as a fuzzer without feedback would make it.
pub fn mutate(bytes: &mut Vec<u8>, entropy: &mut Entropy) {
    let at = entropy.below(bytes.len() as u64 + 1) as usize;
    match entropy.below(6) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, entropy.u32() as u8),
        2 if at < bytes.len() => drop(bytes.remove(at)),
        3 if at < bytes.len() => bytes[at] ^= 1 << entropy.below(8),
        4 if at < bytes.len() => {
            bytes[at] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xbf, 0xff][entropy.below(8) as usize]
        }
        5 => {
            let copy = bytes[..at].to_vec();
            if bytes.len() < 4096 {
                bytes.extend_from_slice(&copy);
            }
        }
        _ => bytes.push(entropy.u32() as u8),
    }
}
