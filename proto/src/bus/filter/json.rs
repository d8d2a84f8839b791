//! JSON as bytes: checked, searched and compared in place; nothing is built.

use core::cmp::Ordering;

use super::decimal;

/// Deepest nesting of a text; deeper ones are not JSON to us.
const DEPTH: u32 = 64;

/// A cursor over a text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json<'a> {
    text: &'a [u8],
    at: usize,
}

/// A value in a checked text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a [u8]),
    /// What stands between the quotes.
    String(&'a [u8]),
    /// The whole, brackets included.
    Array(&'a [u8]),
    Object(&'a [u8]),
}

impl<'a> Json<'a> {
    pub(super) const fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The one value of a whole text, checked (RFC 8259).
    pub(super) fn document(text: &'a [u8]) -> Option<Value<'a>> {
        core::str::from_utf8(text).ok()?;
        let mut json = Self::new(text);
        let value = json.value(0)?;
        json.space();
        (json.at == text.len()).then_some(value)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes `c` if it is next, behind white space.
    pub(super) fn eat(&mut self, c: u8) -> bool {
        self.space();
        let there = self.peek() == Some(c);
        self.at += usize::from(there);
        there
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.text.get(self.at..)?.starts_with(word).then(|| self.at += word.len())
    }

    /// The next value, checked.
    pub(super) fn value(&mut self, depth: u32) -> Option<Value<'a>> {
        self.space();
        if depth >= DEPTH {
            return None;
        }
        let begin = self.at;
        Some(match self.peek()? {
            b'n' => self.word(b"null").map(|()| Value::Null)?,
            b't' => self.word(b"true").map(|()| Value::Bool(true))?,
            b'f' => self.word(b"false").map(|()| Value::Bool(false))?,
            b'"' => Value::String(self.string()?),
            b'[' => {
                self.at += 1;
                if !self.eat(b']') {
                    loop {
                        self.value(depth + 1)?;
                        if self.eat(b']') {
                            break;
                        }
                        self.eat(b',').then_some(())?;
                    }
                }
                Value::Array(self.text.get(begin..self.at)?)
            }
            b'{' => {
                self.at += 1;
                if !self.eat(b'}') {
                    loop {
                        self.key()?;
                        self.value(depth + 1)?;
                        if self.eat(b'}') {
                            break;
                        }
                        self.eat(b',').then_some(())?;
                    }
                }
                Value::Object(self.text.get(begin..self.at)?)
            }
            _ => {
                let len = decimal::scan(self.text.get(self.at..)?)?;
                self.at += len;
                Value::Number(self.text.get(begin..self.at)?)
            }
        })
    }

    /// A key and its colon.
    pub(super) fn key(&mut self) -> Option<&'a [u8]> {
        self.space();
        let key = self.string()?;
        self.eat(b':').then_some(key)
    }

    /// A string with its quotes; what stands between them.
    fn string(&mut self) -> Option<&'a [u8]> {
        if self.peek() != Some(b'"') {
            return None;
        }
        self.at += 1;
        let begin = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    let (_, len) = escape(self.text.get(self.at..)?)?;
                    self.at += len;
                }
                0..=0x1f => return None,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(begin..self.at - 1)
    }
}

fn hex4(text: &[u8]) -> Option<u32> {
    let digits = text.get(..4)?;
    digits.iter().try_fold(0, |sum, c| Some(sum << 4 | char::from(*c).to_digit(16)?))
}

/// The character of the escape that `text` begins with, and its length. Half a surrogate pair is
/// none.
fn escape(text: &[u8]) -> Option<(char, usize)> {
    Some(match text.get(1)? {
        b'"' => ('"', 2),
        b'\\' => ('\\', 2),
        b'/' => ('/', 2),
        b'b' => ('\u{8}', 2),
        b'f' => ('\u{c}', 2),
        b'n' => ('\n', 2),
        b'r' => ('\r', 2),
        b't' => ('\t', 2),
        b'u' => {
            let high = hex4(text.get(2..)?)?;
            if let Some(c) = char::from_u32(high) {
                return Some((c, 6));
            }
            if high >= 0xdc00 || !text.get(6..)?.starts_with(b"\\u") {
                return None;
            }
            let low = hex4(text.get(8..)?)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
            (char::from_u32(0x1_0000 + ((high - 0xd800) << 10) + low)?, 12)
        }
        _ => return None,
    })
}

/// The characters of a checked string.
pub(super) fn chars(raw: &[u8]) -> impl Iterator<Item = char> + '_ {
    let mut at = 0;
    core::iter::from_fn(move || {
        let rest = raw.get(at..)?;
        if rest.first() == Some(&b'\\') {
            let (c, len) = escape(rest)?;
            at += len;
            return Some(c);
        }
        let len = match rest.first()? {
            0..=0x7f => 1,
            0x80..=0xdf => 2,
            0xe0..=0xef => 3,
            _ => 4,
        };
        at += len;
        core::str::from_utf8(rest.get(..len)?).ok()?.chars().next()
    })
}

/// Compares a checked string with a text by code points.
pub(super) fn compare(raw: &[u8], text: &str) -> Ordering {
    if raw.contains(&b'\\') { chars(raw).cmp(text.chars()) } else { raw.cmp(text.as_bytes()) }
}

impl<'a> Value<'a> {
    /// The member of an object (the last of that name) or of an array.
    pub(super) fn member(self, name: &str) -> Option<Value<'a>> {
        match self {
            Value::Object(text) => {
                let mut json = Json::new(text);
                json.eat(b'{');
                let mut found = None;
                while let Some(key) = json.key() {
                    let value = json.value(0)?;
                    if compare(key, name).is_eq() {
                        found = Some(value);
                    }
                    if !json.eat(b',') {
                        break;
                    }
                }
                found
            }
            Value::Array(text) => {
                let at = usize::try_from(super::super::id::decimal(name)?).ok()?;
                let mut json = Json::new(text);
                json.eat(b'[');
                for _ in 0..at {
                    json.value(0)?;
                    if !json.eat(b',') {
                        return None;
                    }
                }
                json.value(0)
            }
            _ => None,
        }
    }
}
