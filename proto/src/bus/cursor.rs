//! Where a reader stands: one position per shard, kept over restarts as a token.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use super::id::{BadText, MAX_SHARDS, Position, Shard};
use crate::codec::{BufferTooSmall, DecodeError, Reader, Wire, Writer};
use crate::identity::{base32, unbase32};

/// Where a reader stands in each shard. A shard without an entry is read from its oldest event.
///
/// Its readable form, which [`fmt::Display`] prints and [`str::parse`] reads, is `net-cursor-1` and,
/// for each shard in ascending order, a space and `shard@major-minor`. Its token is what to store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    at: BTreeMap<Shard, Position>,
}

const VERSION: u8 = 1;
const TEXT: &str = "net-cursor-1";

impl Cursor {
    /// Before everything.
    pub const fn new() -> Self {
        Self { at: BTreeMap::new() }
    }

    /// Where it stands in a shard.
    pub fn get(&self, shard: Shard) -> Option<Position> {
        self.at.get(&shard).copied()
    }

    /// Stands at `to` in a shard from now on. Shards of [`MAX_SHARDS`] and above are ignored.
    pub fn set(&mut self, shard: Shard, to: Position) {
        let stays = |at: Position| planted!(CursorMinorOnly) && to.minor <= at.minor;
        if shard < MAX_SHARDS && !self.get(shard).is_some_and(stays) {
            self.at.insert(shard, to);
        }
    }

    /// The entries, by shard.
    pub fn iter(&self) -> impl Iterator<Item = (Shard, Position)> + '_ {
        self.at.iter().map(|(shard, at)| (*shard, *at))
    }

    /// Whether it stands before everything.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// A short text to store: the wire form with four bytes of its BLAKE3 hash, in base 32.
    #[must_use]
    pub fn token(&self) -> String {
        let mut bytes = self.to_vec();
        let check = blake3::hash(&bytes);
        bytes.extend(check.as_bytes().iter().take(4));
        base32(&bytes)
    }

    /// Reads what [`Cursor::token`] wrote.
    pub fn from_token(token: &str) -> Result<Self, BadText> {
        let parse = || {
            let bytes = unbase32(token.trim())?;
            let (body, check) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
            let cursor = Self::decode_exact(body).ok()?;
            (blake3::hash(body).as_bytes().get(..4)? == check).then_some(cursor)
        };
        parse().ok_or(BadText("cursor token"))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TEXT)?;
        self.iter().try_for_each(|(shard, at)| write!(f, " {shard}@{at}"))
    }
}

impl FromStr for Cursor {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Self, BadText> {
        let parse = || {
            let mut words = text.trim().split(' ');
            words.next().filter(|word| *word == TEXT)?;
            let mut at = BTreeMap::new();
            for word in words {
                let (shard, position) = word.split_once('@')?;
                let shard = u16::try_from(super::id::decimal(shard)?).ok().filter(|s| *s < MAX_SHARDS)?;
                // Ascending, so that there is one text for each cursor.
                if at.last_key_value().is_some_and(|(last, _)| *last >= shard) {
                    return None;
                }
                at.insert(shard, position.parse().ok()?);
            }
            Some(Self { at })
        };
        parse().ok_or(BadText("cursor"))
    }
}

impl Wire for Cursor {
    const NAME: &'static str = "cursor";

    fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = r.u8("version")?;
        if version != VERSION {
            return Err(DecodeError::UnknownCritical(version.into()));
        }
        let value = r.varint("count")?;
        let limit = u64::from(MAX_SHARDS);
        if value > limit {
            return Err(DecodeError::TooLarge { what: "count", value, limit });
        }
        let mut at = BTreeMap::new();
        for _ in 0..value {
            let shard = r.u16("shard")?;
            if shard >= MAX_SHARDS || at.last_key_value().is_some_and(|(last, _)| *last >= shard) {
                return Err(DecodeError::NotCanonical("shards"));
            }
            at.insert(shard, Position::new(r.u64("major")?, r.u64("minor")?));
        }
        Ok(Self { at })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), BufferTooSmall> {
        w.u8(VERSION)?;
        w.varint(self.at.len() as u64)?;
        self.iter().try_for_each(|(shard, at)| {
            w.u16(shard)?;
            w.u64(at.major)?;
            w.u64(at.minor)
        })
    }
}

impl FromIterator<(Shard, Position)> for Cursor {
    fn from_iter<I: IntoIterator<Item = (Shard, Position)>>(entries: I) -> Self {
        let mut cursor = Self::new();
        entries.into_iter().for_each(|(shard, at)| cursor.set(shard, at));
        cursor
    }
}

/// Cursors of several readers of one set of shards, for tests and seeds.
#[doc(hidden)]
pub fn samples() -> Vec<Cursor> {
    let at = Position::new;
    let entries: [&[(Shard, Position)]; 4] = [
        &[],
        &[(0, at(1, 7))],
        &[(0, at(0, 1)), (3, at(u64::MAX, u64::MAX))],
        &[(1, at(1_700_000_000_000, 5)), (2, at(0, 0)), (MAX_SHARDS - 1, at(2, 2))],
    ];
    entries.iter().map(|e| e.iter().copied().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn every_form_comes_back() {
        for cursor in samples() {
            assert_eq!(Cursor::from_token(&cursor.token()), Ok(cursor.clone()));
            assert_eq!(cursor.to_string().parse(), Ok(cursor.clone()));
            assert_eq!(Cursor::decode_exact(&cursor.to_vec()), Ok(cursor));
        }
        assert_eq!(samples()[1].to_string(), "net-cursor-1 0@1-7");
        assert_eq!(samples()[1].token(), "aeaqaaabaaaaaaaaaaaaoaaaaaaaaaaayr3t2ya", "golden");
    }

    #[test]
    fn a_cursor_stands_where_it_was_set_last() {
        let mut cursor = Cursor::new();
        // Back, too: a later life of a log may have an earlier clock.
        for at in [(5, 1), (5, 2), (6, 1), (4, 9)].map(|(major, minor)| Position::new(major, minor)) {
            cursor.set(2, at);
            assert_eq!(cursor.get(2), Some(at));
        }
        cursor.set(MAX_SHARDS, Position::START);
        assert_eq!(cursor.iter().count(), 1);
    }

    #[test]
    fn a_mistyped_token_is_refused() {
        let token = samples()[3].token();
        for at in 0..token.len() {
            for letter in "a2x7".chars() {
                let mut wrong = token.clone();
                wrong.replace_range(at..=at, letter.encode_utf8(&mut [0; 4]));
                assert!(wrong == token || Cursor::from_token(&wrong).is_err(), "{wrong}");
            }
        }
        assert!(Cursor::from_token("").is_err());
    }

    proptest! {
        #[test]
        fn forms_are_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..80), text in "(net-cursor-1)?[ 0-9@-]{0,24}") {
            crate::codec::check_canonical::<Cursor>(&bytes);
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text.trim());
            }
        }
    }
}
