//! The stream of a shard: its name, its configuration, its state.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use net_proto::bus::{EventId, MAX_SHARDS, ProducerId, Shard};
use net_shell::bus::adapter::AdapterError;
use serde::{Deserialize, Serialize};

use crate::config::JetStream;
use crate::connection::Connection;
use crate::error::refused;

/// The header with the id, by which the server drops what it has already.
pub const ID: &str = "Nats-Msg-Id";
/// The header with the id of the event before, which must be the last one in the stream.
pub const AFTER: &str = "Nats-Expected-Last-Msg-Id";
/// The header with the time of acceptance: nanoseconds since 1970.
pub const STAMP: &str = "Net-Stamp";
/// Bytes that the headers of a message take at most, with a margin for what servers count besides.
pub const HEADERS: u32 = 512;

/// The stream of a shard.
pub fn name(options: &JetStream, shard: Shard) -> String {
    format!("{}_shard_{shard}", options.prefix)
}

/// The shard of a stream, if it is one of ours.
pub fn shard_of(options: &JetStream, stream: &str) -> Option<Shard> {
    let number = stream.strip_prefix(&options.prefix)?.strip_prefix("_shard_")?;
    let shard = number.parse().ok().filter(|shard| *shard < MAX_SHARDS)?;
    (name(options, shard) == stream).then_some(shard)
}

/// Where a producer's events of a shard go.
pub fn subject(options: &JetStream, shard: Shard, producer: ProducerId) -> String {
    format!("{}.shard.{shard}.{producer}", options.prefix)
}

/// All subjects of a shard.
pub fn subjects(options: &JetStream, shard: Shard) -> String {
    format!("{}.shard.{shard}.*", options.prefix)
}

/// What is known of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it was created, nanoseconds since 1970: tells it from an earlier one of the same name.
    pub created: u64,
    /// The oldest sequence that is there, or the next one if there is none.
    pub first: u64,
    /// The last sequence that was given.
    pub last: u64,
    /// Messages that are there.
    pub messages: u64,
}

#[derive(Debug, Deserialize)]
struct Info {
    created: String,
    config: Config,
    state: State,
}

#[derive(Debug, Deserialize)]
struct State {
    first_seq: u64,
    last_seq: u64,
    messages: u64,
}

/// The parts of a configuration that matter here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Config {
    name: String,
    #[serde(default)]
    subjects: Vec<String>,
    retention: String,
    #[serde(default)]
    max_msgs: i64,
    #[serde(default)]
    max_bytes: i64,
    #[serde(default)]
    max_age: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    max_msg_size: i64,
    discard: String,
    storage: String,
    num_replicas: u8,
    #[serde(default)]
    duplicate_window: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    no_ack: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sealed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mirror: Option<serde_json::Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(n: &i64) -> bool {
    *n == 0
}

