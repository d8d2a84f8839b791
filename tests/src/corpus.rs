//! Seeds of the fuzzers, and the mutations that every run of the tests tries on them.

use net_proto::bus::mesh::{Frame, frame_samples};
use net_proto::bus::outbox::Record;
use net_proto::bus::{Dedup, EventId, ProducerId, cursor_samples, producer_record};
use net_proto::codec::Wire;
use net_proto::entropy::Entropy;
use net_proto::handshake::{Hello, Outcome, Welcome};
use net_proto::identity::{Identity, Incarnation, Invite, Mesh, MeshId, MeshKey, Ticket};
use net_proto::node::boot;
use net_proto::recovery::{Ack, EcnCounts};
use net_proto::registry::{self, Decoder};
use net_proto::session::aead::Cipher;
use net_proto::session::{Close, Extension};
use net_proto::stream::{Limits, frame_message};

/// Every decoder: those of `net_proto::registry`, and what drivers read by themselves.
pub fn decoders() -> impl Iterator<Item = Decoder> {
    let redis = Decoder { name: "resp", check: net_redis::check_answer };
    registry::decoders().iter().copied().chain([redis])
}

/// Seeds of the decoder `name`, small and valid ones first. Empty for a decoder without any: a test
/// fails then.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "ticket" => tickets().iter().map(Wire::to_vec).collect(),
        "invite" => invites().iter().map(Wire::to_vec).collect(),
        "entity-text" => tickets().iter().map(|t| t.entity.to_string().into_bytes()).collect(),
        "ticket-text" => tickets().iter().map(|t| t.to_string().into_bytes()).collect(),
        "invite-text" => invites().iter().map(|i| i.to_string().into_bytes()).collect(),
        "boot-record" => [0, 1, u64::MAX].map(boot::record).into(),
        "hello" => hellos().iter().map(Wire::to_vec).collect(),
        "welcome" => welcomes().iter().map(Wire::to_vec).collect(),
        "packet-header" => packet_headers(),
        "ack" => acks().iter().map(Wire::to_vec).collect(),
        "close" => {
            [(0, 0), (7, 0), (0, 3)].map(|(code, violation)| Close { code, violation }.to_vec()).into()
        }
        "extension" => extensions().iter().map(Wire::to_vec).collect(),
        "stream-limits" => limits().iter().map(Wire::to_vec).collect(),
        "stream-frames" => stream_frames(),
        "chunk" => chunks(),
        "event-id" => event_ids().iter().map(Wire::to_vec).collect(),
        "event-id-text" => event_ids().iter().map(|id| id.to_string().into_bytes()).collect(),
        "cursor" => cursor_samples().iter().map(Wire::to_vec).collect(),
        "cursor-text" => cursor_samples().iter().map(|c| c.to_string().into_bytes()).collect(),
        "filter" => FILTERS.map(|text| text.as_bytes().to_vec()).into(),
        "dedup" => dedups().iter().map(Wire::to_vec).collect(),
        "producer-file" => [0, 1, u64::MAX].map(|n| producer_record(ProducerId(n ^ 5), n)).into(),
        "bus-frame" => frame_samples().iter().map(Wire::to_vec).collect(),
        "bus-run" => frame_samples().iter().flat_map(bus_runs).collect(),
        "outbox-record" => outbox_records().iter().map(Wire::to_vec).collect(),
        "resp" => ANSWERS.map(|text| text.as_bytes().to_vec()).into(),
        _ => Vec::new(),
    }
}

/// Answers of Redis: a status, an error, what `XREAD` answers, and the results of a transaction.
const ANSWERS: [&str; 4] = [
    "+OK\r\n",
    "-ERR no such key\r\n",
    "*1\r\n*2\r\n$5\r\nnet:0\r\n*1\r\n*2\r\n$3\r\n7-0\r\n*4\r\n$1\r\nd\r\n$0\r\n\r\n$1\r\nt\r\n$2\r\n\r\n\r\n",
    "*4\r\n:-12\r\n$-1\r\n*-1\r\n*0\r\n",
];

const FILTERS: [&str; 4] = [
    r#"{"path":"a.0","value":1}"#,
    r#"{"$ge":{"path":"/a~1b","value":-1.5e3}}"#,
    r#"{"$or":[{"$exists":{"path":""}},{"$ne":{"path":"x","value":null}}]}"#,
    r#"{"$and":[{"$not":{"$lt":{"path":"x","value":"\u00e9\n"}}},{"$eq":{"path":"t","value":true}}]}"#,
];

fn event_ids() -> [EventId; 3] {
    [(0, 0, 0), (7, 3, 9), (u64::MAX, u16::MAX, u64::MAX)].map(|(n, shard, seq)| EventId {
        producer: ProducerId(n),
        incarnation: n,
        shard,
        seq,
    })
}

fn dedups() -> [Dedup; 3] {
    let mut some = Dedup::new(3);
    let mut more = Dedup::default();
    for id in event_ids() {
        some.is_duplicate(&id);
        more.is_duplicate(&EventId { shard: 1, ..id });
        more.is_duplicate(&EventId { seq: 5, ..id });
    }
    [Dedup::default(), some, more]
}

