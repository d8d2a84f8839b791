//! Reading from cursors. Nothing is consumed; what the server dropped meanwhile is told.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use net_proto::bus::{Position, Shard};
use net_shell::bus::adapter::{AdapterError, Incoming, Page};

use crate::conn::pause;
use crate::core::{Core, error_of, no_error};
use crate::error::answered;
use crate::resp::{Item, Walk, begin, command, digits_of, word};

/// Bytes of one answer that are aimed at.
const ANSWER: u64 = 4 << 20;
/// First and longest time between two looks at a Cluster, where one question cannot wait for all shards.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(32));

type From = (Shard, Option<Position>);

/// Parses the id of an entry.
pub(crate) fn position(id: &[u8]) -> Result<Position, AdapterError> {
    let parse = || {
        let mut parts = id.split(|b| *b == b'-');
        let number = |part: &[u8]| {
            let digit = |n: Option<u64>, b: &u8| match b {
                b'0'..=b'9' => n?.checked_mul(10)?.checked_add(u64::from(b - b'0')),
                _ => None,
            };
            if part.is_empty() { None } else { part.iter().fold(Some(0), digit) }
        };
        let position = Position::new(number(parts.next()?)?, number(parts.next()?)?);
        parts.next().is_none().then_some(position)
    };
    parse().ok_or_else(|| AdapterError::Protocol("not the id of an entry".into()))
}

/// The position just before one.
fn before(at: Position) -> Position {
    match at.minor.checked_sub(1) {
        Some(minor) => Position::new(at.major, minor),
        None => Position::new(at.major.saturating_sub(1), u64::MAX),
    }
}

/// Reads a list of entries; they share the memory of the answer.
pub(crate) fn entries(walk: &mut Walk<'_>, frame: &Bytes) -> Result<Vec<Incoming>, AdapterError> {
    let n = walk.list()?;
    let mut all = Vec::with_capacity(n.min(1 << 16));
    for _ in 0..n {
        match walk.item()? {
            Item::List(2) => {}
            Item::Nil => continue,
            _ => return Err(AdapterError::Protocol("not an entry".into())),
        }
        let mut incoming =
            Incoming { position: position(walk.bulk()?)?, id: None, stamp: 0, raw: Bytes::new() };
        let fields = walk.list()? / 2;
        let mut body = None;
        for n in 0..fields {
            let (name, value) = (walk.bulk()?, walk.bulk()?);
            let text = || std::str::from_utf8(value).ok();
            match name {
                b"d" => body = Some(value),
                b"dedup_id" => incoming.id = text().and_then(|text| text.parse().ok()),
                b"t" => incoming.stamp = text().and_then(|text| text.parse().ok()).unwrap_or(0),
                // An entry that something else wrote.
                _ if n == 0 => body = Some(value),
                _ => {}
            }
        }
        incoming.raw = body.map_or_else(Bytes::new, |body| frame.slice_ref(body));
        all.push(incoming);
    }
    Ok(all)
}

/// What XINFO STREAM says of the ends of a stream.
struct Ends {
    first: Option<Position>,
    last: Position,
}

/// `None`: there is no such stream.
fn ends(frame: &Bytes) -> Result<Option<Ends>, AdapterError> {
    let mut walk = Walk::new(frame);
    let fields = match walk.item()? {
        Item::Error(text) if text.starts_with("ERR no such key") => return Ok(None),
        Item::Error(text) => return Err(answered(text)),
        Item::List(n) => n / 2,
        _ => return Err(AdapterError::Protocol("XINFO answered something else".into())),
    };
    let mut ends = Ends { first: None, last: Position::START };
    for _ in 0..fields {
        match walk.bulk()? {
            b"last-generated-id" => ends.last = position(walk.bulk()?)?,
            b"first-entry" => {
                let mut entry = walk.clone();
                if let Item::List(2) = entry.item()? {
                    ends.first = Some(position(entry.bulk()?)?);
                }
                walk.skip()?;
            }
            _ => walk.skip()?,
        }
    }
    Ok(Some(ends))
}

/// What one look found.
#[derive(Default)]
struct Look {
    pages: Vec<Page>,
    /// Why a reader cannot go on where it stands, if that is so.
    trouble: Option<AdapterError>,
}