fn config(options: &JetStream, shard: Shard) -> Config {
    let limit = |limit: Option<u64>| limit.map_or(-1, |n| n as i64);
    let window = options.max_age.map_or(options.duplicate_window, |age| age.min(options.duplicate_window));
    Config {
        name: name(options, shard),
        subjects: vec![subjects(options, shard)],
        retention: "limits".into(),
        max_msgs: limit(options.max_messages),
        max_bytes: limit(options.max_bytes),
        max_age: options.max_age.map_or(0, nanos),
        max_msg_size: 0,
        discard: if options.discard_new { "new" } else { "old" }.into(),
        storage: if options.memory { "memory" } else { "file" }.into(),
        num_replicas: options.replicas,
        duplicate_window: nanos(window),
        no_ack: false,
        sealed: false,
        mirror: None,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// In what a stream differs from what is wanted.
fn difference(is: &Config, wanted: &Config, message: u32) -> Option<String> {
    let no_limit = |n: i64| if n <= 0 { -1 } else { n };
    let fields: [(&str, String, String); 11] = [
        ("subjects", format!("{:?}", is.subjects), format!("{:?}", wanted.subjects)),
        ("retention", is.retention.clone(), wanted.retention.clone()),
        ("max_msgs", no_limit(is.max_msgs).to_string(), wanted.max_msgs.to_string()),
        ("max_bytes", no_limit(is.max_bytes).to_string(), wanted.max_bytes.to_string()),
        ("max_age", is.max_age.to_string(), wanted.max_age.to_string()),
        ("discard", is.discard.clone(), wanted.discard.clone()),
        ("storage", is.storage.clone(), wanted.storage.clone()),
        ("num_replicas", is.num_replicas.to_string(), wanted.num_replicas.to_string()),
        ("duplicate_window", is.duplicate_window.to_string(), wanted.duplicate_window.to_string()),
        ("no_ack", is.no_ack.to_string(), wanted.no_ack.to_string()),
        ("mirror", is.mirror.is_some().to_string(), wanted.mirror.is_some().to_string()),
    ];
    if let Some((field, is, wanted)) = fields.into_iter().find(|(_, is, wanted)| is != wanted) {
        return Some(format!("its {field} is {is}, the bus wants {wanted}"));
    }
    if is.sealed {
        return Some("it is sealed".into());
    }
    if is.max_msg_size > 0 && is.max_msg_size < i64::from(message) {
        return Some(format!(
            "it takes messages of {} bytes, the bus sends up to {message}: lower max_event",
            is.max_msg_size
        ));
    }
    None
}

/// The state of a stream; `None` if there is no such stream.
pub async fn see(connection: &Connection, shard: Shard) -> Result<Option<Seen>, AdapterError> {
    Ok(info(connection, shard).await?.map(|info| info.1))
}

async fn info(connection: &Connection, shard: Shard) -> Result<Option<(Config, Seen)>, AdapterError> {
    let request = format!("STREAM.INFO.{}", name(&connection.options, shard));
    match connection.ask::<Info>(request, &()).await? {
        Ok(info) => Ok(Some((info.config.clone(), seen(&info)?))),
        Err(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
        Err(error) => Err(refused(&error)),
    }
}

fn seen(info: &Info) -> Result<Seen, AdapterError> {
    let created = unix_nanos(&info.created)
        .ok_or_else(|| AdapterError::Protocol(format!("a stream created at {:?}", info.created)))?;
    let (first, last) = (info.state.first_seq, info.state.last_seq);
    // An empty stream says 0 or the next sequence, depending on its past.
    let first = if first == 0 { last + 1 } else { first };
    Ok(Seen { created, first, last, messages: info.state.messages })
}

/// Makes sure that the stream of a shard is there and is what the options say; `max_event` bytes of
/// body must fit.
pub async fn ensure(connection: &Connection, shard: Shard, max_event: u32) -> Result<Seen, AdapterError> {
    let options = &connection.options;
    let wanted = config(options, shard);
    // Again if somebody else was faster with creating it.
    for last in [false, true] {
        if let Some((is, seen)) = info(connection, shard).await? {
            return match difference(&is, &wanted, max_event.saturating_add(HEADERS)) {
                None => Ok(seen),
                Some(text) => Err(AdapterError::Conflict(format!("stream {}: {text}", wanted.name))),
            };
        }
        if !options.create {
            return Err(AdapterError::Gone(format!("there is no stream {}", wanted.name)));
        }
        match connection.ask::<Info>(format!("STREAM.CREATE.{}", wanted.name), &wanted).await? {
            Ok(info) => return seen(&info),
            Err(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST && !last => {}
            Err(error) => return Err(refused(&error)),
        }
    }
    Err(AdapterError::Conflict(format!("stream {} comes and goes", wanted.name)))
}

/// The shards that have streams.
pub async fn shards(connection: &Connection) -> Result<Vec<Shard>, AdapterError> {
    #[derive(Deserialize)]
    struct Names {
        total: usize,
        streams: Option<Vec<String>>,
    }
    let options = &connection.options;
    let (mut shards, mut offset) = (Vec::new(), 0);
    loop {
        let page = serde_json::json!({ "offset": offset, "subject": format!("{}.shard.>", options.prefix) });
        let page = connection.ask::<Names>("STREAM.NAMES".into(), &page).await?.map_err(|e| refused(&e))?;
        let names = page.streams.unwrap_or_default();
        offset += names.len();
        shards.extend(names.iter().filter_map(|name| shard_of(options, name)));
        if names.is_empty() || offset >= page.total {
            return Ok(shards);
        }
    }
}

/// The producer's last event in a shard: everything up to it is stored, as events of one producer are
/// stored in order.
pub async fn last_of(
    connection: &Connection,
    shard: Shard,
    producer: ProducerId,
) -> Result<Option<EventId>, AdapterError> {
    #[derive(Deserialize)]
    struct Found {
        message: Message,
    }
    #[derive(Deserialize)]
    struct Message {
        #[serde(default)]
        hdrs: String,
    }
    let options = &connection.options;
    let request = format!("STREAM.MSG.GET.{}", name(options, shard));
    let query = serde_json::json!({ "last_by_subj": subject(options, shard, producer) });
    match connection.ask::<Found>(request, &query).await? {
        Ok(found) => Ok(id_in(&unbase64(&found.message.hdrs))),
        Err(error) if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
        Err(error) => Err(refused(&error)),
    }
}

/// The id in a block of headers.
fn id_in(headers: &[u8]) -> Option<EventId> {
    let text = std::str::from_utf8(headers).ok()?;
    text.lines().find_map(|line| line.strip_prefix(ID)?.strip_prefix(':')?.parse().ok())
}

/// Base 64, with nothing for what is not.
fn unbase64(text: &str) -> Vec<u8> {
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::with_capacity(text.len() / 4 * 3));
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    bytes
}

/// Nanoseconds since 1970 of a time such as `2026-11-28T18:36:14.123Z`.
fn unix_nanos(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if separators.iter().any(|(at, c)| text.as_bytes().get(*at) != Some(c)) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1970..=2500).contains(&year) || !(1..=12).contains(&month) || hour > 23 || minute > 59 {
        return None;
    }
    let rest = text.get(19..)?.strip_suffix('Z')?;
    let fraction = match rest.strip_prefix('.') {
        Some(digits) if digits.len() <= 9 => digits.parse::<u64>().ok()? * 10u64.pow(9 - digits.len() as u32),
        None if rest.is_empty() => 0,
        _ => return None,
    };
    // Days by the calendar that starts its years in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    let seconds = days.checked_sub(719_469)? * 86_400 + hour * 3600 + minute * 60 + second;
    Some(seconds * 1_000_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, nanos) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:01.5Z", 1_500_000_000),
            ("2000-02-29T12:34:56.000000001Z", 951_827_696_000_000_001),
            ("2026-11-28T18:36:14.123456789Z", 1_795_890_974_123_456_789),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000_000_000),
        ] {
            assert_eq!(unix_nanos(text), Some(nanos), "{text}");
        }
        for wrong in ["", "2026", "2026-11-28 18:36:14Z", "2026-13-01T00:00:00Z", "2026-11-28T18:36:14+01:00"]
        {
            assert_eq!(unix_nanos(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ids_are_found_in_headers() {
        // "NATS/1.0\r\nNet-Stamp: 5\r\nNats-Msg-Id: 0000000000000007:1:2:3\r\n\r\n"
        let coded = "TkFUUy8xLjANCk5ldC1TdGFtcDogNQ0KTmF0cy1Nc2ctSWQ6IDAwMDAwMDAwMDAwMDAwMDc6MToyOjMNCg0K";
        let id = EventId { producer: ProducerId(7), incarnation: 1, shard: 2, seq: 3 };
        assert_eq!(id_in(&unbase64(coded)), Some(id));
        assert_eq!(id_in(b"NATS/1.0\r\n\r\n"), None);
        assert_eq!(unbase64("YQ=="), b"a");
    }

    #[test]
    fn names_lead_back_to_shards() {
        let options = JetStream::new("x").prefix("a_shard_1");
        for shard in [0, 7, MAX_SHARDS - 1] {
            assert_eq!(shard_of(&options, &name(&options, shard)), Some(shard));
        }
        for other in
            ["a_shard_1", "a_shard_1_shard_", "a_shard_1_shard_07", "a_shard_1_shard_1024", "b_shard_1"]
        {
            assert_eq!(shard_of(&options, other), None, "{other}");
        }
    }

    #[test]
    fn a_stream_that_is_not_what_was_asked_for_is_named() {
        let options = JetStream::new("x").replicas(3).max_messages(10);
        let wanted = config(&options, 1);
        assert_eq!(difference(&wanted, &wanted, 100), None);
        let told = |is: Config| difference(&is, &wanted, 100).unwrap_or_default();
        assert!(
            told(Config { num_replicas: 1, ..wanted.clone() }).contains("num_replicas is 1, the bus wants 3")
        );
        assert!(told(Config { max_msgs: -1, ..wanted.clone() }).contains("max_msgs"));
        assert!(told(Config { retention: "workqueue".into(), ..wanted.clone() }).contains("retention"));
        assert!(told(Config { no_ack: true, ..wanted.clone() }).contains("no_ack"));
        assert!(told(Config { sealed: true, ..wanted.clone() }).contains("sealed"));
        assert!(told(Config { max_msg_size: 99, ..wanted.clone() }).contains("99 bytes"));
    }
}