/// A run, and a part of it.
fn bus_runs(frame: &Frame) -> Vec<Vec<u8>> {
    match frame {
        Frame::Append { run, .. } | Frame::Part { run: Some(run), .. } => {
            vec![run.to_vec(), run.part(1, 1, usize::MAX).to_vec()]
        }
        _ => Vec::new(),
    }
}

fn outbox_records() -> [Record; 3] {
    let of = |event, body: &[u8]| Record {
        event,
        shard: 3,
        incarnation: 2,
        seq: 70,
        stamp: if event { 99 } else { 0 },
        body: body.to_vec(),
    };
    [of(true, b""), of(true, b"{\"c\":21}"), of(false, b"")]
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

fn limits() -> [Limits; 3] {
    let small = Limits { session_window: 1 << 14, stream_window: 1 << 12, streams: 1, max_message: 64 };
    [Limits::default(), Limits::NONE, small]
}

fn hellos() -> Vec<Hello> {
    let of = |n: u8, resume, tlvs: &[u8]| Hello {
        entity: Identity::from_seed(&[n; 32]).id(),
        versions: (1, n.max(1)),
        features: u64::from(n),
        ciphers: Cipher::ChaCha20Poly1305.bit(),
        incarnation: Incarnation { epoch: 3, random: 4 },
        number: 5,
        resume,
        limits: Limits::default().to_vec(),
        grant: vec![n; n.into()],
        tlvs: tlvs.to_vec(),
    };
    // No extension; padding of two zeros; an unknown one that may be ignored.
    vec![of(0, None, &[]), of(1, Some(9), &[0, 2, 0, 0]), of(2, Some(u64::MAX), &[2, 1, 7])]
}

fn welcomes() -> Vec<Welcome> {
    let of = |cipher, outcome, observed: Option<&str>| Welcome {
        version: 1,
        versions: (1, 1),
        features: 0,
        cipher,
        incarnation: Incarnation { epoch: 3, random: 4 },
        index: 0x0102_0304,
        outcome,
        observed: observed.map(|addr| addr.parse().expect("an address")),
        tlvs: Vec::new(),
    };
    let accepted =
        |resumed| Outcome::Accepted { association: 6, resumed, limits: Limits::default().to_vec() };
    vec![
        of(Cipher::ChaCha20Poly1305, Outcome::Refused(2), None),
        of(Cipher::ChaCha20Poly1305, accepted(false), Some("192.0.2.1:9")),
        of(Cipher::Aes256Gcm, accepted(true), Some("[2001:db8::1]:9")),
    ]
}

/// Header and tag: the shortest packets there are.
fn packet_headers() -> Vec<Vec<u8>> {
    [(0u32, 0u64), (0x0102_0304, 5), (u32::MAX, u64::MAX)]
        .map(|(index, counter)| [&[5][..], &index.to_le_bytes(), &counter.to_le_bytes(), &[0; 16]].concat())
        .into()
}

fn acks() -> Vec<Ack> {
    let ecn = EcnCounts { ect0: 70, ect1: 0, ce: 3 };
    vec![
        Ack { delay_us: 0, ranges: vec![0..=0], ecn: None },
        Ack { delay_us: 900, ranges: vec![100..=120, 70..=80, 3..=3], ecn: None },
        Ack { delay_us: 25_000, ranges: vec![1_000_000..=1_000_001, 0..=999_997], ecn: Some(ecn) },
    ]
}

fn extensions() -> Vec<Extension> {
    [(0x40, 0), (0x41, 3), (0x1_0000, 70)].map(|(kind, len)| Extension { kind, body: vec![9; len] }).into()
}

/// Streams that the peer opens (even ids), data in each mode, and every frame without data.
fn stream_frames() -> Vec<Vec<u8>> {
    let open = |id: u8, mode: u8| vec![0x10, id, mode, 16, 1, b'a'];
    vec![
        // Reliable: OPEN, DATA with one message of two bytes, FIN after three bytes charged as 64.
        [open(0, 1), vec![0x11, 0, 0, 3, 2, b'h', b'i'], vec![0x17, 0, 3, 0x40, 64]].concat(),
        // Unordered: a run, and the middle of a message of nine bytes.
        [open(2, 2), vec![0x12, 2, 0, 2, 1, b'x'], vec![0x13, 2, 1, 9, 3, 2, b'y', b'z']].concat(),
        // Fire-and-forget: a run, the middle of a message, SYNC.
        [open(4, 0), vec![0x14, 4, 0, 0, 2, 1, b'x'], vec![0x15, 4, 1, 0x40, 64, 9, 3, 1, b'y']].concat(),
        [open(4, 0), vec![0x16, 4, 2, 0x40, 128]].concat(),
        // Credit and ends, on streams of the receiver (odd ids).
        vec![0x08, 0x80, 1, 0, 0, 0x09, 5, 0x1a, 1, 0x80, 1, 0, 0, 0x19, 1, 0, 7],
        [open(0, 1), vec![0x18, 0, 0, 7, 0, 0x1b, 0, 0x40, 64, 0x40, 64, 0x1c, 0x40, 64, 0x40, 64]].concat(),
    ]
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