impl Core {
    /// Entries to ask for at most, so that an answer keeps within bounds.
    fn count(&self, limit: usize) -> usize {
        let fits = ANSWER / self.entry_bytes.load(Relaxed).max(1);
        limit.min(fits.max(1) as usize)
    }

    fn learn(&self, bytes: usize, entries: usize) {
        if let Some(now) = bytes.checked_div(entries) {
            let now = now as u64;
            let old = self.entry_bytes.load(Relaxed);
            // Up at once, down by halves: memory is what is at stake.
            self.entry_bytes.store(now.max(old.midpoint(now)), Relaxed);
        }
    }

    pub(crate) async fn read(
        &self,
        from: &[From],
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Page>, AdapterError> {
        let until = self.runtime.now() + wait;
        let (mut nap, longest) = LOOKS;
        let limit = limit.max(1);
        loop {
            let Look { pages, trouble } = self.look(from, limit).await?;
            let left = until.since(self.runtime.now());
            if !pages.is_empty() {
                return Ok(pages);
            }
            // Told after the wait, so that a reader that asks again and again does so calmly.
            if left.is_zero() {
                return trouble.map_or(Ok(pages), Err);
            }
            if from.is_empty() {
                pause(&*self.runtime, left).await;
            } else if self.is_cluster() && from.len() > 1 {
                pause(&*self.runtime, nap.min(left)).await;
                nap = (nap * 2).min(longest);
            } else {
                let pages = self.block(from, limit, left).await?;
                if !pages.is_empty() {
                    return Ok(pages);
                }
            }
        }
    }

    async fn look(&self, from: &[From], limit: usize) -> Result<Look, AdapterError> {
        if !self.is_cluster() {
            return self.look_at(from, limit).await;
        }
        let mut all = Look::default();
        for look in join_all(from.chunks(1).map(|one| self.look_at(one, limit))).await {
            let look = look?;
            all.pages.extend(look.pages);
            all.trouble = all.trouble.or(look.trouble);
        }
        Ok(all)
    }

    /// One look at shards that one server has.
    async fn look_at(&self, from: &[From], limit: usize) -> Result<Look, AdapterError> {
        let Some((first, _)) = from.first() else { return Ok(Look::default()) };
        let keys: Vec<_> = from.iter().map(|(shard, _)| self.config.key(*shard)).collect();
        let count = self.count(limit);
        // From the entry where the reader stands, itself included: that it is there shows that
        // nothing behind it was dropped. One more shows whether there is more.
        let write = |out: &mut BytesMut| {
            for ((_, at), key) in from.iter().zip(&keys) {
                let low = at.map_or_else(|| "-".to_owned(), |at| at.to_string());
                let mut digits = [0; 20];
                let count = digits_of(count as u64 + 2, &mut digits);
                command(out, &[b"XRANGE", key.as_bytes(), low.as_bytes(), b"+", b"COUNT", count]);
            }
        };
        let frames = self.ask(&self.config.key(*first), from.len(), Duration::ZERO, write).await?;
        let mut look = Look::default();
        let mut unsure = Vec::new();
        for (frame, (shard, at)) in frames.iter().zip(from) {
            no_error(frame)?;
            let mut events = entries(&mut Walk::new(frame), frame)?;
            self.learn(frame.len(), events.len());
            match at {
                Some(at) if events.first().is_some_and(|first| first.position == *at) => _ = events.remove(0),
                Some(at) if *at != Position::START => unsure.push((*shard, *at)),
                _ => {}
            }
            let more = events.len() > count;
            events.truncate(count);
            if !events.is_empty() {
                look.pages.push(Page { shard: *shard, lost: None, events, more });
            }
        }
        if !unsure.is_empty() {
            self.judge(&unsure, &mut look).await?;
        }
        Ok(look)
    }

    /// The entries where these readers stand are gone. What does that mean for them?
    async fn judge(&self, unsure: &[(Shard, Position)], look: &mut Look) -> Result<(), AdapterError> {
        let keys: Vec<_> = unsure.iter().map(|(shard, _)| self.config.key(*shard)).collect();
        let write = |out: &mut BytesMut| {
            keys.iter().for_each(|key| command(out, &[b"XINFO", b"STREAM", key.as_bytes()]));
        };
        let frames = self.ask(&keys[0], keys.len(), Duration::ZERO, write).await?;
        for ((frame, (shard, at)), key) in frames.iter().zip(unsure).zip(&keys) {
            let page = look.pages.iter().position(|page| page.shard == *shard);
            let to = match ends(frame)? {
                None => {
                    look.trouble = Some(AdapterError::Gone(format!("the stream {key} was removed")));
                    continue;
                }
                Some(ends) if ends.last < *at => {
                    let why = format!(
                        "the stream {key} ends at {}, before the reader's position {at}: it was removed, or a \
                         server took over that had not everything",
                        ends.last
                    );
                    look.trouble = Some(AdapterError::Gone(why));
                    continue;
                }
                // Only this entry was deleted, by hand.
                Some(Ends { first: Some(first), .. }) if first <= *at => continue,
                Some(Ends { first: Some(first), .. }) => {
                    // What was read may be older than this answer.
                    let first = page.and_then(|p| look.pages[p].events.first()).map_or(first, |e| e.position);
                    before(first)
                }
                Some(ends) => ends.last,
            };
            if to <= *at {
                continue;
            }
            match page {
                Some(page) => look.pages[page].lost = Some((*at, to)),
                None => {
                    let (shard, lost) = (*shard, Some((*at, to)));
                    look.pages.push(Page { shard, lost, events: Vec::new(), more: true });
                }
            }
        }
        Ok(())
    }

    /// Waits for new entries of shards that one server has.
    async fn block(&self, from: &[From], limit: usize, wait: Duration) -> Result<Vec<Page>, AdapterError> {
        let Some((first, _)) = from.first() else { return Ok(Vec::new()) };
        let keys: Vec<_> = from.iter().map(|(shard, _)| self.config.key(*shard)).collect();
        let count = self.count(limit);
        let write = |out: &mut BytesMut| {
            begin(out, 6 + 2 * from.len());
            let millis = wait.as_millis().clamp(1, 3_600_000).to_string();
            let count = count.to_string();
            let words =
                [b"XREAD" as &[u8], b"COUNT", count.as_bytes(), b"BLOCK", millis.as_bytes(), b"STREAMS"];
            words.iter().for_each(|w| word(out, w));
            keys.iter().for_each(|key| word(out, key.as_bytes()));
            from.iter().for_each(|(_, at)| word(out, at.unwrap_or_default().to_string().as_bytes()));
        };
        let frames = self.ask(&self.config.key(*first), 1, wait, write).await?;
        let Some(frame) = frames.first() else { return Ok(Vec::new()) };
        // A stream that is removed, or a server that is demoted, ends the wait.
        if let Some(text) = error_of(frame)? {
            return if text.starts_with("UNBLOCKED") { Ok(Vec::new()) } else { Err(answered(text)) };
        }
        let pages = streams(frame, from, &keys)?;
        self.learn(frame.len(), pages.iter().map(|page| page.events.len()).sum());
        let more = |n: usize| n >= count;
        Ok(pages.into_iter().map(|page| Page { more: more(page.events.len()), ..page }).collect())
    }
}

/// Reads the answer of XREAD and XREADGROUP: entries by stream.
pub(crate) fn streams(frame: &Bytes, from: &[From], keys: &[String]) -> Result<Vec<Page>, AdapterError> {
    let mut walk = Walk::new(frame);
    let mut pages = Vec::new();
    for _ in 0..walk.list()? {
        if walk.list()? != 2 {
            return Err(AdapterError::Protocol("not entries of a stream".into()));
        }
        let key = walk.bulk()?;
        let events = entries(&mut walk, frame)?;
        let which = keys.iter().position(|k| k.as_bytes() == key);
        let Some((shard, _)) = which.and_then(|n| from.get(n)) else {
            return Err(AdapterError::Protocol("entries of another stream".into()));
        };
        if !events.is_empty() {
            pages.push(Page { shard: *shard, lost: None, events, more: false });
        }
    }
    Ok(pages)
}

#[test]
fn positions() {
    assert_eq!(position(b"12-3").unwrap(), Position::new(12, 3));
    for bad in [&b"12"[..], b"12-", b"-1", b"1-2-3", b"1-x", b"99999999999999999999-1"] {
        assert!(position(bad).is_err());
    }
    assert_eq!(before(Position::new(5, 1)), Position::new(5, 0));
    assert_eq!(before(Position::new(5, 0)), Position::new(4, u64::MAX));
}
